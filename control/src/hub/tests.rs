use std::{io, net::UdpSocket, time::Duration};

use serde_json::json;

use super::*;
use crate::{
    api::socket::Frames,
    config::{Config, Sources},
    journal::tests::Stopped,
    metrics::Metrics,
    relay_client::{ClientConfig, RelayClient},
    supervisor::Supervisor,
    transport::SipSockets,
};

#[tokio::test]
async fn a_full_queue_refuses_and_counts() {
    let (handle, _queue) = queue(2);
    let closed = |socket| Input::SocketClosed { socket: SocketId(socket) };
    assert_eq!(handle.offer(closed(1)), Ok(()));
    assert_eq!(handle.offer(closed(2)), Ok(()));
    assert_eq!(handle.offer(closed(3)), Err(Overloaded));
    assert_eq!(handle.rest(RestCall::FindAllCalls).await, Err(Overloaded));
    assert_eq!(handle.refused(), 2);
}

#[test]
fn the_clock_does_not_go_back() {
    let clock = Clock::start();
    let (first, second) = (clock.now(), clock.now());
    assert!(second >= first);
    assert!(Clock::wall() > WallTime::from_unix_micros(1_700_000_000_000_000));
}

/// Every wait ends with this.
const SOON: Duration = Duration::from_secs(20);
/// Longer than any test.
const FOR_EVER: Duration = Duration::from_secs(3600);
/// Turns of the runtime after which whoever could go on has gone on: nothing here waits for time.
const TURNS: usize = 100;

/// A hub whose journal is written when the test says so, one page, and its registrar.
struct House {
    hub: HubHandle,
    page: SocketId,
    frames: Frames,
    registrar: UdpSocket,
    writer: Stopped,
    metrics: Arc<Metrics>,
    dir: tempfile::TempDir,
    /// Requests to it wait.
    _wall: RelayClient,
}

impl House {
    fn open(patience: Duration) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let registrar = UdpSocket::bind("127.0.0.1:0").unwrap();
        registrar.set_nonblocking(true).unwrap();
        let data_dir = format!("data_dir={}", dir.path().display());
        let sets = ["ip=127.0.0.1", "ip_local=127.0.0.1", "sip_port=auto", &data_dir].map(str::to_owned).to_vec();
        let config = Config::parse("", "", Sources { sets, ..Sources::default() }).unwrap();
        let metrics: Arc<Metrics> = Arc::default();
        let (journal, writer) = Stopped::journal(dir.path(), patience, &metrics);
        let (hub, queue) = queue(64);
        let sockets = SipSockets::bind(&config).unwrap();
        let ua = config.ua(sockets.advertised(&config));
        let supervisor = Supervisor::of("/bin/true".into(), Vec::new(), FOR_EVER);
        let client = ClientConfig::new(&config, "test".to_owned(), 0, None);
        let (wall, relay) = RelayClient::new(client, supervisor, hub.clone(), journal.clone(), Arc::clone(&metrics));
        let adapters = Adapters {
            sip: sockets.serve(&config, &hub, &metrics),
            resolver: Resolver::new(FOR_EVER, false, Arc::clone(&metrics)),
            relay,
            journal,
        };
        let gateway = Gateway::new(config.gateway(ua), Box::new(OsEntropy), Box::new(OsEntropy));
        let (task, _) = Hub::new(gateway, Clock::start(), queue, hub.clone(), adapters);
        tokio::spawn(task.run());
        let (page, frames) = open_page(&hub);
        House { hub, page, frames, registrar, writer, metrics, dir, _wall: wall }
    }

    fn say(&self, message: &str, data: &serde_json::Value) {
        self.say_of(self.page, message, data);
    }

    fn say_of(&self, socket: SocketId, message: &str, data: &serde_json::Value) {
        let frame = json!({ "message": message, "data": [data] }).to_string();
        let message = schema::decode(&frame).unwrap();
        self.hub.offer(Input::SocketMessage { socket, message }).unwrap();
    }

    /// The page connects and wants to be registered.
    fn connect(&self) {
        self.connect_page(self.page);
    }

    fn connect_page(&self, socket: SocketId) {
        let port = self.registrar.local_addr().unwrap().port();
        self.say_of(
            socket,
            "connection",
            &json!({
                "appKey": "defaultApp", "sipLogin": "1001", "sipAuthenticationName": "1001", "sipPassword": "secret",
                "sipDomain": "127.0.0.1", "sipOutboundProxy": "127.0.0.1", "sipPort": port, "sipRegisterRequired": true,
            }),
        );
    }

    /// Waits until the hub has waited in vain for so many turns: the only thing here that time ends.
    async fn wait_late(&self, times: u64) {
        let late = async {
            while self.metrics.journal_late.value() < times {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(SOON, late).await.expect("it waited in vain");
    }

    async fn settle() {
        for _ in 0..TURNS {
            tokio::task::yield_now().await;
        }
    }

    /// What the registrar was sent, if anything: over loopback it is there as soon as it is sent.
    fn heard(&self) -> Option<String> {
        let mut buffer = [0; 4096];
        match self.registrar.recv(&mut buffer) {
            Ok(len) => Some(String::from_utf8_lossy(&buffer[..len]).into_owned()),
            Err(error) => {
                assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
                None
            }
        }
    }

    fn journal(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("journal")).unwrap()
    }
}

