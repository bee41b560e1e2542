//! One worker's relays with a recorded outside, and peers that speak to it: a browser and a SIP device without a network.

use std::{
    net::SocketAddr,
    panic::{AssertUnwindSafe, catch_unwind},
    time::Duration,
};

use gangway_dataplane::{
    arena::{Arena, fail_at_step},
    ice_lite::LocalCredentials,
    relay::{
        Digits, DtlsKeys, Installed, LegHandle, LegLocal, LegSetup, Now, Output, PortId, RelayConfig, RelayLimits,
        RelaySetup, RelayTimers, Relays, Verdict,
    },
    srtp::{MasterKey, Profile, RxStream, SrtpRx, SrtpTx, TxStream},
    wire::{
        BUFFER_LEN_BYTES, DropReason, Packet, rtcp,
        rtp::{self, Rtp},
        stun::{BindingRequest, IceRole},
    },
};
use gangway_shared::{
    ids::{Generation, LegId, RelayId},
    rcp::{
        Codec, Event, Fingerprint, IceDtlsLeg, IceRemote, Leg, LegKind, Media, Payload, PayloadMap, Process,
        RelayError, RelayProgram, Route, RtpLeg, RtpRemote,
    },
    time::{Time, WallTime},
};

/// The browsers' port.
pub(crate) const MUX: PortId = PortId(0);
/// What browsers of these tests have for a certificate.
pub(crate) const CERTIFICATE: Fingerprint = Fingerprint([0xce; 32]);

pub(crate) fn addr(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

/// Everything the relay core gave out.
#[derive(Default)]
pub(crate) struct Recorder {
    pub(crate) sent: Vec<(PortId, SocketAddr, Vec<u8>)>,
    pub(crate) events: Vec<Event>,
    pub(crate) dtls: Vec<(LegHandle, SocketAddr, Vec<u8>)>,
    pub(crate) dtls_paths: Vec<(LegHandle, SocketAddr)>,
    /// Whom ports hear alone, as it was told.
    pub(crate) hears: Vec<(PortId, Option<SocketAddr>)>,
    /// Set to make every buffer and queue run out.
    pub(crate) is_full: bool,
    /// Set to crash the worker at the next DTLS datagram.
    pub(crate) panics: bool,
    /// Set to crash the worker at the event after so many.
    pub(crate) events_until_panic: Option<u32>,
}

impl Output for Recorder {
    fn transmit(&mut self, port: PortId, to: SocketAddr, build: impl FnOnce(&mut [u8]) -> usize) -> bool {
        if self.is_full {
            return false;
        }
        let mut buffer = [0; BUFFER_LEN_BYTES];
        let len = build(&mut buffer);
        if len > 0 {
            self.sent.push((port, to, buffer[..len].to_vec()));
        }
        true
    }

    fn event(&mut self, event: Event) {
        if let Some(left) = &mut self.events_until_panic {
            *left = left.checked_sub(1).expect("a crash that a test asked for");
        }
        self.events.push(event);
    }

    fn dtls(&mut self, leg: LegHandle, _: PortId, from: SocketAddr, datagram: &[u8]) -> bool {
        assert!(!self.panics, "a crash that a test asked for");
        if !self.is_full {
            self.dtls.push((leg, from, datagram.to_vec()));
        }
        !self.is_full
    }

    fn dtls_path(&mut self, leg: LegHandle, _: PortId, from: SocketAddr) {
        self.dtls_paths.push((leg, from));
    }

    fn hear(&mut self, port: PortId, peer: Option<SocketAddr>) {
        self.hears.push((port, peer));
    }
}

/// What became of a datagram.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Fed {
    Sent(PortId, SocketAddr, Vec<u8>),
    Consumed,
    Dropped(DropReason),
}

impl Fed {
    /// The datagram that left.
    #[track_caller]
    pub(crate) fn bytes(self) -> Vec<u8> {
        match self {
            Fed::Sent(_, _, bytes) => bytes,
            other => panic!("nothing was sent: {other:?}"),
        }
    }

