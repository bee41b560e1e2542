use proptest::prelude::*;

use super::*;
use crate::sdp::{BrowserSide, Codec, CodecPolicy, Encoding, leg::offered_leg};

fn rtp() -> SocketAddr {
    "192.0.2.1:31002".parse().unwrap()
}

fn head(connection: &str) -> String {
    format!("v=0\r\no=pbx 7 9 IN IP4 192.0.2.9\r\ns=call\r\n{connection}t=0 0\r\n")
}

fn audio(text: &str) -> TrunkSection {
    TrunkDescription::parse(text).unwrap().audio().unwrap().clone()
}

fn lines(lines: &[&str]) -> SipSdpLines {
    SipSdpLines::new(lines).unwrap()
}

fn sound(payloads: Vec<Payload>, direction: Direction) -> TrunkMedia {
    TrunkMedia { kind: MediaKind::Audio, rtp: rtp(), payloads, direction, feedback: Vec::new() }
}

fn pictures(pt: u8) -> TrunkMedia {
    let payloads = vec![Payload::new(pt, Codec::usual(Encoding::Vp8))];
    TrunkMedia {
        kind: MediaKind::Video,
        rtp: "192.0.2.1:31004".parse().unwrap(),
        payloads,
        direction: Direction::SendRecv,
        feedback: vec![Feedback::CcmFir, Feedback::NackPli],
    }
}

fn chromium_payloads() -> Vec<Payload> {
    let codecs = [Encoding::Opus, Encoding::G722, Encoding::Pcmu, Encoding::Pcma];
    let mut browser: Vec<Payload> =
        (0..).zip(codecs).map(|(pt, encoding)| Payload::new(pt, Codec::usual(encoding))).collect();
    browser[0].fmtp = Some("minptime=10;useinbandfec=1".into());
    browser.push(Payload::new(126, Codec::telephone_event(8000)));
    CodecPolicy::default().sip_offer(&BrowserSide::of_audio(offered_leg(&browser))).audio
}

#[test]
fn offer_is_small_fresh_and_carries_sip_sdp_lines_between_c_and_t() {
    let sip_sdp = lines(&["b=AS:3000", "b=TIAS:2500000", "a=tool:x y", "b=RS:1000"]);
    let mut session = TrunkSession::new("Gang way", "Gangway", 40, sip_sdp);
    let offer = session.offer(&[sound(chromium_payloads(), Direction::SendRecv)]);
    assert_eq!(
        offer,
        "v=0\r\no=Gangway 10 1 IN IP4 192.0.2.1\r\ns=Gangway\r\nc=IN IP4 192.0.2.1\r\nb=AS:3000\r\nb=TIAS:2500000\r\n\
         a=tool:x y\r\nb=RS:1000\r\nt=0 0\r\nm=audio 31002 RTP/AVP 96 8 0 9 101 102\r\na=rtpmap:96 opus/48000/2\r\n\
         a=fmtp:96 minptime=10;useinbandfec=1\r\na=rtpmap:8 PCMA/8000\r\na=rtpmap:0 PCMU/8000\r\na=rtpmap:9 G722/8000\r\n\
         a=rtpmap:101 telephone-event/8000\r\na=fmtp:101 0-15\r\na=rtpmap:102 telephone-event/48000\r\na=fmtp:102 0-15\r\n\
         a=ptime:20\r\na=sendrecv\r\n"
    );
    assert!(offer.len() < 600, "an INVITE with it must fit a datagram");
}

#[test]
fn version_grows_by_one_with_each_change_only() {
    let mut session = TrunkSession::new("-", "", 4, SipSdpLines::default());
    let version = |text: &str| text.split(' ').nth(2).unwrap().to_owned();
    let payloads = chromium_payloads();
    let first = session.offer(&[sound(payloads.clone(), Direction::SendRecv)]);
    assert!(first.contains("\r\ns=-\r\n"), "{first}");
    assert_eq!(session.offer(&[sound(payloads.clone(), Direction::SendRecv)]), first);
    assert_eq!(version(&session.offer(&[sound(payloads.clone(), Direction::SendOnly)])), "2");
    assert_eq!(version(&session.offer(&[sound(payloads.clone(), Direction::SendRecv)])), "3");
    let stored = serde_json::to_string(&session).unwrap();
    let mut restored: TrunkSession = serde_json::from_str(&stored).unwrap();
    assert_eq!(restored.last(), session.last());
    assert_eq!(version(&restored.offer(&[sound(payloads.clone(), Direction::Inactive)])), "4");
}

