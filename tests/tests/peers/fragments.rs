//! An INVITE with pictures to a phone of UDP only, behind a path that loses fragments: it always arrives.

use gangway_tests::{
    deadline::Deadline,
    gateway::{Gateway, connection},
    media::Codecs,
    namespace::Namespace,
    phone::Phone,
    sipp::Sipp,
};
use serde_json::json;

/// The limit of the settings, bytes.
const LIMIT: usize = 1300;

/// A page's offer of sound and of pictures in VP8 and six kinds of H.264.
fn camera_offer() -> String {
    let fingerprint = ["AB"; 32].join(":");
    let transport = |mid: u8| {
        format!(
            "c=IN IP4 0.0.0.0\r\na=ice-ufrag:abcd\r\na=ice-pwd:abcdefghijklmnopqrstuvwx\r\na=fingerprint:sha-256 {fingerprint}\r\n\
             a=setup:actpass\r\na=mid:{mid}\r\na=sendrecv\r\na=rtcp-mux\r\n"
        )
    };
    let kinds = [
        (103, "42001f", 1),
        (107, "42001f", 0),
        (109, "42e01f", 1),
        (115, "42e01f", 0),
        (117, "4d001f", 1),
        (39, "4d001f", 0),
    ];
    let numbers: String = kinds.iter().map(|(pt, ..)| format!(" {pt}")).collect();
    let maps: String = kinds
        .iter()
        .map(|(pt, profile, mode)| {
            format!(
                "a=rtpmap:{pt} H264/90000\r\n\
                 a=fmtp:{pt} level-asymmetry-allowed=1;packetization-mode={mode};profile-level-id={profile}\r\n"
            )
        })
        .collect();
    format!(
        "v=0\r\no=- 1 2 IN IP4 127.0.0.1\r\ns=-\r\nt=0 0\r\na=group:BUNDLE 0 1\r\na=msid-semantic: WMS s\r\n\
         m=audio 9 UDP/TLS/RTP/SAVPF 111 9 0 8 110 126\r\n{}a=rtpmap:111 opus/48000/2\r\na=fmtp:111 minptime=10;useinbandfec=1\r\n\
         a=rtpmap:9 G722/8000\r\na=rtpmap:0 PCMU/8000\r\na=rtpmap:8 PCMA/8000\r\na=rtpmap:110 telephone-event/48000\r\n\
         a=rtpmap:126 telephone-event/8000\r\n\
         m=video 9 UDP/TLS/RTP/SAVPF 96{numbers}\r\n{}a=rtpmap:96 VP8/90000\r\n{maps}",
        transport(0),
        transport(1)
    )
}

/// A gateway at the near end of the path, its phone's session, and a SIPp of UDP only at the far end.
struct Scene {
    peer: Sipp,
    phone: Phone,
    gateway: Gateway,
    _path: Namespace,
}

fn scene(settings: &[(&str, &str)]) -> Option<Scene> {
    let path = Namespace::start()?;
    let peer = Sipp::uas_in(&path, "uas_challenged", &[("VIDEO", "[media_port+2] RTP/AVP 97\na=rtpmap:97 VP8/90000")])?;
    let (near, far) = (path.near().to_string(), path.far().to_string());
    let locals = format!("127.0.0.1,{near}");
    let mut all = vec![
        ("ip", near.as_str()),
        ("ip_local", locals.as_str()),
        ("profiles", "42e01f,42001f,4d001f"),
        ("proxy_use_h264_packetization_mode_1_only", "false"),
    ];
    all.extend_from_slice(settings);
    let gateway = Gateway::start(&all);
    let mut fields = connection("1001", "secret-1001", peer.port(), false);
    (fields["sipDomain"], fields["sipOutboundProxy"]) = (json!(far), json!(far));
    let phone = Phone::connect(&gateway, &fields);
    Some(Scene { peer, phone, gateway, _path: path })
}

/// The call comes up and every datagram that reached the peer was whole and short.
fn arrives(settings: &[(&str, &str)], tcp_failed: f64) {
    let Some(mut scene) = scene(settings) else { return };
    let call = scene.phone.send_call("2001", Codecs::PCMU, &json!({ "sdp": camera_offer(), "hasVideo": true }));
    for status in ["TRYING", "RING", "ESTABLISHED"] {
        scene.phone.expect_status(&call.id, status, Deadline::seconds(8));
    }
    let lens = scene.peer.lens_received("INVITE");
    assert_eq!(lens.len(), 2, "one INVITE without credentials and one with: {lens:?}");
    assert!(lens.iter().all(|len| *len <= LIMIT), "{lens:?}");
    let messages = scene.peer.messages();
    assert!(messages.contains("Proxy-Authorization: Digest") && messages.contains("m=video "), "{messages}");
    let long = |way: &str| scene.gateway.metric("gangway_sip_long_requests_total", &format!("way=\"{way}\""));
    assert!(long("shortened") >= 1.0);
    assert_eq!((long("tcp_failed"), long("refused"), long("as_it_was")), (tcp_failed, 0.0, 0.0));
    assert!(!scene.gateway.log("the offer was shortened to fit a datagram").is_empty());
    scene.phone.hangup(&call.id);
    scene.phone.expect_status(&call.id, "FINISH", Deadline::seconds(3));
    scene.peer.finish(Deadline::seconds(8));
    scene.gateway.wait_idle(Deadline::seconds(8));
}

#[test]
fn a_video_invite_to_a_udp_only_trunk_arrives_where_fragments_are_lost() {
    arrives(&[("trunk.phones.match", "198.18.0.0/15"), ("trunk.phones.udp_only", "true")], 0.0);
}

#[test]
fn a_video_invite_to_a_peer_that_refuses_tcp_arrives_where_fragments_are_lost() {
    arrives(&[], 1.0);
}

/// The path is what it is said to be: as long as the operator allows, the same INVITE is lost, and the call ends with 408.
#[test]
fn without_a_limit_the_same_invite_is_lost_on_that_path() {
    let Some(mut scene) = scene(&[("sip_udp_request_limit_bytes", "0")]) else { return };
    let call = scene.phone.send_call("2001", Codecs::PCMU, &json!({ "sdp": camera_offer(), "hasVideo": true }));
    scene.phone.expect_status(&call.id, "TRYING", Deadline::seconds(3));
    let end = scene.phone.expect_status(&call.id, "FAILED", Deadline::seconds(8));
    assert_eq!((&end.call["sipStatus"], &end.call["info"]), (&json!(408), &json!("Failed by request timeout")));
    assert!(scene.peer.lens_received("INVITE").len() < 2, "{}", scene.peer.messages());
}
