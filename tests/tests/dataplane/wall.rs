//! The wall: who may control, what is refused, what a control that comes back finds.

use std::{net::UdpSocket, time::Duration};

use gangway_shared::{
    ids::{EventSeq, Generation, LegId, RelayId},
    rcp::{
        ActAction, ControlMessage, DataplaneMessage, DtmfDigits, ErrorCode, Event, ReapReason, Reply, Request, frame,
    },
};
use gangway_tests::{
    dataplane::{Control, Dataplane, browser_leg, echo_program, engine_name, program, rtp_leg},
    deadline::Deadline,
};

fn id(number: u64) -> RelayId {
    RelayId::new(1, 1, number)
}

fn is_closed(control: &mut Control) -> bool {
    loop {
        match control.next_message() {
            None => return true,
            Some(DataplaneMessage::Event { .. } | DataplaneMessage::Error { .. }) => {}
            Some(other) => panic!("{other:?}"),
        }
    }
}

#[test]
fn the_dataplane_says_who_it_is() {
    let dataplane = Dataplane::start(2, &[]);
    let control = Control::connect(dataplane.socket());
    let hello = &control.greeting;
    assert_eq!((hello.engine.as_deref(), hello.workers, hello.epoch), (Some(engine_name()), Some(2), 0));
    assert_eq!(hello.webrtc, dataplane.webrtc);
    assert!(hello.capabilities.iter().any(|name| name == "ice_dtls"));
}

/// Limits are settings; what is over them is refused with `full`, counted, and harms nobody who is there.
#[test]
fn a_limit_that_is_reached_is_a_counted_refusal() {
    let dataplane = Dataplane::start(1, &["dataplane_legs_max=3", "dataplane_requests_max=2"]);
    let mut control = dataplane.control(1);
    let two_legs = || program(vec![browser_leg(0, None), rtp_leg(1, None)], vec![]);
    control.put(id(1), 1, two_legs()).unwrap();
    let error = control.put(id(2), 1, two_legs()).unwrap_err();
    assert_eq!((error.code, error.field.as_str(), error.retryable), (ErrorCode::Full, "program.legs", true));
    control.put(id(3), 1, echo_program(None)).expect("one leg fits");
    assert_eq!(control.node().drops["request_full"], 1);
    assert_eq!((control.node().drops["request_no_ports"], control.node().drops["request_draining"]), (0, 0));
    // Ten questions in one write: the worker has answered few of them when the last is read.
    let mut bytes = Vec::new();
    for number in 0..10 {
        let request = Request::Query { relay: None, from_worker: 0 };
        let mut one = Vec::new();
        frame::encode(&ControlMessage::Request { id: 1000 + number, request }, &mut one).unwrap();
        bytes.extend(one);
    }
    control.send_bytes(&bytes);
    let (mut answered, mut refused) = (0, 0);
    while answered + refused < 10 {
        match control.next_message().expect("the connection lives") {
            DataplaneMessage::Ok { id: 1000.., .. } => answered += 1,
            DataplaneMessage::Error { id: 1000.., error } => {
                assert_eq!(error.code, ErrorCode::Full);
                refused += 1;
            }
            _ => {}
        }
    }
    assert!(answered >= 2 && refused > 0, "{answered} answered, {refused} refused");
    assert_eq!(control.node().drops["request_full"], 1 + refused);
}

#[test]
fn digits_that_are_none_and_durations_out_of_range_are_refused_by_field() {
    let dataplane = Dataplane::start(1, &[]);
    let mut control = dataplane.control(1);
    control.put(id(1), 1, echo_program(None)).unwrap();
    let long = "1".repeat(65);
    let cases = [
        ("", 100, "digits"),
        ("12a", 100, "digits"),
        (&long, 100, "digits"),
        ("1", 39, "duration_ms"),
        ("1", 8001, "duration_ms"),
    ];
    for (digits, duration_ms, field) in cases {
        let action = ActAction::Dtmf { leg: LegId(0), digits: DtmfDigits(digits.to_owned()), duration_ms };
        let error = control.ask(Request::Act { relay: id(1), action_id: 1, action }).unwrap_err();
        assert_eq!((error.code, error.field), (ErrorCode::Invalid, format!("action.{field}")));
    }
}

