//! Refusals that need no opinion.

use super::*;

fn changed(method: &str, from: &str, to: &str) -> Vec<u8> {
    let text = String::from_utf8(incoming(method, "")).unwrap();
    assert!(text.contains(from));
    text.replace(from, to).into_bytes()
}

#[test]
fn options_tells_capabilities() {
    let mut config = config();
    config.supported = vec!["timer".into(), "replaces".into()];
    let mut bench = Bench::with(config);
    bench.receive(&incoming("OPTIONS", ""));
    let ok = bench.sent_response(200);
    assert_eq!(ok.headers.tokens(&HeaderName::Allow), ["ACK", "BYE", "CANCEL", "OPTIONS", "INVITE", "INFO", "UPDATE"]);
    assert_eq!(ok.headers.value(&HeaderName::Accept), Some("application/sdp"));
    assert_eq!(ok.headers.tokens(&HeaderName::Supported), ["timer", "replaces"]);
    bench.no_event();
    bench.ends_empty();
}

#[test]
fn methods_that_we_do_not_take_get_405_and_unknown_ones_501() {
    let mut bench = Bench::new();
    bench.receive(&incoming("SUBSCRIBE", ""));
    let refused = bench.sent_response(405);
    assert!(refused.headers.tokens(&HeaderName::Allow).contains(&"INVITE".to_owned()));
    bench.receive(&incoming("FROBNICATE", ""));
    assert!(bench.sent_response(501).headers.value(&HeaderName::Allow).is_some());
    assert_eq!(bench.ua.counters().method_refused, 2);
    bench.no_event();
    bench.ends_empty();
}

#[test]
fn unknown_extensions_that_are_required_get_420() {
    let mut config = config();
    config.supported = vec!["timer".into()];
    let mut bench = Bench::with(config);
    bench.receive(&incoming("INVITE", "Require: Timer, 100rel, nothingSupportsThis\r\n"));
    let refused = bench.sent_response(420);
    assert_eq!(refused.headers.tokens(&HeaderName::Unsupported), ["100rel", "nothingSupportsThis"]);
    bench.no_event();
}

#[test]
fn a_request_that_comes_twice_over_different_ways_gets_482() {
    let mut bench = Bench::new();
    bench.receive(&incoming("INVITE", ""));
    bench.sent_response(100);
    let UaEvent::Invite { server, .. } = bench.event() else { panic!("an INVITE") };
    bench.receive(&changed("INVITE", "z9hG4bKp1", "z9hG4bKother"));
    bench.sent_response(482);
    bench.no_event();
    bench.ua.respond(bench.now, server, reply(486)).unwrap();
    assert_eq!(bench.ua.counters().merged, 1);
    bench.ends_empty();
}

#[test]
fn exhausted_hops_get_483_but_options_an_answer() {
    let mut bench = Bench::new();
    bench.receive(&changed("INVITE", "Max-Forwards: 70", "Max-Forwards: 0"));
    bench.sent_response(483);
    bench.receive(&changed("OPTIONS", "Max-Forwards: 70", "Max-Forwards: 0"));
    bench.sent_response(200);
    bench.no_event();
}

#[test]
fn other_schemes_get_416() {
    let mut bench = Bench::new();
    bench.receive(&changed("INVITE", "INVITE sip:key@192.0.2.10", "INVITE tel:+123"));
    bench.sent_response(416);
    bench.no_event();
}

#[test]
fn dialog_methods_outside_of_dialogs_get_481() {
    let mut bench = Bench::new();
    for method in ["BYE", "INFO", "UPDATE"] {
        bench.receive(&incoming(method, ""));
        bench.sent_response(481);
    }
    bench.no_event();
    bench.ends_empty();
}

