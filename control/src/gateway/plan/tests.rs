use gangway_shared::{
    ids::{Generation, RelayId},
    rcp::{Fingerprint, LegReply},
};

use super::*;
use crate::sdp::{BrowserSide, CodecPolicy, MediaSide, Payload, TrunkDescription, leg::offered_leg};

fn media() -> CallMedia {
    CallMedia {
        label: "call-1".into(),
        cname: "c1".into(),
        browser_ssrc: 1,
        sip_ssrc: 2,
        video: None,
        sip_local_ip: Some("192.0.2.1".parse().unwrap()),
        media_timeout_ms: Some(60_000),
        fill_after_ms: Some(100),
        consent_timeout_ms: None,
        takes_feedback: true,
        splits_transports: false,
        browser_video: None,
        abilities: Abilities::default(),
    }
}

fn remote() -> IceRemote {
    IceRemote { ufrag: "abcd".into(), fingerprints: vec![Fingerprint([7; 32])] }
}

/// A browser with these codecs, and a SIP peer that answered with this audio section.
fn agreement(encodings: &[Encoding], direction: Direction, media: &str) -> Agreement {
    let payloads: Vec<Payload> =
        (100..).zip(encodings).map(|(pt, e)| Payload::new(pt, Codec::usual(e.clone()))).collect();
    let audio = MediaSide::new(offered_leg(&payloads), direction);
    let browser = BrowserSide { audio, video: None };
    let sip = format!("v=0\r\nc=IN IP4 192.0.2.9\r\n{media}");
    let ours = CodecPolicy::default().everything();
    Agreement::answered_by_sip(&browser, &ours, &TrunkDescription::parse(&sip).unwrap(), Direction::SendRecv).unwrap()
}

#[test]
fn opening_program_has_legs_and_no_media() {
    let incoming = opening(&media(), None);
    assert_eq!(incoming.validate(), Ok(()));
    assert!(incoming.routes.is_empty());
    let kinds: Vec<bool> = incoming.legs.iter().map(|leg| matches!(leg.kind, LegKind::IceDtls(_))).collect();
    assert_eq!(kinds, [true, false]);
    let outgoing = opening(&media(), Some(&remote()));
    let LegKind::IceDtls(ice) = &outgoing.leg(BROWSER).unwrap().kind else { panic!("leg 0 is the browser's") };
    assert_eq!(ice.remote, Some(remote()));
}

#[test]
fn connected_program_passes_one_codec_both_ways() {
    let agreement =
        agreement(&[Encoding::Opus], Direction::SendRecv, "m=audio 4000 RTP/AVP 97\r\na=rtpmap:97 opus/48000/2\r\n");
    let program = connected(&media(), Some(&remote()), &agreement);
    assert_eq!(program.validate(), Ok(()));
    let LegKind::Rtp(rtp) = &program.leg(SIP).unwrap().kind else { panic!("leg 1 is the SIP peer's") };
    let sip = rtp.remote.unwrap();
    assert_eq!((sip.rtp.to_string().as_str(), sip.rtcp.port(), sip.rtcp_mux), ("192.0.2.9:4000", 4001, false));
    let [to_sip, to_browser] = &program.routes[..] else { panic!("one route each way") };
    assert_eq!((to_sip.from, to_sip.to, to_sip.ssrc, to_sip.process), (BROWSER, SIP, 2, Process::Pass));
    assert_eq!((to_browser.from, to_browser.to, to_browser.ssrc), (SIP, BROWSER, 1));
    let map = &to_sip.payloads[0];
    assert_eq!((map.from.pt, map.to.pt, &map.to.codec, map.to.channels), (100, 97, &rcp::Codec::Opus, Some(2)));
    let numbers: Vec<(u8, u8)> = to_browser.payloads.iter().map(|map| (map.from.pt, map.to.pt)).collect();
    assert_eq!(numbers, [(96, 100), (97, 100)]);
}

