use super::*;
use crate::sdp::{
    BrowserDescription, PayloadRoute, browser::tests::samples, direction::answer_direction, leg::RECEIVE_NUMBERS_MAX,
};

fn sip(media: &str) -> TrunkDescription {
    let text = format!("v=0\r\no=- 1 1 IN IP4 192.0.2.9\r\ns=-\r\nc=IN IP4 192.0.2.9\r\nt=0 0\r\n{media}");
    TrunkDescription::parse(&text).unwrap()
}

fn chromium() -> BrowserSide {
    BrowserDescription::parse_offer(&samples::chromium_audio()).unwrap().side_of_offer().unwrap()
}

fn policy() -> CodecPolicy {
    CodecPolicy::default()
}

fn map(routes: &[PayloadRoute]) -> Vec<String> {
    routes.iter().map(|route| format!("{} {} -> {} {}", route.from_pt, route.from, route.to_pt, route.to)).collect()
}

fn shown(leg: &[LegPayload]) -> Vec<String> {
    leg.iter().map(|payload| format!("{} {}", payload.send_pt, payload.codec)).collect()
}

/// An outgoing call of Chromium that this answer ends.
fn answered(media: &str) -> Result<Agreement, NegotiateError> {
    let browser = chromium();
    let ours = policy().sip_offer(&browser);
    Agreement::answered_by_sip(&browser, &ours, &sip(media), Direction::SendRecv)
}

/// An incoming call of this offer that a browser answers with these payload lines.
fn incoming(media: &str, formats: &str) -> Result<Agreement, NegotiateError> {
    let offer = sip(media);
    let ours = browser_offer(Some(&offer), &policy())?;
    let answer = samples::chromium_audio().replace("111 63 9 0 8 13 110 126", formats).replace("actpass", "active");
    let browser = BrowserDescription::parse_answer(&answer).unwrap().side_of_answer(&ours)?;
    Agreement::answering_sip(&browser, &offer, &policy())
}

#[test]
fn answer_direction_is_the_table_of_rfc_3264() {
    use Direction::{Inactive, RecvOnly, SendOnly, SendRecv};
    // Rows: offered; columns: wanted, in the order of `Direction::ALL`.
    let table = [
        (SendRecv, [SendRecv, SendOnly, RecvOnly, Inactive]),
        (SendOnly, [RecvOnly, Inactive, RecvOnly, Inactive]),
        (RecvOnly, [SendOnly, SendOnly, Inactive, Inactive]),
        (Inactive, [Inactive; 4]),
    ];
    for (offered, row) in table {
        for (wanted, expected) in Direction::ALL.into_iter().zip(row) {
            assert_eq!(answer_direction(offered, wanted), expected, "{offered:?} {wanted:?}");
        }
        assert_eq!(offered.reversed().reversed(), offered);
        assert_eq!(Direction::from_attribute(offered.attribute()), Some(offered));
        assert_eq!(Direction::of(offered.sends(), offered.receives()), offered);
    }
}

/// 4 directions x c=0.0.0.0, as offered by a SIP peer in a re-INVITE.
#[test]
fn hold_by_direction_or_by_zero_address_gives_the_right_answer() {
    use Direction::{Inactive, RecvOnly, SendOnly, SendRecv};
    let call = answered("m=audio 4000 RTP/AVP 0\r\n").unwrap();
    let cases = [
        (SendRecv, false, SendRecv),
        (SendOnly, false, RecvOnly),
        (RecvOnly, false, SendOnly),
        (Inactive, false, Inactive),
        (SendRecv, true, RecvOnly),
        (SendOnly, true, RecvOnly),
        (RecvOnly, true, Inactive),
        (Inactive, true, Inactive),
    ];
    for (offered, zero, expected) in cases {
        let connection = if zero { "c=IN IP4 0.0.0.0\r\n" } else { "" };
        let offer = sip(&format!("m=audio 4000 RTP/AVP 0\r\n{connection}a={}\r\n", offered.attribute()));
        let held = call.reoffered_by_sip(&offer, &policy(), SendRecv).unwrap();
        assert_eq!(held.audio.sip_direction, expected, "{offered:?} zero {zero}");
        assert_eq!(held.audio.sip_remote, call.audio.sip_remote, "the target survives a hold");
    }
    let refused = call.reoffered_by_sip(&sip("m=audio 0 RTP/AVP 0\r\n"), &policy(), SendRecv);
    assert!(matches!(refused, Err(NegotiateError::Sdp(SdpError::NoAudio { .. }))));
}