    #[track_caller]
    pub(crate) fn to(&self) -> SocketAddr {
        match self {
            Fed::Sent(_, to, _) => *to,
            other => panic!("nothing was sent: {other:?}"),
        }
    }
}

pub(crate) fn config() -> RelayConfig {
    RelayConfig {
        worker: 0,
        timers: RelayTimers::default(),
        mux_ports: vec![MUX],
        seed: 0x5eed,
        history_bytes: 1 << 20,
        new_addresses_per_s: 1000,
    }
}

pub(crate) struct World {
    /// `None` only while the relays are being rebuilt.
    relays: Option<Relays>,
    pub(crate) now: Now,
    pub(crate) out: Recorder,
}

impl World {
    pub(crate) fn new() -> Self {
        World::of(RelayLimits { relays: 8, legs: 16, routes: 32 })
    }

    pub(crate) fn of(limits: RelayLimits) -> Self {
        World::with(limits, config())
    }

    pub(crate) fn with(limits: RelayLimits, config: RelayConfig) -> Self {
        let relays = Relays::new(Arena::create(limits).unwrap(), config);
        let now = Now { mono: Time::from_millis(1_000_000), wall: WallTime::from_unix_micros(1_790_000_000_000_000) };
        World { relays: Some(relays), now, out: Recorder::default() }
    }

    pub(crate) fn relays(&mut self) -> &mut Relays {
        self.relays.as_mut().expect("only `restart` takes them")
    }

    /// Ends the relay process and starts another on the same memory.
    pub(crate) fn restart(&mut self) {
        let fd = self.relays.take().expect("only `restart` takes them").into_arena().into_fd();
        self.relays = Some(Relays::rebuild(Arena::map(fd).unwrap(), config(), self.now, &mut self.out));
        self.check();
    }

    /// The same, but the new process is killed at a step of its start, and yet another goes on. False when its start has fewer steps.
    pub(crate) fn restart_cut_at(&mut self, step: u32) -> bool {
        let fd = self.relays.take().expect("only `restart` takes them").into_arena().into_fd();
        let rebuild = |fd, out: &mut Recorder| Relays::rebuild(Arena::map(fd).unwrap(), config(), self.now, out);
        let again = fd.try_clone().unwrap();
        fail_at_step(Some(step));
        let done = catch_unwind(AssertUnwindSafe(|| rebuild(fd, &mut self.out)));
        fail_at_step(None);
        let is_cut = done.is_err();
        self.relays = Some(done.unwrap_or_else(|_| rebuild(again, &mut self.out)));
        self.check();
        is_cut
    }

    #[track_caller]
    pub(crate) fn check(&mut self) {
        if let Err(broken) = self.relays().check_invariants() {
            panic!("{broken}");
        }
    }

    #[track_caller]
    pub(crate) fn feed(&mut self, port: PortId, from: SocketAddr, bytes: &[u8]) -> Fed {
        let mut buffer = [0; BUFFER_LEN_BYTES];
        buffer[64..64 + bytes.len()].copy_from_slice(bytes);
        let mut packet = Packet::new(&mut buffer, 64, bytes.len());
        let relays = self.relays.as_mut().expect("only `restart` takes them");
        match relays.on_datagram(self.now, port, from, &mut packet, &mut self.out) {
            Verdict::Forward { port, to } => Fed::Sent(port, to, packet.bytes().to_vec()),
            Verdict::Consumed => Fed::Consumed,
            Verdict::Drop(reason) => Fed::Dropped(reason),
        }
    }

    /// Lets time pass, with every timer at its time.
    pub(crate) fn advance(&mut self, span: Duration) {
        let end = self.now.mono + span;
        while let Some(at) = self.relays().next_deadline().filter(|at| *at <= end) {
            self.jump(at.max(self.now.mono));
            let relays = self.relays.as_mut().expect("only `restart` takes them");
            relays.on_timer(self.now, &mut self.out);
        }
        self.jump(end);
    }

