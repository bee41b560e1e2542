//! Points as a table: medians of the valid rounds, and ratios against a peer of the same run.

use std::{collections::BTreeMap, fmt::Write as _};

use super::Point;

/// A workload of one size: name, talking calls, silent calls.
pub type Load<'a> = (&'a str, u32, u32);

/// Fewer good rounds than these are no result, however many were asked for.
pub const ROUNDS_MIN: usize = 3;

/// The middle of an odd number of values, the mean of the two middle ones of an even number; `None` of none.
#[must_use]
pub fn median(values: impl IntoIterator<Item = f64>) -> Option<f64> {
    let mut values: Vec<f64> = values.into_iter().collect();
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.len() {
        0 => None,
        len if len % 2 == 1 => Some(values[middle]),
        _ => Some(f64::midpoint(values[middle - 1], values[middle])),
    }
}

/// What is taken from points.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    /// CPU nanoseconds for each good packet.
    Cost,
    /// The part of it in user space.
    UserCost,
    /// Median of latency, microseconds.
    P50,
    /// 99 of 100 are below.
    P99,
    /// 999 of 1000 are below.
    P999,
    /// Share of a core, percent.
    Core,
    /// Share of a core for each talking call, percent.
    CoreOfCall,
    /// Memory of a call, KiB.
    Memory,
}

impl What {
    fn is_latency(self) -> bool {
        matches!(self, What::P50 | What::P99 | What::P999)
    }

    fn of(self, point: &Point) -> f64 {
        match self {
            What::Cost => point.ns_per_packet,
            What::UserCost => point.user_ns_per_packet,
            What::P50 => point.report.latency.p50_us,
            What::P99 => point.report.latency.p99_us,
            What::P999 => point.report.latency.p999_us,
            What::Core => 100.0 * point.core_share,
            What::CoreOfCall => 100.0 * point.core_share / f64::from(point.calls.max(1)),
            What::Memory => point.memory_per_call_kb(),
        }
    }
}

/// A median, or a ratio of two.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Figure {
    /// See there.
    pub value: f64,
    /// Whether all rounds that were asked for were good, and at least [`ROUNDS_MIN`]: otherwise it is no result.
    pub is_result: bool,
}

impl Figure {
    /// This by `other`.
    #[must_use]
    pub fn by(self, other: Figure) -> Figure {
        Figure { value: self.value / other.value, is_result: self.is_result && other.is_result }
    }

    /// In so many places, with a question mark when it is no result.
    #[must_use]
    pub fn text(self, places: usize) -> String {
        format!("{:.places$}{}", self.value, if self.is_result { "" } else { "?" })
    }
}

/// The median of a system under a load. Only points without a fault count, and for latencies only those in which nobody held the generator
/// up.
#[must_use]
pub fn figure(points: &[Point], load: Load<'_>, system: &str, what: What) -> Option<Figure> {
    let counts = |point: &&Point| if what.is_latency() { point.is_timely() } else { point.fault().is_none() };
    let good: Vec<f64> = of(points, load, system).filter(counts).map(|point| what.of(point)).collect();
    let is_result = good.len() >= ROUNDS_MIN.max(asked(points, load, system));
    median(good).map(|value| Figure { value, is_result })
}

/// Rounds that a system was to run.
fn asked(points: &[Point], load: Load<'_>, system: &str) -> usize {
    let told = of(points, load, system).map(|point| point.of_rounds as usize).max().unwrap_or(0);
    told.max(of(points, load, system).count())
}

/// The name of a system without the class in which it was run.
#[must_use]
pub fn family(system: &str) -> &str {
    system.rsplit_once('@').map_or(system, |(family, _)| family)
}

/// The least figure of a system of these points in any class: a peer is compared with in the class in which it does better.
#[must_use]
pub fn best(points: &[Point], load: Load<'_>, name: &str, what: What) -> Option<Figure> {
    let of_family = systems(points).into_iter().filter(|system| family(system) == name);
    let figures = of_family.filter_map(|system| figure(points, load, system, what));
    figures.min_by(|one, other| one.value.total_cmp(&other.value))
}

