//! Generator and comparison against the built dataplane and our own baselines.

use std::{io, process::Command, time::Duration};

use gangway_bench::{
    call::Media,
    load::{Load, Mark, Report, Shape, Side, Timing},
    process::CpuMark,
    sys::wall_ns,
    systems::{Choice, janus},
    ticks,
};

use crate::{also_on_epoll, engine};

also_on_epoll!(every_kind_of_call_is_carried_whole_by_the_dataplane, video_is_carried_whole_by_the_dataplane);

const SHORT: Timing = Timing {
    warm_up: Duration::from_millis(400),
    measure: Duration::from_millis(800),
    drain: Duration::from_millis(400),
    has_core: false,
};

/// The same where there are many of them.
const BRIEF: Timing = Timing { warm_up: Duration::from_millis(300), drain: Duration::from_millis(200), ..SHORT };

/// Janus reports on each of its calls once a second: two such intervals, and some more.
const TWO_REPORTS: Timing = Timing { measure: Duration::from_millis(2500), ..SHORT };

/// What goes through whole gateways.
const CALLS_OF_A_PAGE: Shape = Shape { talking: 5, silent: 0, side: Side::Ice, media: Media::Audio };

/// Whether a peer can run here; where it cannot, the test says so and is skipped, and in CI it fails.
#[track_caller]
fn has(peer: &str, is_ready: impl FnOnce() -> io::Result<()>) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let is_installed = std::env::split_paths(&path).any(|folder| folder.join(peer).is_file());
    let reason = if is_installed {
        is_ready().err().map(|error| error.to_string())
    } else {
        Some("it is not installed (./test installs it)".to_owned())
    };
    if let Some(reason) = &reason {
        assert!(std::env::var_os("CI").is_none(), "no {peer}, which in CI is a failure: {reason}");
        eprintln!("*** SKIPPED: no {peer}: {reason} ***");
    }
    reason.is_none()
}

fn has_janus() -> bool {
    has("janus", || janus::own_address().map(drop))
}

#[track_caller]
fn run(system: &str, shape: Shape) -> Report {
    run_for(&SHORT, system, shape)
}

#[track_caller]
fn run_for(timing: &Timing, system: &str, shape: Shape) -> Report {
    let choice = Choice::parse(system).expect("a system");
    let mut system = choice.start(None).expect("it starts");
    let mut load = Load::open_at(shape, choice.browsers_at().expect("an address")).expect("sockets");
    let answers = system.add(load.specs()).expect("the calls are taken");
    load.connect(&answers).expect("the calls are connected");
    let (mut before, mut used) = (CpuMark::default(), 0);
    let report = load.run(timing, |mark| match mark {
        Mark::Begin => before = CpuMark::read(system.pid()),
        Mark::Middle => {}
        Mark::End => used = CpuMark::read(system.pid()).since(&before).run_ns,
    });
    assert!(used > 0, "a relay that forwards takes CPU time");
    report
}

#[track_caller]
fn assert_whole(report: &Report, shape: Shape) {
    assert_eq!((report.lost, report.dead_streams), (0, 0), "{report:?}");
    assert!(report.is_clean(), "{report:?}");
    let pps = match shape.media {
        Media::Audio => 50,
        Media::Video => 150,
    };
    let expected = f64::from(2 * shape.talking * pps) * report.seconds;
    assert!(report.sent as f64 > 0.7 * expected, "{} of {expected} packets were sent", report.sent);
    assert!(report.latency.p50_us > 0.0 && report.latency.max_us < 1e6, "{:?}", report.latency);
}

#[test]
fn every_kind_of_call_is_carried_whole_by_the_dataplane() {
    for side in ["plain", "cm", "gcm", "gcm256", "ice", "mixed"] {
        let shape = Shape { talking: 8, silent: 4, side: Side::parse(side).unwrap(), media: Media::Audio };
        let report = run_for(&BRIEF, engine(), shape);
        assert_whole(&report, shape);
        assert!(report.rtcp.0 > 0, "{side}: reports run beside the media");
        if side == "ice" {
            assert!(report.consent.0 > 0 && report.consent.1 > 0, "checks run and are answered: {report:?}");
        }
    }
}

#[test]
fn video_is_carried_whole_by_the_dataplane() {
    let shape = Shape { talking: 4, silent: 0, side: Side::Plain, media: Media::Video };
    assert_whole(&run(engine(), shape), shape);
}

#[test]
fn the_baselines_carry_their_calls_whole() {
    let plain = Shape { talking: 8, silent: 0, side: Side::Plain, media: Media::Audio };
    assert_whole(&run("bare", plain), plain);
    let sealed = Shape { side: Side::parse("cm").unwrap(), ..plain };
    assert_whole(&run("webrtc-srtp", sealed), sealed);
}

