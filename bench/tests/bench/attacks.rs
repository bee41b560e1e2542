//! The attacks, small: what `attack` promises by count holds. Rates and CPU are its reports, and are not looked at here.

use std::time::Duration;

use gangway_bench::{
    attack::{hellos, spray, storm, timing, unsigned},
    load::{Side, Timing},
    process::{raise_file_limit, sibling},
    systems::{Choice, gangway::Gangway},
};

use crate::{also_on_epoll, engine};

/// Datagrams of the storm; `./test --long` sends ten million.
const STORM: u64 = 100_000;

fn relay() -> Gangway {
    raise_file_limit();
    let sets = [format!("dataplane_engine={}", engine())];
    let mut relay =
        Gangway::start(&sibling("gangway-dataplane").expect("it is built"), &sets, None).expect("it starts");
    assert_eq!(relay.control().engine(), engine());
    relay
}

fn lasting(seconds: u64) -> Timing {
    timing(Duration::from_secs(seconds), false)
}

also_on_epoll!(
    changed_datagrams_of_every_protocol_end_no_call_and_take_no_memory,
    a_spray_of_rtp_over_all_ports_neither_bleeds_nor_injects,
    srtp_with_wrong_tags_ends_no_call,
    every_call_is_set_up_under_forged_client_hellos,
);

#[test]
fn changed_datagrams_of_every_protocol_end_no_call_and_take_no_memory() {
    let seen = storm::storm(&mut relay(), STORM, 0x0057_0831, &lasting(1)).unwrap();
    assert_eq!(seen.verdict(), Ok(()));
}

#[test]
fn a_spray_of_rtp_over_all_ports_neither_bleeds_nor_injects() {
    let seen = spray::spray(&mut relay(), Side::Mixed, 40, 4000, &lasting(2)).unwrap();
    assert_eq!(seen.verdict(), Ok(()));
}

#[test]
fn a_relay_that_believes_everybody_is_found_out_by_the_spray() {
    let mut naive = Choice::parse("bare").unwrap().start(None).unwrap();
    let seen = spray::spray(naive.as_mut(), Side::Plain, 10, 1000, &lasting(1)).unwrap();
    assert!(seen.verdict().is_err() && seen.injected_plain_most > 3, "{seen:?}");
}

#[test]
fn srtp_with_wrong_tags_ends_no_call() {
    let brief = Timing { warm_up: Duration::from_millis(100), drain: Duration::from_millis(200), ..lasting(1) };
    let seen = unsigned::bad_srtp(&mut relay(), 10, &brief).unwrap();
    assert_eq!(seen.verdict(), Ok(()));
    assert_eq!(seen.turns.len(), 5, "calls alone and under attack take turns");
    assert!(seen.turns.iter().all(|(without, with)| *without > 0.0 && *with > 0.0) && !seen.is_judged, "{seen:?}");
}

#[test]
fn every_call_is_set_up_under_forged_client_hellos() {
    let seen = hellos::hellos(&mut relay(), 60, 10_000, &lasting(1)).unwrap();
    assert_eq!((seen.verdict(), seen.established), (Ok(()), 60));
}
