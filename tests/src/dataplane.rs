//! A dataplane under test, in this process, with the control that programs it: the relay without a gateway around it.

use std::{
    cell::Cell,
    collections::VecDeque,
    io::{ErrorKind, Read, Write},
    net::SocketAddr,
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    time::Duration,
};

use gangway_dataplane::{
    affinity,
    config::{Config, Machine},
    engine::choice::{Wanted, choose},
    manager::{Mode, start},
    ports,
};
use gangway_shared::{
    ids::{EventSeq, Generation, LegId, RelayId},
    rcp::{
        Codec, ControlMessage, DataplaneMessage, Event, Fingerprint, Hello, IceDtlsLeg, IceRemote, Leg, LegAddress,
        LegKind, Media, NodeStats, PROTOCOL, Payload, PayloadMap, Process, PutReply, RelayError, RelayProgram, Reply,
        Request, Route, RtpLeg, RtpRemote, frame,
    },
    settings::Settings,
};
use tempfile::TempDir;

use crate::deadline::Deadline;

/// The engine of every dataplane under test, where its test does not say: `uring`, `epoll` or, when it is not set, `auto`.
pub const ENGINE_VARIABLE: &str = "GANGWAY_ENGINE";

thread_local! {
    static ENGINE: Cell<Option<&'static str>> = const { Cell::new(None) };
}

/// Runs a test whose dataplanes use this engine.
pub fn on_engine(engine: &'static str, test: impl FnOnce()) {
    ENGINE.set(Some(engine));
    test();
}

/// What the setting `dataplane_engine` says in this test.
#[must_use]
pub fn engine_setting() -> String {
    let of_run = || std::env::var(ENGINE_VARIABLE).ok().filter(|engine| !engine.is_empty());
    ENGINE.get().map(str::to_owned).or_else(of_run).unwrap_or_else(|| "auto".to_owned())
}

/// The name by which a dataplane tells its engine in this test.
///
/// # Panics
/// When the ring is asked for and this machine has none.
#[must_use]
pub fn engine_name() -> &'static str {
    let wanted = match engine_setting().as_str() {
        "uring" => Wanted::Uring,
        "epoll" => Wanted::Epoll,
        _ => Wanted::Auto,
    };
    choose(wanted).expect("the engine that this run asks for").name()
}