#[test]
fn each_codec_is_passed_with_the_numbers_of_each_side() {
    let cases = [
        ("m=audio 4000 RTP/AVP 0\r\n", vec!["0 PCMU/8000 -> 0 PCMU/8000"]),
        ("m=audio 4000 RTP/AVP 8\r\n", vec!["8 PCMA/8000 -> 8 PCMA/8000"]),
        ("m=audio 4000 RTP/AVP 9\r\n", vec!["9 G722/8000 -> 9 G722/8000"]),
        (
            "m=audio 4000 RTP/AVP 96 102\r\na=rtpmap:96 opus/48000/2\r\na=rtpmap:102 telephone-event/48000\r\n",
            vec!["111 opus/48000/2 -> 96 opus/48000/2", "110 telephone-event/48000 -> 102 telephone-event/48000"],
        ),
    ];
    for (media, expected) in cases {
        assert_eq!(map(&answered(media).unwrap().audio.to_sip()), expected);
    }
}

#[test]
fn answerer_may_use_its_own_numbers() {
    let call =
        answered("m=audio 4000 RTP/AVP 107 97\r\na=rtpmap:107 opus/48000/2\r\na=rtpmap:97 telephone-event/48000\r\n")
            .unwrap();
    assert_eq!(
        map(&call.audio.to_sip()),
        ["111 opus/48000/2 -> 107 opus/48000/2", "110 telephone-event/48000 -> 97 telephone-event/48000"]
    );
    assert_eq!(
        map(&call.audio.to_browser()),
        [
            "96 opus/48000/2 -> 111 opus/48000/2",
            "107 opus/48000/2 -> 111 opus/48000/2",
            "102 telephone-event/48000 -> 110 telephone-event/48000",
            "97 telephone-event/48000 -> 110 telephone-event/48000",
        ]
    );
}

#[test]
fn a_number_of_ours_is_never_taken_for_another_codec() {
    // The peer numbers opus 101, which is our number for keypad events.
    let call = answered("m=audio 4000 RTP/AVP 101 0\r\na=rtpmap:101 opus/48000/2\r\n").unwrap();
    assert_eq!(map(&call.audio.to_browser()), ["96 opus/48000/2 -> 111 opus/48000/2", "0 PCMU/8000 -> 0 PCMU/8000"]);
    assert_eq!(map(&call.audio.to_sip())[0], "111 opus/48000/2 -> 101 opus/48000/2");
}

#[test]
fn the_peers_first_codec_is_in_use_and_stands_first_in_the_browsers_answer() {
    let call = answered("m=audio 4000 RTP/AVP 9 0 101\r\na=rtpmap:101 telephone-event/8000\r\n").unwrap();
    assert_eq!(shown(&call.audio.browser), ["9 G722/8000", "0 PCMU/8000", "126 telephone-event/8000"]);
    assert_eq!(call.audio.fixed().codec, Codec::usual(Encoding::G722));
}

#[test]
fn events_of_firefox_at_8000_hz_are_kept_with_opus() {
    let browser = BrowserDescription::parse_offer(&samples::firefox()).unwrap().side_of_offer().unwrap();
    let ours = policy().sip_offer(&browser);
    let answer =
        sip("m=audio 4000 RTP/AVP 96 101\r\na=rtpmap:96 opus/48000/2\r\na=rtpmap:101 telephone-event/8000\r\n");
    let call = Agreement::answered_by_sip(&browser, &ours, &answer, Direction::SendRecv).unwrap();
    assert_eq!(map(&call.audio.to_sip())[1], "101 telephone-event/8000 -> 101 telephone-event/8000");
}

