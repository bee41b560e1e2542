//! Our phone page alone: its files from the tree, and a gateway that is a few lines of script. What it says in which case, and
//! what it does by keyboard.

use gangway_tests::{
    browser::{Browser, View},
    source::root,
};
use serde_json::json;

use crate::scripted::{connect, fill_in, open, page, problem, ring_out, talk};

#[test]
fn each_refusal_is_told_in_words() {
    let Some(mut browser) = page(None, false) else { return };
    connect(&mut browser);
    for (end, words) in [
        (json!({ "status": "FAILED", "sipStatus": 404 }), "No such number: 604"),
        (json!({ "status": "FINISH", "sipStatus": 486 }), "604 is busy"),
        (json!({ "status": "FAILED", "sipStatus": 480 }), "604 is not available"),
        (json!({ "status": "FINISH", "sipStatus": 603 }), "604 declined the call"),
        (json!({ "status": "FAILED", "info": "Failed by ICE error" }), "The sound could not be connected"),
        (json!({ "status": "FAILED", "info": "No common codecs" }), "No common audio format"),
        (json!({ "status": "FAILED", "info": "Failed by request timeout" }), "604 did not answer"),
        (json!({ "status": "FAILED", "sipStatus": 500 }), "The call failed"),
    ] {
        browser.eval("phone", "gateway.end = argument;", end.clone());
        browser.fill("phone", "#number", "604");
        browser.press("phone", "Enter");
        assert_eq!(problem(&mut browser), words, "{end}");
        browser.click("phone", "#problem-close");
        browser.wait("phone", "return !document.querySelector('#dial-button').disabled;", 5);
    }
    browser.assert_quiet("phone", &["demo.json"]);
}

#[test]
fn a_refused_connection_is_told_in_words_and_can_be_tried_again() {
    let Some(mut browser) = page(None, false) else { return };
    browser.eval("phone", "gateway.refuse = 'AUTHENTICATION_FAIL';", json!(null));
    browser.click("phone", "#connect");
    assert_eq!(problem(&mut browser), "Wrong login or password");
    browser.eval("phone", "gateway.refuse = 'REGISTER_EXPIRE';", json!(null));
    browser.click("phone", "#connect");
    assert_eq!(problem(&mut browser), "The SIP server does not answer");
    browser.eval("phone", "gateway.refuse = null;", json!(null));
    connect(&mut browser);
    browser.eval("phone", "gateway.sockets.at(-1).close();", json!(null));
    assert_eq!(problem(&mut browser), "The connection to the gateway was lost");
}

#[test]
fn a_refused_microphone_is_told_in_words() {
    let Some(mut browser) = page(None, false) else { return };
    connect(&mut browser);
    browser.eval("phone", "gangwayProbe.denyMicrophone = true;", json!(null));
    browser.fill("phone", "#number", "600");
    browser.press("phone", "Enter");
    assert_eq!(problem(&mut browser), "No permission to use the microphone");
    browser.wait("phone", "return !document.querySelector('#dial-button').disabled;", 5);
}

#[test]
fn the_page_says_that_the_browser_is_asking_for_the_microphone() {
    let Some(mut browser) = page(None, false) else { return };
    connect(&mut browser);
    let pending = "navigator.permissions.query = async () => (window.permission = { state: 'prompt' }); \
                   Navigator.prototype.webkitGetUserMedia = navigator.getUserMedia = () => {};";
    browser.eval("phone", pending, json!(null));
    browser.fill("phone", "#number", "600");
    browser.press("phone", "Enter");
    browser.wait_text("phone", "#call-status", "Please allow the microphone", 5);
    browser.eval("phone", "permission.onchange();", json!(null));
    browser.wait_text("phone", "#call-status", "Starting", 5);
    browser.press("phone", "Escape");
    browser.wait("phone", "return !document.querySelector('#dial').hidden;", 5);
    browser.assert_quiet("phone", &["demo.json"]);
}

#[test]
fn hanging_up_oneself_is_no_problem() {
    let Some(mut browser) = page(None, false) else { return };
    connect(&mut browser);
    browser.fill("phone", "#number", "600");
    browser.press("phone", "Enter");
    browser.wait_text("phone", "#call-status", "Ringing", 5);
    browser.click("phone", "#hangup");
    browser.wait("phone", "return !document.querySelector('#dial').hidden;", 5);
    assert_eq!(browser.eval("phone", "return document.querySelector('#problem').hidden;", json!(null)), true);
    browser.assert_quiet("phone", &["demo.json"]);
}

