//! Check 49 of wcs-protocol.md: what the operator's codec settings and the page's `stripCodecs` leave of an INVITE.

use gangway_control::{
    config::{Config, Sources},
    gateway::GatewayConfig,
    sip::message::Method,
};

use crate::world::{World, config};

/// Chromium's section of sound.
const SOUND: &str = "m=audio 9 UDP/TLS/RTP/SAVPF 111 63 9 0 8 13 110 126\r\n\
    a=rtpmap:111 opus/48000/2\r\na=rtcp-fb:111 transport-cc\r\na=fmtp:111 minptime=10;useinbandfec=1\r\n\
    a=rtpmap:63 red/48000/2\r\na=fmtp:63 111/111\r\na=rtpmap:9 G722/8000\r\na=rtpmap:0 PCMU/8000\r\na=rtpmap:8 PCMA/8000\r\n\
    a=rtpmap:13 CN/8000\r\na=rtpmap:110 telephone-event/48000\r\na=rtpmap:126 telephone-event/8000\r\n";

/// Its H.264 payload types: number, `profile-level-id`, `packetization-mode`. Each has an rtx of the next number.
const H264: [(u8, &str, u8); 6] = [
    (103, "42001f", 1),
    (107, "42001f", 0),
    (109, "42e01f", 1),
    (115, "42e01f", 0),
    (117, "4d001f", 1),
    (39, "4d001f", 0),
];

/// What each section says of its transport.
fn transport(mid: u8) -> String {
    let fingerprint: Vec<String> = (0..32).map(|byte| format!("{byte:02X}")).collect();
    format!(
        "c=IN IP4 0.0.0.0\r\na=ice-ufrag:abcd\r\na=ice-pwd:abcdefghijklmnopqrstuvwx\r\na=fingerprint:sha-256 {}\r\n\
         a=setup:actpass\r\na=mid:{mid}\r\na=sendrecv\r\na=rtcp-mux\r\n",
        fingerprint.join(":")
    )
}

/// An offer of Chromium with microphone and camera.
pub(crate) fn chromium() -> String {
    let numbers: Vec<String> = H264.iter().map(|(pt, ..)| format!("{pt} {}", pt + 1)).collect();
    let mut video = format!(
        "m=video 9 UDP/TLS/RTP/SAVPF 96 97 {} 45 98\r\na=rtpmap:96 VP8/90000\r\na=rtcp-fb:96 nack\r\na=rtcp-fb:96 nack pli\r\n\
         a=rtpmap:97 rtx/90000\r\na=fmtp:97 apt=96\r\na=rtpmap:45 AV1/90000\r\na=rtpmap:98 VP9/90000\r\na=fmtp:98 profile-id=0\r\n",
        numbers.join(" ")
    );
    for (pt, profile, mode) in H264 {
        video.push_str(&format!(
            "a=rtpmap:{pt} H264/90000\r\na=rtcp-fb:{pt} nack pli\r\n\
             a=fmtp:{pt} level-asymmetry-allowed=1;packetization-mode={mode};profile-level-id={profile}\r\n\
             a=rtpmap:{0} rtx/90000\r\na=fmtp:{0} apt={pt}\r\n",
            pt + 1
        ));
    }
    let sections = [(SOUND, 0), (video.as_str(), 1)].map(|(section, mid)| {
        let (m_line, rest) = section.split_once("\r\n").unwrap();
        format!("{m_line}\r\n{}{rest}", transport(mid))
    });
    let head = "v=0\r\no=- 1 2 IN IP4 127.0.0.1\r\ns=-\r\nt=0 0\r\na=group:BUNDLE 0 1\r\na=msid-semantic: WMS s\r\n";
    format!("{head}{}", sections.concat())
}

/// What the SDK's `stripCodecs` leaves of a description (wcs-protocol.md 5.1): the named codecs' rtpmap lines and numbers go, and with
/// them every fmtp and rtcp-fb line whose number begins with one of theirs.
fn strip(description: &str, codecs: &str) -> String {
    let names: Vec<String> = codecs.split(',').filter(|name| !name.is_empty()).map(str::to_lowercase).collect();
    let is_named = |line: &str| {
        line.starts_with("a=rtpmap") && names.iter().any(|name| line.to_lowercase().contains(name.as_str()))
    };
    let number = |line: &str| line.chars().filter(char::is_ascii_digit).collect::<String>();
    let gone: Vec<String> = description
        .lines()
        .filter(|line| is_named(line))
        .map(|line| number(line.split_ascii_whitespace().next().unwrap()))
        .collect();
    let is_about_one = |line: &str| {
        gone.iter().any(|pt| ["a=fmtp:", "a=rtcp-fb:"].iter().any(|start| line.starts_with(&format!("{start}{pt}"))))
    };
    let kept = description.lines().filter(|line| !is_named(line) && !is_about_one(line)).map(|line| {
        let words: Vec<&str> = line.split(' ').collect();
        let stays = |(at, word): &(usize, &&str)| *at <= 2 || !gone.iter().any(|pt| pt == *word);
        match line.starts_with("m=") {
            true => words.iter().enumerate().filter(stays).map(|(_, word)| *word).collect::<Vec<_>>().join(" "),
            false => line.to_owned(),
        }
    });
    kept.map(|line| format!("{line}\r\n")).collect()
}

