//! The SDK driven by script, for what no page shows: watchdogs, timing of a hangup, Chromium's fragmented ClientHello.

use gangway_tests::{
    baresip::{self, Baresip, Video},
    browser::Browser,
    deadline::Deadline,
    gateway::Gateway,
    impairment::{Impairment, Plan},
    kamailio::{self, Kamailio},
    sipp::Sipp,
};
use serde_json::{Value, json};

/// Keeps a session and its calls in `window.test`, with every status in order.
const SESSION: &str = r#"
const S = Flashphoner.constants.SESSION_STATUS, C = Flashphoner.constants.CALL_STATUS;
window.test = { session: [], call: [], connection: null };
const options = { urlServer: argument.ws, ...argument.options };
if (argument.port) options.sipOptions = { login: "1001", password: "x", domain: "127.0.0.1", outboundProxy: "127.0.0.1",
  port: String(argument.port), registerRequired: false };
test.sdk = Flashphoner.createSession(options);
for (const status of ["CONNECTED", "ESTABLISHED", "REGISTERED", "DISCONNECTED", "FAILED", "WARN"])
  test.sdk.on(S[status], (first, connection) => { test.session.push(status); if (connection) test.connection = connection; });
const box = (id) => document.body.appendChild(Object.assign(document.createElement("div"), { id: id + Math.random() }));
test.follow = (call) => {
  const statuses = test.call = [];
  test.current = call;
  for (const status of ["TRYING", "RING", "RING_MEDIA", "ESTABLISHED", "HOLD", "FINISH", "FAILED", "BUSY"])
    call.on(C[status], () => statuses.push(status));
};
test.dial = (callee, hook, more) => {
  test.follow(test.sdk.createCall({ callee, visibleName: "Tester", constraints: { audio: true, video: false },
    localVideoDisplay: box("l"), remoteVideoDisplay: box("r"), sdpHook: hook, ...more }));
  test.current.call();
};
test.answer = (more) => test.current.answer({ localVideoDisplay: box("l"), remoteVideoDisplay: box("r"), ...more });
test.sdk.on(S.INCOMING_CALL, (call) => test.follow(call));
// Pictures painted of the other side in the call in hand.
test.pictures = () => Math.max(0, ...[...document.querySelectorAll("div[id^=r] video")].map((video) => video.getVideoPlaybackQuality().totalVideoFrames));
"#;

pub(crate) fn start_session(browser: &mut Browser, gateway: &Gateway, port: Option<u16>, options: &Value) {
    browser.open("sdk", &gateway.pages());
    browser.wait("sdk", "return typeof Flashphoner !== 'undefined' && document.readyState === 'complete';", 15);
    browser.eval("sdk", SESSION, json!({ "ws": gateway.ws(), "port": port, "options": options }));
    browser.wait("sdk", "return test.session.includes('ESTABLISHED');", 15);
}

/// Checks 2 and 5: a session without sipOptions is ESTABLISHED with a token; the client's watchdog stays quiet.
#[test]
fn the_clients_watchdog_hears_the_pings() {
    let gateway = Gateway::start(&[("keep_alive.server_interval", "1000")]);
    let Some(mut browser) = Browser::start() else { return };
    start_session(&mut browser, &gateway, None, &json!({ "receiveProbes": 3, "probesInterval": 2000 }));
    let token = browser.eval("sdk", "return test.connection.authToken;", Value::Null);
    assert!(token.as_str().is_some_and(|token| token.len() >= 22), "{token}");
    // Long enough for the watchdog: 3 probes of 2 s without a message would end it.
    let lasted = "await new Promise((done) => setTimeout(done, 8000)); return test.session;";
    assert_eq!(browser.eval("sdk", lasted, Value::Null), json!(["CONNECTED", "ESTABLISHED"]));
    browser.eval("sdk", "test.sdk.disconnect();", Value::Null);
    browser.wait("sdk", "return test.session.includes('DISCONNECTED');", 5);
    browser.assert_quiet("sdk", &["demo.json"]);
}

