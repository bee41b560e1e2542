//! How punctual one worker is with sound of its own, and whether reading its statistics costs it anything: see docs/BENCHMARKS.md.

use std::{path::PathBuf, time::Duration};

use clap::Parser;
use gangway_bench::{
    compare::machine::Measured,
    process::raise_file_limit,
    ticks::{Plan, Reader, run},
};

/// Lets a dataplane of its own make silence and digits for many streams and measures when they come. Prints JSON.
#[derive(Debug, Parser)]
#[command(version)]
struct Arguments {
    /// Engine: epoll or uring.
    #[arg(long, default_value = "auto")]
    engine: String,
    /// Another gangway-dataplane than the one built beside this program, for before and after.
    #[arg(long)]
    binary: Option<PathBuf>,
    /// Streams of silence.
    #[arg(long, default_value_t = 5000, value_parser = clap::value_parser!(u32).range(1..=8000))]
    streams: u32,
    /// Milliseconds from packet to packet of each: 10, 20, 30, 40, 50 or 60.
    #[arg(long, default_value_t = 20)]
    ptime_ms: u16,
    /// Streams that are played a digit of two seconds in each round too.
    #[arg(long, default_value_t = 50)]
    digits: u32,
    /// Seconds of each window.
    #[arg(long, default_value_t = 3.0)]
    seconds: f64,
    /// Seconds before the first.
    #[arg(long, default_value_t = 2.0)]
    warm_up: f64,
    /// So many windows of each kind, by turns.
    #[arg(long, default_value_t = 5)]
    rounds: u32,
    /// Has the statistics read so often a second in windows of their own, from the map and by Query; 0: no such windows.
    #[arg(long, default_value_t = 0)]
    reads_per_s: u32,
    /// Core of the worker.
    #[arg(long)]
    relay_core: Option<usize>,
    /// Core of the receiver, on which it spins.
    #[arg(long)]
    core: Option<usize>,
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments = Arguments::parse();
    raise_file_limit();
    let plan = Plan {
        engine: arguments.engine,
        binary: arguments.binary,
        streams: arguments.streams,
        ptime_ms: arguments.ptime_ms,
        digits: arguments.digits.min(arguments.streams),
        warm_up: Duration::try_from_secs_f64(arguments.warm_up)?,
        window: Duration::try_from_secs_f64(arguments.seconds)?,
        rounds: arguments.rounds.max(1),
        readers: if arguments.reads_per_s > 0 { vec![Reader::Map, Reader::Query] } else { Vec::new() },
        reads_per_s: arguments.reads_per_s,
        relay_core: arguments.relay_core,
        core: arguments.core,
    };
    Ok(Measured::here(run(&plan)?).print()?)
}
