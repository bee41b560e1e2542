//! Gangway against its peers and baselines, in turns, on one core: costs, latencies, most calls, memory. See docs/BENCHMARKS.md.

use std::{fs, io, path::PathBuf, time::Duration};

use clap::Parser;
use gangway_bench::{
    compare::{
        Bench, Point,
        machine::Machine,
        svg,
        table::{loads, markdown, median, systems, whole},
        workload::{self, Workload},
    },
    process::raise_file_limit,
    systems::Choice,
};
use gangway_dataplane::affinity;
use serde::{Deserialize, Serialize};

/// Compares relays under the same load, in turns.
#[derive(Debug, Parser)]
#[command(version)]
struct Arguments {
    /// Systems: epoll, uring, rtpengine, bare, tokio-uring, webrtc-srtp, gateway (also -epoll, -uring), janus, or NAME-ENGINE=PATH of
    /// another gangway-dataplane.
    #[arg(
        long,
        value_delimiter = ',',
        default_value = "uring,epoll,rtpengine,bare,tokio-uring,webrtc-srtp,gateway,janus"
    )]
    systems: Vec<String>,
    /// Only these workloads: rtp, cm, gcm, video, browser, gateway, silent, memory, most.
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
    /// Only so many calls.
    #[arg(long, value_delimiter = ',')]
    calls: Vec<u32>,
    /// Small loads, two short rounds, no search: shows that everything works.
    #[arg(long)]
    quick: bool,
    /// Rounds; every system has its turn in each.
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
    /// Folder for points.json, table.md and cost.svg.
    #[arg(long)]
    out: Option<PathBuf>,
    /// Measures nothing: takes the points of earlier runs from each one's points.json.
    #[arg(long, value_delimiter = ',')]
    from: Vec<PathBuf>,
}

/// Most calls of a core.
#[derive(Debug, Serialize, Deserialize)]
struct Most {
    workload: String,
    system: String,
    round: u32,
    calls: Option<u32>,
    /// The relay was not the limit: it may carry more.
    is_more: bool,
}

#[derive(Debug, Serialize, Deserialize)]
struct Results {
    machine: Machine,
    points: Vec<Point>,
    most_calls: Vec<Most>,
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments = Arguments::parse();
    let results = if arguments.from.is_empty() { measure(&arguments)? } else { earlier(&arguments.from)? };
    let text = summary(&results);
    println!("{text}");
    if let Some(folder) = &arguments.out {
        fs::create_dir_all(folder)?;
        fs::write(folder.join("points.json"), serde_json::to_vec_pretty(&results)?)?;
        fs::write(folder.join("table.md"), &text)?;
        fs::write(folder.join("cost.svg"), svg::picture(&results.points))?;
    }
    if results.points.is_empty() && results.most_calls.is_empty() {
        return Err("nothing was measured".into());
    }
    Ok(())
}

/// The points of several runs as of one, when commit and machine were the same. Ratios are of one load, and each run has its loads whole.
fn earlier(files: &[PathBuf]) -> Result<Results, Box<dyn std::error::Error>> {
    let runs = files.iter().map(|file| Ok(serde_json::from_slice::<Results>(&fs::read(file)?)?));
    let mut runs = runs.collect::<Result<Vec<_>, Box<dyn std::error::Error>>>()?.into_iter();
    let mut all = runs.next().ok_or("no run is named")?;
    for run in runs {
        if !run.machine.is_same(&all.machine) {
            return Err(format!("of another machine or commit: {}", run.machine.command).into());
        }
        let loads_of_both = loads(&run.points).into_iter().find(|load| loads(&all.points).contains(load));
        if let Some((name, calls, _)) = loads_of_both {
            return Err(format!("{name} with {calls} calls was measured in two of the runs").into());
        }
        all.machine.command = format!("{}; {}", all.machine.command, run.machine.command);
        all.points.extend(run.points);
        all.most_calls.extend(run.most_calls);
    }
    Ok(all)
}

/// The objects of handshakes are gone by then (decision 034).
const HANDSHAKES_OVER: Duration = Duration::from_secs(8);

