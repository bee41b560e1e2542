//! The manager with workers and controls that the test plays: every message comes when the test says so.

use std::{
    io::Read,
    net::{IpAddr, Ipv4Addr},
    os::fd::AsFd,
    sync::Arc,
};

use gangway_shared::{
    ids::Generation,
    rcp::{
        ActAction, ControlMessage, IceDtlsLeg, Leg, LegKind, ListEntry, Media, RelayProgram, Reply, Request, RtpLeg,
        WorkerStats, frame,
    },
    settings::Settings,
};
use mio::net::UnixStream;

use super::{asked::ANSWER_WITHIN, *};
use crate::{
    arena::LegHandle,
    config::Machine,
    engine::Wake,
    keeper::{
        Keeper,
        channel::{Channel, Received, ToKeeper, ToRelay},
    },
    mailbox::mailbox,
    ports::LocalAddress,
    relay::Installed,
    worker::LegSource,
};

struct NoWake;

impl Wake for NoWake {
    fn wake(&self) {}
}

struct Desk {
    manager: Manager,
    inboxes: Vec<Receiver<Command<UdpSocket>>>,
    /// Controls, by the number of their connection.
    peers: BTreeMap<usize, (UnixStream, Vec<u8>)>,
    _data: tempfile::TempDir,
}

fn config(data: &std::path::Path) -> Config {
    let sets = ["ip=127.0.0.1", "media_port_from=auto", "media_port_quarantine_ms=0", "webrtc_port=auto"];
    let mut sets = sets.map(str::to_owned).to_vec();
    sets.push(format!("data_dir={}", data.display()));
    let settings = Settings::parse("", "", &sets).unwrap();
    let machine = Machine {
        cores: vec![0, 1, 2],
        default_ip: Some(Ipv4Addr::LOCALHOST.into()),
        uid: 0,
        is_local: |ip: IpAddr| ip.is_loopback(),
    };
    Config::read(&settings, &machine).unwrap()
}

impl Desk {
    fn new() -> Self {
        Desk::of(4096)
    }

    /// One whose workers' mailboxes have room for so many commands.
    fn of(mailbox_max: usize) -> Self {
        let data = tempfile::tempdir().unwrap();
        let config = Config { mailbox_max, ..config(data.path()) };
        let (channel, _) = Keeper::open(&config).unwrap().run_beside().unwrap();
        let (link, handover) = Link::take_over(channel).unwrap();
        let listener = mio::net::UnixListener::from_std(handover.listener);
        let (mut workers, mut inboxes) = (Vec::new(), Vec::new());
        for _ in 0..config.workers {
            let (commands, inbox) = mailbox(mailbox_max, Arc::new(NoWake));
            let (_, reports) = mailbox(1, Arc::new(NoWake));
            let thread = std::thread::spawn(|| ());
            workers.push(WorkerLink { commands, reports, backlog: VecDeque::new(), thread, webrtc: Vec::new() });
            inboxes.push(inbox);
        }
        let poll = Poll::new().unwrap();
        let manager = Manager::new(config, Mode::default(), poll, listener, link, handover.facts).unwrap();
        let manager = Manager { workers, ..manager };
        manager.watch_keeper().unwrap();
        Desk { manager, inboxes, peers: BTreeMap::new(), _data: data }
    }

    /// A control that has said hello.
    fn control(&mut self, epoch: u32) -> usize {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let at = self.manager.next_connection;
        self.manager.next_connection += 1;
        let mut connection = Connection::new(ours, Time::ZERO);
        let interest = Interest::READABLE | Interest::WRITABLE;
        self.manager.poll.registry().register(&mut connection.stream, Token(at), interest).unwrap();
        self.manager.connections.insert(at, connection);
        self.peers.insert(at, (theirs, Vec::new()));
        let hello = Hello { epoch, resume_from: None, ..self.manager.hello() };
        self.manager.handle_message(Time::ZERO, at, ControlMessage::Hello(hello));
        at
    }

    fn request(&mut self, at: usize, id: u64, request: Request) {
        self.manager.handle_message(Time::ZERO, at, ControlMessage::Request { id, request });
    }

    /// What a control has been told since the last call.
    fn heard(&mut self, at: usize) -> Vec<DataplaneMessage> {
        self.manager.write_connections(Time::ZERO);
        let (stream, bytes) = self.peers.get_mut(&at).unwrap();
        let _ = stream.read_to_end(bytes);
        std::iter::from_fn(|| frame::decode(bytes).unwrap()).collect()
    }

