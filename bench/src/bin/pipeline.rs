//! User-space nanoseconds per packet of our walk without a kernel, for the ratio of what is ours and what is the kernel's: CPU time of one
//! thread, the cheapest of many rounds.

use gangway_bench::{
    pipeline::{Pipeline, Protection},
    sys::thread_cpu_ns,
};
use gangway_shared::rcp::SrtpSuite;

/// Calls whose packets take turns.
const CALLS: u32 = 1000;

/// Rounds of all calls in each direction; the cheapest counts.
const ROUNDS: u32 = 200;

fn main() {
    println!("{:<8}{:>12}{:>12}{:>12}", "load", "open ns", "seal ns", "mean ns");
    for (name, protection) in [
        ("plain", Protection::Plain),
        ("gcm", Protection::Srtp(SrtpSuite::AeadAes128Gcm)),
        ("cm", Protection::Srtp(SrtpSuite::AesCm128HmacSha1_80)),
    ] {
        let mut pipeline = Pipeline::new(CALLS, protection);
        let mut best = [u64::MAX; 2];
        for _ in 0..ROUNDS {
            for (best, from_first) in best.iter_mut().zip([true, false]) {
                let mut packets = pipeline.round(from_first);
                let before = thread_cpu_ns();
                let forwarded = pipeline.walk(&mut packets);
                let spent = thread_cpu_ns() - before;
                assert_eq!(forwarded, packets.len(), "a walk that drops costs less than it should");
                *best = (*best).min(spent);
            }
            pipeline.tick();
        }
        let [open, seal] = best.map(|ns| ns as f64 / f64::from(CALLS));
        println!("{name:<8}{open:>12.0}{seal:>12.0}{:>12.0}", f64::midpoint(open, seal));
    }
}
