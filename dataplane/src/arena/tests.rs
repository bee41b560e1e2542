use std::mem::{offset_of, size_of};

use super::*;

const LIMITS: RelayLimits = RelayLimits { relays: 2, legs: 3, routes: 4 };

#[test]
fn records_survive_the_arena_that_wrote_them() {
    let mut arena = Arena::create(LIMITS).unwrap();
    let first = arena.take_leg().unwrap();
    let second = arena.take_leg().unwrap();
    arena.leg_mut(second).media_at = 77;
    let handle = arena.handle(second);
    arena.free_leg(first);
    let mut arena = Arena::map(arena.into_fd()).unwrap();
    assert_eq!(arena.free(), RelayLimits { relays: 2, legs: 2, routes: 4 });
    assert_eq!(arena.resolve(handle), Some(second));
    assert_eq!(arena.leg(second).media_at, 77);
    let taken = [arena.take_leg(), arena.take_leg(), arena.take_leg()];
    assert_eq!(taken.iter().flatten().count(), 2, "two of three records were free");
    assert!(!taken.contains(&Some(second)));
}

#[test]
fn a_handle_is_void_once_its_record_was_freed_and_stays_so() {
    let mut arena = Arena::create(LIMITS).unwrap();
    let slot = arena.take_leg().unwrap();
    let old = arena.handle(slot);
    arena.free_leg(slot);
    assert_eq!(arena.resolve(old), None);
    assert_eq!(arena.take_leg(), Some(slot));
    assert_eq!(arena.resolve(old), None);
    assert_eq!(arena.resolve(arena.handle(slot)), Some(slot));
    assert_eq!(arena.resolve(LegHandle { slot: 99, generation: 1 }), None);
}

#[test]
fn what_every_packet_touches_lies_in_two_cache_lines_of_each_record() {
    const LINES: usize = 128;
    assert_eq!(
        [align_of::<LegRecord>(), align_of::<RouteRecord>(), align_of::<RxSlot>(), align_of::<OutStream>()],
        [64; 4]
    );
    macro_rules! ends {
        ($record:ty: $($field:ident).+ of $kind:ty) => {
            (stringify!($record.$($field).+), offset_of!($record, $($field).+) + size_of::<$kind>())
        };
    }
    let hot = [
        ends!(LegRecord: nominated of u32),
        ends!(LegRecord: may_rearm of u8),
        ends!(LegRecord: is_silence_told of u8),
        ends!(LegRecord: media_at of u64),
        ends!(LegRecord: traffic of Traffic),
        ends!(LegRecord: rtp_latch.latched of Addr),
        ends!(LegRecord: rtp_latch.is_held of u8),
        ends!(LegRecord: rtp_latch.heard_at of u64),
        ends!(RouteRecord: is_kept of u8),
        ends!(RouteRecord: source of SourceMap),
        ends!(RouteRecord: fill of FillState),
        ends!(RouteRecord: source_rtx_count of u8),
        ("the first payload type", offset_of!(RouteRecord, payloads) + size_of::<PayloadEntry>()),
        ends!(RxSlot: stream of crate::srtp::RxStream),
        ends!(RxSlot: heard_at of u64),
        ends!(RxSlot: reception.clock of u32),
        ends!(RxSlot: reception.reordered of u64),
        ends!(OutStream: tx of crate::srtp::TxStream),
        ends!(OutStream: octets of u64),
        ends!(OutStream: lead of u32),
    ];
    for (field, end) in hot {
        assert!(end <= LINES, "{field} ends at byte {end}");
    }
    assert_eq!(size_of::<Addr>(), 18, "addresses are packed closely");
}

#[test]
fn streams_go_with_their_leg_and_its_record_is_lost_last() {
    let mut arena = Arena::create(LIMITS).unwrap();
    let slot = arena.take_leg().unwrap();
    let mut leg = arena.whole_leg(slot);
    let (place, len) = leg.rx.extend().unwrap();
    leg.rx[place].heard_at = 7;
    leg.record.rx_len = len;
    let (place, len) = leg.out.extend().unwrap();
    leg.out[place].packets = 7;
    leg.record.out_len = len;
    assert_eq!((arena.rx(slot).len(), arena.out(slot)[0].packets), (1, 7));
    arena.free_leg(slot);
    assert_eq!((arena.rx(slot).len(), arena.rx(slot)[0].heard_at, arena.out(slot)[0].packets), (0, 0, 0));
}

#[test]
fn freed_records_hold_nothing_of_their_past() {
    let mut arena = Arena::create(LIMITS).unwrap();
    let slot = arena.take_leg().unwrap();
    arena.leg_mut(slot).fingerprints[0] = [7; 32];
    arena.free_leg(slot);
    assert_eq!(arena.leg(slot).fingerprints[0], [0; 32]);
}

#[test]
fn addresses_of_both_families_survive_being_plain_data() {
    for text in ["192.0.2.1:5004", "[2001:db8::1]:5004"] {
        let addr: std::net::SocketAddr = text.parse().unwrap();
        assert_eq!(Addr::from(addr).to_socket(), Some(addr));
    }
    assert_eq!(Addr::NONE.to_socket(), None);
    assert!(!Addr::from("0.0.0.0:9".parse::<std::net::SocketAddr>().unwrap()).is_target());
}
