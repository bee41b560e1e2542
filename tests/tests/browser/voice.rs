//! Calls in which somebody says nothing: pages without devices, and callees that ring without media.

use gangway_tests::{
    baresip::{self, Baresip},
    browser::Browser,
    deadline::Deadline,
    gateway::Gateway,
    kamailio::{self, Kamailio},
    sipp::Sipp,
};
use serde_json::{Value, json};

use crate::sdk::start_session;

/// Ends a call in which it hears nothing.
const PHONE_TIMEOUT_S: u32 = 2;

/// A page without microphone and camera that has called an impatient phone; `None` when a peer is missing.
fn listening(gateway: &Gateway, receives_video: bool, codec: &'static str) -> Option<(Browser, Baresip, Kamailio)> {
    let kamailio = Kamailio::start(&kamailio::Options::default())?;
    let options =
        baresip::Options { rtp_timeout_s: Some(PHONE_TIMEOUT_S), ..baresip::Options::new(kamailio.port(), codec) };
    let mut phone = Baresip::start(&options)?;
    let mut browser = Browser::start()?;
    let account = json!({ "sipOptions": { "login": "1001", "password": "secret-1001", "domain": "127.0.0.1",
        "outboundProxy": "127.0.0.1", "port": kamailio.port().to_string(), "registerRequired": true } });
    start_session(&mut browser, gateway, None, &account);
    browser.wait("sdk", "return test.session.includes('REGISTERED');", 15);
    let more = json!({ "constraints": { "audio": false, "video": false }, "receiveVideo": receives_video });
    browser.eval("sdk", "test.dial('2001', undefined, argument);", more);
    browser.wait("sdk", "return test.call.includes('ESTABLISHED');", 15);
    phone.wait_event("CALL_ESTABLISHED", Deadline::seconds(5));
    Some((browser, phone, kamailio))
}

/// Check 15: longer than the activity timers of gateway and phone, with the gateway's turned on. The phone's decoder judges the silence.
fn a_page_without_devices_stays_in_its_call(receives_video: bool, codec: &'static str) {
    let gateway = Gateway::start(&[("rtp_activity_detecting", "true,1")]);
    let Some((mut browser, mut phone, _kamailio)) = listening(&gateway, receives_video, codec) else { return };
    let directions = "return gangwayProbe.connections.at(-1).localDescription.sdp.match(/a=(sendrecv|recvonly|sendonly|inactive)/g);";
    let expected = vec!["a=recvonly"; if receives_video { 2 } else { 1 }];
    assert_eq!(browser.eval("sdk", directions, Value::Null), json!(expected));
    browser.wait_heard("sdk", 660, 25, 15);
    browser.wait("sdk", "return performance.now() - gangwayProbe.talks.at(-1) > 7000;", 10);
    assert_eq!(browser.eval("sdk", "return test.call.at(-1);", Value::Null), "ESTABLISHED");
    assert!(!phone.has_event("CALL_CLOSED"), "the phone hears us");
    browser.eval("sdk", "gangwayProbe.heard = {};", Value::Null);
    browser.wait_heard("sdk", 660, 25, 5);
    browser.eval("sdk", "test.current.hangup();", Value::Null);
    browser.wait("sdk", "return test.call.includes('FINISH');", 5);
    phone.wait_event("CALL_CLOSED", Deadline::seconds(5));
    let heard = phone.recordings();
    let seconds: f64 = heard.iter().map(|sound| sound.samples.len() as f64 / f64::from(sound.rate_hz)).sum();
    let loudest = heard.iter().flat_map(|sound| &sound.samples).fold(0.0, |loudest: f32, at| loudest.max(at.abs()));
    assert!(seconds > 5.0 && loudest < 0.001, "{seconds} s, the loudest sample {loudest}");
    gateway.wait_idle(Deadline::seconds(8));
    browser.assert_quiet("sdk", &["demo.json"]);
}

#[test]
fn a_page_without_devices_that_wants_no_video_stays_in_its_call() {
    a_page_without_devices_stays_in_its_call(false, "PCMU/8000/1");
}

#[test]
fn a_page_without_devices_stays_in_a_call_in_g722() {
    a_page_without_devices_stays_in_its_call(false, "G722/16000/1");
}

#[test]
fn a_page_without_devices_that_would_take_video_stays_in_its_call() {
    a_page_without_devices_stays_in_its_call(true, "opus/48000/2");
}

/// What the phone of the tests above would do without the gateway's silence.
#[test]
fn without_silence_of_ours_the_phone_gives_up() {
    let gateway = Gateway::start(&[("rtp_generator_start_timeout", "86400000")]);
    let Some((mut browser, mut phone, _kamailio)) = listening(&gateway, false, "PCMU/8000/1") else { return };
    phone.wait_event("CALL_CLOSED", Deadline::seconds(10));
    browser.wait("sdk", "return test.call.includes('FINISH');", 5);
    gateway.wait_idle(Deadline::seconds(8));
}

#[test]
fn a_browser_hears_the_tone_while_it_rings_and_not_after() {
    let Some(peer) = Sipp::uas("uas_answer", &[("RING_MS", "4000")]) else { return };
    let settings = [("ringback", "auto"), ("codecs", "alaw,ulaw,telephone-event"), ("allow_outside_codecs", "false")];
    let gateway = Gateway::start(&settings);
    let Some(mut browser) = Browser::start() else { return };
    start_session(&mut browser, &gateway, Some(peer.port()), &json!({}));
    // Without a microphone whose beeps would come back.
    let more = json!({ "constraints": { "audio": false, "video": false }, "receiveVideo": false });
    browser.eval("sdk", "test.dial('2001', undefined, argument);", more);
    browser.wait("sdk", "return test.call.includes('RING_MEDIA');", 10);
    browser.wait_heard("sdk", 425, 25, 10);
    assert_eq!(browser.eval("sdk", "return test.call;", Value::Null), json!(["TRYING", "RING", "RING_MEDIA"]));
    browser.wait("sdk", "return test.call.includes('ESTABLISHED');", 10);
    // What is under way may still sound for a moment; then a whole cadence of the tone passes.
    let after = "const pause = (ms) => new Promise((done) => setTimeout(done, ms));
        await pause(500); gangwayProbe.heard = {}; await pause(5500); return gangwayProbe.heard;";
    assert_eq!(browser.eval("sdk", after, Value::Null), json!({}));
    browser.eval("sdk", "test.current.hangup();", Value::Null);
    browser.wait("sdk", "return test.call.includes('FINISH');", 5);
    peer.finish(Deadline::seconds(5));
    gateway.wait_idle(Deadline::seconds(8));
    browser.assert_quiet("sdk", &["demo.json"]);
}