/// Checks 10 and 11 in the SDK's words: the order of the statuses, and `caller()`.
#[test]
fn a_call_has_its_statuses_in_order() {
    let Some(peer) = Sipp::uas("uas_hangup", &[("RING_MS", "300"), ("TALK_MS", "3000")]) else { return };
    let gateway = Gateway::start(&[]);
    let Some(mut browser) = Browser::start() else { return };
    start_session(&mut browser, &gateway, Some(peer.port()), &json!({}));
    browser.eval("sdk", "test.dial('2001');", Value::Null);
    browser.wait("sdk", "return test.call.includes('ESTABLISHED');", 15);
    assert_eq!(browser.eval("sdk", "return test.current.caller();", Value::Null), "1001");
    // The echo of its own beeps.
    browser.wait_heard("sdk", 400, 1, 10);
    browser.wait("sdk", "return test.call.includes('FINISH');", 15);
    assert_eq!(
        browser.eval("sdk", "return test.call;", Value::Null),
        json!(["TRYING", "RING", "ESTABLISHED", "FINISH"])
    );
    peer.finish(Deadline::seconds(5));
    gateway.wait_idle(Deadline::seconds(8));
    browser.assert_quiet("sdk", &["demo.json"]);
}

/// The INVITE that a SIPp has received, without carriage returns.
fn invite_of(peer: &Sipp) -> String {
    let messages = peer.messages().replace('\r', "");
    let invite = &messages[messages.find("INVITE sip:").expect("an INVITE")..];
    invite[..invite.find("-------").unwrap_or(invite.len())].to_owned()
}

/// Checks 16 and 17 in the SDK's words: what it strips of its own offer is missing in the INVITE, and its lines are there.
#[test]
fn the_invite_lacks_what_the_page_strips_and_holds_its_lines() {
    let Some(peer) = Sipp::uas("uas_answer", &[("RING_MS", "20")]) else { return };
    let gateway = Gateway::start(&[]);
    let Some(mut browser) = Browser::start() else { return };
    start_session(&mut browser, &gateway, Some(peer.port()), &json!({}));
    let more = json!({
        "constraints": { "audio": true, "video": true }, "receiveVideo": true, "stripCodecs": "opus,G722",
        "sipSDP": ["b=AS:3000", "a=x-first:1 2", "b=TIAS:2500000"],
    });
    browser.eval("sdk", "test.dial('2001', undefined, argument);", more);
    browser.wait("sdk", "return test.call.includes('ESTABLISHED');", 15);
    let invite = invite_of(&peer);
    assert!(
        invite.contains("\nc=IN IP4 127.0.0.1\nb=AS:3000\na=x-first:1 2\nb=TIAS:2500000\nt=0 0\nm=audio "),
        "{invite}"
    );
    assert!(invite.contains("RTP/AVP 8 0 101\n") && invite.contains(" VP8/90000\n"), "{invite}");
    assert!(!invite.contains("opus") && !invite.contains("G722") && !invite.contains("red"), "{invite}");
    browser.wait_heard("sdk", 400, 1, 15);
    browser.eval("sdk", "test.current.hangup();", Value::Null);
    browser.wait("sdk", "return test.call.includes('FINISH');", 5);
    peer.finish(Deadline::seconds(5));
    gateway.wait_idle(Deadline::seconds(8));
    browser.assert_quiet("sdk", &["demo.json"]);
}

