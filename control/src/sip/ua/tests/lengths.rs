//! Requests that are too long for a datagram, with bodies that say less.

use super::*;

/// The limit in force.
const LIMIT: usize = 1_300;

fn with_tcp() -> Bench {
    let mut config = config();
    config.advertised.push(ours(Transport::Tcp));
    Bench::with(config)
}

/// Bodies of these lengths, the longest first.
fn content(lens: &[usize]) -> Option<Content> {
    let bodies: Vec<Vec<u8>> = lens.iter().map(|len| vec![b'x'; *len]).collect();
    Some(Content { shorter: bodies[1..].to_vec(), ..Content::new("application/sdp", bodies[0].clone()) })
}

/// The next message, its transport and its length.
fn next(bench: &mut Bench) -> (Transport, Request, usize) {
    let transmit = bench.ua.poll_transmit().expect("something to send");
    let Ok(Message::Request(request)) = parser::parse(&transmit.bytes) else { panic!("a request") };
    (transmit.transport, request, transmit.bytes.len())
}

fn send(bench: &mut Bench, lens: &[usize]) -> ClientId {
    let invite = Outgoing { content: content(lens), ..outgoing(bench, Method::Invite) };
    bench.ua.send_request(bench.now, invite).unwrap()
}

#[test]
fn without_tcp_the_first_body_that_fits_is_sent() {
    let mut bench = Bench::new();
    let client = send(&mut bench, &[1_500, 1_100, 700, 300]);
    let (transport, invite, len) = next(&mut bench);
    assert_eq!((transport, invite.body.len()), (Transport::Udp, 700));
    assert!(len <= LIMIT, "{len}");
    assert_eq!(bench.event(), UaEvent::Shortened { client, body: 2 });
    assert_eq!(bench.ua.long_requests().shortened, 1);
    let short = send(&mut bench, &[600, 300]);
    assert_eq!(next(&mut bench).1.body.len(), 600, "what fits stays whole");
    bench.no_event();
    assert_ne!(client, short);
}

#[test]
fn a_request_of_udp_only_is_never_tried_by_tcp_nor_is_its_dialog_and_others_to_that_peer_are() {
    let mut bench = with_tcp();
    let invite = Outgoing { content: content(&[1_500, 700]), udp_only: true, ..outgoing(&bench, Method::Invite) };
    let client = bench.ua.send_request(bench.now, invite).unwrap();
    let (transport, invite, len) = next(&mut bench);
    assert_eq!((transport, invite.body.len()), (Transport::Udp, 700));
    assert!(len <= LIMIT);
    assert_eq!(bench.event(), UaEvent::Shortened { client, body: 1 });
    assert_eq!(bench.ua.long_requests(), &LongRequests { shortened: 1, ..LongRequests::default() });
    send(&mut bench, &[1_500, 700]);
    assert_eq!(next(&mut bench).0, Transport::Tcp, "nothing is remembered of the peer");
    bench.receive(&answer_with_contact(&invite, 200, "bt"));
    let UaEvent::Answered { dialog, .. } = bench.event() else { panic!("answered") };
    bench.sent();
    let reinvite = bench.ua.send_in_dialog(bench.now, &dialog, Method::Invite, Headers::new(), content(&[1_500, 500]));
    assert_eq!(next(&mut bench).0, Transport::Udp);
    assert_eq!(bench.event(), UaEvent::Shortened { client: reinvite.unwrap(), body: 1 });
}

#[test]
fn a_dialog_that_is_held_to_udp_is_so_until_it_ends() {
    let mut bench = with_tcp();
    let (_, _, dialog) = established(&mut bench);
    bench.ua.hold_to_udp(&dialog);
    let reinvite = bench.ua.send_in_dialog(bench.now, &dialog, Method::Invite, Headers::new(), content(&[1_500, 500]));
    assert_eq!(next(&mut bench).0, Transport::Udp);
    assert_eq!(bench.event(), UaEvent::Shortened { client: reinvite.unwrap(), body: 1 });
}

#[test]
fn credentials_that_leave_no_room_for_the_shortest_are_its_end_and_not_the_challenge() {
    let mut bench = Bench::new();
    bench.ua.put_account(AccountId(1), account());
    let invite =
        Outgoing { content: content(&[850, 849]), account: Some(AccountId(1)), ..outgoing(&bench, Method::Invite) };
    let client = bench.ua.send_request(bench.now, invite).unwrap();
    let (_, first, _) = next(&mut bench);
    bench.receive(&challenge(&first, "n1"));
    assert_eq!(next(&mut bench).1.method, Method::Ack);
    assert!(bench.sent().is_empty());
    assert_eq!(bench.event(), UaEvent::TooLong { client, dialog: None });
    bench.ends_empty();
}

#[test]
fn the_whole_goes_by_tcp_and_shortened_by_udp_when_that_is_refused() {
    let mut bench = with_tcp();
    let client = send(&mut bench, &[1_500, 700]);
    let (transport, invite, _) = next(&mut bench);
    assert_eq!((transport, invite.body.len()), (Transport::Tcp, 1_500));
    bench.no_event();
    bench.ua.handle_transport_error(bench.now, Transport::Tcp, PEER.parse().unwrap(), None);
    let (transport, invite, len) = next(&mut bench);
    assert_eq!((transport, invite.body.len()), (Transport::Udp, 700));
    assert!(len <= LIMIT);
    assert_eq!(bench.event(), UaEvent::Shortened { client, body: 1 });
    let expected = LongRequests { by_tcp: 1, tcp_failed: 1, shortened: 1, ..LongRequests::default() };
    assert_eq!(bench.ua.long_requests(), &expected);
}