fn measure(arguments: &Arguments) -> Result<Results, Box<dyn std::error::Error>> {
    raise_file_limit();
    let machine = Machine::look();
    if machine.profile == "debug" {
        eprintln!("compare: built without --release: these figures say nothing");
    }
    let choices = arguments
        .systems
        .iter()
        .map(|name| Choice::parse(name).ok_or_else(|| format!("there is no system {name:?}")))
        .collect::<Result<Vec<_>, _>>()?;
    let bench = place(arguments)?;
    let wants = |name: &str| arguments.only.is_empty() || arguments.only.iter().any(|only| only == name);
    let mut loads: Vec<Workload> = workload::all(arguments.quick);
    loads.push(workload::memory(arguments.quick));
    loads.retain(|load| wants(&load.name));
    loads.retain(|load| arguments.calls.is_empty() || arguments.calls.contains(&load.shape.talking));
    let rounds = if arguments.quick { arguments.rounds.min(2) } else { arguments.rounds };

    let mut points = Vec::new();
    for load in &loads {
        // What handshakes leave behind is not what a call needs: it goes some seconds later.
        let warm_up = if load.name == "memory" { bench.warm_up.max(HANDSHAKES_OVER) } else { bench.warm_up };
        let bench = Bench { warm_up, ..bench };
        for round in 0..rounds {
            // The order turns round by round, so that nobody always follows the same neighbour.
            let able: Vec<&Choice> = choices.iter().filter(|choice| choice.can(load)).collect();
            for at in 0..able.len() {
                let choice = able[(at + round as usize) % able.len()];
                match bench.point(load, choice, round) {
                    Ok(point) => {
                        say(&point);
                        points.push(point);
                    }
                    Err(error) => eprintln!("{} {}: {error}", load.name, choice.name),
                }
            }
        }
    }
    let mut most_calls = Vec::new();
    if wants("most") && !arguments.quick {
        for round in 0..rounds.min(3) {
            for load in workload::searches() {
                for choice in choices.iter().filter(|choice| choice.can(&load)) {
                    most_calls.push(search(&bench, &load, choice, round));
                }
            }
        }
    }
    Ok(Results { machine, points, most_calls })
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
    Ok(Bench { relay_core, load_core, warm_up, measure })
}

fn say(point: &Point) {
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

fn search(bench: &Bench, load: &Workload, choice: &Choice, round: u32) -> Most {
    /// Calls that the search begins with, and where it ends whatever happens.
    const BOUNDS: (u32, u32) = (250, 4000);
    let found = match bench.most_calls(load, choice, BOUNDS) {
        Ok(found) => found,
        Err(error) => {
            eprintln!("most {} {}: {error}", load.name, choice.name);
            None
        }
    };
    let most = Most {
        workload: load.name.clone(),
        system: choice.name.clone(),
        round,
        calls: found.map(|(calls, _)| calls),
        is_more: found.is_some_and(|(_, is_more)| is_more),
    };
    eprintln!("most {:<6} {:<12} round {round}: {:?} calls", most.workload, most.system, most.calls);
    most
}

fn summary(results: &Results) -> String {
    let Results { machine, points, most_calls: most } = results;
    let version = |found: &str| if found.is_empty() { "none".to_owned() } else { found.to_owned() };
    let mut text = format!(
        "{}, {} cores, kernel {}, commit {}, {} build, {} scheduling, rtpengine {}, janus {}: `{}`\n\n",
        machine.processor,
        machine.cores,
        machine.kernel,
        machine.commit,
        machine.profile,
        machine.scheduling,
        version(&machine.rtpengine),
        version(&machine.janus),
        machine.command,
    );
    text.push_str(&markdown(points));
    for load in loads(points).into_iter().filter(|(name, ..)| *name == "memory") {
        text.push_str(&format!("\nmemory per call at {} calls:\n\n| system | KiB |\n|---|---|\n", load.1 + load.2));
        for system in systems(points) {
            let of = points.iter().filter(|point| point.workload == "memory" && point.system == system);
            if let Some(kb) = median(of.map(Point::memory_per_call_kb)) {
                text.push_str(&format!("| {system} | {kb:.1} |\n"));
            }
        }
    }
    text.push_str(&whole(points));
    if !most.is_empty() {
        text.push_str(
            "\nmost calls on one core (p99 below 5 ms, loss below 1e-4):\n\n| load | system | calls |\n|---|---|---|\n",
        );
        let mut seen = Vec::new();
        for one in most {
            let key = (&one.workload, &one.system);
            if seen.contains(&key) {
                continue;
            }
            seen.push(key);
            let same = || most.iter().filter(|other| (&other.workload, &other.system) == key);
            let calls = median(same().filter_map(|other| other.calls).map(f64::from));
            let more = if same().any(|other| other.is_more) { " or more" } else { "" };
            let calls = calls.map_or_else(|| "-".to_owned(), |calls| format!("{calls:.0}{more}"));
            text.push_str(&format!("| {} | {} | {calls} |\n", one.workload, one.system));
        }
    }
    text
}