/// A system's figure by the best of a peer; `None` for the peer itself and where one of them has none.
#[must_use]
pub fn ratio(points: &[Point], load: Load<'_>, system: &str, peer: &str, what: What) -> Option<Figure> {
    let own = figure(points, load, system, what).filter(|_| family(system) != peer)?;
    Some(own.by(best(points, load, peer, what)?))
}

/// The median cost in ns per packet of the valid points of a system under a load.
#[must_use]
pub fn cost(points: &[Point], load: Load<'_>, system: &str) -> Option<f64> {
    figure(points, load, system, What::Cost).map(|figure| figure.value)
}

fn of<'a>(points: &'a [Point], load: Load<'a>, system: &'a str) -> impl Iterator<Item = &'a Point> {
    points
        .iter()
        .filter(move |point| (point.workload.as_str(), point.calls, point.silent) == load && point.system == system)
}

/// Loads in the order in which they first come.
#[must_use]
pub fn loads(points: &[Point]) -> Vec<Load<'_>> {
    in_order(points.iter().map(|point| (point.workload.as_str(), point.calls, point.silent)))
}

/// Systems in the order in which they first come.
#[must_use]
pub fn systems(points: &[Point]) -> Vec<&str> {
    in_order(points.iter().map(|point| point.system.as_str()))
}

fn in_order<T: PartialEq>(all: impl Iterator<Item = T>) -> Vec<T> {
    let mut seen = Vec::new();
    for item in all {
        if !seen.contains(&item) {
            seen.push(item);
        }
    }
    seen
}

fn cell(figure: Option<Figure>, places: usize) -> String {
    figure.map_or_else(|| "-".to_owned(), |figure| figure.text(places))
}

/// The table of all points, in Markdown. A figure is the median of the rounds without a fault; faults are named with how often, and why rounds
/// failed stands below.
#[must_use]
pub fn markdown(points: &[Point]) -> String {
    let mut text = String::from(
        "| load | calls | system | class | ns/packet | user ns | / rtpengine | / epoll | / bare | p50 us | p99 us | p99.9 us \
         | p99 / rtpengine | p99 / epoll | worst loss | core | good rounds |\n\
         |---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|\n",
    );
    for load in loads(points) {
        for system in systems(points) {
            let Some(first) = of(points, load, system).next() else { continue };
            let number =
                |what| cell(figure(points, load, system, what).map(|found| Figure { is_result: true, ..found }), 0);
            let against = |peer, what| cell(ratio(points, load, system, peer, what), 2);
            let calls = if load.2 > 0 { format!("{} + {} silent", load.1, load.2) } else { load.1.to_string() };
            let _ = writeln!(
                text,
                "| {} | {calls} | {system} | {} | {} | {} | {} | {} | {} | {} | {} | {} | {} | {} | {:.1e} | {} % | {} |",
                load.0,
                first.scheduling,
                number(What::Cost),
                number(What::UserCost),
                against("rtpengine", What::Cost),
                against("epoll", What::Cost),
                against("bare", What::Cost),
                number(What::P50),
                number(What::P99),
                number(What::P999),
                against("rtpengine", What::P99),
                against("epoll", What::P99),
                of(points, load, system).map(|point| point.report.loss).fold(0.0, f64::max),
                number(What::Core),
                rounds(points, load, system),
            );
        }
    }
    let failed: Vec<&Point> = points.iter().filter(|point| point.failed.is_some()).collect();
    if !failed.is_empty() {
        text.push_str("\nrounds that failed:\n\n");
    }
    for point in failed {
        let reason = point.failed.as_deref().unwrap_or_default();
        let _ =
            writeln!(text, "* {} {}, {}, round {}: {reason}", point.workload, point.calls, point.system, point.round);
    }
    text
}

