//! Requests inside of dialogs, both ways.

use super::*;

#[test]
fn a_re_invite_of_ours_is_acknowledged_and_refreshes_the_target() {
    let mut bench = Bench::new();
    let (_, _, dialog) = established(&mut bench);
    let client = bench.ua.send_in_dialog(bench.now, &dialog, Method::Invite, Headers::new(), None).unwrap();
    let again = bench.ua.send_in_dialog(bench.now, &dialog, Method::Invite, Headers::new(), None);
    assert_eq!(again, Err(SendError::InvitePending));
    let invite = bench.sent_request(Method::Invite);
    assert_eq!(invite.headers.value(&HeaderName::Contact), Some("<sip:key@192.0.2.10>"));
    bench.receive(&answer(&invite, 200, "", &[(HeaderName::Contact, "<sip:bob@192.0.2.21:5070>")]));
    let transmit = bench.ua.poll_transmit().unwrap();
    assert_eq!(transmit.remote, "192.0.2.21:5070".parse().unwrap());
    assert!(transmit.bytes.starts_with(b"ACK sip:bob@192.0.2.21:5070 "));
    assert!(
        matches!(bench.event(), UaEvent::Answered { client: done, dialog: of, .. } if done == client && of == dialog)
    );
    bench.ua.send_in_dialog(bench.now, &dialog, Method::Invite, Headers::new(), None).unwrap();
}

#[test]
fn a_refused_re_invite_leaves_the_dialog_as_it_was() {
    let mut bench = Bench::new();
    let (_, _, dialog) = established(&mut bench);
    let client = bench.ua.send_in_dialog(bench.now, &dialog, Method::Invite, Headers::new(), None).unwrap();
    let invite = bench.sent_request(Method::Invite);
    bench.receive(&answer(&invite, 488, "", &[]));
    bench.sent_request(Method::Ack);
    assert!(
        matches!(bench.event(), UaEvent::Finished { client: done, dialog: Some(of), .. } if done == client && of == dialog)
    );
    assert_eq!(bench.ua.dialog(&dialog).unwrap().state, crate::sip::dialog::DialogState::Confirmed);
    assert!(bench.ua.send_in_dialog(bench.now, &dialog, Method::Invite, Headers::new(), None).is_ok());
}

#[test]
fn a_re_invite_of_the_peer_is_the_owners_to_answer() {
    let mut bench = Bench::new();
    let (_, ok, dialog) = accepted(&mut bench);
    bench.receive(&within(&ok, "INVITE", 6, "re"));
    bench.sent_response(100);
    let UaEvent::DialogRequest { dialog: of, server, .. } = bench.event() else { panic!("a request") };
    assert_eq!(of, dialog);
    let answer = Reply::new(Status::literal(200));
    assert_eq!(bench.ua.respond(bench.now, server, answer), Ok(Some(dialog.clone())));
    let response = bench.sent_response(200);
    assert_eq!(response.headers.value(&HeaderName::Contact), Some("<sip:key@192.0.2.10>"), "the dialog's own");
    bench.receive(&within(&ok, "ACK", 6, "a2"));
    assert!(matches!(bench.event(), UaEvent::Acked { server: of, .. } if of == server));
    bench.receive(&within(&ok, "INVITE", 7, "re2"));
    bench.sent();
    let UaEvent::DialogRequest { server, .. } = bench.event() else { panic!("a request") };
    bench.ua.respond(bench.now, server, reply(488)).unwrap();
    bench.sent_response(488);
    assert!(bench.ua.dialog(&dialog).is_some(), "a refused re-INVITE ends nothing");
}

#[test]
fn crossing_re_invites_get_491_and_500() {
    let mut bench = Bench::new();
    let (_, ok, dialog) = accepted(&mut bench);
    bench.ua.send_in_dialog(bench.now, &dialog, Method::Invite, Headers::new(), None).unwrap();
    bench.sent();
    bench.receive(&within(&ok, "INVITE", 6, "x1"));
    bench.sent_response(491);
    bench.no_event();
    let mut bench = Bench::new();
    let (_, ok, dialog) = accepted(&mut bench);
    bench.receive(&within(&ok, "INVITE", 6, "y1"));
    bench.sent();
    bench.event();
    let ours = bench.ua.send_in_dialog(bench.now, &dialog, Method::Invite, Headers::new(), None);
    assert_eq!(ours, Err(SendError::InvitePending));
    bench.receive(&within(&ok, "INVITE", 7, "y2"));
    let refused = bench.sent_response(500);
    assert!(refused.headers.retry_after_s().is_some_and(|seconds| seconds <= 10));
    bench.no_event();
}

