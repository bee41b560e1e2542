//! What a UDP source that nobody vouches for may get: one reply, not longer than 1.5 times its request.

use super::*;

const STRANGER: &str = "198.51.100.9:5060";

fn bytes_sent(bench: &mut Bench) -> Vec<usize> {
    std::iter::from_fn(|| bench.ua.poll_transmit()).map(|transmit| transmit.bytes.len()).collect()
}

fn from_stranger(method: &str, number: usize) -> Vec<u8> {
    let text = String::from_utf8(incoming(method, "")).unwrap();
    text.replace("z9hG4bKp1", &format!("z9hG4bKs{number}")).replace("in@peer", &format!("{number}@s")).into_bytes()
}

#[test]
fn a_stranger_gets_one_small_reply_and_then_silence() {
    for method in ["OPTIONS", "SUBSCRIBE", "BYE", "CANCEL", "INVITE"] {
        let mut bench = Bench::new();
        let request = from_stranger(method, 1);
        bench.receive_from(STRANGER, &request);
        if let Some(UaEvent::Invite { server, verified, .. }) = bench.ua.poll_event() {
            assert!(!verified);
            bench.ua.respond(bench.now, server, Reply::new(Status::literal(404))).unwrap();
        }
        for _ in 0..5 {
            bench.receive_from(STRANGER, &request);
        }
        bench.pass(60_000);
        let sent = bytes_sent(&mut bench);
        assert_eq!(sent.len(), 1, "{method}");
        assert!(sent[0] <= request.len() * 3 / 2, "{method}: {} for {}", sent[0], request.len());
        bench.ends_empty();
    }
}

#[test]
fn a_reply_that_cannot_be_made_small_is_not_sent() {
    let mut config = config();
    config.allow = (0..60).map(|number| Method::Other(format!("METHOD{number}"))).collect();
    let mut bench = Bench::with(config);
    let request = from_stranger("SUBSCRIBE", 1);
    bench.receive_from(STRANGER, &request);
    let sent = bytes_sent(&mut bench);
    assert_eq!(sent.len(), 1, "without its Allow header it fits");
    assert!(sent[0] <= request.len() * 3 / 2);
    // The shortest request with enough headers: any answer is longer by more than half.
    let tiny = b"X sip:a SIP/2.0\r\nv:SIP/2.0/UDP a;rport\r\nf:sip:a\r\nt:sip:a\r\ni:a\r\nCSeq:1 X\r\n\r\n";
    bench.receive_from(STRANGER, tiny);
    assert!(bytes_sent(&mut bench).is_empty());
    assert_eq!(bench.ua.counters().unverified_silenced, 1);
}

#[test]
fn ringing_a_stranger_lifts_the_limits() {
    let mut bench = Bench::new();
    bench.receive_from(STRANGER, &from_stranger("INVITE", 1));
    assert_eq!(bench.sent(), [], "no 100 for a stranger");
    let UaEvent::Invite { server, verified: false, .. } = bench.event() else { panic!("an INVITE") };
    bench.ua.respond(bench.now, server, reply(180)).unwrap();
    bench.ua.respond(bench.now, server, reply(200)).unwrap();
    assert_eq!(bench.sent_names(), ["180", "200"]);
    bench.pass(500);
    assert_eq!(bench.sent_names(), ["200"]);
}

#[test]
fn an_accounts_target_is_no_stranger_as_long_as_the_account_lives() {
    let mut bench = Bench::new();
    let mut account = account();
    account.targets = vec![STRANGER.parse().unwrap()];
    bench.ua.put_account(AccountId(1), account.clone());
    bench.ua.put_account(AccountId(2), account.clone());
    bench.ua.put_account(AccountId(1), account);
    bench.ua.remove_account(AccountId(1));
    bench.receive_from(STRANGER, &from_stranger("INVITE", 1));
    assert!(matches!(bench.event(), UaEvent::Invite { verified: true, .. }));
    bench.sent_response(100);
    bench.ua.remove_account(AccountId(2));
    bench.receive_from(STRANGER, &from_stranger("INVITE", 2));
    assert!(matches!(bench.event(), UaEvent::Invite { verified: false, .. }));
}

