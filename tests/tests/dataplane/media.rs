//! Media from end to end through the real engine: ICE, DTLS, SRTP, routes, ports.

use std::{
    io::ErrorKind,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, UdpSocket},
    time::Duration,
};

use gangway_shared::{
    ids::{LegId, RelayId},
    rcp::{
        ActAction, Codec, DtlsFailure, DtmfDigits, Event, Fill, Fingerprint, IceRemote, LegAddress, NodeStats, Reply,
        Request, Sound,
    },
};
use gangway_tests::{
    browser_leg::{BrowserLeg, Heard, rtp_bytes},
    dataplane::{Control, Dataplane, audio_route, browser_leg, echo_program, program, rtp_leg, same},
    deadline::Deadline,
};

const V4: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
const V6: IpAddr = IpAddr::V6(Ipv6Addr::LOCALHOST);

fn id(number: u64) -> RelayId {
    RelayId::new(1, 1, number)
}

fn said(pt: u8, number: u16) -> Heard {
    let payload = (0..160).map(|at| (at as u8).wrapping_add(number as u8)).collect();
    Heard { pt, ssrc: 0x1234, sequence: 1000 + number, timestamp: u32::from(number) * 160, payload }
}

/// A SIP peer's RTP socket.
fn sip_peer(ip: IpAddr) -> UdpSocket {
    let socket = UdpSocket::bind((ip, 0)).expect("loopback");
    socket.set_read_timeout(Some(Duration::from_secs(5))).expect("a socket");
    socket
}

fn receive(peer: &UdpSocket) -> Vec<u8> {
    let mut bytes = [0; 2048];
    let len = loop {
        match peer.recv_from(&mut bytes) {
            Ok((len, _)) => break len,
            // A ring that this thread tried, in a dataplane of this process, is being taken down.
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => panic!("the SIP peer hears nothing: {error}"),
        }
    };
    bytes[..len].to_vec()
}

fn drops(stats: &NodeStats, reason: &str) -> u64 {
    let drops = stats.workers.iter().flat_map(|worker| stats.worker_drops(worker));
    drops.filter(|&(name, _)| name == reason).map(|(_, count)| count).sum()
}

fn talk_through(workers: u16, browser_ip: IpAddr, peer_ip: IpAddr) {
    let dataplane = Dataplane::start(workers, &["ip=127.0.0.1,::1"]);
    let mut control = dataplane.control(1);
    let peer = sip_peer(peer_ip);
    let mut browser = BrowserLeg::unanswered_on(browser_ip);
    let legs = vec![browser_leg(0, Some(browser.remote())), rtp_leg(1, peer.local_addr().ok())];
    let payloads = || vec![same(8, Codec::Pcma, 8000, None)];
    let routes = vec![audio_route(0, 1, 71, payloads()), audio_route(1, 0, 72, payloads())];
    let reply = control.put(id(1), 1, program(legs, routes)).expect("a relay");
    let LegAddress::Rtp { rtp, rtcp } = reply.legs[1].address else { panic!("{reply:?}") };
    assert_eq!((rtp.port() % 2, rtcp.port()), (0, rtp.port() + 1));
    assert_eq!(control.node().media_ports_used, 2);

    browser.answer(&reply.legs[0].address);
    browser.connect();
    control.wait_event("the path", |event| matches!(event, Event::PathSelected { leg: LegId(0), .. }));
    let is_gcm = |event: &Event| matches!(event, Event::KeysReady { profile, .. } if profile == "AEAD_AES_256_GCM");
    control.wait_event("the keys", is_gcm);

    for number in 0..50 {
        browser.speak(&said(8, number));
        let heard = receive(&peer);
        assert_eq!(
            (heard[1] & 0x7f, &heard[8..12], &heard[12..]),
            (8, &71u32.to_be_bytes()[..], &said(8, number).payload[..])
        );
    }
    for number in 0..50 {
        peer.send_to(&rtp_bytes(&said(8, number)), rtp).expect("loopback");
        let heard = browser.listen();
        assert_eq!((heard.pt, heard.ssrc, heard.payload), (8, 72, said(8, number).payload));
    }
    let Ok(Reply::QueryRelay(stats)) = control.ask(Request::Query { relay: Some(id(1)), from_worker: 0 }) else {
        panic!("no statistics")
    };
    assert_eq!((stats.legs[0].received.packets, stats.legs[1].sent.packets), (50, 50));
    assert_eq!((stats.legs[1].received.packets, stats.legs[0].sent.packets), (50, 50));

    control.delete(id(1));
    control.wait_event("the last counters", |event| matches!(event, Event::LegStats { .. }));
    let node = control.node();
    assert_eq!((node.relays, node.media_ports_used, node.media_ports_quarantined, node.dtls_handshakes), (0, 0, 2, 0));
    let before = drops(&node, "no_such_path") + drops(&node, "port_unknown");
    browser.speak(&said(8, 60));
    Deadline::seconds(5).poll("the drop to be counted", || {
        let node = control.node();
        (drops(&node, "no_such_path") + drops(&node, "port_unknown") > before).then_some(())
    });
}

