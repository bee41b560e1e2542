//! What runs out, what ends, what is refused: each has an outcome, and no port goes deaf.

use std::net::{IpAddr, Ipv4Addr};

use super::*;
use crate::engine::{conformance::ring as engine_with, socket::bind_by_number};

const TINY: EngineSizes = EngineSizes::TINY;

fn engine(sizes: EngineSizes) -> Option<UringEngine> {
    engine_with(sizes, Features::ALL).map(|world| world.0)
}

fn socket() -> UdpSocket {
    let socket = bind_by_number(IpAddr::V4(Ipv4Addr::LOCALHOST));
    socket.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
    socket
}

fn open(engine: &mut UringEngine) -> (PortId, SocketAddr) {
    let socket = socket();
    let at = socket.local_addr().unwrap();
    (engine.open(socket).unwrap(), at)
}

/// A port, its address, its peer, and what was heard of the peer.
struct Line {
    port: PortId,
    at: SocketAddr,
    peer: UdpSocket,
    heard: Vec<u32>,
}

impl Line {
    fn open(engine: &mut UringEngine) -> Self {
        let (port, at) = open(engine);
        Line { port, at, peer: socket(), heard: Vec::new() }
    }

    fn says(&self, number: u32) {
        self.peer.send_to(&number.to_be_bytes(), self.at).unwrap();
    }
}

/// Every buffer is where the engine's records say, each counted for itself.
#[track_caller]
fn assert_kept(engine: &UringEngine) {
    let flights = engine.flights.iter().filter(|flight| flight.packet.is_some()).count();
    let sends: u32 = engine.slots.iter().map(|slot| slot.sends).sum();
    assert_eq!((engine.flying, sends as usize), (flights, flights));
    engine.buffers.assert_whole(flights, engine.provided.there());
}

/// One round that echoes what comes; false when nothing came within the time.
fn echo(engine: &mut UringEngine, lines: &mut [Line], within: Duration) -> bool {
    let mut batch = Batch::new();
    engine.receive(Some(clock::mono() + within), &mut batch);
    let came = !batch.is_empty();
    for done in batch.drain() {
        if let Completion::Received { port, from, buffer, start, len, .. } = done {
            let line = lines.iter_mut().find(|line| line.port == port).expect("a port of the test");
            assert_eq!(from, line.peer.local_addr().unwrap());
            line.heard.push(u32::from_be_bytes(engine.buffer(buffer)[start..start + len].try_into().unwrap()));
            engine.send(Outgoing { port, to: from, buffer, start, len });
        }
    }
    engine.flush();
    assert_kept(engine);
    came
}

#[test]
fn floods_through_queues_of_eight_leave_no_port_deaf_and_lose_nothing() {
    let Some(mut engine) = engine(TINY) else { return };
    let mut lines: Vec<Line> = (0..6).map(|_| Line::open(&mut engine)).collect();
    let mut said = 0;
    for round in 0..10 {
        for line in &lines {
            let peer = line.peer.local_addr().unwrap();
            engine.connect(line.port, (line.port.0 % 2 == round % 2).then_some(peer));
        }
        for number in said..said + 60 {
            lines.iter().for_each(|line| line.says(number));
        }
        said += 60;
        while echo(&mut engine, &mut lines, Duration::from_millis(20)) {}
        for line in &lines {
            let mut bytes = [0; 8];
            for number in said - 60..said {
                let len = line.peer.recv(&mut bytes).expect("the echo of each packet");
                assert_eq!(bytes[..len], number.to_be_bytes());
            }
        }
    }
    for line in &lines {
        assert_eq!(line.heard, (0..said).collect::<Vec<_>>(), "each packet once and in order");
    }
    let counters = engine.counters();
    assert!(counters.out_of_buffers > 0 && counters.submissions_full > 0, "{counters:?}");
    assert_kept(&engine);
    assert_eq!((engine.buffers.in_flight(), engine.deaf.len(), engine.failing.len()), (0, 0, 0));
}

#[test]
fn a_completion_queue_that_overflows_loses_nothing() {
    // Eight completions, and sixty-four buffers whose packets all end at once.
    let Some(mut engine) = engine(EngineSizes { provided: 64, buffers: 128, reserve: 64, ..TINY }) else { return };
    let mut lines: Vec<Line> = (0..40).map(|_| Line::open(&mut engine)).collect();
    for number in 0..50 {
        lines.iter().for_each(|line| line.says(number));
        while echo(&mut engine, &mut lines, Duration::from_millis(20)) {}
    }
    for line in &lines {
        assert_eq!(line.heard, (0..50).collect::<Vec<_>>());
    }
    assert!(engine.counters().completions_full > 0, "{:?}", engine.counters());
    assert_kept(&engine);
}