/// Good rounds of those asked for, and what the others had.
fn rounds(points: &[Point], load: Load<'_>, system: &str) -> String {
    let all = || of(points, load, system);
    let (good, timely) =
        (all().filter(|point| point.fault().is_none()).count(), all().filter(|point| point.is_timely()).count());
    let mut text = format!("{good}/{}", asked(points, load, system));
    let mut faults: BTreeMap<&str, usize> = BTreeMap::new();
    for fault in all().filter_map(Point::fault) {
        *faults.entry(fault).or_default() += 1;
    }
    for (fault, count) in faults.into_iter().chain((timely < good).then_some(("late", good - timely))) {
        let _ = write!(text, ", {fault} {count}");
    }
    if good < ROUNDS_MIN.max(asked(points, load, system)) {
        text.push_str(": **no result**");
    }
    text
}

/// Memory of a call, a table for each load that is there for it.
#[must_use]
pub fn memory(points: &[Point]) -> String {
    let mut text = String::new();
    for load in loads(points).into_iter().filter(|(name, ..)| *name == "memory") {
        let _ = write!(text, "\nmemory per call at {} calls:\n\n| system | KiB |\n|---|---|\n", load.1 + load.2);
        for system in systems(points) {
            if let Some(found) = figure(points, load, system, What::Memory) {
                let _ = writeln!(text, "| {system} | {} |", found.text(1));
            }
        }
    }
    text
}