/// Each reason that the gateway can give has a title and advice, and no blank is left in them.
#[test]
fn every_known_reason_has_words() {
    let Some(mut browser) = page(None, false) else { return };
    let script = r#"
        const { explainAddress, explainCall, explainCapture, explainSession, explainSocket, explainMicrophone, explainPage } = await import("/modules/failures.js");
        const infos = Object.values(Flashphoner.constants.CALL_STATUS_INFO);
        const fails = ["AUTHENTICATION_FAIL", "USER_NOT_AVAILABLE", "TOO_MANY_REGISTER_ATTEMPTS", "LICENSE_RESTRICTION",
          "LICENSE_NOT_FOUND", "INTERNAL_SIP_ERROR", "CONNECTION_ERROR", "REGISTER_EXPIRE", "SIP_PORTS_BUSY", "MEDIA_PORTS_BUSY",
          "WRONG_SIPPROVIDER_ADDRESS", "CALLEE_NAME_IS_NULL", "PAYMENT_REQUIRED", "REST_AUTHORIZATION_FAIL", "REST_FAIL",
          "authToken: it is unknown or has expired", "sipLogin: it may not hold a space", "something new", ""];
        const said = [];
        for (const info of infos) said.push([info, explainCall({ status: "FAILED", info }, "600")]);
        for (let sipStatus = 300; sipStatus < 700; sipStatus++) said.push([sipStatus, explainCall({ status: "FAILED", sipStatus }, "600")]);
        said.push(["nothing", explainCall({}, "600")]);
        for (const info of fails) said.push([info, explainSession({ status: "FAILED", info })]);
        said.push(["lost", explainSession({ status: "UNREGISTERED" })]);
        for (const code of [0, 1000, 1001, 1006, 1008, 1009, 1012, 1013]) {
          said.push([code, explainSocket("closed", "ws://a", code)], [code, explainSocket("refused", "wss://a", code)]);
        }
        said.push(["ws by https", explainAddress("ws://a", true)], ["no address", explainAddress("wss://a/#b", true)], ["no address", explainAddress("ws://a/#b", false)]);
        for (const name of ["NotAllowedError", "NotFoundError", "NotReadableError", "OverconstrainedError", "SecurityError",
          "Permission denied", "Requested device not found", "Could not start audio source", "Could not start video source",
          "Starting videoinput failed", "The object can not be found here.", "", "other"]) {
          said.push([name, explainMicrophone(name)], [name, explainCapture(name, true)], [name, explainCapture(name, false)]);
        }
        for (const name of ["insecure", "noSdk", "noWebRtc", "microphoneLost", "speakerRefused", "microphoneRefused", "cameraLost",
          "cameraRefused", "shapeRefused", "screenRefused"]) said.push([name, explainPage(name)]);
        const bad = said.filter(([, { title, advice }]) => !title || !advice || /[{}]|undefined|null/.test(title + advice));
        const vague = infos.filter((info) => !explainCall({ status: "FAILED", info }, "600").advice || explainCall({ info }, "600").title === explainCall({}, "600").title);
        return { told: said.length, infos: infos.length, bad, vague };
    "#;
    let said = browser.eval("phone", script, json!(null));
    assert_eq!((&said["bad"], &said["vague"]), (&json!([]), &json!([])), "{said}");
    assert!(said["told"].as_u64() > Some(450) && said["infos"] == 11, "{said}");
}

#[test]
fn an_unreachable_gateway_is_told_with_the_way_to_its_certificate() {
    let Some(mut browser) = page(None, false) else { return };
    browser.eval("phone", "gateway.isDown = true;", json!(null));
    browser.click("phone", "#connect");
    assert_eq!(problem(&mut browser), "The gateway cannot be reached");
    assert!(browser.text("phone", "#problem-advice").contains("ws://localhost:8080"));
    browser.click("phone", "summary");
    browser.fill("phone", "#url", "wss://gw.example.com:8443");
    browser.click("phone", "#connect");
    browser.wait("phone", "return !document.querySelector('#problem-link').hidden;", 5);
    assert_eq!(browser.text("phone", "#problem-link"), "https://gw.example.com:8443");
    // A gateway that is full says so by its close code.
    browser.eval("phone", "gateway.isDown = false; gateway.on = (frame, socket) => socket.close(1013);", json!(null));
    browser.click("phone", "#connect");
    browser.wait_text("phone", "#problem-title", "The gateway is full", 5);
}

