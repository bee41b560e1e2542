//! Calls from the browser's side to real SIP phones: status order, media both ways, digest on INVITE and BYE, every way to end.

use std::time::Duration;

use gangway_tests::{
    baresip::{self, Baresip},
    deadline::{Deadline, pause},
    gateway::Gateway,
    kamailio::{self, Kamailio},
    media::Codecs,
    phone::{Phone, TONE_HZ},
    sipp::{self, Sipp},
};
use serde_json::json;

/// Length of tone that both sides must hear.
const HEARD: Duration = Duration::from_millis(400);

/// Check 11: TRYING, RING, ESTABLISHED, FINISH; each side hears the other's tone; nothing is left.
fn talks_with_baresip(browser: Codecs, sip: &'static str, workers: &str) {
    let Some(kamailio) = Kamailio::start(&kamailio::Options::default()) else { return };
    let Some(mut callee) = Baresip::start(&baresip::Options::new(kamailio.port(), sip)) else { return };
    let gateway = Gateway::start(&[("dataplane_workers", workers)]);
    let mut phone = Phone::register(&gateway, kamailio.port());
    let call = phone.establish("2001", browser);
    callee.wait_event("CALL_ESTABLISHED", Deadline::seconds(5));
    call.media.wait_heard(660.0, HEARD, Deadline::seconds(10));
    callee.wait_heard(TONE_HZ, HEARD, Deadline::seconds(10));
    let (status, calls) = gateway.rest("/call/find", Some(&json!({ "callId": call.id })));
    assert_eq!((status, &calls[0]["status"], &calls[0]["callee"]), (200, &json!("ESTABLISHED"), &json!("2001")));
    assert!(gateway.metric("gangway_media_ports", "state=\"used\"") > 0.0);
    phone.hangup(&call.id);
    let finish = phone.expect_status(&call.id, "FINISH", Deadline::seconds(3));
    assert_eq!(finish.message, "finish");
    callee.wait_event("CALL_CLOSED", Deadline::seconds(5));
    gateway.wait_idle(Deadline::seconds(8));
    let names = phone.socket.names();
    assert_eq!(names.iter().filter(|name| *name == "setRemoteSDP").count(), 1, "R7: {names:?}");
}

#[test]
fn pcmu_both_sides() {
    talks_with_baresip(Codecs::PCMU, "PCMU/8000/1", "1");
}

#[test]
fn pcma_both_sides_with_three_workers() {
    talks_with_baresip(Codecs::PCMA, "PCMA/8000/1", "3");
}

/// Check 9, second half: INVITE without REGISTER; 407 is answered.
#[test]
fn calls_without_registration_and_answers_the_challenge() {
    let Some(kamailio) = Kamailio::start(&kamailio::Options::default()) else { return };
    let Some(mut callee) = Baresip::start(&baresip::Options::new(kamailio.port(), "PCMU/8000/1")) else { return };
    let gateway = Gateway::start(&[]);
    let mut phone = Phone::unregistered(&gateway, kamailio.port());
    let call = phone.establish("2001", Codecs::PCMU);
    callee.wait_event("CALL_ESTABLISHED", Deadline::seconds(5));
    let invites = kamailio.requests("INVITE");
    assert!(invites.iter().any(|line| line.contains("user=1001")), "no INVITE with credentials: {invites:?}");
    assert_eq!(kamailio.requests("REGISTER").iter().filter(|line| line.contains("from=1001")).count(), 0);
    phone.hangup(&call.id);
    phone.expect_status(&call.id, "FINISH", Deadline::seconds(3));
    gateway.wait_idle(Deadline::seconds(8));
}

