//! The comparison: the same workloads for every system, in turns, and what to make of the figures.

pub mod goals;
pub mod machine;
pub mod results;
pub mod search;
pub mod svg;
pub mod table;
mod watch;
pub mod workload;

use std::{io, time::Duration};

use serde::{Deserialize, Serialize};

use self::{machine::without_folders, watch::Watch, workload::Workload};
use crate::{
    load::{Load, Mark, Report, Timing},
    process::{CpuMark, CpuUsed, Scheduling, memory_kb},
    systems::Choice,
};

/// Loss above which a point is marked and its cost is no cost: a relay that drops does less.
pub const LOSS_MAX: f64 = 1e-4;

/// Where things run, and for how long.
#[derive(Clone, Copy, Debug)]
pub struct Bench {
    /// Core of the system under test.
    pub relay_core: Option<usize>,
    /// Core of the generator, which is this process.
    pub load_core: Option<usize>,
    /// Before a measurement.
    pub warm_up: Duration,
    /// A measurement.
    pub measure: Duration,
    /// Rounds that were asked for.
    pub rounds: u32,
}

/// One measurement, or that there was none.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Point {
    /// Name of the workload.
    pub workload: String,
    /// Calls that talk.
    pub calls: u32,
    /// Calls that are silent.
    pub silent: u32,
    /// The system's name.
    pub system: String,
    /// Counts from 0.
    pub round: u32,
    /// Rounds that were asked for; 0 in results of earlier versions.
    #[serde(default)]
    pub of_rounds: u32,
    /// `real-time` or `fair`: how the system was scheduled on its core.
    #[serde(default)]
    pub scheduling: String,
    /// Why there are no figures.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failed: Option<String>,
    /// What the generator found.
    pub report: Report,
    /// What the system used.
    pub cpu: CpuUsed,
    /// CPU nanoseconds for each good packet.
    pub ns_per_packet: f64,
    /// The part of it in user space.
    pub user_ns_per_packet: f64,
    /// Share of one core that was used.
    pub core_share: f64,
    /// Memory without calls and with all of them, KiB.
    pub memory_kb: (u64, u64),
    /// How often the system's statistics were read meanwhile, and how often that failed; `None` where it has none that can be read.
    #[serde(default)]
    pub statistics_reads: Option<(u64, u64)>,
}

impl Point {
    /// Why it does not count; `None` when it does.
    #[must_use]
    pub fn fault(&self) -> Option<&'static str> {
        match &self.report {
            _ if self.failed.is_some() => Some("failed"),
            report if report.is_generator_limit => Some("generator"),
            report if !report.is_clean() => Some("not clean"),
            report if report.loss > LOSS_MAX => Some("loss"),
            report if report.dead_streams > 0 => Some("dead streams"),
            _ => None,
        }
    }

    /// Whether its latencies count: nobody held the generator up.
    #[must_use]
    pub fn is_timely(&self) -> bool {
        self.fault().is_none() && !self.report.is_late
    }

    /// Memory of one call, KiB.
    #[must_use]
    pub fn memory_per_call_kb(&self) -> f64 {
        let (before, after) = self.memory_kb;
        after.saturating_sub(before) as f64 / f64::from((self.calls + self.silent).max(1))
    }
}

impl Bench {
    /// What [`measure`](Self::measure) finds; where that fails, a point without figures that says why.
    #[must_use]
    pub fn point(&self, workload: &Workload, choice: &Choice, round: u32) -> Point {
        self.measure(workload, choice, round).unwrap_or_else(|error| Point {
            failed: Some(without_folders(&error.to_string())),
            ..self.blank(workload, choice, round)
        })
    }

    fn blank(&self, workload: &Workload, choice: &Choice, round: u32) -> Point {
        let pinned = self.relay_core.is_some();
        let scheduling = if pinned { choice.scheduling.allowed() } else { Scheduling::Fair };
        Point {
            workload: workload.name.clone(),
            calls: workload.shape.talking,
            silent: workload.shape.silent,
            system: choice.name.clone(),
            round,
            of_rounds: self.rounds,
            scheduling: scheduling.name().to_owned(),
            ..Point::default()
        }
    }

    /// Starts a system, makes the workload's calls, measures once, and ends it.
    ///
    /// # Errors
    /// When the system does not start, refuses a call, a handshake fails, or its statistics cannot be reached.
    pub fn measure(&self, workload: &Workload, choice: &Choice, round: u32) -> io::Result<Point> {
        let mut system = choice.start(self.relay_core)?;
        let empty_kb = memory_kb(system.pid());
        let mut load = Load::open_at(workload.shape, choice.browsers_at()?)?;
        let answers = system.add(load.specs())?;
        load.connect(&answers)?;
        let timing = Timing {
            warm_up: self.warm_up,
            measure: self.measure,
            drain: Duration::from_millis(300),
            has_core: self.load_core.is_some(),
        };
        let pid = system.pid();
        let watch = system.watcher()?.map(Watch::start);
        let mut before = CpuMark::default();
        let mut cpu = CpuUsed::default();
        let report = load.run(&timing, |mark| match mark {
            Mark::Begin => {
                before = CpuMark::read(pid);
                watch.iter().for_each(Watch::begin);
            }
            Mark::Middle => {}
            Mark::End => {
                cpu = CpuMark::read(pid).since(&before);
                watch.iter().for_each(Watch::end);
            }
        });
        let statistics_reads = watch.map(Watch::stop);
        let packets = report.received_in_time.max(1) as f64;
        let ns_per_packet = cpu.run_ns as f64 / packets;
        Ok(Point {
            ns_per_packet,
            user_ns_per_packet: ns_per_packet * cpu.user_share,
            core_share: cpu.run_ns as f64 / 1e9 / report.seconds.max(1e-9),
            memory_kb: (empty_kb, memory_kb(pid)),
            report,
            cpu,
            statistics_reads,
            ..self.blank(workload, choice, round)
        })
    }
}
