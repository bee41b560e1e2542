//! Offers in the shape that browsers give them. Synthesised from the facts in the specifications, not captured byte for byte.

/// A Chromium offer of audio, as the Phone page sends it.
pub(crate) fn chromium_audio() -> String {
    let formats = "111 63 9 0 8 13 110 126";
    format!(
        "{}{}",
        CHROMIUM_SESSION.replace("BUNDLE 0 1", "BUNDLE 0"),
        chromium_audio_section(formats, CHROMIUM_AUDIO_MAPS)
    )
}

/// A Chromium offer of audio and video, as the Phone Video page sends it.
pub(crate) fn chromium_audio_video() -> String {
    let audio = chromium_audio_section("111 63 9 0 8 13 110 126", CHROMIUM_AUDIO_MAPS);
    format!("{CHROMIUM_SESSION}{audio}{CHROMIUM_VIDEO}")
}

/// What `stripCodecs: "opus,G722"` leaves of it: red without its opus, VP8 and rtx without feedback and apt.
pub(crate) fn chromium_stripped() -> String {
    let maps = "a=rtpmap:63 red/48000/2\r\na=fmtp:63 111/111\r\na=rtpmap:0 PCMU/8000\r\na=rtpmap:8 PCMA/8000\r\n\
                a=rtpmap:13 CN/8000\r\na=rtpmap:110 telephone-event/48000\r\na=rtpmap:126 telephone-event/8000\r\n";
    let video: String = CHROMIUM_VIDEO
        .split_inclusive("\r\n")
        .filter(|line| !line.starts_with("a=fmtp:9") && !line.starts_with("a=rtcp-fb:9"))
        .collect();
    format!("{CHROMIUM_SESSION}{}{video}", chromium_audio_section("63 0 8 13 110 126", maps))
}

fn chromium_audio_section(formats: &str, maps: &str) -> String {
    format!(
        "m=audio 9 UDP/TLS/RTP/SAVPF {formats}\r\nc=IN IP4 0.0.0.0\r\na=rtcp:9 IN IP4 0.0.0.0\r\na=ice-ufrag:nCLu\r\n\
         a=ice-pwd:Ez2lzZYmVZ3VT9zbqM1JbfKX\r\na=ice-options:trickle\r\na=fingerprint:sha-256 {FINGERPRINT}\r\n\
         a=setup:actpass\r\na=mid:0\r\na=extmap:1 urn:ietf:params:rtp-hdrext:ssrc-audio-level\r\na=sendrecv\r\n\
         a=msid:3b1f 9a2c\r\na=rtcp-mux\r\na=rtcp-rsize\r\n{maps}a=ssrc:1203846021 cname:7vGqO2B4cWmWp2bR\r\n"
    )
}

/// A certificate's fingerprint.
pub(crate) const FINGERPRINT: &str =
    "0A:1B:2C:3D:4E:5F:60:71:82:93:A4:B5:C6:D7:E8:F9:0A:1B:2C:3D:4E:5F:60:71:82:93:A4:B5:C6:D7:E8:F9";

const CHROMIUM_SESSION: &str = "v=0\r\no=- 8241723981712380193 2 IN IP4 127.0.0.1\r\ns=-\r\nt=0 0\r\n\
     a=group:BUNDLE 0 1\r\na=extmap-allow-mixed\r\na=msid-semantic: WMS 3b1f\r\n";

const CHROMIUM_AUDIO_MAPS: &str = "a=rtpmap:111 opus/48000/2\r\na=rtcp-fb:111 transport-cc\r\n\
     a=fmtp:111 minptime=10;useinbandfec=1\r\na=rtpmap:63 red/48000/2\r\na=fmtp:63 111/111\r\na=rtpmap:9 G722/8000\r\n\
     a=rtpmap:0 PCMU/8000\r\na=rtpmap:8 PCMA/8000\r\na=rtpmap:13 CN/8000\r\na=rtpmap:110 telephone-event/48000\r\n\
     a=rtpmap:126 telephone-event/8000\r\n";