/// Checks 16, 17 and 25: with `stripCodecs` a call with pictures works each way, also where that took feedback away from VP8, apt
/// from rtx and opus from red.
fn pictures_pass_with(strip: &str) {
    let Some(kamailio) = Kamailio::start(&kamailio::Options::default()) else { return };
    let options = baresip::Options { video: Some(Video::Vp8), ..baresip::Options::new(kamailio.port(), "PCMU/8000/1") };
    let Some(mut peer) = Baresip::start(&options) else { return };
    let gateway = Gateway::start(&[]);
    let Some(mut browser) = Browser::start() else { return };
    let account = json!({ "sipOptions": { "login": "1001", "password": "secret-1001", "domain": "127.0.0.1",
        "outboundProxy": "127.0.0.1", "port": kamailio.port().to_string(), "registerRequired": true } });
    start_session(&mut browser, &gateway, None, &account);
    browser.wait("sdk", "return test.session.includes('REGISTERED');", 15);
    let more = json!({ "constraints": { "audio": true, "video": true }, "receiveVideo": true, "stripCodecs": strip });
    for incoming in [false, true] {
        if incoming {
            browser.eval("sdk", "test.call = []; gangwayProbe.heard = {};", Value::Null);
            peer.dial("1001");
            browser.wait("sdk", "return test.call.includes('RING');", 10);
            browser.eval("sdk", "test.answer(argument);", more.clone());
        } else {
            browser.eval("sdk", "test.dial('2001', undefined, argument);", more.clone());
        }
        browser.wait("sdk", "return test.call.includes('ESTABLISHED');", 15);
        peer.wait_event("CALL_ESTABLISHED", Deadline::seconds(5));
        browser.wait("sdk", "return test.pictures() >= 20;", 20);
        assert!(peer.wait_picture(Deadline::seconds(15)).size() > Some((100, 100)));
        browser.wait_heard("sdk", 660, 25, 15);
        browser.eval("sdk", "test.current.hangup();", Value::Null);
        browser.wait("sdk", "return test.call.includes('FINISH');", 5);
        peer.wait_event("CALL_CLOSED", Deadline::seconds(5));
        gateway.wait_idle(Deadline::seconds(8));
    }
    browser.assert_quiet("sdk", &["demo.json"]);
}

#[test]
fn pictures_pass_without_opus_and_g722() {
    pictures_pass_with("opus,G722");
}

#[test]
fn pictures_pass_without_silk_and_g722() {
    pictures_pass_with("SILK,G722");
}

/// Check 35: two calls of one session at once; the peer ends the first, and the second goes on in sound and status.
#[test]
fn the_peer_ends_one_of_two_calls_and_the_other_goes_on() {
    let words = [("RING_MS", "50"), ("TALK_MS", "9000")];
    let options = gangway_tests::sipp::Options { scenario: "uas_hangup", target: None, words: &words, calls: 2 };
    let Some(peer) = Sipp::start(&options) else { return };
    let gateway = Gateway::start(&[]);
    let Some(mut browser) = Browser::start() else { return };
    start_session(&mut browser, &gateway, Some(peer.port()), &json!({}));
    browser.eval("sdk", "test.dial('2001'); test.first = test.call;", Value::Null);
    browser.wait("sdk", "return test.first.includes('ESTABLISHED');", 15);
    let packets =
        "gangwayProbe.stats().then((all) => all.at(-1).rows.find((row) => row.type === 'inbound-rtp').packetsReceived)";
    browser.wait_heard("sdk", 400, 1, 10);
    // The peer ends each call after the same time: the second goes on for as long as the first was alone.
    browser.wait("sdk", &format!("return {packets}.then((packets) => packets > 100);"), 10);
    browser.eval("sdk", "test.dial('2002');", Value::Null);
    browser.wait("sdk", "return test.call.includes('ESTABLISHED');", 15);
    assert_eq!(gateway.metric("gangway_calls", "status=\"established\""), 2.0);
    browser.wait("sdk", "return test.first.includes('FINISH');", 15);
    assert_eq!(browser.eval("sdk", "return test.call;", Value::Null), json!(["TRYING", "RING", "ESTABLISHED"]));
    assert_eq!(gateway.metric("gangway_calls", "status=\"established\""), 1.0);
    browser.eval("sdk", "gangwayProbe.heard = {};", Value::Null);
    let before = browser.eval("sdk", &format!("return {packets};"), Value::Null).as_u64().expect("packets");
    browser.wait_heard("sdk", 400, 1, 5);
    browser.wait("sdk", &format!("return {packets}.then((packets) => packets > {before} + 10);"), 5);
    browser.wait("sdk", "return test.call.includes('FINISH');", 15);
    peer.finish(Deadline::seconds(5));
    gateway.wait_idle(Deadline::seconds(8));
    browser.assert_quiet("sdk", &["demo.json"]);
}