#[test]
fn the_newest_control_is_obeyed_and_a_lower_epoch_is_refused() {
    let dataplane = Dataplane::start(1, &[]);
    let mut first = dataplane.control(4);
    first.put(id(1), 1, echo_program(None)).unwrap();
    let mut second = dataplane.control(5);
    assert_eq!(second.greeting.epoch, 4, "a control learns the epoch to beat");
    assert_eq!(second.ask(Request::Ping), Ok(Reply::Ping));
    assert!(is_closed(&mut first));
    let mut old = Control::connect(dataplane.socket());
    old.hello(4, None);
    match old.next_message() {
        Some(DataplaneMessage::Error { error, .. }) => assert_eq!(error.code, ErrorCode::OldEpoch),
        other => panic!("{other:?}"),
    }
    assert!(is_closed(&mut old));
    let Ok(Reply::List { relays, more: false }) = second.ask(Request::List { after: None, limit: 10 }) else {
        panic!("the second control goes on")
    };
    assert_eq!(relays.iter().map(|entry| entry.relay).collect::<Vec<_>>(), [id(1)]);
}

#[test]
fn malformed_frames_end_only_their_connection_and_say_why() {
    let dataplane = Dataplane::start(1, &[]);
    let mut good = dataplane.control(1);
    let frames: [&[u8]; 4] = [
        &[0xff, 0xff, 0xff, 0xff],
        b"\0\0\0\x03{}}",
        b"\0\0\0\x02[]",
        b"\0\0\0\x24{\"type\":\"request\",\"id\":1,\"request\":1}",
    ];
    for bytes in frames {
        let mut bad = Control::connect(dataplane.socket());
        bad.send_bytes(bytes);
        match bad.next_message() {
            Some(DataplaneMessage::Error { id: 0, error }) => {
                assert_eq!(error.code, ErrorCode::Invalid);
                assert!(!error.reason.is_empty());
            }
            other => panic!("{bytes:?}: {other:?}"),
        }
        assert!(is_closed(&mut bad));
    }
    assert_eq!(good.ask(Request::Ping), Ok(Reply::Ping));
}

#[test]
fn nothing_is_done_before_hello_and_for_another_protocol() {
    let dataplane = Dataplane::start(1, &[]);
    let mut rude = Control::connect(dataplane.socket());
    let refused = rude.ask(Request::Drain).unwrap_err();
    assert_eq!((refused.code, refused.field.as_str()), (ErrorCode::Invalid, "type"));
    let mut foreign = Control::connect(dataplane.socket());
    let mut hello = foreign.greeting.clone();
    hello.protocol = 99;
    foreign.send(&ControlMessage::Hello(hello));
    match foreign.next_message() {
        Some(DataplaneMessage::Error { error, .. }) => assert_eq!(error.field, "protocol"),
        other => panic!("{other:?}"),
    }
    assert!(!dataplane.control(1).node().draining);
}

#[test]
fn a_put_is_idempotent_and_a_stale_one_is_refused() {
    let dataplane = Dataplane::start(1, &[]);
    let mut control = dataplane.control(1);
    let legs = || program(vec![browser_leg(0, None), rtp_leg(1, None)], Vec::new());
    let reply = control.put(id(1), 2, legs()).unwrap();
    assert_eq!(control.put(id(1), 2, legs()), Ok(reply.clone()));
    let other = || program(vec![browser_leg(0, None), rtp_leg(1, None), rtp_leg(2, None)], Vec::new());
    assert_eq!(control.put(id(1), 2, other()).unwrap_err().code, ErrorCode::Stale);
    assert_eq!(control.put(id(1), 1, other()).unwrap_err().code, ErrorCode::Stale);
    let more = control.put(id(1), 3, other()).unwrap();
    assert_eq!(more.legs[..2], reply.legs[..], "legs that stay keep their place");
    assert_eq!(control.node().media_ports_used, 4);
    let less = control.put(id(1), 4, program(vec![rtp_leg(2, None)], Vec::new())).unwrap();
    assert_eq!(less.legs[0], more.legs[2]);
    assert_eq!((control.node().media_ports_used, control.node().media_ports_quarantined), (2, 2));
    control.delete(id(1));
    control.delete(id(1));
    assert_eq!(control.node().media_ports_used, 0);
}

