//! SDP from a browser and from a SIP peer: an answer has the offer's sections in their order and is read back; what both sides
//! agree on is always a program the relay takes; no accepted `sipSDP` line changes the structure of a description.

use gangway_control::{
    gateway::plan::{self, CallMedia, VideoStreams},
    sdp::{
        Abilities, Agreement, BrowserDescription, BrowserLocal, BrowserSide, Codec, CodecPolicy, Direction, Encoding,
        LocalTransport, MediaSide, Offered, Payload, SipSdpLines, TrunkDescription, TrunkSession, browser, leg,
    },
};
use gangway_shared::{rcp::Fingerprint, secret::Secret};

use super::Target;

/// See the module.
pub const TARGET: Target = Target {
    name: "sdp",
    seeds,
    words: &[
        b"\r\n",
        b"\n",
        b"\r",
        b"\0",
        b"m=audio 0 RTP/AVP 0\r\n",
        b"m=video 9 UDP/TLS/RTP/SAVPF 96\r\n",
        b"m=audio 9 RTP/SAVP 8\r\n",
        b"c=IN IP4 0.0.0.0\r\n",
        b"c=IN IP6 ::1\r\n",
        b"a=rtpmap:101 opus/48000/2\r\n",
        b"a=rtpmap:0 telephone-event/8000\r\n",
        b"a=fmtp:111 ",
        b"a=rtcp:0",
        b"a=setup:active\r\n",
        b"a=bundle-only\r\n",
        b"a=sendonly\r\n",
        b"a=inactive\r\n",
        b"a=group:BUNDLE",
        b"a=mid:",
        b"65536",
        b"b=AS:",
        b"\xc3\xa4",
    ],
    law,
};

fn seeds() -> Vec<Vec<u8>> {
    let mut trunk = trunk_session(SipSdpLines::default());
    let sip = trunk.offer(&CodecPolicy::default().sip_offer(&browser_side()).sip_media(rtp(), Some(video_rtp())));
    let ours = browser::offer(&browser_offer().browser_media(Some(20), Some(256)), &local());
    let chromium = ours.replace("a=ice-lite\r\n", "a=extmap-allow-mixed\r\n")
        + "m=video 9 UDP/TLS/RTP/SAVPF 96 97\r\nc=IN IP4 0.0.0.0\r\na=ice-ufrag:abcd\r\na=ice-pwd:0123456789abcdefghijkl\r\n\
           a=setup:actpass\r\na=mid:1\r\na=rtcp-mux\r\na=fingerprint:sha-256 "
        + &local().transport.fingerprint.to_string()
        + "\r\na=rtpmap:96 VP8/90000\r\na=rtcp-fb:96 nack pli\r\na=rtpmap:97 rtx/90000\r\na=fmtp:97 apt=96\r\n";
    let phone = "v=0\no=- 1 1 IN IP4 192.0.2.9\ns=-\nc=IN IP4 192.0.2.9\nt=0 0\nm=image 5000 udptl t38\n\
                 m=audio 4000 RTP/AVP 8 0 107 96\nb=AS:64\na=rtcp:4009 IN IP4 192.0.2.8\na=rtpmap:107 opus/48000\n\
                 a=rtpmap:96 telephone-event/8000\na=fmtp:96 0-16\na=ptime:30\na=recvonly\n";
    let renumbered = phone.replace("8 0 107 96", "102 96").replace(":107", ":102");
    let lines = "b=AS:3000\nb=TIAS:2500000\na=x:y";
    [sip, ours, chromium, phone.to_owned(), renumbered, lines.to_owned()].map(String::into_bytes).into()
}