/// Control dials and the phone hears the digits, beside sound that stops for them and goes on.
#[test]
fn a_sip_peer_hears_the_digits_that_control_dials() {
    let dataplane = Dataplane::start(1, &[]);
    let mut control = dataplane.control(1);
    let [peer, other] = [sip_peer(V4), sip_peer(V4)];
    let legs = vec![rtp_leg(0, other.local_addr().ok()), rtp_leg(1, peer.local_addr().ok())];
    let events = same(101, Codec::TelephoneEvent, 8000, None);
    let route = audio_route(0, 1, 71, vec![same(8, Codec::Pcma, 8000, None), events]);
    let reply = control.put(id(1), 1, program(legs, vec![route])).expect("a relay");
    let LegAddress::Rtp { rtp, .. } = reply.legs[0].address else { panic!("{reply:?}") };
    other.send_to(&rtp_bytes(&said(8, 0)), rtp).expect("loopback");
    let mut last = receive(&peer);
    assert_eq!(last[1] & 0x7f, 8);
    let digits = "1234567890*#ABCD";
    let action = ActAction::Dtmf { leg: LegId(1), digits: DtmfDigits(digits.to_owned()), duration_ms: 60 };
    assert_eq!(control.ask(Request::Act { relay: id(1), action_id: 9, action }), Ok(Reply::Act));
    let mut heard = String::new();
    while heard.len() < digits.len() {
        let packet = receive(&peer);
        assert_eq!((packet[1] & 0x7f, packet.len()), (101, 16));
        let next = u16::from_be_bytes([last[2], last[3]]).wrapping_add(1).to_be_bytes();
        assert_eq!((&packet[2..4], &packet[8..12]), (&next[..], &last[8..12]), "one stream without a gap");
        let is_new = last[4..8] != packet[4..8];
        assert_eq!(packet[1] & 0x80 != 0, is_new, "the marker tells the beginning, and nothing else");
        // The phone takes an event when it is told for the first time that it is over.
        let was_over = !is_new && last.len() == 16 && last[13] & 0x80 != 0;
        if packet[13] & 0x80 != 0 && !was_over {
            assert_eq!(&packet[14..16], &480u16.to_be_bytes());
            heard.push(b"0123456789*#ABCD"[usize::from(packet[12])].into());
        }
        last = packet;
    }
    assert_eq!(heard, digits);
    control
        .wait_event("the end of the digits", |event| matches!(event, Event::ActDone { action_id: 9, error: None, .. }));
    other.send_to(&rtp_bytes(&said(8, 200)), rtp).expect("loopback");
    let sound = loop {
        let packet = receive(&peer);
        if packet[1] & 0x7f == 8 {
            break packet;
        }
    };
    assert_eq!(&sound[12..], &said(8, 200).payload[..]);
}

#[test]
fn a_sip_peer_hears_silence_in_time_while_a_browser_says_nothing() {
    let dataplane = Dataplane::start(1, &[]);
    let mut control = dataplane.control(1);
    let peer = sip_peer(V4);
    let legs = vec![browser_leg(0, None), rtp_leg(1, peer.local_addr().ok())];
    let mut route = audio_route(0, 1, 71, vec![]);
    let payload = same(8, Codec::Pcma, 8000, None).to;
    route.fill = Some(Fill { sound: Sound::Silence, payload, ptime_ms: 20, start_after_ms: 40 });
    control.put(id(1), 1, program(legs, vec![route])).expect("a relay");
    let heard: Vec<Vec<u8>> = (0..50).map(|_| receive(&peer)).collect();
    let timestamp = |packet: &[u8]| u32::from_be_bytes([packet[4], packet[5], packet[6], packet[7]]);
    let mut left_out = 0;
    for (at, packet) in heard.iter().enumerate() {
        // A worker that this machine holds up for longer than a packet lasts leaves beats out, and marks where it goes on.
        let step = at.checked_sub(1).map(|before| timestamp(packet).wrapping_sub(timestamp(&heard[before])));
        let is_marked = step != Some(160);
        left_out += step.map_or(0, |step| step / 160 - 1);
        assert_eq!((packet[1], &packet[12..]), (if is_marked { 0x88 } else { 8 }, &[0xd5; 160][..]));
        let number = u16::from_be_bytes([packet[2], packet[3]]);
        assert_eq!(number, u16::from_be_bytes([heard[0][2], heard[0][3]]) + at as u16);
    }
    assert!(left_out < 25, "{left_out} beats were left out in a second");
}