/// The browser's own websocket: it throws for these addresses, where it only fails later for others.
#[test]
fn an_address_that_the_browser_refuses_is_told_and_can_be_corrected() {
    let Some(mut browser) = Browser::start() else { return };
    let site = "https://phone.example/";
    let (web, sdk) = (root().join("control/web"), root().join("node_modules/@flashphoner/websdk"));
    let files = [(site, web.as_path()), ("https://phone.example/client2/", sdk.as_path())];
    browser.open_as("phone", site, &View { files: &files, ..View::default() });
    browser.wait("phone", "return document.activeElement && document.activeElement.id === 'login';", 10);
    browser.fill("phone", "#login", "1001");
    browser.click("phone", "summary");
    for (url, title, word) in [
        ("ws://gw.example.com:8080", "This page needs a secure address of the gateway", "begins with wss://"),
        (
            "wss://gw.example.com:8443/#phone",
            "The gateway's address cannot be used",
            "wss://gw.example.com:8443/#phone",
        ),
        // One that it does not refuse, but nobody is there.
        ("wss://localhost:1", "The gateway cannot be reached", "certificate"),
    ] {
        browser.fill("phone", "#url", url);
        browser.click("phone", "#connect");
        browser.wait_text("phone", "#problem-title", title, 5);
        assert!(browser.text("phone", "#problem-advice").contains(word), "{url}");
        let state = "return [document.querySelector('#session-status').textContent, document.querySelector('#connect').textContent];";
        assert_eq!(browser.eval("phone", state, json!(null)), json!(["Not connected", "Connect"]), "{url}");
        let disabled = "return document.querySelectorAll('#account input:disabled').length;";
        assert_eq!(browser.eval("phone", disabled, json!(null)), 0, "{url}");
        browser.click("phone", "#problem-close");
    }
    browser.assert_quiet("phone", &["demo.json", "Mixed Content", "WebSocket connection to"]);
}

/// Browsers keep the microphone from pages that come from another machine without https.
#[test]
fn a_page_without_https_says_where_to_open_it() {
    let Some(mut browser) = Browser::start() else { return };
    let site = "http://phone.example:1/";
    browser.open_as("phone", site, &View { files: &[(site, &root().join("control/web"))], ..View::default() });
    assert_eq!(problem(&mut browser), "This page may not use the microphone here");
    assert_eq!(browser.eval("phone", "return document.querySelector('#connect').disabled;", json!(null)), true);
}

#[test]
fn digits_typed_anywhere_are_dialled_and_keys_end_calls() {
    let Some(mut browser) = page(None, false) else { return };
    connect(&mut browser);
    browser.eval("phone", "document.activeElement.blur();", json!(null));
    for key in ["6", "0", "4", "Backspace", "0"] {
        browser.press("phone", key);
    }
    assert_eq!(browser.eval("phone", "return document.querySelector('#number').value;", json!(null)), "600");
    browser.press("phone", "Enter");
    browser.wait_text("phone", "#call-status", "Ringing", 5);
    assert_eq!(browser.eval("phone", "return document.activeElement.id;", json!(null)), "call");
    // Before the answer, Escape gives up.
    browser.press("phone", "Escape");
    browser.wait("phone", "return !document.querySelector('#dial').hidden;", 5);
    // A conversation is not cut off by one key: Escape leads to the button, Enter ends the call.
    talk(&mut browser);
    browser.press("phone", "Escape");
    assert_eq!(browser.eval("phone", "return document.activeElement.id;", json!(null)), "hangup");
    assert_eq!(browser.text("phone", "#call-status"), "In call");
    browser.press("phone", "Enter");
    browser.wait("phone", "return !document.querySelector('#dial').hidden;", 5);
    assert_eq!(browser.eval("phone", "return document.activeElement.id;", json!(null)), "number");
    // An empty field brings back what was dialled last.
    browser.press("phone", "Enter");
    assert_eq!(browser.eval("phone", "return document.querySelector('#number').value;", json!(null)), "600");
    browser.assert_quiet("phone", &["demo.json"]);
}