#[test]
fn fmtp_of_opus_is_told_to_the_other_side() {
    let call = answered(
        "m=audio 4000 RTP/AVP 96\r\na=rtpmap:96 opus/48000/2\r\na=fmtp:96 useinbandfec=1; stereo=0;x-evil=\"a\";cbr=q\r\na=ptime:40\r\n",
    )
    .unwrap();
    assert_eq!(call.audio.browser_payloads()[0].fmtp.as_deref(), Some("useinbandfec=1;stereo=0"));
    assert_eq!(call.audio.sip_payloads()[0].fmtp.as_deref(), Some("minptime=10;useinbandfec=1"));
    assert_eq!(call.audio.sip_ptime_ms, Some(40));
}

#[test]
fn no_common_codec_is_its_own_error() {
    for media in [
        "m=audio 4000 RTP/AVP 18\r\n",
        "m=audio 4000 RTP/AVP 97\r\na=rtpmap:97 iLBC/8000\r\n",
        "m=audio 4000 RTP/AVP 101\r\na=rtpmap:101 telephone-event/8000\r\n",
    ] {
        assert_eq!(answered(media), Err(NegotiateError::NoCommonCodecs), "{media}");
        assert_eq!(browser_offer(Some(&sip(media)), &policy()), Err(NegotiateError::NoCommonCodecs), "{media}");
    }
}

#[test]
fn incoming_offer_names_both_laws_of_g711_for_either() {
    let offer =
        browser_offer(Some(&sip("m=audio 4000 RTP/AVP 9 8 101\r\na=rtpmap:101 telephone-event/8000\r\n")), &policy());
    let numbers: Vec<(u8, String)> = offer.unwrap().audio.into_iter().map(|p| (p.pt, p.codec.to_string())).collect();
    let expected = [(9, "G722/8000"), (8, "PCMA/8000"), (0, "PCMU/8000"), (126, "telephone-event/8000")];
    assert_eq!(numbers, expected.map(|(pt, codec)| (pt, codec.to_owned())));
}

#[test]
fn browser_that_answers_the_other_law_is_mapped() {
    let call = incoming("m=audio 4000 RTP/AVP 8 96\r\na=rtpmap:96 telephone-event/8000\r\n", "0 126").unwrap();
    assert_eq!(
        map(&call.audio.to_sip()),
        ["0 PCMU/8000 -> 8 PCMA/8000", "126 telephone-event/8000 -> 96 telephone-event/8000"]
    );
    assert_eq!(
        map(&call.audio.to_browser()),
        ["8 PCMA/8000 -> 0 PCMU/8000", "96 telephone-event/8000 -> 126 telephone-event/8000"]
    );
    let answer: Vec<u8> = call.audio.sip_payloads().iter().map(|payload| payload.pt).collect();
    assert_eq!(answer, [8, 96], "the answer repeats the caller's numbers");
}

#[test]
fn incoming_answer_names_only_the_codec_in_use() {
    let call = incoming("m=audio 4000 RTP/AVP 0 8 9\r\n", "111 63 9 0 8 13 110 126").unwrap();
    assert_eq!(shown(&call.audio.sip), ["9 G722/8000"]);
    assert_eq!(map(&call.audio.to_browser()), ["9 G722/8000 -> 9 G722/8000"]);
}

#[test]
fn later_offer_keeps_the_browsers_codec_or_is_refused() {
    let call = answered("m=audio 4000 RTP/AVP 8 101\r\na=rtpmap:101 telephone-event/8000\r\n").unwrap();
    let same = call.reoffered_by_sip(&sip("m=audio 5000 RTP/AVP 0 8 9\r\n"), &policy(), Direction::SendRecv).unwrap();
    assert_eq!(shown(&same.audio.sip), ["8 PCMA/8000"], "the same codec is better than a mapped one");
    assert_eq!(same.audio.sip_remote.unwrap().rtp.port(), 5000);
    let other_law =
        call.reoffered_by_sip(&sip("m=audio 5000 RTP/AVP 9 0\r\n"), &policy(), Direction::SendRecv).unwrap();
    assert_eq!(map(&other_law.audio.to_sip()), ["8 PCMA/8000 -> 0 PCMU/8000"]);
    assert_eq!(other_law.audio.browser, call.audio.browser, "the browser's side never changes");
    let refused = call.reoffered_by_sip(&sip("m=audio 5000 RTP/AVP 9 18\r\n"), &policy(), Direction::SendRecv);
    assert_eq!(refused, Err(NegotiateError::FixedCodecMissing { fixed: Codec::usual(Encoding::Pcma) }));
}