    pub(crate) fn advance_ms(&mut self, ms: u64) {
        self.advance(Duration::from_millis(ms));
    }

    /// Lets time pass while the worker stands still; then it does all that is due, in one round.
    pub(crate) fn sleep_ms(&mut self, ms: u64) {
        self.jump(self.now.mono + Duration::from_millis(ms));
        let relays = self.relays.as_mut().expect("only `restart` takes them");
        relays.on_timer(self.now, &mut self.out);
    }

    fn jump(&mut self, to: Time) {
        let passed = to.since(self.now.mono).as_micros() as u64;
        self.now = Now { mono: to, wall: WallTime::from_unix_micros(self.now.wall.as_unix_micros() + passed) };
    }

    pub(crate) fn try_put(
        &mut self,
        number: u64,
        generation: u32,
        program: &RelayProgram,
    ) -> Result<Installed, RelayError> {
        let setup = setup(number, generation, program);
        let relays = self.relays.as_mut().expect("only `restart` takes them");
        let result = relays.put(self.now, &setup, &mut self.out);
        self.check();
        result
    }

    #[track_caller]
    pub(crate) fn put(&mut self, number: u64, generation: u32, program: &RelayProgram) -> Installed {
        self.try_put(number, generation, program).unwrap()
    }

    pub(crate) fn remove(&mut self, number: u64) -> bool {
        let relays = self.relays.as_mut().expect("only `restart` takes them");
        let was_there = relays.remove(relay_id(number), &mut self.out);
        self.check();
        was_there
    }

    pub(crate) fn install_keys(&mut self, now: Now, leg: LegHandle, keys: &DtlsKeys) -> bool {
        let relays = self.relays.as_mut().expect("only `restart` takes them");
        relays.install_keys(now, leg, keys, &mut self.out)
    }

    pub(crate) fn has_consent(&mut self, leg: LegHandle) -> bool {
        let now = self.now;
        self.relays().has_consent(now, leg)
    }

    pub(crate) fn doubt_consent(&mut self, leg: LegHandle) {
        let now = self.now;
        self.relays().doubt_consent(now, leg);
    }

    pub(crate) fn keyframe(&mut self, number: u64, leg: u8) -> bool {
        let relays = self.relays.as_mut().expect("only `restart` takes them");
        relays.request_keyframe(self.now, relay_id(number), LegId(leg), &mut self.out)
    }

    pub(crate) fn play_digits(&mut self, leg: LegId, digits: Digits) {
        let relays = self.relays.as_mut().expect("only `restart` takes them");
        relays.play_digits(self.now, relay_id(1), leg, digits, &mut self.out);
        self.check();
    }

    /// Events since the last call, without the counters of ended legs.
    pub(crate) fn events(&mut self) -> Vec<Event> {
        let events = std::mem::take(&mut self.out.events);
        events.into_iter().filter(|event| !matches!(event, Event::LegStats { .. })).collect()
    }

    pub(crate) fn drops(&mut self, reason: DropReason) -> u64 {
        self.relays().worker_stats().drops[reason as usize]
    }
}

pub(crate) fn relay_id(number: u64) -> RelayId {
    RelayId::new(1, 1, number)
}

/// Ports of a leg of a relay as these tests number them.
pub(crate) fn ports(relay: u64, leg: LegId) -> (PortId, PortId) {
    let rtp = 2 + (relay as u32 * 8 + u32::from(leg.0)) * 2;
    (PortId(rtp), PortId(rtp + 1))
}

pub(crate) fn credentials(relay: u64, leg: LegId) -> LocalCredentials {
    let ufrag = format!("u{relay:05}{}", leg.0);
    LocalCredentials::new(ufrag.as_bytes(), b"passwordpasswordpassword").unwrap()
}