#[test]
fn the_pad_dials_and_zero_held_is_a_plus() {
    let Some(mut browser) = page(Some((390, 844)), false) else { return };
    connect(&mut browser);
    for key in ["4", "2", "#"] {
        browser.click("phone", &format!("#pad [data-key='{key}']"));
    }
    let hold = "const zero = document.querySelector(\"#pad [data-key='0']\"); \
                zero.dispatchEvent(new PointerEvent('pointerdown')); \
                const field = document.querySelector('#number'); \
                await new Promise((done) => { const look = () => field.value.endsWith('+') ? done() : requestAnimationFrame(look); look(); }); \
                zero.dispatchEvent(new PointerEvent('pointerup')); zero.click(); return field.value;";
    assert_eq!(browser.eval("phone", hold, json!(null)), "42#+");
    browser.click("phone", "#erase");
    browser.click("phone", "#pad [data-key='0']");
    assert_eq!(browser.eval("phone", "return document.querySelector('#number').value;", json!(null)), "42#0");
    // What people write between digits is not dialled.
    browser.fill("phone", "#number", "+49 (30) 12-34");
    browser.click("phone", "#dial-button");
    browser.wait_text("phone", "#call-status", "Ringing", 5);
    let callee = "return gateway.sent.findLast((frame) => frame.message === 'call').data[0].callee;";
    assert_eq!(browser.eval("phone", callee, json!(null)), "+49301234");
}

#[test]
fn the_focus_goes_to_an_incoming_call_and_back() {
    let Some(mut browser) = page(None, false) else { return };
    connect(&mut browser);
    let focus = "return document.activeElement.id;";
    browser.eval("phone", "document.querySelector('#microphone').focus(); gateway.calls('in-1', '1002');", json!(null));
    browser.wait_text("phone", "#incoming-name", "1002", 5);
    assert_eq!(browser.eval("phone", focus, json!(null)), "answer");
    assert_eq!(browser.eval("phone", "return document.title;", json!(null)), "Incoming call from 1002 - Gangway Phone");
    // A key that was meant for something else does not answer.
    browser.press("phone", "Enter");
    assert_eq!(browser.eval("phone", "return document.querySelector('#incoming').hidden;", json!(null)), false);
    browser.press("phone", "Escape");
    browser.wait("phone", "return document.querySelector('#incoming').hidden;", 5);
    assert_eq!(browser.eval("phone", focus, json!(null)), "microphone");
    let hangups =
        "return gateway.sent.filter((frame) => frame.message === 'hangup').map((frame) => frame.data[0].callId);";
    assert_eq!(browser.eval("phone", hangups, json!(null)), json!(["in-1"]));
    // Whoever calls during a call hears busy; the call there is goes on.
    ring_out(&mut browser);
    browser.eval("phone", "gateway.calls('in-2', '1003');", json!(null));
    assert_eq!(browser.eval("phone", hangups, json!(null)), json!(["in-1", "in-2"]));
    assert_eq!(browser.text("phone", "#call-name"), "600");
    assert_eq!(browser.eval("phone", "return document.querySelector('#call').hidden;", json!(null)), false);
    browser.press("phone", "Escape");
    browser.wait("phone", "return !document.querySelector('#dial').hidden;", 5);
    // A caller who gives up is in the list, and told in words.
    browser.eval("phone", "gateway.calls('in-3', '1004'); gateway.sockets.at(-1).tell('finish', { callId: 'in-3', status: 'FINISH', sipStatus: 487 });", json!(null));
    browser.wait_text("phone", "#last-call", "Missed call from 1004.", 5);
    let rows = "return [...document.querySelectorAll('#history button')].map((row) => row.querySelector('.name').textContent + ' ' + row.querySelector('.result').textContent);";
    assert_eq!(browser.eval("phone", rows, json!(null)), json!(["1004 Missed", "600 Cancelled", "1002 Declined"]));
    browser.assert_quiet("phone", &["demo.json"]);
}

#[test]
fn a_session_that_breaks_in_a_call_gives_the_microphone_back() {
    let Some(mut browser) = page(None, false) else { return };
    connect(&mut browser);
    ring_out(&mut browser);
    browser.eval(
        "phone",
        "gateway.talks(); window.track = document.querySelector('#local-media video').srcObject.getAudioTracks()[0];",
        json!(null),
    );
    browser.wait_text("phone", "#call-status", "In call", 5);
    browser.eval("phone", "gateway.sockets.at(-1).close(1006);", json!(null));
    assert_eq!(problem(&mut browser), "The connection to the gateway was lost");
    assert_eq!(browser.eval("phone", "return track.readyState;", json!(null)), "ended");
    assert_eq!(browser.text("phone", "#history .result"), "Connection lost, 0:00");
    browser.assert_quiet("phone", &["demo.json"]);
}