#[test]
fn a_lower_cseq_gets_500() {
    let mut bench = Bench::new();
    let (_, ok, _) = accepted(&mut bench);
    bench.receive(&within(&ok, "INFO", 9, "i1"));
    let UaEvent::DialogRequest { server, .. } = bench.event() else { panic!("a request") };
    bench.ua.respond(bench.now, server, Reply::new(Status::literal(200))).unwrap();
    bench.sent_response(200);
    bench.receive(&within(&ok, "INFO", 8, "i2"));
    bench.sent_response(500);
    bench.no_event();
    assert_eq!(bench.ua.counters().out_of_order, 1);
}

#[test]
fn unknown_dialogs_get_481_and_a_stray_ack_nothing() {
    let mut bench = Bench::new();
    let (_, ok, _) = accepted(&mut bench);
    for (number, method) in ["INVITE", "BYE", "INFO"].into_iter().enumerate() {
        let other =
            String::from_utf8(within(&ok, method, 6, &format!("u{number}"))).unwrap().replace("tag=ct", "tag=other");
        bench.receive(other.as_bytes());
        bench.sent_response(481);
    }
    let other = String::from_utf8(within(&ok, "ACK", 5, "u9")).unwrap().replace("tag=ct", "tag=other");
    bench.receive(other.as_bytes());
    assert_eq!(bench.sent(), []);
    bench.no_event();
    assert_eq!((bench.ua.counters().unknown_dialog, bench.ua.counters().stray_acks), (3, 1));
}

#[test]
fn byes_that_cross_are_both_answered() {
    let mut bench = Bench::new();
    let (_, _, dialog) = established(&mut bench);
    let bye = bench.ua.send_in_dialog(bench.now, &dialog, Method::Bye, Headers::new(), None).unwrap();
    let request = bench.sent_request(Method::Bye);
    bench.receive(&from_callee(&dialog, "BYE", 1));
    bench.sent_response(200);
    bench.no_event();
    bench.receive(&answer(&request, 481, "", &[]));
    assert!(matches!(bench.event(), UaEvent::Finished { client, .. } if client == bye));
    bench.ends_empty();
}

#[test]
fn an_ending_dialog_takes_no_more_requests() {
    let mut bench = Bench::new();
    let (_, _, dialog) = established(&mut bench);
    bench.ua.send_in_dialog(bench.now, &dialog, Method::Bye, Headers::new(), None).unwrap();
    bench.sent();
    for method in [Method::Bye, Method::Invite, Method::Info] {
        let refused = bench.ua.send_in_dialog(bench.now, &dialog, method, Headers::new(), None);
        assert_eq!(refused, Err(SendError::NotConfirmed));
    }
    bench.receive(&from_callee(&dialog, "INFO", 1));
    bench.sent_response(481);
    bench.ends_empty();
}

#[test]
fn an_unanswered_bye_ends_the_dialog_after_timer_f() {
    let mut bench = Bench::new();
    let (_, _, dialog) = established(&mut bench);
    let client = bench.ua.send_in_dialog(bench.now, &dialog, Method::Bye, Headers::new(), None).unwrap();
    bench.run_until(at(32_000));
    assert_eq!(bench.event(), UaEvent::TimedOut { client, dialog: Some(dialog.clone()) });
    assert!(bench.ua.dialog(&dialog).is_none());
    bench.ends_empty();
}

#[test]
fn options_in_a_dialog_is_answered_by_the_agent() {
    let mut bench = Bench::new();
    let (_, ok, _) = accepted(&mut bench);
    bench.receive(&within(&ok, "OPTIONS", 6, "o"));
    bench.sent_response(200);
    bench.no_event();
}

#[test]
fn a_removed_dialog_stops_repeating_its_2xx() {
    let mut bench = Bench::new();
    bench.receive(&incoming("INVITE", ""));
    let UaEvent::Invite { server, .. } = bench.event() else { panic!("an INVITE") };
    let dialog = bench.ua.respond(bench.now, server, reply(200)).unwrap().unwrap();
    bench.sent();
    assert!(bench.ua.remove_dialog(&dialog).is_some());
    bench.pass(100_000);
    assert_eq!(bench.sent(), []);
    bench.ends_empty();
}

#[test]
fn a_peer_that_connects_anew_is_reached_there() {
    let mut config = config();
    config.advertised.push(ours(Transport::Tcp));
    let mut bench = Bench::with(config);
    bench.transport = Transport::Tcp;
    let (_, ok, dialog) = accepted(&mut bench);
    let source = Source { flow: Some(9), ..bench.source("192.0.2.20:40009") };
    bench.ua.handle_message(bench.now, source, &within(&ok, "OPTIONS", 6, "o"));
    assert_eq!(bench.ua.poll_transmit().unwrap().flow, Some(9));
    bench.ua.send_in_dialog(bench.now, &dialog, Method::Bye, Headers::new(), None).unwrap();
    assert_eq!(bench.ua.poll_transmit().unwrap().flow, Some(9));
}
