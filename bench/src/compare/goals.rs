//! The goals of the packet house, and what of them the points of a run say.

use std::fmt::Write as _;

use super::{
    Point,
    results::Results,
    search,
    table::{Figure, Load, What, figure, loads, ratio},
};

/// One goal: no more than these, or no less.
struct Goal {
    text: &'static str,
    must: f64,
    stretch: f64,
    /// More is better.
    is_least: bool,
    places: usize,
    reached: Option<(Figure, String)>,
}

impl Goal {
    fn most(text: &'static str, (must, stretch): (f64, f64), reached: Option<(Figure, String)>) -> Self {
        Goal { text, must, stretch, is_least: false, places: 2, reached }
    }

    fn verdict(&self) -> &'static str {
        let within = |value: f64, limit: f64| if self.is_least { value >= limit } else { value <= limit };
        match &self.reached {
            None => "not measured",
            Some((found, _)) if !found.is_result => "no result",
            Some((found, _)) if within(found.value, self.stretch) => "stretch",
            Some((found, _)) if within(found.value, self.must) => "yes",
            Some(_) => "no",
        }
    }
}

/// The goals with what was reached, in Markdown: one source for who writes about them.
#[must_use]
pub fn markdown(results: &Results) -> String {
    let mut text = String::from(
        "\ngoals (of the ring; a peer in the class in which it does better):\n\n\
         | figure | must | stretch | found | reached |\n|---|---|---|---|---|\n",
    );
    for goal in goals(results) {
        let sign = if goal.is_least { ">=" } else { "<=" };
        let found = goal.reached.as_ref().map_or_else(
            || "-".to_owned(),
            |(found, note)| format!("{}{}{note}", found.text(goal.places), if note.is_empty() { "" } else { " " }),
        );
        let _ = writeln!(
            text,
            "| {} | {sign} {:.*} | {sign} {:.*} | {found} | {} |",
            goal.text,
            goal.places,
            goal.must,
            goal.places,
            goal.stretch,
            goal.verdict()
        );
    }
    text
}

const RTP: Load<'_> = ("rtp", 1000, 0);

fn goals(results: &Results) -> Vec<Goal> {
    let points = &results.points;
    let by = |load, system, peer, what| ratio(points, load, system, peer, what).map(|found| (found, String::new()));
    let walk = |name: &str| {
        let found = results.walks.iter().find(|walk| walk.load == name)?;
        Some((Figure { value: found.mean_ns, is_result: results.machine.profile == "release" }, "ns".to_owned()))
    };
    let calls = |load: &str| {
        let (found, (least, largest)) = search::ratio(&results.most_calls, load, "uring", "rtpengine")?;
        Some((found, format!("({least:.2} to {largest:.2})")))
    };
    let p99_ms = figure(points, RTP, "uring", What::P99).map(|found| Figure { value: found.value / 1e3, ..found });
    let memory = figure(points, ("memory", 10, 4990), "uring", What::Memory);
    let silent = figure(points, ("silent", 500, 4500), "uring", What::Core)
        .zip(figure(points, ("silent", 500, 0), "uring", What::Core))
        .map(|(with, without)| (with.by(without), String::new()));
    let least = |text, limits, reached| Goal { is_least: true, ..Goal::most(text, limits, reached) };
    let whole = |text, limits, reached| Goal { places: 0, ..Goal::most(text, limits, reached) };
    vec![
        Goal::most(
            "CPU per packet RTP<->RTP, 1000 calls, through rtpengine",
            (0.65, 0.50),
            by(RTP, "uring", "rtpengine", What::Cost),
        ),
        Goal::most(
            "CPU per packet SRTP CM<->RTP, 700 calls, through rtpengine",
            (0.55, 0.45),
            by(("cm", 700, 0), "uring", "rtpengine", What::Cost),
        ),
        whole("user-space ns of the walk, plain", (350.0, 250.0), walk("plain")),
        whole("user-space ns of the walk, GCM", (500.0, 380.0), walk("gcm")),
        whole("user-space ns of the walk, CM", (1000.0, 800.0), walk("cm")),
        least("calls per core RTP<->RTP, through rtpengine", (1.8, 2.2), calls("rtp")),
        least("calls per core SRTP CM<->RTP, through rtpengine", (1.8, 2.2), calls("cm")),
        Goal::most(
            "p99 of added latency RTP<->RTP, 1000 calls, ms",
            (2.0, 1.0),
            p99_ms.map(|found| (found, String::new())),
        ),
        Goal::most(
            "ring through own epoll engine, CPU, RTP<->RTP, 1000 calls",
            (1.0, 0.9),
            by(RTP, "uring", "epoll", What::Cost),
        ),
        Goal::most(
            "ring through own epoll engine, CPU, the worst load",
            (1.0, 0.9),
            worst(points, "uring", "epoll", What::Cost),
        ),
        Goal::most(
            "ring through own epoll engine, p99, RTP<->RTP, 1000 calls",
            (1.0, 0.9),
            by(RTP, "uring", "epoll", What::P99),
        ),
        Goal::most(
            "ring through own epoll engine, p99, the worst load",
            (1.0, 0.9),
            worst(points, "uring", "epoll", What::P99),
        ),
        Goal::most(
            "own epoll engine through the bare loop, CPU, RTP<->RTP, 1000 calls",
            (1.15, 1.08),
            by(RTP, "epoll", "bare", What::Cost),
        ),
        Goal::most(
            "own epoll engine through the bare loop, CPU, the worst load",
            (1.15, 1.08),
            worst(points, "epoll", "bare", What::Cost),
        ),
        Goal {
            places: 1,
            ..Goal::most(
                "memory per call in the dataplane at 5000 calls, KiB",
                (16.0, 8.0),
                memory.map(|found| (found, String::new())),
            )
        },
        Goal::most("CPU of 500 talking calls with 4,500 silent ones through 500 alone", (1.10, 1.03), silent),
        Goal::most(
            "whole gateway through Janus, CPU per talking call, 100 calls",
            (0.50, 0.33),
            by(("gateway", 100, 0), "gateway", "janus", What::CoreOfCall),
        ),
    ]
}