/// The payload types of one section of an INVITE, in the order of its m-line: number and codec, and for H.264 profile and mode.
pub(crate) fn section(body: &str, kind: &str) -> String {
    let Some((_, section)) = body.split_once(&format!("m={kind} ")) else { return "none".to_owned() };
    let section = section.split_once("\r\nm=").map_or(section, |(section, _)| section);
    let m_line = section.lines().next().unwrap();
    let value = |name: &str, pt: &str| {
        let start = format!("a={name}:{pt} ");
        section.lines().find_map(|line| line.strip_prefix(&start)).unwrap_or_default().to_owned()
    };
    let shown = m_line.split(' ').skip(2).map(|pt| {
        let fmtp = value("fmtp", pt);
        let parameter = |name: &str| fmtp.split(';').find_map(|at| at.strip_prefix(name)).unwrap_or("?").to_owned();
        match value("rtpmap", pt).as_str() {
            "H264/90000" => {
                format!("{pt} H264/{}/{}", parameter("profile-level-id="), parameter("packetization-mode="))
            }
            codec => format!("{pt} {codec}"),
        }
    });
    shown.collect::<Vec<_>>().join(", ")
}

/// The core with these settings of a file, in the world's addresses and times.
fn settings(text: &str) -> GatewayConfig {
    let read = Config::parse("flashphoner.properties", text, Sources::default()).unwrap();
    GatewayConfig { codecs: read.gateway(config().ua).codecs, ..config() }
}

/// Settings with `;` between them (nothing: the seed's defaults), `stripCodecs`, and what the INVITE then names.
const TABLE: &str = "
(defaults)
    audio: 96 opus/48000/2, 8 PCMA/8000, 0 PCMU/8000, 9 G722/8000, 101 telephone-event/8000, 102 telephone-event/48000
    video: 98 H264/42e01f/1, 97 VP8/90000
(defaults) strip=SILK,G722
    audio: 96 opus/48000/2, 8 PCMA/8000, 0 PCMU/8000, 101 telephone-event/8000, 102 telephone-event/48000
    video: 98 H264/42e01f/1, 97 VP8/90000
(defaults) strip=opus,G722
    audio: 8 PCMA/8000, 0 PCMU/8000, 101 telephone-event/8000
    video: 98 H264/42e01f/1, 97 VP8/90000
(defaults) strip=opus,PCMU,G722,telephone-event
    audio: 8 PCMA/8000
    video: 98 H264/42e01f/1, 97 VP8/90000
(defaults) strip=H264
    audio: 96 opus/48000/2, 8 PCMA/8000, 0 PCMU/8000, 9 G722/8000, 101 telephone-event/8000, 102 telephone-event/48000
    video: 97 VP8/90000
(defaults) strip=VP8,H264
    audio: 96 opus/48000/2, 8 PCMA/8000, 0 PCMU/8000, 9 G722/8000, 101 telephone-event/8000, 102 telephone-event/48000
    video: none
codecs_exclude_sip=g722,mpeg4-generic,flv,mpv
    audio: 96 opus/48000/2, 8 PCMA/8000, 0 PCMU/8000, 101 telephone-event/8000, 102 telephone-event/48000
    video: 98 H264/42e01f/1, 97 VP8/90000
codecs_exclude_sip=mpeg4-generic,flv,mpv,opus,ulaw,h264,g722,g729; allow_outside_codecs=false
    audio: 8 PCMA/8000, 101 telephone-event/8000
    video: 97 VP8/90000
codecs_exclude_sip=vp8,h264
    audio: 96 opus/48000/2, 8 PCMA/8000, 0 PCMU/8000, 9 G722/8000, 101 telephone-event/8000, 102 telephone-event/48000
    video: none
codecs_exclude_sip=telephone-event
    audio: 96 opus/48000/2, 8 PCMA/8000, 0 PCMU/8000, 9 G722/8000
    video: 98 H264/42e01f/1, 97 VP8/90000
codecs=ulaw,vp8
    audio: 0 PCMU/8000, 96 opus/48000/2, 9 G722/8000, 8 PCMA/8000, 101 telephone-event/8000, 102 telephone-event/48000
    video: 97 VP8/90000, 98 H264/42e01f/1
codecs=ulaw,vp8; allow_outside_codecs=false
    audio: 0 PCMU/8000
    video: 97 VP8/90000