#[test]
fn final_answer_with_another_codec_than_early_media_leads_to_a_fixed_offer() {
    let early = answered("m=audio 4000 RTP/AVP 9\r\n").unwrap();
    let ours = policy().sip_offer(&chromium());
    let later = early.reanswered_by_sip(&ours, &sip("m=audio 4000 RTP/AVP 0\r\n"), Direction::SendRecv);
    assert!(matches!(later, Err(NegotiateError::FixedCodecMissing { .. })));
    let offer: Vec<u8> = early.fixed_offer(&policy()).audio.iter().map(|payload| payload.pt).collect();
    assert_eq!(offer, [9, 101]);
    let early = answered("m=audio 4000 RTP/AVP 8\r\n").unwrap();
    let offer: Vec<u8> = early.fixed_offer(&policy()).audio.iter().map(|payload| payload.pt).collect();
    assert_eq!(offer, [8, 0, 101]);
    let mapped = early.reanswered_by_sip(&ours, &sip("m=audio 4000 RTP/AVP 0\r\n"), Direction::SendRecv).unwrap();
    assert_eq!(map(&mapped.audio.to_browser()), ["0 PCMU/8000 -> 8 PCMA/8000"]);
}

#[test]
fn fixed_offer_gives_no_number_a_second_meaning() {
    // The peer numbers opus as we number keypad events.
    let call = answered("m=audio 4000 RTP/AVP 96\r\na=rtpmap:96 opus/48000/2\r\n").unwrap();
    let offer = sip("m=audio 4000 RTP/AVP 102\r\na=rtpmap:102 opus/48000/2\r\n");
    let call = call.reoffered_by_sip(&offer, &policy(), Direction::SendRecv).unwrap();
    let numbers: Vec<u8> = call.fixed_offer(&policy()).audio.iter().map(|payload| payload.pt).collect();
    assert_eq!(numbers, [102, 97], "96 was opus and 102 is");
}

#[test]
fn renumbered_codec_is_taken_under_both_numbers_for_a_while() {
    let opus = |pt: u8| sip(&format!("m=audio 4000 RTP/AVP {pt}\r\na=rtpmap:{pt} opus/48000/2\r\n"));
    let mut call = answered("m=audio 4000 RTP/AVP 96\r\na=rtpmap:96 opus/48000/2\r\n").unwrap();
    for pt in [100, 101, 102, 103] {
        call = call.reoffered_by_sip(&opus(pt), &policy(), Direction::SendRecv).unwrap();
        assert_eq!(call.audio.sip[0].receive_pts[0], pt);
        assert!(call.audio.sip[0].receive_pts.len() <= RECEIVE_NUMBERS_MAX);
    }
    assert_eq!(call.audio.sip[0].receive_pts, [103, 102]);
}

#[test]
fn agreement_survives_the_journal() {
    let call = incoming("m=audio 4000 RTP/AVP 0 8\r\n", "8 0 126").unwrap();
    let text = serde_json::to_string(&call).unwrap();
    assert_eq!(serde_json::from_str::<Agreement>(&text).unwrap(), call);
}

#[test]
fn answer_payloads_follow_the_offers_order_and_numbers() {
    let offer = [(120, Encoding::Opus), (0, Encoding::Pcmu), (121, Encoding::Opus), (8, Encoding::Pcma)];
    let offer = offer.map(|(pt, encoding)| Payload::new(pt, Codec::usual(encoding)));
    let answer = answer_payloads(&offer, |codec| codec.encoding != Encoding::Pcmu);
    assert_eq!(answer.iter().map(|payload| payload.pt).collect::<Vec<_>>(), [120, 8]);
}