/// Runs tests of the module above on epoll too: without that they use what the run asks for, which is the ring where there is one.
#[macro_export]
macro_rules! also_on_epoll {
    ($($test:ident),+ $(,)?) => {
        mod on_epoll {
            $(#[test] fn $test() { $crate::dataplane::on_engine("epoll", super::$test); })+
        }
    };
}

/// How long an answer of the dataplane may take.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);

/// A dataplane with everything on loopback and ports that the kernel chose. It lives until the test process ends.
pub struct Dataplane {
    socket: PathBuf,
    /// Addresses browsers are told.
    pub webrtc: Vec<SocketAddr>,
    _data: TempDir,
}

impl Dataplane {
    /// Starts one with `workers` workers, not pinned, and further settings as `key=value`.
    ///
    /// # Panics
    /// When it does not start.
    #[track_caller]
    pub fn start(workers: u16, sets: &[&str]) -> Self {
        let data = tempfile::tempdir().expect("a temporary directory");
        let mut all = vec![
            "ip=127.0.0.1".to_owned(),
            "webrtc_port=auto".to_owned(),
            "media_port_from=auto".to_owned(),
            "dataplane_cores=none".to_owned(),
            "dataplane_relays_max=64".to_owned(),
            format!("dataplane_workers={workers}"),
            format!("dataplane_engine={}", engine_setting()),
            format!("data_dir={}", data.path().display()),
        ];
        all.extend(sets.iter().map(|&set| set.to_owned()));
        let settings = Settings::parse("", "", &all).expect("settings of a test");
        let machine = Machine {
            cores: affinity::allowed_cores().expect("this process runs somewhere"),
            default_ip: None,
            uid: rustix::process::geteuid().as_raw(),
            is_local: ports::is_local,
        };
        let config = Config::read(&settings, &machine).expect("settings of a test");
        let running = start(config, Mode::default()).expect("the dataplane starts");
        Dataplane { socket: running.socket.clone(), webrtc: running.webrtc.clone(), _data: data }
    }

    /// Path of its socket.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// A control of this epoch, accepted.
    #[track_caller]
    pub fn control(&self, epoch: u32) -> Control {
        let mut control = Control::connect(&self.socket);
        control.hello(epoch, None);
        control
    }
}

/// A control, seen from the wall.
pub struct Control {
    stream: UnixStream,
    input: Vec<u8>,
    /// What the dataplane said first.
    pub greeting: Hello,
    events: VecDeque<(EventSeq, Event)>,
    gaps: Vec<EventSeq>,
    next_id: u64,
}

impl Control {
    /// Connects and reads the dataplane's greeting, without a greeting of its own.
    ///
    /// # Panics
    /// When there is none.
    #[track_caller]
    pub fn connect(socket: &Path) -> Self {
        let stream = UnixStream::connect(socket).expect("the dataplane listens");
        stream.set_read_timeout(Some(Duration::from_millis(20))).expect("a unix socket");
        let mut input = Vec::new();
        let deadline = Deadline::after(ANSWER_WITHIN);
        let greeting = match read_message(&stream, &mut input, deadline) {
            Some(DataplaneMessage::Hello(hello)) => hello,
            other => panic!("the dataplane's first word was {other:?}"),
        };
        Control { stream, input, greeting, events: VecDeque::new(), gaps: Vec::new(), next_id: 1 }
    }

    /// Says hello.
    #[track_caller]
    pub fn hello(&mut self, epoch: u32, resume_from: Option<(String, EventSeq)>) {
        let hello = Hello {
            protocol: PROTOCOL,
            instance: "test".to_owned(),
            epoch,
            engine: None,
            workers: None,
            capabilities: Vec::new(),
            webrtc: Vec::new(),
            media_ports: None,
            resume_from,
        };
        self.send(&ControlMessage::Hello(hello));
    }

    /// Sends a message.
    #[track_caller]
    pub fn send(&mut self, message: &ControlMessage) {
        let mut bytes = Vec::new();
        frame::encode(message, &mut bytes).expect("a test's message fits a frame");
        self.send_bytes(&bytes);
    }

    /// Sends whatever bytes.
    #[track_caller]
    pub fn send_bytes(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).expect("the dataplane reads");
    }

    /// The next message of any kind; `None` when the dataplane closed the connection.
    ///
    /// # Panics
    /// When neither happens in time.
    #[track_caller]
    pub fn next_message(&mut self) -> Option<DataplaneMessage> {
        read_message(&self.stream, &mut self.input, Deadline::after(ANSWER_WITHIN))
    }

    /// Asks for something; events that come before the answer are kept.
    ///
    /// # Errors
    /// The dataplane's refusal.
    #[track_caller]
    pub fn ask(&mut self, request: Request) -> Result<Reply, RelayError> {
        let id = self.next_id;
        self.next_id += 1;
        self.send(&ControlMessage::Request { id, request });
        loop {
            match self.next_message().expect("the connection lives") {
                DataplaneMessage::Ok { id: of, reply } if of == id => return Ok(reply),
                DataplaneMessage::Error { id: of, error } if of == id => return Err(error),
                other => self.keep(other),
            }
        }
    }

    fn keep(&mut self, message: DataplaneMessage) {
        match message {
            DataplaneMessage::Event { seq, event } => self.events.push_back((seq, event)),
            DataplaneMessage::Gap { resumes_at } => self.gaps.push(resumes_at),
            other => panic!("nobody asked for {other:?}"),
        }
    }

    /// Puts a program.
    ///
    /// # Errors
    /// The dataplane's refusal.
    #[track_caller]
    pub fn put(&mut self, relay: RelayId, generation: u32, program: RelayProgram) -> Result<PutReply, RelayError> {
        match self.ask(Request::Put { relay, generation: Generation(generation), program })? {
            Reply::Put(reply) => Ok(reply),
            other => panic!("a put was answered by {other:?}"),
        }
    }

    /// Deletes a relay.
    #[track_caller]
    pub fn delete(&mut self, relay: RelayId) {
        assert_eq!(self.ask(Request::Delete { relay }), Ok(Reply::Delete));
    }

    /// Counters of the node.
    #[track_caller]
    pub fn node(&mut self) -> NodeStats {
        match self.ask(Request::Query { relay: None, from_worker: 0 }) {
            Ok(Reply::QueryNode(stats)) => stats,
            other => panic!("a query was answered by {other:?}"),
        }
    }

    /// Events that came and were not waited for.
    pub fn seen(&self) -> impl Iterator<Item = &Event> {
        self.events.iter().map(|(_, event)| event)
    }

    /// Waits for an event; those before it are dropped.
    ///
    /// # Panics
    /// When it does not come within ten seconds.
    #[track_caller]
    pub fn wait_event(&mut self, what: &str, mut is_wanted: impl FnMut(&Event) -> bool) -> (EventSeq, Event) {
        let deadline = Deadline::seconds(10);
        loop {
            while let Some((seq, event)) = self.events.pop_front() {
                if is_wanted(&event) {
                    return (seq, event);
                }
            }
            match read_until(&self.stream, &mut self.input, deadline) {
                Outcome::Message(message) => self.keep(*message),
                Outcome::Closed => panic!("the dataplane closed the connection before {what}"),
                Outcome::Late => panic!("waited in vain for {what}"),
            }
        }
    }

    /// Gaps announced so far.
    pub fn gaps(&self) -> &[EventSeq] {
        &self.gaps
    }
}