codecs=ulaw,telephone-event,opus,vp8,h264; allow_outside_codecs=false
    audio: 0 PCMU/8000, 96 opus/48000/2, 101 telephone-event/8000, 102 telephone-event/48000
    video: 97 VP8/90000, 98 H264/42e01f/1
codecs=ulaw,telephone-event,opus,vp8,h264; allow_outside_codecs=false; strip=opus
    audio: 0 PCMU/8000, 101 telephone-event/8000
    video: 97 VP8/90000, 98 H264/42e01f/1
codecs=ulaw,alaw,telephone-event; allow_outside_codecs=false
    audio: 0 PCMU/8000, 8 PCMA/8000, 101 telephone-event/8000
    video: none
codecs=g729,speex16,alaw; codecs_exclude_sip=; allow_outside_codecs=false
    audio: 8 PCMA/8000
    video: none
proxy_use_h264_packetization_mode_1_only=false
    audio: 96 opus/48000/2, 8 PCMA/8000, 0 PCMU/8000, 9 G722/8000, 101 telephone-event/8000, 102 telephone-event/48000
    video: 98 H264/42e01f/1, 99 H264/42e01f/0, 97 VP8/90000
profiles=4d001f,42001f; codecs=alaw,h264; allow_outside_codecs=false
    audio: 8 PCMA/8000
    video: 98 H264/4d001f/1, 99 H264/42001f/1
profiles=4d001f,42001f; proxy_use_h264_packetization_mode_1_only=false; codecs=alaw,h264; allow_outside_codecs=false
    audio: 8 PCMA/8000
    video: 98 H264/4d001f/1, 99 H264/4d001f/0, 100 H264/42001f/1, 101 H264/42001f/0
profiles=640028; codecs=alaw,h264,vp8; allow_outside_codecs=false
    audio: 8 PCMA/8000
    video: 97 VP8/90000
";

#[test]
fn the_invite_names_what_settings_and_page_leave() {
    let rows: Vec<&str> = TABLE.trim().lines().collect();
    assert_eq!(rows.len() % 3, 0, "three lines a row");
    for row in rows.chunks(3) {
        let (mut text, mut stripped) = (String::new(), "");
        for word in row[0].trim_start_matches("(defaults)").split(';').map(str::trim).filter(|word| !word.is_empty()) {
            match word.strip_prefix("strip=") {
                Some(codecs) => stripped = codecs,
                None => text.push_str(&format!("{word}\n")),
            }
        }
        let mut world = World::new(settings(&text));
        let page = world.session();
        world.call_with(page, "c1", "600", &strip(&chromium(), stripped));
        let body = String::from_utf8(world.request(&Method::Invite).body).unwrap();
        for expected in &row[1..] {
            let (kind, payloads) = expected.trim().split_once(": ").unwrap();
            assert_eq!(section(&body, kind), payloads, "{}\n{body}", row[0]);
        }
    }
}

#[test]
fn a_page_that_strips_all_sound_that_the_operator_allows_has_no_call() {
    let mut world = World::new(settings("codecs=alaw,vp8\nallow_outside_codecs=false\n"));
    let page = world.session();
    world.call_with(page, "c1", "600", &strip(&chromium(), "PCMA"));
    assert_eq!(world.last_call().info.as_deref(), Some("No common codecs"));
    assert!(world.sip.is_empty());
    world.assert_clean();
}

#[test]
fn what_stripping_damages_does_not_show() {
    let stripped = strip(&chromium(), "opus,G722");
    // As the SDK leaves it: red points to an opus that is gone, rtx has no apt, VP8 no feedback.
    assert!(stripped.contains("a=fmtp:63 111/111\r\n") && !stripped.contains("opus/48000"), "{stripped}");
    assert!(stripped.contains("a=rtpmap:97 rtx/90000\r\n") && !stripped.contains("apt=96"), "{stripped}");
    assert!(stripped.contains("a=rtpmap:96 VP8/90000\r\n") && !stripped.contains("a=rtcp-fb:96"), "{stripped}");
    let mut world = World::new(config());
    let page = world.session();
    world.call_with(page, "c1", "600", &stripped);
    let invite = world.request(&Method::Invite);
    let video = "m=video 4002 RTP/AVP 97\r\na=rtpmap:97 VP8/90000\r\n";
    world.respond(&invite, 200, Some(&format!("{}{video}", crate::world::phone_sdp(4000, "8 101"))));
    let answer = world.last_description();
    let (audio, video) = answer.split_once("m=video ").unwrap();
    assert!(audio.contains("UDP/TLS/RTP/SAVPF 8 126\r\n"), "{answer}");
    assert!(video.contains("UDP/TLS/RTP/SAVPF 96\r\n") && video.contains("a=rtcp-fb:96 nack pli\r\n"), "{answer}");
    assert!(!answer.contains("red/") && !answer.contains("rtx"), "{answer}");
}