/// The devices that the page sees from now on: names of microphones; told as a plug does.
const PLUG: &str = r#"
navigator.mediaDevices.enumerateDevices = async () => argument.map((name) => ({ kind: "audioinput", deviceId: `id of ${name}`, label: name }));
navigator.mediaDevices.dispatchEvent(new Event("devicechange"));
"#;

#[test]
fn devices_follow_plugging_and_the_choice_is_remembered() {
    let Some(mut browser) = page(None, false) else { return };
    let options =
        "return [...document.querySelector('#microphone').options].map((option) => option.textContent).join();";
    let wait_options = |browser: &mut Browser, names: &str| {
        browser.wait("phone", &format!("{} === {};", options.trim_end_matches(';'), json!(names)), 5);
    };
    // Before the microphone was allowed, a browser tells how many there are at best.
    browser.eval("phone", PLUG, json!([""]));
    browser.wait("phone", "return !document.querySelector('#sound-allow').hidden;", 5);
    browser.eval("phone", PLUG, json!(["Desk", "Headset"]));
    wait_options(&mut browser, "System default,Desk,Headset");
    browser.wait("phone", "return document.querySelector('#sound-allow').hidden;", 5);
    browser.eval("phone", "const list = document.querySelector('#microphone'); list.value = 'id of Headset'; list.dispatchEvent(new Event('change'));", json!(null));
    browser.eval("phone", PLUG, json!(["Desk"]));
    wait_options(&mut browser, "System default,Desk,Headset (away)");
    assert!(browser.text("phone", "#sound-note").starts_with("Headset is away"));
    browser.eval("phone", PLUG, json!(["Headset", "Desk", "Camera"]));
    wait_options(&mut browser, "System default,Headset,Desk,Camera");
    assert_eq!(browser.text("phone", "#sound-note"), "");
    // The page knows it again after a reload.
    browser.eval("phone", "setTimeout(() => location.reload(), 0);", json!(null));
    browser.wait(
        "phone",
        "return !window.gateway && document.activeElement && document.activeElement.id === 'login';",
        10,
    );
    fill_in(&mut browser);
    browser.eval("phone", PLUG, json!(["Headset", "Desk"]));
    wait_options(&mut browser, "System default,Headset,Desk");
    assert_eq!(
        browser.eval("phone", "return document.querySelector('#microphone').value;", json!(null)),
        "id of Headset"
    );
    // And asks the browser for exactly this one.
    connect(&mut browser);
    let asked = "gangwayProbe.denyMicrophone = true; const legacy = Navigator.prototype.webkitGetUserMedia; \
                 Navigator.prototype.webkitGetUserMedia = navigator.getUserMedia = function (constraints, ...rest) { window.asked = constraints; legacy.call(this, constraints, ...rest); };";
    browser.eval("phone", asked, json!(null));
    browser.fill("phone", "#number", "600");
    browser.press("phone", "Enter");
    problem(&mut browser);
    assert_eq!(
        browser.eval("phone", "return window.asked.audio;", json!(null)),
        json!({ "deviceId": { "exact": "id of Headset" } })
    );
}

#[test]
fn a_microphone_that_goes_or_is_refused_in_a_call_is_told_and_replaced() {
    let Some(mut browser) = page(None, false) else { return };
    connect(&mut browser);
    talk(&mut browser);
    let sent = "gangwayProbe.connections.at(-1).getSenders()[0].track";
    // Refused: the one that works stays, in the call and in the list.
    browser.wait("phone", "return document.querySelectorAll('#microphone option').length === 3;", 5);
    let refused = format!(
        "window.first = {sent}; \
         window.allow = navigator.mediaDevices.getUserMedia.bind(navigator.mediaDevices); \
         navigator.mediaDevices.getUserMedia = async () => {{ throw new DOMException('', 'NotReadableError'); }}; \
         const list = document.querySelector('#microphone'); list.selectedIndex = 2; list.dispatchEvent(new Event('change'));"
    );
    browser.eval("phone", &refused, json!(null));
    assert_eq!(problem(&mut browser), "The microphone cannot be used");
    let kept = format!("return [{sent} === first, first.readyState, document.querySelector('#microphone').value];");
    assert_eq!(browser.eval("phone", &kept, json!(null)), json!([true, "live", ""]));
    browser.click("phone", "#problem-close");
    // Unplugged, and there is no other: told; the next one that is plugged in is taken.
    browser.eval("phone", "first.stop(); first.dispatchEvent(new Event('ended'));", json!(null));
    assert_eq!(problem(&mut browser), "The microphone is gone");
    browser.eval(
        "phone",
        "navigator.mediaDevices.getUserMedia = allow; navigator.mediaDevices.dispatchEvent(new Event('devicechange'));",
        json!(null),
    );
    browser.wait("phone", &format!("return {sent} !== first && {sent}.readyState === 'live';"), 5);
    browser.wait("phone", "return document.querySelector('#problem').hidden;", 5);
    browser.assert_quiet("phone", &["demo.json"]);
}