pub(crate) fn setup(number: u64, generation: u32, program: &RelayProgram) -> RelaySetup {
    let local = |leg: &Leg| match leg.kind {
        LegKind::IceDtls(_) => LegLocal::IceDtls { credentials: credentials(number, leg.id) },
        _ => {
            let (rtp, rtcp) = ports(number, leg.id);
            LegLocal::Rtp { rtp, rtcp, lease: u64::from(rtp.0) }
        }
    };
    let legs = program.legs.iter().map(|leg| LegSetup { id: leg.id, local: local(leg) }).collect();
    RelaySetup {
        relay: relay_id(number),
        generation: Generation(generation),
        digest: u64::from(generation),
        program: program.clone(),
        legs,
    }
}

pub(crate) fn payload(pt: u8, codec: Codec, clock: u32) -> Payload {
    Payload { pt, codec, clock, channels: None, fmtp: None }
}

pub(crate) fn rtp_leg(id: u8, remote: Option<&str>) -> Leg {
    let remote = remote.map(|rtp| {
        let rtp = addr(rtp);
        RtpRemote { rtp, rtcp: SocketAddr::new(rtp.ip(), rtp.port() + 1), rtcp_mux: false }
    });
    let kind = LegKind::Rtp(RtpLeg { media: Media::Audio, local_ip: None, remote, feedback: Vec::new() });
    Leg { id: LegId(id), media_timeout_ms: None, kind }
}

pub(crate) fn ice_leg(id: u8, fingerprint: Option<Fingerprint>) -> Leg {
    let remote = fingerprint.map(|fingerprint| IceRemote { ufrag: "remote".into(), fingerprints: vec![fingerprint] });
    let kind = LegKind::IceDtls(IceDtlsLeg { remote, ..IceDtlsLeg::default() });
    Leg { id: LegId(id), media_timeout_ms: None, kind }
}

pub(crate) fn route(from: u8, to: u8, ssrc: u32, maps: &[(Payload, Payload)]) -> Route {
    let payloads = maps.iter().map(|(from, to)| PayloadMap { from: from.clone(), to: to.clone() }).collect();
    Route {
        from: LegId(from),
        to: LegId(to),
        media: Media::Audio,
        payloads,
        process: Process::G711,
        ssrc,
        paused: false,
        rtx: None,
        source_rtx: Vec::new(),
        limit_kbps: None,
        fill: None,
    }
}

pub(crate) fn program(legs: Vec<Leg>, routes: Vec<Route>) -> RelayProgram {
    RelayProgram { label: "test".into(), cname: "cname".into(), legs, routes }
}

/// PCMU both ways between a browser leg 0 and a plain leg 1.
pub(crate) fn call(fingerprint: Option<Fingerprint>, remote: Option<&str>) -> RelayProgram {
    let pcmu = payload(0, Codec::Pcmu, 8000);
    program(
        vec![ice_leg(0, fingerprint), rtp_leg(1, remote)],
        vec![route(0, 1, 0x1001, &[(pcmu.clone(), pcmu.clone())]), route(1, 0, 0x2002, &[(pcmu.clone(), pcmu)])],
    )
}

/// What is read of an RTP packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Heard {
    pub(crate) pt: u8,
    pub(crate) marker: bool,
    pub(crate) sequence: u16,
    pub(crate) timestamp: u32,
    pub(crate) ssrc: u32,
    pub(crate) payload: Vec<u8>,
}

#[track_caller]
pub(crate) fn hear(bytes: &[u8]) -> Heard {
    let rtp = Rtp::parse(bytes).expect("RTP");
    assert_eq!(rtp.header_len(), rtp::FIXED_HEADER_LEN, "extensions and CSRCs go no further");
    Heard {
        pt: rtp.payload_type(),
        marker: rtp.marker(),
        sequence: rtp.sequence(),
        timestamp: rtp.timestamp(),
        ssrc: rtp.ssrc(),
        payload: rtp.payload().to_vec(),
    }
}

