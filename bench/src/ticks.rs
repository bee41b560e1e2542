//! How punctual one worker is with sound of its own: thousands of streams of silence and digits, heard by one socket that the kernel
//! stamps, and what each of their packets costs. See docs/BENCHMARKS.md.

pub mod beat;

use std::{
    io,
    net::{Ipv4Addr, SocketAddr, SocketAddrV4, UdpSocket},
    path::{Path, PathBuf},
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    thread,
    time::{Duration, Instant},
};

use gangway_dataplane::{affinity, stats_map};
use gangway_shared::{
    ids::{Generation, LegId},
    rcp::{
        ActAction, Codec, DtmfDigits, Fill, IceDtlsLeg, Leg, LegKind, Media, Payload, PayloadMap, Process,
        RelayProgram, Reply, Request, Route, RtpLeg, RtpRemote, Sound,
    },
};
use rustix::net::sockopt::set_socket_recv_buffer_size_force;
use serde::{Deserialize, Serialize};

use self::beat::{Beats, Heard, Punctuality, Spread};
use crate::{
    load::drops_at,
    process::{CpuMark, sibling},
    sys::{CALL_MAX, Inbox, stamp_arrivals},
    systems::{
        System,
        gangway::{Control, Gangway},
        v4,
    },
};

/// Length of each digit, milliseconds: long enough for a stream of its own.
const DIGIT_MS: u16 = 2000;
/// Payload types of the streams.
const SILENCE_TYPE: u8 = 0;
const EVENT_TYPE: u8 = 101;
/// SSRC of the first stream; the others count up.
const FIRST_SSRC: u32 = 0x3000_0000;
/// Room for what comes while the receiver is kept from its core, bytes.
const BUFFER_BYTES: usize = 64 << 20;
/// A receiver that nothing comes to looks whether it is to stop after so long.
const LOOK_UP: Duration = Duration::from_millis(5);
/// RTP in front of its payload.
const HEADER_LEN: usize = 12;

/// What is run.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Engine of the dataplane.
    pub engine: String,
    /// Its program; the one built beside this one unless told.
    pub binary: Option<PathBuf>,
    /// Streams of silence.
    pub streams: u32,
    /// From packet to packet of each, milliseconds.
    pub ptime_ms: u16,
    /// So many of them are played digits too.
    pub digits: u32,
    /// Before the first window.
    pub warm_up: Duration,
    /// Each window.
    pub window: Duration,
    /// Rounds: of each kind of window so many, by turns.
    pub rounds: u32,
    /// Who reads the statistics in windows of their own.
    pub readers: Vec<Reader>,
    /// How often such a reader looks, a second.
    pub reads_per_s: u32,
    /// Core of the worker.
    pub relay_core: Option<usize>,
    /// Core of the receiver.
    pub core: Option<usize>,
}

/// How statistics are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reader {
    /// From the memory that the workers write to.
    Map,
    /// By `Query` of the node.
    Query,
}

/// One window.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Window {
    /// Who read the statistics in it.
    pub reader: Option<Reader>,
    /// How often.
    pub reads: u64,
    /// Packets heard.
    pub packets: u64,
    /// CPU time of all threads of the dataplane for each, nanoseconds.
    pub ns_per_packet: f64,
    /// Share of a core that the dataplane took, from 0 to 1.
    pub cpu_share: f64,
}

/// What was found.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Report {
    /// Engine.
    pub engine: String,
    /// Streams.
    pub streams: u32,
    /// From packet to packet of each, milliseconds.
    pub ptime_ms: u16,
    /// Of them with digits.
    pub digits: u32,
    /// Streams that were heard.
    pub heard: usize,
    /// Packets in all windows.
    pub packets: u64,
    /// Numbers that never came.
    pub lost: u64,
    /// Beats that the worker left out because it was late by more than a packet time.
    pub left_out: u64,
    /// Packets that the receiver's own socket had no room for: the receiver was the limit.
    pub receiver_drops: u64,
    /// How much later than its beat each packet of silence came.
    pub silence: Punctuality,
    /// The same of packets of digits.
    pub events: Punctuality,
    /// How the streams' beats lie in the packet time.
    pub spread: Spread,
    /// Median cost of a packet while nobody read the statistics, nanoseconds.
    pub ns_per_packet: f64,
    /// By reader: median cost with it through that without.
    pub read_ratios: Vec<(Reader, f64)>,
    /// All windows, in order.
    pub windows: Vec<Window>,
}

