//! How many calls a core carries: searched several times for each system, in turns.

use std::io;

use serde::{Deserialize, Serialize};

use super::{
    Bench, Point,
    machine::without_folders,
    table::{Figure, ROUNDS_MIN, family, median},
    workload::Workload,
};
use crate::systems::Choice;

/// The limit, microseconds at p99.
pub const LATENCY_MAX_US: f64 = 5000.0;

/// Calls that a first search begins with, those it ends at whatever happens, and those below which none is a search.
const FIRST: u32 = 250;
const MOST: u32 = 4000;
const LEAST: u32 = 16;

/// Rounds of a number of calls that must agree whether a relay carries them: one may have been disturbed by something else.
const ROUNDS_TO_AGREE: usize = 2;

/// Failed rounds with a generator that was held up, after which the generator is the limit.
const HELD_UP_MAX: usize = 3;

/// Rounds of a search that may fail without ending it: the next may have what this one lacked.
const FAILURES_MAX: u32 = 2;

/// What a number of calls came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// Carried: p99 below 5 ms, loss below 1e-4.
    Carried,
    /// Not carried.
    Missed,
    /// Not carried, and the generator was held up: that says nothing of the relay.
    HeldUp,
    /// There was no measurement.
    Failed,
}

/// A measured round of a search.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Try {
    /// Calls.
    pub calls: u32,
    /// What it came to.
    pub outcome: Outcome,
    /// The fault of the point, when it had one, or why there was none.
    pub fault: Option<String>,
    /// p99 of latency, microseconds.
    pub p99_us: f64,
    /// Lost of sent.
    pub loss: f64,
    /// CPU nanoseconds for each good packet.
    pub ns_per_packet: f64,
    /// Share of a core.
    pub core_share: f64,
    /// p99 of the generator's own lateness, microseconds.
    pub lateness_p99_us: f64,
}

impl Try {
    fn of(point: &Point) -> Self {
        let report = &point.report;
        let outcome = if point.fault().is_none() && report.latency.p99_us <= LATENCY_MAX_US {
            Outcome::Carried
        } else if report.is_generator_limit || report.is_late {
            Outcome::HeldUp
        } else {
            Outcome::Missed
        };
        Try {
            calls: point.calls,
            outcome,
            fault: point.fault().map(str::to_owned),
            p99_us: report.latency.p99_us,
            loss: report.loss,
            ns_per_packet: point.ns_per_packet,
            core_share: point.core_share,
            lateness_p99_us: report.generator.lateness.p99_us,
        }
    }

    fn failed(calls: u32, error: &io::Error) -> Self {
        Try {
            calls,
            outcome: Outcome::Failed,
            fault: Some(without_folders(&error.to_string())),
            p99_us: 0.0,
            loss: 0.0,
            ns_per_packet: 0.0,
            core_share: 0.0,
            lateness_p99_us: 0.0,
        }
    }
}

/// Measures, and again after a failure as long as any are `left`, for each of which `note` is called.
fn again<T>(
    left: &mut u32,
    mut measure: impl FnMut() -> io::Result<T>,
    mut note: impl FnMut(&io::Error),
) -> io::Result<T> {
    loop {
        match measure() {
            Err(error) => {
                note(&error);
                *left = left.checked_sub(1).ok_or(error)?;
            }
            found => return found,
        }
    }
}

/// One search: most calls of a core.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Most {
    /// Name of the workload.
    pub workload: String,
    /// The system's name.
    pub system: String,
    /// Counts from 0.
    pub round: u32,
    /// Searches that were asked for; 0 in results of earlier versions.
    #[serde(default)]
    pub of_rounds: u32,
    /// What was found; `None` when it failed.
    pub calls: Option<u32>,
    /// The relay was not the limit: it may carry more.
    pub is_more: bool,
    /// Why it failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failed: Option<String>,
    /// The rounds by which it decided, in order.
    #[serde(default)]
    pub tries: Vec<Try>,
}

