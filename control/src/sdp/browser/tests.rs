use proptest::prelude::*;

use super::*;
use crate::sdp::{Agreement, Codec, CodecPolicy, Encoding, TrunkDescription};

pub(in crate::sdp) mod samples;

fn local() -> BrowserLocal {
    BrowserLocal {
        session_id: u64::MAX,
        transport: LocalTransport {
            ufrag: "gWay".into(),
            pwd: Secret::new("0123456789abcdefghijkl".into()),
            fingerprint: Fingerprint([0xab; 32]),
            candidates: vec!["192.0.2.1:32100".parse().unwrap(), "[2001:db8::1]:32100".parse().unwrap()],
        },
        video_transport: None,
        stream: "gangway".into(),
        cname: "c1".into(),
        audio_ssrc: 0x1234_5678,
        video_ssrc: 0x2345_6789,
        rtx_ssrc: 0x3456_789a,
        abilities: Abilities { nack: true, rtx: true, remb: true, transport_cc: true },
    }
}

fn both_media() -> [BrowserMedia; 2] {
    [(MediaKind::Audio, 0, Encoding::Pcmu), (MediaKind::Video, 96, Encoding::Vp8)].map(|(kind, pt, encoding)| {
        let payloads = vec![Payload::new(pt, Codec::usual(encoding))];
        BrowserMedia {
            kind,
            payloads,
            direction: Direction::SendRecv,
            ptime_ms: None,
            limit_kbps: None,
            repair: Repair::default(),
        }
    })
}

fn names(payloads: &[Payload]) -> Vec<String> {
    payloads.iter().map(|payload| format!("{} {}", payload.pt, payload.codec)).collect()
}

/// Answers a browser's offer for a SIP peer that took PCMA and keypad events.
fn pcma_answer(offer: &BrowserDescription) -> String {
    let ours = CodecPolicy::default().sip_offer(&offer.side_of_offer().unwrap());
    let sip = "v=0\r\no=- 1 1 IN IP4 192.0.2.9\r\ns=-\r\nc=IN IP4 192.0.2.9\r\nt=0 0\r\nm=audio 4000 RTP/AVP 8 101\r\n\
               a=rtpmap:101 telephone-event/8000\r\n";
    let sip = TrunkDescription::parse(sip).unwrap();
    let agreement =
        Agreement::answered_by_sip(&offer.side_of_offer().unwrap(), &ours, &sip, Direction::SendRecv).unwrap();
    answer(offer, &agreement.browser_media(), &local()).unwrap()
}

#[test]
fn chromium_offer_is_read_whole() {
    let offer = BrowserDescription::parse_offer(&samples::chromium_audio_video()).unwrap();
    assert_eq!(offer.bundle, ["0", "1"]);
    assert_eq!(offer.sections.len(), 2);
    let audio = offer.audio().unwrap();
    assert_eq!((audio.mid.as_deref(), audio.direction, audio.rtcp_mux), (Some("0"), Direction::SendRecv, true));
    assert_eq!(
        names(&audio.payloads),
        [
            "111 opus/48000/2",
            "63 red/48000/2",
            "9 G722/8000",
            "0 PCMU/8000",
            "8 PCMA/8000",
            "13 cn/8000",
            "110 telephone-event/48000",
            "126 telephone-event/8000"
        ]
    );
    assert_eq!(audio.payloads[0].fmtp.as_deref(), Some("minptime=10;useinbandfec=1"));
    assert_eq!(audio.payloads[0].feedback, ["transport-cc"]);
    let video = &offer.sections[1];
    assert_eq!((&video.kind, video.payloads[0].feedback.len()), (&MediaKind::Video, 5));
    let transport = offer.transport().unwrap();
    assert_eq!((transport.ufrag.as_str(), transport.setup), ("nCLu", Setup::Actpass));
    assert_eq!(transport.fingerprints, [samples::FINGERPRINT.parse().unwrap()]);
}

#[test]
fn firefox_offer_with_session_level_fingerprint_is_read() {
    let offer = BrowserDescription::parse_offer(&samples::firefox()).unwrap();
    let transport = offer.transport().unwrap();
    assert_eq!(transport.to_remote().ufrag, "a1b2c3d4");
    assert_eq!(transport.fingerprints.len(), 1);
    let payloads = &offer.audio().unwrap().payloads;
    assert_eq!(payloads[1], Payload::new(9, Codec::usual(Encoding::G722)), "G722/8000/1 is G722");
    assert_eq!(payloads[4].codec, Codec::telephone_event(8000));
    assert_eq!(offer.sections[1].direction, Direction::RecvOnly);
}

