//! Our dataplane, programmed as control does it (docs/RELAY_PROTOCOL.md).

use std::{
    io::{self, Read, Write},
    net::{IpAddr, Ipv4Addr, SocketAddr},
    os::unix::net::UnixStream,
    path::Path,
    process::Command,
    time::{Duration, Instant},
};

use gangway_dataplane::stats_map;
use gangway_shared::{
    ids::{Generation, LegId, RelayId},
    rcp::{
        Codec, ControlMessage, DataplaneMessage, Hello, IceDtlsLeg, IceRemote, Leg, LegAddress, LegKind, Media,
        NodeStats, PROTOCOL, Payload, PayloadMap, Process, PutReply, RelayProgram, Reply, Request, Route, RtpLeg,
        RtpRemote, SrtpKeys, SrtpLeg, frame,
    },
    secret::Secret,
};
use tempfile::TempDir;

use super::{MEDIA_PORTS, System, Watcher, v4};
use crate::{
    call::{Answer, CallSpec, EndSpec, IceAnswer, Media as CallMedia, Security},
    process::{Place, Running, Scheduling},
};

/// The program must listen, and answer, within this.
const WITHIN: Duration = Duration::from_secs(10);

/// A control of the dataplane at a socket, as small as it can be. It blocks.
pub struct Control {
    stream: UnixStream,
    input: Vec<u8>,
    next_id: u64,
    epoch: u32,
    engine: String,
}

impl Control {
    /// Connects to a dataplane that listens, or soon will while `may_come`, and takes over from any control before.
    ///
    /// # Errors
    /// When nobody listens within ten seconds, or speaks another protocol.
    pub fn connect(socket: &Path, mut may_come: impl FnMut() -> bool) -> io::Result<Self> {
        let deadline = Instant::now() + WITHIN;
        let stream = loop {
            match UnixStream::connect(socket) {
                Ok(stream) => break stream,
                Err(error) if Instant::now() > deadline || !may_come() => return Err(error),
                Err(_) => std::thread::sleep(Duration::from_millis(5)),
            }
        };
        stream.set_read_timeout(Some(WITHIN))?;
        let mut control = Control { stream, input: Vec::new(), next_id: 1, epoch: 0, engine: String::new() };
        let DataplaneMessage::Hello(theirs) = control.read()? else {
            return Err(io::Error::other("the dataplane does not greet"));
        };
        control.epoch = theirs.epoch + 1;
        let engine = theirs.engine.unwrap_or_default();
        control.engine = engine.trim_start_matches("io_").to_owned();
        let hello = Hello {
            protocol: PROTOCOL,
            instance: "bench".to_owned(),
            epoch: control.epoch,
            engine: None,
            workers: None,
            capabilities: Vec::new(),
            webrtc: Vec::new(),
            media_ports: None,
            resume_from: None,
        };
        control.write(&ControlMessage::Hello(hello))?;
        Ok(control)
    }

    fn write(&mut self, message: &ControlMessage) -> io::Result<()> {
        let mut bytes = Vec::new();
        frame::encode(message, &mut bytes).map_err(io::Error::other)?;
        self.stream.write_all(&bytes)
    }