fn law(input: &[u8]) {
    let text = String::from_utf8_lossy(input);
    if let Ok(offer) = BrowserDescription::parse_offer(&text) {
        browser_law(&offer);
    }
    if let Ok(description) = TrunkDescription::parse(&text) {
        trunk_law(&description);
    }
    let lines: Vec<&str> = text.split('\n').collect();
    if let Ok(lines) = SipSdpLines::new(&lines) {
        let offer = trunk_session(lines).offer(&browser_offer().sip_media(rtp(), None));
        let kinds = offer.split("\r\n").filter_map(|line| line.chars().next());
        assert_eq!(kinds.filter(|kind| !"ab".contains(*kind)).collect::<String>(), "vosctm", "{offer}");
    }
}

/// A browser's offer, with a SIP peer that answers everything.
fn browser_law(offer: &BrowserDescription) {
    let Ok(side) = offer.side_of_offer() else { return };
    let ours = CodecPolicy::default().sip_offer(&side);
    let mut peer = trunk_session(SipSdpLines::default());
    let answer = peer.offer(&ours.sip_media(rtp(), Some(video_rtp())));
    let answer = TrunkDescription::parse(&answer).expect("our own text");
    let Ok(agreement) = Agreement::answered_by_sip(&side, &ours, &answer, Direction::SendRecv) else { return };
    check_program(&agreement, Some(offer));
    let media = agreement.browser_media();
    let text = browser::answer(offer, &media, &local()).expect("it has audio");
    let read =
        BrowserDescription::parse_answer(&text.replace("a=setup:passive", "a=setup:active")).expect("our own text");
    assert_eq!(read.sections.len(), offer.sections.len(), "{text}");
    for (answered, offered) in read.sections.iter().zip(&offer.sections) {
        assert_eq!((&answered.kind, &answered.mid), (&offered.kind, &offered.mid), "{text}");
    }
    let accepted: Vec<_> = read.sections.iter().filter(|section| !section.rejected).collect();
    assert_eq!(accepted.len(), media.len(), "{text}");
    for section in accepted {
        let ours = media.iter().find(|medium| medium.kind == section.kind).expect("one of ours");
        // Behind the payload types of the agreement come those of retransmissions, as far as they were offered.
        let (agreed, again) = section.payloads.split_at(ours.payloads.len());
        for (told, ours) in agreed.iter().zip(&ours.payloads) {
            assert_eq!((told.pt, &told.codec, &told.fmtp), (ours.pt, &ours.codec, &ours.fmtp), "{text}");
            assert!(told.feedback.starts_with(&ours.feedback), "{text}");
        }
        assert!(again.iter().all(|rtx| ours.repair.rtx.iter().any(|offered| offered.pt == rtx.pt)), "{text}");
    }
}

/// A SIP peer's text, once as an offer and once as the answer to ours.
fn trunk_law(description: &TrunkDescription) {
    let side = browser_side();
    let policy = CodecPolicy::default();
    let ours = policy.sip_offer(&side);
    if let Ok(agreement) = Agreement::answered_by_sip(&side, &ours, description, Direction::SendRecv) {
        check_program(&agreement, None);
        check_fixed_offer(&agreement, &policy);
        if let Ok(later) = agreement.reoffered_by_sip(description, &policy, Direction::SendRecv) {
            let browser = |agreement: &Agreement| {
                (agreement.audio.browser.clone(), agreement.video.as_ref().map(|video| video.browser.clone()))
            };
            assert_eq!(browser(&later), browser(&agreement), "the browser's side changed");
            check_program(&later, None);
            check_fixed_offer(&later, &policy);
        }
    }
    let Ok(agreement) = Agreement::answering_sip(&side, description, &policy) else { return };
    check_program(&agreement, None);
    let mut session = trunk_session(SipSdpLines::default());
    let media = agreement.sip_media(rtp(), Some(video_rtp()));
    let text = session.answer(description, &media).expect("an agreement was made with its audio");
    let read = TrunkDescription::parse(&text).expect("our own text");
    assert_eq!(read.sections.len(), description.sections.len(), "{text}");
    assert!(read.sections.iter().zip(&description.sections).all(|(ours, theirs)| ours.kind == theirs.kind), "{text}");
    assert_eq!(read.sections.iter().filter(|section| section.port != 0).count(), media.len(), "{text}");
    assert_eq!(read.audio().map(|section| &section.payloads), Ok(&agreement.audio.sip_payloads()), "{text}");
}

