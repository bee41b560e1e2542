//! Nothing is allocated for a packet that is forwarded, whatever it has to go through; memory of relays is touched when they come.

#![allow(unsafe_code, reason = "a counting allocator implements an unsafe trait")]

use std::{
    alloc::{GlobalAlloc, Layout, System},
    cell::Cell,
    net::{SocketAddr, UdpSocket},
    process,
    sync::Arc,
    time::Duration,
};

use gangway_dataplane::{
    arena::Arena,
    engine::{
        Engine, Wake,
        choice::{Choice, Wanted, choose, ring},
        epoll::EpollEngine,
    },
    mailbox::mailbox,
    registry::Digest,
    relay::{LegHandle, Output, PortId, RelayConfig, RelayLimits, Relays, Verdict},
    srtp::Profile,
    wire::{BUFFER_LEN_BYTES, Packet, rtcp, rtp},
    worker::{Command, LegSource, Put, Report, Worker},
};
use gangway_shared::{
    ids::{Generation, LegId},
    rcp::{Codec, Event, Fill, LegKind, Media, PayloadMap, RtpRemote, Sound, Tone},
};

use crate::{
    repair::{Call, video_call},
    world::{
        Browser, CERTIFICATE, MUX, Recorder, Source, World, addr, call, config, credentials, payload, ports, relay_id,
        setup,
    },
};

struct Counting;

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

fn count() {
    // A thread that is ending has no counter any more, and nothing to measure.
    let _ = ALLOCATIONS.try_with(|allocations| allocations.set(allocations.get() + 1));
}