#[test]
fn sip_sdp_injection_is_refused_with_its_index() {
    let long = format!("a={}", "x".repeat(SIP_SDP_LINE_MAX_BYTES));
    let bad = [
        "b=AS:1\r\nm=audio 1 RTP/AVP 0",
        "a=x\ny",
        "a=x\0",
        "m=audio 9 RTP/AVP 0",
        "c=IN IP4 203.0.113.1",
        "o=x 1 1 IN IP4 1.1.1.1",
        "t=0 0",
        "v=0",
        "b=AS",
        "b=AS:",
        "b=AS:-1",
        "b=:1",
        "a=",
        "a=:x",
        "a=x y",
        "",
        "AS:1",
        " b=AS:1",
        "a=inactive",
        "a=Fingerprint:sha-256 00",
        &long,
    ];
    for line in bad {
        let error = SipSdpLines::new(&["b=AS:1", line]).unwrap_err();
        assert!(matches!(error, SdpError::SipSdpLine { index: 1, .. }), "{line:?}: {error}");
    }
    let many = vec!["b=AS:1"; SIP_SDP_LINES_MAX + 1];
    assert!(matches!(SipSdpLines::new(&many), Err(SdpError::SipSdpLine { index: SIP_SDP_LINES_MAX, .. })));
    assert_eq!(lines(&["b=AS:3000", "a=x-y:z; 1"]).as_slice().len(), 2);
}

#[test]
fn answer_refuses_other_sections_in_their_places() {
    let offer = head("c=IN IP4 192.0.2.9\r\n")
        + "m=image 5000 udptl t38\r\nm=audio 4000 RTP/SAVP 0\r\nm=audio 4002 RTP/AVPF 0 8\r\nm=video 4004 RTP/AVP 97\r\n";
    let offer = TrunkDescription::parse(&offer).unwrap();
    let mut session = TrunkSession::new("g", "g", 4, SipSdpLines::default());
    let answer = session
        .answer(&offer, &[sound(vec![Payload::new(8, Codec::usual(Encoding::Pcma))], Direction::RecvOnly)])
        .unwrap();
    let (_, sections) = answer.split_once("t=0 0\r\n").unwrap();
    assert_eq!(
        sections,
        "m=image 0 udptl t38\r\nm=audio 0 RTP/SAVP 0\r\nm=audio 31002 RTP/AVPF 8\r\na=rtpmap:8 PCMA/8000\r\na=ptime:20\r\n\
         a=recvonly\r\nm=video 0 RTP/AVP 97\r\n"
    );
}

#[test]
fn video_has_its_own_port_and_asks_for_key_frames() {
    let mut session = TrunkSession::new("g", "g", 4, SipSdpLines::default());
    let pcmu = sound(vec![Payload::new(0, Codec::usual(Encoding::Pcmu))], Direction::SendRecv);
    let offer = session.offer(&[pcmu, pictures(97)]);
    let (_, sections) = offer.split_once("t=0 0\r\n").unwrap();
    assert_eq!(
        sections,
        "m=audio 31002 RTP/AVP 0\r\na=rtpmap:0 PCMU/8000\r\na=ptime:20\r\na=sendrecv\r\n\
         m=video 31004 RTP/AVP 97\r\na=rtpmap:97 VP8/90000\r\na=rtcp-fb:* nack pli\r\na=rtcp-fb:* ccm fir\r\na=sendrecv\r\n"
    );
}

