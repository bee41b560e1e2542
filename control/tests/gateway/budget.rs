//! The INVITE that always fits: by TCP, or ranked and shortened by UDP (RFC 3261 section 18.1.1).

use gangway_control::{
    config::{Config, Sources},
    gateway::{
        GatewayConfig,
        effects::Input,
        messages::{CallRequest, CallStatus, ClientMessage},
    },
    sip::{
        Transport,
        message::{HeaderName, Method, Request},
    },
};

use crate::{
    codecs::{chromium, section},
    world::{World, config, phone_sdp},
};

/// The limit of the settings, bytes.
const LIMIT: usize = 1_300;

/// Settings with a limit, and with more of H.264 than fits.
pub(crate) fn settings(more: &str) -> GatewayConfig {
    let text = format!("profiles=42e01f,42001f,4d001f\nproxy_use_h264_packetization_mode_1_only=false\n{more}");
    let read = Config::parse("flashphoner.properties", &text, Sources::default()).unwrap();
    let mut settings = config();
    settings.ua.udp_request_limit_bytes = LIMIT;
    let read = read.gateway(settings.ua.clone());
    GatewayConfig { codecs: read.codecs, trunks: read.trunks, ..settings }
}

pub(crate) const UDP_ONLY: &str = "trunk.office.match=example.com\ntrunk.office.udp_only=true\n";

/// A call with a camera in a fresh world: what the page's first INVITE became.
fn calling(settings: GatewayConfig) -> (World, Request) {
    let mut world = World::new(settings);
    let page = world.session();
    world.call_with(page, "c1", "600", &chromium());
    let invite = world.request(&Method::Invite);
    (world, invite)
}

fn body(invite: &Request) -> String {
    String::from_utf8(invite.body.clone()).unwrap()
}

pub(crate) const CHALLENGE: &str = "Digest realm=\"a.rather.long.realm.example.com\", nonce=\"0123456789abcdef0123456789abcdef0123456789abcdef\", \
    algorithm=SHA-256, qop=\"auth\", opaque=\"00112233445566778899aabbccddeeff\"";

/// The peer asks for credentials, which make the INVITE longer.
fn challenged(world: &mut World, invite: &Request) -> Request {
    world.respond_as(invite, 407, "t", None, &[(HeaderName::ProxyAuthenticate, CHALLENGE)]);
    world.request(&Method::Invite)
}

#[test]
fn without_a_limit_this_invite_would_be_too_long() {
    let mut settings = settings("");
    settings.ua.udp_request_limit_bytes = 0;
    let (mut world, invite) = calling(settings);
    challenged(&mut world, &invite);
    let longest = world.requests_sent.iter().map(|(_, len)| *len).max().unwrap();
    assert!(longest > LIMIT + 200, "{longest} bytes: the other tests would show nothing");
}

#[test]
fn a_long_invite_goes_whole_by_tcp() {
    let (world, invite) = calling(settings(""));
    assert_eq!(world.requests_sent.last().unwrap().0, Transport::Tcp);
    assert_eq!(section(&body(&invite), "video").split(", ").count(), 7, "{}", body(&invite));
}

#[test]
fn to_a_trunk_of_udp_only_each_invite_fits_a_datagram_and_the_answer_counts_against_what_was_sent() {
    let (mut world, first) = calling(settings(UDP_ONLY));
    let second = challenged(&mut world, &first);
    assert!(second.headers.value(&HeaderName::ProxyAuthorization).is_some());
    for (transport, len) in &world.requests_sent {
        assert!(*transport == Transport::Udp && *len <= LIMIT, "{:?}", world.requests_sent);
    }
    let (sound, pictures) = (section(&body(&second), "audio"), section(&body(&second), "video"));
    assert!(sound.contains("PCMA") && sound.contains("telephone-event"), "{sound}");
    assert!(pictures.contains("H264/42e01f/1"), "{pictures}");
    assert!(section(&body(&first), "video").len() > pictures.len(), "credentials cost something");
    // A profile that only the whole offer had is no answer to what was sent.
    assert!(!pictures.contains("4d001f"), "{pictures}");
    let other = "m=video 4002 RTP/AVP 102\r\na=rtpmap:102 H264/90000\r\na=fmtp:102 profile-level-id=4d001f;packetization-mode=1\r\n";
    world.respond(&second, 200, Some(&format!("{}{other}", phone_sdp(4000, "8 101"))));
    let call = world.last_call();
    assert_eq!((call.status, call.has_video), (CallStatus::Established, false));
    let reinvite = world.request(&Method::Invite);
    assert!(body(&reinvite).contains("m=video 0 "), "{}", body(&reinvite));
    assert!(world.requests_sent.iter().all(|(transport, len)| *transport == Transport::Udp && *len <= LIMIT));
}

