use gangway_shared::{
    ids::LegId,
    rcp::{ControlMessage, DataplaneMessage, Event, PROTOCOL, PutReply, frame},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{UnixListener, UnixStream},
};

use super::*;
use crate::hub::{self, HubQueue};

const SOON: Duration = Duration::from_secs(10);

/// A dataplane whose every word the test chooses.
struct Peer {
    stream: UnixStream,
    buffer: Vec<u8>,
}

impl Peer {
    async fn accept(listener: &UnixListener) -> Self {
        let (stream, _) = tokio::time::timeout(SOON, listener.accept()).await.unwrap().unwrap();
        Peer { stream, buffer: Vec::new() }
    }

    async fn send(&mut self, message: &DataplaneMessage) {
        let mut bytes = Vec::new();
        frame::encode(message, &mut bytes).unwrap();
        self.stream.write_all(&bytes).await.unwrap();
    }

    async fn receive(&mut self) -> ControlMessage {
        loop {
            if let Some(message) = frame::decode(&mut self.buffer).unwrap() {
                return message;
            }
            let read = tokio::time::timeout(SOON, self.stream.read_buf(&mut self.buffer)).await.unwrap().unwrap();
            assert!(read > 0, "control closed the connection");
        }
    }

    async fn greet(&mut self, instance: &str, epoch: u32) -> Hello {
        self.send(&DataplaneMessage::Hello(hello(instance, epoch))).await;
        match self.receive().await {
            ControlMessage::Hello(hello) => hello,
            other => panic!("{other:?} instead of a greeting"),
        }
    }

    /// The next request that is no ping.
    async fn request(&mut self) -> (u64, Request) {
        loop {
            match self.receive().await {
                ControlMessage::Request { id, request: Request::Ping } => {
                    self.send(&DataplaneMessage::Ok { id, reply: Reply::Ping }).await;
                }
                ControlMessage::Request { id, request } => return (id, request),
                other => panic!("{other:?} instead of a request"),
            }
        }
    }
}

fn hello(instance: &str, epoch: u32) -> Hello {
    Hello {
        protocol: PROTOCOL,
        instance: instance.to_owned(),
        epoch,
        engine: Some("epoll".to_owned()),
        workers: Some(1),
        capabilities: Vec::new(),
        webrtc: Vec::new(),
        media_ports: None,
        resume_from: None,
    }
}

struct Fixture {
    listener: UnixListener,
    handle: RelayHandle,
    queue: HubQueue,
    dir: tempfile::TempDir,
    stop: oneshot::Sender<()>,
    client: tokio::task::JoinHandle<()>,
    journal: Journal,
}

fn fixture(journal_epoch: u32) -> Fixture {
    fixture_of(tempfile::tempdir().unwrap(), journal_epoch, None)
}

fn fixture_of(dir: tempfile::TempDir, journal_epoch: u32, journal_seen: Option<(String, EventSeq)>) -> Fixture {
    let socket = dir.path().join("dp.sock");
    let listener = UnixListener::bind(&socket).unwrap();
    let (hub, queue) = hub::queue(64);
    let metrics = Arc::new(Metrics::default());
    let (journal, _) = Journal::open(dir.path(), Arc::clone(&metrics)).unwrap();
    let supervisor = Supervisor::of("/bin/true".into(), Vec::new(), Duration::from_secs(60));
    let config = ClientConfig {
        socket,
        timeout: Duration::from_millis(800),
        instance: "control".to_owned(),
        journal_epoch,
        journal_seen,
    };
    let (client, handle) = RelayClient::new(config, supervisor, hub, journal.clone(), metrics);
    let (stop, stopped) = oneshot::channel();
    let client = tokio::spawn(client.run(stopped));
    Fixture { listener, handle, queue, dir, stop, client, journal }
}

async fn next(queue: &mut HubQueue) -> Input {
    tokio::time::timeout(SOON, queue.next_input()).await.unwrap().unwrap()
}

#[tokio::test]
async fn the_epoch_lies_above_the_journals_and_the_dataplanes() {
    for (journal, dataplane, expected) in [(0, 0, 1), (7, 3, 8), (3, 7, 8)] {
        let mut fixture = fixture(journal);
        let mut peer = Peer::accept(&fixture.listener).await;
        assert_eq!(peer.greet("a", dataplane).await.epoch, expected);
        assert!(matches!(next(&mut fixture.queue).await, Input::RelayUp { epoch, .. } if epoch == expected));
        assert_eq!(fixture.handle.wait_up(SOON).await.unwrap().epoch, expected);
    }
}