// SAFETY: every call is passed to the system's allocator unchanged; counting allocates nothing.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: the caller keeps the contract of `alloc`, which is passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: as `alloc`.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        // SAFETY: the caller keeps the contract of `dealloc`, and `ptr` came from `System`.
        unsafe { System.dealloc(ptr, layout) }
    }

    unsafe fn realloc(&self, ptr: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        count();
        // SAFETY: as `dealloc`.
        unsafe { System.realloc(ptr, layout, new_size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

#[test]
fn forwarding_allocates_nothing() {
    for profile in Profile::ALL {
        forwards_without_allocating(profile, Media::Audio, 0);
        forwards_without_allocating(profile, Media::Video, 96);
    }
}

/// Sends packets both ways. Of video every tenth is missing and every 20th starts a VP8 key frame.
fn forwards_without_allocating(profile: Profile, media: Media, pt: u8) {
    let mut whole = call(Some(CERTIFICATE), Some("192.0.2.50:4000"));
    let vp8 = payload(96, Codec::Vp8, 90_000);
    for route in whole.routes.iter_mut().filter(|_| media == Media::Video) {
        (route.media, route.payloads) = (media, vec![PayloadMap { from: vp8.clone(), to: vp8.clone() }]);
    }
    let mut world = World::new();
    let phone_at = addr("192.0.2.50:4000");
    let handle = world.put(1, 1, &whole).legs[0].1;
    let mut browser = Browser::new(1, 0, handle, "198.51.100.7:50000", profile, 7);
    browser.connect(&mut world);
    let mut phone = Source::new(0xf0, pt);
    browser.source.pt = pt;
    let (port, _) = ports(1, LegId(1));
    // First packets make what a stream needs once (and latching reports an event).
    world.feed(port, phone_at, &phone.packet(&[0; 160]));
    browser.say(&mut world, &[0; 160]);
    let mut datagrams = Vec::new();
    for number in 0..200 {
        let mut frame = [0; 160];
        frame[0] = if number % 20 == 0 { 0x10 } else { 0 };
        let pair = [(MUX, browser.at, browser.talk(&frame)), (port, phone_at, phone.packet(&frame))];
        if media == Media::Audio || number % 10 != 5 {
            datagrams.extend(pair);
        }
    }
    datagrams.push((MUX, browser.at, browser.check(true)));
    let now = world.now;
    let mut out = std::mem::take(&mut world.out);
    let relays = world.relays();
    let mut buffer = [0; BUFFER_LEN_BYTES];
    let before = ALLOCATIONS.get();
    let mut forwarded = 0;
    for (port, from, bytes) in &datagrams {
        buffer[64..64 + bytes.len()].copy_from_slice(bytes);
        let mut packet = Packet::new(&mut buffer, 64, bytes.len());
        let verdict = relays.on_datagram(now, *port, *from, &mut packet, &mut out);
        forwarded += u32::from(matches!(verdict, Verdict::Forward { .. }));
    }
    let allocated = ALLOCATIONS.get() - before;
    assert_eq!((forwarded as usize, allocated), (datagrams.len(), 0), "{profile:?} {media:?}");
}

/// The same by the loop around the relays and a real network: the engine, the batch and the mailboxes allocate nothing either.
#[test]
fn a_worker_on_epoll_allocates_nothing() {
    for profile in Profile::ALL {
        works_without_allocating(EpollEngine::new().unwrap(), profile);
    }
}

#[test]
fn a_worker_on_a_ring_allocates_nothing() {
    match choose(Wanted::Uring) {
        Ok(Choice::Uring(features)) => {
            for profile in Profile::ALL {
                works_without_allocating(ring(features, 4096).unwrap(), profile);
            }
        }
        Ok(Choice::Epoll) => unreachable!("the ring was asked for"),
        Err(missing) => {
            assert!(std::env::var_os("CI").is_none(), "{missing}");
            eprintln!("*** SKIPPED: {missing} ***");
        }
    }
}

struct NoWake;

impl Wake for NoWake {
    fn wake(&self) {}
}

fn socket() -> UdpSocket {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.set_nonblocking(true).unwrap();
    socket
}

/// RTP, SRTP, RTCP, SRTCP and STUN, all through one worker that runs on this thread.
fn works_without_allocating<E: Engine<Socket = UdpSocket>>(mut engine: E, profile: Profile) {
    const ROUNDS: u64 = 20;
    const TALK: usize = 5;
    let [browser_at, phone, phone_rtcp, mux, rtp, rtcp] = [(); 6].map(|()| socket());
    let at = |socket: &UdpSocket| socket.local_addr().unwrap();
    let (mux_at, rtp_at, rtcp_at) = (at(&mux), at(&rtp), at(&rtcp));
    let mux_ports = vec![engine.open(mux).unwrap()];
    let waker = engine.waker();
    let (commands, inbox) = mailbox(16, waker.clone());
    let (outbox, reports) = mailbox(64, Arc::new(NoWake));
    let arena = Arena::create(RelayLimits { relays: 8, legs: 16, routes: 32 }).unwrap();
    let mut worker = Worker::new(engine, arena, RelayConfig { mux_ports, ..config() }, inbox, outbox);

    let mut program = call(Some(CERTIFICATE), Some("127.0.0.1:9"));
    let LegKind::Rtp(leg) = &mut program.legs[1].kind else { unreachable!("leg 1 is plain") };
    leg.remote = Some(RtpRemote { rtp: at(&phone), rtcp: at(&phone_rtcp), rtcp_mux: false });
    let legs = vec![
        (LegId(0), LegSource::IceDtls(credentials(1, LegId(0)))),
        (LegId(1), LegSource::Open { rtp, rtcp, lease: 1 }),
    ];
    let put = Put { relay: relay_id(1), generation: Generation(1), digest: Digest(1), program, legs };
    assert!(commands.send(Command::Put { token: 1, put }).is_ok());
    worker.turn();
    let Some(Report::Put { result: Ok(installed), .. }) = reports.receive() else { panic!("the relay was refused") };
    let mut browser = Browser::new(1, 0, installed.legs[0].1, &at(&browser_at).to_string(), profile, 7);
    browser_at.send_to(&browser.check(true), mux_at).unwrap();
    worker.turn();
    let keys = Box::new(browser.keys());
    assert!(commands.send(Command::Keys { leg: browser.handle, keys }).is_ok());
    worker.turn();

    let mut phone_source = Source::new(0xf0, 0);
    let report = |sender: u32| {
        let mut bytes = [0; 64];
        let len = rtcp::write_nack(&mut bytes, sender, 0x4004, std::iter::once(1)).unwrap();
        bytes[..len].to_vec()
    };
    let (mut heard, mut buffer) = ((0, 0), [0; BUFFER_LEN_BYTES]);
    let mut allocated = 0;
    for round in 0..=ROUNDS {
        phone_rtcp.send_to(&report(0xf0), rtcp_at).unwrap();
        let sealed = browser.protect_rtcp(&report(0xb7));
        browser_at.send_to(&sealed, mux_at).unwrap();
        browser_at.send_to(&browser.check(false), mux_at).unwrap();
        for _ in 0..TALK {
            browser_at.send_to(&browser.talk(&[0; 160]), mux_at).unwrap();
            phone.send_to(&phone_source.packet(&[0; 160]), rtp_at).unwrap();
        }
        let before = ALLOCATIONS.get();
        let expected = (heard.0 + TALK + 1, heard.1 + TALK);
        while heard.0 < expected.0 || heard.1 < expected.1 {
            // What the turn before queued leaves with this one, which has nothing else to wait for.
            waker.wake();
            worker.turn();
            heard.0 += std::iter::from_fn(|| browser_at.recv(&mut buffer).ok()).count();
            heard.1 += std::iter::from_fn(|| phone.recv(&mut buffer).ok()).count();
        }
        // The first packets make what a stream needs once.
        allocated += if round == 0 { 0 } else { ALLOCATIONS.get() - before };
    }
    assert_eq!(allocated, 0, "{} {profile:?}", E::NAME);
    assert!(commands.send(Command::QueryRelay { token: 2, relay: relay_id(1) }).is_ok());
    worker.turn();
    let stats = std::iter::from_fn(|| reports.receive()).find_map(|report| match report {
        Report::Relay { stats, .. } => stats,
        _ => None,
    });
    let legs = stats.expect("counters").legs;
    let rtcp: Vec<u64> = legs.iter().map(|leg| leg.received.rtcp_packets).collect();
    assert_eq!(rtcp, [ROUNDS + 1, ROUNDS + 1], "{legs:?}");
}

#[test]
fn sound_of_our_own_allocates_nothing() {
    let mut program = call(Some(CERTIFICATE), Some("192.0.2.50:4000"));
    let tone = Tone { frequencies_hz: vec![440, 480], on_ms: 100, off_ms: 100 };
    let fill =
        Fill { sound: Sound::Tone(tone), payload: payload(0, Codec::Pcmu, 8000), ptime_ms: 20, start_after_ms: 0 };
    program.routes.iter_mut().for_each(|route| route.fill = Some(fill.clone()));
    let mut world = World::new();
    let handle = world.put(1, 1, &program).legs[0].1;
    Browser::new(1, 0, handle, "198.51.100.7:50000", Profile::AeadAes256Gcm, 7).connect(&mut world);
    let mut out = Counted(0);
    let mut now = world.now;
    let relays = world.relays();
    let before = ALLOCATIONS.get();
    while out.0 < 500 {
        now.mono = relays.next_deadline().unwrap().max(now.mono);
        relays.on_timer(now, &mut out);
    }
    assert_eq!(ALLOCATIONS.get() - before, 0);
}

/// Counts what is sent and keeps none of it.
struct Counted(u32);

impl Output for Counted {
    fn transmit(&mut self, _: PortId, _: SocketAddr, build: impl FnOnce(&mut [u8]) -> usize) -> bool {
        self.0 += u32::from(build(&mut [0; BUFFER_LEN_BYTES]) > 0);
        true
    }

    fn event(&mut self, _: Event) {}

    fn dtls(&mut self, _: LegHandle, _: PortId, _: SocketAddr, _: &[u8]) -> bool {
        true
    }

    fn dtls_path(&mut self, _: LegHandle, _: PortId, _: SocketAddr) {}

    fn hear(&mut self, _: PortId, _: Option<SocketAddr>) {}
}

#[test]
fn repair_allocates_nothing() {
    for (profile, with_rtx) in [(Profile::AeadAes128Gcm, true), (Profile::AesCm128HmacSha1_80, false)] {
        let mut whole = video_call(with_rtx);
        whole.routes[0].limit_kbps = Some(256);
        let mut call = Call::new(&whole, profile);
        let mut datagrams = Vec::new();
        for number in 0..200u16 {
            let missing = rtp::sequence_of(&call.phone_shows(&[0x10, 0x51, 0, 0]));
            let mut nack = [0; 64];
            let len =
                rtcp::write_nack(&mut nack, 0xca, 0x4004, [missing, missing.wrapping_add(9)].into_iter()).unwrap();
            datagrams.push(call.browser.protect_rtcp(&nack[..len]));
            // Every tenth packet of the browser is missing, and comes by its retransmission stream where it has one.
            let sealed = call.browser.talk(&[0x10, 0x51, 0, 0]);
            match number % 10 {
                5 if with_rtx => {
                    let mut repair = Source { sequence: number, ..Source::new(0xcb, 97) };
                    let lost = call.browser.source.sequence.wrapping_sub(1);
                    let [high, low] = lost.to_be_bytes();
                    datagrams.push(call.browser.talk(&[0x10, 0x51, 0, 0]));
                    datagrams.push(call.browser.protect(&repair.packet(&[high, low, 0x10, 0x51])));
                }
                5 => {}
                _ => datagrams.push(sealed),
            }
        }
        let (mut sink, mut now) = (Counted(0), call.world.now);
        let at = call.browser.at;
        let relays = call.world.relays();
        let mut buffer = [0; BUFFER_LEN_BYTES];
        let mut feed = |bytes: &[u8], relays: &mut Relays, sink: &mut Counted| {
            buffer[64..64 + bytes.len()].copy_from_slice(bytes);
            let mut packet = Packet::new(&mut buffer, 64, bytes.len());
            now.mono = now.mono + Duration::from_millis(2);
            relays.on_datagram(now, MUX, at, &mut packet, sink);
            relays.on_timer(now, sink);
        };
        // The first of each kind make what a source needs once.
        let (first, rest) = datagrams.split_at(20);
        first.iter().for_each(|bytes| feed(bytes, relays, &mut sink));
        let before = (ALLOCATIONS.get(), sink.0);
        rest.iter().for_each(|bytes| feed(bytes, relays, &mut sink));
        let allocated = ALLOCATIONS.get() - before.0;
        assert_eq!(allocated, 0, "{profile:?}");
        assert!(sink.0 - before.1 > 150, "{} packets were sent again or told", sink.0 - before.1);
    }
}

/// Runs what a test measures of its process in a process of its own: `cargo test` runs tests as threads of one, whose memory nobody tells
/// apart.
fn alone(test: &str, measure: impl FnOnce()) {
    const IS_ALONE: &str = "GANGWAY_TEST_ALONE";
    if std::env::var_os(IS_ALONE).is_some() {
        return measure();
    }
    let mut command = process::Command::new(std::env::current_exe().unwrap());
    let done = command.args(["--exact", test, "--nocapture"]).env(IS_ALONE, "1").output().unwrap();
    let said = [done.stdout, done.stderr].map(|text| String::from_utf8_lossy(&text).into_owned()).concat();
    print!("{said}");
    assert!(done.status.success() && said.contains("1 passed"), "{test} failed in a process of its own");
}

/// Memory of this process that is backed by pages, in bytes.
fn resident_bytes() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<usize>().unwrap() << 10
}

/// Memory of a mapping of this process that is backed by pages, in bytes: that of the arena with the most memory.
fn resident_arena_bytes() -> usize {
    let maps = std::fs::read_to_string("/proc/self/smaps").unwrap();
    let mappings = maps.split("/memfd:gangway-arena").skip(1);
    let resident = mappings.filter_map(|rest| {
        let line = rest.lines().find_map(|line| line.strip_prefix("Rss:"))?;
        line.trim().trim_end_matches(" kB").parse::<usize>().ok()
    });
    resident.max().unwrap_or(0) << 10
}

#[test]
fn a_call_takes_little_memory() {
    alone("allocation::a_call_takes_little_memory", measure_calls);
}

/// Calls of sound between a browser and a phone, with packets both ways, reports and keys.
fn measure_calls() {
    const CALLS: u32 = 5000;
    let limits = RelayLimits { relays: CALLS, legs: 4 * CALLS, routes: 6 * CALLS };
    let mut world = World::with(limits, RelayConfig { new_addresses_per_s: CALLS, ..config() });
    let before = resident_bytes();
    for number in 0..CALLS {
        let phone_at = SocketAddr::from(([10, 9, (number >> 8) as u8, number as u8], 4000));
        let program = call(Some(CERTIFICATE), Some(&phone_at.to_string()));
        let (now, setup) = (world.now, setup(number.into(), 1, &program));
        let handle = world.relays().put(now, &setup, &mut Recorder::default()).unwrap().legs[0].1;
        let browser_at = format!("10.8.{}.{}:5000", number >> 8, number & 255);
        let mut browser = Browser::new(number.into(), 0, handle, &browser_at, Profile::AeadAes128Gcm, 7);
        browser.connect(&mut world);
        let (port, rtcp_port) = ports(number.into(), LegId(1));
        for _ in 0..3 {
            browser.say(&mut world, &[0; 160]);
            world.feed(port, phone_at, &Source::new(0xf0, 0).packet(&[0; 160]));
        }
        let mut report = [0; 64];
        let len = rtcp::write_nack(&mut report, 0xf0, 0x4004, std::iter::once(1)).unwrap();
        world.feed(rtcp_port, SocketAddr::new(phone_at.ip(), 4001), &report[..len]);
        world.out = Recorder::default();
    }
    world.advance_ms(10_000);
    world.out = Recorder::default();
    let [all, arena] = [resident_bytes() - before, resident_arena_bytes()].map(|bytes| bytes / CALLS as usize);
    println!("{all} bytes a call, {arena} of them in the arena");
    assert!(all <= 16 << 10, "{all} bytes a call, {arena} of them in the arena");
}

#[test]
fn relays_that_are_not_there_yet_take_hardly_any_memory() {
    alone("allocation::relays_that_are_not_there_yet_take_hardly_any_memory", measure_empty_records);
}

fn measure_empty_records() {
    let before = resident_bytes();
    let mut world = World::of(RelayLimits { relays: 4096, legs: 4 * 4096, routes: 6 * 4096 });
    world.put(1, 1, &call(Some(CERTIFICATE), Some("192.0.2.50:4000")));
    let grown = resident_bytes().saturating_sub(before);
    assert!(grown < 4 << 20, "{grown} bytes for one relay of 4096");
}