/// Runs it.
///
/// # Errors
/// When the dataplane does not start or refuses a stream.
///
/// # Panics
/// When a thread cannot be made.
pub fn run(plan: &Plan) -> io::Result<Report> {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
    socket.set_read_timeout(Some(LOOK_UP))?;
    stamp_arrivals(&socket)?;
    // Only who may administer the network gets more than net.core.rmem_max; own drops are reported either way.
    let _ = set_socket_recv_buffer_size_force(&socket, BUFFER_BYTES);
    let address = v4(socket.local_addr()?)?;
    let binary = plan.binary.clone().map_or_else(|| sibling("gangway-dataplane"), Ok)?;
    let sets =
        [format!("dataplane_engine={}", plan.engine), format!("dataplane_legs_max={}", 4 * plan.streams.max(64))];
    let mut gangway = Gangway::start(&binary, &sets, plan.relay_core)?;
    // The manager's name of the statistics lies beside its socket.
    let map = gangway.socket().with_file_name(stats_map::LINK_NAME);
    let engine = gangway.control().engine().to_owned();
    let (stop, packets) = (AtomicBool::new(false), AtomicU64::new(0));
    thread::scope(|scope| {
        let receiver = scope.spawn(|| receive(&socket, plan, &stop, &packets));
        let windows = measure(plan, &mut gangway, address, &map, &packets);
        stop.store(true, Ordering::Release);
        let (beats, pinned) = receiver.join().expect("receiving does not panic");
        pinned?;
        Ok(report(plan, engine, &beats, windows?, drops_at(|port| port == address.port())))
    })
}

fn receive(socket: &UdpSocket, plan: &Plan, stop: &AtomicBool, packets: &AtomicU64) -> (Beats, io::Result<()>) {
    let pinned = plan.core.map_or(Ok(()), affinity::pin_to);
    let mut beats = Beats::new(plan.streams, plan.ptime_ms);
    let mut inbox = Inbox::default();
    while !stop.load(Ordering::Acquire) {
        let got = inbox.receive(socket, CALL_MAX);
        for at in 0..got {
            let datagram = inbox.datagram(at);
            if let Some((stream, heard)) = read(&datagram.buffer[..datagram.len], datagram.at_ns) {
                beats.note(stream, heard);
            }
        }
        packets.fetch_add(got as u64, Ordering::Relaxed);
        if got == 0 && plan.core.is_none() {
            // Waits for the next one. Whatever it says, the socket is looked at then.
            let _ = socket.peek(&mut [0]);
        }
    }
    (beats, pinned)
}

/// Which stream a packet is of, and what of it tells the beat.
fn read(bytes: &[u8], at_ns: u64) -> Option<(u32, Heard)> {
    let header = bytes.first_chunk::<HEADER_LEN>()?;
    let is_event = match header[1] & 0x7f {
        SILENCE_TYPE => false,
        EVENT_TYPE => true,
        _ => return None,
    };
    let event = bytes.get(HEADER_LEN..HEADER_LEN + 4).filter(|_| is_event);
    let [_, _, high, low, t0, t1, t2, t3, s0, s1, s2, s3] = *header;
    let heard = Heard {
        at_ns,
        sequence: u16::from_be_bytes([high, low]),
        timestamp: u32::from_be_bytes([t0, t1, t2, t3]),
        is_event,
        lasted: event.map_or(0, |event| u16::from_be_bytes([event[2], event[3]])),
        is_end: event.is_some_and(|event| event[1] & 0x80 != 0),
    };
    Some((u32::from_be_bytes([s0, s1, s2, s3]).checked_sub(FIRST_SSRC)?, heard))
}

fn measure(
    plan: &Plan,
    gangway: &mut Gangway,
    phone: SocketAddrV4,
    map: &Path,
    packets: &AtomicU64,
) -> io::Result<Vec<Window>> {
    let pid = gangway.pid();
    for number in 0..plan.streams {
        let control = gangway.control();
        let relay = control.relay_id(number);
        let put = Request::Put { relay, generation: Generation(1), program: program(number, phone, plan.ptime_ms) };
        control.ask(put)?;
    }
    thread::sleep(plan.warm_up);
    let kinds: Vec<Option<Reader>> = std::iter::once(None).chain(plan.readers.iter().copied().map(Some)).collect();
    let mut windows = Vec::new();
    for round in 0..plan.rounds {
        press(plan, gangway.control(), round)?;
        for at in 0..kinds.len() {
            // Another order each round.
            let reader = kinds[(at + round as usize) % kinds.len()];
            let (before, count) = (CpuMark::read(pid), packets.load(Ordering::Relaxed));
            let began = Instant::now();
            let reads = wait(plan, gangway.control(), map, reader, began)?;
            let used = CpuMark::read(pid).since(&before).run_ns as f64;
            let heard = packets.load(Ordering::Relaxed) - count;
            windows.push(Window {
                reader,
                reads,
                packets: heard,
                ns_per_packet: used / heard.max(1) as f64,
                cpu_share: used / began.elapsed().as_nanos() as f64,
            });
        }
    }
    Ok(windows)
}

