//! The manager with workers and controls that the test plays: every message comes when the test says so.

use std::{
    io::Read,
    net::{IpAddr, Ipv4Addr},
    sync::Arc,
};

use gangway_shared::{
    ids::Generation,
    rcp::{ControlMessage, IceDtlsLeg, Leg, LegKind, ListEntry, Media, RelayProgram, Reply, Request, RtpLeg, frame},
    settings::Settings,
};
use mio::net::UnixStream;

use super::*;
use crate::{arena::LegHandle, config::Machine, engine::Wake, keeper::Keeper, mailbox::mailbox, relay::Installed};

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
        let data = tempfile::tempdir().unwrap();
        let config = config(data.path());
        let (channel, _) = Keeper::open(&config).unwrap().run_beside().unwrap();
        let (link, handover) = Link::take_over(channel).unwrap();
        let listener = mio::net::UnixListener::from_std(handover.listener);
        let (mut workers, mut inboxes) = (Vec::new(), Vec::new());
        for _ in 0..config.workers {
            let (commands, inbox) = mailbox(4096, Arc::new(NoWake));
            let (_, reports) = mailbox(1, Arc::new(NoWake));
            let thread = std::thread::spawn(|| ());
            workers.push(WorkerLink { commands, reports, backlog: VecDeque::new(), thread, webrtc: Vec::new() });
            inboxes.push(inbox);
        }
        let poll = Poll::new().unwrap();
        let manager = Manager::new(config, Mode::default(), poll, listener, link, handover.facts).unwrap();
        let manager = Manager { workers, ..manager };
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

    /// The worker puts the relay of its next command, as it was told.
    #[track_caller]
    fn agree(&mut self, worker: u16) {
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
    assert_eq!((desk.manager.ports.counts().used, desk.manager.relays.len()), (0, 0));
    desk.agree(0);
    match &desk.heard(control)[..] {
        [DataplaneMessage::Ok { id: 3, reply: Reply::Put(reply) }] => assert_eq!(reply.legs.len(), 1),
        other => panic!("{other:?}"),
    }
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
