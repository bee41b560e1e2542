//! Requests of ours: calls, registrations, challenges, CANCEL, forks.

use super::*;

fn call(bench: &mut Bench) -> (ClientId, Request) {
    let call = outgoing(bench, Method::Invite);
    let client = bench.ua.send_request(bench.now, call).unwrap();
    (client, bench.sent_request(Method::Invite))
}

fn register(bench: &mut Bench) -> (ClientId, Request) {
    bench.ua.put_account(AccountId(1), account());
    let request = Outgoing { account: Some(AccountId(1)), ..outgoing(bench, Method::Register) };
    let client = bench.ua.send_request(bench.now, request).unwrap();
    (client, bench.sent_request(Method::Register))
}

#[test]
fn an_invite_carries_what_rfc3261_8_1_1_asks_for() {
    let mut bench = Bench::new();
    let (_, invite) = call(&mut bench);
    let via = invite.headers.top_via().unwrap();
    assert!(via.branch().unwrap().starts_with("z9hG4bK") && via.params.contains("rport"));
    assert_eq!((via.host.to_string().as_str(), via.port), ("192.0.2.10", Some(5060)));
    assert_eq!(invite.headers.max_forwards(), Ok(Some(70)));
    assert!(invite.headers.from().unwrap().tag().is_some_and(|tag| tag.len() >= 8));
    assert_eq!(invite.headers.to().unwrap().tag(), None);
    assert_eq!(invite.headers.cseq().unwrap().number, 1);
    assert_eq!(
        invite.headers.tokens(&HeaderName::Allow),
        ["ACK", "BYE", "CANCEL", "OPTIONS", "INVITE", "INFO", "UPDATE"]
    );
    assert_eq!(
        (invite.headers.content_type().as_deref(), &invite.body[..]),
        (Some("application/sdp"), &b"v=0\r\n"[..])
    );
}

#[test]
fn a_call_rings_is_answered_and_hung_up() {
    let mut bench = Bench::new();
    let (client, invite) = call(&mut bench);
    bench.receive(&answer(&invite, 100, "", &[]));
    bench.no_event();
    bench.receive(&answer_with_contact(&invite, 180, "bt"));
    let UaEvent::Progress { client: ringing, dialog: Some(early), response } = bench.event() else { panic!("ringing") };
    assert_eq!((ringing, response.status.code()), (client, 180));
    bench.receive(&answer_with_contact(&invite, 200, "bt"));
    let ack = bench.sent_request(Method::Ack);
    assert_eq!(ack.uri.to_string(), "sip:bob@192.0.2.20");
    assert_ne!(ack.headers.top_via(), invite.headers.top_via(), "the ACK for a 2xx has a branch of its own");
    assert!(matches!(bench.event(), UaEvent::Answered { dialog, .. } if dialog == early));
    let bye = bench.ua.send_in_dialog(bench.now, &early, Method::Bye, Headers::new(), None).unwrap();
    let request = bench.sent_request(Method::Bye);
    assert_eq!(request.headers.cseq().unwrap().number, 2);
    bench.receive(&answer(&request, 200, "", &[]));
    assert!(matches!(bench.event(), UaEvent::Finished { client, .. } if client == bye));
    assert!(bench.ua.dialog(&early).is_none());
    bench.ends_empty();
}

#[test]
fn an_unanswered_invite_times_out_after_timer_b() {
    let mut bench = Bench::new();
    let (client, _) = call(&mut bench);
    bench.run_until(at(31_999));
    assert_eq!(bench.sent_names(), ["INVITE"; 6]);
    bench.no_event();
    bench.run_until(at(32_000));
    assert_eq!(bench.event(), UaEvent::TimedOut { client, dialog: None });
    assert_eq!(bench.ua.counters().request_repeats_sent, 6);
    bench.ends_empty();
}

#[test]
fn a_refused_invite_is_acknowledged_each_time_and_told_once() {
    let mut bench = Bench::new();
    let (client, invite) = call(&mut bench);
    bench.receive(&answer_with_contact(&invite, 180, "bt"));
    bench.event();
    bench.receive(&answer(&invite, 486, "bt", &[]));
    let ack = bench.sent_request(Method::Ack);
    assert_eq!(ack.headers.top_via(), invite.headers.top_via(), "hop by hop, on the INVITE's branch");
    assert_eq!(ack.headers.to().unwrap().tag(), Some("bt"));
    assert!(
        matches!(bench.event(), UaEvent::Finished { client: done, response, .. } if done == client && response.status.code() == 486)
    );
    assert_eq!(bench.ua.dialogs().count(), 0, "the early dialog went with it");
    bench.receive(&answer(&invite, 486, "bt", &[]));
    assert_eq!(bench.sent_request(Method::Ack), ack);
    bench.no_event();
    bench.ends_empty();
}