/// Microphones are handed out when the test says so; a hangup is not confirmed by itself.
const HELD_BACK: &str = r#"
window.allow = window.allow || navigator.mediaDevices.getUserMedia.bind(navigator.mediaDevices);
navigator.mediaDevices.getUserMedia = (constraints) => new Promise((done, failed) => {
  window.grant = async () => {
    const stream = await allow(constraints);
    window.fresh = stream.getAudioTracks()[0];
    done(stream);
  };
  window.deny = () => failed(new DOMException("", "NotReadableError"));
});
window.answers = window.answers || gateway.on;
gateway.on = (frame, socket) => { if (frame.message !== "hangup") answers(frame, socket); };
const list = document.querySelector('#microphone');
list.selectedIndex = list.selectedIndex === 2 ? 1 : 2;
list.dispatchEvent(new Event("change"));
"#;

/// Chooses another microphone and waits until the page has asked for it.
fn ask_for_another_microphone(browser: &mut Browser) {
    browser.wait("phone", "return document.querySelectorAll('#microphone option').length >= 3;", 5);
    browser.eval("phone", HELD_BACK, json!(null));
    browser.wait("phone", "return Boolean(window.grant);", 5);
}

#[test]
fn a_microphone_that_comes_after_the_hangup_is_released_without_a_word() {
    let Some(mut browser) = page(None, false) else { return };
    connect(&mut browser);
    let confirm = "gateway.sockets.at(-1).tell('finish', { callId: gateway.callId, status: 'FINISH' });";
    let quiet = "return document.querySelector('#problem').hidden;";
    let chosen = "return document.querySelector('#microphone').value !== '';";
    // Granted, and refused, between the hangup and the gateway's word on it; granted after that word.
    for (meanwhile, after) in [("await grant();", ""), ("deny();", ""), ("", "await grant();")] {
        talk(&mut browser);
        ask_for_another_microphone(&mut browser);
        browser.click("phone", "#hangup");
        let closed = "return gangwayProbe.connections.at(-1).signalingState === 'closed';";
        browser.wait("phone", closed, 5);
        browser.eval("phone", meanwhile, json!(null));
        if meanwhile.contains("grant") {
            browser.wait("phone", "return fresh.readyState === 'ended';", 5);
        }
        assert_eq!(browser.eval("phone", quiet, json!(null)), true, "{meanwhile}");
        browser.eval("phone", confirm, json!(null));
        browser.wait("phone", "return !document.querySelector('#dial').hidden;", 5);
        browser.eval("phone", after, json!(null));
        if after.contains("grant") {
            browser.wait("phone", "return fresh.readyState === 'ended';", 5);
        }
        assert_eq!(browser.eval("phone", quiet, json!(null)), true, "{meanwhile}{after}");
        assert_eq!(browser.eval("phone", chosen, json!(null)), true, "the choice holds for the next call");
        browser.eval(
            "phone",
            "gateway.on = answers; navigator.mediaDevices.getUserMedia = allow; grant = fresh = null;",
            json!(null),
        );
    }
    browser.assert_quiet("phone", &["demo.json"]);
}