#[test]
fn a_peer_that_takes_no_tcp_gets_the_invite_shortened_by_udp() {
    let (mut world, _) = calling(settings(""));
    let remote = "10.0.0.2:5060".parse().unwrap();
    world.input(Input::SipFailed { transport: Transport::Tcp, remote, flow: None });
    let invite = world.request(&Method::Invite);
    let (transport, len) = *world.requests_sent.last().unwrap();
    assert!(transport == Transport::Udp && len <= LIMIT, "{transport:?} {len}");
    let again = challenged(&mut world, &invite);
    assert!(world.requests_sent.last().unwrap().1 <= LIMIT);
    world.respond(&again, 180, None);
    world.respond(
        &again,
        200,
        Some(&format!("{}m=video 4002 RTP/AVP 97\r\na=rtpmap:97 VP8/90000\r\n", phone_sdp(4000, "8"))),
    );
    assert_eq!(world.last_call().status, CallStatus::Established);
    assert!(world.last_call().has_video, "VP8 was in what was sent: {}", body(&again));
}

#[test]
fn an_invite_that_the_page_makes_too_long_is_refused_at_once() {
    let mut world = World::new(settings(UDP_ONLY));
    let page = world.session();
    let line = format!("a=x:{}", "y".repeat(200));
    let request = CallRequest {
        call_id: "c1".to_owned(),
        callee: Some("600".to_owned()),
        sdp: Some(chromium()),
        sip_sdp: Some(vec![line; 8]),
        ..CallRequest::default()
    };
    world.say(page, ClientMessage::Call(Box::new(request)));
    let call = world.last_call();
    assert_eq!((call.status, call.sip_status), (CallStatus::Failed, Some(513)));
    assert!(world.sip.is_empty(), "nothing was sent that could be lost");
    assert_eq!(world.gateway.long_requests().refused, 1);
    world.assert_clean();
}

#[test]
fn a_trunk_has_codecs_of_its_own_both_ways() {
    let trunk = "trunk.office.match=10.0.0.0/24\ntrunk.office.codecs=ulaw,vp8\nallow_outside_codecs=false\n";
    let (world, invite) = calling(settings(trunk));
    assert_eq!(section(&body(&invite), "audio"), "0 PCMU/8000");
    assert_eq!(section(&body(&invite), "video"), "97 VP8/90000");
    drop(world);
    let mut world = World::new(settings(trunk));
    let page = world.session();
    let key = world.contact_key(page);
    world.invite(&format!("sip:{key}@10.0.0.1:5060"), "in1", Some(&phone_sdp(4000, "9 0")));
    let offer = world.last_description();
    assert!(offer.contains("UDP/TLS/RTP/SAVPF 0 8\r\n"), "G.722 is not this trunk's: {offer}");
}

/// Sections of the shortest INVITE that is sent at all, to a peer that has answered a call of sound with these payload types.
fn least(taken: Option<&str>) -> (String, String) {
    let mut least = None;
    for limit in (600..LIMIT).rev().step_by(10) {
        let mut settings = settings(UDP_ONLY);
        settings.ua.udp_request_limit_bytes = limit;
        let mut world = World::new(settings);
        let page = world.session();
        if let Some(payloads) = taken {
            world.call(page, "c1", "600");
            if world.last_call().status == CallStatus::Failed {
                break;
            }
            let invite = world.request(&Method::Invite);
            world.respond(&invite, 200, Some(&phone_sdp(4000, payloads)));
            world.hangup(page, "c1");
            world.forget();
        }
        world.call_with(page, "c2", "600", &chromium());
        if world.last_call().status == CallStatus::Failed {
            break;
        }
        let invite = world.request(&Method::Invite);
        least = Some((section(&body(&invite), "audio"), section(&body(&invite), "video")));
    }
    least.expect("an INVITE under the usual limit")
}

#[test]
fn what_a_peer_took_before_stays_to_the_end() {
    let video = "98 H264/42e01f/1";
    assert_eq!(least(None), ("8 PCMA/8000, 101 telephone-event/8000".to_owned(), video.to_owned()));
    assert_eq!(least(Some("0")), ("0 PCMU/8000, 101 telephone-event/8000".to_owned(), video.to_owned()));
}
