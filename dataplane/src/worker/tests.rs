use std::{net::SocketAddr, sync::Arc, time::Duration};

use gangway_shared::{
    ids::{EventSeq, Generation},
    rcp::{
        Codec, DataplaneMessage, Event, Fill, Leg, LegKind, Media, Payload, PayloadMap, Process, RelayProgram, Route,
        RtpLeg, RtpRemote, Sound, frame,
    },
    time::Time,
};

use super::*;
use crate::{
    engine::{
        Wake,
        sim::{Conditions, Network, SimEngine, SimSocket},
    },
    mailbox::mailbox,
    relay::{Digits, RelayLimits, RelayTimers},
    wire::DropReason,
};

/// Room of the mailboxes.
const INBOX_MAX: usize = 4096;
const OUTBOX_MAX: usize = 4096;

struct NoWake;

impl Wake for NoWake {
    fn wake(&self) {}
}

/// A worker on a virtual network with its mailboxes.
struct Bench {
    network: Network,
    worker: Worker<SimEngine>,
    commands: Sender<Command<SimSocket>>,
    reports: Receiver<Report>,
}

impl Bench {
    fn new() -> Self {
        let network = Network::new(7, Conditions::CLEAN);
        let engine = SimEngine::new(network.clone());
        let (commands, inbox) = mailbox(INBOX_MAX, engine.waker());
        let (outbox, reports) = mailbox(OUTBOX_MAX, Arc::new(NoWake));
        let arena = Arena::create(RelayLimits { relays: 8, legs: 16, routes: 16 }).unwrap();
        Bench { worker: Worker::new(engine, arena, config(), inbox, outbox), network, commands, reports }
    }

    fn socket(&self, address: &str) -> SimSocket {
        self.network.bind(address.parse().unwrap()).unwrap()
    }

    /// The worker's answer to a command.
    fn ask(&mut self, command: Command<SimSocket>) -> Report {
        self.commands.send(command).unwrap();
        assert!(self.worker.turn());
        self.reports.receive().expect("the worker answers")
    }

    fn put(&mut self, generation: u32, legs: Vec<(LegId, LegSource<SimSocket>)>) -> Result<Installed, RelayError> {
        let put = Put { relay: relay(), generation: Generation(generation), digest: Digest(1), program: echo(), legs };
        match self.ask(Command::Put { token: 9, put }) {
            Report::Put { token: 9, result } => result,
            other => panic!("{other:?}"),
        }
    }

    fn put_new(&mut self) {
        let (rtp, rtcp) = (self.socket("192.0.2.1:1000"), self.socket("192.0.2.1:1001"));
        self.put(1, vec![(LegId(0), LegSource::Open { rtp, rtcp, lease: 1 })]).unwrap();
    }

    /// Whether the peer hears its own packet again.
    fn echoes(&mut self, peer: &SimSocket, sequence: u16) -> bool {
        let sequence = sequence.to_be_bytes();
        let packet = [&[0x80, 0, sequence[0], sequence[1], 0, 0, 0, 0, 0, 0, 0, 9][..], &[0xff; 160]].concat();
        peer.send_to(&packet, "192.0.2.1:1000".parse().unwrap());
        for _ in 0..4 {
            let next = self.network.now().mono + Duration::from_millis(2);
            self.network.advance_to(next);
            self.commands.send(Command::QueryWorker { token: 0 }).unwrap();
            self.worker.turn();
            while self.reports.receive().is_some() {}
        }
        std::iter::from_fn(|| peer.receive())
            .any(|(_, heard)| heard.len() == packet.len() && heard[12..] == packet[12..])
    }
}

fn config() -> RelayConfig {
    RelayConfig {
        worker: 0,
        timers: RelayTimers::default(),
        mux_ports: Vec::new(),
        seed: 1,
        history_bytes: 1 << 16,
        new_addresses_per_s: 1000,
    }
}

fn relay() -> RelayId {
    RelayId::new(1, 1, 1)
}