fn open_page(hub: &HubHandle) -> (SocketId, Frames) {
    let (outbox, frames) = Outbox::with_frames(64);
    let local = "127.0.0.1:80".parse().unwrap();
    let peer = SocketPeer { remote: local, local, secure: false, origin: None };
    (hub.open_socket(peer, outbox).unwrap(), frames)
}

fn call_id(request: &str) -> &str {
    request.lines().find_map(|line| line.strip_prefix("Call-ID: ")).unwrap()
}

#[tokio::test]
async fn nothing_leaves_before_its_lines_are_written() {
    let mut house = House::open(FOR_EVER);
    house.connect();
    let hub = house.hub.clone();
    let list = tokio::spawn(async move { hub.rest(RestCall::FindAllCalls).await });
    House::settle().await;
    assert!(house.writer.has_work(), "lines wait to be written");
    assert!(!house.journal().contains("registration"));
    assert_eq!((house.heard(), house.frames.next(), list.is_finished()), (None, None, false), "page, peer and REST");
    house.writer.work();
    assert_eq!((house.heard(), house.frames.next()), (None, None), "it is the hub that sends");
    let written = house.journal();
    House::settle().await;
    let register = house.heard().unwrap();
    assert!(register.starts_with("REGISTER "), "{register}");
    assert!(written.contains(call_id(&register)), "{written}");
    assert!(house.frames.next().is_some_and(|frame| frame.contains("getUserData")));
    assert!(list.is_finished());
    assert_eq!(house.metrics.journal_late.value(), 0);
}

#[tokio::test]
async fn arrivals_that_wait_share_one_write() {
    let mut house = House::open(FOR_EVER);
    house.connect();
    House::settle().await;
    // While the disk is busy with the first page's session, others come.
    let others: Vec<(SocketId, Frames)> = (0..3).map(|_| open_page(&house.hub)).collect();
    for (page, _) in &others {
        house.connect_page(*page);
    }
    house.say("ping", &json!({}));
    let numbers = tokio::spawn({
        let hub = house.hub.clone();
        async move { hub.numbers().await }
    });
    House::settle().await;
    house.writer.work();
    House::settle().await;
    assert!(house.frames.next().is_some_and(|frame| frame.contains("getUserData")));
    assert!(house.frames.next().is_none() && !numbers.is_finished(), "they came later");
    house.writer.work();
    House::settle().await;
    for (_, mut frames) in others {
        assert!(frames.next().is_some_and(|frame| frame.contains("getUserData")));
    }
    assert!(house.frames.next().is_some_and(|frame| frame.contains("pong")));
    assert_eq!(numbers.await.unwrap().unwrap().counts.sessions, 4);
}

#[tokio::test]
async fn a_disk_that_refuses_holds_nobody_up_and_is_said_once() {
    let mut house = House::open(FOR_EVER);
    house.writer.refuse();
    house.connect();
    House::settle().await;
    house.writer.work();
    House::settle().await;
    assert!(house.heard().is_some_and(|register| register.starts_with("REGISTER ")));
    assert!(house.frames.next().is_some());
    house.say("ping", &json!({}));
    house.say("call", &json!({ "callId": "c1", "callee": "2001", "sdp": "v=0" }));
    House::settle().await;
    while house.writer.has_work() {
        house.writer.work();
        House::settle().await;
    }
    assert!(house.frames.next().is_some(), "calls go on");
    assert_eq!((house.metrics.journal_lost.value(), house.metrics.journal_late.value()), (1, 0));
    assert!(!house.journal().contains("session"), "the file lacks them");
}

#[tokio::test]
async fn a_disk_that_hangs_is_waited_for_once_until_it_has_done_everything() {
    let mut house = House::open(Duration::from_millis(1));
    house.connect();
    house.wait_late(1).await;
    House::settle().await;
    assert!(house.heard().is_some_and(|register| register.starts_with("REGISTER ")));
    assert!(house.frames.next().is_some());
    house.say("call", &json!({ "callId": "c1", "callee": "2001", "sdp": "v=0" }));
    House::settle().await;
    assert!(house.frames.next().is_some_and(|frame| frame.contains("c1")), "nobody waits for it now");
    assert_eq!(house.metrics.journal_late.value(), 1, "it was counted once");
    while house.writer.has_work() {
        house.writer.work();
    }
    house.hub.offer(Input::SocketClosed { socket: house.page }).unwrap();
    let hub = house.hub.clone();
    let list = tokio::spawn(async move { hub.rest(RestCall::FindAllCalls).await });
    house.wait_late(2).await;
    assert!(house.writer.has_work(), "it is waited for again");
    assert!(list.await.unwrap().is_ok());
}