#[test]
fn a_repeated_2xx_gets_the_same_ack_again() {
    let mut bench = Bench::new();
    let (_, invite) = call(&mut bench);
    bench.receive(&answer_with_contact(&invite, 200, "bt"));
    let ack = bench.sent_request(Method::Ack);
    bench.event();
    bench.pass(500);
    bench.receive(&answer_with_contact(&invite, 200, "bt"));
    assert_eq!(bench.sent_request(Method::Ack), ack);
    bench.no_event();
}

#[test]
fn a_2xx_that_repeats_after_a_restart_is_acknowledged_from_the_journal() {
    let mut bench = Bench::new();
    let (_, invite, dialog) = established(&mut bench);
    let json = serde_json::to_string(bench.ua.dialog(&dialog).unwrap()).unwrap();
    let mut bench = Bench::new();
    bench.ua.restore_dialog(serde_json::from_str(&json).unwrap(), false);
    bench.receive(&answer_with_contact(&invite, 200, "bt"));
    let ack = bench.sent_request(Method::Ack);
    assert_eq!(ack.headers.cseq().unwrap().number, 1);
    bench.receive(&answer_with_contact(&invite, 200, "unknown"));
    assert_eq!(bench.sent(), []);
    let bye = bench.ua.send_in_dialog(bench.now, &dialog, Method::Bye, Headers::new(), None);
    assert!(bye.is_ok());
    bench.ends_empty();
}

#[test]
fn forks_make_early_dialogs_and_a_second_2xx_is_ended() {
    let mut bench = Bench::new();
    let (client, invite) = call(&mut bench);
    for tag in ["one", "two", "three"] {
        bench.receive(&answer_with_contact(&invite, 180, tag));
        bench.event();
    }
    assert_eq!(bench.ua.dialogs().count(), 3);
    bench.receive(&answer_with_contact(&invite, 200, "two"));
    bench.sent_request(Method::Ack);
    let UaEvent::Answered { dialog: kept, .. } = bench.event() else { panic!("answered") };
    assert_eq!(kept.remote_tag, "two");
    bench.receive(&answer_with_contact(&invite, 200, "one"));
    let sent = bench.sent();
    let [Message::Request(ack), Message::Request(bye)] = &sent[..] else { panic!("{sent:?}") };
    assert_eq!((&ack.method, &bye.method), (&Method::Ack, &Method::Bye));
    assert_eq!(bye.headers.to().unwrap().tag(), Some("one"));
    assert!(
        matches!(bench.event(), UaEvent::ForkEnded { client: of, dialog } if of == client && dialog.remote_tag == "one")
    );
    bench.receive(&answer(bye, 200, "", &[]));
    bench.no_event();
    bench.pass(40_000);
    let left: Vec<&Dialog> = bench.ua.dialogs().collect();
    assert_eq!(left.len(), 1, "the fork that never answered is forgotten");
    assert_eq!(left[0].id, kept);
}

#[test]
fn forks_beyond_the_limit_are_counted_and_make_no_dialog() {
    let mut bench = Bench::new();
    let (_, invite) = call(&mut bench);
    for number in 0..20 {
        bench.receive(&answer_with_contact(&invite, 180, &format!("f{number}")));
    }
    assert_eq!(bench.ua.dialogs().count(), 16);
    assert_eq!(bench.ua.counters().forks_ignored, 4);
}

#[test]
fn a_2xx_of_a_fork_beyond_the_limit_takes_the_place_of_an_early_one() {
    let mut bench = Bench::new();
    let (client, invite) = call(&mut bench);
    for number in 0..16 {
        bench.receive(&answer_with_contact(&invite, 180, &format!("f{number}")));
        bench.event();
    }
    bench.receive(&answer_with_contact(&invite, 200, "late"));
    bench.sent_request(Method::Ack);
    let UaEvent::Answered { client: of, dialog, .. } = bench.event() else { panic!("answered") };
    assert_eq!((of, dialog.remote_tag.as_str()), (client, "late"));
    assert_eq!(bench.ua.dialogs().count(), 16);
    // Whatever answers now is ended, up to the limit: a peer that makes up tags gets no BYE for each.
    for number in 0..20 {
        bench.receive(&answer_with_contact(&invite, 200, &format!("g{number}")));
        while bench.ua.poll_event().is_some() {}
    }
    let byes = bench.sent_names().into_iter().filter(|name| name == "BYE").count();
    assert_eq!(byes, 15);
    bench.ua.remove_dialog(&dialog);
    bench.ends_empty();
}

