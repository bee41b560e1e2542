//! Calls of peers: answers, repeats, CANCEL, lost ACKs.

use super::*;

fn ring(bench: &mut Bench) -> ServerId {
    bench.receive(&incoming("INVITE", ""));
    let UaEvent::Invite { server, verified: true, .. } = bench.event() else { panic!("an INVITE") };
    bench.sent_response(100);
    server
}

#[test]
fn a_call_rings_is_answered_and_ended_by_the_peer() {
    let mut bench = Bench::new();
    let server = ring(&mut bench);
    let early = bench.ua.respond(bench.now, server, reply(180)).unwrap().unwrap();
    let ringing = bench.sent_response(180);
    assert_eq!(ringing.headers.to().unwrap().tag(), Some(early.local_tag.as_str()));
    assert_eq!(ringing.headers.contact().unwrap().to_string(), "<sip:key@192.0.2.10>");
    assert_eq!(ringing.headers.top_via().unwrap().rport(), Some(5060));
    assert_eq!(ringing.headers.top_via().unwrap().received(), Some("192.0.2.20".parse().unwrap()));
    let dialog = bench.ua.respond(bench.now, server, reply(200)).unwrap().unwrap();
    assert_eq!(dialog, early);
    let ok = bench.sent_response(200);
    assert_eq!(ok.headers.to(), ringing.headers.to());
    bench.receive(&within(&ok, "ACK", 5, "a"));
    assert!(matches!(bench.event(), UaEvent::Acked { dialog: of, server: to, .. } if of == dialog && to == server));
    bench.receive(&within(&ok, "BYE", 6, "b"));
    bench.sent_response(200);
    assert!(matches!(bench.event(), UaEvent::Bye { dialog: of, .. } if of == dialog));
    assert!(bench.ua.dialog(&dialog).is_none());
    bench.ends_empty();
}

#[test]
fn a_2xx_is_repeated_until_its_ack() {
    let mut bench = Bench::new();
    let server = ring(&mut bench);
    bench.ua.respond(bench.now, server, reply(200)).unwrap();
    let ok = bench.sent_response(200);
    let mut instants = Vec::new();
    for millis in (100..8_000).step_by(100) {
        bench.run_until(at(millis));
        instants.extend(bench.sent().iter().map(|_| millis));
    }
    assert_eq!(instants, [500, 1_500, 3_500, 7_500]);
    bench.receive(&within(&ok, "ACK", 5, "a"));
    assert!(matches!(bench.event(), UaEvent::Acked { .. }));
    bench.receive(&within(&ok, "ACK", 5, "a"));
    bench.no_event();
    bench.pass(40_000);
    assert_eq!(bench.sent(), []);
}

#[test]
fn a_2xx_is_repeated_on_streams_too() {
    let mut config = config();
    config.advertised.push(ours(Transport::Tcp));
    let mut bench = Bench::with(config);
    bench.transport = Transport::Tcp;
    let server = ring(&mut bench);
    bench.ua.respond(bench.now, server, reply(200)).unwrap();
    bench.sent_response(200);
    bench.pass(500);
    bench.sent_response(200);
}

#[test]
fn a_lost_ack_ends_the_call_with_bye_after_64_t1() {
    let mut bench = Bench::new();
    let server = ring(&mut bench);
    let dialog = bench.ua.respond(bench.now, server, reply(200)).unwrap().unwrap();
    bench.sent();
    bench.run_until(at(31_999));
    assert_eq!(bench.sent_names(), ["200"; 10]);
    bench.run_until(at(32_000));
    let bye = bench.sent_request(Method::Bye);
    assert_eq!(bye.uri.to_string(), "sip:carol@192.0.2.20");
    assert_eq!(bench.event(), UaEvent::AckMissing { dialog, server });
    bench.ends_empty();
}

#[test]
fn bye_waits_for_the_ack_of_our_2xx() {
    let mut bench = Bench::new();
    let server = ring(&mut bench);
    let dialog = bench.ua.respond(bench.now, server, reply(200)).unwrap().unwrap();
    let ok = bench.sent_response(200);
    let bye = bench.ua.send_in_dialog(bench.now, &dialog, Method::Bye, Headers::new(), None).unwrap();
    assert_eq!(bench.sent(), []);
    bench.receive(&within(&ok, "ACK", 5, "a"));
    let request = bench.sent_request(Method::Bye);
    bench.receive(&answer(&request, 200, "", &[]));
    assert!(matches!(bench.event(), UaEvent::Finished { client, .. } if client == bye));
    bench.ends_empty();
}

