//! Check 52 for an OpenSSL client: the handshake with a ClientHello that is swapped, doubled and cut anew on the way. The
//! same with Chromium's own fragments and losses is in the lane `browser`.

use std::time::Duration;

use gangway_tests::{
    deadline::Deadline,
    gateway::Gateway,
    impairment::{Impairment, Plan},
    media::Codecs,
    phone::{Phone, TONE_HZ},
    sipp::Sipp,
};

fn connects_through(plan: Plan) -> Option<Impairment> {
    let peer = Sipp::uas("uas_answer", &[("RING_MS", "10")])?;
    let gateway = Gateway::start(&[]);
    let proxy = Impairment::start(gateway.webrtc(), plan);
    let mut phone = Phone::unregistered(&gateway, peer.port());
    let mut call = phone.call("2001", Codecs::PCMU);
    phone.expect_status(&call.id, "RING", Deadline::seconds(5));
    let sdp = phone.expect_sdp(&call.id, Deadline::seconds(5));
    call.media.take_answer(&sdp, Some(proxy.address()));
    phone.expect_status(&call.id, "ESTABLISHED", Deadline::seconds(5));
    call.media.wait_connected(Deadline::seconds(10));
    // Its own tone, echoed by SIPp: SRTP works both ways.
    call.media.wait_heard(TONE_HZ, Duration::from_millis(200), Deadline::seconds(10));
    phone.hangup(&call.id);
    phone.expect_status(&call.id, "FINISH", Deadline::seconds(3));
    gateway.wait_idle(Deadline::seconds(8));
    Some(proxy)
}

#[test]
fn a_doubled_handshake_completes() {
    connects_through(Plan { repeat: true, ..Plan::default() });
}

#[test]
fn a_swapped_handshake_completes() {
    connects_through(Plan { swap: true, ..Plan::default() });
}

#[test]
fn a_client_hello_in_two_fragments_completes() {
    if let Some(proxy) = connects_through(Plan { recut: true, ..Plan::default() }) {
        assert!(proxy.recut() > 0, "no ClientHello was cut");
    }
}

#[test]
fn a_client_hello_in_swapped_and_doubled_fragments_completes() {
    if let Some(proxy) = connects_through(Plan { recut: true, swap: true, repeat: true, ..Plan::default() }) {
        assert!(proxy.recut() > 0, "no ClientHello was cut");
    }
}

/// DTLS with another certificate than the SDP's fingerprint: refused, with the text of section 4.4, and the peer is told.
#[test]
fn a_wrong_fingerprint_fails_the_call() {
    let Some(peer) = Sipp::uas("uas_answer", &[("RING_MS", "10")]) else { return };
    let gateway = Gateway::start(&[]);
    let mut phone = Phone::unregistered(&gateway, peer.port());
    // The offer of another peer connection, with the ICE credentials of the one that will connect.
    let (mut media, sdp) = gangway_tests::media::Media::offer(Codecs::PCMU, TONE_HZ);
    let (_, other) = gangway_tests::media::Media::offer(Codecs::PCMU, TONE_HZ);
    let fingerprint =
        |sdp: &str| sdp.lines().find(|line| line.starts_with("a=fingerprint")).expect("a fingerprint").to_owned();
    let false_sdp = sdp.replace(&fingerprint(&sdp), &fingerprint(&other));
    let call = phone.send_call("2001", Codecs::PCMU, &serde_json::json!({ "sdp": false_sdp }));
    phone.expect_status(&call.id, "TRYING", Deadline::seconds(5));
    phone.expect_status(&call.id, "RING", Deadline::seconds(5));
    let answer = phone.expect_sdp(&call.id, Deadline::seconds(5));
    media.take_answer(&answer, None);
    phone.expect_status(&call.id, "ESTABLISHED", Deadline::seconds(5));
    let finish = phone.expect_status(&call.id, "FAILED", Deadline::seconds(10));
    assert_eq!(finish.call["info"], "Failed by DTLS fingerprint error");
    assert_eq!(media.seen().received, 0, "media came before the fingerprint was proven");
    peer.finish(Deadline::seconds(5));
    gateway.wait_idle(Deadline::seconds(8));
}