#[test]
fn other_law_of_g711_is_processed_by_table() {
    let agreement = agreement(&[Encoding::Pcma], Direction::SendRecv, "m=audio 4000 RTP/AVP 0\r\n");
    let program = connected(&media(), Some(&remote()), &agreement);
    assert_eq!(program.validate(), Ok(()));
    assert!(program.routes.iter().all(|route| route.process == Process::G711));
    let map = &program.routes[0].payloads[0];
    assert_eq!((&map.from.codec, &map.to.codec), (&rcp::Codec::Pcma, &rcp::Codec::Pcmu));
}

#[test]
fn directions_that_a_side_does_not_allow_are_paused() {
    for browser in Direction::ALL {
        for sip in Direction::ALL {
            let mut agreement = agreement(&[Encoding::Pcmu], browser, "m=audio 4000 RTP/AVP 0\r\n");
            agreement.audio.sip_direction = sip;
            let program = connected(&media(), Some(&remote()), &agreement);
            let paused: Vec<bool> = program.routes.iter().map(|route| route.paused).collect();
            let expected = [!(browser.receives() && sip.sends()), !(sip.receives() && browser.sends())];
            assert_eq!(paused, expected, "browser {browser:?}, sip {sip:?}");
            assert!(program.routes.iter().all(|route| !route.payloads.is_empty()), "a paused route keeps its map");
        }
    }
}

#[test]
fn a_peer_that_expects_sound_of_us_gets_silence_in_its_codec_while_the_browser_gives_none() {
    for (encoding, section, made) in [
        (Encoding::Pcma, "m=audio 4000 RTP/AVP 8\r\n", Some((8, rcp::Codec::Pcma, 20))),
        (Encoding::Pcma, "m=audio 4000 RTP/AVP 0\r\na=ptime:30\r\n", Some((0, rcp::Codec::Pcmu, 30))),
        (Encoding::G722, "m=audio 4000 RTP/AVP 9\r\na=ptime:25\r\n", Some((9, rcp::Codec::G722, 20))),
        (Encoding::Opus, "m=audio 4000 RTP/AVP 97\r\na=rtpmap:97 opus/48000/2\r\n", Some((97, rcp::Codec::Opus, 20))),
        (Encoding::Pcma, "m=audio 4000 RTP/AVP 8\r\na=sendonly\r\n", None),
        (Encoding::Pcma, "m=audio 4000 RTP/AVP 8\r\na=inactive\r\n", None),
    ] {
        for browser in [Direction::SendRecv, Direction::SendOnly] {
            let program =
                connected(&media(), Some(&remote()), &agreement(std::slice::from_ref(&encoding), browser, section));
            assert_eq!(program.validate(), Ok(()));
            let fill = program.routes[0].fill.as_ref();
            let shown = fill.map(|fill| (fill.payload.pt, fill.payload.codec.clone(), fill.ptime_ms));
            assert_eq!(shown, made, "{section}, browser {browser:?}");
            assert!(fill.is_none_or(|fill| fill.sound == Sound::Silence && fill.start_after_ms == 100));
            assert_eq!(program.routes[1].fill, None);
        }
    }
}

#[test]
fn the_longest_payload_map_fits_a_program() {
    let all = [Encoding::Opus, Encoding::Pcma, Encoding::Pcmu, Encoding::G722, Encoding::TelephoneEvent];
    let answer = "m=audio 4000 RTP/AVP 110 111 112 113 114 115\r\na=rtpmap:110 opus/48000\r\na=rtpmap:111 PCMA/8000\r\n\
                  a=rtpmap:112 PCMU/8000\r\na=rtpmap:113 G722/8000\r\na=rtpmap:114 telephone-event/8000\r\n\
                  a=rtpmap:115 telephone-event/48000\r\n";
    let program = connected(&media(), Some(&remote()), &agreement(&all, Direction::SendRecv, answer));
    assert_eq!(program.validate(), Ok(()));
    assert_eq!(program.routes[1].payloads.len(), 10, "each of five codecs under our number and the peer's");
}

