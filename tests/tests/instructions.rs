//! How many instructions each stage of the packet walk takes, counted by callgrind: the same on an idle machine and on a busy one.
//!
//! `instructions.json` holds the figures of the last record. A stage that takes 5 % more fails; one that takes less is recorded anew
//! (`GANGWAY_RECORD_INSTRUCTIONS=1 cargo nextest run --workspace --test instructions`), with the change that made it so. The cipher's
//! own instructions depend on the processor: those stages are printed and fail nothing.

#![allow(clippy::unwrap_used, reason = "in a test a panic is the message")]

use std::{collections::BTreeMap, fs, path::Path, process::Command};

use gangway_tests::process::peer;

/// Stages that may not grow.
const GATED: [&str; 4] = ["classify", "lookup", "walk", "stun"];
/// Stages whose cipher or hash is most of them.
const REPORTED: [&str; 3] = ["stun_integrity", "srtp_gcm", "srtp_cm"];
/// Times of the two runs that are compared.
const TIMES: [u32; 2] = [200, 1200];
/// How much a stage may grow, in percent.
const GROWTH_MAX: f64 = 5.0;

/// Instructions of one run of the bench.
fn count(valgrind: &Path, stage: &str, times: u32) -> u64 {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("callgrind");
    let output = Command::new(valgrind)
        .args(["--tool=callgrind", "--toggle-collect=*counted_*", &format!("--callgrind-out-file={}", out.display())])
        .args([env!("CARGO_BIN_EXE_instructions"), stage, &times.to_string()])
        .output()
        .unwrap();
    assert!(output.status.success(), "{stage}: {}", String::from_utf8_lossy(&output.stderr));
    let report = fs::read_to_string(out).unwrap();
    let total = report.lines().find_map(|line| line.strip_prefix("totals: ").or(line.strip_prefix("summary: ")));
    total.and_then(|total| total.split_whitespace().next()?.parse().ok()).expect("callgrind tells the total")
}

fn instructions(valgrind: &Path, stage: &str) -> f64 {
    let [few, many] = TIMES.map(|times| count(valgrind, stage, times));
    (many - few) as f64 / f64::from(TIMES[1] - TIMES[0])
}

#[test]
fn no_stage_of_the_walk_takes_more_instructions_than_it_did() {
    let Some(valgrind) = peer("valgrind") else { return };
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("instructions.json");
    let measured: BTreeMap<String, f64> = GATED
        .iter()
        .map(|stage| ((*stage).to_owned(), (instructions(&valgrind, stage) * 10.0).round() / 10.0))
        .collect();
    for stage in REPORTED {
        println!("{stage}: {:.0} instructions", instructions(&valgrind, stage));
    }
    if std::env::var_os("GANGWAY_RECORD_INSTRUCTIONS").is_some() {
        fs::write(&file, serde_json::to_string_pretty(&measured).unwrap() + "\n").unwrap();
    }
    let recorded: BTreeMap<String, f64> = serde_json::from_str(&fs::read_to_string(&file).unwrap()).unwrap();
    assert!(recorded.keys().eq(measured.keys()), "{recorded:?} are not {GATED:?}");
    let mut grown = Vec::new();
    for (stage, now) in &measured {
        let growth = (now / recorded[stage] - 1.0) * 100.0;
        println!("{stage}: {now} instructions, {growth:+.1} % of what was recorded");
        if growth > GROWTH_MAX {
            grown.push(format!("{stage}: {now} instructions in place of {}", recorded[stage]));
        }
    }
    assert!(grown.is_empty(), "{grown:?}");
}