impl Most {
    /// Searches. `guess` is what an earlier search of the same system found: it says where to begin, and not where to end.
    #[must_use]
    pub fn search(bench: &Bench, workload: &Workload, choice: &Choice, round: u32, guess: Option<u32>) -> Self {
        let (mut tries, mut left) = (Vec::new(), FAILURES_MAX);
        let found = search(guess, |calls| {
            let workload = workload.with_calls(calls);
            decide(|| {
                let measure = || bench.measure(&workload, choice, round);
                let found = Try::of(&again(&mut left, measure, |error| tries.push(Try::failed(calls, error)))?);
                let outcome = found.outcome;
                tries.push(found);
                Ok(outcome)
            })
        });
        let (found, failed) = match found {
            Ok(found) => (Some(found), None),
            Err(error) => (None, Some(without_folders(&error.to_string()))),
        };
        Most {
            workload: workload.name.clone(),
            system: choice.name.clone(),
            round,
            of_rounds: bench.rounds,
            calls: found.map(|(calls, _)| calls),
            is_more: found.is_some_and(|(_, is_more)| is_more),
            failed,
            tries,
        }
    }
}

/// Asks until as many rounds agree as must.
fn decide(mut ask: impl FnMut() -> io::Result<Outcome>) -> io::Result<Outcome> {
    let mut seen = Vec::new();
    loop {
        let outcome = ask()?;
        seen.push(outcome);
        let needed = if outcome == Outcome::HeldUp { HELD_UP_MAX } else { ROUNDS_TO_AGREE };
        if seen.iter().filter(|other| **other == outcome).count() == needed {
            return Ok(outcome);
        }
    }
}

/// The most calls that are carried, to a twentieth, and whether it was not the relay that ended it. Doubled or halved from [`FIRST`], or
/// from an eighth beside a guess, until the limit lies between two numbers; then halved between.
fn search(guess: Option<u32>, mut outcome: impl FnMut(u32) -> io::Result<Outcome>) -> io::Result<(u32, bool)> {
    let (mut good, mut bad) = (0, None::<(u32, bool)>);
    // The first step from a guess is small: who was wrong by more goes on in large ones.
    let mut is_near = guess.is_some();
    let mut step = |calls: u32| if std::mem::take(&mut is_near) { (calls / 8).max(1) } else { calls };
    // A little below the guess: where it was right, two numbers hold the limit between them.
    let mut calls = guess.map_or(FIRST, |guess| (guess - guess / 16).clamp(LEAST, MOST));
    loop {
        match outcome(calls)? {
            Outcome::Carried => good = calls,
            Outcome::Missed => bad = Some((calls, false)),
            Outcome::HeldUp | Outcome::Failed => bad = Some((calls, true)),
        }
        calls = match bad {
            None if good >= MOST => return Ok((good, true)),
            None => (good + step(good)).min(MOST),
            Some((bad, is_generator)) if good == 0 => match bad - step(bad).min(bad / 2) {
                least if least < LEAST => return Ok((0, is_generator)),
                less => less,
            },
            Some((bad, is_generator)) if bad - good <= (good / 20).max(1) => return Ok((good, is_generator)),
            Some((bad, _)) => good + (bad - good) / 2,
        };
    }
}

/// What the searches of a system come to.
#[derive(Clone, Debug, PartialEq)]
pub struct Found {
    /// The median.
    pub calls: f64,
    /// Searches that the generator ended could move the median up.
    pub is_more: bool,
    /// Whether as many searches succeeded as were asked for.
    pub is_result: bool,
}

fn of<'a>(searches: &'a [Most], workload: &'a str, system: &'a str) -> impl Iterator<Item = &'a Most> {
    searches.iter().filter(move |search| search.workload == workload && search.system == system)
}

/// The median of the searches of a system.
#[must_use]
pub fn found(searches: &[Most], workload: &str, system: &str) -> Option<Found> {
    let good: Vec<&Most> = of(searches, workload, system).filter(|search| search.calls.is_some()).collect();
    let mut all: Vec<u32> = good.iter().filter_map(|search| search.calls).collect();
    all.sort_unstable();
    // What is above the middle stays there when it is more than it was found to be.
    let upper_middle = *all.get(all.len() / 2)?;
    let is_more = good.iter().any(|search| search.is_more && search.calls.is_some_and(|calls| calls <= upper_middle));
    let asked = of(searches, workload, system).map(|search| search.of_rounds as usize).max().unwrap_or(0);
    let asked = asked.max(of(searches, workload, system).count());
    let calls = median(all.iter().map(|&calls| f64::from(calls)))?;
    Some(Found { calls, is_more, is_result: all.len() >= ROUNDS_MIN.max(asked) })
}