fn echo() -> RelayProgram {
    let remote =
        RtpRemote { rtp: "192.0.2.9:4000".parse().unwrap(), rtcp: "192.0.2.9:4001".parse().unwrap(), rtcp_mux: false };
    let leg = RtpLeg { media: Media::Audio, local_ip: None, remote: Some(remote), feedback: Vec::new() };
    let pcmu = Payload { pt: 0, codec: Codec::Pcmu, clock: 8000, channels: None, fmtp: None };
    let event = Payload { pt: 101, codec: Codec::TelephoneEvent, ..pcmu.clone() };
    RelayProgram {
        label: "test".into(),
        cname: "test".into(),
        legs: vec![Leg { id: LegId(0), media_timeout_ms: None, kind: LegKind::Rtp(leg) }],
        routes: vec![Route {
            from: LegId(0),
            to: LegId(0),
            media: Media::Audio,
            payloads: vec![PayloadMap { from: pcmu.clone(), to: pcmu }, PayloadMap { from: event.clone(), to: event }],
            process: Process::Pass,
            ssrc: 77,
            paused: false,
            rtx: None,
            source_rtx: Vec::new(),
            limit_kbps: None,
            fill: None,
        }],
    }
}

#[test]
fn a_relay_is_put_echoes_and_is_removed_with_its_ports() {
    let mut bench = Bench::new();
    let peer = bench.socket("192.0.2.9:4000");
    bench.put_new();
    assert!(bench.echoes(&peer, 1));
    let Report::Relay { stats: Some(stats), .. } = bench.ask(Command::QueryRelay { token: 1, relay: relay() }) else {
        panic!("no statistics")
    };
    assert_eq!(stats.legs[0].received.packets, 1);
    bench.commands.send(Command::Remove { token: 2, relay: relay() }).unwrap();
    bench.worker.turn();
    let reports: Vec<Report> = std::iter::from_fn(|| bench.reports.receive()).collect();
    assert!(reports.iter().any(|report| matches!(report, Report::Removed { token: 2 })), "{reports:?}");
    assert!(reports.iter().any(|report| matches!(report, Report::Event(Event::LegStats { .. }))), "{reports:?}");
    bench.socket("192.0.2.1:1000");
    assert!(!bench.echoes(&peer, 2));
}

#[test]
fn an_update_keeps_the_pair_and_a_refused_one_closes_what_it_opened() {
    let mut bench = Bench::new();
    let peer = bench.socket("192.0.2.9:4000");
    bench.put_new();
    bench.put(2, vec![(LegId(0), LegSource::Kept)]).unwrap();
    assert!(bench.echoes(&peer, 1));
    let error = bench.put(3, vec![(LegId(5), LegSource::Kept)]).unwrap_err();
    assert_eq!(error.code, ErrorCode::Internal);
    assert!(bench.echoes(&peer, 2), "the relay is as it was");
}

#[test]
fn datagrams_that_found_no_room_are_counted_on_the_worker_and_the_leg() {
    let mut bench = Bench::new();
    let peer = bench.socket("192.0.2.9:4000");
    bench.put_new();
    // 24 more than a simulated socket keeps.
    for _ in 0..1048 {
        peer.send_to(b"x", "192.0.2.1:1000".parse().unwrap());
    }
    bench.network.advance_to(Time::from_millis(5));
    let Report::Worker { stats, .. } = bench.ask(Command::QueryWorker { token: 1 }) else { panic!("no statistics") };
    assert_eq!(stats.drops[DropReason::ReceiveBufferFull as usize], 24);
    let Report::Relay { stats: Some(stats), .. } = bench.ask(Command::QueryRelay { token: 2, relay: relay() }) else {
        panic!("no statistics")
    };
    assert_eq!(stats.legs[0].drops["receive_buffer_full"], 24);
}