/// Something took the connection, as firewalls do, and no SIP server is behind it.
#[test]
fn an_invite_by_tcp_that_nobody_answers_goes_shortened_by_udp_and_the_peer_is_remembered() {
    let mut bench = with_tcp();
    let client = send(&mut bench, &[1_500, 700]);
    assert_eq!(next(&mut bench).0, Transport::Tcp);
    bench.run_until(at(2_999));
    assert!(bench.sent().is_empty());
    bench.run_until(at(3_000));
    let (transport, invite, len) = next(&mut bench);
    assert_eq!((transport, invite.body.len()), (Transport::Udp, 700));
    assert!(len <= LIMIT);
    assert_eq!(bench.event(), UaEvent::Shortened { client, body: 1 });
    bench.receive(&answer_with_contact(&invite, 200, "bt"));
    assert!(matches!(bench.event(), UaEvent::Answered { client: of, .. } if of == client));
    bench.sent();
    send(&mut bench, &[1_500, 700]);
    assert_eq!(next(&mut bench).0, Transport::Udp, "without another try");
}

#[test]
fn any_answer_by_tcp_keeps_the_call_there() {
    let mut bench = with_tcp();
    send(&mut bench, &[1_500, 700]);
    let (_, invite, _) = next(&mut bench);
    bench.receive(&answer(&invite, 100, "", &[]));
    bench.run_until(at(20_000));
    assert!(bench.sent().is_empty());
    bench.no_event();
}

#[test]
fn a_call_that_was_given_up_is_not_made_again_by_udp() {
    let mut bench = with_tcp();
    let client = send(&mut bench, &[1_500, 700]);
    next(&mut bench);
    bench.ua.cancel(bench.now, client, Headers::new());
    bench.run_until(at(31_000));
    assert!(bench.sent().is_empty());
}

#[test]
fn credentials_that_leave_no_room_shorten_the_request_that_has_them() {
    let mut bench = Bench::new();
    bench.ua.put_account(AccountId(1), account());
    let invite =
        Outgoing { content: content(&[850, 600]), account: Some(AccountId(1)), ..outgoing(&bench, Method::Invite) };
    let client = bench.ua.send_request(bench.now, invite).unwrap();
    let (_, first, _) = next(&mut bench);
    assert_eq!(first.body.len(), 850, "without credentials it fits");
    bench.receive(&challenge(&first, "n1"));
    let _ack = next(&mut bench);
    let (transport, second, len) = next(&mut bench);
    assert_eq!((transport, second.body.len()), (Transport::Udp, 600));
    assert!(second.headers.value(&HeaderName::Authorization).is_some() && len <= LIMIT, "{len}");
    assert_eq!(bench.event(), UaEvent::Shortened { client, body: 1 });
    bench.receive(&answer_with_contact(&second, 200, "bt"));
    let UaEvent::Answered { dialog, .. } = bench.event() else { panic!("answered") };
    // A request in the dialog has its own bodies.
    bench.sent();
    let headers = Headers::new();
    let again = bench.ua.send_in_dialog(bench.now, &dialog, Method::Invite, headers, content(&[1_400, 500])).unwrap();
    let (_, reinvite, len) = next(&mut bench);
    assert_eq!(reinvite.body.len(), 500);
    assert!(len <= LIMIT && reinvite.headers.value(&HeaderName::Authorization).is_some(), "{len}");
    assert_eq!(bench.event(), UaEvent::Shortened { client: again, body: 1 });
}

#[test]
fn what_cannot_be_made_short_enough_is_not_sent() {
    let mut bench = Bench::new();
    let invite = Outgoing { content: content(&[1_900, 1_500]), ..outgoing(&bench, Method::Invite) };
    assert_eq!(bench.ua.send_request(bench.now, invite), Err(SendError::TooLong));
    assert!(bench.sent().is_empty());
    assert_eq!(bench.ua.long_requests().refused, 1);
    // Over TCP there is room, until the peer takes none.
    let mut bench = with_tcp();
    let client = send(&mut bench, &[1_900, 1_500]);
    assert_eq!(next(&mut bench).0, Transport::Tcp);
    bench.ua.handle_transport_error(bench.now, Transport::Tcp, PEER.parse().unwrap(), None);
    assert!(bench.sent().is_empty());
    assert_eq!(bench.event(), UaEvent::TooLong { client, dialog: None });
    bench.ends_empty();
}

#[test]
fn an_invite_without_shorter_bodies_is_not_sent_in_fragments() {
    let mut bench = Bench::new();
    let invite = Outgoing { content: content(&[1_500]), ..outgoing(&bench, Method::Invite) };
    assert_eq!(bench.ua.send_request(bench.now, invite), Err(SendError::TooLong));
    assert!(bench.sent().is_empty());
    assert_eq!(bench.ua.long_requests(), &LongRequests { refused: 1, ..LongRequests::default() });
}

#[test]
fn another_request_without_shorter_bodies_goes_as_it_is_and_is_counted() {
    let mut bench = Bench::new();
    let long = Outgoing { content: content(&[1_500]), ..outgoing(&bench, Method::Options) };
    bench.ua.send_request(bench.now, long).unwrap();
    let (transport, request, _) = next(&mut bench);
    assert_eq!((transport, request.body.len()), (Transport::Udp, 1_500));
    assert_eq!(bench.ua.long_requests().as_it_was, 1);
    let mut config = config();
    config.udp_request_limit_bytes = 0;
    let mut bench = Bench::with(config);
    send(&mut bench, &[1_500, 300]);
    assert_eq!(next(&mut bench).1.body.len(), 1_500, "the operator wants no limit");
    assert_eq!(bench.ua.long_requests(), &LongRequests::default());
}