#[test]
fn offer_damaged_by_strip_codecs_gives_a_call() {
    let offer = BrowserDescription::parse_offer(&samples::chromium_stripped()).unwrap();
    let offered = CodecPolicy::default().sip_offer(&offer.side_of_offer().unwrap());
    assert_eq!(names(&offered.audio), ["8 PCMA/8000", "0 PCMU/8000", "101 telephone-event/8000"]);
    let answer = pcma_answer(&offer);
    assert!(answer.contains("m=audio 32100 UDP/TLS/RTP/SAVPF 8 126\r\n"), "{answer}");
}

#[test]
fn answer_to_chromium_keeps_every_section_and_refuses_video() {
    let offer = BrowserDescription::parse_offer(&samples::chromium_audio_video()).unwrap();
    let answer = pcma_answer(&offer);
    assert_eq!(
        answer,
        "v=0\r\no=- 4611686018427387903 1 IN IP4 127.0.0.1\r\ns=-\r\nt=0 0\r\na=ice-lite\r\na=msid-semantic: WMS gangway\r\n\
         a=group:BUNDLE 0\r\nm=audio 32100 UDP/TLS/RTP/SAVPF 8 126\r\nc=IN IP4 192.0.2.1\r\na=ice-ufrag:gWay\r\n\
         a=ice-pwd:0123456789abcdefghijkl\r\na=fingerprint:sha-256 AB:AB:AB:AB:AB:AB:AB:AB:AB:AB:AB:AB:AB:AB:AB:AB:AB:AB:AB:\
         AB:AB:AB:AB:AB:AB:AB:AB:AB:AB:AB:AB:AB\r\na=setup:passive\r\na=mid:0\r\na=sendrecv\r\na=rtcp-mux\r\n\
         a=rtpmap:8 PCMA/8000\r\na=rtpmap:126 telephone-event/8000\r\na=fmtp:126 0-15\r\na=msid:gangway gangway-audio\r\n\
         a=ssrc:305419896 cname:c1\r\na=candidate:1 1 udp 2130706431 192.0.2.1 32100 typ host\r\n\
         a=candidate:2 1 udp 2130706175 2001:db8::1 32100 typ host\r\na=end-of-candidates\r\n\
         m=video 0 UDP/TLS/RTP/SAVPF 96 97 103 104\r\nc=IN IP4 0.0.0.0\r\na=mid:1\r\na=inactive\r\n"
    );
}

#[test]
fn accepted_video_shares_the_transport_and_the_stream() {
    let offer = BrowserDescription::parse_offer(&samples::chromium_audio_video()).unwrap();
    let text = answer(&offer, &both_media(), &local()).unwrap();
    assert!(text.contains("a=group:BUNDLE 0 1\r\n"), "{text}");
    let (_, video) = text.split_once("m=video ").unwrap();
    assert!(video.starts_with("32100 UDP/TLS/RTP/SAVPF 96\r\n"), "{video}");
    for line in [
        "a=ice-ufrag:gWay",
        "a=setup:passive",
        "a=mid:1",
        "a=rtcp-mux",
        "a=msid:gangway gangway-video",
        "a=ssrc:591751049 cname:c1",
    ] {
        assert!(video.contains(&format!("{line}\r\n")), "{line}: {video}");
    }
    let read = BrowserDescription::parse_answer(&text.replace("passive", "active")).unwrap();
    assert_eq!(names(&read.video().unwrap().payloads), ["96 VP8/90000"]);
}

#[test]
fn video_on_a_transport_of_its_own_is_refused() {
    let alone = samples::chromium_audio_video().replace("BUNDLE 0 1", "BUNDLE 0");
    let (audio, video) = alone.split_once("m=video").unwrap();
    let alone = format!("{audio}m=video{}", video.replace("a=ice-ufrag:nCLu", "a=ice-ufrag:other"));
    let offer = BrowserDescription::parse_offer(&alone).unwrap();
    assert_eq!(offer.video(), None);
    assert!(answer(&offer, &both_media(), &local()).unwrap().contains("m=video 0 "));
}