#[test]
fn the_time_from_arrival_to_sending_is_counted_on_stamped_ports() {
    let mut bench = Bench::new();
    let peer = bench.socket("192.0.2.9:4000");
    bench.put_new();
    let other = Put {
        relay: RelayId::new(1, 1, 2),
        generation: Generation(1),
        digest: Digest(1),
        program: echo(),
        legs: Vec::new(),
    };
    let (rtp, rtcp) = (bench.socket("192.0.2.1:1002"), bench.socket("192.0.2.1:1003"));
    let legs = vec![(LegId(0), LegSource::Open { rtp, rtcp, lease: 1 })];
    bench.ask(Command::Put { token: 1, put: Put { legs, ..other } });
    let packet = [&[0x80, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 9][..], &[0xff; 160]].concat();
    for port in [1000, 1002] {
        peer.send_to(&packet, SocketAddr::from(([192, 0, 2, 1], port)));
    }
    // They arrive, and the worker comes 5 ms later.
    let arrival = bench.network.next_arrival().unwrap();
    bench.network.advance_to(arrival);
    bench.network.advance_to(arrival + Duration::from_millis(5));
    bench.worker.turn();
    bench.commands.send(Command::QueryWorker { token: 2 }).unwrap();
    bench.worker.turn();
    let stats = std::iter::from_fn(|| bench.reports.receive()).find_map(|report| match report {
        Report::Worker { token: 2, stats, .. } => Some(stats),
        _ => None,
    });
    let stats = stats.expect("the worker answers");
    let bucket = crate::stats::latency_bounds_us().iter().position(|end| *end > 5000).unwrap();
    let expected = |at: usize| u64::from(at == bucket);
    assert_eq!((stats.received, stats.batches), (2, 1));
    assert!(stats.latency.iter().enumerate().all(|(at, count)| *count == expected(at)), "{:?}", stats.latency);
}

/// Counts how often the clock is read.
struct Watched {
    engine: SimEngine,
    reads: std::cell::Cell<u32>,
}

impl Engine for Watched {
    type Socket = SimSocket;

    const NAME: &'static str = "watched";

    fn now(&self) -> Now {
        self.reads.set(self.reads.get() + 1);
        self.engine.now()
    }

    fn stamp(&mut self, port: PortId) {
        self.engine.stamp(port);
    }

    fn open(&mut self, socket: SimSocket) -> Result<PortId, crate::engine::OpenError> {
        self.engine.open(socket)
    }

    fn ports(&self) -> Vec<PortId> {
        self.engine.ports()
    }

    fn close(&mut self, port: PortId) -> Option<SimSocket> {
        self.engine.close(port)
    }

    fn connect(&mut self, port: PortId, peer: Option<SocketAddr>) {
        self.engine.connect(port, peer);
    }

    fn receive(&mut self, deadline: Option<Time>, batch: &mut Batch) {
        self.engine.receive(deadline, batch);
    }

    fn buffers(&mut self) -> &mut crate::engine::Buffers {
        self.engine.buffers()
    }

    fn flush(&mut self) {
        self.engine.flush();
    }

    fn waker(&self) -> Arc<dyn Wake> {
        self.engine.waker()
    }
}

