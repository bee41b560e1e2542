use super::*;

fn browser(encodings: &[Encoding]) -> Vec<LegPayload> {
    let payloads: Vec<Payload> =
        (0..).zip(encodings).map(|(pt, encoding)| Payload::new(pt, Codec::usual(encoding.clone()))).collect();
    offered_leg(&payloads)
}

fn chromium() -> Vec<LegPayload> {
    use Encoding::{G722, Opus, Other, Pcma, Pcmu, TelephoneEvent};
    browser(&[Opus, Other("red".into()), G722, Pcmu, Pcma, Other("cn".into()), TelephoneEvent])
}

fn offered(policy: &CodecPolicy, browser: &[LegPayload]) -> Vec<String> {
    policy.sip_offer(browser).iter().map(|payload| payload.codec.to_string()).collect()
}

#[test]
fn codec_settings_shape_the_offer() {
    let all = "opus,alaw,ulaw,g722,telephone-event";
    let cases: [(&str, &str, bool, &[&str]); 8] = [
        (DEFAULT_CODECS, DEFAULT_CODECS_EXCLUDE_SIP, true, &["opus/48000/2", "PCMA/8000", "PCMU/8000", "G722/8000"]),
        ("ulaw,opus", "", false, &["PCMU/8000", "opus/48000/2"]),
        ("ulaw,opus", "", true, &["PCMU/8000", "opus/48000/2", "G722/8000", "PCMA/8000"]),
        (all, "opus,g722", true, &["PCMA/8000", "PCMU/8000"]),
        ("ulaw", "opus,g722", true, &["PCMU/8000", "PCMA/8000"]),
        ("g729,speex16,ulaw", "", false, &["PCMU/8000"]),
        ("", "", false, &[]),
        ("", "", true, &["opus/48000/2", "G722/8000", "PCMU/8000", "PCMA/8000"]),
    ];
    for (codecs, excluded, outside, expected) in cases {
        let split = |list: &'static str| list.split(',').collect::<Vec<_>>();
        let policy = CodecPolicy::new(&split(codecs), &split(excluded), outside);
        let offered: Vec<String> =
            offered(&policy, &chromium()).into_iter().filter(|codec| !codec.starts_with("telephone")).collect();
        assert_eq!(offered, expected, "codecs={codecs} exclude={excluded} outside={outside}");
    }
}

#[test]
fn stripped_codecs_are_not_offered() {
    let stripped = browser(&[Encoding::Pcma, Encoding::TelephoneEvent]);
    assert_eq!(offered(&CodecPolicy::default(), &stripped), ["PCMA/8000", "telephone-event/8000"]);
    assert_eq!(offered(&CodecPolicy::default(), &browser(&[Encoding::Pcma])), ["PCMA/8000"]);
}

#[test]
fn events_are_offered_at_the_clock_of_each_codec() {
    let offer = offered(&CodecPolicy::default(), &browser(&[Encoding::Opus, Encoding::TelephoneEvent]));
    assert_eq!(offer, ["opus/48000/2", "telephone-event/48000"]);
    let excluded = CodecPolicy::new(&["opus", "alaw"], &["telephone-event"], true);
    assert!(!offered(&excluded, &chromium()).iter().any(|codec| codec.starts_with("telephone")));
}

#[test]
fn numbers_of_an_offer_are_unique() {
    let offer = CodecPolicy::default().everything();
    let mut numbers: Vec<u8> = offer.iter().map(|payload| payload.pt).collect();
    numbers.sort_unstable();
    numbers.dedup();
    assert_eq!(numbers.len(), offer.len());
    assert_eq!(offer.len(), 6);
}

#[test]
fn unknown_names_warn_and_wcs_names_do_not() {
    assert!(CodecPolicy::default().warnings().is_empty());
    let policy = CodecPolicy::new(&[" alaw ", "", "alaw", "codec2"], &["foo"], true);
    assert_eq!(
        policy.warnings(),
        [
            "codecs: \"codec2\" is not a codec this gateway knows, ignored",
            "codecs_exclude_sip: \"foo\" is not a codec this gateway knows, ignored"
        ]
    );
}

#[test]
fn rtpmaps_are_read_as_phones_mean_them() {
    let cases = [
        ("opus/48000/2", Some(Codec::usual(Encoding::Opus))),
        ("OPUS/48000", Some(Codec::usual(Encoding::Opus))),
        ("g722/16000", Some(Codec::usual(Encoding::G722))),
        ("pcmu/8000/1", Some(Codec::usual(Encoding::Pcmu))),
        ("telephone-event/48000", Some(Codec::telephone_event(48_000))),
        ("PCMU", None),
        ("PCMU/0", None),
        ("PCMU/x", None),
        ("/8000", None),
        ("", None),
        ("telephone-event/1000001", None),
    ];
    for (text, expected) in cases {
        assert_eq!(Codec::parse_rtpmap(text), expected, "{text}");
    }
}

#[test]
fn foreign_fmtp_is_cleaned() {
    let opus = Codec::usual(Encoding::Opus);
    assert_eq!(
        passed_fmtp(&opus, Some("useinbandfec=1 ; Stereo=1;evil=1;cbr=x")).as_deref(),
        Some("useinbandfec=1;stereo=1")
    );
    assert_eq!(passed_fmtp(&opus, Some(&"stereo=1;".repeat(40))), None, "too long to be honest");
    let events = Codec::telephone_event(8000);
    assert_eq!(passed_fmtp(&events, Some("0-16,32")).as_deref(), Some("0-16,32"));
    assert_eq!(passed_fmtp(&events, Some("0-15 a")).as_deref(), Some("0-15"));
    assert_eq!(passed_fmtp(&Codec::usual(Encoding::Pcmu), Some("x=1")), None);
}