enum Outcome {
    Message(Box<DataplaneMessage>),
    Closed,
    Late,
}

fn read_until(mut stream: &UnixStream, input: &mut Vec<u8>, deadline: Deadline) -> Outcome {
    let mut bytes = [0; 16 * 1024];
    loop {
        if let Some(message) = frame::decode(input).expect("the dataplane speaks RCP") {
            return Outcome::Message(Box::new(message));
        }
        if deadline.is_over() {
            return Outcome::Late;
        }
        match stream.read(&mut bytes) {
            Ok(0) => return Outcome::Closed,
            Ok(len) => input.extend_from_slice(&bytes[..len]),
            // Interrupted: a ring that this thread tried, in a dataplane of this process, is being taken down.
            Err(error)
                if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted) => {}
            Err(error) if error.kind() == ErrorKind::ConnectionReset => return Outcome::Closed,
            Err(error) => panic!("reading the wall: {error}"),
        }
    }
}

#[track_caller]
fn read_message(stream: &UnixStream, input: &mut Vec<u8>, deadline: Deadline) -> Option<DataplaneMessage> {
    match read_until(stream, input, deadline) {
        Outcome::Message(message) => Some(*message),
        Outcome::Closed => None,
        Outcome::Late => panic!("the dataplane says nothing"),
    }
}

/// A payload type, the same on both sides.
pub fn same(pt: u8, codec: Codec, clock: u32, channels: Option<u8>) -> PayloadMap {
    let payload = Payload { pt, codec, clock, channels, fmtp: None };
    PayloadMap { from: payload.clone(), to: payload }
}

/// A route of audio without processing.
pub fn audio_route(from: u8, to: u8, ssrc: u32, payloads: Vec<PayloadMap>) -> Route {
    let process = Process::Pass;
    Route {
        from: LegId(from),
        to: LegId(to),
        media: Media::Audio,
        payloads,
        process,
        ssrc,
        paused: false,
        rtx: None,
        source_rtx: Vec::new(),
        limit_kbps: None,
        fill: None,
    }
}

