//! Our phone page alone: its files from the tree, and a gateway that is a few lines of script. What it says in which case.

use std::path::PathBuf;

use gangway_tests::{
    browser::{Browser, View},
    source::root,
};
use serde_json::json;

/// Where the page seems to come from: a secure context, and nobody listens there.
const SITE: &str = "http://localhost:1/";

/// A websocket in the page that plays the gateway: registers at once unless told otherwise, and lets the test say the rest.
const SCRIPTED_GATEWAY: &str = r#"
window.gateway = { sent: [], sockets: [] };
const Scripted = class extends EventTarget {
  constructor(url) {
    super();
    Object.assign(this, { url, readyState: 0, onopen: null, onclose: null, onmessage: null, onerror: null });
    gateway.sockets.push(this);
    setTimeout(() => { this.readyState = 1; this.happen("open"); }, 10);
  }
  send(text) {
    const frame = JSON.parse(text);
    gateway.sent.push(frame);
    if (gateway.on) gateway.on(frame, this);
  }
  // Listeners of the constructor come before a handler that is set later, as in a real socket.
  happen(kind, more) {
    const event = Object.assign(new Event(kind), more);
    this.dispatchEvent(event);
    if (this["on" + kind]) this["on" + kind](event);
  }
  tell(message, ...data) { this.happen("message", { data: JSON.stringify({ message, data }) }); }
  close() { if (this.readyState < 2) { this.readyState = 3; setTimeout(() => this.happen("close", { code: 1000 }), 10); } }
};
Object.assign(Scripted, { CONNECTING: 0, OPEN: 1, CLOSING: 2, CLOSED: 3 });
Object.setPrototypeOf(window.WebSocket, Scripted);
Object.setPrototypeOf(window.WebSocket.prototype, Scripted.prototype);
gateway.on = (frame, socket) => {
  const it = frame.data && frame.data[0];
  if (frame.message === "connection") {
    if (gateway.refuse) { socket.tell("fail", { apiMethod: "RegistrationStatusEvent", status: "FAILED", info: gateway.refuse }); socket.close(); return; }
    socket.tell("getUserData", { ...it, authToken: "t" });
    if (it.sipRegisterRequired) socket.tell("registered", {});
  } else if (frame.message === "call") {
    gateway.callId = it.callId;
    socket.tell("notifyTryingResponse", { callId: it.callId, status: "TRYING" });
    if (gateway.end) socket.tell("finish", { callId: it.callId, ...gateway.end });
    else socket.tell("ring", { callId: it.callId, status: "RING" });
  } else if (frame.message === "hangup") {
    socket.tell("finish", { callId: it.callId, status: "FINISH" });
  }
};
"#;

fn files() -> [(&'static str, PathBuf); 2] {
    [
        (SITE, root().join("control/web")),
        ("http://localhost:1/client2/", root().join("node_modules/@flashphoner/websdk")),
    ]
}

/// The page in a fresh browser, filled in, with the scripted gateway behind it.
fn page(size: Option<(u32, u32)>, dark: bool) -> Option<Browser> {
    let mut browser = Browser::start()?;
    let files = files();
    let files = files.each_ref().map(|(prefix, folder)| (*prefix, folder.as_path()));
    browser.open_as("phone", SITE, &View { size, dark, files: &files });
    browser.wait("phone", "return document.activeElement && document.activeElement.id === 'login';", 10);
    browser.eval("phone", SCRIPTED_GATEWAY, json!(null));
    browser.fill("phone", "#login", "1001");
    browser.fill("phone", "#password", "1001");
    Some(browser)
}

fn connect(browser: &mut Browser) {
    browser.click("phone", "#connect");
    browser.wait_text("phone", "#session-status", "Registered as 1001", 5);
}

fn problem(browser: &mut Browser) -> String {
    browser.wait("phone", "return !document.querySelector('#problem').hidden;", 5);
    browser.text("phone", "#problem-title")
}

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

#[test]
fn the_page_fits_a_phone_and_is_labelled() {
    let Some(mut browser) = page(Some((390, 844)), true) else { return };
    connect(&mut browser);
    let too_wide = "return document.documentElement.scrollWidth > document.documentElement.clientWidth;";
    assert_eq!(browser.eval("phone", too_wide, json!(null)), false, "the page scrolls sideways at 390 px");
    let nameless = "return [...document.querySelectorAll('input, button')].filter((e) => !(e.labels && e.labels.length) && \
                    !e.textContent.trim() && !e.getAttribute('aria-label')).map((e) => e.id);";
    assert_eq!(browser.eval("phone", nameless, json!(null)), json!([]), "fields and buttons without a name");
    if let Some(folder) = std::env::var_os("GANGWAY_SCREENSHOTS") {
        browser.screenshot("phone", &PathBuf::from(folder).join("phone-390-dark.png"));
    }
}