#[test]
fn a_number_with_two_meanings_on_one_transport_is_the_audios() {
    let text = samples::chromium_audio_video()
        .replace("SAVPF 96 97 103 104", "SAVPF 126 96")
        .replace("a=rtpmap:103 H264", "a=rtpmap:126 H264");
    let side = BrowserDescription::parse_offer(&text).unwrap().side_of_offer().unwrap();
    let numbers: Vec<u8> = side.video.unwrap().payloads.iter().map(|payload| payload.send_pt).collect();
    assert_eq!(numbers, [96]);
}

#[test]
fn bundle_only_section_needs_no_transport_of_its_own() {
    let text = samples::chromium_audio()
        + "m=video 0 UDP/TLS/RTP/SAVPF 96\r\na=bundle-only\r\na=mid:1\r\na=rtpmap:96 VP8/90000\r\n";
    let offer = BrowserDescription::parse_offer(&text).unwrap();
    assert_eq!((offer.sections[1].rejected, &offer.sections[1].transport), (false, &None));
    assert!(pcma_answer(&offer).contains("m=video 0 UDP/TLS/RTP/SAVPF 96\r\n"));
}

#[test]
fn a_bundle_only_section_must_be_a_browsers_too() {
    let text =
        samples::chromium_audio() + "m=video 0 RTP/AVP 96\r\na=bundle-only\r\na=mid:1\r\na=rtpmap:96 VP8/90000\r\n";
    let error = BrowserDescription::parse_offer(&text).unwrap_err();
    assert_eq!(error.to_string(), "sdp: m-section 1: m= protocol: a browser section must be UDP/TLS/RTP/SAVPF");
}

#[test]
fn answer_without_mids_names_no_group() {
    let offer = samples::chromium_audio().replace("a=mid:0\r\n", "").replace("a=group:BUNDLE 0\r\n", "");
    let answer = pcma_answer(&BrowserDescription::parse_offer(&offer).unwrap());
    assert!(!answer.contains("a=mid") && !answer.contains("a=group"), "{answer}");
}

#[test]
fn answer_directions_follow_rfc_3264() {
    for (offered, answered, announces) in [
        ("sendrecv", "sendrecv", true),
        ("recvonly", "sendonly", true),
        ("sendonly", "recvonly", false),
        ("inactive", "inactive", false),
    ] {
        let offer = samples::chromium_audio().replace("a=sendrecv", &format!("a={offered}"));
        let answer = pcma_answer(&BrowserDescription::parse_offer(&offer).unwrap());
        assert!(answer.contains(&format!("a={answered}\r\n")), "{offered}: {answer}");
        assert_eq!(answer.contains("a=msid:"), announces, "{offered}");
    }
}

#[test]
fn our_offer_is_read_back_and_lets_the_browser_open_dtls() {
    let payloads = crate::sdp::negotiate::browser_offer(None, &CodecPolicy::default()).unwrap();
    let text = offer(&payloads.browser_media(Some(30), None), &local());
    assert!(text.contains("a=ptime:30\r\n") && text.contains("a=group:BUNDLE 0\r\n"), "{text}");
    let read = BrowserDescription::parse_offer(&text).unwrap();
    assert_eq!(read.transport().unwrap().setup, Setup::Actpass);
    assert_eq!(read.audio().unwrap().payloads, payloads.audio);
    assert_eq!(
        names(&payloads.audio),
        [
            "111 opus/48000/2",
            "8 PCMA/8000",
            "0 PCMU/8000",
            "9 G722/8000",
            "126 telephone-event/8000",
            "110 telephone-event/48000"
        ]
    );
}

#[test]
fn answers_must_open_dtls() {
    let active = samples::chromium_audio().replace("actpass", "active");
    assert!(BrowserDescription::parse_answer(&active).is_ok());
    let passive = samples::chromium_audio().replace("actpass", "passive");
    let expected =
        SdpError::Invalid { section: 0, field: "a=setup", reason: "an answer must be active: this gateway is passive" };
    assert_eq!(BrowserDescription::parse_answer(&passive), Err(expected));
}