#[test]
fn the_clock_is_read_once_a_batch_and_once_more_where_latency_is_measured() {
    let network = Network::new(7, Conditions::CLEAN);
    let engine = Watched { engine: SimEngine::new(network.clone()), reads: std::cell::Cell::new(0) };
    let (commands, inbox) = mailbox(INBOX_MAX, engine.waker());
    let (outbox, reports) = mailbox(1, Arc::new(NoWake));
    let arena = Arena::create(RelayLimits { relays: 8, legs: 16, routes: 16 }).unwrap();
    let mut worker = Worker::new(engine, arena, config(), inbox, outbox);
    let peer = network.bind("192.0.2.9:4000".parse().unwrap()).unwrap();
    for number in 0..2 {
        let [rtp, rtcp] =
            [1000 + 2 * number, 1001 + 2 * number].map(|port| network.bind(([192, 0, 2, 1], port).into()).unwrap());
        let legs = vec![(LegId(0), LegSource::Open { rtp, rtcp, lease: 1 })];
        let put = Put {
            relay: RelayId::new(1, 1, number.into()),
            generation: Generation(1),
            digest: Digest(1),
            program: echo(),
            legs,
        };
        commands.send(Command::Put { token: 0, put }).unwrap();
    }
    worker.turn();
    // The first pair is stamped, the second is not. The manager reads no mail meanwhile.
    for (port, reads) in [(1000, 2), (1002, 1)] {
        for sequence in 0..50 {
            let packet = [&[0x80, 0, 0, sequence, 0, 0, 0, sequence, 0, 0, 0, 9][..], &[0xff; 160]].concat();
            peer.send_to(&packet, SocketAddr::from(([192, 0, 2, 1], port)));
        }
        network.advance_to(network.now().mono + Duration::from_millis(5));
        worker.engine.reads.set(0);
        commands.send(Command::QueryWorker { token: 0 }).unwrap();
        worker.turn();
        assert_eq!(worker.engine.reads.get(), reads, "for 50 packets to port {port} and a question");
    }
    assert_eq!(worker.counters.batches, 2);
    drop(reports);
}

#[test]
fn what_many_streams_of_our_own_send_leaves_in_rounds_and_in_time() {
    const STREAMS: u16 = 8;
    let mut bench = Bench::new();
    let pcmu = echo().routes[0].payloads[0].to.clone();
    let fill = Fill { sound: Sound::Silence, payload: pcmu, ptime_ms: 20, start_after_ms: 0 };
    for number in 0..STREAMS {
        let [rtp, rtcp] =
            [1000, 1001].map(|port| bench.network.bind(([192, 0, 2, 1], port + 2 * number).into()).unwrap());
        let mut program = echo();
        program.routes[0].fill = Some(fill.clone());
        let put = Put {
            relay: RelayId::new(1, 1, number.into()),
            generation: Generation(1),
            digest: Digest(1),
            program,
            legs: vec![(LegId(0), LegSource::Open { rtp, rtcp, lease: 1 })],
        };
        assert!(matches!(bench.ask(Command::Put { token: 0, put }), Report::Put { result: Ok(_), .. }));
        // So far apart are their beats, and a little more.
        bench.network.advance_to(bench.network.now().mono + Duration::from_micros(100));
    }
    let sent = |bench: &Bench| bench.worker.relays.as_ref().unwrap().counters().sent;
    let (mut rounds, before) = (Vec::new(), sent(&bench));
    let end = bench.network.now().mono + Duration::from_millis(200);
    while bench.network.now().mono < end {
        let had = sent(&bench);
        bench.worker.turn();
        if sent(&bench) > had {
            rounds.push(bench.network.now().mono);
        }
    }
    assert!(rounds.windows(2).all(|pair| pair[1].since(pair[0]) >= TIMER_ROUND), "{rounds:?}");
    assert!(rounds.len() <= 3 * 11, "eight beats within a good millisecond are three rounds: {rounds:?}");
    assert!(sent(&bench) - before >= 10 * u64::from(STREAMS), "none is left out");
}

#[test]
fn a_panic_costs_no_relay() {
    let mut bench = Bench::new();
    let peer = bench.socket("192.0.2.9:4000");
    bench.put_new();
    assert!(bench.echoes(&peer, 1));
    bench.commands.send(Command::Crash { token: 5 }).unwrap();
    let panicked = catch_unwind(AssertUnwindSafe(|| bench.worker.turn()));
    assert!(panicked.is_err());
    bench.worker.recover();
    let reports: Vec<Report> = std::iter::from_fn(|| bench.reports.receive()).collect();
    let lost = reports.iter().find_map(|report| match report {
        Report::Event(Event::WorkerLost { worker: 0, relays }) => Some(relays),
        _ => None,
    });
    assert_eq!(lost, Some(&Vec::new()));
    assert!(reports.iter().any(|report| matches!(report, Report::Failed { token: 5 })), "{reports:?}");
    assert!(bench.echoes(&peer, 2), "the relay came back out of the arena");
}