#[test]
fn a_2xx_with_an_unreadable_route_set_is_acknowledged_ended_and_told() {
    let mut bench = Bench::new();
    let (client, invite) = call(&mut bench);
    let routes = [(HeaderName::Contact, "<sip:bob@192.0.2.20>"), (HeaderName::RecordRoute, "<sip:192.0.2.30")];
    bench.receive(&answer(&invite, 200, "bt", &routes));
    let sent = bench.sent();
    let [Message::Request(ack), Message::Request(bye)] = &sent[..] else { panic!("{sent:?}") };
    assert_eq!((&ack.method, &bye.method), (&Method::Ack, &Method::Bye));
    assert_eq!(bye.uri.to_string(), "sip:bob@192.0.2.20");
    assert_eq!(bench.event(), UaEvent::Unusable { client });
    bench.receive(&answer(&invite, 200, "bt", &routes));
    assert_eq!(bench.sent_names(), ["ACK"]);
    bench.no_event();
    bench.ends_empty();
}

#[test]
fn a_2xx_whose_contact_names_a_transport_that_we_lack_is_acknowledged_where_the_invite_went() {
    for contact in ["<sip:bob@192.0.2.66;transport=tls>", "<sips:bob@192.0.2.66>", "<sip:bob@192.0.2.66;transport=ws>"]
    {
        let mut bench = Bench::new();
        let (_, invite) = call(&mut bench);
        let ok = answer(&invite, 200, "bt", &[(HeaderName::Contact, contact)]);
        bench.receive(&ok);
        let transmit = bench.ua.poll_transmit().expect("an ACK");
        assert_eq!((transmit.transport, transmit.remote), (Transport::Udp, PEER.parse().unwrap()), "{contact}");
        let UaEvent::Answered { dialog, .. } = bench.event() else { panic!("answered") };
        bench.receive(&ok);
        assert_eq!(bench.sent_names(), ["ACK"], "a repeat is no second fork");
        bench.no_event();
        bench.ua.send_in_dialog(bench.now, &dialog, Method::Bye, Headers::new(), None).unwrap();
        assert_eq!(bench.ua.poll_transmit().unwrap().remote, PEER.parse().unwrap());
        bench.ends_empty();
    }
}

#[test]
fn a_2xx_that_cannot_be_acknowledged_fails_the_request_once() {
    let mut bench = Bench::new();
    let (client, invite) = call(&mut bench);
    bench.receive(&answer_with_contact(&invite, 180, "bt"));
    let UaEvent::Progress { dialog: Some(early), .. } = bench.event() else { panic!("ringing") };
    let lost = Target { transport: Transport::Tls, ..bench.target() };
    assert!(bench.ua.set_destination(&early, lost));
    for _ in 0..2 {
        bench.receive(&answer(&invite, 200, "bt", &[]));
        assert_eq!(bench.sent(), []);
    }
    assert_eq!(bench.event(), UaEvent::Unusable { client });
    assert!(bench.ua.dialog(&early).is_none());
    bench.ends_empty();
}

#[test]
fn a_dialog_of_an_invite_that_took_tcp_for_its_length_goes_on_by_udp() {
    let mut config = config();
    config.advertised.push(ours(Transport::Tcp));
    let mut bench = Bench::with(config);
    let mut long = outgoing(&bench, Method::Invite);
    long.content = Some(Content::new("application/sdp", vec![b'x'; 1_200]));
    bench.ua.send_request(bench.now, long).unwrap();
    let transmit = bench.ua.poll_transmit().unwrap();
    assert_eq!(transmit.transport, Transport::Tcp);
    let Ok(Message::Request(invite)) = parser::parse(&transmit.bytes) else { panic!("an INVITE") };
    bench.receive(&answer_with_contact(&invite, 200, "bt"));
    assert_eq!(bench.ua.poll_transmit().unwrap().transport, Transport::Udp, "ACK");
    let UaEvent::Answered { dialog, .. } = bench.event() else { panic!("answered") };
    bench.ua.send_in_dialog(bench.now, &dialog, Method::Bye, Headers::new(), None).unwrap();
    assert_eq!(bench.ua.poll_transmit().unwrap().transport, Transport::Udp, "BYE");
}