#[test]
fn bye_goes_out_when_the_ack_never_comes() {
    let mut bench = Bench::new();
    let server = ring(&mut bench);
    let dialog = bench.ua.respond(bench.now, server, reply(200)).unwrap().unwrap();
    let bye = bench.ua.send_in_dialog(bench.now, &dialog, Method::Bye, Headers::new(), None).unwrap();
    bench.sent();
    bench.run_until(at(31_999));
    assert!(bench.sent_names().iter().all(|name| name == "200"));
    bench.run_until(at(32_000));
    bench.sent_request(Method::Bye);
    bench.run_until(at(64_000));
    assert_eq!(bench.event(), UaEvent::TimedOut { client: bye, dialog: Some(dialog) });
    bench.ends_empty();
}

#[test]
fn a_repeated_invite_gets_the_last_answer_again() {
    let mut bench = Bench::new();
    let server = ring(&mut bench);
    bench.receive(&incoming("INVITE", ""));
    bench.sent_response(100);
    bench.ua.respond(bench.now, server, reply(180)).unwrap();
    bench.sent();
    bench.receive(&incoming("INVITE", ""));
    bench.sent_response(180);
    bench.ua.respond(bench.now, server, reply(486)).unwrap();
    bench.sent();
    bench.receive(&incoming("INVITE", ""));
    bench.sent_response(486);
    bench.no_event();
    assert_eq!(bench.ua.counters().request_repeats_received, 3);
    bench.ends_empty();
}

#[test]
fn a_refusal_is_repeated_until_its_ack_and_takes_the_early_dialog_along() {
    let mut bench = Bench::new();
    let server = ring(&mut bench);
    let early = bench.ua.respond(bench.now, server, reply(180)).unwrap().unwrap();
    bench.sent();
    assert_eq!(bench.ua.respond(bench.now, server, reply(603)), Ok(None));
    let decline = bench.sent_response(603);
    assert!(bench.ua.dialog(&early).is_none());
    assert_eq!(bench.ua.respond(bench.now, server, reply(200)), Err(RespondError::Gone));
    bench.pass(500);
    bench.sent_response(603);
    // RFC 3261 section 17.1.1.3: the ACK of a refusal comes on the INVITE's branch.
    bench.receive(&within(&decline, "ACK", 5, "p1"));
    bench.pass(10_000);
    assert_eq!(bench.sent(), []);
    bench.no_event();
    bench.ends_empty();
}

#[test]
fn cancel_gets_200_and_its_invite_487() {
    let mut bench = Bench::new();
    let server = ring(&mut bench);
    let early = bench.ua.respond(bench.now, server, reply(180)).unwrap().unwrap();
    bench.sent();
    bench.receive(&incoming("CANCEL", "Reason: SIP;cause=200;text=\"Call completed elsewhere\"\r\n"));
    let sent = bench.sent();
    let [Message::Response(ok), Message::Response(terminated)] = &sent[..] else { panic!("{sent:?}") };
    assert_eq!((ok.status.code(), terminated.status.code()), (200, 487));
    assert_eq!(
        (ok.headers.cseq().unwrap().method, terminated.headers.cseq().unwrap().method),
        (Method::Cancel, Method::Invite)
    );
    assert_eq!(ok.headers.to(), terminated.headers.to(), "one tag for both (RFC 3261 section 9.2)");
    let UaEvent::Cancelled { server: of, request } = bench.event() else { panic!("cancelled") };
    assert_eq!((of, request.headers.reasons()[0].cause), (server, Some(200)));
    assert!(bench.ua.dialog(&early).is_none());
    assert_eq!(bench.ua.respond(bench.now, server, reply(200)), Err(RespondError::Gone));
    bench.receive(&incoming("CANCEL", ""));
    bench.sent_response(200);
    bench.no_event();
    bench.ends_empty();
}