#[test]
fn malformed_requests_get_400_that_names_the_header() {
    let mut bench = Bench::new();
    for (from, to, reason) in [
        ("CSeq: 5 INVITE", "CSeq: 5 BYE", "Bad Request: CSeq: malformed"),
        ("Max-Forwards: 70", "Max-Forwards: 999", "Bad Request: Max-Forwards: out of range"),
        ("Content-Length: 0", "Content-Length: 50", "Bad Request: body: body shorter than announced"),
        ("INVITE sip:key@192.0.2.10", "INVITE sip:key@", "Bad Request: start line: malformed"),
        ("tag=ct", "tag=c;tag=d", "Bad Request: From: malformed"),
    ] {
        bench.receive(&changed("INVITE", from, to));
        let refused = bench.sent_response_unread(400);
        assert_eq!(refused, format!("SIP/2.0 400 {reason}"));
        bench.no_event();
    }
    bench.receive(&changed("INVITE", " SIP/2.0\r\nVia", " SIP/9.0\r\nVia"));
    bench.sent_response(505);
    bench.receive(&changed("INVITE", "Call-ID: in@peer\r\n", ""));
    assert_eq!(bench.sent(), [], "not enough to answer");
    assert_eq!(bench.ua.counters().malformed, 7);
    assert_eq!(bench.ua.transactions(), 0);
    bench.receive(&changed("INVITE", "Contact: <sip:carol@192.0.2.20>\r\n", ""));
    assert_eq!(bench.sent_response(400).reason, "Bad Request: Contact: missing");
}

#[test]
fn malformed_responses_and_acks_are_never_answered() {
    let mut bench = Bench::new();
    bench.receive(&changed("ACK", "CSeq: 5 ACK", "CSeq: x ACK"));
    bench.receive(b"SIP/2.0 200 OK\r\nVia: nonsense\r\n\r\n");
    bench.receive(b"\r\n\r\n");
    bench.receive(&[0, 0, 0, 0]);
    assert_eq!(bench.sent(), []);
    assert_eq!(bench.ua.counters().malformed, 2);
}

#[test]
fn a_full_table_gives_a_stateless_503_with_retry_after() {
    let mut config = config();
    config.max_transactions = 1;
    let mut bench = Bench::with(config);
    bench.receive(&incoming("INVITE", ""));
    bench.sent();
    bench.event();
    let second = changed("OPTIONS", "in@peer", "second");
    let mut tags = Vec::new();
    for _ in 0..2 {
        bench.receive(&second);
        let refused = bench.sent_response(503);
        assert_eq!(refused.headers.retry_after_s(), Some(10));
        tags.push(refused.headers.to().unwrap().tag().map(str::to_owned));
    }
    assert!(tags[0].is_some() && tags[0] == tags[1], "a repeat gets the same tag (RFC 3261 section 8.2.7)");
    assert_eq!(bench.ua.counters().overloaded, 2);
    assert_eq!(bench.ua.transactions(), 1);
}

#[test]
fn a_draining_agent_refuses_new_work_and_keeps_the_old() {
    let mut bench = Bench::new();
    let (_, ok, dialog) = accepted(&mut bench);
    bench.ua.set_draining(true);
    for method in ["INVITE", "OPTIONS"] {
        bench.receive(&changed(method, "z9hG4bKp1", &format!("z9hG4bKd{method}")));
        assert!(bench.sent_response(503).headers.retry_after_s().is_some());
    }
    bench.no_event();
    bench.receive(&within(&ok, "BYE", 6, "b"));
    bench.sent_response(200);
    assert!(matches!(bench.event(), UaEvent::Bye { dialog: of, .. } if of == dialog));
}

impl Bench {
    /// The status line of an answer whose repeated headers may be what was malformed.
    fn sent_response_unread(&mut self, status: u16) -> String {
        let transmit = self.ua.poll_transmit().expect("an answer");
        assert_eq!(self.ua.poll_transmit(), None);
        let text = String::from_utf8(transmit.bytes).unwrap();
        assert!(text.starts_with(&format!("SIP/2.0 {status} ")), "{text}");
        text.split("\r\n").next().unwrap().to_owned()
    }
}