#[test]
fn cancel_waits_for_a_provisional_answer() {
    let mut bench = Bench::new();
    let (client, invite) = call(&mut bench);
    bench.ua.cancel(bench.now, client, Headers::new());
    assert_eq!(bench.sent(), []);
    bench.receive(&answer(&invite, 100, "", &[]));
    let cancel = bench.sent_request(Method::Cancel);
    assert_eq!(cancel.headers.top_via(), invite.headers.top_via());
    assert_eq!(cancel.headers.cseq().unwrap().number, 1);
    assert_eq!(cancel.uri, invite.uri);
    bench.receive(&answer(&cancel, 200, "bt", &[]));
    bench.receive(&answer(&invite, 487, "bt", &[]));
    bench.sent_request(Method::Ack);
    assert!(
        matches!(bench.event(), UaEvent::Finished { client: done, response, .. } if done == client && response.status.code() == 487)
    );
    bench.ends_empty();
}

#[test]
fn cancel_that_never_hears_a_provisional_answer_ends_with_timer_b() {
    let mut bench = Bench::new();
    let (client, _) = call(&mut bench);
    bench.ua.cancel(bench.now, client, Headers::new());
    bench.run_until(at(32_000));
    assert_eq!(bench.event(), UaEvent::TimedOut { client, dialog: None });
    bench.ends_empty();
}

#[test]
fn a_cancelled_invite_without_final_answer_ends_after_64_t1() {
    let mut bench = Bench::new();
    let (client, invite) = call(&mut bench);
    bench.receive(&answer_with_contact(&invite, 180, "bt"));
    bench.event();
    bench.pass(1_000);
    let mut reason = Headers::new();
    reason.push(HeaderName::Reason, "SIP;cause=487");
    reason.push(HeaderName::Via, "SIP/2.0/UDP evil");
    bench.ua.cancel(bench.now, client, reason);
    bench.ua.cancel(bench.now, client, Headers::new());
    let cancel = bench.sent_request(Method::Cancel);
    assert_eq!(cancel.headers.value(&HeaderName::Reason), Some("SIP;cause=487"));
    assert_eq!(cancel.headers.values(&HeaderName::Via).count(), 1);
    bench.run_until(at(32_999));
    bench.no_event();
    bench.run_until(at(33_000));
    assert_eq!(bench.event(), UaEvent::TimedOut { client, dialog: None });
    bench.ends_empty();
}

#[test]
fn a_2xx_that_crosses_cancel_gets_ack_and_bye() {
    let mut bench = Bench::new();
    let (client, invite) = call(&mut bench);
    bench.receive(&answer_with_contact(&invite, 180, "bt"));
    bench.event();
    bench.ua.cancel(bench.now, client, Headers::new());
    bench.sent_request(Method::Cancel);
    bench.receive(&answer_with_contact(&invite, 200, "bt"));
    assert_eq!(bench.sent_names(), ["ACK", "BYE"]);
    assert_eq!(bench.event(), UaEvent::CrossedCancel { client });
    bench.receive(&answer_with_contact(&invite, 200, "bt"));
    assert_eq!(bench.sent_names(), ["ACK"], "no second BYE");
    bench.ends_empty();
}

#[test]
fn cancel_after_the_answer_does_nothing() {
    let mut bench = Bench::new();
    let (client, _, dialog) = established(&mut bench);
    bench.ua.cancel(bench.now, client, Headers::new());
    assert_eq!(bench.sent(), []);
    assert!(bench.ua.dialog(&dialog).is_some());
}

#[test]
fn an_invite_from_the_journal_is_cancelled_on_its_branch_and_a_late_2xx_ended() {
    let mut bench = Bench::new();
    let (client, invite) = call(&mut bench);
    bench.receive(&answer_with_contact(&invite, 180, "bt"));
    let json = serde_json::to_string(&bench.ua.pending_invite(client).unwrap()).unwrap();
    let mut bench = Bench::new();
    let client = bench.ua.restore_invite(bench.now, &serde_json::from_str(&json).unwrap()).unwrap();
    let cancel = bench.sent_request(Method::Cancel);
    assert_eq!(cancel.headers.top_via(), invite.headers.top_via());
    bench.receive(&answer_with_contact(&invite, 200, "bt"));
    assert_eq!(bench.sent_names(), ["ACK", "BYE"]);
    assert_eq!(bench.event(), UaEvent::CrossedCancel { client });
    bench.ends_empty();
}