/// A wrong password on INVITE alone: `finish` FAILED, and the session stays.
#[test]
fn a_wrong_password_on_invite_fails_the_call() {
    let Some(kamailio) = Kamailio::start(&kamailio::Options::default()) else { return };
    let gateway = Gateway::start(&[]);
    let fields = gangway_tests::gateway::connection("1001", "wrong", kamailio.port(), false);
    let mut phone = Phone::connect(&gateway, &fields);
    let call = phone.call("2001", Codecs::PCMU);
    let finish = phone.expect_status(&call.id, "FAILED", Deadline::seconds(5));
    assert_eq!(finish.message, "finish");
    assert!(kamailio.seen("INVITE") <= 3, "an INVITE storm: {:?}", kamailio.requests("INVITE"));
    assert!(phone.socket.is_open());
    gateway.wait_idle(Deadline::seconds(8));
}

/// A challenge on BYE is answered, so the far end really ends.
#[test]
fn a_challenged_bye_is_answered() {
    let options = kamailio::Options { challenge_bye: true, ..kamailio::Options::default() };
    let Some(kamailio) = Kamailio::start(&options) else { return };
    let Some(mut callee) = Baresip::start(&baresip::Options::new(kamailio.port(), "PCMU/8000/1")) else { return };
    let gateway = Gateway::start(&[]);
    let mut phone = Phone::register(&gateway, kamailio.port());
    let call = phone.establish("2001", Codecs::PCMU);
    callee.wait_event("CALL_ESTABLISHED", Deadline::seconds(5));
    phone.hangup(&call.id);
    phone.expect_status(&call.id, "FINISH", Deadline::seconds(3));
    callee.wait_event("CALL_CLOSED", Deadline::seconds(5));
    assert!(kamailio.requests("BYE").iter().any(|line| line.contains("user=1001")), "{:?}", kamailio.requests("BYE"));
    gateway.wait_idle(Deadline::seconds(8));
}

/// Check 21, second half: the peer hangs up.
#[test]
fn the_peer_hangs_up() {
    let Some(kamailio) = Kamailio::start(&kamailio::Options::default()) else { return };
    let Some(mut callee) = Baresip::start(&baresip::Options::new(kamailio.port(), "PCMU/8000/1")) else { return };
    let gateway = Gateway::start(&[]);
    let mut phone = Phone::register(&gateway, kamailio.port());
    let call = phone.establish("2001", Codecs::PCMU);
    callee.wait_event("CALL_ESTABLISHED", Deadline::seconds(5));
    callee.hangup();
    phone.expect_status(&call.id, "FINISH", Deadline::seconds(5));
    gateway.wait_idle(Deadline::seconds(8));
    // R10: exactly one terminal status, and a second hangup changes nothing.
    phone.hangup(&call.id);
    pause(Duration::from_millis(500));
    assert_eq!(phone.socket.names().iter().filter(|name| *name == "finish").count(), 1);
}

/// Check 20: CANCEL, 487, FINISH.
#[test]
fn hangup_while_ringing_cancels() {
    let Some(peer) = Sipp::uas("uas_cancelled", &[]) else { return };
    let gateway = Gateway::start(&[]);
    let mut phone = Phone::unregistered(&gateway, peer.port());
    let call = phone.call("2001", Codecs::PCMU);
    phone.expect_status(&call.id, "RING", Deadline::seconds(5));
    phone.hangup(&call.id);
    phone.expect_status(&call.id, "FINISH", Deadline::seconds(3));
    peer.finish(Deadline::seconds(10));
    gateway.wait_idle(Deadline::seconds(8));
}

/// Check 20 before any answer: CANCEL waits for a provisional response (RFC 3261 section 9.1).
#[test]
fn hangup_before_ringing_cancels_after_the_first_answer() {
    let Some(peer) = Sipp::uas("uas_cancelled", &[("STATUS", "100"), ("REASON", "Trying")]) else { return };
    let gateway = Gateway::start(&[]);
    let mut phone = Phone::unregistered(&gateway, peer.port());
    let call = phone.call("2001", Codecs::PCMU);
    peer.wait_received("INVITE", Deadline::seconds(5));
    phone.hangup(&call.id);
    phone.expect_status(&call.id, "FINISH", Deadline::seconds(3));
    peer.finish(Deadline::seconds(10));
    gateway.wait_idle(Deadline::seconds(8));
}

