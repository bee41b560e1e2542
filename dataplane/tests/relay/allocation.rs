//! Nothing is allocated for a packet that is forwarded, whatever it has to go through; memory of relays is touched when they come.

#![allow(unsafe_code, reason = "a counting allocator implements an unsafe trait")]

use std::{
    alloc::{GlobalAlloc, Layout, System},
    cell::Cell,
    net::SocketAddr,
    time::Duration,
};

use gangway_dataplane::{
    relay::{LegHandle, Output, PortId, RelayLimits, Relays, Verdict},
    srtp::Profile,
    wire::{BUFFER_LEN_BYTES, Packet, rtcp, rtp},
};
use gangway_shared::{
    ids::LegId,
    rcp::{Codec, Event, Fill, Media, PayloadMap, Sound, Tone},
};

use crate::{
    repair::{Call, video_call},
    world::{Browser, CERTIFICATE, MUX, Source, World, addr, call, payload, ports},
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

/// Memory of this process that is backed by pages, in bytes.
fn resident_bytes() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<usize>().unwrap() << 10
}

#[test]
fn relays_that_are_not_there_yet_take_hardly_any_memory() {
    let before = resident_bytes();
    let mut world = World::of(RelayLimits { relays: 4096, legs: 4 * 4096, routes: 6 * 4096 });
    world.put(1, 1, &call(Some(CERTIFICATE), Some("192.0.2.50:4000")));
    let grown = resident_bytes().saturating_sub(before);
    assert!(grown < 4 << 20, "{grown} bytes for one relay of 4096");
}
