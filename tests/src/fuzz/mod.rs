//! Fuzz targets as plain functions.
//!
//! A [`Target`] is a law about arbitrary bytes: it panics when the law is broken, not only when the code under it crashes. `./test` runs
//! each over its corpus and for a while over random mutations of it ([`run`]); `./test --long` hands the same functions to
//! libFuzzer (`tests/fuzz`). An input that once broke a law is kept under `tests/corpus/<target>/` and is tried first for ever.

#![allow(clippy::disallowed_methods, reason = "a fuzz run lasts a wanted time and seeds itself")]

use std::{
    fs,
    panic::{self, AssertUnwindSafe},
    path::PathBuf,
    time::{Duration, Instant},
};

use gangway_shared::entropy::{Entropy, SeededEntropy};

pub mod h264;
mod mutate;
pub mod rcp;
pub mod rtcp;
pub mod rtp;
pub mod sdp;
pub mod sip;
pub mod srtp;
pub mod stun;
pub mod vp8;
pub mod wcs;

/// A law about arbitrary bytes.
#[derive(Clone, Copy)]
pub struct Target {
    /// Its name, and that of its folder under `tests/corpus`.
    pub name: &'static str,
    /// Well-formed inputs to mutate.
    pub seeds: fn() -> Vec<Vec<u8>>,
    /// Words of the format, spliced into inputs so that mutations get past the first keyword.
    pub words: &'static [&'static [u8]],
    /// Panics when the law is broken.
    pub law: fn(&[u8]),
}

/// Every target, in the order of their names.
pub const TARGETS: &[Target] = &[
    h264::TARGET,
    rcp::TARGET,
    rtcp::TARGET,
    rtp::TARGET,
    sdp::TARGET,
    sip::TARGET,
    srtp::TARGET,
    stun::TARGET,
    vp8::TARGET,
    wcs::TARGET,
];

/// Largest input that mutation makes; the formats' own limits lie below or are reached by the seeds.
const INPUT_MAX_BYTES: usize = 8192;

/// Seconds of random inputs for each target unless `GANGWAY_FUZZ_SECONDS` says otherwise.
const DEFAULT_SECONDS: u64 = 20;

/// What one run tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Report {
    /// Inputs of the corpus and the seeds.
    pub known: usize,
    /// Random mutations.
    pub random: usize,
}

/// Runs a target over its seeds, its corpus and random mutations of both.
///
/// # Panics
/// When the law is broken: the message holds the seed of the run and the input in hexadecimal.
pub fn run(target: &Target) -> Report {
    let seconds =
        std::env::var("GANGWAY_FUZZ_SECONDS").ok().and_then(|text| text.parse().ok()).unwrap_or(DEFAULT_SECONDS);
    let seed = std::env::var("GANGWAY_FUZZ_SEED").ok().and_then(|text| text.parse().ok()).unwrap_or_else(|| {
        let mut bytes = [0; 8];
        getrandom::fill(&mut bytes).expect("the operating system has entropy");
        u64::from_le_bytes(bytes)
    });
    let mut inputs = (target.seeds)();
    assert!(!inputs.is_empty(), "{} has no seeds: mutation would only see noise", target.name);
    inputs.extend(corpus(target.name));
    for input in &inputs {
        check(target, seed, input);
    }
    let mut entropy = SeededEntropy::new(seed);
    let end = Instant::now() + Duration::from_secs(seconds);
    let mut random = 0;
    while Instant::now() < end {
        for _ in 0..64 {
            let input = mutate::mutated(&mut entropy, &inputs, target.words, INPUT_MAX_BYTES);
            check(target, seed, &input);
            random += 1;
        }
    }
    assert!(seconds == 0 || random > 0, "no random input was tried");
    Report { known: inputs.len(), random }
}

fn check(target: &Target, seed: u64, input: &[u8]) {
    if let Err(broken) = panic::catch_unwind(AssertUnwindSafe(|| (target.law)(input))) {
        let hex: String = input.iter().map(|byte| format!("{byte:02x}")).collect();
        eprintln!("{}: broken with GANGWAY_FUZZ_SEED={seed} by the input {hex}", target.name);
        panic::resume_unwind(broken);
    }
}

fn corpus(name: &str) -> Vec<Vec<u8>> {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("corpus").join(name);
    let Ok(files) = fs::read_dir(folder) else { return Vec::new() };
    let mut paths: Vec<_> = files.filter_map(|file| Some(file.ok()?.path())).collect();
    paths.sort();
    paths.iter().map(|path| fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))).collect()
}

/// A choice among `items`; for targets that build their own seeds.
pub(crate) fn pick<'a, T>(entropy: &mut SeededEntropy, items: &'a [T]) -> &'a T {
    &items[entropy.below(u32::try_from(items.len()).expect("few items")) as usize]
}