    fn report(&mut self, worker: u16, report: Report) {
        self.manager.handle_report(Time::ZERO, worker, report);
    }

    /// Reads what the keeper says until it is done.
    #[track_caller]
    fn hear_keeper(&mut self, is_done: impl Fn(&Manager) -> bool) {
        let mut events = Events::with_capacity(POLL_EVENTS);
        for _ in 0..100 {
            self.manager.read_keeper(Time::ZERO).unwrap();
            if is_done(&self.manager) {
                return;
            }
            self.manager.poll.poll(&mut events, Some(Duration::from_secs(10))).unwrap();
        }
        panic!("the keeper says nothing of it");
    }

    fn ports_used(&mut self) -> u64 {
        self.manager.asked.counts.used = u64::MAX;
        self.manager.ports.ask_counts(u64::MAX);
        self.hear_keeper(|manager| manager.asked.counts.used != u64::MAX);
        self.manager.asked.counts.used
    }

    /// From now on the test is the keeper: its end of the channel.
    fn be_keeper(&mut self) -> Channel {
        let (ours, theirs) = Channel::pair().unwrap();
        self.manager.ports = Link::over(theirs, vec![LOOPBACK]);
        ours
    }

    /// The worker puts the relay of its next command, as it was told, once it has its ports.
    #[track_caller]
    fn agree(&mut self, worker: u16) {
        self.hear_keeper(|manager| !manager.pending.values().any(|pending| matches!(pending, Pending::Ports(_))));
        self.put_next(worker);
    }

    #[track_caller]
    fn put_next(&mut self, worker: u16) {
        let Some(Command::Put { token, put }) = self.inboxes[usize::from(worker)].receive() else { panic!("no put") };
        let handle = |slot: u32| LegHandle { slot, generation: 1 };
        let legs = put.legs.iter().zip(0..).map(|((id, _), slot)| (*id, handle(slot))).collect();
        drop(put);
        self.report(worker, Report::Put { token, result: Ok(Installed { legs }) });
    }

    #[track_caller]
    fn removal(&mut self, worker: u16) -> u64 {
        match self.inboxes[usize::from(worker)].receive() {
            Some(Command::Remove { token, .. }) => token,
            other => panic!("{other:?}"),
        }
    }
}

const LOOPBACK: LocalAddress =
    LocalAddress { bind: IpAddr::V4(Ipv4Addr::LOCALHOST), advertised: IpAddr::V4(Ipv4Addr::LOCALHOST) };

/// Token of the next question to a keeper for a pair.
#[track_caller]
fn asked_for_pair(keeper: &Channel) -> u64 {
    match keeper.receive(false).unwrap() {
        Received::Message(ToKeeper::Open { token, on: LOOPBACK, .. }, _) => token,
        other => panic!("{other:?}"),
    }
}

fn open_pair(keeper: &Channel, token: u64, lease: u64) {
    let [rtp, rtcp] = [(); 2].map(|()| UdpSocket::bind("127.0.0.1:0").unwrap());
    let pair = PairFacts { lease, on: LOOPBACK, port: 4000 };
    keeper.send(&ToRelay::Opened { token, pair }, &[rtp.as_fd(), rtcp.as_fd()]).unwrap();
}

#[track_caller]
fn assert_given_back(keeper: &Channel, lease: u64) {
    match keeper.receive::<ToKeeper>(false).unwrap() {
        Received::Message(message, _) => assert_eq!(message, ToKeeper::Close { lease }),
        other => panic!("{other:?}"),
    }
}

fn id(number: u64) -> RelayId {
    RelayId::new(1, 1, number)
}

fn browser_leg(number: u8) -> Leg {
    Leg { id: LegId(number), media_timeout_ms: None, kind: LegKind::IceDtls(IceDtlsLeg::default()) }
}

fn rtp_leg(number: u8) -> Leg {
    let kind = LegKind::Rtp(RtpLeg { media: Media::Audio, local_ip: None, remote: None, feedback: Vec::new() });
    Leg { id: LegId(number), media_timeout_ms: None, kind }
}

fn put(number: u64, generation: u32, legs: Vec<Leg>) -> Request {
    let program = RelayProgram { cname: "c".to_owned(), legs, ..RelayProgram::default() };
    Request::Put { relay: id(number), generation: Generation(generation), program }
}