/// A source of RTP: the numbers of the next packet.
#[derive(Clone, Debug)]
pub(crate) struct Source {
    pub(crate) ssrc: u32,
    pub(crate) sequence: u16,
    pub(crate) timestamp: u32,
    pub(crate) pt: u8,
}

impl Source {
    pub(crate) fn new(ssrc: u32, pt: u8) -> Self {
        Source { ssrc, sequence: 1000, timestamp: 5000, pt }
    }

    /// The next packet, 20 ms of an 8 kHz clock after the last.
    pub(crate) fn packet(&mut self, payload: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0x80, self.pt];
        bytes.extend(self.sequence.to_be_bytes());
        bytes.extend(self.timestamp.to_be_bytes());
        bytes.extend(self.ssrc.to_be_bytes());
        bytes.extend(payload);
        self.sequence = self.sequence.wrapping_add(1);
        self.timestamp = self.timestamp.wrapping_add(160);
        bytes
    }
}

/// The peer of a browser leg.
pub(crate) struct Browser {
    pub(crate) at: SocketAddr,
    pub(crate) handle: LegHandle,
    pub(crate) source: Source,
    local: LocalCredentials,
    remote_ufrag: &'static str,
    keys: DtlsKeys,
    tx: SrtpTx,
    tx_streams: Vec<TxStream>,
    rx: SrtpRx,
    rx_streams: Vec<RxStream>,
    transaction: u8,
    /// Whether a handshake has been completed; for callers that keep track.
    pub(crate) is_keyed: bool,
}

fn master(profile: Profile, fill: u8) -> MasterKey {
    MasterKey::new(profile, &vec![fill; profile.key_len()], &vec![fill ^ 0xff; profile.salt_len()]).unwrap()
}

impl Browser {
    pub(crate) fn new(relay: u64, leg: u8, handle: LegHandle, at: &str, profile: Profile, fill: u8) -> Self {
        let (ours, theirs) = (master(profile, fill), master(profile, fill + 1));
        Browser {
            at: addr(at),
            handle,
            source: Source::new(0xb0 + u32::from(fill), 0),
            local: credentials(relay, LegId(leg)),
            remote_ufrag: "remote",
            keys: DtlsKeys { ours, theirs, peer_fingerprint: CERTIFICATE },
            tx: SrtpTx::new(&theirs).unwrap(),
            tx_streams: Vec::new(),
            rx: SrtpRx::new(&ours).unwrap(),
            rx_streams: Vec::new(),
            transaction: 0,
            is_keyed: false,
        }
    }

    /// What its handshake agrees on.
    pub(crate) fn keys(&self) -> DtlsKeys {
        self.keys
    }

    /// A check as a browser sends it.
    pub(crate) fn check(&mut self, is_nominated: bool) -> Vec<u8> {
        self.transaction = self.transaction.wrapping_add(1);
        let username = format!("{}:{}", String::from_utf8_lossy(self.local.ufrag()), self.remote_ufrag);
        let request = BindingRequest {
            transaction: [self.transaction; 12],
            username: username.as_bytes(),
            password: self.local.pwd(),
            priority: 1,
            role: IceRole::Controlling(7),
            use_candidate: is_nominated,
        };
        let mut bytes = [0; 256];
        let len = request.encode(&mut bytes).unwrap();
        bytes[..len].to_vec()
    }

    pub(crate) fn send_check(&mut self, world: &mut World, is_nominated: bool) -> Fed {
        let check = self.check(is_nominated);
        world.feed(MUX, self.at, &check)
    }

    pub(crate) fn handshake(&self, world: &mut World, fingerprint: Fingerprint) -> bool {
        let keys = DtlsKeys { peer_fingerprint: fingerprint, ..self.keys };
        let now = world.now;
        world.install_keys(now, self.handle, &keys)
    }

    /// Checks, nominates and completes the handshake.
    #[track_caller]
    pub(crate) fn connect(&mut self, world: &mut World) {
        assert!(matches!(self.send_check(world, true), Fed::Sent(MUX, to, _) if to == self.at));
        assert!(self.handshake(world, CERTIFICATE));
    }