#[test]
fn a_browser_and_a_sip_peer_talk_through_one_worker() {
    talk_through(1, V4, V4);
}

#[test]
fn a_browser_and_a_sip_peer_talk_through_three_workers() {
    talk_through(3, V4, V4);
}

#[test]
fn a_browser_and_a_sip_peer_of_other_address_families_talk() {
    talk_through(1, V6, V4);
    talk_through(1, V4, V6);
}

#[test]
fn relays_spread_over_the_workers_and_each_answers_at_its_own_port() {
    let dataplane = Dataplane::start(3, &[]);
    let mut control = dataplane.control(1);
    let mut ports = std::collections::BTreeSet::new();
    let mut browsers = Vec::new();
    for number in 0..6 {
        let mut browser = BrowserLeg::unanswered();
        let reply = control.put(id(number), 1, echo_program(Some(browser.remote()))).unwrap();
        let LegAddress::IceDtls { candidates, .. } = &reply.legs[0].address else { panic!("{reply:?}") };
        ports.insert(candidates[0].port());
        browser.answer(&reply.legs[0].address);
        browsers.push(browser);
    }
    assert_eq!(ports.len(), 3);
    assert_eq!(control.node().workers.iter().map(|worker| worker.relays).collect::<Vec<_>>(), [2, 2, 2]);
    for browser in &mut browsers {
        browser.connect();
        browser.speak(&said(111, 1));
        assert_eq!(browser.listen().payload, said(111, 1).payload);
    }
}

/// The certificate of the dataplane is not known before the answer, but on incoming calls its handshake may come first.
#[test]
fn a_handshake_before_the_browsers_answer_is_held_until_the_fingerprint_is_known() {
    let dataplane = Dataplane::start(1, &[]);
    let mut control = dataplane.control(1);
    let reply = control.put(id(1), 1, echo_program(None)).unwrap();
    let mut browser = BrowserLeg::new(&reply.legs[0].address);
    browser.connect();
    browser.speak(&said(111, 1));
    assert_eq!(browser.listen_for(Duration::from_millis(200)), []);
    assert!(drops(&control.node(), "fingerprint_pending") >= 1);
    let again = control.put(id(1), 2, echo_program(Some(browser.remote()))).unwrap();
    assert_eq!(again.legs, reply.legs, "the leg stays where it is");
    control.wait_event("the keys", |event| matches!(event, Event::KeysReady { .. }));
    browser.speak(&said(111, 2));
    assert_eq!(browser.listen().payload, said(111, 2).payload);
}

#[test]
fn a_certificate_that_signalling_did_not_name_gets_no_media_and_ends_no_call() {
    let dataplane = Dataplane::start(1, &[]);
    let mut control = dataplane.control(1);
    let mut browser = BrowserLeg::unanswered();
    let wrong = IceRemote { fingerprints: vec![Fingerprint([7; 32])], ..browser.remote() };
    let reply = control.put(id(1), 1, echo_program(Some(wrong))).unwrap();
    browser.answer(&reply.legs[0].address);
    browser.connect();
    control
        .wait_event("the refusal", |event| matches!(event, Event::DtlsFailed { cause: DtlsFailure::Fingerprint, .. }));
    browser.speak(&said(111, 1));
    assert_eq!(browser.listen_for(Duration::from_millis(200)), []);
    assert_eq!(control.node().relays, 1);
}

#[test]
fn a_handshake_that_never_comes_is_reported_in_time() {
    let dataplane = Dataplane::start(1, &["dtls_timeout_ms=500"]);
    let mut control = dataplane.control(1);
    let browser = BrowserLeg::unanswered();
    let reply = control.put(id(1), 1, echo_program(Some(browser.remote()))).unwrap();
    let mut browser = BrowserLeg::new(&reply.legs[0].address);
    browser.check(true);
    control.wait_event("the timeout", |event| matches!(event, Event::DtlsFailed { cause: DtlsFailure::Timeout, .. }));
    assert_eq!(control.node().dtls_handshakes, 0);
    browser.listen_for(Duration::from_millis(50));
}

