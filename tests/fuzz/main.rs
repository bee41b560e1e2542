//! libFuzzer's entry: `GANGWAY_FUZZ_TARGET` names the law of `gangway_tests::fuzz` that each input is held to.

#![no_main]

use std::sync::LazyLock;

use gangway_tests::fuzz::{TARGETS, Target};
use libfuzzer_sys::fuzz_target;

static TARGET: LazyLock<&Target> = LazyLock::new(|| {
    let name = std::env::var("GANGWAY_FUZZ_TARGET").expect("GANGWAY_FUZZ_TARGET names a target");
    TARGETS.iter().find(|target| target.name == name).expect("GANGWAY_FUZZ_TARGET names a known target")
});

fuzz_target!(|input: &[u8]| (TARGET.law)(input));
