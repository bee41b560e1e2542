//! Calls from SIP phones to the browser's side.

use std::time::Duration;

use gangway_tests::{
    baresip::{self, Baresip},
    deadline::Deadline,
    gateway::Gateway,
    kamailio::{self, Kamailio},
    media::Codecs,
    phone::{Phone, TONE_HZ},
    sipp::{self, Sipp},
};
use serde_json::json;

/// Length of tone that both sides must hear.
const HEARD: Duration = Duration::from_millis(400);

/// A registrar that lets anybody call its accounts.
fn open_registrar() -> Option<Kamailio> {
    Kamailio::start(&kamailio::Options { challenge_invite: false, ..kamailio::Options::default() })
}

/// A SIPp that calls 1001 at the registrar.
fn caller(kamailio: &Kamailio, scenario: &str, words: &[(&str, &str)]) -> Option<Sipp> {
    Sipp::start(&sipp::Options { scenario, target: Some(kamailio.port()), words, calls: 1 })
}

/// Check 24: setRemoteSDP, notifyIncomingCall, ring; 180 then 200; ESTABLISHED; tones both ways; the caller hangs up.
fn answers_baresip(browser: Codecs, sip: &'static str) {
    let Some(kamailio) = Kamailio::start(&kamailio::Options::default()) else { return };
    let gateway = Gateway::start(&[]);
    let mut phone = Phone::register(&gateway, kamailio.port());
    let options = baresip::Options { answers: false, ..baresip::Options::new(kamailio.port(), sip) };
    let Some(mut peer) = Baresip::start(&options) else { return };
    peer.dial("1001");
    let incoming = phone.incoming(Deadline::seconds(5));
    assert_eq!((&incoming.call["caller"], &incoming.call["incoming"]), (&json!("2001"), &json!(true)));
    assert_eq!(incoming.call["callee"], "1001");
    peer.wait_event("CALL_RINGING", Deadline::seconds(5));
    assert!(incoming.offer.contains("a=setup:actpass") && incoming.offer.contains("a=candidate"), "{}", incoming.offer);
    assert!(!incoming.offer.contains("m=video"), "{}", incoming.offer);
    let call = phone.answer(&incoming, browser);
    peer.wait_event("CALL_ESTABLISHED", Deadline::seconds(5));
    call.media.wait_heard(660.0, HEARD, Deadline::seconds(10));
    peer.wait_heard(TONE_HZ, HEARD, Deadline::seconds(10));
    peer.hangup();
    phone.expect_status(&call.id, "FINISH", Deadline::seconds(5));
    gateway.wait_idle(Deadline::seconds(8));
}

#[test]
fn incoming_pcmu() {
    answers_baresip(Codecs::PCMU, "PCMU/8000/1");
}

#[test]
fn incoming_pcma_mapped_to_pcmu() {
    answers_baresip(Codecs::PCMU, "PCMA/8000/1");
}

#[test]
fn incoming_pcmu_mapped_to_pcma() {
    answers_baresip(Codecs::PCMA, "PCMU/8000/1");
}

/// Check 21 for an incoming call: the browser hangs up, the peer gets a BYE.
#[test]
fn the_browser_ends_an_incoming_call() {
    let Some(kamailio) = Kamailio::start(&kamailio::Options::default()) else { return };
    let gateway = Gateway::start(&[]);
    let mut phone = Phone::register(&gateway, kamailio.port());
    let options = baresip::Options { answers: false, ..baresip::Options::new(kamailio.port(), "PCMU/8000/1") };
    let Some(mut peer) = Baresip::start(&options) else { return };
    peer.dial("1001");
    let incoming = phone.incoming(Deadline::seconds(5));
    let call = phone.answer(&incoming, Codecs::PCMU);
    peer.wait_event("CALL_ESTABLISHED", Deadline::seconds(5));
    phone.hangup(&call.id);
    phone.expect_status(&call.id, "FINISH", Deadline::seconds(3));
    peer.wait_event("CALL_CLOSED", Deadline::seconds(5));
    gateway.wait_idle(Deadline::seconds(8));
}

/// The caller's name is shown (section 3.3), 180 comes before 200, and SIPp's echo comes back.
#[test]
fn the_callers_name_is_shown() {
    let Some(kamailio) = open_registrar() else { return };
    let gateway = Gateway::start(&[]);
    let mut phone = Phone::register(&gateway, kamailio.port());
    let Some(peer) = caller(&kamailio, "uac_call", &[("TALK_MS", "1500")]) else { return };
    let incoming = phone.incoming(Deadline::seconds(5));
    assert_eq!(incoming.call["visibleName"], "Sippy Caller");
    assert_eq!(incoming.call["caller"], "sipp");
    let call = phone.answer(&incoming, Codecs::PCMU);
    call.media.wait_heard(TONE_HZ, HEARD, Deadline::seconds(10));
    phone.expect_status(&call.id, "FINISH", Deadline::seconds(8));
    peer.finish(Deadline::seconds(5));
    gateway.wait_idle(Deadline::seconds(8));
}

/// Check 26: reject at RING.
#[test]
fn a_rejected_call_is_declined() {
    let Some(kamailio) = open_registrar() else { return };
    let gateway = Gateway::start(&[]);
    let mut phone = Phone::register(&gateway, kamailio.port());
    let Some(peer) = caller(&kamailio, "uac_refused", &[("STATUS", "603")]) else { return };
    let incoming = phone.incoming(Deadline::seconds(5));
    phone.hangup(&incoming.id);
    phone.expect_status(&incoming.id, "FINISH", Deadline::seconds(3));
    peer.finish(Deadline::seconds(8));
    gateway.wait_idle(Deadline::seconds(8));
}

