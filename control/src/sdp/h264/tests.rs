use super::*;

const CHROMIUM: &str = "level-asymmetry-allowed=1;packetization-mode=1;profile-level-id=42e01f";

fn format_of(fmtp: &str) -> Format {
    Parameters::parse(fmtp).format()
}

#[test]
fn profiles_are_told_by_idc_and_constraint_bits() {
    let cases = [
        ("42e01f", Profile::ConstrainedBaseline),
        ("42c01f", Profile::ConstrainedBaseline),
        ("4d801f", Profile::ConstrainedBaseline),
        ("58f01e", Profile::ConstrainedBaseline),
        ("42001f", Profile::Baseline),
        ("42800d", Profile::Baseline),
        ("588014", Profile::Baseline),
        ("4d001f", Profile::Main),
        ("4d401f", Profile::Main),
        ("580014", Profile::Extended),
        ("640028", Profile::High),
        ("640c1f", Profile::ConstrainedHigh),
        ("f4001f", Profile::Other(0xf4, 0)),
    ];
    for (id, profile) in cases {
        assert_eq!(format_of(&format!("profile-level-id={id}")).profile, profile, "{id}");
    }
}

#[test]
fn what_is_absent_or_unreadable_has_the_defaults_of_the_rfc() {
    for fmtp in ["", "profile-level-id=42e0", "profile-level-id=+2e01f", "packetization-mode=x", "=;;="] {
        assert_eq!(format_of(fmtp), Format { profile: Profile::Baseline, mode: 0 }, "{fmtp:?}");
    }
    assert_eq!(format_of(" Packetization-Mode = 1 ; PROFILE-LEVEL-ID = 42E01F ").mode, 1);
}

#[test]
fn only_the_baselines_serve_each_other() {
    use Profile::{Baseline, ConstrainedBaseline, ConstrainedHigh, High, Main};
    assert!(Baseline.serves(ConstrainedBaseline) && ConstrainedBaseline.serves(Baseline) && High.serves(High));
    for (one, other) in [(Main, Baseline), (ConstrainedBaseline, Main), (High, ConstrainedHigh)] {
        assert!(!one.serves(other) && !other.serves(one), "{one:?} {other:?}");
    }
}

#[test]
fn a_peer_is_told_the_others_level_by_the_rule_of_the_rfc() {
    let format = format_of(CHROMIUM);
    let cases = [
        // Both allow asymmetry: the other side's own level.
        ("level-asymmetry-allowed=1;profile-level-id=42e028", "level-asymmetry-allowed=1;", "42e028"),
        ("level-asymmetry-allowed=1;profile-level-id=42e00d", "level-asymmetry-allowed=1;", "42e00d"),
        // Else the lower one.
        ("profile-level-id=42e028", "", "42e01f"),
        ("profile-level-id=42800d", "", "42e00d"),
        // 1b is between 1 and 1.1, and a bit of its own tells it.
        ("profile-level-id=42f00b", "", "42f00b"),
        ("profile-level-id=42e00b", "", "42e00b"),
    ];
    for (other, asymmetry, id) in cases {
        let told = told(format, Some(CHROMIUM), Some(other));
        assert_eq!(told, format!("{asymmetry}packetization-mode=1;profile-level-id={id}"), "{other}");
    }
}

#[test]
fn an_offer_of_ours_says_what_the_browser_receives() {
    assert_eq!(told(format_of(CHROMIUM), None, Some(CHROMIUM)), CHROMIUM);
    assert_eq!(told(format_of(""), None, None), "packetization-mode=0;profile-level-id=42000a");
}

#[test]
fn bounds_and_parameter_sets_of_the_other_side_are_passed_on_and_nothing_else() {
    let other = "max-fs=8160;max-fs=1;max-br=x;MAX-MBPS=245000;x-evil=1;profile-level-id=42e01f;sprop-parameter-sets=Z0LgHw==,aM4=";
    assert_eq!(
        told(format_of(CHROMIUM), Some(CHROMIUM), Some(other)),
        "packetization-mode=1;profile-level-id=42e01f;max-fs=8160;max-mbps=245000;sprop-parameter-sets=Z0LgHw==,aM4="
    );
    for sets in ["a b", "\"", &"A".repeat(PARAMETER_SETS_MAX + 1)] {
        let other = format!("profile-level-id=42e01f;sprop-parameter-sets={sets}");
        assert!(!told(format_of(CHROMIUM), None, Some(&other)).contains("sprop"), "{sets}");
    }
}