/// The tables of whole gateways, one a load, in Markdown: what a talking call takes of a core, and its ratio to Janus's.
#[must_use]
pub fn whole(points: &[Point]) -> String {
    let mut text = String::new();
    for load in loads(points).into_iter().filter(|(name, ..)| *name == "gateway") {
        let _ = write!(
            text,
            "\nwhole gateway, {} calls:\n\n| system | % of a core per call | / janus | KiB per call | SRTP |\n|---|---|---|---|---|\n",
            load.1
        );
        for system in systems(points) {
            let Some(share) = figure(points, load, system, What::CoreOfCall) else { continue };
            let ratio = cell(ratio(points, load, system, "janus", What::CoreOfCall), 2);
            let memory = figure(points, load, system, What::Memory).map_or(0.0, |found| found.value);
            let valid = of(points, load, system).filter(|point| point.fault().is_none());
            let profiles: Vec<&str> =
                in_order(valid.flat_map(|point| &point.report.profiles)).into_iter().map(String::as_str).collect();
            let _ =
                writeln!(text, "| {system} | {:.3} | {ratio} | {memory:.0} | {} |", share.value, profiles.join(", "));
        }
    }
    text
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::load::Report;

    pub(crate) fn point(system: &str, calls: u32, round: u32, ns_per_packet: f64, loss: f64) -> Point {
        Point {
            workload: "rtp".to_owned(),
            calls,
            system: system.to_owned(),
            round,
            report: Report { loss, ..Report::default() },
            ns_per_packet,
            user_ns_per_packet: ns_per_packet / 10.0,
            core_share: 0.5,
            ..Point::default()
        }
    }

    fn with_p99(point: Point, p99_us: f64) -> Point {
        let latency = crate::load::report::Percentiles { p99_us, ..Default::default() };
        Point { report: Report { latency, ..point.report.clone() }, ..point }
    }

    const RTP_100: Load<'_> = ("rtp", 100, 0);

    #[test]
    fn medians_are_of_valid_rounds_and_ratios_of_medians() {
        let points = [
            point("epoll", 100, 0, 5000.0, 0.0),
            point("rtpengine", 100, 0, 9000.0, 0.0),
            point("epoll", 100, 1, 4000.0, 0.0),
            point("rtpengine", 100, 1, 11_000.0, 0.0),
            point("epoll", 100, 2, 100.0, 0.5),
        ];
        assert_eq!(cost(&points, RTP_100, "epoll"), Some(4500.0));
        let text = markdown(&points);
        assert!(text.contains("| rtp | 100 | epoll |  | 4500 | 450 | 0.45? | - | - |"), "{text}");
        assert!(text.contains("| 5.0e-1 | 50 % | 2/3, loss 1: **no result** |"), "{text}");
        assert_eq!(median([]), None);
    }

    #[test]
    fn what_was_lossy_late_or_the_generators_limit_is_in_no_median() {
        let loads = [
            (1000.0, 0.0, false, false),
            (90_000.0, 0.5, false, false),
            (1.0, 0.0, true, true),
            (1.0, 0.0, false, true),
        ];
        let points: Vec<Point> = loads
            .into_iter()
            .map(|(p99_us, loss, is_generator_limit, is_late)| {
                let mut point = with_p99(point("uring", 100, 0, 5000.0, loss), p99_us);
                (point.report.is_generator_limit, point.report.is_late) = (is_generator_limit, is_late);
                point.core_share = if loss > 0.0 || is_generator_limit { 1.0 } else { 0.25 };
                point
            })
            .collect();
        assert_eq!(figure(&points, RTP_100, "uring", What::P99), Some(Figure { value: 1000.0, is_result: false }));
        assert_eq!(figure(&points, RTP_100, "uring", What::Core).map(|found| found.value), Some(25.0));
        assert!(markdown(&points).contains("2/4, generator 1, loss 1, late 1: **no result**"));
    }

    #[test]
    fn a_round_that_failed_counts_as_one_that_was_asked_for_and_says_why() {
        let mut points: Vec<Point> =
            (0..4).map(|round| Point { of_rounds: 5, ..point("epoll", 100, round, 5000.0, 0.0) }).collect();
        assert!(markdown(&points).contains("4/5: **no result**"), "a run that was broken off");
        points.push(Point { failed: Some("port in use".to_owned()), ..point("epoll", 100, 4, 0.0, 0.0) });
        let text = markdown(&points);
        assert!(text.contains("| 5000 |") && text.contains("4/5, failed 1: **no result**"), "{text}");
        assert!(text.contains("* rtp 100, epoll, round 4: port in use"), "{text}");
        points[4] = point("epoll", 100, 4, 5000.0, 0.0);
        assert!(markdown(&points).contains("| 5/5 |"));
    }

    #[test]
    fn a_peer_is_compared_with_in_the_class_in_which_it_does_better() {
        let mut points = Vec::new();
        for round in 0..3 {
            points.push(with_p99(point("uring", 100, round, 5000.0, 0.0), 1000.0));
            points.push(with_p99(point("epoll", 100, round, 4000.0, 0.0), 500.0));
            points.push(with_p99(point("rtpengine", 100, round, 10_000.0, 0.0), 80_000.0));
            points.push(with_p99(point("rtpengine@fair", 100, round, 12_500.0, 0.0), 20_000.0));
        }
        let of = |system, peer, what| ratio(&points, RTP_100, system, peer, what).map(|found| found.text(3));
        assert_eq!(of("uring", "rtpengine", What::Cost).as_deref(), Some("0.500"));
        assert_eq!(of("uring", "rtpengine", What::P99).as_deref(), Some("0.050"));
        assert_eq!(of("uring", "epoll", What::P99).as_deref(), Some("2.000"));
        assert_eq!(of("rtpengine@fair", "rtpengine", What::Cost), None, "nobody is compared with itself");
        assert!(markdown(&points).contains("| rtp | 100 | uring |  | 5000 | 500 | 0.50 | 1.25 | - |"));
    }

    #[test]
    fn whole_gateways_stand_beside_janus() {
        let of = |system: &str, round, core_share, loss| {
            let point = point(system, 20, round, 1.0, loss);
            let report = Report { profiles: vec!["P".to_owned()], ..point.report.clone() };
            Point { workload: "gateway".to_owned(), core_share, memory_kb: (100, 2100), report, ..point }
        };
        let points = [
            of("gateway", 0, 0.02, 0.0),
            of("janus", 0, 0.08, 0.0),
            of("gateway", 1, 0.04, 0.0),
            of("janus", 1, 0.08, 0.0),
            of("janus", 2, 0.01, 0.5),
            point("gateway", 100, 0, 1.0, 0.0),
        ];
        let text = whole(&points);
        assert!(text.contains("whole gateway, 20 calls") && !text.contains("100 calls"), "{text}");
        assert!(text.contains("| gateway | 0.150 | 0.38? | 100 | P |"), "{text}");
        assert!(
            text.contains("| janus | 0.400 | - | 100 | P |"),
            "what was lost in a round makes nobody cheap: {text}"
        );
    }
}