/// Check 19: the user gives up before TRYING arrived, so no `hangup` ever comes and ICE never starts. The peer has answered;
/// after the ICE timeout it gets a BYE.
#[test]
fn a_call_whose_browser_never_starts_ice_is_ended() {
    let Some(peer) = Sipp::uas("uas_answer", &[("RING_MS", "50")]) else { return };
    let gateway = Gateway::start(&[("ice_timeout", "2")]);
    let mut phone = Phone::unregistered(&gateway, peer.port());
    let call = phone.call("2001", Codecs::PCMU);
    phone.expect_status(&call.id, "RING", Deadline::seconds(5));
    phone.expect_sdp(&call.id, Deadline::seconds(5));
    phone.expect_status(&call.id, "ESTABLISHED", Deadline::seconds(5));
    let finish = phone.expect_status(&call.id, "FAILED", Deadline::seconds(6));
    assert_eq!(finish.call["info"], "Failed by ICE error");
    peer.finish(Deadline::seconds(10));
    assert!(peer.received("BYE") >= 1);
    gateway.wait_idle(Deadline::seconds(8));
}

/// Section 6 item 3: hangup 50 ms after call().
#[test]
fn hangup_right_after_the_call_leaves_nothing() {
    let Some(kamailio) = Kamailio::start(&kamailio::Options::default()) else { return };
    let Some(mut callee) = Baresip::start(&baresip::Options::new(kamailio.port(), "PCMU/8000/1")) else { return };
    let gateway = Gateway::start(&[]);
    let mut phone = Phone::register(&gateway, kamailio.port());
    for wait_ms in [0, 10, 50] {
        let call = phone.send_call("2001", Codecs::PCMU, &json!({}));
        pause(Duration::from_millis(wait_ms));
        phone.hangup(&call.id);
        loop {
            let status = phone.next_status(&call.id, Deadline::seconds(5)).status;
            if status == "FINISH" {
                break;
            }
            assert!(["TRYING", "RING", "ESTABLISHED"].contains(&status.as_str()), "after {wait_ms} ms: {status}");
        }
        gateway.wait_idle(Deadline::seconds(8));
    }
    // Whether it had answered or not, the far end has no call any more: a new one gets through.
    let call = phone.establish("2001", Codecs::PCMU);
    callee.wait_event("CALL_ESTABLISHED", Deadline::seconds(5));
    phone.hangup(&call.id);
    phone.expect_status(&call.id, "FINISH", Deadline::seconds(3));
    gateway.wait_idle(Deadline::seconds(8));
}

/// Several calls in a session: the peer ends one, the other goes on (check 35 in small).
#[test]
fn two_calls_of_a_session_are_independent() {
    let words = [("TALK_MS", "3000"), ("RING_MS", "50")];
    let options = sipp::Options { scenario: "uas_hangup", target: None, words: &words, calls: 2 };
    let Some(peer) = Sipp::start(&options) else { return };
    let gateway = Gateway::start(&[]);
    let mut phone = Phone::unregistered(&gateway, peer.port());
    let one = phone.establish("2001", Codecs::PCMU);
    pause(Duration::from_millis(1500));
    let two = phone.establish("2002", Codecs::PCMU);
    phone.expect_status(&one.id, "FINISH", Deadline::seconds(6));
    let before = two.media.seen().received;
    Deadline::seconds(5)
        .poll("more audio of the other call", || (two.media.seen().received > before + 10).then_some(()));
    phone.expect_status(&two.id, "FINISH", Deadline::seconds(6));
    peer.finish(Deadline::seconds(5));
    gateway.wait_idle(Deadline::seconds(8));
}