    fn read(&mut self) -> io::Result<DataplaneMessage> {
        let mut bytes = [0; 16 * 1024];
        loop {
            if let Some(message) = frame::decode(&mut self.input).map_err(io::Error::other)? {
                return Ok(message);
            }
            let len = match self.stream.read(&mut bytes) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                read => read?,
            };
            if len == 0 {
                return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the dataplane closed the connection"));
            }
            self.input.extend_from_slice(&bytes[..len]);
        }
    }

    /// Asks for something; events that come before the answer are passed over.
    ///
    /// # Errors
    /// The dataplane's refusal, or the end of the connection.
    pub fn ask(&mut self, request: Request) -> io::Result<Reply> {
        let wanted = self.next_id;
        self.next_id += 1;
        self.write(&ControlMessage::Request { id: wanted, request })?;
        loop {
            match self.read()? {
                DataplaneMessage::Ok { id, reply } if id == wanted => return Ok(reply),
                DataplaneMessage::Error { id, error } if id == wanted => {
                    return Err(io::Error::other(format!(
                        "refused: {:?} {} {}",
                        error.code, error.field, error.reason
                    )));
                }
                _ => {}
            }
        }
    }

    /// Makes the relay of a call.
    ///
    /// # Errors
    /// The dataplane's refusal.
    pub fn make(&mut self, call: &CallSpec) -> io::Result<[Answer; 2]> {
        let relay = self.relay_id(call.number);
        match self.ask(Request::Put { relay, generation: Generation(1), program: program(call) })? {
            Reply::Put(reply) => answers(&reply),
            other => Err(io::Error::other(format!("a put was answered by {other:?}"))),
        }
    }

    /// The relay of this control's call of that number.
    #[must_use]
    pub fn relay_id(&self, number: u32) -> RelayId {
        RelayId::new(1, self.epoch, u64::from(number) + 1)
    }

    /// The engine that the dataplane says it has, by the name that settings have for it.
    #[must_use]
    pub fn engine(&self) -> &str {
        &self.engine
    }

    /// Goes without a word.
    pub fn hang_up(&mut self) {
        // It may be gone already.
        let _ = self.stream.shutdown(std::net::Shutdown::Both);
    }

    /// Counters of the node.
    ///
    /// # Errors
    /// The end of the connection.
    pub fn node(&mut self) -> io::Result<NodeStats> {
        match self.ask(Request::Query { relay: None, from_worker: 0 })? {
            Reply::QueryNode(stats) => Ok(stats),
            other => Err(io::Error::other(format!("a query was answered by {other:?}"))),
        }
    }
}

/// A `gangway-dataplane` of our own.
pub struct Gangway {
    running: Running,
    control: Control,
    data: TempDir,
}

impl Gangway {
    /// Starts one worker on loopback with room for thousands of calls; `sets` are further settings as `key=value`.
    ///
    /// # Errors
    /// When it does not start.
    pub fn start(binary: &Path, sets: &[String], place: impl Into<Place>) -> io::Result<Self> {
        let place = place.into();
        let data = tempfile::tempdir()?;
        let (from, to) = MEDIA_PORTS;
        let mut all = vec![
            "ip=127.0.0.1".to_owned(),
            "webrtc_port=auto".to_owned(),
            format!("media_port_from={from}"),
            format!("media_port_to={to}"),
            "media_port_quarantine_ms=0".to_owned(),
            "dataplane_workers=1".to_owned(),
            format!("dataplane_cores={}", place.core.map_or_else(|| "none".to_owned(), |core| core.to_string())),
            format!("dataplane_scheduling={}", scheduling(place)),
            "dataplane_relays_max=8192".to_owned(),
            "log_level=warn".to_owned(),
            format!("data_dir={}", data.path().display()),
        ];
        all.extend_from_slice(sets);
        let mut command = Command::new(binary);
        for set in all {
            command.arg("--set").arg(set);
        }
        let mut running = super::start(command, place)?;
        let control = Control::connect(&data.path().join("dataplane.sock"), || running.is_alive())?;
        Ok(Gangway { running, control, data })
    }

    /// What it is asked by.
    pub fn control(&mut self) -> &mut Control {
        &mut self.control
    }

    /// Its control goes without a word.
    pub fn hang_up(&mut self) {
        self.control.hang_up();
    }

    /// The socket that controls connect to.
    #[must_use]
    pub fn socket(&self) -> std::path::PathBuf {
        self.data.path().join("dataplane.sock")
    }

    /// Whether it still runs.
    pub fn is_alive(&mut self) -> bool {
        self.running.is_alive()
    }
}

impl System for Gangway {
    fn pid(&self) -> u32 {
        self.running.pid()
    }

    fn add(&mut self, calls: &[CallSpec]) -> io::Result<Vec<[Answer; 2]>> {
        calls.iter().map(|call| self.control.make(call)).collect()
    }