/// Our re-INVITE gives each number one meaning, and not one that it had otherwise in this dialog (RFC 3264 section 8.3.2).
fn check_fixed_offer(agreement: &Agreement, policy: &CodecPolicy) {
    let offer = agreement.fixed_offer(policy);
    let video = agreement.video.as_ref().map(|video| (video, &offer.video));
    for (agreed, offer) in std::iter::once((&agreement.audio, &offer.audio)).chain(video) {
        for (at, payload) in offer.iter().enumerate() {
            assert!(offer[..at].iter().all(|other| other.pt != payload.pt), "{offer:?}");
            let mut meanings = agreed.sip.iter().filter(|known| known.receive_pts.contains(&payload.pt));
            assert!(meanings.all(|known| known.codec == payload.codec), "{offer:?}");
        }
    }
}

fn check_program(agreement: &Agreement, browser: Option<&BrowserDescription>) {
    let remote = browser.and_then(|browser| browser.transport().ok()).map(|transport| transport.to_remote());
    let media = CallMedia {
        label: "fuzz".into(),
        cname: "c".into(),
        browser_ssrc: 1,
        sip_ssrc: 2,
        video: Some(VideoStreams { browser_ssrc: 3, sip_ssrc: 4, rtx_ssrc: 5 }),
        sip_local_ip: None,
        media_timeout_ms: None,
        fill_after_ms: Some(100),
        consent_timeout_ms: None,
        takes_feedback: true,
        splits_transports: false,
        browser_video: None,
        abilities: local().abilities,
    };
    let program = plan::connected(&media, remote.as_ref(), agreement);
    assert_eq!(program.validate(), Ok(()));
    for route in &program.routes {
        assert!(!route.payloads.is_empty(), "an agreement without a codec in one direction");
    }
}

fn browser_offer() -> Offered {
    let sound = [(111, Encoding::Opus), (9, Encoding::G722), (0, Encoding::Pcmu), (126, Encoding::TelephoneEvent)];
    let payload = |(pt, encoding)| Payload::new(pt, Codec::usual(encoding));
    let pictures = [(96, Encoding::Vp8), (97, Encoding::H264)];
    Offered { audio: sound.map(payload).into(), video: pictures.map(payload).into(), ..Offered::default() }
}

fn browser_side() -> BrowserSide {
    let Offered { audio, video, .. } = browser_offer();
    let video = MediaSide::new(leg::offered_leg(&video), Direction::SendRecv);
    BrowserSide { video: Some(video), ..BrowserSide::of_audio(leg::offered_leg(&audio)) }
}

fn trunk_session(lines: SipSdpLines) -> TrunkSession {
    TrunkSession::new("fuzz", "fuzz", 4, lines)
}

fn rtp() -> std::net::SocketAddr {
    ([192, 0, 2, 1], 31_000).into()
}

fn video_rtp() -> std::net::SocketAddr {
    ([192, 0, 2, 1], 31_002).into()
}

fn local() -> BrowserLocal {
    BrowserLocal {
        session_id: 8,
        transport: LocalTransport {
            ufrag: "gWay".into(),
            pwd: Secret::new("0123456789abcdefghijkl".into()),
            fingerprint: Fingerprint([0xab; 32]),
            candidates: vec![([192, 0, 2, 1], 32_100).into()],
        },
        video_transport: None,
        stream: "gangway".into(),
        cname: "c1".into(),
        audio_ssrc: 7,
        video_ssrc: 8,
        rtx_ssrc: 9,
        abilities: Abilities { nack: true, rtx: true, remb: true, transport_cc: true },
    }
}