#[test]
fn a_delete_of_a_relay_that_no_record_names_is_answered_when_every_worker_looked() {
    let mut desk = Desk::new();
    let control = desk.control(1);
    desk.heard(control);
    desk.request(control, 5, Request::Delete { relay: id(1) });
    let tokens: Vec<u64> = (0..2).map(|worker| desk.removal(worker)).collect();
    desk.report(0, Report::Removed { token: tokens[0] });
    assert_eq!(desk.heard(control), []);
    desk.report(1, Report::Removed { token: tokens[1] });
    assert_eq!(desk.heard(control), [DataplaneMessage::Ok { id: 5, reply: Reply::Delete }]);
}

#[test]
fn what_a_replaced_control_had_waiting_is_not_done() {
    let mut desk = Desk::new();
    let first = desk.control(1);
    desk.request(first, 1, put(1, 1, vec![browser_leg(0)]));
    desk.request(first, 2, Request::Delete { relay: id(1) });
    desk.request(first, 3, put(1, 2, vec![browser_leg(0), browser_leg(1)]));
    let second = desk.control(2);
    desk.heard(second);
    desk.request(second, 7, put(1, 3, vec![browser_leg(0)]));
    desk.agree(0);
    assert!(matches!(desk.heard(second)[..], []));
    desk.agree(0);
    assert!(matches!(desk.heard(second)[..], [DataplaneMessage::Ok { id: 7, .. }]));
    assert!(desk.inboxes[0].is_empty());
    let (relays, _) = desk.manager.registry.list(None, 9);
    assert!(matches!(relays[..], [ListEntry { generation: Generation(3), .. }]));
}

#[test]
fn requests_that_wait_count_and_are_not_refused_when_their_turn_comes() {
    let mut desk = Desk::new();
    let control = desk.control(1);
    desk.heard(control);
    let mut refused = None;
    for number in 0.. {
        desk.request(control, number, put(number, 1, vec![browser_leg(0)]));
        for _ in 0..8 {
            desk.request(control, number, Request::Delete { relay: id(number) });
        }
        refused = desk.heard(control).pop();
        if refused.is_some() {
            break;
        }
    }
    let Some(DataplaneMessage::Error { error, .. }) = refused else { panic!("{refused:?}") };
    assert_eq!((error.code, error.reason.as_str()), (ErrorCode::Full, "2048 requests are in flight"));
    desk.agree(0);
    let token = loop {
        match desk.inboxes[0].receive() {
            Some(Command::Remove { token, relay }) => break (relay == id(0)).then_some(token).unwrap(),
            Some(_) => {}
            None => panic!("the request that waited was not done"),
        }
    };
    desk.report(0, Report::Removed { token });
    let answers = desk.heard(control);
    assert!(matches!(answers[..], [DataplaneMessage::Ok { .. }, DataplaneMessage::Ok { reply: Reply::Delete, .. }]));
}