#[tokio::test]
async fn replies_find_who_asked_and_events_reach_the_hub() {
    let mut fixture = fixture(0);
    let mut peer = Peer::accept(&fixture.listener).await;
    peer.greet("a", 0).await;
    assert!(matches!(next(&mut fixture.queue).await, Input::RelayUp { .. }));
    let relay = RelayId::new(0, 1, 1);
    fixture.handle.allocate(relay, RelayProgram::default(), AskId(9)).unwrap();
    fixture.handle.request(Request::Delete { relay }, ReplyTo::Core(RelayRequestId(4))).unwrap();
    let (put, request) = peer.request().await;
    assert!(matches!(request, Request::Put { generation: Generation(1), .. }), "{request:?}");
    let (delete, _) = peer.request().await;
    // Answered out of order, with a reply to nothing in between.
    peer.send(&DataplaneMessage::Ok { id: 99_999, reply: Reply::Drain }).await;
    peer.send(&DataplaneMessage::Ok { id: delete, reply: Reply::Delete }).await;
    let reply = PutReply { relay, generation: Generation(1), legs: Vec::new() };
    peer.send(&DataplaneMessage::Ok { id: put, reply: Reply::Put(reply.clone()) }).await;
    let event = Event::MediaTimeout { relay, leg: LegId(1) };
    peer.send(&DataplaneMessage::Event { seq: EventSeq(1), event }).await;
    let first = next(&mut fixture.queue).await;
    assert!(matches!(first, Input::RelayReply { id: RelayRequestId(4), result: Ok(Reply::Delete) }), "{first:?}");
    let second = next(&mut fixture.queue).await;
    assert!(matches!(second, Input::Answer { ask: AskId(9), answer: Answer::Allocated(put) } if put == reply));
    assert!(matches!(next(&mut fixture.queue).await, Input::RelayEvent { event: Event::MediaTimeout { .. } }));
}

#[tokio::test]
async fn what_does_not_fit_a_frame_is_refused_to_who_asked_and_breaks_nothing() {
    let mut fixture = fixture(0);
    let mut peer = Peer::accept(&fixture.listener).await;
    peer.greet("a", 0).await;
    assert!(matches!(next(&mut fixture.queue).await, Input::RelayUp { .. }));
    let relay = RelayId::new(0, 1, 1);
    let program = RelayProgram { label: "x".repeat(70_000), ..RelayProgram::default() };
    fixture.handle.allocate(relay, program, AskId(9)).unwrap();
    let refused = next(&mut fixture.queue).await;
    let Input::Answer { ask: AskId(9), answer: Answer::NotAllocated(error) } = refused else { panic!("{refused:?}") };
    assert_eq!((error.code, error.field.as_str()), (ErrorCode::Invalid, "program"));
    fixture.handle.request(Request::Delete { relay }, ReplyTo::Core(RelayRequestId(4))).unwrap();
    let (_, request) = peer.request().await;
    assert_eq!(request, Request::Delete { relay }, "the connection lives");
}