/// Panics in the next round, and takes back what it can.
#[test]
fn an_arena_that_nobody_can_take_over_costs_its_relays_and_not_the_process() {
    let mut arena = Arena::create(RelayLimits { relays: 8, legs: 16, routes: 16 }).unwrap();
    let slot = arena.take_relay().unwrap();
    (arena.relay_mut(slot).id, arena.relay_mut(slot).legs[0]) = ([7, 8], u32::MAX);
    arena.take_leg().unwrap();
    let kept = arena.fd().try_clone_to_owned().unwrap();
    let network = Network::new(7, Conditions::CLEAN);
    let engine = SimEngine::new(network.clone());
    let (commands, inbox) = mailbox(INBOX_MAX, engine.waker());
    let (outbox, reports) = mailbox(OUTBOX_MAX, Arc::new(NoWake));
    let worker = Worker::adopt(engine, arena, config(), inbox, outbox, (Vec::new(), false));
    let mut bench = Bench { worker, network, commands, reports };
    bench.worker.turn();
    let Some(Report::Adopted { relays, lost }) = bench.reports.receive() else { panic!("the first word") };
    assert_eq!((relays, lost), (Vec::new(), vec![RelayId::from_u128((7 << 64) | 8)]));
    bench.put_new();
    let peer = bench.socket("192.0.2.9:4000");
    assert!(bench.echoes(&peer, 1));
    drop(bench);
    let arena = Arena::map(kept).unwrap();
    assert_eq!(arena.relay_ids(), [relay()], "the keeper's memory is the one that is worked on");
    assert_eq!(arena.free(), RelayLimits { relays: 7, legs: 15, routes: 15 });
}

fn fail(bench: &mut Bench, command: Command<SimSocket>) -> Vec<Report> {
    bench.commands.send(command).unwrap();
    assert!(catch_unwind(AssertUnwindSafe(|| bench.worker.turn())).is_err());
    bench.worker.fails_at = None;
    bench.worker.recover();
    std::iter::from_fn(|| bench.reports.receive()).collect()
}

fn lost(reports: &[Report]) -> Vec<RelayId> {
    let lost = reports.iter().filter_map(|report| match report {
        Report::Event(Event::WorkerLost { worker: 0, relays }) => Some(relays.clone()),
        _ => None,
    });
    lost.flatten().collect()
}

fn is_failed(report: &Report) -> bool {
    matches!(report, Report::Failed { token: 5 })
}

/// Nothing of the relay is left: no record, no port, no socket.
#[track_caller]
fn assert_empty(bench: &mut Bench) {
    let relays = bench.worker.relays.as_ref().unwrap();
    assert_eq!((relays.check_invariants(), relays.worker_stats().relays), (Ok(()), 0));
    assert_eq!((bench.worker.engine.ports(), bench.worker.ports.len()), (Vec::new(), 0));
    for port in 1000..1004 {
        drop(bench.socket(&format!("192.0.2.1:{port}")));
    }
}

#[test]
fn what_is_made_after_an_arena_could_not_be_taken_back_is_there_for_the_next_process() {
    let mut bench = Bench::new();
    bench.put_new();
    let mut arena = bench.worker.relays.take().unwrap().into_arena();
    let keepers = arena.fd().try_clone_to_owned().unwrap();
    assert_eq!(arena.relay_ids(), [relay()]);
    arena.relay_mut(0).legs[0] = u32::MAX;
    bench.worker.relays = Some(Relays::new(arena, config()));
    let reports = fail(&mut bench, Command::Crash { token: 5 });
    assert_eq!(lost(&reports), [relay()]);
    assert_empty(&mut bench);
    let (rtp, rtcp) = (bench.socket("192.0.2.1:1000"), bench.socket("192.0.2.1:1001"));
    bench.put(1, vec![(LegId(0), LegSource::Open { rtp, rtcp, lease: 2 })]).unwrap();
    let peer = bench.socket("192.0.2.9:4000");
    assert!(bench.echoes(&peer, 1));
    drop(bench);
    let arena = Arena::map(keepers).unwrap();
    assert_eq!((arena.relay_ids(), arena.leases().collect::<Vec<_>>()), (vec![relay()], vec![2]));
    assert_eq!(arena.free(), RelayLimits { relays: 7, legs: 15, routes: 15 }, "nothing of the old records is left");
}