/// Check 19: hangup within 50 ms of call(). While the call is PENDING the SDK says nothing to anybody.
#[test]
fn a_hangup_right_after_the_call_leaves_no_orphan() {
    let Some(peer) = Sipp::start(&gangway_tests::sipp::Options {
        scenario: "uas_answer",
        target: None,
        words: &[("RING_MS", "20")],
        calls: 50,
    }) else {
        return;
    };
    let gateway = Gateway::start(&[("ice_timeout", "2")]);
    let Some(mut browser) = Browser::start() else { return };
    start_session(&mut browser, &gateway, Some(peer.port()), &json!({}));
    for wait_ms in [0, 20, 50] {
        browser.eval(
            "sdk",
            "test.dial('2001'); await new Promise((done) => setTimeout(done, argument)); test.current.hangup();",
            json!(wait_ms),
        );
        browser.wait("sdk", "return test.call.includes('FAILED') || test.call.includes('FINISH');", 10);
    }
    // Whatever reached the peer has ended there: every INVITE has its BYE or its CANCEL.
    gateway.wait_idle(Deadline::seconds(12));
    // The SDK closes its connection before it sends the hangup, so an answer that crosses it on the way meets a closed one.
    let crossed = "Failed to execute 'setRemoteDescription' on 'RTCPeerConnection': The RTCPeerConnection's signalingState is 'closed'";
    browser.assert_quiet("sdk", &["demo.json", crossed]);
}

/// Check 52: Chromium's ClientHello of two fragments through a bad network; then SRTP both ways.
fn chromium_connects_through(plan: Plan) {
    let Some(peer) = Sipp::uas("uas_answer", &[("RING_MS", "10")]) else { return };
    let gateway = Gateway::start(&[("ice_timeout", "20")]);
    let proxy = Impairment::start(gateway.webrtc(), plan);
    let Some(mut browser) = Browser::start() else { return };
    start_session(&mut browser, &gateway, Some(peer.port()), &json!({}));
    let redirect = "test.dial('2001', (sdp) => sdp.sdpString.replace(/(a=candidate:\\S+ \\d+ \\S+ \\d+) \\S+ \\d+/gi, '$1 127.0.0.1 ' + argument));";
    browser.eval("sdk", redirect, json!(proxy.address().port()));
    browser.wait("sdk", "return test.call.includes('ESTABLISHED');", 15);
    browser.wait("sdk", "return gangwayProbe.connections.at(-1).connectionState === 'connected';", 25);
    browser.wait_heard("sdk", 400, 1, 15);
    assert!(plan.loss_percent == 0 || proxy.lost() > 0, "nothing was lost: the proxy is not in the path");
    assert!(!plan.recut || proxy.recut() > 0, "no ClientHello was cut anew: the proxy is not in the path");
    browser.eval("sdk", "test.current.hangup();", Value::Null);
    browser.wait("sdk", "return test.call.includes('FINISH');", 5);
    peer.finish(Deadline::seconds(5));
    gateway.wait_idle(Deadline::seconds(8));
    browser.assert_quiet("sdk", &["demo.json"]);
}

#[test]
fn chromium_connects_with_swapped_and_doubled_fragments() {
    chromium_connects_through(Plan { swap: true, repeat: true, ..Plan::default() });
}

#[test]
fn chromium_connects_with_a_recut_client_hello_and_losses() {
    chromium_connects_through(Plan { recut: true, loss_percent: 20, seed: 11, ..Plan::default() });
}