#[test]
fn strangers_cannot_fill_the_table() {
    let mut config = config();
    config.max_unverified_transactions = 3;
    let mut bench = Bench::with(config);
    for number in 0..10 {
        bench.receive_from(STRANGER, &from_stranger("OPTIONS", number));
    }
    assert_eq!(bench.ua.transactions(), 3);
    assert_eq!(bench.ua.counters().overloaded, 7);
    bench.sent();
    bench.receive(&incoming("OPTIONS", ""));
    bench.sent_response(200);
    bench.pass(32_000);
    assert_eq!(bench.ua.transactions(), 0);
}

#[test]
fn strangers_cannot_fill_the_table_over_a_stream() {
    let mut config = config();
    config.advertised.push(ours(Transport::Tcp));
    config.max_unverified_transactions = 3;
    let mut bench = Bench::with(config);
    bench.transport = Transport::Tcp;
    for number in 0..10 {
        bench.receive_from(STRANGER, &from_stranger("INVITE", number));
        if let Some(UaEvent::Invite { server, known_peer, .. }) = bench.ua.poll_event() {
            assert!(!known_peer);
            bench.ua.respond(bench.now, server, Reply::new(Status::literal(404))).unwrap();
        }
    }
    assert_eq!(bench.ua.transactions(), 3);
    assert_eq!(bench.ua.counters().overloaded, 7);
    bench.sent();
    bench.receive(&incoming("OPTIONS", ""));
    bench.sent_response(200);
}

#[test]
fn an_accounts_target_may_connect_from_any_port() {
    let mut config = config();
    config.advertised.push(ours(Transport::Tcp));
    let mut bench = Bench::with(config);
    bench.transport = Transport::Tcp;
    let mut account = account();
    account.targets = vec![STRANGER.parse().unwrap()];
    bench.ua.put_account(AccountId(1), account);
    bench.receive_from("198.51.100.9:40000", &from_stranger("INVITE", 1));
    assert!(matches!(bench.event(), UaEvent::Invite { known_peer: true, .. }));
    bench.receive_from("198.51.100.8:5060", &from_stranger("INVITE", 2));
    assert!(matches!(bench.event(), UaEvent::Invite { verified: true, known_peer: false, .. }));
}

#[test]
fn a_full_table_leaves_room_for_requests_of_ours_and_always_for_bye() {
    let mut config = config();
    config.max_transactions = 16;
    let mut bench = Bench::with(config);
    let (_, _, dialog) = established(&mut bench);
    while bench.ua.counters().overloaded == 0 {
        let number = bench.ua.transactions();
        bench.receive(&from_stranger("OPTIONS", number));
        bench.sent();
    }
    assert_eq!(bench.ua.transactions(), 14);
    for _ in 14..16 {
        let ours = outgoing(&bench, Method::Options);
        bench.ua.send_request(bench.now, ours).unwrap();
    }
    let ours = outgoing(&bench, Method::Options);
    assert_eq!(bench.ua.send_request(bench.now, ours), Err(SendError::Full));
    bench.sent();
    bench.ua.send_in_dialog(bench.now, &dialog, Method::Bye, Headers::new(), None).unwrap();
    bench.sent_request(Method::Bye);
}

#[test]
fn subnets_match_by_prefix_and_family() {
    let subnet = |address: &str, prefix_len| Subnet { address: address.parse().unwrap(), prefix_len };
    assert!(subnet("192.0.2.0", 24).contains("192.0.2.255".parse().unwrap()));
    assert!(!subnet("192.0.2.0", 25).contains("192.0.2.255".parse().unwrap()));
    assert!(subnet("0.0.0.0", 0).contains("203.0.113.1".parse().unwrap()));
    assert!(!subnet("0.0.0.0", 0).contains("::1".parse().unwrap()));
    assert!(subnet("2001:db8::", 32).contains("2001:db8:ffff::1".parse().unwrap()));
    assert!(!subnet("2001:db8::1", 128).contains("2001:db8::2".parse().unwrap()));
}

#[test]
fn every_counter_has_its_name() {
    let counters = Counters { merged: 3, ..Counters::default() };
    let told: Vec<(&str, u64)> = counters.each().into_iter().filter(|(_, count)| *count > 0).collect();
    assert_eq!(told, [("merged", 3)]);
}