const CHROMIUM_VIDEO: &str = "m=video 9 UDP/TLS/RTP/SAVPF 96 97 103 104\r\nc=IN IP4 0.0.0.0\r\na=rtcp:9 IN IP4 0.0.0.0\r\n\
     a=ice-ufrag:nCLu\r\na=ice-pwd:Ez2lzZYmVZ3VT9zbqM1JbfKX\r\na=ice-options:trickle\r\n\
     a=fingerprint:sha-256 0A:1B:2C:3D:4E:5F:60:71:82:93:A4:B5:C6:D7:E8:F9:0A:1B:2C:3D:4E:5F:60:71:82:93:A4:B5:C6:D7:E8:F9\r\n\
     a=setup:actpass\r\na=mid:1\r\na=sendrecv\r\na=msid:3b1f 77aa\r\na=rtcp-mux\r\na=rtcp-rsize\r\n\
     a=rtpmap:96 VP8/90000\r\na=rtcp-fb:96 goog-remb\r\na=rtcp-fb:96 transport-cc\r\na=rtcp-fb:96 ccm fir\r\n\
     a=rtcp-fb:96 nack\r\na=rtcp-fb:96 nack pli\r\na=rtpmap:97 rtx/90000\r\na=fmtp:97 apt=96\r\n\
     a=rtpmap:103 H264/90000\r\na=fmtp:103 level-asymmetry-allowed=1;packetization-mode=1;profile-level-id=42001f\r\n\
     a=rtpmap:104 rtx/90000\r\na=fmtp:104 apt=103\r\na=ssrc-group:FID 11 12\r\na=ssrc:11 cname:7vGqO2B4cWmWp2bR\r\n";

/// A Firefox offer: fingerprint and ice-options at session level, braces in names, candidates of both components.
pub(crate) fn firefox() -> String {
    format!(
        "v=0\r\no=mozilla...THIS_IS_SDPARTA-99.0 4815162342108151623 0 IN IP4 0.0.0.0\r\ns=-\r\nt=0 0\r\n\
         a=fingerprint:sha-256 {FINGERPRINT}\r\na=group:BUNDLE 0 1\r\na=ice-options:trickle\r\na=msid-semantic:WMS *\r\n\
         m=audio 9 UDP/TLS/RTP/SAVPF 109 9 0 8 101\r\nc=IN IP4 0.0.0.0\r\n\
         a=candidate:0 1 UDP 2122252543 192.0.2.14 46822 typ host\r\na=candidate:0 2 UDP 2122252542 192.0.2.14 40718 typ host\r\n\
         a=candidate:1 1 TCP 2105524479 192.0.2.14 9 typ host tcptype active\r\na=sendrecv\r\n\
         a=extmap:2/recvonly urn:ietf:params:rtp-hdrext:csrc-audio-level\r\n\
         a=fmtp:109 maxplaybackrate=48000;stereo=1;useinbandfec=1\r\na=fmtp:101 0-15\r\n\
         a=ice-pwd:0f1e2d3c4b5a69788796a5b4c3d2e1f0\r\na=ice-ufrag:a1b2c3d4\r\na=mid:0\r\n\
         a=msid:{{6f3c}} {{b01d}}\r\na=rtcp-mux\r\na=rtpmap:109 opus/48000/2\r\na=rtpmap:9 G722/8000/1\r\n\
         a=rtpmap:0 PCMU/8000\r\na=rtpmap:8 PCMA/8000\r\na=rtpmap:101 telephone-event/8000/1\r\na=setup:actpass\r\n\
         a=ssrc:2866219414 cname:{{c1}}\r\n\
         m=video 9 UDP/TLS/RTP/SAVPF 120 124 121 125\r\nc=IN IP4 0.0.0.0\r\na=recvonly\r\n\
         a=ice-pwd:0f1e2d3c4b5a69788796a5b4c3d2e1f0\r\na=ice-ufrag:a1b2c3d4\r\na=mid:1\r\na=rtcp-mux\r\n\
         a=rtpmap:120 VP8/90000\r\na=rtpmap:124 rtx/90000\r\na=fmtp:124 apt=120\r\na=rtpmap:121 VP9/90000\r\n\
         a=rtpmap:125 rtx/90000\r\na=setup:actpass\r\n"
    )
}
