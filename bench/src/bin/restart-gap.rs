//! How long the gap is that a killed or upgraded relay process leaves in live calls, and which packets it costs: several times at random
//! moments on each engine, against an undisturbed run of the same calls. See docs/BENCHMARKS.md.

#![allow(clippy::disallowed_methods, reason = "a measurement waits by the clock")]

use std::{io, path::PathBuf, process::ExitCode, thread, time::Duration};

use clap::{Parser, ValueEnum};
use gangway_bench::{
    call::Media,
    compare::{machine::Measured, table::median},
    load::{Load, Mark, Report, Shape, Side, Timing},
    process::{raise_file_limit, sibling, tree},
    sys::wall_ns,
    systems::{
        System,
        gangway::{Control, Gangway},
    },
};
use gangway_dataplane::affinity;
use gangway_shared::entropy::{Entropy, SeededEntropy};
use rustix::process::{Pid, Signal, kill_process};
use serde::Serialize;

/// Runs calls undisturbed and then with a disturbance at a random moment, again and again. Prints JSON.
#[derive(Debug, Parser)]
#[command(version)]
struct Arguments {
    /// Drives the gangway-dataplane that listens at this socket; without it one of its own is started.
    #[arg(long, requires = "pid")]
    rcp: Option<PathBuf>,
    /// Engines of dataplanes of its own, one after the other.
    #[arg(long, value_delimiter = ',', default_value = "uring,epoll")]
    engine: Vec<String>,
    /// The process that is disturbed; the youngest process of a dataplane of its own unless told.
    #[arg(long)]
    pid: Option<i32>,
    /// What happens to it.
    #[arg(long, default_value = "kill")]
    act: Act,
    /// Disturbances on each engine. A process that is named by its id, and a control, is disturbed once.
    #[arg(long, default_value_t = 5)]
    times: u32,
    /// Of the random moments; another one each time unless told.
    #[arg(long)]
    seed: Option<u64>,
    /// Calls.
    #[arg(long, default_value_t = 100)]
    calls: u32,
    /// The first end of each call: plain, cm, gcm, gcm256, ice or mixed.
    #[arg(long, default_value = "mixed", value_parser = |text: &str| Side::parse(text).ok_or("no such side"))]
    side: Side,
    /// Seconds of each run.
    #[arg(long, default_value_t = 6.0)]
    seconds: f64,
    /// Core of a dataplane of its own.
    #[arg(long)]
    relay_core: Option<usize>,
    /// Core of the generator, for nobody else.
    #[arg(long)]
    core: Option<usize>,
}

/// A disturbance.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Act {
    /// SIGKILL.
    Kill,
    /// SIGUSR2: the program is replaced by its newer self.
    Upgrade,
    /// The control goes without a word; the relay goes on.
    Control,
}

#[derive(Debug, Serialize)]
struct Results {
    act: String,
    seed: u64,
    engines: Vec<OfEngine>,
}

/// What was seen on one engine.
#[derive(Debug, Serialize)]
struct OfEngine {
    engine: String,
    undisturbed: Report,
    disturbed: Vec<Disturbed>,
    /// Of the gaps, milliseconds.
    gap_ms: Spread,
    /// Of the most packets that a stream lost.
    most_lost: Spread,
}

#[derive(Debug, Serialize)]
struct Disturbed {
    /// When, in the measured time.
    at_ms: u64,
    /// Longest silence of a stream beyond that of the undisturbed run, milliseconds.
    gap_ms: f64,
    report: Report,
}

#[derive(Debug, Serialize)]
struct Spread {
    median: f64,
    largest: f64,
}

impl Spread {
    fn of(values: impl Iterator<Item = f64> + Clone) -> Self {
        Spread { median: median(values.clone()).unwrap_or(0.0), largest: values.fold(f64::NEG_INFINITY, f64::max) }
    }
}