#[test]
fn a_browser_that_closes_is_reported() {
    let dataplane = Dataplane::start(1, &[]);
    let mut control = dataplane.control(1);
    let mut browser = BrowserLeg::unanswered();
    let reply = control.put(id(1), 1, echo_program(Some(browser.remote()))).unwrap();
    browser.answer(&reply.legs[0].address);
    browser.connect();
    control.wait_event("the keys", |event| matches!(event, Event::KeysReady { .. }));
    browser.close();
    control.wait_event("the close", |event| matches!(event, Event::DtlsClosed { leg: LegId(0), .. }));
}

#[test]
fn strangers_get_no_answer_of_any_kind() {
    let dataplane = Dataplane::start(1, &[]);
    let mut control = dataplane.control(1);
    let reply = control.put(id(1), 1, echo_program(None)).unwrap();
    let mut stranger = BrowserLeg::new(&reply.legs[0].address);
    stranger.check_with(b"not the password, not at all", true);
    stranger.send(&[&[22, 254, 253, 0, 0, 0, 0, 0, 0, 0, 0, 0, 20][..], &[1; 20]].concat());
    stranger.send(&rtp_bytes(&said(111, 1)));
    stranger.send(&[0xff; 30]);
    let counted = |stats: &NodeStats| {
        ["stun_bad_integrity", "dtls_unknown_path", "no_such_path", "unknown_protocol"]
            .map(|reason| drops(stats, reason))
    };
    Deadline::seconds(5).poll("four counted drops", || (counted(&control.node()) == [1; 4]).then_some(()));
    stranger.listen_for(Duration::from_millis(100));
    assert_eq!((stranger.answered, stranger.dtls_received), (0, 0));
}

#[test]
fn a_browser_gone_silent_loses_consent() {
    let dataplane = Dataplane::start(1, &["consent_timeout_ms=500"]);
    let mut control = dataplane.control(1);
    let mut browser = BrowserLeg::unanswered();
    let reply = control.put(id(1), 1, echo_program(Some(browser.remote()))).unwrap();
    browser.answer(&reply.legs[0].address);
    browser.connect();
    control.wait_event("the loss", |event| matches!(event, Event::ConsentLost { leg: LegId(0), .. }));
}

/// A keyframe request of control reaches the peer; repeating its id does nothing.
#[test]
fn an_action_is_reported_once() {
    let dataplane = Dataplane::start(1, &[]);
    let mut control = dataplane.control(1);
    let mut browser = BrowserLeg::unanswered();
    let reply = control.put(id(1), 1, echo_program(Some(browser.remote()))).unwrap();
    browser.answer(&reply.legs[0].address);
    browser.connect();
    control.wait_event("the keys", |event| matches!(event, Event::KeysReady { .. }));
    act(&mut control, 5);
    let done = |event: &Event| matches!(event, Event::ActDone { .. });
    control.wait_event("the end of the action", done);
    act(&mut control, 5);
    act(&mut control, 6);
    let (_, event) = control.wait_event("the end of the other action", done);
    assert!(matches!(event, Event::ActDone { action_id: 6, .. }), "{event:?}");
}

fn act(control: &mut Control, action_id: u64) {
    let action = gangway_shared::rcp::ActAction::Keyframe { leg: LegId(0) };
    assert_eq!(control.ask(Request::Act { relay: id(1), action_id, action }), Ok(Reply::Act));
}

gangway_tests::also_on_epoll!(
    a_sip_peer_hears_the_digits_that_control_dials,
    a_sip_peer_hears_silence_in_time_while_a_browser_says_nothing,
    a_browser_and_a_sip_peer_talk_through_one_worker,
    a_browser_and_a_sip_peer_talk_through_three_workers,
    a_browser_and_a_sip_peer_of_other_address_families_talk,
    relays_spread_over_the_workers_and_each_answers_at_its_own_port,
    a_handshake_before_the_browsers_answer_is_held_until_the_fingerprint_is_known,
    a_certificate_that_signalling_did_not_name_gets_no_media_and_ends_no_call,
    a_handshake_that_never_comes_is_reported_in_time,
    a_browser_that_closes_is_reported,
    strangers_get_no_answer_of_any_kind,
    a_browser_gone_silent_loses_consent,
    an_action_is_reported_once,
);
