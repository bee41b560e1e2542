//! Whose trunk counts for what, and where an INVITE goes that is too long for a datagram.

use gangway_control::{
    gateway::{
        effects::{Ask, Input, SocketId},
        messages::{CallRequest, CallStatus, ClientMessage},
    },
    sip::{
        Transport,
        message::{HeaderName, Method},
    },
};

use crate::{
    budget::{CHALLENGE, UDP_ONLY, settings},
    codecs::chromium,
    world::{PEER, SILENT, World, account, phone_sdp},
};

/// A session of an account with this in place of the usual.
fn session_with(world: &mut World, key: &str, value: &str) -> SocketId {
    let mut fields = account(false);
    fields[key] = value.into();
    let page = world.connect(fields);
    assert_eq!(world.names(), ["getUserData"]);
    page
}

/// A call with a camera and so many bytes more in its description.
fn call_with_more(world: &mut World, page: SocketId, more: usize) {
    let lines = (0..more.div_ceil(100)).map(|at| format!("a=x:{}", "y".repeat((more - at * 100).min(100))));
    let request = CallRequest {
        call_id: "c1".to_owned(),
        callee: Some("600".to_owned()),
        sdp: Some(chromium()),
        sip_sdp: Some(lines.collect()),
        ..CallRequest::default()
    };
    world.say(page, ClientMessage::Call(Box::new(request)));
}

fn by(world: &World) -> Transport {
    world.requests_sent.last().expect("a request").0
}

fn fail_tcp(world: &mut World, remote: &str) {
    world.input(Input::SipFailed { transport: Transport::Tcp, remote: remote.parse().unwrap(), flow: None });
}

#[test]
fn udp_only_of_one_account_is_not_that_of_another_with_the_same_proxy() {
    let mut world = World::new(settings("trunk.office.match=office.example\ntrunk.office.udp_only=true\n"));
    let office = session_with(&mut world, "sipDomain", "office.example");
    world.call_with(office, "c1", "600", &chromium());
    assert_eq!(by(&world), Transport::Udp);
    let invite = world.request(&Method::Invite);
    world.respond(&invite, 200, Some(&phone_sdp(4000, "8 101")));
    world.forget();
    let other = world.session();
    world.call_with(other, "c2", "600", &chromium());
    assert_eq!(by(&world), Transport::Tcp);
}

#[test]
fn an_incoming_call_takes_the_trunk_of_its_source_whatever_the_account_it_rings() {
    let mut world = World::new(settings(
        "trunk.home.match=example.com\ntrunk.home.codecs=g722\ntrunk.pbx.match=10.0.0.0/24\ntrunk.pbx.codecs=ulaw\n\
         allow_outside_codecs=false\n",
    ));
    let page = world.session();
    let key = world.contact_key(page);
    world.invite(&format!("sip:{key}@10.0.0.1:5060"), "in1", Some(&phone_sdp(4000, "9 0")));
    let offer = world.last_description();
    assert!(offer.contains("UDP/TLS/RTP/SAVPF 0 8\r\n"), "G.722 is of the account's trunk: {offer}");
}

#[test]
fn a_range_says_by_which_transport_the_addresses_of_a_name_are_reached() {
    for (trunks, asked, sent) in [
        ("trunk.lab.match=10.0.0.0/24\ntrunk.lab.transport=tcp\n", None, Transport::Tcp),
        ("trunk.lab.match=10.0.0.0/24\ntrunk.lab.transport=udp\ntrunk.default.transport=tcp\n", None, Transport::Udp),
        ("trunk.lab.match=172.16.0.0/12\ntrunk.lab.transport=udp\ntrunk.default.transport=tcp\n", None, Transport::Tcp),
        ("trunk.default.transport=tcp\n", Some(Transport::Tcp), Transport::Tcp),
    ] {
        let mut settings = settings(trunks);
        settings.ua.udp_request_limit_bytes = 0;
        let mut world = World::new(settings);
        let page = session_with(&mut world, "sipOutboundProxy", "sip.example.net");
        world.hold_asks = true;
        world.call(page, "c1", "600");
        world.answer_ask();
        let Some((_, Ask::Resolve { transport, .. })) = world.asks.front() else { panic!("{:?}", world.asks) };
        assert_eq!(*transport, asked, "{trunks}");
        world.hold_asks = false;
        world.answer_ask();
        assert_eq!(by(&world), sent, "{trunks}");
    }
}

#[test]
fn an_invite_that_its_credentials_make_too_long_ends_with_513_and_not_as_a_wrong_password() {
    for more in (0..2_000).step_by(40) {
        let mut world = World::new(settings(UDP_ONLY));
        let page = world.session();
        call_with_more(&mut world, page, more);
        let invite = world.request(&Method::Invite);
        world.respond_as(&invite, 407, "t", None, &[(HeaderName::ProxyAuthenticate, CHALLENGE)]);
        let call = world.last_call();
        if call.status == CallStatus::Failed {
            assert_eq!(call.sip_status, Some(513), "{more} bytes more");
            assert_eq!(world.sip_names(), ["ACK"]);
            return world.assert_clean();
        }
    }
    panic!("credentials always had room");
}

#[test]
fn what_is_too_long_goes_on_to_an_address_that_may_take_tcp() {
    let mut world = World::new(settings("")).with_a_silent_address();
    let page = world.session();
    call_with_more(&mut world, page, 1_600);
    assert!(by(&world) == Transport::Tcp && world.sent_to(SILENT));
    fail_tcp(&mut world, SILENT);
    assert!(by(&world) == Transport::Tcp && world.sent_to(PEER), "{:?}", world.requests_sent);
    fail_tcp(&mut world, PEER);
    let call = world.last_call();
    assert_eq!((call.status, call.sip_status), (CallStatus::Failed, Some(513)));
    assert!(world.requests_sent.iter().all(|(transport, _)| *transport == Transport::Tcp), "{:?}", world.requests_sent);
    world.assert_clean();
}

#[test]
fn what_is_too_long_is_not_tried_where_only_udp_is_left() {
    let trunk = format!("trunk.pbx.match={}\ntrunk.pbx.udp_only=true\n", PEER.split_once(':').unwrap().0);
    let proxy = "sip.example.net";
    let mut world = World::new(settings(&trunk)).with_a_silent_address();
    let page = session_with(&mut world, "sipOutboundProxy", proxy);
    call_with_more(&mut world, page, 1_600);
    assert!(by(&world) == Transport::Tcp && world.sent_to(SILENT));
    fail_tcp(&mut world, SILENT);
    let call = world.last_call();
    assert_eq!((call.status, call.sip_status), (CallStatus::Failed, Some(513)));
    assert_eq!(world.requests_sent.len(), 1);
    world.assert_clean();
}