#[test]
fn what_is_missing_or_wrong_is_named() {
    let many = "a=candidate:0 1 UDP 1 192.0.2.1 9 typ host\r\n".repeat(CANDIDATES_MAX + 1);
    let cases: [(&str, &str, &str); 9] = [
        ("a=rtcp-mux\r\n", "", "sdp: m-section 0: a=rtcp-mux is missing"),
        ("a=ice-ufrag:nCLu\r\n", "", "sdp: m-section 0: a=ice-ufrag is missing"),
        ("a=ice-pwd:Ez2lzZYmVZ3VT9zbqM1JbfKX\r\n", "", "sdp: m-section 0: a=ice-pwd is missing"),
        (
            "a=ice-pwd:Ez2l",
            "a=ice-pwd:E 2l",
            "sdp: m-section 0: a=ice-pwd: it must be 22 to 256 letters, digits, + or /",
        ),
        (
            "sha-256 0A:",
            "sha-256 A:",
            "sdp: m-section 0: a=fingerprint: a sha-256 fingerprint is 32 pairs of hexadecimal digits",
        ),
        ("sha-256", "sha-1", "sdp: m-section 0: a=fingerprint: there must be one of hash sha-256"),
        ("a=mid:0", "a=mid:0 1", "sdp: m-section 0: a=mid: it must be a token of at most 64 characters"),
        ("UDP/TLS/RTP/SAVPF", "RTP/AVP", "sdp: m-section 0: m= protocol: a browser section must be UDP/TLS/RTP/SAVPF"),
        ("a=rtcp-rsize\r\n", &many, "sdp: more than 64 candidates in one section"),
    ];
    for (from, to, message) in cases {
        let text = samples::chromium_audio().replace(from, to);
        assert_eq!(BrowserDescription::parse_offer(&text).unwrap_err().to_string(), message);
    }
    let refused = samples::chromium_audio().replace("m=audio 9 ", "m=audio 0 ");
    let refused = BrowserDescription::parse_offer(&refused).unwrap();
    assert_eq!(refused.audio(), Err(SdpError::NoAudio { reason: "it is refused with port 0" }));
}

proptest! {
    /// Whatever sections a browser offers, the answer has as many, of the same kinds, in the same order, and can be read.
    #[test]
    fn answer_keeps_section_count_and_order(before in 0..4usize, after in 0..4usize, formats in "[0-9 ]{1,20}[0-9]") {
        let audio = samples::chromium_audio();
        let (head, audio) = audio.split_once("m=").unwrap();
        let extra = |n: usize| (0..n).map(|i| format!("m=video 0 UDP/TLS/RTP/SAVPF {formats}\r\na=mid:x{i}\r\n")).collect::<String>();
        let text = format!("{head}{}m={audio}{}", extra(before), extra(after));
        let offer = BrowserDescription::parse_offer(&text).unwrap();
        let answer = BrowserDescription::parse_answer(&pcma_answer(&offer).replace("a=setup:passive", "a=setup:active")).unwrap();
        prop_assert_eq!(answer.sections.len(), offer.sections.len());
        for (answered, offered) in answer.sections.iter().zip(&offer.sections) {
            prop_assert_eq!(&answered.kind, &offered.kind);
            prop_assert_eq!(&answered.mid, &offered.mid);
            prop_assert_eq!(answered.rejected, answered.kind != MediaKind::Audio);
        }
    }

    #[test]
    fn arbitrary_text_never_panics(text in "\\PC{0,400}") {
        let _ = BrowserDescription::parse_offer(&text);
    }

    /// A real offer with lines dropped, doubled, swapped and cut still gives an answer or an error.
    #[test]
    fn damaged_offers_never_panic(picks in proptest::collection::vec((0..80usize, 0..60usize), 0..80)) {
        let text = samples::chromium_audio_video();
        let lines: Vec<&str> = text.split("\r\n").collect();
        let damaged: String = std::iter::once("v=0\r\n".to_owned())
            .chain(picks.iter().map(|(line, cut)| {
                let line = lines[line % lines.len()];
                format!("{}\r\n", line.get(..line.len().saturating_sub(*cut)).unwrap_or(line))
            }))
            .collect();
        if let Ok(offer) = BrowserDescription::parse_offer(&damaged)
            && let Ok(text) = answer(&offer, &both_media(), &local())
        {
            prop_assert_eq!(BrowserDescription::parse_offer(&text.replace("passive", "active")).unwrap().sections.len(), offer.sections.len());
        }
    }
}

