//! Calls that fail: each final answer of SIP, silence, peers and browsers that vanish. Nothing is ever left.

use std::{net::UdpSocket, time::Duration};

use gangway_tests::{
    baresip::{self, Baresip},
    deadline::Deadline,
    gateway::Gateway,
    kamailio::{self, Kamailio},
    media::Codecs,
    phone::Phone,
    sipp::{self, Sipp},
};

/// The peer refuses two calls with this status; what the browser is told each time.
fn refused_with(status: &str, terminal: &str, is_busy: bool) {
    let words = [("STATUS", status), ("REASON", "Refused")];
    let options = sipp::Options { scenario: "uas_reject", target: None, words: &words, calls: 2 };
    let Some(peer) = Sipp::start(&options) else { return };
    let gateway = Gateway::start(&[]);
    let mut phone = Phone::unregistered(&gateway, peer.port());
    for calls in 1..=2 {
        let call = phone.call("2001", Codecs::PCMU);
        let finish = phone.expect_status(&call.id, terminal, Deadline::seconds(5));
        assert_eq!(finish.message, "finish");
        assert_eq!(finish.call["sipStatus"].to_string().trim_matches('"'), status, "{}", finish.call);
        let names = phone.socket.names();
        let count = |name: &str| names.iter().filter(|seen| *seen == name).count();
        assert_eq!((count("finish"), count("busy")), (calls, if is_busy { calls } else { 0 }), "{names:?}");
        assert_eq!(count("setRemoteSDP"), 0, "{names:?}");
        gateway.wait_idle(Deadline::seconds(8));
    }
    peer.finish(Deadline::seconds(5));
}

/// Check 22: `busy` for other clients, then `finish` FINISH.
#[test]
fn busy_486() {
    refused_with("486", "FINISH", true);
}

/// Check 22.
#[test]
fn busy_everywhere_600() {
    refused_with("600", "FINISH", true);
}

/// Check 23.
#[test]
fn not_found_404() {
    refused_with("404", "FAILED", false);
}

/// Check 23.
#[test]
fn unavailable_480() {
    refused_with("480", "FAILED", false);
}

/// Check 23.
#[test]
fn not_acceptable_488() {
    refused_with("488", "FAILED", false);
}

/// Check 23.
#[test]
fn server_error_500() {
    refused_with("500", "FAILED", false);
}

/// Check 23: declined is an ordinary end.
#[test]
fn declined_603() {
    refused_with("603", "FINISH", false);
}

/// Check 23: nothing answers the INVITE at all (timer B, 64 x 50 ms here).
#[test]
fn a_silent_peer_is_a_request_timeout() {
    let silent = UdpSocket::bind("127.0.0.1:0").unwrap();
    let gateway = Gateway::start(&[]);
    let mut phone = Phone::unregistered(&gateway, silent.local_addr().unwrap().port());
    let call = phone.call("2001", Codecs::PCMU);
    let finish = phone.expect_status(&call.id, "FAILED", Deadline::seconds(8));
    assert_eq!(finish.call["info"], "Failed by request timeout");
    gateway.wait_idle(Deadline::seconds(8));
}

/// Nobody listens at the address.
#[test]
fn a_closed_port_fails_the_call() {
    let port = gangway_tests::process::free_port();
    let gateway = Gateway::start(&[]);
    let mut phone = Phone::unregistered(&gateway, port);
    let call = phone.call("2001", Codecs::PCMU);
    phone.expect_status(&call.id, "FAILED", Deadline::seconds(8));
    gateway.wait_idle(Deadline::seconds(8));
}

/// It rings and rings: `invite_timeout` ends it with CANCEL.
#[test]
fn a_peer_that_rings_for_ever_is_cancelled() {
    let Some(peer) = Sipp::uas("uas_cancelled", &[]) else { return };
    let gateway = Gateway::start(&[("invite_timeout", "2")]);
    let mut phone = Phone::unregistered(&gateway, peer.port());
    let call = phone.call("2001", Codecs::PCMU);
    phone.expect_status(&call.id, "RING", Deadline::seconds(5));
    phone.expect_status(&call.id, "FAILED", Deadline::seconds(6));
    peer.finish(Deadline::seconds(5));
    gateway.wait_idle(Deadline::seconds(8));
}