#[test]
fn a_panic_while_a_relay_is_made_leaves_nothing_of_it() {
    for stage in [PutStage::Opened, PutStage::Applied] {
        let mut bench = Bench::new();
        bench.worker.fails_at = Some(stage);
        let (rtp, rtcp) = (bench.socket("192.0.2.1:1000"), bench.socket("192.0.2.1:1001"));
        let legs = vec![(LegId(0), LegSource::Open { rtp, rtcp, lease: 1 })];
        let put = Put { relay: relay(), generation: Generation(1), digest: Digest(1), program: echo(), legs };
        let reports = fail(&mut bench, Command::Put { token: 5, put });
        assert!(reports.iter().any(is_failed), "{reports:?}");
        assert_eq!(lost(&reports), [], "it never was in force");
        assert_empty(&mut bench);
        bench.put_new();
        let peer = bench.socket("192.0.2.9:4000");
        assert!(bench.echoes(&peer, 1), "the same relay can be put again");
    }
}

#[test]
fn a_panic_while_a_relay_is_changed_ends_it_and_says_so() {
    for stage in [PutStage::Opened, PutStage::Applied] {
        let mut bench = Bench::new();
        bench.put_new();
        bench.worker.fails_at = Some(stage);
        let (rtp, rtcp) = (bench.socket("192.0.2.1:1002"), bench.socket("192.0.2.1:1003"));
        let mut program = echo();
        program.legs.push(Leg { id: LegId(1), ..program.legs[0].clone() });
        let legs = vec![(LegId(0), LegSource::Kept), (LegId(1), LegSource::Open { rtp, rtcp, lease: 1 })];
        let put = Put { relay: relay(), generation: Generation(2), digest: Digest(2), program, legs };
        let reports = fail(&mut bench, Command::Put { token: 5, put });
        assert!(reports.iter().any(is_failed), "{reports:?}");
        assert_eq!(lost(&reports), [relay()]);
        assert_empty(&mut bench);
    }
}

#[test]
fn actions_that_a_panic_ended_are_told() {
    let mut bench = Bench::new();
    bench.put_new();
    let digits = |action_id| {
        let events = std::collections::VecDeque::from([1, 2]);
        Digits { action_id, events, duration: Duration::from_millis(100) }
    };
    let play = |action_id| Command::Digits { relay: relay(), leg: LegId(0), digits: digits(action_id) };
    bench.commands.send(play(1)).unwrap();
    bench.worker.turn();
    bench.commands.send(Command::Crash { token: 5 }).unwrap();
    assert!(catch_unwind(AssertUnwindSafe(|| bench.worker.turn())).is_err());
    bench.worker.recover();
    // Another one was in hand.
    bench.worker.in_hand = play(2).in_hand();
    bench.worker.recover();
    let ended = std::iter::from_fn(|| bench.reports.receive()).filter_map(|report| match report {
        Report::Event(Event::ActDone { action_id, error, .. }) => Some((action_id, error.map(|error| error.code))),
        _ => None,
    });
    assert_eq!(ended.collect::<Vec<_>>(), [(1, Some(ErrorCode::Internal)), (2, Some(ErrorCode::Internal))]);
}