/// The SIP offer is built afresh and small: RTP/AVP, static types, ptime; `sipSDP` lines between `c=` and `t=`.
#[test]
fn the_invite_is_small_and_ours() {
    let Some(peer) = Sipp::uas("uas_answer", &[("RING_MS", "10")]) else { return };
    let gateway = Gateway::start(&[]);
    let mut phone = Phone::unregistered(&gateway, peer.port());
    let lines = json!({ "sipSDP": ["b=AS:3000", "a=x-first", "a=x-second"], "visibleName": "Click To Call" });
    let call = phone.send_call("2001", Codecs { pcmu: true, pcma: true, opus: true }, &lines);
    phone.expect_status(&call.id, "TRYING", Deadline::seconds(3));
    phone.expect_status(&call.id, "RING", Deadline::seconds(5));
    let messages = peer.messages();
    let invite = &messages[messages.find("INVITE sip:").expect("an INVITE")..];
    let invite = &invite[..invite.find("-------").unwrap_or(invite.len())];
    assert!(invite.len() < 1300, "{} bytes:\n{invite}", invite.len());
    assert!(invite.contains("\nFrom: \"Click To Call\" <sip:1001@"), "{invite}");
    assert!(invite.contains("\no=Gangway ") && invite.contains("\ns=Gangway"), "{invite}");
    assert!(invite.contains("RTP/AVP") && invite.contains("a=ptime:20"), "{invite}");
    assert!(!invite.contains("candidate") && !invite.contains("fingerprint") && !invite.contains("ice-"), "{invite}");
    let at = |text: &str| invite.find(text).unwrap_or_else(|| panic!("no {text} in\n{invite}"));
    let order = [at("\nc=IN"), at("\nb=AS:3000"), at("\na=x-first"), at("\na=x-second"), at("\nt=0 0")];
    assert!(order.is_sorted(), "{invite}");
    phone.hangup(&call.id);
}

/// A `sipSDP` element that is no single `b=` or `a=` line ends the call with its index; nothing of it reaches the peer.
#[test]
fn sip_sdp_that_would_change_the_description_is_refused_by_name() {
    let Some(peer) = Sipp::uas("uas_answer", &[]) else { return };
    let gateway = Gateway::start(&[]);
    let mut phone = Phone::unregistered(&gateway, peer.port());
    for element in ["a=x\r\nm=audio 9 RTP/AVP 0", "c=IN IP4 203.0.113.1", "a=sendonly", "b=AS:x"] {
        let call = phone.send_call("2001", Codecs::PCMU, &json!({ "sipSDP": ["b=AS:3000", element] }));
        let fail = phone.socket.expect("fail", Deadline::seconds(3)).first().clone();
        let info = fail["info"].as_str().unwrap_or_default();
        assert!(info.starts_with("sipSDP[1]: "), "{element:?}: {fail}");
        phone.expect_status(&call.id, "FAILED", Deadline::seconds(3));
    }
    assert_eq!(peer.received("INVITE"), 0, "{}", peer.messages());
}

/// REST ends a call as the browser would, and says 404 for one that is not there.
#[test]
fn rest_terminates_a_call() {
    let Some(peer) = Sipp::uas("uas_answer", &[("RING_MS", "50")]) else { return };
    let gateway = Gateway::start(&[]);
    let mut phone = Phone::unregistered(&gateway, peer.port());
    assert_eq!(gateway.rest("/call/find_all", None).0, 404);
    let call = phone.establish("2001", Codecs::PCMU);
    assert_eq!(gateway.rest("/call/find_all", None).0, 200);
    assert_eq!(gateway.rest("/call/terminate", Some(&json!({ "callId": "no-such-call" }))).0, 404);
    let (status, body) = gateway.rest("/call/terminate", Some(&json!({ "callId": call.id })));
    assert_eq!((status, body), (200, json!(null)), "void methods answer with an empty body");
    phone.expect_status(&call.id, "FINISH", Deadline::seconds(3));
    peer.finish(Deadline::seconds(5));
    gateway.wait_idle(Deadline::seconds(8));
}