#[test]
fn refusals_name_the_field_and_leave_nothing_allocated() {
    let dataplane = Dataplane::start(1, &[]);
    let mut control = dataplane.control(1);
    let mut wrong_address = program(vec![rtp_leg(0, None), rtp_leg(1, None)], Vec::new());
    let gangway_shared::rcp::LegKind::Rtp(leg) = &mut wrong_address.legs[1].kind else { panic!("an RTP leg") };
    leg.local_ip = Some("192.0.2.55".parse().unwrap());
    let error = control.put(id(1), 1, wrong_address).unwrap_err();
    assert_eq!((error.code, error.field.as_str()), (ErrorCode::NoAddress, "program.legs[1].local_ip"));
    let wrong_family = program(vec![rtp_leg(0, Some("[::1]:4000".parse().unwrap()))], Vec::new());
    let error = control.put(id(1), 1, wrong_family).unwrap_err();
    assert_eq!((error.code, error.field.as_str()), (ErrorCode::NoAddress, "program.legs[0].remote"));
    let node = control.node();
    assert_eq!((node.relays, node.media_ports_used), (0, 0));
    assert_eq!(
        control.ask(Request::Query { relay: Some(id(1)), from_worker: 0 }).unwrap_err().code,
        ErrorCode::NotFound
    );
}

#[test]
fn ports_that_run_out_are_a_retryable_refusal() {
    let from = UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port() & !1;
    let range = [format!("media_port_from={from}"), format!("media_port_to={}", from + 1)];
    let dataplane = Dataplane::start(1, &[&range[0], &range[1], "media_port_quarantine_ms=0"]);
    let mut control = dataplane.control(1);
    let one = || program(vec![rtp_leg(0, None)], Vec::new());
    control.put(id(1), 1, one()).unwrap();
    let error = control.put(id(2), 1, one()).unwrap_err();
    assert_eq!((error.code, error.retryable), (ErrorCode::NoPorts, true));
    control.delete(id(1));
    control.put(id(2), 1, one()).unwrap();
}

#[test]
fn a_control_that_comes_back_reads_on_where_it_was() {
    let dataplane = Dataplane::start(1, &[]);
    let mut first = dataplane.control(1);
    let instance = first.greeting.instance.clone();
    for number in 1..=3 {
        first.put(id(number), 1, echo_program(None)).unwrap();
        first.delete(id(number));
    }
    let is_stats = |event: &Event| matches!(event, Event::LegStats { .. });
    let (seen, _) = first.wait_event("the first event", is_stats);
    drop(first);
    let mut second = Control::connect(dataplane.socket());
    second.hello(1, Some((instance, seen)));
    let (next, event) = second.wait_event("the event after it", is_stats);
    assert_eq!((next, event.relay()), (EventSeq(seen.0 + 1), Some(id(2))));
    drop(second);
    let mut third = Control::connect(dataplane.socket());
    third.hello(1, Some(("another run".to_owned(), EventSeq(1))));
    third.put(id(9), 1, echo_program(None)).unwrap();
    third.delete(id(9));
    let (_, event) = third.wait_event("what happens now", is_stats);
    assert_eq!((event.relay(), third.gaps().len()), (Some(id(9)), 1), "the gap is told, old events are not");
}

