//! Gangway against its peers and baselines, in turns, on one core: costs, latencies, most calls, memory. See docs/BENCHMARKS.md.

use std::{io, path::PathBuf, time::Duration};

use clap::Parser;
use gangway_bench::{
    compare::{
        Bench, Point,
        results::Results,
        search::Most,
        workload::{self, Workload},
    },
    pipeline::walks,
    process::{Scheduling, raise_file_limit},
    systems::Choice,
};
use gangway_dataplane::affinity;

/// Compares relays under the same load, in turns.
#[derive(Debug, Parser)]
#[command(version)]
struct Arguments {
    /// Systems: epoll, uring, rtpengine, bare, tokio-uring, webrtc-srtp, gateway (also -epoll, -uring), janus, or NAME-ENGINE=PATH of
    /// another gangway-dataplane; each with @fair or @real-time behind it for that class.
    #[arg(
        long,
        value_delimiter = ',',
        default_value = "uring,epoll,rtpengine,rtpengine@fair,bare,tokio-uring,webrtc-srtp,gateway,janus,janus@fair"
    )]
    systems: Vec<String>,
    /// The class of systems that have none behind their names: fair or real-time.
    #[arg(long, default_value = "real-time", value_parser = |text: &str| Scheduling::parse(text).ok_or("fair or real-time"))]
    scheduling: Scheduling,
    /// Only these workloads: rtp, cm, gcm, video, browser, gateway, silent, memory, most, walk.
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
    /// Only so many calls.
    #[arg(long, value_delimiter = ',')]
    calls: Vec<u32>,
    /// Small loads, two short rounds, no search: shows that everything works.
    #[arg(long)]
    quick: bool,
    /// Rounds, and searches for the most calls; every system has its turn in each.
    #[arg(long, default_value_t = 5)]
    rounds: u32,
    /// Seconds measured in each.
    #[arg(long, default_value_t = 6.0)]
    seconds: f64,
    /// Core of the relay; the last one unless told. `none` pins nothing.
    #[arg(long)]
    relay_core: Option<String>,
    /// Core of the generator; the first one unless told.
    #[arg(long)]
    load_core: Option<usize>,
    /// Folder for points.json, table.md and cost.svg: what was measured so far is there after each round.
    #[arg(long)]
    out: Option<PathBuf>,
    /// Measures nothing: takes the points of earlier runs from each one's points.json.
    #[arg(long, value_delimiter = ',')]
    from: Vec<PathBuf>,
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments = Arguments::parse();
    let results = if arguments.from.is_empty() { measure(&arguments)? } else { Results::read(&arguments.from)? };
    println!("{}", results.text());
    if let Some(folder) = &arguments.out {
        results.save(folder)?;
    }
    if results.is_empty() {
        return Err("nothing was measured".into());
    }
    Ok(())
}

/// The objects of handshakes are gone by then (decision 034).
const HANDSHAKES_OVER: Duration = Duration::from_secs(8);

/// Each number of a search is measured for so long at most: it takes many of them.
const SEARCH_MAX: Duration = Duration::from_secs(3);