/// A browser leg.
pub fn browser_leg(id: u8, remote: Option<IceRemote>) -> Leg {
    let kind = LegKind::IceDtls(IceDtlsLeg { remote, ..IceDtlsLeg::default() });
    Leg { id: LegId(id), media_timeout_ms: None, kind }
}

/// A plain RTP leg whose peer listens at `remote` and the port above.
pub fn rtp_leg(id: u8, remote: Option<SocketAddr>) -> Leg {
    let remote = remote.map(|rtp| {
        let rtcp = SocketAddr::new(rtp.ip(), rtp.port() + 1);
        RtpRemote { rtp, rtcp, rtcp_mux: false }
    });
    let kind = LegKind::Rtp(RtpLeg { media: Media::Audio, local_ip: None, remote, feedback: Vec::new() });
    Leg { id: LegId(id), media_timeout_ms: None, kind }
}

/// A program of these legs and routes.
pub fn program(legs: Vec<Leg>, routes: Vec<Route>) -> RelayProgram {
    RelayProgram { label: "test".to_owned(), cname: "test".to_owned(), legs, routes }
}

/// A browser that hears itself: one leg, routed to itself, by opus and PCMU.
pub fn echo_program(remote: Option<IceRemote>) -> RelayProgram {
    let payloads = vec![same(111, Codec::Opus, 48_000, Some(2)), same(0, Codec::Pcmu, 8000, None)];
    program(vec![browser_leg(0, remote)], vec![audio_route(0, 0, 0x6761_6e67, payloads)])
}

/// The SDP answer that leads a browser which offered one audio section to an [`echo_program`], at `at` in place of the
/// dataplane's own candidates.
///
/// # Panics
/// When the leg is no browser leg.
pub fn echo_answer(reply: &PutReply, at: SocketAddr) -> String {
    let LegAddress::IceDtls { ufrag, pwd, fingerprint, .. } = &reply.legs[0].address else {
        panic!("leg 0 of an echo is a browser leg")
    };
    let lines = [
        "v=0".to_owned(),
        "o=- 1 1 IN IP4 127.0.0.1".to_owned(),
        "s=-".to_owned(),
        "t=0 0".to_owned(),
        "a=ice-lite".to_owned(),
        "a=group:BUNDLE 0".to_owned(),
        "m=audio 9 UDP/TLS/RTP/SAVPF 111".to_owned(),
        "c=IN IP4 0.0.0.0".to_owned(),
        "a=mid:0".to_owned(),
        "a=sendrecv".to_owned(),
        "a=msid:echo echo".to_owned(),
        "a=rtcp-mux".to_owned(),
        format!("a=ice-ufrag:{ufrag}"),
        format!("a=ice-pwd:{pwd}"),
        format!("a=fingerprint:sha-256 {fingerprint}"),
        "a=setup:passive".to_owned(),
        "a=rtpmap:111 opus/48000/2".to_owned(),
        format!("a=candidate:1 1 udp 2130706431 {} {} typ host", at.ip(), at.port()),
        "a=end-of-candidates".to_owned(),
    ];
    lines.join("\r\n") + "\r\n"
}

/// What the dataplane must know of a browser, from its offer.
///
/// # Panics
/// When the offer lacks credentials or a SHA-256 fingerprint.
pub fn ice_remote(offer: &str) -> IceRemote {
    let value = |name: &str| offer.lines().find_map(|line| line.trim_end().strip_prefix(name).map(str::to_owned));
    let fingerprint = value("a=fingerprint:sha-256 ").expect("a browser offers a SHA-256 fingerprint");
    let fingerprint: Fingerprint = fingerprint.parse().expect("a browser's fingerprint");
    IceRemote { ufrag: value("a=ice-ufrag:").expect("a browser offers credentials"), fingerprints: vec![fingerprint] }
}