#[tokio::test]
async fn after_a_break_it_connects_again_with_its_epoch_and_resumes_events() {
    let mut fixture = fixture(0);
    let mut peer = Peer::accept(&fixture.listener).await;
    peer.greet("a", 4).await;
    assert!(matches!(next(&mut fixture.queue).await, Input::RelayUp { epoch: 5, .. }));
    let relay = RelayId::new(0, 1, 1);
    let event = Event::MediaTimeout { relay, leg: LegId(1) };
    peer.send(&DataplaneMessage::Event { seq: EventSeq(41), event }).await;
    assert!(matches!(next(&mut fixture.queue).await, Input::RelayEvent { .. }));
    let seen = next(&mut fixture.queue).await;
    assert!(matches!(&seen, Input::RelaySeen { instance, seq: EventSeq(41) } if instance == "a"), "{seen:?}");
    fixture.handle.allocate(relay, RelayProgram::default(), AskId(3)).unwrap();
    peer.request().await;
    drop(peer);
    let lost = next(&mut fixture.queue).await;
    assert!(matches!(lost, Input::Answer { ask: AskId(3), answer: Answer::NotAllocated(_) }), "{lost:?}");
    assert!(matches!(next(&mut fixture.queue).await, Input::RelayDown));
    let mut peer = Peer::accept(&fixture.listener).await;
    let hello = peer.greet("a", 5).await;
    assert_eq!((hello.epoch, hello.resume_from), (5, Some(("a".to_owned(), EventSeq(41)))));
    assert!(matches!(next(&mut fixture.queue).await, Input::RelayUp { epoch: 5, .. }));
    peer.send(&DataplaneMessage::Gap { resumes_at: EventSeq(90) }).await;
    assert!(matches!(next(&mut fixture.queue).await, Input::RelayGap));
    assert!(matches!(next(&mut fixture.queue).await, Input::RelaySeen { seq: EventSeq(89), .. }));
    drop(peer);
    assert!(matches!(next(&mut fixture.queue).await, Input::RelayDown));
    // Another run of the dataplane has events of its own.
    let mut peer = Peer::accept(&fixture.listener).await;
    assert_eq!(peer.greet("b", 0).await.resume_from, Some(("b".to_owned(), EventSeq(0))));
}

/// A former control may have gone before the first event of its first call.
#[tokio::test]
async fn of_a_run_that_nothing_was_heard_of_every_event_is_asked_for() {
    for (journal_seen, expected) in [(None, 0), (Some(("b", 7)), 0), (Some(("a", 7)), 7)] {
        let journal_seen = journal_seen.map(|(instance, seq)| (instance.to_owned(), EventSeq(seq)));
        let fixture = fixture_of(tempfile::tempdir().unwrap(), 3, journal_seen);
        let mut peer = Peer::accept(&fixture.listener).await;
        assert_eq!(peer.greet("a", 3).await.resume_from, Some(("a".to_owned(), EventSeq(expected))));
    }
}

/// Ids of relays are told apart by it.
#[tokio::test]
async fn the_next_control_takes_an_epoch_above_that_of_the_journal_also_with_another_dataplane() {
    let mut dir = tempfile::tempdir().unwrap();
    for life in 1..4 {
        let (journal, former) = Journal::open(dir.path(), Arc::default()).unwrap();
        journal.finish();
        let mut fixture = fixture_of(dir, former.epoch, None);
        let mut peer = Peer::accept(&fixture.listener).await;
        // A dataplane that started anew knows none.
        assert_eq!(peer.greet("a", 0).await.epoch, life);
        assert!(matches!(next(&mut fixture.queue).await, Input::RelayUp { .. }));
        let Fixture { handle, dir: same, stop, client, journal, .. } = fixture;
        drop((peer, handle, stop));
        tokio::time::timeout(SOON, client).await.unwrap().unwrap();
        journal.finish();
        std::fs::remove_file(same.path().join("dp.sock")).unwrap();
        dir = same;
    }
}

#[tokio::test]
async fn a_silent_dataplane_is_left_and_a_strange_one_too() {
    let mut fixture = fixture(0);
    let mut silent = Peer::accept(&fixture.listener).await;
    silent.greet("a", 0).await;
    assert!(matches!(next(&mut fixture.queue).await, Input::RelayUp { .. }));
    // It answers no ping.
    assert!(matches!(next(&mut fixture.queue).await, Input::RelayDown));
    let mut strange = Peer::accept(&fixture.listener).await;
    strange.send(&DataplaneMessage::Hello(Hello { protocol: 99, ..hello("a", 0) })).await;
    let mut rude = Peer::accept(&fixture.listener).await;
    rude.stream.write_all(&[0xff; 8]).await.unwrap();
    let mut good = Peer::accept(&fixture.listener).await;
    good.greet("a", 0).await;
    assert!(matches!(next(&mut fixture.queue).await, Input::RelayUp { .. }));
}

#[tokio::test]
async fn while_the_wall_is_down_asks_are_refused_at_once() {
    let fixture = fixture(0);
    let error = fixture.handle.allocate(RelayId::new(0, 1, 1), RelayProgram::default(), AskId(1)).unwrap_err();
    assert!(error.retryable);
    assert_eq!(fixture.handle.node_stats().await, None);
}