/// The answer has no codec in common with the offer: ACK, BYE, "No common codecs".
#[test]
fn an_answer_without_common_codec_fails_the_call() {
    let Some(peer) = Sipp::uas("uas_answer", &[("PAYLOAD", "18"), ("CODEC", "G729/8000"), ("RING_MS", "10")]) else {
        return;
    };
    let gateway = Gateway::start(&[]);
    let mut phone = Phone::unregistered(&gateway, peer.port());
    let call = phone.call("2001", Codecs::PCMU);
    phone.expect_status(&call.id, "RING", Deadline::seconds(5));
    let finish = phone.expect_status(&call.id, "FAILED", Deadline::seconds(5));
    assert_eq!(finish.call["info"], "No common codecs");
    peer.finish(Deadline::seconds(5));
    gateway.wait_idle(Deadline::seconds(8));
}

/// The peer is killed in mid-call: no RTP any more, the call ends by itself.
#[test]
fn a_peer_that_vanishes_ends_the_call() {
    let Some(kamailio) = Kamailio::start(&kamailio::Options::default()) else { return };
    let Some(mut callee) = Baresip::start(&baresip::Options::new(kamailio.port(), "PCMU/8000/1")) else { return };
    let gateway = Gateway::start(&[("rtp_activity_timeout_ms", "1500")]);
    let mut phone = Phone::register(&gateway, kamailio.port());
    let call = phone.establish("2001", Codecs::PCMU);
    callee.wait_event("CALL_ESTABLISHED", Deadline::seconds(5));
    call.media.wait_heard(660.0, Duration::from_millis(200), Deadline::seconds(10));
    callee.vanish();
    let finish = phone.expect_status(&call.id, "FAILED", Deadline::seconds(8));
    assert_eq!(finish.call["info"], "Failed by RTP activity");
    gateway.wait_idle(Deadline::seconds(10));
}

/// The browser's websocket closes in mid-call (no keepAlive): BYE at once.
#[test]
fn a_closed_websocket_ends_the_call_at_once() {
    let Some(kamailio) = Kamailio::start(&kamailio::Options::default()) else { return };
    let Some(mut callee) = Baresip::start(&baresip::Options::new(kamailio.port(), "PCMU/8000/1")) else { return };
    let gateway = Gateway::start(&[]);
    let mut phone = Phone::register(&gateway, kamailio.port());
    let call = phone.establish("2001", Codecs::PCMU);
    callee.wait_event("CALL_ESTABLISHED", Deadline::seconds(5));
    phone.socket.go_away();
    callee.wait_event("CALL_CLOSED", Deadline::seconds(3));
    kamailio.wait_registered("1001", false, Deadline::seconds(5));
    gateway.wait_idle(Deadline::seconds(8));
    drop(call);
}

/// The browser is cut off without a word (its TCP connection breaks): the same.
#[test]
fn a_broken_connection_ends_the_call() {
    let Some(peer) = Sipp::uas("uas_answer", &[("RING_MS", "10")]) else { return };
    let gateway = Gateway::start(&[]);
    let mut phone = Phone::unregistered(&gateway, peer.port());
    let call = phone.establish("2001", Codecs::PCMU);
    let Phone { socket, .. } = phone;
    drop(socket);
    peer.finish(Deadline::seconds(8));
    gateway.wait_idle(Deadline::seconds(8));
    drop(call);
}

/// The browser's media vanishes while its websocket stays: consent or RTP activity ends the call.
#[test]
fn a_browser_without_media_any_more_ends_the_call() {
    let Some(peer) = Sipp::uas("uas_answer", &[("RING_MS", "10")]) else { return };
    let gateway = Gateway::start(&[("consent_timeout_ms", "1500"), ("rtp_activity_timeout_ms", "1500")]);
    let mut phone = Phone::unregistered(&gateway, peer.port());
    let call = phone.establish("2001", Codecs::PCMU);
    call.media.vanish();
    let finish = phone.expect_status(&call.id, "FAILED", Deadline::seconds(8));
    let info = finish.call["info"].as_str().unwrap_or_default();
    assert!(["Failed by ICE error", "Failed by RTP activity"].contains(&info), "{info}");
    peer.finish(Deadline::seconds(5));
    gateway.wait_idle(Deadline::seconds(8));
}