/// The peer connection may refuse a track that the browser has handed out, or be closed while it takes it.
#[test]
fn a_microphone_that_the_call_does_not_take_is_released() {
    let Some(mut browser) = page(None, false) else { return };
    connect(&mut browser);
    talk(&mut browser);
    ask_for_another_microphone(&mut browser);
    let refuse = "window.sender = gangwayProbe.connections.at(-1).getSenders()[0]; window.first = sender.track;                   sender.replaceTrack = async () => { throw new DOMException('', 'InvalidModificationError'); }; await grant();";
    browser.eval("phone", refuse, json!(null));
    assert_eq!(problem(&mut browser), "The microphone cannot be used");
    let kept = "return [fresh.readyState, sender.track === first, first.readyState];";
    assert_eq!(browser.eval("phone", kept, json!(null)), json!(["ended", true, "live"]));
    browser.click("phone", "#problem-close");
    browser.eval("phone", "window.grant = null;", json!(null));
    ask_for_another_microphone(&mut browser);
    let slow = "window.taking = false; sender.replaceTrack = () => new Promise((done) => { window.taking = true; window.taken = done; }); await grant();";
    browser.eval("phone", slow, json!(null));
    browser.wait("phone", "return window.taking;", 5);
    browser.click("phone", "#hangup");
    browser.eval("phone", "taken();", json!(null));
    browser.wait("phone", "return fresh.readyState === 'ended';", 5);
    assert_eq!(browser.eval("phone", "return document.querySelector('#problem').hidden;", json!(null)), true);
    browser.assert_quiet("phone", &["demo.json"]);
}

/// While the connection takes the new microphone both may be heard: a mute in between holds for both.
#[test]
fn a_mute_holds_for_a_microphone_that_is_on_its_way() {
    let Some(mut browser) = page(None, false) else { return };
    connect(&mut browser);
    talk(&mut browser);
    ask_for_another_microphone(&mut browser);
    let slow = "window.sender = gangwayProbe.connections.at(-1).getSenders()[0]; window.first = sender.track; \
                const take = sender.replaceTrack.bind(sender); \
                sender.replaceTrack = (track) => new Promise((done) => { window.takes = async () => { await take(track); done(); }; }); await grant();";
    browser.eval("phone", slow, json!(null));
    browser.wait("phone", "return Boolean(window.takes);", 5);
    browser.click("phone", "#mute");
    let enabled = "return [first.enabled, fresh.enabled];";
    assert_eq!(browser.eval("phone", enabled, json!(null)), json!([false, false]));
    browser.eval("phone", "await takes();", json!(null));
    browser.wait("phone", "return sender.track === fresh && first.readyState === 'ended';", 5);
    assert_eq!(browser.eval("phone", enabled, json!(null)), json!([false, false]));
    browser.click("phone", "#mute");
    assert_eq!(browser.eval("phone", "return fresh.enabled;", json!(null)), true);
    browser.assert_quiet("phone", &["demo.json"]);
}

/// Under More, closed: the browser could not say anything about a field that it cannot show.
#[test]
fn a_refused_field_under_more_is_shown() {
    let Some(mut browser) = page(None, false) else { return };
    browser.eval("phone", "document.querySelector('#url').value = 'http://gw.example.com';", json!(null));
    browser.click("phone", "#connect");
    browser.wait("phone", "return document.querySelector('details').open && document.activeElement.id === 'url';", 5);
    browser.fill("phone", "#url", "ws://gw.example.com:8080");
    connect(&mut browser);
    browser.assert_quiet("phone", &["demo.json"]);
}