#[test]
fn a_port_closed_in_the_middle_of_everything_is_reused_only_when_all_of_it_is_over() {
    let Some(mut engine) = engine(EngineSizes { completions: 64, ..TINY }) else { return };
    engine.free.truncate(2);
    for round in 0..50u32 {
        let mut lines = vec![Line::open(&mut engine)];
        if round % 2 == 1 {
            let peer = lines[0].peer.local_addr().unwrap();
            engine.connect(lines[0].port, Some(peer));
        }
        if round % 3 > 0 {
            echo(&mut engine, &mut lines, Duration::ZERO);
        }
        (0..5).for_each(|number| lines[0].says(number));
        if round % 5 > 0 {
            // Echoes are queued and leave, the rest waits in the kernel, in the queues and in the stash.
            echo(&mut engine, &mut lines, Duration::from_millis(20));
        }
        let heard = lines[0].heard.len();
        let socket = engine.close(lines[0].port).expect("it is open");
        assert_eq!(socket.local_addr().unwrap(), lines[0].at);
        drop(socket);
        // Its address is free at once: nothing of the kernel's holds on to the socket.
        drop(UdpSocket::bind(lines[0].at).unwrap());
        for _ in 0..heard {
            lines[0].peer.recv(&mut [0; 8]).expect("what was echoed before left");
        }
        let mut other = vec![Line::open(&mut engine)];
        assert!(!echo(&mut engine, &mut other, Duration::ZERO), "nothing of the closed port comes by the new one");
        other[0].says(7);
        while other[0].heard.is_empty() {
            echo(&mut engine, &mut other, Duration::from_secs(2));
        }
        assert_eq!(other[0].heard, [7]);
        engine.close(other[0].port).unwrap();
        engine.receive(Some(clock::mono()), &mut Batch::new());
        assert_eq!((engine.free.len(), engine.buffers.in_flight()), (2, 0));
        assert_kept(&engine);
    }
}

#[test]
fn a_send_that_fails_is_counted_by_its_class_and_its_buffer_comes_back() {
    let Some(mut engine) = engine(TINY) else { return };
    let (port, at) = open(&mut engine);
    let outcomes = [
        (-libc::EAGAIN, DropReason::SendWouldBlock),
        (-libc::ENOBUFS, DropReason::SendWouldBlock),
        (-libc::EHOSTUNREACH, DropReason::SendUnreachable),
        (-libc::ECONNREFUSED, DropReason::SendRefused),
        (-libc::EPERM, DropReason::SendFailed),
    ];
    for (result, wanted) in outcomes {
        let available = engine.buffers.available();
        let buffer = engine.take_buffer().unwrap();
        engine.flights[buffer.index()] =
            Flight { packet: Some(Outgoing { port, to: at, buffer, start: 64, len: 4 }), is_second: false };
        engine.flying += 1;
        engine.buffers.send(Outgoing { port, to: at, buffer, start: 64, len: 4 });
        engine.buffers.fly(buffer);
        engine.buffers.clear_queue();
        engine.slots[port.0 as usize].sends += 1;
        engine.sent(port.0, u32::try_from(buffer.index()).unwrap(), result);
        let failed = engine.failures.pop();
        assert!(matches!(failed, Some(Completion::Failed { reason, .. }) if reason == wanted), "{failed:?}");
        assert_eq!((engine.buffers.available(), engine.slots[port.0 as usize].sends), (available, 0));
        assert_kept(&engine);
    }
}

#[test]
fn a_receive_that_fails_for_no_passing_reason_is_tried_again_a_moment_later() {
    let Some(mut engine) = engine(TINY) else { return };
    let mut lines = vec![Line::open(&mut engine)];
    echo(&mut engine, &mut lines, Duration::ZERO);
    assert!(engine.disarm(lines[0].port.0));
    // As if the kernel had ended it with an error that nobody expects.
    engine.deaf.clear();
    engine.slots[lines[0].port.0 as usize].pretend_armed();
    engine.over(lines[0].port.0, -libc::EIO);
    assert_eq!((engine.failing.len(), engine.deaf.len(), engine.counters().failed_receives), (1, 0, 1));
    lines[0].says(1);
    while lines[0].heard.is_empty() {
        echo(&mut engine, &mut lines, Duration::from_secs(2));
    }
    assert_eq!(engine.failing.len(), 0);
}

