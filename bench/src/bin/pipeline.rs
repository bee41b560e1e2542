//! User-space nanoseconds per packet of our walk without a kernel, for the ratio of what is ours and what is the kernel's: CPU time of one
//! thread, the cheapest of many rounds.

use gangway_bench::{
    compare::machine::Measured,
    pipeline::{Walk, walks},
};
use serde::Serialize;

#[derive(Serialize)]
struct Found {
    walks: Vec<Walk>,
}

fn main() -> std::io::Result<()> {
    Measured::here(Found { walks: walks() }).print()
}