    /// Takes other keys, as after another handshake.
    pub(crate) fn rekey(&mut self, profile: Profile, fill: u8) {
        self.take_keys(master(profile, fill), master(profile, fill + 1));
    }

    /// Takes the keys that a real handshake agreed on.
    pub(crate) fn take_keys(&mut self, ours: MasterKey, theirs: MasterKey) {
        (self.keys.ours, self.keys.theirs) = (ours, theirs);
        (self.tx, self.rx) = (SrtpTx::new(&theirs).unwrap(), SrtpRx::new(&ours).unwrap());
        self.tx_streams.clear();
        self.rx_streams.clear();
    }

    pub(crate) fn protect(&mut self, bytes: &[u8]) -> Vec<u8> {
        self.sealed(bytes, rtp::ssrc_of(bytes), SrtpTx::protect_rtp)
    }

    pub(crate) fn protect_rtcp(&mut self, bytes: &[u8]) -> Vec<u8> {
        self.sealed(bytes, rtcp::sender_ssrc_of(bytes), SrtpTx::protect_rtcp)
    }

    fn sealed(
        &mut self,
        bytes: &[u8],
        ssrc: u32,
        protect: impl Fn(&SrtpTx, &mut TxStream, &mut Packet<'_>) -> Result<(), DropReason>,
    ) -> Vec<u8> {
        let mut buffer = [0; BUFFER_LEN_BYTES];
        buffer[..bytes.len()].copy_from_slice(bytes);
        let mut packet = Packet::new(&mut buffer, 0, bytes.len());
        let known = self.tx_streams.iter().position(|stream| stream.ssrc() == ssrc);
        let index = known.unwrap_or_else(|| {
            self.tx_streams.push(TxStream::new(ssrc));
            self.tx_streams.len() - 1
        });
        protect(&self.tx, &mut self.tx_streams[index], &mut packet).unwrap();
        packet.bytes().to_vec()
    }

    /// The next packet of its microphone.
    pub(crate) fn talk(&mut self, payload: &[u8]) -> Vec<u8> {
        let packet = self.source.packet(payload);
        self.protect(&packet)
    }

    pub(crate) fn say(&mut self, world: &mut World, payload: &[u8]) -> Fed {
        let packet = self.talk(payload);
        world.feed(MUX, self.at, &packet)
    }

    /// Opens an SRTP packet that was sent to it.
    #[track_caller]
    pub(crate) fn hear(&mut self, bytes: &[u8]) -> Heard {
        hear(&self.open(bytes, rtp::ssrc_of(bytes), SrtpRx::unprotect_rtp).expect("authentic and new"))
    }

    /// Opens an SRTCP compound that was sent to it.
    #[track_caller]
    pub(crate) fn hear_rtcp(&mut self, bytes: &[u8]) -> Vec<u8> {
        self.open(bytes, rtcp::sender_ssrc_of(bytes), SrtpRx::unprotect_rtcp).expect("authentic and new")
    }

    pub(crate) fn open(
        &mut self,
        bytes: &[u8],
        ssrc: u32,
        unprotect: impl Fn(&SrtpRx, &mut RxStream, &mut Packet<'_>) -> Result<(), DropReason>,
    ) -> Result<Vec<u8>, DropReason> {
        let mut buffer = [0; BUFFER_LEN_BYTES];
        buffer[..bytes.len()].copy_from_slice(bytes);
        let mut packet = Packet::new(&mut buffer, 0, bytes.len());
        let known = self.rx_streams.iter().position(|stream| stream.ssrc() == ssrc);
        let index = known.unwrap_or_else(|| {
            self.rx_streams.push(RxStream::new(ssrc));
            self.rx_streams.len() - 1
        });
        unprotect(&self.rx, &mut self.rx_streams[index], &mut packet)?;
        Ok(packet.bytes().to_vec())
    }
}