fn measure(arguments: &Arguments) -> Result<Results, Box<dyn std::error::Error>> {
    raise_file_limit();
    let mut results = Results::here();
    if results.machine.profile == "debug" {
        eprintln!("compare: built without --release: these figures say nothing");
    }
    let choices = choices(arguments)?;
    let bench = place(arguments)?;
    let wants = |name: &str| arguments.only.is_empty() || arguments.only.iter().any(|only| only == name);
    let save = |results: &Results| arguments.out.as_ref().map_or(Ok(()), |folder| results.save(folder));
    let mut loads: Vec<Workload> = workload::all(arguments.quick);
    loads.push(workload::memory(arguments.quick));
    loads.retain(|load| wants(&load.name));
    loads.retain(|load| arguments.calls.is_empty() || arguments.calls.contains(&load.shape.talking));

    if wants("walk") && !arguments.quick {
        results.walks = walks();
    }
    for load in &loads {
        // What handshakes leave behind is not what a call needs: it goes some seconds later.
        let warm_up = if load.name == "memory" { bench.warm_up.max(HANDSHAKES_OVER) } else { bench.warm_up };
        let bench = Bench { warm_up, ..bench };
        for round in 0..bench.rounds {
            for choice in in_turn(&choices, load, round) {
                let point = bench.point(load, choice, round);
                say(&point);
                results.points.push(point);
            }
            save(&results)?;
        }
    }
    if wants("most") && !arguments.quick {
        let bench = Bench { measure: bench.measure.min(SEARCH_MAX), ..bench };
        for round in 0..bench.rounds {
            for load in workload::searches() {
                for choice in in_turn(&choices, &load, round) {
                    let earlier = results
                        .most_calls
                        .iter()
                        .filter(|most| (&most.workload, &most.system) == (&load.name, &choice.name));
                    let guess = earlier.filter_map(|most| most.calls).next_back();
                    let most = Most::search(&bench, &load, choice, round, guess);
                    eprintln!(
                        "most {:<6} {:<12} round {round}: {:?} calls in {} rounds{}",
                        most.workload,
                        most.system,
                        most.calls,
                        most.tries.len(),
                        most.failed.as_ref().map_or_else(String::new, |reason| format!(": failed: {reason}")),
                    );
                    results.most_calls.push(most);
                }
            }
            save(&results)?;
        }
    }
    Ok(results)
}

/// The systems that are asked for, none of them twice.
fn choices(arguments: &Arguments) -> Result<Vec<Choice>, String> {
    let mut choices: Vec<Choice> = Vec::new();
    for name in &arguments.systems {
        let choice =
            Choice::parse_in(name, arguments.scheduling).ok_or_else(|| format!("there is no system {name:?}"))?;
        if !choices.iter().any(|other| (&other.kind, other.scheduling) == (&choice.kind, choice.scheduling)) {
            choices.push(choice);
        }
    }
    Ok(choices)
}

/// Who can run a load. The order turns round by round, so that nobody always follows the same neighbour.
fn in_turn<'a>(choices: &'a [Choice], load: &Workload, round: u32) -> Vec<&'a Choice> {
    let mut able: Vec<&Choice> = choices.iter().filter(|choice| choice.can(load)).collect();
    if !able.is_empty() {
        let by = round as usize % able.len();
        able.rotate_left(by);
    }
    able
}

/// Puts this process, the generator, on its core.
fn place(arguments: &Arguments) -> io::Result<Bench> {
    let cores = affinity::allowed_cores()?;
    let (relay_core, load_core) = match arguments.relay_core.as_deref() {
        Some("none") => (None, None),
        Some(core) => {
            let core = core.parse().map_err(|_| io::Error::other("--relay-core is a number or none"))?;
            (Some(core), arguments.load_core.or(cores.first().copied()))
        }
        None => (cores.last().copied(), arguments.load_core.or(cores.first().copied())),
    };
    if load_core.is_some() && load_core == relay_core {
        return Err(io::Error::other("relay and generator need a core each"));
    }
    if let Some(core) = load_core {
        affinity::pin_to(core)?;
    }
    let seconds = if arguments.quick { arguments.seconds.min(2.0) } else { arguments.seconds };
    let measure = Duration::try_from_secs_f64(seconds).map_err(io::Error::other)?;
    let warm_up = Duration::from_millis(if arguments.quick { 500 } else { 1500 });
    let rounds = if arguments.quick { arguments.rounds.min(2) } else { arguments.rounds };
    Ok(Bench { relay_core, load_core, warm_up, measure, rounds })
}

fn say(point: &Point) {
    if let Some(reason) = &point.failed {
        eprintln!(
            "{:<8} {:>5} {:<12} round {}: failed: {reason}",
            point.workload,
            point.calls + point.silent,
            point.system,
            point.round
        );
        return;
    }
    eprintln!(
        "{:<8} {:>5} {:<12} round {}: {:>6.0} ns/packet, p99 {:>7.0} us, loss {:.1e}{}",
        point.workload,
        point.calls + point.silent,
        point.system,
        point.round,
        point.ns_per_packet,
        point.report.latency.p99_us,
        point.report.loss,
        point.fault().map_or_else(String::new, |fault| format!(" [{fault}]")),
    );
}