#[test]
fn rtpengine_carries_its_calls_whole_and_is_watched_in_both_classes() {
    if !has("rtpengine", || Ok(())) {
        return;
    }
    for side in ["plain", "cm", "gcm"] {
        let shape = Shape { talking: 8, silent: 0, side: Side::parse(side).unwrap(), media: Media::Audio };
        assert_whole(&run_for(&BRIEF, "rtpengine", shape), shape);
    }
    let results = compare("rtpengine,rtpengine@fair", "rtp");
    for point in results["points"].as_array().unwrap() {
        assert_eq!(point["failed"], serde_json::Value::Null, "{point}");
        assert!(point["statistics_reads"][0].as_u64() > Some(0) && point["statistics_reads"][1] == 0, "{point}");
    }
}

#[test]
fn the_whole_gateway_carries_calls_between_page_and_phone() {
    assert_whole(&run("gateway", CALLS_OF_A_PAGE), CALLS_OF_A_PAGE);
}

#[test]
fn janus_carries_the_same_calls_as_the_whole_gateway_with_the_same_srtp() {
    if !has_janus() {
        return;
    }
    let ours = run("gateway", CALLS_OF_A_PAGE);
    let theirs = run_for(&TWO_REPORTS, "janus", CALLS_OF_A_PAGE);
    assert_whole(&ours, CALLS_OF_A_PAGE);
    assert_whole(&theirs, CALLS_OF_A_PAGE);
    assert!(theirs.peer_checks >= 5 && ours.peer_checks == 0, "Janus is a full agent, ours a lite one: {theirs:?}");
    assert!(theirs.consent.1 > 0 && theirs.rtcp.1 > 0, "checks are answered and reports come: {theirs:?}");
    assert_eq!((theirs.profiles.len(), &theirs.profiles), (1, &ours.profiles));
}

#[test]
fn a_relay_that_loses_its_calls_is_noticed() {
    let shape = Shape { talking: 4, silent: 0, side: Side::Plain, media: Media::Audio };
    let mut load = Load::open(shape).unwrap();
    let mut system = Choice::parse("bare").unwrap().start(None).unwrap();
    let answers = system.add(load.specs()).unwrap();
    load.connect(&answers).unwrap();
    let mut system = Some(system);
    let report = load.run(&SHORT, |mark| {
        if mark == Mark::Middle {
            system = None;
        }
    });
    assert!(report.loss > 0.2 && report.lost > 0, "{report:?}");
    assert!(report.longest_gap_ms > 200.0, "the silence until the end is a gap: {report:?}");
}

#[test]
fn a_slow_look_at_the_relay_does_not_shorten_the_measurement() {
    let shape = Shape { talking: 2, silent: 0, side: Side::Plain, media: Media::Audio };
    let mut load = Load::open(shape).unwrap();
    let mut system = Choice::parse("bare").unwrap().start(None).unwrap();
    let answers = system.add(load.specs()).unwrap();
    load.connect(&answers).unwrap();
    let report = load.run(&SHORT, |mark| {
        let until = wall_ns() + SHORT.measure.as_nanos() as u64;
        while mark == Mark::Begin && wall_ns() < until {
            std::thread::yield_now();
        }
    });
    assert!(report.seconds >= SHORT.measure.as_secs_f64() * 0.99 && report.sent > 100, "{report:?}");
}

#[test]
fn rtp_load_prints_its_report() {
    let output = Command::new(env!("CARGO_BIN_EXE_rtp-load"))
        .args(["--system", "epoll", "--calls", "4", "--side", "cm", "--seconds", "0.5", "--warm-up", "0.3"])
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let report: Report = serde_json::from_slice(&output.stdout).unwrap();
    assert!(report.sent > 0 && report.is_clean(), "{report:?}");
}

