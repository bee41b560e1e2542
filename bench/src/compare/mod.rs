//! The comparison: the same workloads for every system, in turns, and what to make of the figures.

pub mod machine;
pub mod svg;
pub mod table;
pub mod workload;

use std::{io, time::Duration};

use serde::{Deserialize, Serialize};

use self::workload::Workload;
use crate::{
    load::{Load, Mark, Report, Timing},
    process::{CpuMark, CpuUsed, memory_kb},
    systems::Choice,
};

/// Loss above which a point is marked and its cost is no cost: a relay that drops does less.
pub const LOSS_MAX: f64 = 1e-4;

/// The limit of the search for calls per core, microseconds at p99.
pub const LATENCY_MAX_US: f64 = 5000.0;

/// Rounds of a number of calls that must agree whether a relay carries them.
const ROUNDS_TO_AGREE: u32 = 2;

/// Failed rounds with a generator that was held up, after which the generator is the limit.
const HELD_UP_MAX: u32 = 3;

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
}

/// One measurement.
#[derive(Clone, Debug, Serialize, Deserialize)]
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
}

impl Point {
    /// Why its cost does not count; `None` when it does.
    #[must_use]
    pub fn fault(&self) -> Option<&'static str> {
        match &self.report {
            report if report.is_generator_limit => Some("generator"),
            report if !report.is_clean() => Some("not clean"),
            report if report.loss > LOSS_MAX => Some("loss"),
            report if report.dead_streams > 0 => Some("dead streams"),
            _ => None,
        }
    }

    /// Memory of one call, KiB.
    #[must_use]
    pub fn memory_per_call_kb(&self) -> f64 {
        let (before, after) = self.memory_kb;
        after.saturating_sub(before) as f64 / f64::from((self.calls + self.silent).max(1))
    }
}

impl Bench {
    /// Starts a system, makes the workload's calls, measures once, and ends it.
    ///
    /// # Errors
    /// When the system does not start, refuses a call, or a handshake fails.
    pub fn point(&self, workload: &Workload, choice: &Choice, round: u32) -> io::Result<Point> {
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
        let mut before = CpuMark::default();
        let mut cpu = CpuUsed::default();
        let report = load.run(&timing, |mark| match mark {
            Mark::Begin => before = CpuMark::read(pid),
            Mark::Middle => {}
            Mark::End => cpu = CpuMark::read(pid).since(&before),
        });
        let packets = report.received_in_time.max(1) as f64;
        let ns_per_packet = cpu.run_ns as f64 / packets;
        Ok(Point {
            workload: workload.name.clone(),
            calls: workload.shape.talking,
            silent: workload.shape.silent,
            system: choice.name.clone(),
            round,
            ns_per_packet,
            user_ns_per_packet: ns_per_packet * cpu.user_share,
            core_share: cpu.run_ns as f64 / 1e9 / report.seconds.max(1e-9),
            memory_kb: (empty_kb, memory_kb(pid)),
            report,
            cpu,
        })
    }

    /// Most calls that one core carries before p99 passes 5 ms or loss passes 1e-4: doubled from `first` until that many fail or `most` is
    /// reached, then halved between to a twentieth. `None` when not even `first` pass. Of each number two rounds decide that agree, because
    /// one may have been disturbed by something else; a failed round in which the generator was held up says nothing. The flag says
    /// that the relay was not the limit: the generator was held up again and again.
    ///
    /// # Errors
    /// As [`point`](Self::point).
    pub fn most_calls(
        &self,
        workload: &Workload,
        choice: &Choice,
        (first, most): (u32, u32),
    ) -> io::Result<Option<(u32, bool)>> {
        let mut generator_limit = false;
        let mut passes = |calls: u32| {
            let (mut good, mut bad, mut held_up) = (0, 0, 0);
            while good < ROUNDS_TO_AGREE && bad < ROUNDS_TO_AGREE && held_up < HELD_UP_MAX {
                let point = self.point(&workload.with_calls(calls), choice, good + bad + held_up)?;
                if point.fault().is_none() && point.report.latency.p99_us <= LATENCY_MAX_US {
                    good += 1;
                } else if point.report.is_generator_limit || point.report.is_late {
                    held_up += 1;
                } else {
                    bad += 1;
                }
            }
            generator_limit |= held_up == HELD_UP_MAX;
            io::Result::Ok(good == ROUNDS_TO_AGREE)
        };
        let (mut good, mut bad) = (None, first);
        while bad <= most && passes(bad)? {
            good = Some(bad);
            bad *= 2;
        }
        let Some(mut good) = good else { return Ok(None) };
        if bad > most {
            return Ok(Some((good, true)));
        }
        while bad - good > (good / 20).max(1) {
            let middle = good + (bad - good) / 2;
            if passes(middle)? { good = middle } else { bad = middle }
        }
        Ok(Some((good, generator_limit)))
    }
}