/// What a browser that offered video in VP8 is answered, when its peer says `bandwidth` and the relay can do `abilities`.
fn vp8_answer(bandwidth: &str, abilities: Abilities) -> String {
    let offer = BrowserDescription::parse_offer(&samples::chromium_audio_video().replace(
        "a=rtpmap:96 VP8",
        "a=extmap:4 http://www.ietf.org/id/draft-holmer-rmcat-transport-wide-cc-extensions-01\r\na=rtpmap:96 VP8",
    ))
    .unwrap();
    let side = offer.side_of_offer().unwrap();
    let ours = CodecPolicy::default().sip_offer(&side);
    let sip = format!(
        "v=0\r\no=- 1 1 IN IP4 192.0.2.9\r\ns=-\r\nc=IN IP4 192.0.2.9\r\nt=0 0\r\nm=audio 4000 RTP/AVP 0\r\nm=video 4002 RTP/AVP 97\r\n\
         {bandwidth}a=rtpmap:97 VP8/90000\r\n"
    );
    let sip = TrunkDescription::parse(&sip).unwrap();
    let agreement = Agreement::answered_by_sip(&side, &ours, &sip, Direction::SendRecv).unwrap();
    answer(&offer, &agreement.browser_media(), &BrowserLocal { abilities, ..local() }).unwrap()
}

#[test]
fn video_is_answered_with_what_repairs_it_and_the_peers_limit() {
    let all = Abilities { nack: true, rtx: true, remb: true, transport_cc: true };
    let text = vp8_answer("b=AS:256\r\n", all);
    let video = &text[text.find("m=video").unwrap()..];
    assert!(video.contains("SAVPF 96 97\r\n") && video.contains("\r\nb=AS:256\r\n"), "{text}");
    for line in [
        "rtpmap:97 rtx/90000",
        "fmtp:97 apt=96",
        "rtcp-fb:96 nack",
        "rtcp-fb:96 nack pli",
        "rtcp-fb:96 goog-remb",
        "rtcp-fb:96 transport-cc",
        "extmap:4 http://www.ietf.org/id/draft-holmer-rmcat-transport-wide-cc-extensions-01",
        "ssrc-group:FID 591751049 878082202",
        "ssrc:878082202 cname:c1",
    ] {
        assert!(video.contains(&format!("\r\na={line}\r\n")), "{line} is missing in {text}");
    }
    assert!(!text[..text.find("m=video").unwrap()].contains("b="), "sound is not limited: {text}");
    let old = vp8_answer("", Abilities::default());
    for word in ["rtx", "nack\r\n", "remb", "transport-cc", "extmap", "FID", "b="] {
        assert!(!old.contains(word), "{word} for a dataplane that cannot do it: {old}");
    }
    let once = vp8_answer("", Abilities { rtx: false, ..all });
    assert!(!once.contains("rtx") && !once.contains("FID") && once.contains("a=rtcp-fb:96 nack\r\n"), "{once}");
}

#[test]
fn a_browser_is_offered_what_repairs_video_and_its_answer_counts() {
    let text = "v=0\r\no=- 1 1 IN IP4 192.0.2.9\r\ns=-\r\nc=IN IP4 192.0.2.9\r\nb=AS:600\r\nt=0 0\r\nm=audio 4000 RTP/AVP 0\r\n\
                m=video 4002 RTP/AVP 97\r\na=rtpmap:97 VP8/90000\r\n";
    let sip = TrunkDescription::parse(text).unwrap();
    let policy = CodecPolicy::default();
    let offered = crate::sdp::negotiate::browser_offer(Some(&sip), &policy).unwrap();
    let limit_kbps = sip.video().unwrap().limit_kbps;
    assert_eq!(limit_kbps, Some(520), "the session's less what sound needs");
    let text = offer(&offered.browser_media(None, limit_kbps), &local());
    for line in ["b=AS:520", "a=rtpmap:112 rtx/90000", "a=fmtp:112 apt=96", "a=ssrc-group:FID 591751049 878082202"] {
        assert!(text.contains(&format!("\r\n{line}\r\n")), "{line} is missing in {text}");
    }
    // Our own offer, read as a browser's: what it would answer when it takes all, and without the retransmissions.
    let agreed = |text: &str| {
        let browser = BrowserDescription::parse_offer(text).unwrap();
        let side = browser.side_of_answer(&offered).unwrap();
        Agreement::answering_sip(&side, &sip, &policy).unwrap().video.unwrap()
    };
    let all = agreed(&text);
    assert_eq!((all.browser_repair, all.sip_limit_kbps), (Repair::offered(&offered.video), Some(520)));
    assert_eq!(agreed(&text.replace("apt=96", "apt=9")).browser_repair.rtx, []);
}
