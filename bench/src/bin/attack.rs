//! Attacks on our dataplane while it carries calls; ends with an error when a promise was not kept. See docs/BENCHMARKS.md.

use std::{io, process::ExitCode, time::Duration};

use clap::{Parser, Subcommand};
use gangway_bench::{
    attack::{hellos, spray, storm, timing, unsigned},
    compare::machine::Measured,
    load::Side,
    process::{raise_file_limit, sibling},
    systems::gangway::Gangway,
};
use gangway_dataplane::affinity;
use serde::Serialize;

/// Attacks the dataplane that was built beside it. Prints JSON.
#[derive(Debug, Parser)]
#[command(version)]
struct Arguments {
    /// The dataplane's engine.
    #[arg(long, default_value = "auto", global = true)]
    engine: String,
    /// Core of the dataplane.
    #[arg(long, global = true)]
    relay_core: Option<usize>,
    /// Core of calls and attackers: the calls go before these there.
    #[arg(long, global = true)]
    core: Option<usize>,
    #[command(subcommand)]
    attack: Attack,
}

#[derive(Debug, Subcommand)]
enum Attack {
    /// Changed datagrams of every protocol, many signed after the change.
    Storm {
        /// Datagrams.
        #[arg(long, default_value_t = 10_000_000)]
        count: u64,
        /// Of what is random.
        #[arg(long, default_value_t = 1)]
        seed: u64,
    },
    /// RTP from three strange hosts to every port.
    Spray {
        /// Calls.
        #[arg(long, default_value_t = 1000)]
        calls: u32,
        /// Datagrams a second.
        #[arg(long, default_value_t = 20_000)]
        per_second: u32,
        /// Seconds.
        #[arg(long, default_value_t = 30)]
        seconds: u64,
    },
    /// 200 packets a second with a wrong tag to every SRTP port.
    BadSrtp {
        /// Calls.
        #[arg(long, default_value_t = storm::CALLS)]
        calls: u32,
        /// Seconds.
        #[arg(long, default_value_t = 600)]
        seconds: u64,
    },
    /// Forged ClientHellos while calls are set up.
    Hellos {
        /// Calls.
        #[arg(long, default_value_t = 500)]
        calls: u32,
        /// Hellos a second.
        #[arg(long, default_value_t = 10_000)]
        per_second: u32,
    },
}

fn main() -> ExitCode {
    raise_file_limit();
    match run(&Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("attack: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> io::Result<()> {
    let sets = [format!("dataplane_engine={}", arguments.engine)];
    let mut relay = Gangway::start(&sibling("gangway-dataplane")?, &sets, arguments.relay_core)?;
    let engine = relay.control().engine().to_owned();
    if let Some(core) = arguments.core {
        affinity::pin_to(core)?;
    }
    let lasting = |seconds: u64| timing(Duration::from_secs(seconds), arguments.core.is_some());
    let judged = match &arguments.attack {
        Attack::Storm { count, seed } => {
            let seen = storm::storm(&mut relay, *count, *seed, &lasting(1))?;
            print(engine, "storm", &seen)?;
            seen.verdict()
        }
        Attack::Spray { calls, per_second, seconds } => {
            let seen = spray::spray(&mut relay, Side::Mixed, *calls, *per_second, &lasting(*seconds))?;
            print(engine, "spray", &seen)?;
            seen.verdict()
        }
        Attack::BadSrtp { calls, seconds } => {
            let seen = unsigned::bad_srtp(&mut relay, *calls, &lasting(*seconds))?;
            print(engine, "bad-srtp", &seen)?;
            seen.verdict()
        }
        Attack::Hellos { calls, per_second } => {
            let seen = hellos::hellos(&mut relay, *calls, *per_second, &lasting(1))?;
            print(engine, "hellos", &seen)?;
            seen.verdict()
        }
    };
    judged.map_err(io::Error::other)
}

/// What was seen, of which engine.
#[derive(Serialize)]
struct Found<'a, T> {
    engine: String,
    attack: &'static str,
    #[serde(flatten)]
    seen: &'a T,
}

fn print(engine: String, attack: &'static str, seen: &impl Serialize) -> io::Result<()> {
    Measured::here(Found { engine, attack, seen }).print()
}