#[test]
fn a_challenge_is_answered_and_the_outcome_told_once() {
    let mut bench = Bench::new();
    let (client, first) = register(&mut bench);
    bench.receive(&challenge(&first, "n1"));
    let second = bench.sent_request(Method::Register);
    bench.no_event();
    assert_eq!(second.headers.cseq().unwrap().number, 2);
    assert_eq!(second.headers.call_id(), first.headers.call_id());
    assert_eq!(second.headers.from(), first.headers.from());
    assert_ne!(second.headers.top_via(), first.headers.top_via());
    assert!(second.headers.value(&HeaderName::Authorization).unwrap().contains("nonce=\"n1\""));
    bench.receive(&answer(&second, 200, "t", &[(HeaderName::Expires, "60")]));
    let UaEvent::Finished { client: done, response, .. } = bench.event() else { panic!("finished") };
    assert_eq!((done, response.headers.expires_s()), (client, Some(60)));
    assert_eq!(response.headers.cseq().unwrap().number, 2);
    // The refresh carries credentials at once.
    let refresh = Outgoing { account: Some(AccountId(1)), cseq: Some(3), ..outgoing(&bench, Method::Register) };
    bench.ua.send_request(bench.now, refresh).unwrap();
    let refresh = bench.sent_request(Method::Register);
    assert!(refresh.headers.value(&HeaderName::Authorization).unwrap().contains("nc=00000002"));
    bench.ends_empty();
}

#[test]
fn refused_credentials_are_no_retry_storm() {
    let mut bench = Bench::new();
    let (client, mut request) = register(&mut bench);
    bench.receive(&challenge(&request, "n1"));
    request = bench.sent_request(Method::Register);
    bench.receive(&challenge(&request, "n2"));
    assert_eq!(bench.sent(), []);
    assert!(
        matches!(bench.event(), UaEvent::Finished { client: done, response, .. } if done == client && response.status.code() == 401)
    );
    assert_eq!(bench.ua.counters().challenges_refused, 1);
    bench.ends_empty();
}

#[test]
fn a_challenged_invite_is_acknowledged_and_sent_again_with_the_same_id() {
    let mut bench = Bench::new();
    bench.ua.put_account(AccountId(1), account());
    let invite = Outgoing { account: Some(AccountId(1)), ..outgoing(&bench, Method::Invite) };
    let client = bench.ua.send_request(bench.now, invite).unwrap();
    let first = bench.sent_request(Method::Invite);
    bench.receive(&challenge(&first, "n1"));
    let sent = bench.sent();
    let [Message::Request(ack), Message::Request(second)] = &sent[..] else { panic!("{sent:?}") };
    assert_eq!((&ack.method, &second.method), (&Method::Ack, &Method::Invite));
    assert_eq!((&second.body, second.headers.cseq().unwrap().number), (&first.body, 2));
    // A repeat of the challenge is acknowledged, no more.
    bench.receive(&challenge(&first, "n1"));
    assert_eq!(bench.sent_names(), ["ACK"]);
    bench.receive(&answer_with_contact(second, 200, "bt"));
    let ack = bench.sent_request(Method::Ack);
    assert_eq!(ack.headers.value(&HeaderName::Authorization), second.headers.value(&HeaderName::Authorization));
    let UaEvent::Answered { client: done, dialog, .. } = bench.event() else { panic!("answered") };
    assert_eq!(done, client);
    // BYE is challenged in the dialog, by the account's target.
    let bye = bench.ua.send_in_dialog(bench.now, &dialog, Method::Bye, Headers::new(), None).unwrap();
    let request = bench.sent_request(Method::Bye);
    bench.receive(&challenge(&request, "n2"));
    let again = bench.sent_request(Method::Bye);
    assert_eq!(again.headers.cseq().unwrap().number, 4);
    bench.receive(&answer(&again, 200, "", &[]));
    assert!(matches!(bench.event(), UaEvent::Finished { client, .. } if client == bye));
    bench.ends_empty();
}