/// As long as the browser asks for the microphone, the gateway knows of no call: whoever calls now would be declined, and the
/// other phones of the number with it.
#[test]
fn a_second_caller_waits_until_ones_own_call_is_known() {
    let Some(mut browser) = page(None, false) else { return };
    connect(&mut browser);
    let pending = "const ask = Navigator.prototype.webkitGetUserMedia; \
                   navigator.getUserMedia = (constraints, done, failed) => { window.answers = { allow: () => ask.call(navigator, constraints, done, failed), deny: () => failed(new DOMException('Permission denied', 'NotAllowedError')) }; };";
    let hangups = "return gateway.sent.filter((frame) => frame.message === 'hangup').map((frame) => frame.data[0].callId).filter((id) => id.startsWith('in-'));";
    let dial = |browser: &mut Browser, caller: &str| {
        browser.eval("phone", "window.answers = null;", json!(null));
        browser.eval("phone", pending, json!(null));
        browser.fill("phone", "#number", "600");
        browser.press("phone", "Enter");
        browser.wait("phone", "return Boolean(window.answers);", 5);
        browser.eval("phone", "gateway.calls(argument, '1003');", json!(caller));
        assert_eq!(browser.eval("phone", hangups, json!(null)), json!(["in-0"]));
        assert_eq!(browser.text("phone", "#call-name"), "600");
    };
    browser.eval("phone", "gateway.calls('in-0', '1002');", json!(null));
    browser.wait_text("phone", "#incoming-name", "1002", 5);
    browser.press("phone", "Escape");
    browser.wait("phone", "return !document.querySelector('#dial').hidden;", 5);
    // Our call does not come about: theirs rings.
    dial(&mut browser, "in-1");
    browser.eval("phone", "answers.deny();", json!(null));
    browser.wait_text("phone", "#incoming-name", "1003", 5);
    assert_eq!(problem(&mut browser), "No permission to use the microphone");
    browser.eval("phone", "gateway.sockets.at(-1).tell('finish', { callId: 'in-1', status: 'FINISH' });", json!(null));
    browser.wait_text("phone", "#last-call", "Missed call from 1003.", 5);
    // They give up before: nothing rings.
    dial(&mut browser, "in-2");
    browser.eval(
        "phone",
        "gateway.sockets.at(-1).tell('finish', { callId: 'in-2', status: 'FINISH' }); answers.deny();",
        json!(null),
    );
    browser.wait("phone", "return !document.querySelector('#dial').hidden;", 5);
    // Our call comes about: they are told that it is busy here, which the gateway does as it knows both.
    dial(&mut browser, "in-3");
    browser.eval("phone", "answers.allow();", json!(null));
    browser.wait_text("phone", "#call-status", "Ringing", 5);
    assert_eq!(browser.eval("phone", hangups, json!(null)), json!(["in-0", "in-3"]));
    browser.assert_quiet("phone", &["demo.json", "ERROR core"]);
}

#[test]
fn the_scheme_follows_the_system_until_one_is_chosen() {
    let Some(mut browser) = Browser::start() else { return };
    open(&mut browser, &View { dark: true, reduced: true, ..View::default() });
    let back = "return getComputedStyle(document.body).backgroundColor;";
    let dark = browser.eval("phone", back, json!(null));
    let name = "return document.querySelector('#scheme').getAttribute('aria-label');";
    assert_eq!(browser.eval("phone", name, json!(null)), "Colours: as the system. Change to light.");
    browser.click("phone", "#scheme");
    let light = browser.eval("phone", back, json!(null));
    assert_ne!(light, dark);
    browser.eval("phone", "setTimeout(() => location.reload(), 0);", json!(null));
    browser.wait(
        "phone",
        "return !window.gateway && document.activeElement && document.activeElement.id === 'login';",
        10,
    );
    assert_eq!(browser.eval("phone", back, json!(null)), light, "forgotten by a reload");
    fill_in(&mut browser);
    browser.click("phone", "#scheme");
    assert_eq!(browser.eval("phone", back, json!(null)), dark);
    browser.click("phone", "#scheme");
    assert_eq!(browser.eval("phone", name, json!(null)), "Colours: as the system. Change to light.");
    // Who asked for less motion gets none.
    let moving = "return [...document.querySelectorAll('*')].filter((e) => getComputedStyle(e).animationName !== 'none' || getComputedStyle(e, '::after').animationName !== 'none').length;";
    connect(&mut browser);
    ring_out(&mut browser);
    assert_eq!(browser.eval("phone", moving, json!(null)), 0);
}

/// What the page has started to sound and not ended at once.
const TONES: &str = r#"
window.tones = new Set();
const made = AudioScheduledSourceNode.prototype, { start, stop } = made;
made.start = function (...at) { tones.add(this); return start.apply(this, at); };
made.stop = function (...at) { if (at.length === 0) tones.delete(this); return stop.apply(this, at); };
"#;

#[test]
fn the_pages_own_ringing_ends_when_the_gateway_says_that_media_comes() {
    let Some(mut browser) = page(None, false) else { return };
    connect(&mut browser);
    browser.eval("phone", TONES, json!(null));
    ring_out(&mut browser);
    assert_eq!(browser.eval("phone", "return tones.size;", json!(null)), 1);
    let media =
        "gateway.sockets.at(-1).tell('ring', { callId: gateway.callId, status: 'RING_MEDIA' }); return tones.size;";
    assert_eq!(browser.eval("phone", media, json!(null)), 0);
    assert_eq!(browser.text("phone", "#call-status"), "Ringing");
    browser.assert_quiet("phone", &["demo.json"]);
}
