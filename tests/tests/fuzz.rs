//! Each fuzz target over its corpus and for a while over random inputs (issue: 20 s a target; `GANGWAY_FUZZ_SECONDS` changes it).

use gangway_tests::fuzz::{TARGETS, run};

macro_rules! targets {
    ($($name:ident)*) => {
        $(
            #[test]
            fn $name() {
                let target = TARGETS.iter().find(|target| target.name == stringify!($name)).expect("a target of this name");
                let report = run(target);
                println!("{}: {} known and {} random inputs", target.name, report.known, report.random);
            }
        )*

        #[test]
        fn every_target_has_a_test() {
            let tested = [$(stringify!($name)),*];
            let names: Vec<_> = TARGETS.iter().map(|target| target.name).collect();
            assert_eq!(names, tested);
        }
    };
}

targets! { h264 rcp rtcp rtp sdp sip srtp stun vp8 wcs }