#[test]
fn sections_keep_their_places_for_the_life_of_the_dialog() {
    let lines =
        |text: &str| text.split("\r\n").filter(|line| line.starts_with("m=")).map(str::to_owned).collect::<Vec<_>>();
    let pcmu = || sound(vec![Payload::new(0, Codec::usual(Encoding::Pcmu))], Direction::SendRecv);
    let mut caller = TrunkSession::new("g", "g", 4, SipSdpLines::default());
    let _ = caller.offer(&[pcmu(), pictures(97)]);
    assert_eq!(lines(&caller.offer(&[pcmu()])), ["m=audio 31002 RTP/AVP 0", "m=video 0 RTP/AVP 97"]);
    // Sections that a peer brought stay, ours among them, in the peer's order.
    let offer = head("c=IN IP4 192.0.2.9\r\n")
        + "m=image 5000 udptl t38\r\nm=video 4004 RTP/AVPF 98\r\na=rtpmap:98 VP8/90000\r\nm=audio 4002 RTP/AVP 0\r\n";
    let offer = TrunkDescription::parse(&offer).unwrap();
    let mut callee = TrunkSession::new("g", "g", 4, SipSdpLines::default());
    let answer = callee.answer(&offer, &[pcmu(), pictures(98)]).unwrap();
    assert_eq!(lines(&answer), ["m=image 0 udptl t38", "m=video 31004 RTP/AVPF 98", "m=audio 31002 RTP/AVP 0"]);
    let stored = serde_json::to_string(&callee).unwrap();
    let mut restored: TrunkSession = serde_json::from_str(&stored).unwrap();
    let again = restored.offer(&[pcmu(), pictures(99)]);
    assert_eq!(lines(&again), ["m=image 0 udptl t38", "m=video 31004 RTP/AVPF 99", "m=audio 31002 RTP/AVP 0"]);
}

#[test]
fn static_types_need_no_rtpmap() {
    let section = audio(&(head("c=IN IP4 192.0.2.9\r\n") + "m=audio 4000 RTP/AVP 0 8 9 18 96\r\n"));
    let codecs: Vec<String> = section.payloads.iter().map(|payload| payload.codec.to_string()).collect();
    assert_eq!(codecs, ["PCMU/8000", "PCMA/8000", "G722/8000", "G729/8000"], "96 has no meaning without a map");
}

#[test]
fn targets_are_found_where_peers_put_them() {
    let cases: [(&str, &str, &str, &str); 6] = [
        ("c=IN IP4 192.0.2.9\r\n", "m=audio 4000 RTP/AVP 0\r\n", "192.0.2.9:4000", "192.0.2.9:4001"),
        ("", "m=audio 4000 RTP/AVP 0\r\nc=IN IP4 192.0.2.8\r\n", "192.0.2.8:4000", "192.0.2.8:4001"),
        (
            "c=IN IP4 0.0.0.0\r\n",
            "m=audio 4000 RTP/AVP 0\r\nc=IN IP4 192.0.2.8/127\r\n",
            "192.0.2.8:4000",
            "192.0.2.8:4001",
        ),
        ("c=IN IP4 192.0.2.9\r\n", "m=audio 4000/2 RTP/AVP 0\r\na=rtcp:53020\r\n", "192.0.2.9:4000", "192.0.2.9:53020"),
        (
            "c=IN IP4 192.0.2.9\r\n",
            "m=audio 4000 RTP/AVP 0\r\na=rtcp:53020 IN IP4 192.0.2.7\r\n",
            "192.0.2.9:4000",
            "192.0.2.7:53020",
        ),
        ("c=IN IP6 2001:db8::9\r\n", "m=audio 65535 RTP/AVP 0\r\n", "[2001:db8::9]:65535", "[2001:db8::9]:65535"),
    ];
    for (connection, media, rtp, rtcp) in cases {
        let target = audio(&(head(connection) + media)).target().unwrap().unwrap();
        assert_eq!((target.rtp.to_string().as_str(), target.rtcp.to_string().as_str()), (rtp, rtcp));
    }
}