#[test]
fn a_peers_own_words_stay_out_of_programs() {
    let odd = format!("useinbandfec=1;{}", "\u{1}".repeat(400));
    let answer = format!("m=audio 4000 RTP/AVP 97\r\na=rtpmap:97 opus/48000/2\r\na=fmtp:97 {odd}\r\n");
    let program = connected(&media(), Some(&remote()), &agreement(&[Encoding::Opus], Direction::SendRecv, &answer));
    let told: Vec<Option<&str>> = program.routes[0].payloads.iter().map(|map| map.to.fmtp.as_deref()).collect();
    assert_eq!(told, [Some("useinbandfec=1")]);
}

#[test]
fn long_names_are_cut_at_a_character() {
    let name = "ä".repeat(limits::NAME_MAX_BYTES);
    let program = opening(&CallMedia { label: format!("x{name}"), cname: name, ..media() }, None);
    assert_eq!(program.validate(), Ok(()));
    assert_eq!((program.label.len(), program.cname.len()), (limits::NAME_MAX_BYTES - 1, limits::NAME_MAX_BYTES));
}

#[test]
fn addresses_are_read_from_a_whole_reply_only() {
    let browser = LegAddress::IceDtls {
        candidates: vec!["192.0.2.1:32100".parse().unwrap()],
        ufrag: "uuuu".into(),
        pwd: "p".repeat(22),
        fingerprint: Fingerprint([1; 32]),
    };
    let sip = LegAddress::Rtp { rtp: "192.0.2.1:31000".parse().unwrap(), rtcp: "192.0.2.1:31001".parse().unwrap() };
    let legs = vec![LegReply { id: SIP, address: sip }, LegReply { id: BROWSER, address: browser }];
    let mut reply = PutReply { relay: RelayId::new(0, 1, 2), generation: Generation(1), legs };
    let addresses = CallAddresses::from_reply(&reply).unwrap();
    assert_eq!((addresses.rtp.port(), addresses.browser.candidates[0].port()), (31000, 32100));
    assert!(!format!("{addresses:?}").contains("ppp"), "the password stays out of logs");
    reply.legs[0].address = LegAddress::None;
    assert_eq!(CallAddresses::from_reply(&reply), None);
    reply.legs.clear();
    assert_eq!(CallAddresses::from_reply(&reply), None);
}

#[test]
fn video_is_a_leg_and_two_routes_of_its_own_and_silence_of_a_camera_ends_nothing() {
    let media = CallMedia { video: Some(VideoStreams { browser_ssrc: 3, sip_ssrc: 4, rtx_ssrc: 5 }), ..media() };
    let opened = opening(&media, None);
    assert_eq!(opened.validate(), Ok(()));
    let LegKind::Rtp(rtp) = &opened.leg(SIP_VIDEO).unwrap().kind else { panic!("leg 2 is the SIP peer's video") };
    assert_eq!((rtp.media, rtp.remote), (Media::Video, None));
    let vp8 = [Payload::new(96, Codec::usual(Encoding::Vp8))];
    let video = MediaSide::new(offered_leg(&vp8), Direction::SendRecv);
    let audio = offered_leg(&[Payload::new(0, Codec::usual(Encoding::Pcmu))]);
    let browser = BrowserSide { video: Some(video), ..BrowserSide::of_audio(audio) };
    let ours = CodecPolicy::default().sip_offer(&browser);
    let answer = |video: &str| {
        let text = format!("v=0\r\nc=IN IP4 192.0.2.9\r\nm=audio 4000 RTP/AVP 0\r\n{video}");
        let answer = TrunkDescription::parse(&text).unwrap();
        Agreement::answered_by_sip(&browser, &ours, &answer, Direction::SendRecv).unwrap()
    };
    let program = connected(&media, None, &answer("m=video 4002 RTP/AVP 97\r\na=rtpmap:97 VP8/90000\r\n"));
    assert_eq!(program.validate(), Ok(()));
    let timeouts: Vec<Option<u32>> = program.legs.iter().map(|leg| leg.media_timeout_ms).collect();
    assert_eq!(timeouts, [Some(60_000), Some(60_000), None]);
    let shown: Vec<(LegId, LegId, Media, u32, u8, u8)> = program
        .routes
        .iter()
        .map(|r| (r.from, r.to, r.media, r.ssrc, r.payloads[0].from.pt, r.payloads[0].to.pt))
        .collect();
    assert_eq!(
        shown[2..],
        [(BROWSER, SIP_VIDEO, Media::Video, 4, 96, 97), (SIP_VIDEO, BROWSER, Media::Video, 3, 97, 96)]
    );
    let refused = connected(&media, None, &answer("m=video 0 RTP/AVP 97\r\n"));
    assert_eq!((refused.legs.len(), refused.routes.len()), (2, 2), "its port is given back");
}