fn restart_gap(engines: &str, act: &str) -> serde_json::Value {
    let output = Command::new(env!("CARGO_BIN_EXE_restart-gap"))
        .args(["--engine", engines, "--calls", "4", "--side", "cm", "--seconds", "0.6", "--times", "2", "--act", act])
        .output()
        .expect("it runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).expect("JSON")
}

#[test]
fn restart_gap_tells_the_loss_of_a_control_from_that_of_a_relay() {
    let results = restart_gap("epoll", "control");
    let of = &results["engines"][0];
    assert_eq!((&of["engine"], &of["disturbed"][0]["report"]["lost"]), (&"epoll".into(), &0.into()), "{results}");
    assert_eq!(of["disturbed"].as_array().map(Vec::len), Some(1), "a control goes once");
}

#[test]
fn restart_gap_kills_again_and_again_on_each_engine() {
    let engines = if engine() == "uring" { vec!["uring", "epoll"] } else { vec!["epoll"] };
    let results = restart_gap(&engines.join(","), "kill");
    assert!(results["machine"]["commit"].is_string() && results["machine"]["kernel"].is_string(), "{results}");
    let found = results["engines"].as_array().unwrap();
    assert_eq!(found.iter().map(|of| of["engine"].as_str().unwrap()).collect::<Vec<_>>(), engines);
    for of in found {
        assert_eq!(of["undisturbed"]["lost"], 0, "{of}");
        let disturbed = of["disturbed"].as_array().unwrap();
        assert_eq!(disturbed.len(), 2, "{of}");
        for one in disturbed {
            assert!(one["report"]["longest_gap_ms"].as_f64() > Some(0.0) && one["report"]["dead_streams"] == 0, "{of}");
        }
        let gaps = || disturbed.iter().filter_map(|one| one["gap_ms"].as_f64());
        assert_eq!(of["gap_ms"]["largest"].as_f64(), gaps().reduce(f64::max), "{of}");
    }
}

#[test]
fn ticks_tells_how_punctual_sound_of_our_own_is_and_what_reading_costs() {
    let output = Command::new(env!("CARGO_BIN_EXE_ticks"))
        .args(["--engine", "epoll", "--streams", "40", "--digits", "4", "--rounds", "2", "--reads-per-s", "10"])
        .args(["--seconds", "0.8", "--warm-up", "0.3"])
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let report: ticks::Report = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((report.heard, report.lost, report.receiver_drops), (40, 0, 0), "{report:?}");
    let expected = 40.0 * 50.0 * (0.3 + 2.0 * 3.0 * 0.8);
    assert!(report.packets as f64 > 0.7 * expected, "{} of {expected} packets", report.packets);
    assert!(report.silence.packets > 0 && report.events.packets > 4 * 25, "{report:?}");
    assert!(report.silence.p50_ms < 10.0, "half of the silence is nearer to its beat than to another: {report:?}");
    assert!(report.ns_per_packet > 0.0 && report.spread.fullest < 1.0, "{report:?}");
    let reads = |reader| report.windows.iter().filter(move |window| window.reader == reader).map(|window| window.reads);
    assert_eq!(reads(None).sum::<u64>(), 0);
    for reader in [ticks::Reader::Map, ticks::Reader::Query] {
        assert!(reads(Some(reader)).all(|reads| reads >= 4), "{report:?}");
    }
}

/// Points of one short round of the smallest loads.
#[track_caller]
fn compare(systems: &str, loads: &str) -> serde_json::Value {
    let folder = tempfile::tempdir().expect("a temporary directory");
    compare_into(folder.path(), systems, loads)
}

#[track_caller]
fn compare_into(folder: &std::path::Path, systems: &str, loads: &str) -> serde_json::Value {
    let output = Command::new(env!("CARGO_BIN_EXE_compare"))
        .args(["--quick", "--rounds", "1", "--seconds", "0.5", "--relay-core", "none", "--systems", systems])
        .args(["--only", loads, "--calls", "100,50", "--out"])
        .arg(folder)
        .output()
        .expect("it runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let points = std::fs::read(folder.join("points.json")).expect("points");
    serde_json::from_slice(&points).expect("JSON")
}

#[test]
fn compare_leaves_table_points_and_picture() {
    let folder = tempfile::tempdir().unwrap();
    let ours = if engine() == "uring" { vec!["uring", "epoll"] } else { vec!["epoll"] };
    let results = compare_into(folder.path(), &format!("{},bare", ours.join(",")), "rtp,video");
    let points = results["points"].as_array().unwrap();
    assert_eq!(points.len(), 2 * (ours.len() + 1), "two loads, all systems, one round");
    for point in points {
        assert!(point["report"]["received"].as_u64() > Some(0), "{point}");
        assert!(point["ns_per_packet"].as_f64() > Some(0.0), "{point}");
        let is_watched = point["statistics_reads"][0].as_u64() > Some(0) && point["statistics_reads"][1] == 0;
        assert_eq!(is_watched, point["system"] != "bare", "the bare loop has no statistics: {point}");
    }
    let command = results["machine"]["command"].as_str().unwrap();
    assert!(command.starts_with("compare --quick") && !command.contains('/'), "{command}");
    let read = |name: &str| std::fs::read_to_string(folder.path().join(name)).unwrap();
    let table = read("table.md");
    for system in ours {
        assert!(table.contains(&format!("| rtp | 100 | {system} |")), "{table}");
    }
    assert!(table.contains("| video | 50 | bare |") && table.contains("1/1: **no result**"), "{table}");
    assert!(table.contains("| not measured |"), "the goals are in it: {table}");
    assert!(read("cost.svg").starts_with("<svg"));
}

#[test]
fn compare_keeps_rounds_that_failed_with_their_reason() {
    let results = compare("epoll,broken-epoll=/bin/false", "rtp");
    let failed = |point: &&serde_json::Value| point["failed"].is_string();
    let points = results["points"].as_array().unwrap();
    let failed: Vec<_> = points.iter().filter(failed).map(|point| point["system"].as_str().unwrap()).collect();
    assert_eq!((points.len(), failed), (2, vec!["broken-epoll"]), "{results}");
}

/// Statistics of the whole gateway are those that its pages give to Prometheus.
#[test]
fn the_whole_gateway_is_watched_by_its_metrics() {
    let gateway = Choice::parse("gateway").unwrap().start(None).unwrap();
    let mut watcher = gateway.watcher().unwrap().expect("it has metrics");
    watcher().unwrap();
    drop(gateway);
    assert!(watcher().is_err(), "who is gone is not read");
}