#[test]
fn unusable_addresses_are_named_and_zero_is_a_hold() {
    let section = |connection: &str| audio(&(head(connection) + "m=audio 4000 RTP/AVP 0\r\n"));
    let missing = section("").target().unwrap_err();
    assert_eq!(missing.to_string(), "sdp: m-section 0: c= is missing");
    for connection in ["c=IN IP4 224.2.36.42/127\r\n", "c=IN IP4 phone.example\r\n", "c=IN IP4 999.1.1.1\r\n"] {
        assert!(matches!(section(connection).target(), Err(SdpError::Invalid { field: "c=", .. })), "{connection}");
    }
    for connection in ["c=IN IP4 0.0.0.0\r\n", "c=IN IP6 ::\r\n"] {
        let held = section(connection);
        assert_eq!(held.target(), Ok(None));
        assert_eq!(held.effective_direction(), Direction::SendOnly);
    }
}

#[test]
fn descriptions_without_usable_audio_say_why() {
    let cases = [
        ("", "there is none"),
        ("m=video 4000 RTP/AVP 97\r\n", "there is none"),
        ("m=audio 0 RTP/AVP 0\r\n", "it is refused with port 0"),
        ("m=audio 4000 RTP/SAVP 0\r\n", "SRTP (RTP/SAVP) is not spoken towards SIP peers, offer RTP/AVP"),
        ("m=audio 4000 UDP/TLS/RTP/SAVPF 0\r\n", "DTLS-SRTP is not spoken towards SIP peers, offer RTP/AVP"),
        ("m=audio 4000 TCP/MRCPv2 0\r\n", "its profile is neither RTP/AVP nor RTP/AVPF"),
    ];
    for (media, reason) in cases {
        let description = TrunkDescription::parse(&(head("c=IN IP4 192.0.2.9\r\n") + media)).unwrap();
        assert_eq!(description.audio().unwrap_err(), SdpError::NoAudio { reason });
    }
}

#[test]
fn odd_lines_that_phones_send_do_no_harm() {
    let text = "v=0\no=- 99999999999999999999 x IN IP4 192.0.2.9\no=second\ns=a\ns=b\ni=\nb=AS:64.0\nb=X-YZ\nz=0 -1h\nr=7d 1h\n\
                k=prompt\nnonsense\n=\nq=1\nc=IN  IP4 192.0.2.9 trailing\nt=0\na=\n\
                m=audio  4000  RTP/AVP  8 \na=ptime:20 \na=maxptime:150\na=recvonly\na=rtpmap:8  PCMA/8000\nm=video 0 RTP/AVP\n";
    let description = TrunkDescription::parse(text).unwrap();
    let section = description.audio().unwrap();
    assert_eq!((section.port, section.ptime_ms, section.direction), (4000, Some(20), Direction::RecvOnly));
    assert_eq!(section.payloads, [Payload::new(8, Codec::usual(Encoding::Pcma))]);
    assert_eq!(description.sections.len(), 2);
    assert!(section.target().unwrap().is_some());
}

#[test]
fn limits_are_errors() {
    let text = head("c=IN IP4 192.0.2.9\r\n");
    let huge = text.clone() + &"a=x\r\n".repeat(crate::sdp::DESCRIPTION_MAX_BYTES);
    assert!(matches!(TrunkDescription::parse(&huge), Err(SdpError::TooLong { .. })));
    let tall = text.clone() + &"a=x\r\n".repeat(crate::sdp::LINES_MAX);
    assert!(matches!(TrunkDescription::parse(&tall), Err(SdpError::TooMany { what: "lines", .. })));
    let wide = text.clone() + &"m=audio 1 RTP/AVP 0\r\n".repeat(crate::sdp::SECTIONS_MAX + 1);
    assert!(matches!(TrunkDescription::parse(&wide), Err(SdpError::TooMany { what: "m-sections", .. })));
    let port = text + "m=audio 70000 RTP/AVP 0\r\n";
    assert!(TrunkDescription::parse(&port).unwrap_err().to_string().contains("line 6"), "the line is named");
}

#[test]
fn colliding_and_repeated_numbers_are_left_out() {
    let text = head("c=IN IP4 192.0.2.9\r\n")
        + "m=audio 4000 RTP/AVP 0 0 72 200 -1 x 97\r\na=rtpmap:72 opus/48000/2\r\na=rtpmap:97 iLBC/0\r\n";
    assert_eq!(audio(&text).payloads, [Payload::new(0, Codec::usual(Encoding::Pcmu))]);
}