#[test]
fn a_relay_that_ended_while_it_was_changed_stays_ended_and_keeps_nothing() {
    let mut desk = Desk::new();
    let control = desk.control(1);
    desk.request(control, 1, put(1, 1, vec![browser_leg(0)]));
    desk.agree(0);
    desk.request(control, 2, put(1, 2, vec![browser_leg(0), rtp_leg(1)]));
    desk.request(control, 3, put(1, 3, vec![browser_leg(0)]));
    desk.report(0, Report::Event(Event::RelayReaped { relay: id(1), reason: ReapReason::Poisonous }));
    desk.heard(control);
    desk.agree(0);
    match &desk.heard(control)[..] {
        [DataplaneMessage::Error { id: 2, error }] => assert_eq!(error.code, ErrorCode::Internal),
        other => panic!("{other:?}"),
    }
    let token = desk.removal(0);
    desk.report(0, Report::Removed { token });
    assert_eq!((desk.ports_used(), desk.manager.relays.len()), (0, 0));
    desk.agree(0);
    match &desk.heard(control)[..] {
        [DataplaneMessage::Ok { id: 3, reply: Reply::Put(reply) }] => assert_eq!(reply.legs.len(), 1),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_keeper_that_does_not_answer_costs_who_needs_ports_and_nobody_else() {
    let mut desk = Desk::new();
    let keeper = desk.be_keeper();
    let control = desk.control(1);
    desk.heard(control);
    let two_phones = || put(1, 1, vec![rtp_leg(0), rtp_leg(1)]);
    desk.request(control, 1, two_phones());
    desk.request(control, 2, Request::Query { relay: None, from_worker: 0 });
    desk.request(control, 3, put(2, 1, vec![browser_leg(0)]));
    desk.request(control, 4, Request::Ping);
    assert_eq!(desk.heard(control), [DataplaneMessage::Ok { id: 4, reply: Reply::Ping }]);
    for worker in 0..2 {
        let asked = desk.inboxes[usize::from(worker)].receive();
        let Some(Command::QueryWorker { token }) = asked else { panic!("{asked:?}") };
        desk.report(worker, Report::Worker { token, stats: Box::default(), flows: Vec::new() });
    }
    assert_eq!(desk.heard(control), []);
    // The worker that is not to get the first.
    desk.put_next(1);
    assert!(matches!(desk.heard(control)[..], [DataplaneMessage::Ok { id: 3, .. }]));
    let late = Time::ZERO + ANSWER_WITHIN;
    assert_eq!(desk.manager.answer_due(), Some(late));
    desk.manager.stop_waiting_for_keeper(Time::from_millis(999));
    assert_eq!(desk.heard(control), []);
    desk.manager.stop_waiting_for_keeper(late);
    match &desk.heard(control)[..] {
        [DataplaneMessage::Error { id: 1, error }, DataplaneMessage::Ok { id: 2, reply: Reply::QueryNode(_) }] => {
            assert_eq!((error.code, error.field.as_str()), (ErrorCode::Internal, "program.legs[0]"));
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(desk.manager.answer_due(), None);

    // Pairs that come too late go back.
    let token = asked_for_pair(&keeper);
    assert!(matches!(keeper.receive(false).unwrap(), Received::Message(ToKeeper::Count { .. }, _)));
    open_pair(&keeper, token, 7);
    desk.manager.read_keeper(late).unwrap();
    assert_given_back(&keeper, 7);

    // One that is refused costs its neighbour.
    desk.request(control, 5, two_phones());
    let token = asked_for_pair(&keeper);
    open_pair(&keeper, token, 8);
    desk.manager.read_keeper(Time::ZERO).unwrap();
    assert_eq!(asked_for_pair(&keeper), token);
    let error = RelayError::new(ErrorCode::NoPorts, "", "none is left");
    keeper.send(&ToRelay::Refused { token, error: error.clone() }, &[]).unwrap();
    desk.manager.read_keeper(Time::ZERO).unwrap();
    assert_given_back(&keeper, 8);
    let refused = RelayError { field: "program.legs[1]".to_owned(), ..error };
    assert_eq!(desk.heard(control), [DataplaneMessage::Error { id: 5, error: refused }]);

    // In time: each leg has its own.
    desk.request(control, 6, two_phones());
    let token = asked_for_pair(&keeper);
    open_pair(&keeper, token, 9);
    desk.manager.read_keeper(Time::ZERO).unwrap();
    assert_eq!(asked_for_pair(&keeper), token);
    assert!(desk.inboxes[0].is_empty());
    open_pair(&keeper, token, 10);
    desk.manager.read_keeper(Time::ZERO).unwrap();
    let Some(Command::Put { put, .. }) = desk.inboxes[0].receive() else { panic!("no put") };
    assert!(
        matches!(
            put.legs[..],
            [(LegId(0), LegSource::Open { lease: 9, .. }), (LegId(1), LegSource::Open { lease: 10, .. })]
        ),
        "{put:?}"
    );
}

#[test]
fn what_a_stopped_keeper_has_no_room_for_is_not_asked_when_nobody_waits_for_it() {
    const PUTS: u64 = 1000;
    let mut desk = Desk::new();
    let keeper = desk.be_keeper();
    let control = desk.control(1);
    desk.heard(control);
    for number in 0..PUTS {
        desk.request(control, number, put(number, 1, vec![rtp_leg(0), rtp_leg(1)]));
    }
    assert!(desk.manager.ports.unsent() > 0, "the channel holds everything");
    desk.manager.stop_waiting_for_keeper(Time::ZERO + ANSWER_WITHIN);
    let refused = desk.heard(control);
    assert_eq!(refused.len() as u64, PUTS);
    assert_eq!((desk.manager.ports.unsent(), desk.manager.pending.len()), (0, 0));
    // What has left is answered some time, and goes back.
    let mut opened = 0;
    while let Received::Message(ToKeeper::Open { token, .. }, _) = keeper.receive(false).unwrap() {
        opened += 1;
        if opened <= 10 {
            open_pair(&keeper, token, opened);
        }
    }
    desk.manager.read_keeper(Time::ZERO).unwrap();
    (1..=10).for_each(|lease| assert_given_back(&keeper, lease));
}

#[test]
fn an_event_that_does_not_fit_a_frame_is_told_as_a_gap() {
    let mut desk = Desk::new();
    let control = desk.control(1);
    desk.heard(control);
    desk.report(0, Report::Event(Event::WorkerLost { worker: 0, relays: (0..3000).map(id).collect() }));
    desk.report(0, Report::Event(Event::WorkerLost { worker: 0, relays: Vec::new() }));
    let heard = desk.heard(control);
    let [DataplaneMessage::Gap { resumes_at }, DataplaneMessage::Event { seq, .. }] = heard[..] else {
        panic!("{heard:?}")
    };
    assert_eq!((resumes_at, seq), (EventSeq(2), EventSeq(2)));
}

#[test]
fn workers_with_full_mailboxes_are_stopped() {
    let mut desk = Desk::new();
    let (commands, inbox) = mailbox(1, Arc::new(NoWake));
    desk.manager.workers[0].commands = commands;
    desk.manager.workers[0].thread = std::thread::spawn(move || {
        while !inbox.is_closed() {
            std::thread::yield_now();
        }
    });
    for token in 0..3 {
        desk.manager.workers[0].send(Command::QueryWorker { token });
    }
    desk.manager.stop_workers();
}

/// Code and field of the only answer, which is a refusal.
#[track_caller]
fn refusal(heard: &[DataplaneMessage]) -> (u64, ErrorCode, bool) {
    match heard {
        [DataplaneMessage::Error { id, error }] => (*id, error.code, error.reason.contains("wait for worker")),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_full_mailbox_is_a_counted_refusal_and_the_end_of_a_relay_waits_for_room() {
    let mut desk = Desk::of(2);
    let control = desk.control(1);
    desk.request(control, 1, put(1, 1, vec![rtp_leg(0)]));
    desk.agree(0);
    desk.heard(control);
    let ports = desk.ports_used();
    let query = Request::Query { relay: Some(id(1)), from_worker: 0 };
    (2..4).for_each(|number| desk.request(control, number, query.clone()));
    assert_eq!(desk.heard(control), []);
    // Everything that may be refused is.
    let act = Request::Act { relay: id(1), action_id: 7, action: ActAction::Keyframe { leg: LegId(0) } };
    let refused = [
        query.clone(),
        act.clone(),
        Request::List { after: None, limit: 9 },
        Request::Query { relay: None, from_worker: 0 },
        put(1, 2, vec![browser_leg(1)]),
    ];
    for (request, number) in refused.into_iter().zip(10..) {
        desk.request(control, number, request);
        assert_eq!(refusal(&desk.heard(control)), (number, ErrorCode::Full, true));
    }
    // A program that has got its ports meanwhile gives them back.
    desk.request(control, 20, put(1, 2, vec![rtp_leg(0), rtp_leg(1)]));
    desk.hear_keeper(|manager| !manager.pending.values().any(|pending| matches!(pending, Pending::Ports(_))));
    assert_eq!(refusal(&desk.heard(control)), (20, ErrorCode::Full, true));
    assert_eq!(desk.ports_used(), ports);
    // A datagram of a handshake is lost, and counted.
    let leg = LegKey { worker: 0, leg: LegHandle { slot: 0, generation: 1 } };
    desk.manager.send_dtls(leg, PortId(0), "192.0.2.1:9".parse().unwrap(), vec![22]);
    desk.request(control, 30, Request::Delete { relay: id(1) });
    assert_eq!((desk.heard(control), desk.manager.workers[0].backlog.len()), (vec![], 1));

    for _ in 0..2 {
        assert!(matches!(desk.inboxes[0].receive(), Some(Command::QueryRelay { .. })));
    }
    // What waits goes first.
    desk.request(control, 31, act);
    assert_eq!(refusal(&desk.heard(control)), (31, ErrorCode::Full, true));
    desk.manager.workers[0].flush();
    let token = desk.removal(0);
    desk.report(0, Report::Removed { token });
    assert_eq!(desk.heard(control), [DataplaneMessage::Ok { id: 30, reply: Reply::Delete }]);
    desk.request(control, 32, Request::Query { relay: None, from_worker: 0 });
    for worker in 0..2 {
        let Some(Command::QueryWorker { token }) = desk.inboxes[usize::from(worker)].receive() else {
            panic!("no question")
        };
        let stats = Box::new(WorkerStats { worker, ..WorkerStats::default() });
        desk.report(worker, Report::Worker { token, stats, flows: Vec::new() });
    }
    desk.hear_keeper(|manager| !manager.pending.values().any(|pending| matches!(pending, Pending::Gather(_))));
    let heard = desk.heard(control);
    let [DataplaneMessage::Ok { id: 32, reply: Reply::QueryNode(node) }] = &heard[..] else { panic!("{heard:?}") };
    assert_eq!((node.drops["request_full"], node.drops["mailbox_full"]), (7, 1));
}
