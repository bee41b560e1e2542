//! Points as a table: medians of the valid rounds, and ratios against a peer of the same run.

use std::{collections::BTreeMap, fmt::Write as _};

use super::Point;

/// A workload of one size: name, talking calls, silent calls.
pub type Load<'a> = (&'a str, u32, u32);

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

/// The median cost in ns per packet of the valid points of a system under a load.
#[must_use]
pub fn cost(points: &[Point], load: Load<'_>, system: &str) -> Option<f64> {
    median(valid(points, load, system).map(|point| point.ns_per_packet))
}

/// The points of a system under a load that count.
pub fn valid<'a>(points: &'a [Point], load: Load<'a>, system: &'a str) -> impl Iterator<Item = &'a Point> {
    of(points, load, system).filter(|point| point.fault().is_none())
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

/// The table of all points, in Markdown. A cost is the median of the rounds without a fault; faults are named with how often.
#[must_use]
pub fn markdown(points: &[Point]) -> String {
    let mut text = String::from(
        "| load | calls | system | ns/packet | user ns | / rtpengine | / bare | p50 us | p99 us | p99.9 us | loss | core | rounds |\n\
         |---|---|---|---|---|---|---|---|---|---|---|---|---|\n",
    );
    for load in loads(points) {
        for system in systems(points) {
            let all: Vec<&Point> = of(points, load, system).collect();
            if all.is_empty() {
                continue;
            }
            let valid: Vec<&Point> = valid(points, load, system).collect();
            let mut faults: BTreeMap<&str, usize> = BTreeMap::new();
            for fault in all.iter().filter_map(|point| point.fault()) {
                *faults.entry(fault).or_default() += 1;
            }
            let number = |value: Option<f64>| value.map_or_else(|| "-".to_owned(), |value| format!("{value:.0}"));
            let of_valid = |pick: fn(&Point) -> f64| median(valid.iter().map(|point| pick(point)));
            // Where a relay drops, how late it is still says something; what it costs does not.
            let of_all = |pick: fn(&Point) -> f64| median(all.iter().map(|point| pick(point)));
            let of_timely = |pick: fn(&Point) -> f64| {
                median(all.iter().filter(|point| !point.report.is_late).map(|point| pick(point)))
            };
            let late = all.iter().filter(|point| point.report.is_late).count();
            let own = cost(points, load, system);
            let ratio = |peer: &str| {
                let ratio = own.zip(cost(points, load, peer)).filter(|_| peer != system);
                ratio.map_or_else(|| "-".to_owned(), |(own, peer)| format!("{:.2}", own / peer))
            };
            let worst = all.iter().map(|point| point.report.loss).fold(0.0, f64::max);
            let calls = if load.2 > 0 { format!("{} + {} silent", load.1, load.2) } else { load.1.to_string() };
            let mut rounds = format!("{}/{}", valid.len(), all.len());
            for (fault, count) in faults.into_iter().chain((late > 0).then_some(("late", late))) {
                let _ = write!(rounds, ", {fault} {count}");
            }
            let _ = writeln!(
                text,
                "| {} | {calls} | {system} | {} | {} | {} | {} | {} | {} | {} | {worst:.1e} | {:.0} % | {rounds} |",
                load.0,
                number(own),
                number(of_valid(|point| point.user_ns_per_packet)),
                ratio("rtpengine"),
                ratio("bare"),
                number(of_timely(|point| point.report.latency.p50_us)),
                number(of_timely(|point| point.report.latency.p99_us)),
                number(of_timely(|point| point.report.latency.p999_us)),
                100.0 * of_all(|point| point.core_share).unwrap_or(0.0),
            );
        }
    }
    text
}

/// The median share of a core that one talking call takes, in percent, of the valid points of a system under a load.
#[must_use]
pub fn call_share(points: &[Point], (name, calls, silent): Load<'_>, system: &str) -> Option<f64> {
    let of = valid(points, (name, calls, silent), system);
    median(of.map(|point| 100.0 * point.core_share / f64::from(calls.max(1))))
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
        let janus = call_share(points, load, "janus");
        for system in systems(points) {
            let Some(share) = call_share(points, load, system) else { continue };
            let ratio = janus.filter(|_| system != "janus").map(|janus| format!("{:.2}", share / janus));
            let memory = median(valid(points, load, system).map(Point::memory_per_call_kb)).unwrap_or(0.0);
            let profiles = in_order(valid(points, load, system).flat_map(|point| &point.report.profiles));
            let profiles: Vec<&str> = profiles.into_iter().map(String::as_str).collect();
            let ratio = ratio.as_deref().unwrap_or("-");
            let _ = writeln!(text, "| {system} | {share:.3} | {ratio} | {memory:.0} | {} |", profiles.join(", "));
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
            silent: 0,
            system: system.to_owned(),
            round,
            report: Report { loss, ..Report::default() },
            cpu: crate::process::CpuUsed::default(),
            ns_per_packet,
            user_ns_per_packet: ns_per_packet / 10.0,
            core_share: 0.5,
            memory_kb: (0, 0),
        }
    }

    #[test]
    fn medians_are_of_valid_rounds_and_ratios_of_medians() {
        let points = [
            point("epoll", 100, 0, 5000.0, 0.0),
            point("rtpengine", 100, 0, 9000.0, 0.0),
            point("epoll", 100, 1, 4000.0, 0.0),
            point("rtpengine", 100, 1, 11_000.0, 0.0),
            point("epoll", 100, 2, 100.0, 0.5),
        ];
        assert_eq!(cost(&points, ("rtp", 100, 0), "epoll"), Some(4500.0));
        let text = markdown(&points);
        assert!(text.contains("| rtp | 100 | epoll | 4500 | 450 | 0.45 | - |"), "{text}");
        assert!(text.contains("5.0e-1 | 50 % | 2/3, loss 1 |"), "{text}");
        assert_eq!(median([]), None);
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
        assert!(text.contains("| gateway | 0.150 | 0.38 | 100 | P |"), "{text}");
        assert!(
            text.contains("| janus | 0.400 | - | 100 | P |"),
            "what was lost in a round makes nobody cheap: {text}"
        );
    }
}