proptest! {
    #[test]
    fn arbitrary_text_never_panics(text in "\\PC{0,400}") {
        let _ = TrunkDescription::parse(&text);
    }

    /// What we print for any peer's offer has its sections in order and is read back.
    #[test]
    fn answers_to_any_offer_are_read_back(
        media in proptest::collection::vec("(audio|video|image|text) [0-9]{1,4} (RTP/AVP|RTP/AVPF|RTP/SAVP|udptl)( [0-9]{1,3}){0,6}", 0..8),
        lines in proptest::collection::vec("[a-z]=[ -~]{0,30}", 0..8),
    ) {
        let text = head("c=IN IP4 192.0.2.9\r\n") + &media.iter().map(|m| format!("m={m}\r\n")).collect::<String>();
        let text = text + &lines.iter().filter(|l| !l.starts_with("m=")).map(|l| format!("{l}\r\n")).collect::<String>();
        let Ok(offer) = TrunkDescription::parse(&text) else { return Ok(()) };
        let mut session = TrunkSession::new("g", "g", 4, SipSdpLines::default());
        if let Ok(answer) = session.answer(&offer, &[sound(vec![Payload::new(0, Codec::usual(Encoding::Pcmu))], Direction::SendRecv)]) {
            let answer = TrunkDescription::parse(&answer).unwrap();
            prop_assert_eq!(answer.sections.len(), offer.sections.len());
            for (answered, offered) in answer.sections.iter().zip(&offer.sections) {
                prop_assert_eq!(&answered.kind, &offered.kind);
            }
            prop_assert_eq!(answer.sections.iter().filter(|section| section.port != 0).count(), 1);
        }
    }

    /// No list of lines that is taken can add a line of another type, whatever the page sends.
    #[test]
    fn accepted_sip_sdp_lines_never_change_the_structure(wild in proptest::collection::vec("[ab]=[ -~\r\n]{0,40}", 0..6)) {
        let Ok(sip_sdp) = SipSdpLines::new(&wild) else { return Ok(()) };
        let mut session = TrunkSession::new("g", "g", 4, sip_sdp);
        let offer = session.offer(&[sound(chromium_payloads(), Direction::SendRecv)]);
        let kinds: String = offer.split("\r\n").filter_map(|line| line.chars().next()).filter(|kind| !"ab".contains(*kind)).collect();
        prop_assert_eq!(kinds, "vosctm");
    }
}

#[test]
fn what_a_peer_takes_is_the_least_of_its_bandwidth_lines() {
    let limits = |session: &str, media: &str| {
        let text = format!(
            "v=0\r\no=- 1 1 IN IP4 192.0.2.9\r\ns=-\r\nc=IN IP4 192.0.2.9\r\n{session}t=0 0\r\nm=audio 4000 RTP/AVP 0\r\n\
             m=video 4002 RTP/AVP 97\r\n{media}a=rtpmap:97 VP8/90000\r\n"
        );
        let description = TrunkDescription::parse(&text).unwrap();
        [description.sections[0].limit_kbps, description.sections[1].limit_kbps]
    };
    assert_eq!(limits("", ""), [None, None]);
    assert_eq!(limits("", "b=AS:256\r\n"), [None, Some(256)]);
    assert_eq!(limits("", "b=AS:256\r\nb=TIAS:199001\r\n"), [None, Some(200)]);
    assert_eq!(limits("b=AS:1000\r\n", "b=AS:256\r\n"), [None, Some(256)]);
    assert_eq!(limits("b=AS:1000\r\n", "b=CT:256\r\n"), [None, Some(920)], "80 for sound");
    assert_eq!(limits("b=TIAS:64000\r\n", ""), [None, Some(30)], "too little for both");
    assert_eq!(limits("b=AS:0\r\n", "b=AS:0\r\nb=RS:5\r\nb=AS:x\r\n"), [None, None]);
    assert_eq!(limits("", "b=AS:99999999999\r\n"), [None, Some(u32::MAX)]);
}