#[test]
fn counters_are_written_for_others_a_second_after_they_changed() {
    let folder = tempfile::tempdir().unwrap();
    let link = folder.path().join(crate::stats_map::LINK_NAME);
    let map = crate::stats_map::StatsMap::create(1).unwrap();
    map.publish(&link).unwrap();
    let mut bench = Bench::new();
    bench.worker = bench.worker.with_stats(map.page(0));
    let peer = bench.socket("192.0.2.9:4000");
    bench.put_new();
    assert!(bench.echoes(&peer, 1));
    let written = || crate::stats_map::read(&link).unwrap().remove(0);
    assert_eq!(written().stats.received, 0);
    let changed_at = bench.network.now();
    while written().stats.received == 0 {
        bench.worker.turn();
        assert!(bench.network.now().mono.since(changed_at.mono) <= PUBLISH_AFTER, "the worker wakes for it");
    }
    let written = written();
    assert_eq!((written.stats.relays, written.stats.received, written.stats.sent, written.stats.batches), (1, 1, 1, 1));
    assert_eq!(written.at, bench.network.now().wall);
    assert_eq!(bench.worker.publish_at, None, "there is nothing more to tell");
}

#[test]
fn a_removal_that_failed_is_done_and_no_loss() {
    let mut bench = Bench::new();
    bench.put_new();
    bench.worker.in_hand = Some(InHand::Remove { token: 5, relay: relay() });
    bench.worker.recover();
    let reports: Vec<Report> = std::iter::from_fn(|| bench.reports.receive()).collect();
    assert!(reports.iter().any(|report| matches!(report, Report::Removed { token: 5 })), "{reports:?}");
    assert_eq!(lost(&reports), []);
    assert_empty(&mut bench);
}

#[test]
fn many_lost_relays_are_told_in_frames_that_fit() {
    let mut bench = Bench::new();
    let many: Vec<RelayId> = (0..2500).map(|number| RelayId::new(u16::MAX, u32::MAX, number)).collect();
    bench.worker.ports = many.iter().map(|relay| (*relay, Vec::new())).collect();
    bench.worker.recover();
    let reports: Vec<Report> = std::iter::from_fn(|| bench.reports.receive()).collect();
    assert_eq!(lost(&reports), many);
    for report in reports {
        let Report::Event(event) = report else { panic!("{report:?}") };
        let message = DataplaneMessage::Event { seq: EventSeq(u64::MAX), event };
        frame::encode(&message, &mut Vec::new()).unwrap();
    }
}

#[test]
fn a_worker_whose_mailbox_is_closed_ends_however_much_waits_in_it() {
    let Bench { mut worker, commands, reports, .. } = Bench::new();
    for token in 0..INBOX_MAX as u64 {
        commands.send(Command::QueryWorker { token }).unwrap();
    }
    assert!(worker.turn());
    drop(commands);
    assert!(!worker.turn());
    drop(reports);
}

#[test]
fn a_worker_whose_reports_find_no_room_waits_for_it_without_spinning() {
    let mut bench = Bench::new();
    let (outbox, reports) = mailbox(1, Arc::new(NoWake));
    bench.worker.post.outbox = outbox;
    for token in 1..=2 {
        bench.commands.send(Command::QueryWorker { token }).unwrap();
    }
    bench.worker.turn();
    for round in 1..=3 {
        bench.worker.turn();
        assert_eq!(bench.network.now().mono, Time::ZERO + BACKLOG_RETRY * round);
    }
    assert!(matches!(reports.receive(), Some(Report::Worker { token: 1, .. })));
    bench.worker.turn();
    assert!(matches!(reports.receive(), Some(Report::Worker { token: 2, .. })));
}

#[test]
fn reports_wait_while_the_managers_mailbox_is_full_and_keep_their_order() {
    let mut bench = Bench::new();
    let (outbox, reports) = mailbox(1, Arc::new(NoWake));
    bench.worker.post.outbox = outbox;
    for token in 1..=3 {
        bench.commands.send(Command::QueryWorker { token }).unwrap();
    }
    bench.worker.turn();
    let mut seen = Vec::new();
    for _ in 0..3 {
        match reports.receive() {
            Some(Report::Worker { token, .. }) => seen.push(token),
            other => panic!("{other:?}"),
        }
        bench.worker.turn();
    }
    assert_eq!(seen, [1, 2, 3]);
}
