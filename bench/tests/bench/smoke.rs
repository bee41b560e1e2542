//! Generator and comparison against the built dataplane and our own baselines.

use std::{process::Command, time::Duration};

use gangway_bench::{
    call::Media,
    load::{Load, Mark, Report, Shape, Side, Timing},
    process::CpuMark,
    sys::wall_ns,
    systems::{Choice, janus},
    ticks,
};

const SHORT: Timing = Timing {
    warm_up: Duration::from_millis(400),
    measure: Duration::from_millis(800),
    drain: Duration::from_millis(400),
    has_core: false,
};

/// Janus reports on each of its calls once a second: two such intervals, and some more.
const TWO_REPORTS: Timing = Timing { measure: Duration::from_millis(2500), ..SHORT };

/// What goes through whole gateways.
const CALLS_OF_A_PAGE: Shape = Shape { talking: 5, silent: 0, side: Side::Ice, media: Media::Audio };

/// Whether Janus can run here; where it cannot, the test says so and is skipped, and in CI it fails.
#[track_caller]
fn has_janus() -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let is_installed = std::env::split_paths(&path).any(|folder| folder.join("janus").is_file());
    let reason = if is_installed {
        janus::own_address().err().map(|error| error.to_string())
    } else {
        Some("it is not installed (./test installs it)".to_owned())
    };
    if let Some(reason) = &reason {
        assert!(std::env::var_os("CI").is_none(), "no Janus, which in CI is a failure: {reason}");
        eprintln!("*** SKIPPED: no Janus: {reason} ***");
    }
    reason.is_none()
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
        let report = run("epoll", shape);
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
    assert_whole(&run("epoll", shape), shape);
}

#[test]
fn the_baselines_carry_their_calls_whole() {
    let plain = Shape { talking: 8, silent: 0, side: Side::Plain, media: Media::Audio };
    assert_whole(&run("bare", plain), plain);
    let sealed = Shape { side: Side::parse("cm").unwrap(), ..plain };
    assert_whole(&run("webrtc-srtp", sealed), sealed);
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

#[test]
fn restart_gap_tells_the_loss_of_a_control_from_that_of_a_relay() {
    let gap = |act: &str| -> serde_json::Value {
        let output = Command::new(env!("CARGO_BIN_EXE_restart-gap"))
            .args(["--engine", "epoll", "--calls", "4", "--side", "cm", "--seconds", "1", "--act", act])
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice(&output.stdout).unwrap()
    };
    let results = gap("control");
    assert_eq!(results["disturbed"]["lost"], 0, "{results}");
    let results = gap("kill");
    assert_eq!(results["undisturbed"]["lost"], 0, "{results}");
    assert!(results["disturbed"]["longest_gap_ms"].as_f64() > Some(0.0), "{results}");
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

#[test]
fn compare_leaves_table_points_and_picture() {
    let folder = tempfile::tempdir().unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_compare"))
        .args(["--quick", "--rounds", "1", "--seconds", "0.5", "--relay-core", "none", "--systems", "epoll,bare"])
        .args(["--only", "rtp,video", "--calls", "100,50", "--out"])
        .arg(folder.path())
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let read = |name: &str| std::fs::read_to_string(folder.path().join(name)).unwrap();
    let points: serde_json::Value = serde_json::from_str(&read("points.json")).unwrap();
    assert_eq!(points["points"].as_array().map(Vec::len), Some(4), "two loads, two systems, one round");
    for point in points["points"].as_array().unwrap() {
        assert!(point["report"]["received"].as_u64() > Some(0), "{point}");
        assert!(point["ns_per_packet"].as_f64() > Some(0.0), "{point}");
    }
    let table = read("table.md");
    assert!(table.contains("| rtp | 100 | epoll |") && table.contains("| video | 50 | bare |"), "{table}");
    assert!(read("cost.svg").starts_with("<svg"));
}