    fn watcher(&self) -> io::Result<Option<Watcher>> {
        // The manager's name of the statistics lies beside its socket.
        let map = self.socket().with_file_name(stats_map::LINK_NAME);
        Ok(Some(Box::new(move || stats_map::read(&map).map(drop).map_err(io::Error::other))))
    }
}

/// What `dataplane_scheduling` says of workers at such a place. What is started on one core cannot see that there are others, so it is told.
pub(super) fn scheduling(place: Place) -> &'static str {
    let goes_first = place.goes_first() && place.scheduling.allowed() == Scheduling::RealTime;
    if goes_first { "realtime" } else { "fair" }
}

fn leg(id: u8, end: &EndSpec, media: Media) -> Leg {
    let remote = RtpRemote { rtp: end.rtp.into(), rtcp: end.rtcp.into(), rtcp_mux: false };
    let rtp = RtpLeg { media, local_ip: None, remote: Some(remote), feedback: Vec::new() };
    let kind = match &end.security {
        Security::Plain => LegKind::Rtp(rtp),
        Security::Srtp { suite, send, receive } => {
            let (local, remote) = (Secret::new(receive.clone()), Secret::new(send.clone()));
            LegKind::Srtp(SrtpLeg { rtp, keys: SrtpKeys { suite: *suite, local, remote } })
        }
        Security::Ice { ufrag, fingerprint, .. } => {
            let remote = IceRemote { ufrag: ufrag.clone(), fingerprints: vec![*fingerprint] };
            LegKind::IceDtls(IceDtlsLeg { remote: Some(remote), ..IceDtlsLeg::default() })
        }
    };
    Leg { id: LegId(id), media_timeout_ms: None, kind }
}

/// The program of a call: its two ends and a route each way.
#[must_use]
pub fn program(call: &CallSpec) -> RelayProgram {
    let (media, payload) = match call.media {
        CallMedia::Audio => {
            (Media::Audio, Payload { pt: 0, codec: Codec::Pcmu, clock: 8000, channels: None, fmtp: None })
        }
        CallMedia::Video => {
            let fmtp = Some("packetization-mode=1;profile-level-id=42e01f".to_owned());
            (Media::Video, Payload { pt: 96, codec: Codec::H264, clock: 90_000, channels: None, fmtp })
        }
    };
    let route = |from: u8, to: u8| Route {
        from: LegId(from),
        to: LegId(to),
        media,
        payloads: vec![PayloadMap { from: payload.clone(), to: payload.clone() }],
        process: Process::Pass,
        ssrc: 0x2000_0000 + 2 * call.number + u32::from(from),
        paused: false,
        rtx: None,
        source_rtx: Vec::new(),
        limit_kbps: None,
        fill: None,
    };
    RelayProgram {
        label: format!("bench-{}", call.number),
        cname: format!("bench-{}", call.number),
        legs: vec![leg(0, &call.ends[0], media), leg(1, &call.ends[1], media)],
        routes: vec![route(0, 1), route(1, 0)],
    }
}

fn answers(reply: &PutReply) -> io::Result<[Answer; 2]> {
    let answer = |at: usize| {
        let leg = reply.legs.get(at).ok_or_else(|| io::Error::other("a put was answered without its legs"))?;
        match &leg.address {
            LegAddress::Rtp { rtp, rtcp } => Ok(Answer { rtp: v4(*rtp)?, rtcp: v4(*rtcp)?, key: None, ice: None }),
            LegAddress::IceDtls { candidates, ufrag, pwd, .. } => {
                let nowhere = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0);
                let to = v4(candidates.iter().copied().find(SocketAddr::is_ipv4).unwrap_or(nowhere))?;
                let ice = IceAnswer { ufrag: ufrag.clone(), pwd: pwd.clone(), begins: false };
                Ok(Answer { rtp: to, rtcp: to, key: None, ice: Some(ice) })
            }
            LegAddress::None => Err(io::Error::other("a leg without an address")),
        }
    };
    Ok([answer(0)?, answer(1)?])
}