#[test]
fn the_ring_takes_nothing_but_what_the_engine_uses() {
    let Some(mut engine) = engine(TINY) else { return };
    let (port, _) = open(&mut engine);
    engine.receive(Some(clock::mono()), &mut Batch::new());
    let mut byte = [0u8; 1];
    let own = opcode::Write::new(io_uring::types::Fixed(port.0), byte.as_mut_ptr(), 1).build();
    let raw = opcode::Read::new(Fd(0), byte.as_mut_ptr(), 1).build();
    for entry in [opcode::Nop::new().build(), own, raw] {
        // SAFETY: `byte` outlives the operation, which is over when the ring was entered.
        assert!(unsafe { engine.ring.push(&entry.user_data(number(kind::CANCEL, 7, 7))) });
        engine.ring.enter(ring::Wait::NONE).unwrap();
        let done = std::iter::from_fn(|| engine.ring.pop()).find(|done| done.user_data() == number(kind::CANCEL, 7, 7));
        assert_eq!(done.map(|done| done.result()), Some(-libc::EACCES));
    }
}

#[test]
fn the_probe_says_what_there_is_and_keeps_to_what_is_allowed() {
    let Some(_) = engine(TINY) else { return };
    let all = probe(Features::ALL).unwrap();
    let none = Features { no_sq_array: false, min_wait: false, registered_files: false };
    assert_eq!(probe(none).unwrap(), none);
    let one = Features { min_wait: false, ..Features::ALL };
    assert_eq!(probe(one).unwrap(), Features { min_wait: false, ..all });
}

#[test]
fn what_is_missing_is_named() {
    let said = |errno| Missing::setup(io::Error::from_raw_os_error(errno)).to_string();
    assert!(said(libc::EPERM).contains("kernel.io_uring_disabled") && said(libc::EPERM).contains("seccomp"));
    assert!(said(libc::ENOSYS).contains("Linux 6.1") && said(libc::EINVAL).contains("Linux 6.1"));
    assert!(said(libc::ENOMEM).starts_with("no ring can be made"));
}

#[test]
fn sends_do_not_end_the_wait_for_packets() {
    let Some(mut engine) = engine(EngineSizes::STANDARD) else { return };
    let mut lines = vec![Line::open(&mut engine)];
    echo(&mut engine, &mut lines, Duration::ZERO);
    lines[0].says(1);
    assert!(echo(&mut engine, &mut lines, Duration::from_secs(2)));
    // The echo leaves with this wait, and its completion is no reason to come back.
    let before = engine.ring.entered;
    assert!(!echo(&mut engine, &mut lines, Duration::from_millis(20)));
    assert_eq!(engine.ring.entered - before, 1);
}

#[test]
fn what_piled_up_in_many_ports_is_taken_without_arming_them_in_vain() {
    let Some(mut engine) = engine(TINY) else { return };
    let mut lines: Vec<Line> = (0..60).map(|_| Line::open(&mut engine)).collect();
    (0..4).for_each(|number| lines.iter().for_each(|line| line.says(number)));
    while echo(&mut engine, &mut lines, Duration::from_millis(20)) {}
    lines.iter().for_each(|line| assert_eq!(line.heard, [0, 1, 2, 3]));
    // A port that is armed in vain costs as much as one of the 240 packets.
    assert!(engine.counters().out_of_buffers < 240, "{:?}", engine.counters());
}

#[test]
fn a_flood_that_takes_all_buffers_starves_nobody() {
    let Some(mut engine) = engine(TINY) else { return };
    let mut lines: Vec<Line> = (0..3).map(|_| Line::open(&mut engine)).collect();
    echo(&mut engine, &mut lines, Duration::ZERO);
    for number in 0..20 {
        // The first port always has more than there are buffers.
        (0..30).for_each(|_| lines[0].says(number));
        lines[1].says(number);
        lines[2].says(number);
        for _ in 0..4 {
            echo(&mut engine, &mut lines, Duration::ZERO);
        }
        assert_eq!([&lines[1], &lines[2]].map(|line| line.heard.last().copied()), [Some(number); 2], "{number}");
    }
    assert!(engine.counters().out_of_buffers > 0);
}