#[test]
fn video_is_repaired_as_far_as_browser_and_dataplane_know_it() {
    let vp8 = [Payload::new(96, Codec::usual(Encoding::Vp8))];
    let rtx = vec![rcp::RtxPayload { pt: 97, apt: 96 }, rcp::RtxPayload { pt: 104, apt: 103 }];
    let repair = crate::sdp::Repair { nack: true, remb: true, transport_cc: Some(3), rtx };
    let video = MediaSide { repair, ..MediaSide::new(offered_leg(&vp8), Direction::SendRecv) };
    let audio = offered_leg(&[Payload::new(0, Codec::usual(Encoding::Pcmu))]);
    let browser = BrowserSide { video: Some(video), ..BrowserSide::of_audio(audio) };
    let ours = CodecPolicy::default().sip_offer(&browser);
    let text = "v=0\r\nc=IN IP4 192.0.2.9\r\nm=audio 4000 RTP/AVP 0\r\nm=video 4002 RTP/AVP 97\r\nb=AS:256\r\na=rtpmap:97 VP8/90000\r\n";
    let answer = TrunkDescription::parse(text).unwrap();
    let agreement = Agreement::answered_by_sip(&browser, &ours, &answer, Direction::SendRecv).unwrap();
    let all = Abilities { nack: true, rtx: true, remb: true, transport_cc: true };
    let streams = VideoStreams { browser_ssrc: 3, sip_ssrc: 4, rtx_ssrc: 5 };
    let program = |abilities, streams| {
        connected(&CallMedia { video: Some(streams), abilities, ..media() }, Some(&remote()), &agreement)
    };
    let ice = |program: &RelayProgram| match &program.leg(BROWSER).unwrap().kind {
        LegKind::IceDtls(ice) => (ice.feedback.clone(), ice.transport_cc),
        _ => panic!("leg 0 is the browser's"),
    };
    let whole = program(all, streams);
    assert_eq!(whole.validate(), Ok(()));
    assert_eq!(ice(&whole), (vec![Feedback::Nack, Feedback::Remb], Some(3)));
    let [.., to_sip, to_browser] = &whole.routes[..] else { panic!("two routes of video") };
    let vp8_alone = vec![rcp::RtxPayload { pt: 97, apt: 96 }];
    assert_eq!((&to_sip.source_rtx, to_sip.limit_kbps, &to_sip.rtx), (&vp8_alone, Some(256), &None));
    assert_eq!(to_browser.rtx, Some(rcp::Rtx { ssrc: 5, payloads: vp8_alone }), "what is not used has no number");
    assert_eq!((to_browser.source_rtx.len(), to_browser.limit_kbps), (0, None));
    assert!(whole.routes[..2].iter().all(|route| route.rtx.is_none() && route.limit_kbps.is_none()), "sound is not");

    let old = program(Abilities::default(), streams);
    assert_eq!(ice(&old), (Vec::new(), None));
    let is_plain = |route: &Route| route.rtx.is_none() && route.source_rtx.is_empty() && route.limit_kbps.is_none();
    assert!(old.routes.iter().all(is_plain), "an old dataplane would refuse it");
    let journaled = program(all, VideoStreams { rtx_ssrc: 0, ..streams });
    assert!(journaled.routes.iter().all(|route| route.rtx.is_none()), "a call from before has no SSRC for it");
}