/// The largest ratio of all loads that both ran, and which load it is of.
fn worst(points: &[Point], system: &str, peer: &str, what: What) -> Option<(Figure, String)> {
    let all = loads(points).into_iter().filter(|(name, ..)| *name != "memory");
    let all: Vec<(Figure, Load<'_>)> =
        all.filter_map(|load| ratio(points, load, system, peer, what).map(|found| (found, load))).collect();
    // What is no result may not stand before one that is.
    let results = all.iter().filter(|(found, _)| found.is_result).count();
    let kept = all.into_iter().filter(|(found, _)| results == 0 || found.is_result);
    let (found, (name, calls, silent)) = kept.max_by(|(one, _), (other, _)| one.value.total_cmp(&other.value))?;
    let silent = if silent > 0 { format!(" + {silent} silent") } else { String::new() };
    Some((found, format!("({name}, {calls}{silent})")))
}

#[cfg(test)]
mod tests {
    use super::{
        super::{machine::Machine, search::tests::most, table::tests::point},
        *,
    };
    use crate::pipeline::Walk;

    #[test]
    fn goals_are_told_from_points_and_what_is_missing_is_not_measured() {
        let mut points = Vec::new();
        for round in 0..3 {
            points.push(point("uring", 1000, round, 6000.0, 0.0));
            points.push(point("rtpengine", 1000, round, 10_000.0, 0.0));
            points.push(point("rtpengine@fair", 1000, round, 11_000.0, 0.0));
            points.push(point("epoll", 1000, round, 5000.0, 0.0));
            points.push(point("uring", 500, round, 6000.0, 0.0));
            points.push(point("epoll", 500, round, 4000.0, if round == 0 { 0.5 } else { 0.0 }));
        }
        let machine = Machine { profile: "release".to_owned(), ..Machine::default() };
        let walks = vec![Walk { load: "gcm".to_owned(), open_ns: 260.0, seal_ns: 250.0, mean_ns: 255.0 }];
        let most_calls =
            (0..3).flat_map(|round| [most("uring", round, 1100, false), most("rtpengine", round, 800, false)]);
        let results = Results { machine, points, most_calls: most_calls.collect(), walks };
        let text = markdown(&results);
        let has = |line: &str| assert!(text.contains(line), "{line}\n{text}");
        has("1000 calls, through rtpengine | <= 0.65 | <= 0.50 | 0.60 | yes |");
        has("700 calls, through rtpengine | <= 0.55 | <= 0.45 | - | not measured |");
        has("the walk, GCM | <= 500 | <= 380 | 255 ns | stretch |");
        has("calls per core RTP<->RTP, through rtpengine | >= 1.80 | >= 2.20 | 1.38 (1.38 to 1.38) | no |");
        // A load without enough rounds does not stand for the worst while another has them.
        has("engine, CPU, the worst load | <= 1.00 | <= 0.90 | 1.20 (rtp, 1000) | no |");
        let few = Results { points: results.points[..6].to_vec(), ..results };
        assert!(markdown(&few).contains("| 0.60? | no result |"), "one round is no result");
    }
}