/// Check 27: the caller gives up; a late answer is harmless.
#[test]
fn a_cancelled_call_finishes_and_a_late_answer_is_harmless() {
    let Some(kamailio) = open_registrar() else { return };
    let gateway = Gateway::start(&[]);
    let mut phone = Phone::register(&gateway, kamailio.port());
    let Some(peer) = caller(&kamailio, "uac_cancel", &[("RING_MS", "500")]) else { return };
    let incoming = phone.incoming(Deadline::seconds(5));
    phone.expect_status(&incoming.id, "FINISH", Deadline::seconds(5));
    peer.finish(Deadline::seconds(8));
    phone.send_answer(&incoming, Codecs::PCMU);
    phone.expect_status(&incoming.id, "FAILED", Deadline::seconds(3));
    assert!(phone.socket.is_open());
    gateway.wait_idle(Deadline::seconds(8));
}

/// Check 28: nobody reacts; the peer gets 480 after the ring timeout.
#[test]
fn an_ignored_call_ends_with_480_after_the_ring_timeout() {
    let Some(kamailio) = open_registrar() else { return };
    let gateway = Gateway::start(&[("ring_timeout", "1")]);
    let mut phone = Phone::register(&gateway, kamailio.port());
    let Some(peer) = caller(&kamailio, "uac_refused", &[("STATUS", "480")]) else { return };
    let incoming = phone.incoming(Deadline::seconds(5));
    phone.next_status(&incoming.id, Deadline::seconds(5));
    peer.finish(Deadline::seconds(8));
    gateway.wait_idle(Deadline::seconds(8));
}

/// The browser goes while it rings: the caller is told.
#[test]
fn a_browser_that_leaves_while_it_rings_refuses_the_call() {
    let Some(kamailio) = open_registrar() else { return };
    let gateway = Gateway::start(&[]);
    let mut phone = Phone::register(&gateway, kamailio.port());
    let Some(peer) = caller(&kamailio, "uac_refused", &[("STATUS", "480")]) else { return };
    phone.incoming(Deadline::seconds(5));
    phone.socket.close();
    peer.finish(Deadline::seconds(8));
    gateway.wait_idle(Deadline::seconds(8));
}

/// The browser answers and never starts ICE: FAILED, and a BYE to the caller.
#[test]
fn an_answered_call_without_ice_is_ended() {
    let Some(kamailio) = open_registrar() else { return };
    let gateway = Gateway::start(&[("ice_timeout", "2")]);
    let mut phone = Phone::register(&gateway, kamailio.port());
    let options = baresip::Options { answers: false, ..baresip::Options::new(kamailio.port(), "PCMU/8000/1") };
    let Some(mut peer) = Baresip::start(&options) else { return };
    peer.dial("1001");
    let incoming = phone.incoming(Deadline::seconds(5));
    let call = phone.send_answer(&incoming, Codecs::PCMU);
    call.media.vanish();
    peer.wait_event("CALL_ESTABLISHED", Deadline::seconds(5));
    let deadline = Deadline::seconds(8);
    while phone.next_status(&call.id, deadline).status != "FAILED" {}
    peer.wait_event("CALL_CLOSED", Deadline::seconds(5));
    gateway.wait_idle(Deadline::seconds(8));
}

/// Two sessions of one account and a caller who asks the registrar: both bindings ring, the first answer wins.
#[test]
fn the_second_session_stops_ringing_when_the_first_answers() {
    let Some(kamailio) = open_registrar() else { return };
    let gateway = Gateway::start(&[]);
    let mut first = Phone::register(&gateway, kamailio.port());
    let mut second = Phone::register(&gateway, kamailio.port());
    let options = baresip::Options { answers: false, ..baresip::Options::new(kamailio.port(), "PCMU/8000/1") };
    let Some(mut peer) = Baresip::start(&options) else { return };
    peer.dial("1001");
    let ringing = first.incoming(Deadline::seconds(5));
    let other = second.incoming(Deadline::seconds(5));
    let call = first.answer(&ringing, Codecs::PCMU);
    second.expect_status(&other.id, "FINISH", Deadline::seconds(5));
    peer.wait_event("CALL_ESTABLISHED", Deadline::seconds(5));
    peer.hangup();
    first.expect_status(&call.id, "FINISH", Deadline::seconds(8));
    gateway.wait_idle(Deadline::seconds(8));
}

/// Check 17 for `answer`: the page's `sipSDP` lines stand in the 200 between `c=` and `t=`, verbatim and in order.
#[test]
fn sip_sdp_lines_of_the_answer_are_in_the_200() {
    let Some(kamailio) = open_registrar() else { return };
    let gateway = Gateway::start(&[]);
    let mut phone = Phone::register(&gateway, kamailio.port());
    let Some(peer) = caller(&kamailio, "uac_call", &[("TALK_MS", "200")]) else { return };
    let incoming = phone.incoming(Deadline::seconds(5));
    let lines = json!({ "sipSDP": ["b=AS:3000", "a=x-first:1", "b=TIAS:2500000", "a=x-second"] });
    let call = phone.send_answer_with(&incoming, Codecs::PCMU, &lines);
    phone.expect_status(&call.id, "ESTABLISHED", Deadline::seconds(5));
    phone.expect_status(&call.id, "FINISH", Deadline::seconds(8));
    peer.finish(Deadline::seconds(5));
    let messages = peer.messages().replace('\r', "");
    let ok = &messages[messages.find("SIP/2.0 200").expect("a 200")..];
    let (_, session) = ok.split_once("\nc=IN IP4 127.0.0.1\n").expect("a connection line");
    assert!(session.starts_with("b=AS:3000\na=x-first:1\nb=TIAS:2500000\na=x-second\nt=0 0\nm=audio "), "{ok}");
    gateway.wait_idle(Deadline::seconds(8));
}