#[test]
fn cancel_after_200_changes_nothing() {
    let mut bench = Bench::new();
    let server = ring(&mut bench);
    let dialog = bench.ua.respond(bench.now, server, reply(200)).unwrap().unwrap();
    bench.sent();
    bench.receive(&incoming("CANCEL", ""));
    bench.sent_response(200);
    bench.no_event();
    assert!(bench.ua.dialog(&dialog).is_some());
}

#[test]
fn cancel_of_nothing_gets_481() {
    let mut bench = Bench::new();
    bench.receive(&incoming("CANCEL", ""));
    bench.sent_response(481);
    bench.no_event();
    bench.ends_empty();
}

#[test]
fn bye_in_an_early_dialog_ends_the_invite_with_487() {
    let mut bench = Bench::new();
    let server = ring(&mut bench);
    bench.ua.respond(bench.now, server, reply(180)).unwrap();
    let ringing = bench.sent_response(180);
    bench.receive(&within(&ringing, "BYE", 6, "b"));
    assert_eq!(bench.sent_names(), ["200", "487"]);
    // The owner knows the call by its INVITE only.
    assert!(matches!(bench.ua.poll_event(), Some(UaEvent::Cancelled { server: of, .. }) if of == server));
    assert!(matches!(bench.event(), UaEvent::Bye { .. }));
    assert_eq!(bench.ua.respond(bench.now, server, reply(200)), Err(RespondError::Gone));
    bench.ends_empty();
}

#[test]
fn an_answer_that_makes_a_dialog_needs_a_contact() {
    let mut bench = Bench::new();
    let server = ring(&mut bench);
    for status in [180, 200] {
        let bare = Reply::new(Status::literal(status));
        assert_eq!(bench.ua.respond(bench.now, server, bare), Err(RespondError::NoContact));
    }
    assert_eq!(bench.sent(), []);
}

#[test]
fn record_routes_come_back_and_shape_the_dialog() {
    let mut bench = Bench::new();
    bench.receive(&incoming("INVITE", "Record-Route: <sip:192.0.2.30;lr>, <sip:192.0.2.31;lr>\r\n"));
    let UaEvent::Invite { server, .. } = bench.event() else { panic!("an INVITE") };
    bench.sent();
    let dialog = bench.ua.respond(bench.now, server, reply(200)).unwrap().unwrap();
    let ok = bench.sent_response(200);
    assert_eq!(ok.headers.record_routes().unwrap().len(), 2);
    bench.receive(&within(&ok, "ACK", 5, "a"));
    bench.ua.send_in_dialog(bench.now, &dialog, Method::Bye, Headers::new(), None).unwrap();
    let transmit = bench.ua.poll_transmit().unwrap();
    assert_eq!(transmit.remote, "192.0.2.30:5060".parse().unwrap());
}

#[test]
fn answers_go_where_rport_and_received_say() {
    let mut bench = Bench::new();
    bench.receive_from("192.0.2.77:41000", &incoming("OPTIONS", ""));
    let transmit = bench.ua.poll_transmit().unwrap();
    assert_eq!(transmit.remote, "192.0.2.77:41000".parse().unwrap(), "rport: back to the source");
    let without =
        String::from_utf8(incoming("OPTIONS", "")).unwrap().replace(";branch=z9hG4bKp1;rport", ";branch=z9hG4bKp2");
    bench.receive_from("192.0.2.77:41000", without.replace("in@peer", "other").as_bytes());
    let transmit = bench.ua.poll_transmit().unwrap();
    assert_eq!(transmit.remote, "192.0.2.77:5060".parse().unwrap(), "no rport: source address, sent-by port");
}

#[test]
fn a_peer_of_rfc2543_without_branches_is_served() {
    let mut bench = Bench::new();
    let old = String::from_utf8(incoming("INVITE", ""))
        .unwrap()
        .replace(";branch=z9hG4bKp1;rport", "")
        .replace(";tag=ct", "");
    bench.receive(old.as_bytes());
    bench.sent_response(100);
    let UaEvent::Invite { server, .. } = bench.event() else { panic!("an INVITE") };
    bench.receive(old.as_bytes());
    bench.sent_response(100);
    bench.no_event();
    bench.ua.respond(bench.now, server, reply(486)).unwrap();
    let busy = bench.sent_response(486);
    let to = busy.headers.to().unwrap().to_string();
    let ack = old.replace("INVITE", "ACK").replace("To: <sip:key@192.0.2.10>", &format!("To: {to}"));
    bench.receive(ack.as_bytes());
    bench.pass(10_000);
    assert_eq!(bench.sent(), []);
    bench.ends_empty();
}

