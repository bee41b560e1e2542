//! The peers against each other, without Gangway: when one of these fails the harness is at fault.

use std::time::Duration;

use gangway_tests::{
    baresip::{self, Baresip},
    deadline::Deadline,
    kamailio::{self, Kamailio},
    sipp::{self, Sipp},
};

/// Two baresips register at Kamailio by digest, call each other, and each hears the other's tone.
fn two_phones_talk(codec: &'static str) {
    let Some(kamailio) = Kamailio::start(&kamailio::Options::default()) else { return };
    let caller_options = baresip::Options {
        user: "2002",
        password: "secret-2002",
        answers: false,
        tone_hz: 440,
        ..baresip::Options::new(kamailio.port(), codec)
    };
    let Some(mut callee) = Baresip::start(&baresip::Options::new(kamailio.port(), codec)) else { return };
    let Some(mut caller) = Baresip::start(&caller_options) else { return };
    for user in ["2001", "2002"] {
        kamailio.wait_registered(user, true, Deadline::seconds(5));
    }
    caller.dial("2001");
    caller.wait_event("CALL_ESTABLISHED", Deadline::seconds(10));
    callee.wait_event("CALL_ESTABLISHED", Deadline::seconds(10));
    caller.wait_heard(660.0, Duration::from_millis(500), Deadline::seconds(10));
    callee.wait_heard(440.0, Duration::from_millis(500), Deadline::seconds(10));
    callee.hangup();
    caller.wait_event("CALL_CLOSED", Deadline::seconds(5));
    assert!(kamailio.seen("INVITE") >= 2, "the INVITE was challenged");
}

#[test]
fn two_phones_talk_pcmu() {
    two_phones_talk("PCMU/8000/1");
}

#[test]
fn two_phones_talk_opus() {
    two_phones_talk("opus/48000/2");
}

/// SIPp calls a baresip through Kamailio: found by its registration, answered, echoed, hung up.
#[test]
fn sipp_calls_through_kamailio() {
    let options = kamailio::Options { challenge_invite: false, ..kamailio::Options::default() };
    let Some(kamailio) = Kamailio::start(&options) else { return };
    let Some(mut callee) = Baresip::start(&baresip::Options::new(kamailio.port(), "PCMU/8000/1")) else { return };
    let words = [("CALLEE", "2001")];
    let caller = sipp::Options { scenario: "uac_call", target: Some(kamailio.port()), words: &words, calls: 1 };
    let Some(caller) = Sipp::start(&caller) else { return };
    callee.wait_event("CALL_ESTABLISHED", Deadline::seconds(5));
    // Its own tone, echoed.
    callee.wait_heard(660.0, Duration::from_millis(300), Deadline::seconds(5));
    caller.finish(Deadline::seconds(10));
    callee.wait_event("CALL_CLOSED", Deadline::seconds(5));
}

/// A SIPp that calls directly against one that plays the scenario of the other side.
fn sipp_against_sipp(answering: &str, calling: &str, words: &[(&str, &str)]) {
    let Some(callee) = Sipp::uas(answering, words) else { return };
    let caller = sipp::Options { scenario: calling, target: Some(callee.port()), words, calls: 1 };
    let Some(caller) = Sipp::start(&caller) else { return };
    caller.finish(Deadline::seconds(10));
    callee.finish(Deadline::seconds(10));
    assert_eq!(callee.received("INVITE"), 1);
}

#[test]
fn sipp_scenarios_fit_each_other() {
    sipp_against_sipp("uas_answer", "uac_call", &[("TALK_MS", "100")]);
    sipp_against_sipp("uas_cancelled", "uac_cancel", &[]);
}