/// Plays a digit on as many streams as there should be.
fn press(plan: &Plan, control: &mut Control, round: u32) -> io::Result<()> {
    for number in 0..plan.digits {
        let action = ActAction::Dtmf { leg: LegId(1), digits: DtmfDigits("5".into()), duration_ms: DIGIT_MS };
        let relay = control.relay_id(number * (plan.streams / plan.digits.max(1)));
        let action_id = u64::from(round) * u64::from(plan.streams) + u64::from(number) + 1;
        control.ask(Request::Act { relay, action_id, action })?;
    }
    Ok(())
}

/// Lets a window pass; how often the statistics were read in it.
fn wait(plan: &Plan, control: &mut Control, map: &Path, reader: Option<Reader>, began: Instant) -> io::Result<u64> {
    let mut reads = 0;
    let Some(reader) = reader else {
        thread::sleep(plan.window);
        return Ok(reads);
    };
    let period = Duration::from_secs(1) / plan.reads_per_s.max(1);
    while began.elapsed() < plan.window {
        match reader {
            Reader::Map => {
                stats_map::read(map).map_err(io::Error::other)?;
            }
            Reader::Query => match control.ask(Request::Query { relay: None, from_worker: 0 })? {
                Reply::QueryNode(_) => {}
                other => return Err(io::Error::other(format!("a query was answered by {other:?}"))),
            },
        }
        reads += 1;
        let next = period * u32::try_from(reads).unwrap_or(u32::MAX);
        thread::sleep(next.min(plan.window).saturating_sub(began.elapsed()));
    }
    Ok(reads)
}

/// A browser that never comes, and a phone that hears silence in its place.
fn program(number: u32, phone: SocketAddrV4, ptime_ms: u16) -> RelayProgram {
    let rtp = SocketAddr::V4(phone);
    let remote = RtpRemote { rtp, rtcp: SocketAddr::V4(phone), rtcp_mux: true };
    let phone = RtpLeg { media: Media::Audio, local_ip: None, remote: Some(remote), feedback: Vec::new() };
    let leg = |id, kind| Leg { id: LegId(id), media_timeout_ms: None, kind };
    let payload = |pt, codec| Payload { pt, codec, clock: 8000, channels: None, fmtp: None };
    let same = |payload: Payload| PayloadMap { from: payload.clone(), to: payload };
    let pcmu = payload(SILENCE_TYPE, Codec::Pcmu);
    let fill = Fill { sound: Sound::Silence, payload: pcmu.clone(), ptime_ms, start_after_ms: 0 };
    RelayProgram {
        label: format!("ticks-{number}"),
        cname: "ticks".to_owned(),
        legs: vec![leg(0, LegKind::IceDtls(IceDtlsLeg::default())), leg(1, LegKind::Rtp(phone))],
        routes: vec![Route {
            from: LegId(0),
            to: LegId(1),
            media: Media::Audio,
            payloads: vec![same(pcmu), same(payload(EVENT_TYPE, Codec::TelephoneEvent))],
            process: Process::Pass,
            ssrc: FIRST_SSRC + number,
            paused: false,
            rtx: None,
            source_rtx: Vec::new(),
            limit_kbps: None,
            fill: Some(fill),
        }],
    }
}

fn report(plan: &Plan, engine: String, beats: &Beats, windows: Vec<Window>, receiver_drops: u64) -> Report {
    let cost = |reader: Option<Reader>| {
        let costs = windows.iter().filter(|window| window.reader == reader).map(|window| window.ns_per_packet);
        median(costs.collect())
    };
    let alone = cost(None);
    let found = beats.find();
    Report {
        engine,
        streams: plan.streams,
        ptime_ms: plan.ptime_ms,
        digits: plan.digits,
        heard: found.heard,
        packets: found.packets,
        lost: found.lost,
        left_out: found.left_out,
        receiver_drops,
        silence: found.silence,
        events: found.events,
        spread: found.spread,
        ns_per_packet: alone,
        read_ratios: plan.readers.iter().map(|reader| (*reader, cost(Some(*reader)) / alone)).collect(),
        windows,
    }
}

fn median(mut figures: Vec<f64>) -> f64 {
    figures.sort_unstable_by(f64::total_cmp);
    figures.get(figures.len() / 2).copied().unwrap_or(f64::NAN)
}