#[test]
fn what_was_flushed_leaves_when_the_engine_is_dropped() {
    let Some(mut engine) = engine(TINY) else { return };
    let mut lines = vec![Line::open(&mut engine)];
    lines[0].says(9);
    assert!(echo(&mut engine, &mut lines, Duration::from_secs(2)));
    drop(engine);
    assert_eq!(lines[0].peer.recv(&mut [0; 8]).unwrap(), 4);
}

#[test]
fn a_refusal_that_belongs_to_the_packet_before_costs_no_other() {
    let Some(mut engine) = engine(TINY) else { return };
    let (port, _) = open(&mut engine);
    let gone = socket().local_addr().unwrap();
    engine.connect(port, Some(gone));
    engine.receive(Some(clock::mono()), &mut Batch::new());
    // The second is told of the first, in one call and before the receive that is armed could be.
    for _ in 0..2 {
        let buffer = engine.take_buffer().unwrap();
        engine.send(Outgoing { port, to: gone, buffer, start: 64, len: 4 });
    }
    engine.flush();
    let mut batch = Batch::new();
    engine.receive(Some(clock::mono()), &mut batch);
    assert_eq!((engine.counters().sent_again, engine.buffers.in_flight()), (1, 1), "{batch:?}");
    engine.receive(Some(clock::mono()), &mut Batch::new());
    assert_eq!((engine.buffers.in_flight(), engine.counters().failed_receives), (0, 0));
    assert!(engine.counters().armed_again > 0, "the receive ended by it, and the port is not deaf");
}

#[test]
fn what_a_port_was_given_to_send_leaves_when_it_is_closed_and_its_place_waits_for_that() {
    let Some(mut engine) = engine(TINY) else { return };
    engine.receive(Some(clock::mono()), &mut Batch::new());
    let peer = socket();
    let (port, _) = open(&mut engine);
    let places = engine.free.len();
    let buffer = engine.take_buffer().unwrap();
    engine.send(Outgoing { port, to: peer.local_addr().unwrap(), buffer, start: 64, len: 4 });
    engine.flush();
    drop(engine.close(port));
    assert_eq!(peer.recv(&mut [0; 8]).unwrap(), 4);
    assert_eq!((engine.free.len(), engine.buffers.in_flight()), (places, 1), "its completion is not here yet");
    engine.receive(Some(clock::mono()), &mut Batch::new());
    assert_eq!((engine.free.len(), engine.buffers.in_flight()), (places + 1, 0));
}

#[test]
fn what_waits_of_a_receive_that_was_ended_goes_before_the_next_one_begins() {
    let Some(mut engine) = engine(EngineSizes::STANDARD) else { return };
    let mut lines: Vec<Line> = (0..12).map(|_| Line::open(&mut engine)).collect();
    echo(&mut engine, &mut lines, Duration::ZERO);
    for number in 0..30 {
        lines.iter().for_each(|line| line.says(number));
    }
    assert!(lines.iter().all(|line| engine.disarm(line.port.0)));
    assert!(engine.stash.len() > BATCH_MAX, "{} wait", engine.stash.len());
    while lines.iter().any(|line| line.heard.len() < 30) {
        assert!(echo(&mut engine, &mut lines, Duration::from_secs(2)));
    }
    lines.iter().for_each(|line| assert_eq!(line.heard, (0..30).collect::<Vec<_>>()));
}

#[test]
fn a_receive_that_ended_while_another_was_cancelled_is_no_reason_to_stay_connected() {
    let Some(mut engine) = engine(TINY) else { return };
    let ports = [(); 2].map(|()| open(&mut engine).0);
    let gone = socket().local_addr().unwrap();
    ports.iter().for_each(|&port| engine.connect(port, Some(gone)));
    engine.receive(Some(clock::mono()), &mut Batch::new());
    let buffer = engine.take_buffer().unwrap();
    engine.send(Outgoing { port: ports[1], to: gone, buffer, start: 64, len: 4 });
    engine.flush();
    // The refusal of what leaves with this ends the second port's receive.
    ports.iter().for_each(|&port| engine.connect(port, None));
    assert_eq!(ports.map(|port| engine.slots[port.0 as usize].peer), [None; 2]);
    assert_eq!(engine.unmet, []);
}