#[test]
fn a_list_is_paged_in_the_order_of_ids() {
    let dataplane = Dataplane::start(2, &[]);
    let mut control = dataplane.control(1);
    for number in [5, 1, 3, 2, 4] {
        control.put(id(number), 7, echo_program(None)).unwrap();
    }
    let mut after = None;
    let mut seen = Vec::new();
    loop {
        let Ok(Reply::List { relays, more }) = control.ask(Request::List { after, limit: 2 }) else {
            panic!("no list")
        };
        assert!(relays.iter().all(|entry| entry.generation == Generation(7) && entry.digest.len() == 16));
        seen.extend(relays.iter().map(|entry| entry.relay));
        after = seen.last().copied();
        if !more {
            break;
        }
    }
    assert_eq!(seen, (1..=5).map(id).collect::<Vec<_>>());
}

#[test]
fn relays_without_control_live_for_their_grace_and_no_longer() {
    let dataplane = Dataplane::start(1, &["orphan_grace_s=1"]);
    let mut control = dataplane.control(1);
    control.put(id(1), 1, program(vec![rtp_leg(0, None)], Vec::new())).unwrap();
    let instance = control.greeting.instance.clone();
    drop(control);
    gangway_tests::deadline::pause(Duration::from_millis(2500));
    let mut control = Control::connect(dataplane.socket());
    control.hello(1, Some((instance, EventSeq(0))));
    control.wait_event(
        "the end of the orphan",
        |event| matches!(event, Event::RelayReaped { relay, reason: ReapReason::Orphaned } if *relay == id(1)),
    );
    Deadline::seconds(5).poll("the ports to come back", || (control.node().media_ports_used == 0).then_some(()));
}

#[test]
fn a_draining_dataplane_takes_no_new_relay_and_keeps_the_old() {
    let dataplane = Dataplane::start(1, &[]);
    let mut control = dataplane.control(1);
    control.put(id(1), 1, echo_program(None)).unwrap();
    assert_eq!(control.ask(Request::Drain), Ok(Reply::Drain));
    let error = control.put(id(2), 1, echo_program(None)).unwrap_err();
    assert_eq!((error.code, error.retryable), (ErrorCode::Draining, true));
    control.put(id(1), 2, program(vec![browser_leg(0, None), rtp_leg(1, None)], Vec::new())).unwrap();
    assert!(control.node().draining);
}

#[test]
fn requests_sent_at_once_are_answered_in_order_for_each_relay() {
    let dataplane = Dataplane::start(1, &[]);
    let mut control = dataplane.control(1);
    let put =
        |generation| Request::Put { relay: id(1), generation: Generation(generation), program: echo_program(None) };
    let requests = [put(1), Request::Delete { relay: id(1) }, put(1), put(1), Request::Delete { relay: id(1) }];
    for (number, request) in requests.into_iter().enumerate() {
        control.send(&ControlMessage::Request { id: 100 + number as u64, request });
    }
    let mut answers = Vec::new();
    while answers.len() < 5 {
        match control.next_message() {
            Some(DataplaneMessage::Ok { id, .. }) => answers.push(id),
            Some(DataplaneMessage::Event { .. }) => {}
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(answers, [100, 101, 102, 103, 104]);
    assert_eq!(control.node().relays, 0);
}

gangway_tests::also_on_epoll!(
    the_dataplane_says_who_it_is,
    a_limit_that_is_reached_is_a_counted_refusal,
    digits_that_are_none_and_durations_out_of_range_are_refused_by_field,
    the_newest_control_is_obeyed_and_a_lower_epoch_is_refused,
    malformed_frames_end_only_their_connection_and_say_why,
    nothing_is_done_before_hello_and_for_another_protocol,
    a_put_is_idempotent_and_a_stale_one_is_refused,
    refusals_name_the_field_and_leave_nothing_allocated,
    ports_that_run_out_are_a_retryable_refusal,
    a_control_that_comes_back_reads_on_where_it_was,
    a_list_is_paged_in_the_order_of_ids,
    relays_without_control_live_for_their_grace_and_no_longer,
    a_draining_dataplane_takes_no_new_relay_and_keeps_the_old,
    requests_sent_at_once_are_answered_in_order_for_each_relay,
);