/// The median of a system by that of a peer, in the class in which the peer does better, with the least and the largest ratio of searches of
/// the same turn. None where one of them may be more: a bound is no ratio.
#[must_use]
pub fn ratio(searches: &[Most], workload: &str, system: &str, peer: &str) -> Option<(Figure, (f64, f64))> {
    if family(system) == peer {
        return None;
    }
    let exact = |system: &str| found(searches, workload, system).filter(|found| !found.is_more && found.calls > 0.0);
    let own = exact(system)?;
    let peers = searches.iter().filter(|search| search.workload == workload && family(&search.system) == peer);
    let of_peer =
        |search: &'_ Most| found(searches, workload, &search.system).map(|found| (search.system.clone(), found));
    let all: Vec<(String, Found)> = peers.filter_map(of_peer).collect();
    if all.iter().any(|(_, found)| found.is_more) {
        return None;
    }
    let (name, best) = all.into_iter().max_by(|one, other| one.1.calls.total_cmp(&other.1.calls))?;
    if best.calls <= 0.0 {
        return None;
    }
    let of_turn = |system: &str, round| {
        let one = of(searches, workload, system).find(|search| search.round == round && !search.is_more);
        one.and_then(|search| search.calls).filter(|calls| *calls > 0).map(f64::from)
    };
    let turns = of(searches, workload, system).map(|search| search.round);
    let ratios: Vec<f64> = turns.filter_map(|round| Some(of_turn(system, round)? / of_turn(&name, round)?)).collect();
    let spread = (
        ratios.iter().copied().fold(f64::INFINITY, f64::min),
        ratios.iter().copied().fold(f64::NEG_INFINITY, f64::max),
    );
    let is_result = own.is_result && best.is_result && ratios.len() >= ROUNDS_MIN;
    (!ratios.is_empty()).then_some((Figure { value: own.calls / best.calls, is_result }, spread))
}

