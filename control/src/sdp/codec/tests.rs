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
    policy
        .sip_offer(&BrowserSide::of_audio(browser.to_vec()))
        .audio
        .iter()
        .map(|payload| payload.codec.to_string())
        .collect()
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
    let offer = CodecPolicy::default().everything().audio;
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
        told_fmtp(&opus, None, Some("useinbandfec=1 ; Stereo=1;evil=1;cbr=x")).as_deref(),
        Some("useinbandfec=1;stereo=1")
    );
    assert_eq!(told_fmtp(&opus, None, Some(&"stereo=1;".repeat(60))), None, "too long to be honest");
    let events = Codec::telephone_event(8000);
    assert_eq!(told_fmtp(&events, None, Some("0-16,32")).as_deref(), Some("0-16,32"));
    assert_eq!(told_fmtp(&events, None, Some("0-15 a")).as_deref(), Some("0-15"));
    assert_eq!(told_fmtp(&Codec::usual(Encoding::Pcmu), None, Some("x=1")), None);
}

/// A browser that speaks VP8 and H.264 in these profiles and modes, besides PCMU.
fn with_video(h264: &[(&str, u8)]) -> BrowserSide {
    let mut video = vec![Payload::new(96, Codec::usual(Encoding::Vp8))];
    for (pt, (profile, mode)) in (100..).zip(h264) {
        let fmtp = format!("level-asymmetry-allowed=1;packetization-mode={mode};profile-level-id={profile}");
        let codec = Codec::usual(Encoding::H264).with_fmtp(Some(&fmtp));
        video.push(Payload { pt, codec, fmtp: Some(fmtp), feedback: Vec::new() });
    }
    let video = MediaSide::new(offered_leg(&video), crate::sdp::Direction::SendRecv);
    BrowserSide { video: Some(video), ..BrowserSide::of_audio(browser(&[Encoding::Pcmu])) }
}

const CHROMIUM_H264: [(&str, u8); 6] =
    [("42001f", 1), ("42001f", 0), ("42e01f", 1), ("42e01f", 0), ("4d001f", 1), ("4d001f", 0)];

fn shown(video: &[Payload]) -> Vec<String> {
    let format = |payload: &Payload| payload.codec.h264.map_or(String::new(), |format| format!(" {format}"));
    video.iter().map(|payload| format!("{} {}{}", payload.pt, payload.codec, format(payload))).collect()
}

/// The operator's policy, the browser's H.264 profiles with their modes, and what is offered.
type VideoCase<'a> = (CodecPolicy, &'a [(&'a str, u8)], &'a [&'a str]);

#[test]
fn the_video_of_an_offer_follows_codecs_profiles_and_modes() {
    let policy = |codecs: &[&str], profiles: &[&str], mode_1_only| {
        CodecPolicy::new(codecs, &[], false).with_h264(profiles, mode_1_only)
    };
    let all = ["ulaw", "h264", "vp8"];
    let cases: [VideoCase<'_>; 8] = [
        (CodecPolicy::default(), &CHROMIUM_H264, &["98 H264/90000 ConstrainedBaseline mode 1", "97 VP8/90000"]),
        (
            policy(&all, &["42e01f", "640028"], false),
            &CHROMIUM_H264,
            &["98 H264/90000 ConstrainedBaseline mode 1", "99 H264/90000 ConstrainedBaseline mode 0", "97 VP8/90000"],
        ),
        (
            policy(&all, &["4d001f", "42001f"], true),
            &CHROMIUM_H264,
            &["98 H264/90000 Main mode 1", "99 H264/90000 Baseline mode 1", "97 VP8/90000"],
        ),
        (policy(&all, &[], true), &[("4d001f", 1)], &["98 H264/90000 Main mode 1", "97 VP8/90000"]),
        (policy(&all, &["640028"], true), &CHROMIUM_H264, &["97 VP8/90000"]),
        // The only mode there is.
        (
            policy(&all, &["42e01f"], true),
            &[("42e01f", 0)],
            &["98 H264/90000 ConstrainedBaseline mode 0", "97 VP8/90000"],
        ),
        (policy(&["ulaw", "vp8"], &["42e01f"], true), &CHROMIUM_H264, &["97 VP8/90000"]),
        (policy(&["ulaw"], &["42e01f"], true), &CHROMIUM_H264, &[]),
    ];
    for (policy, h264, expected) in cases {
        assert_eq!(shown(&policy.sip_offer(&with_video(h264)).video), expected, "{policy:?} {h264:?}");
    }
    let excluded = CodecPolicy::new(&["vp8"], &["vp8", "h264"], true);
    assert!(excluded.sip_offer(&with_video(&CHROMIUM_H264)).video.is_empty());
    let unreadable = CodecPolicy::default().with_h264(&["42e0", "high"], true);
    assert_eq!(unreadable.warnings().len(), 2, "{:?}", unreadable.warnings());
}