#[test]
fn a_bye_of_ours_in_a_call_of_the_peer_answers_a_challenge_with_the_replys_account() {
    let mut bench = Bench::new();
    bench.ua.put_account(AccountId(1), account());
    let server = ring(&mut bench);
    let ringing = Reply { account: Some(AccountId(1)), ..reply(180) };
    let dialog = bench.ua.respond(bench.now, server, ringing).unwrap().unwrap();
    assert_eq!(bench.ua.dialog(&dialog).unwrap().account, Some(1), "the early dialog has it");
    bench.ua.respond(bench.now, server, reply(200)).unwrap();
    let ok = bench.sent().pop().unwrap();
    let Message::Response(ok) = ok else { panic!("{ok:?}") };
    bench.receive(&within(&ok, "ACK", 5, "a"));
    bench.event();
    // It comes back from the journal too.
    let json = serde_json::to_string(bench.ua.dialog(&dialog).unwrap()).unwrap();
    bench.ua.remove_dialog(&dialog);
    bench.ua.restore_dialog(serde_json::from_str(&json).unwrap(), false);
    let bye = bench.ua.send_in_dialog(bench.now, &dialog, Method::Bye, Headers::new(), None).unwrap();
    let first = bench.sent_request(Method::Bye);
    bench.receive(&challenge(&first, "n1"));
    let second = bench.sent_request(Method::Bye);
    assert!(second.headers.value(&HeaderName::Authorization).unwrap().contains("nonce=\"n1\""));
    assert_eq!(second.headers.cseq().unwrap().number, first.headers.cseq().unwrap().number + 1);
    bench.receive(&answer(&second, 200, "", &[]));
    assert!(matches!(bench.event(), UaEvent::Finished { client, .. } if client == bye));
    bench.ends_empty();
}

#[test]
fn a_reply_to_a_re_invite_may_name_the_account() {
    let mut bench = Bench::new();
    bench.ua.put_account(AccountId(1), account());
    let (_, ok, dialog) = accepted(&mut bench);
    assert_eq!(bench.ua.dialog(&dialog).unwrap().account, None);
    bench.receive(&within(&ok, "INVITE", 6, "re"));
    bench.sent();
    let UaEvent::DialogRequest { server, .. } = bench.event() else { panic!("a request") };
    bench.ua.respond(bench.now, server, Reply { account: Some(AccountId(1)), ..reply(200) }).unwrap();
    assert_eq!(bench.ua.dialog(&dialog).unwrap().account, Some(1));
}

#[test]
fn a_challenge_to_a_bye_by_a_caller_that_is_not_the_accounts_target_gets_no_digest() {
    let mut bench = Bench::new();
    bench.ua.put_account(AccountId(1), account());
    let foreign = String::from_utf8(incoming("INVITE", "")).unwrap();
    bench.receive(foreign.replace("carol@192.0.2.20>", "carol@192.0.2.66:5099>").as_bytes());
    let UaEvent::Invite { server, .. } = bench.event() else { panic!("an INVITE") };
    bench.sent();
    let answered = Reply { account: Some(AccountId(1)), ..reply(200) };
    let dialog = bench.ua.respond(bench.now, server, answered).unwrap().unwrap();
    let ok = bench.sent_response(200);
    bench.receive(&within(&ok, "ACK", 5, "a"));
    bench.event();
    bench.ua.send_in_dialog(bench.now, &dialog, Method::Bye, Headers::new(), None).unwrap();
    let bye = bench.sent_request(Method::Bye);
    bench.receive_from("192.0.2.66:5099", &challenge(&bye, "n"));
    assert_eq!(bench.sent(), []);
    assert!(matches!(bench.event(), UaEvent::Finished { response, .. } if response.status.code() == 401));
    assert_eq!(bench.ua.counters().challenges_refused, 1);
    bench.ends_empty();
}
