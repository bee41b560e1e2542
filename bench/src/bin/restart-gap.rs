//! How long the gap is that a killed or upgraded relay process leaves in live calls, and which packets it costs: against an undisturbed run of
//! the same calls. See docs/BENCHMARKS.md.

use std::{io, path::PathBuf, process::ExitCode, time::Duration};

use clap::{Parser, ValueEnum};
use gangway_bench::{
    call::Media,
    load::{Load, Mark, Report, Shape, Side, Timing},
    process::{raise_file_limit, sibling, tree},
    systems::{
        System,
        gangway::{Control, Gangway},
    },
};
use gangway_dataplane::affinity;
use rustix::process::{Pid, Signal, kill_process};
use serde::Serialize;

/// Runs calls twice, the second time with a disturbance in the middle. Prints JSON.
#[derive(Debug, Parser)]
#[command(version)]
struct Arguments {
    /// Drives the gangway-dataplane that listens at this socket; without it one of its own is started.
    #[arg(long, requires = "pid")]
    rcp: Option<PathBuf>,
    /// Engine of a dataplane of its own.
    #[arg(long, default_value = "auto")]
    engine: String,
    /// The process that is disturbed; the youngest process of a dataplane of its own unless told.
    #[arg(long)]
    pid: Option<i32>,
    /// What happens to it.
    #[arg(long, default_value = "kill")]
    act: Act,
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
    undisturbed: Report,
    disturbed: Report,
    /// Longest silence of a stream beyond that of the undisturbed run, milliseconds.
    gap_ms: f64,
}

fn main() -> ExitCode {
    raise_file_limit();
    match run(&Arguments::parse()) {
        Ok(results) => {
            let text = serde_json::to_string_pretty(&results).unwrap_or_default();
            println!("{text}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("restart-gap: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> io::Result<Results> {
    let mut load =
        Load::open(Shape { talking: arguments.calls, silent: 0, side: arguments.side, media: Media::Audio })?;
    let (mut own, mut control) = (None, None);
    let answers = match &arguments.rcp {
        Some(socket) => {
            let control = control.insert(Control::connect(socket, || true)?);
            load.specs().iter().map(|call| control.make(call)).collect::<io::Result<Vec<_>>>()?
        }
        None => {
            let sets = [format!("dataplane_engine={}", arguments.engine)];
            let own = own.insert(Gangway::start(&sibling("gangway-dataplane")?, &sets, arguments.relay_core)?);
            own.add(load.specs())?
        }
    };
    if let Some(core) = arguments.core {
        affinity::pin_to(core)?;
    }
    load.connect(&answers)?;
    let timing = Timing {
        warm_up: Duration::from_secs(1),
        measure: Duration::try_from_secs_f64(arguments.seconds).map_err(io::Error::other)?,
        drain: Duration::from_millis(500),
        has_core: arguments.core.is_some(),
    };
    let undisturbed = load.run(&timing, |_| {});
    let youngest = own.as_ref().and_then(|own| tree(own.pid()).last().copied()).and_then(|pid| i32::try_from(pid).ok());
    let pid = arguments.pid.or(youngest).and_then(Pid::from_raw);
    let pid = pid.ok_or_else(|| io::Error::other("no process to disturb: --pid"))?;
    let mut refused = None;
    let disturbed = load.run(&timing, |mark| {
        if mark != Mark::Middle {
            return;
        }
        let done = match arguments.act {
            Act::Kill => kill_process(pid, Signal::KILL),
            Act::Upgrade => kill_process(pid, Signal::USR2),
            Act::Control => {
                control = None;
                if let Some(own) = &mut own {
                    own.hang_up();
                }
                Ok(())
            }
        };
        refused = done.err();
    });
    match refused {
        Some(error) => Err(error.into()),
        None => {
            let gap_ms = disturbed.longest_gap_ms - undisturbed.longest_gap_ms;
            Ok(Results { undisturbed, disturbed, gap_ms })
        }
    }
}
