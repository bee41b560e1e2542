//! The attacks, small: what `attack` promises by count holds. Rates and CPU are its reports, and are not looked at here.

use std::time::Duration;

use gangway_bench::{
    attack::{hellos, spray, storm, unsigned},
    load::Side,
    process::{raise_file_limit, sibling},
    systems::{Choice, gangway::Gangway},
};

/// Datagrams of the storm; `./test --long` sends ten million.
const STORM: u64 = 100_000;

fn relay() -> Gangway {
    raise_file_limit();
    let sets = ["dataplane_engine=epoll".to_owned()];
    Gangway::start(&sibling("gangway-dataplane").expect("it is built"), &sets, None).expect("it starts")
}

#[test]
fn changed_datagrams_of_every_protocol_end_no_call_and_take_no_memory() {
    let seen = storm::storm(&mut relay(), STORM, 0x0057_0831).unwrap();
    assert_eq!(seen.verdict(), Ok(()));
}

#[test]
fn a_spray_of_rtp_over_all_ports_neither_bleeds_nor_injects() {
    let seen = spray::spray(&mut relay(), Side::Mixed, 40, 4000, Duration::from_secs(2)).unwrap();
    assert_eq!(seen.verdict(), Ok(()));
}

#[test]
fn a_relay_that_believes_everybody_is_found_out_by_the_spray() {
    let mut naive = Choice::parse("bare").unwrap().start(None).unwrap();
    let seen = spray::spray(naive.as_mut(), Side::Plain, 10, 1000, Duration::from_secs(1)).unwrap();
    assert!(seen.verdict().is_err() && seen.injected_plain_most > 3, "{seen:?}");
}

#[test]
fn srtp_with_wrong_tags_ends_no_call() {
    let seen = unsigned::bad_srtp(&mut relay(), 10, Duration::from_secs(2)).unwrap();
    assert_eq!(seen.verdict(), Ok(()));
}

#[test]
fn every_call_is_set_up_under_forged_client_hellos() {
    let seen = hellos::hellos(&mut relay(), 60, 10_000).unwrap();
    assert_eq!((seen.verdict(), seen.established), (Ok(()), 60));
}