/// The table of all searches, in Markdown; nothing when there are none.
#[must_use]
pub fn markdown(searches: &[Most]) -> String {
    if searches.is_empty() {
        return String::new();
    }
    let mut text = String::from(
        "\nmost calls on one core (p99 below 5 ms, loss below 1e-4):\n\n\
         | load | system | median | each search | / rtpengine (least to largest of a turn) |\n|---|---|---|---|---|\n",
    );
    let mut seen = Vec::new();
    for one in searches {
        let key = (&one.workload, &one.system);
        if seen.contains(&key) {
            continue;
        }
        seen.push(key);
        let (workload, system) = (one.workload.as_str(), one.system.as_str());
        let middle = found(searches, workload, system).map_or_else(
            || "-".to_owned(),
            |found| {
                let more = if found.is_more { " or more" } else { "" };
                format!("{:.0}{more}{}", found.calls, if found.is_result { "" } else { ": **no result**" })
            },
        );
        let each = |search: &Most| match search.calls {
            Some(calls) => format!("{calls}{}", if search.is_more { "+" } else { "" }),
            None => format!("failed ({})", search.failed.as_deref().unwrap_or("no reason")),
        };
        let each: Vec<String> = of(searches, workload, system).map(each).collect();
        let ratio = ratio(searches, workload, system, "rtpengine").map_or_else(
            || "-".to_owned(),
            |(figure, (least, largest))| format!("{} ({least:.2} to {largest:.2})", figure.text(2)),
        );
        text.push_str(&format!("| {workload} | {system} | {middle} | {} | {ratio} |\n", each.join(", ")));
    }
    text
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// Searches a relay that carries so many calls; what it found and the numbers it tried.
    fn searched(guess: Option<u32>, carries: u32, generator: u32) -> ((u32, bool), Vec<u32>) {
        let mut tried = Vec::new();
        let found = search(guess, |calls| {
            tried.push(calls);
            Ok(match calls {
                calls if calls <= carries.min(generator) => Outcome::Carried,
                calls if calls <= generator => Outcome::Missed,
                _ => Outcome::HeldUp,
            })
        });
        (found.unwrap(), tried)
    }

    #[test]
    fn a_search_ends_within_a_twentieth_wherever_it_begins() {
        for carries in [40, 90, 249, 250, 700, 1333, 3999] {
            for guess in [None, Some(20), Some(carries), Some(carries * 2), Some(4000)] {
                let ((found, is_more), tried) = searched(guess, carries, u32::MAX);
                assert!(found <= carries && carries - found <= (found / 20).max(1), "{guess:?} {carries}: {found}");
                assert!(!is_more && tried.len() < 20, "{guess:?} {carries}: {tried:?}");
            }
        }
        let (_, without) = searched(None, 1333, u32::MAX);
        let (_, with) = searched(Some(1300), 1333, u32::MAX);
        assert!(with.len() < without.len(), "a guess spares rounds: {with:?} {without:?}");
    }

    #[test]
    fn what_the_generator_ended_says_or_more() {
        assert_eq!(searched(None, 10_000, u32::MAX).0, (4000, true));
        assert!(searched(None, 10_000, 1200).0.1, "the generator was the limit");
        // It was held up at 2000, but at 1100 the relay was the limit.
        assert!(!searched(None, 1100, 1900).0.1);
        assert_eq!(searched(None, 0, u32::MAX).0, (0, false));
    }

    #[test]
    fn a_search_lives_through_a_round_or_two_that_fail() {
        let (mut left, mut noted, mut asked) = (FAILURES_MAX, 0, 0);
        let mut measure = |fails: u32| {
            asked = 0;
            let measure = || {
                asked += 1;
                if asked <= fails { Err(io::Error::other("not now")) } else { Ok(asked) }
            };
            again(&mut left, measure, |_| noted += 1).ok()
        };
        assert_eq!((measure(1), measure(1)), (Some(2), Some(2)));
        assert_eq!(measure(1), None, "the third of a search ends it");
        assert_eq!(noted, 3);
    }

    #[test]
    fn two_rounds_decide_and_three_with_a_generator_that_was_held_up() {
        use Outcome::{Carried, HeldUp, Missed};
        let decided = |outcomes: &[Outcome]| {
            let mut outcomes = outcomes.iter().copied();
            let outcome = decide(|| outcomes.next().ok_or_else(|| io::Error::other("more rounds"))).unwrap();
            assert_eq!(outcomes.next(), None, "no round too many");
            outcome
        };
        assert_eq!(decided(&[Carried, Carried]), Carried);
        assert_eq!(decided(&[Carried, Missed, HeldUp, Missed]), Missed);
        assert_eq!(decided(&[HeldUp, HeldUp, Carried, HeldUp]), HeldUp);
    }

    pub(crate) fn most(system: &str, round: u32, calls: u32, is_more: bool) -> Most {
        let (workload, system) = ("rtp".to_owned(), system.to_owned());
        Most { workload, system, round, of_rounds: 3, calls: Some(calls), is_more, ..Most::default() }
    }

    #[test]
    fn a_bound_is_no_ratio_and_a_ratio_has_its_spread() {
        let mut searches = vec![
            most("uring", 0, 1200, false),
            most("rtpengine", 0, 600, false),
            most("uring", 1, 1000, false),
            most("rtpengine", 1, 400, false),
            most("uring", 2, 1100, false),
            most("rtpengine", 2, 500, false),
        ];
        let (figure, spread) = ratio(&searches, "rtp", "uring", "rtpengine").unwrap();
        assert_eq!((figure.text(2).as_str(), spread), ("2.20", (2.0, 2.5)));
        let text = markdown(&searches);
        assert!(text.contains("| rtp | uring | 1100 | 1200, 1000, 1100 | 2.20 (2.00 to 2.50) |"), "{text}");
        // In another class the peer does better.
        searches.extend((0..3).map(|round| most("rtpengine@fair", round, 550, false)));
        assert_eq!(ratio(&searches, "rtp", "uring", "rtpengine").unwrap().0.text(2), "2.00");
        // More than the middle stays more than the middle; the middle itself does not.
        searches[0].is_more = true;
        assert!(ratio(&searches, "rtp", "uring", "rtpengine").is_some());
        searches[2].is_more = true;
        assert_eq!(ratio(&searches, "rtp", "uring", "rtpengine"), None);
        assert!(markdown(&searches).contains("| rtp | uring | 1100 or more | 1200+, 1000+, 1100 | - |"));
        searches[2] = Most { calls: None, failed: Some("no port".to_owned()), ..most("uring", 1, 0, false) };
        let text = markdown(&searches);
        assert!(text.contains("1200+, failed (no port), 1100") && text.contains("**no result**"), "{text}");
    }
}