fn main() -> ExitCode {
    raise_file_limit();
    match run(&Arguments::parse()).and_then(|results| Measured::here(results).print()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("restart-gap: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> io::Result<Results> {
    let seed = arguments.seed.unwrap_or_else(wall_ns);
    let mut entropy = SeededEntropy::new(seed);
    let engines = match &arguments.rcp {
        Some(_) => vec![on(arguments, "", &mut entropy)?],
        None => arguments.engine.iter().map(|engine| on(arguments, engine, &mut entropy)).collect::<io::Result<_>>()?,
    };
    Ok(Results { act: format!("{:?}", arguments.act).to_lowercase(), seed, engines })
}

/// Runs and disturbs calls on a dataplane of this engine, or on the one that is named.
fn on(arguments: &Arguments, engine: &str, entropy: &mut SeededEntropy) -> io::Result<OfEngine> {
    let mut load =
        Load::open(Shape { talking: arguments.calls, silent: 0, side: arguments.side, media: Media::Audio })?;
    let (mut own, mut control) = (None, None);
    let (answers, engine) = match &arguments.rcp {
        Some(socket) => {
            let control = control.insert(Control::connect(socket, || true)?);
            let answers = load.specs().iter().map(|call| control.make(call)).collect::<io::Result<Vec<_>>>()?;
            (answers, control.engine().to_owned())
        }
        None => {
            let sets = [format!("dataplane_engine={engine}")];
            let own = own.insert(Gangway::start(&sibling("gangway-dataplane")?, &sets, arguments.relay_core)?);
            (own.add(load.specs())?, own.control().engine().to_owned())
        }
    };
    if let Some(core) = arguments.core {
        affinity::pin_to(core)?;
    }
    load.connect(&answers)?;
    let measure = Duration::try_from_secs_f64(arguments.seconds).map_err(io::Error::other)?;
    let timing = Timing {
        warm_up: Duration::from_secs(1).min(measure / 2),
        measure,
        drain: Duration::from_millis(500),
        has_core: arguments.core.is_some(),
    };
    let undisturbed = load.run(&timing, |_| {});
    let again = arguments.pid.is_none() && arguments.act != Act::Control;
    let mut disturbed = Vec::new();
    for _ in 0..if again { arguments.times.max(1) } else { 1 } {
        // Neither at once nor so late that the end of the run hides the end of the gap.
        let at_ms =
            (measure.as_millis() as u64 * u64::from(20 + entropy.below(60))) / 100 + u64::from(entropy.below(20));
        let report = match arguments.act {
            Act::Control => load.run(&timing, |mark| {
                if mark == Mark::Middle {
                    control = None;
                    if let Some(own) = &mut own {
                        own.hang_up();
                    }
                }
            }),
            Act::Kill | Act::Upgrade => {
                // Another one each time: what was killed has a successor.
                let youngest = own.as_ref().and_then(|own| tree(own.pid()).last().copied());
                let pid = arguments.pid.or(youngest.and_then(|pid| i32::try_from(pid).ok())).and_then(Pid::from_raw);
                let pid = pid.ok_or_else(|| io::Error::other("no process to disturb: --pid"))?;
                let signal = if arguments.act == Act::Kill { Signal::KILL } else { Signal::USR2 };
                let mut disturber = None;
                let report = load.run(&timing, |mark| {
                    if mark == Mark::Begin {
                        disturber = Some(thread::spawn(move || {
                            thread::sleep(Duration::from_millis(at_ms));
                            kill_process(pid, signal)
                        }));
                    }
                });
                let disturber = disturber.ok_or_else(|| io::Error::other("a run without a beginning"))?;
                disturber.join().expect("who sends a signal does not panic")?;
                report
            }
        };
        disturbed.push(Disturbed { at_ms, gap_ms: report.longest_gap_ms - undisturbed.longest_gap_ms, report });
    }
    let gap_ms = Spread::of(disturbed.iter().map(|one| one.gap_ms));
    let most_lost = Spread::of(disturbed.iter().map(|one| one.report.most_lost as f64));
    Ok(OfEngine { engine, undisturbed, disturbed, gap_ms, most_lost })
}