#[test]
fn a_challenge_by_a_peer_that_is_not_the_target_gets_no_digest() {
    let mut bench = Bench::new();
    bench.ua.put_account(AccountId(1), account());
    let invite = Outgoing { account: Some(AccountId(1)), ..outgoing(&bench, Method::Invite) };
    bench.ua.send_request(bench.now, invite).unwrap();
    let invite = bench.sent_request(Method::Invite);
    bench.receive(&answer(&invite, 200, "bt", &[(HeaderName::Contact, "<sip:bob@192.0.2.66:5099>")]));
    bench.sent_request(Method::Ack);
    let UaEvent::Answered { dialog, .. } = bench.event() else { panic!("answered") };
    bench.ua.send_in_dialog(bench.now, &dialog, Method::Bye, Headers::new(), None).unwrap();
    let bye = bench.sent_request(Method::Bye);
    bench.receive_from("192.0.2.66:5099", &challenge(&bye, "n"));
    assert_eq!(bench.sent(), []);
    assert!(matches!(bench.event(), UaEvent::Finished { response, .. } if response.status.code() == 401));
    assert_eq!(bench.ua.counters().challenges_refused, 1);
    bench.ends_empty();
}

#[test]
fn stray_and_forged_responses_are_dropped_and_counted() {
    let mut bench = Bench::new();
    let (_, invite) = call(&mut bench);
    let mut other = invite.clone();
    other.headers.set(HeaderName::Via, "SIP/2.0/UDP 192.0.2.10:5060;branch=z9hG4bKguess");
    bench.receive(&answer_with_contact(&other, 200, "bt"));
    let mut other = invite.clone();
    other.headers.set(HeaderName::From, "<sip:alice@example.com>;tag=guess");
    bench.receive(&answer_with_contact(&other, 200, "bt"));
    let mut other = invite.clone();
    other.headers.push(HeaderName::Via, "SIP/2.0/UDP 192.0.2.99;branch=z9hG4bKz");
    bench.receive(&answer_with_contact(&other, 200, "bt"));
    bench.no_event();
    assert_eq!(bench.sent(), []);
    assert_eq!(bench.ua.counters().stray_responses, 3);
}

#[test]
fn a_broken_transport_fails_what_has_heard_nothing() {
    let mut config = config();
    config.advertised.push(ours(Transport::Tcp));
    let mut bench = Bench::with(config);
    bench.transport = Transport::Tcp;
    let (first, invite) = call(&mut bench);
    bench.receive(&answer_with_contact(&invite, 180, "bt"));
    bench.event();
    let (second, _) = call(&mut bench);
    bench.ua.handle_transport_error(bench.now, Transport::Tcp, PEER.parse().unwrap(), None);
    assert_eq!(bench.event(), UaEvent::TransportFailed { client: second, dialog: None });
    assert!(bench.ua.pending_invite(first).is_some(), "a peer that rings may answer over a new connection");
}

#[test]
fn a_request_too_long_for_a_datagram_goes_by_tcp_and_back_to_udp_when_that_fails() {
    let mut config = config();
    config.advertised.push(ours(Transport::Tcp));
    let mut bench = Bench::with(config);
    let mut long = outgoing(&bench, Method::Invite);
    let shorter = vec![vec![b'x'; 300]];
    long.content = Some(Content { shorter, ..Content::new("application/sdp", vec![b'x'; 1_200]) });
    let client = bench.ua.send_request(bench.now, long).unwrap();
    let transmit = bench.ua.poll_transmit().unwrap();
    assert_eq!(transmit.transport, Transport::Tcp);
    assert!(String::from_utf8_lossy(&transmit.bytes).contains("Via: SIP/2.0/TCP "));
    bench.ua.handle_transport_error(bench.now, Transport::Tcp, PEER.parse().unwrap(), None);
    bench.check();
    let transmit = bench.ua.poll_transmit().unwrap();
    assert_eq!(transmit.transport, Transport::Udp);
    assert!(String::from_utf8_lossy(&transmit.bytes).contains("Via: SIP/2.0/UDP "));
    assert_eq!(bench.event(), UaEvent::Shortened { client, body: 1 });
    bench.run_until(at(32_000));
    assert_eq!(bench.event(), UaEvent::TimedOut { client, dialog: None });
    bench.ends_empty();
}

#[test]
fn a_peer_without_tcp_is_remembered_for_a_while() {
    let mut config = config();
    config.advertised.push(ours(Transport::Tcp));
    config.stream_retry = Duration::from_secs(60);
    let mut bench = Bench::with(config);
    let send = |bench: &mut Bench| {
        let mut long = outgoing(bench, Method::Options);
        long.content = Some(Content::new("text/plain", vec![b'x'; 1_200]));
        while bench.ua.poll_transmit().is_some() {}
        bench.ua.send_request(bench.now, long).unwrap();
        bench.ua.poll_transmit().unwrap()
    };
    let first = send(&mut bench);
    assert_eq!((first.transport, first.connect_within), (Transport::Tcp, Some(Duration::from_secs(1))));
    bench.ua.handle_transport_error(bench.now, Transport::Tcp, PEER.parse().unwrap(), None);
    let again = bench.ua.poll_transmit().unwrap();
    assert_eq!((again.transport, again.connect_within), (Transport::Udp, None));
    assert_eq!(send(&mut bench).transport, Transport::Udp, "without another try");
    bench.run_until(at(60_000));
    assert_eq!(send(&mut bench).transport, Transport::Tcp, "it may have TCP by now");
}

#[test]
fn what_cannot_be_sent_says_why() {
    let mut config = config();
    config.max_transactions = 1;
    let mut bench = Bench::with(config);
    for method in [Method::Ack, Method::Cancel, Method::Bye] {
        let request = outgoing(&bench, method);
        assert_eq!(bench.ua.send_request(bench.now, request), Err(SendError::Method));
    }
    let request = Outgoing { contact: None, ..outgoing(&bench, Method::Invite) };
    assert_eq!(bench.ua.send_request(bench.now, request), Err(SendError::NoContact));
    for (transport, remote) in [(Transport::Tls, PEER), (Transport::Udp, "[2001:db8::1]:5060")] {
        let target = Target { transport, remote: remote.parse().unwrap(), flow: None };
        let request = Outgoing { target, ..outgoing(&bench, Method::Options) };
        assert_eq!(bench.ua.send_request(bench.now, request), Err(SendError::NoLocalAddress));
    }
    call(&mut bench);
    let request = outgoing(&bench, Method::Options);
    assert_eq!(bench.ua.send_request(bench.now, request), Err(SendError::Full));
    bench.ends_empty();
}

#[test]
fn the_owner_cannot_smuggle_headers_that_the_agent_writes() {
    let mut bench = Bench::new();
    let mut request = outgoing(&bench, Method::Options);
    request.headers.push(HeaderName::Via, "SIP/2.0/UDP evil");
    request.headers.push(HeaderName::CallId, "second");
    request.headers.push(HeaderName::Subject, "hello");
    bench.ua.send_request(bench.now, request).unwrap();
    let sent = bench.sent_request(Method::Options);
    assert_eq!(sent.headers.values(&HeaderName::Via).count(), 1);
    assert!(sent.headers.call_id().is_ok());
    assert_eq!(sent.headers.value(&HeaderName::Subject), Some("hello"));
}

#[test]
fn a_2xx_that_repeats_after_the_hangup_makes_no_new_dialog() {
    let mut bench = Bench::new();
    let (_, invite, dialog) = established(&mut bench);
    bench.ua.send_in_dialog(bench.now, &dialog, Method::Bye, Headers::new(), None).unwrap();
    let bye = bench.sent_request(Method::Bye);
    bench.receive(&answer(&bye, 200, "", &[]));
    bench.event();
    bench.receive(&answer_with_contact(&invite, 200, "bt"));
    bench.sent_request(Method::Ack);
    bench.no_event();
    assert_eq!(bench.ua.dialogs().count(), 0);
    bench.ends_empty();
}

#[test]
fn a_2xx_of_an_early_dialog_that_was_forgotten_is_acknowledged() {
    let mut bench = Bench::new();
    let (_, invite) = call(&mut bench);
    bench.receive(&answer_with_contact(&invite, 180, "bt"));
    let UaEvent::Progress { dialog: Some(early), .. } = bench.event() else { panic!("ringing") };
    bench.ua.remove_dialog(&early);
    bench.receive(&answer_with_contact(&invite, 200, "bt"));
    bench.sent_request(Method::Ack);
    assert!(matches!(bench.event(), UaEvent::Answered { dialog, .. } if dialog == early));
}
