//! Our phone pages with a gateway that is a few lines of script in the page: what it plays, and the steps that several tests take.

use std::path::PathBuf;

use gangway_tests::{
    browser::{Browser, View},
    source::root,
};
use serde_json::json;

/// Where the page seems to come from: a secure context, and nobody listens there.
pub(crate) const SITE: &str = "http://localhost:1/";

/// A websocket in the page that plays the gateway: registers at once unless told otherwise, and lets the test say the rest.
const SCRIPTED_GATEWAY: &str = r#"
window.gateway = { sent: [], sockets: [] };
const Scripted = class extends EventTarget {
  constructor(url) {
    super();
    Object.assign(this, { url, readyState: 0, onopen: null, onclose: null, onmessage: null, onerror: null });
    gateway.sockets.push(this);
    setTimeout(() => {
      if (gateway.isDown) { this.readyState = 3; this.happen("error"); this.happen("close", { code: 1006 }); return; }
      this.readyState = 1;
      this.happen("open");
    }, 10);
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
  close(code = 1000) { if (this.readyState < 2) { this.readyState = 3; setTimeout(() => this.happen("close", { code }), 10); } }
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
gateway.calls = (callId, caller, sdp = "v=0") => {
  const socket = gateway.sockets.at(-1);
  socket.tell("setRemoteSDP", callId, sdp, false);
  socket.tell("notifyIncomingCall", { callId, incoming: true, caller, callee: "1001", visibleName: caller });
  socket.tell("ring", { callId, status: "RING" });
};
// The other side's connection: what it takes it sends back. `video` false refuses pictures.
gateway.describe = async (peer) => {
  await peer.setLocalDescription();
  while (peer.iceGatheringState !== "complete") await new Promise((done) => peer.addEventListener("icegatheringstatechange", done, { once: true }));
  return peer.localDescription.sdp;
};
gateway.talksBack = async ({ video = true } = {}) => {
  const peer = gateway.other = new gangwayProbe.Native();
  await peer.setRemoteDescription({ type: "offer", sdp: gateway.sent.findLast(({ message }) => message === "call").data[0].sdp });
  const stream = new MediaStream();
  for (const transceiver of peer.getTransceivers()) {
    const { track } = transceiver.receiver;
    if (track.kind === "video" && !video) { transceiver.stop(); continue; }
    if (transceiver.direction === "recvonly") transceiver.direction = "sendrecv";
    transceiver.sender.setStreams(stream);
    await transceiver.sender.replaceTrack(track);
  }
  gateway.sockets.at(-1).tell("setRemoteSDP", gateway.callId, await gateway.describe(peer), false);
  gateway.talks();
};
// A call that comes in with a picture, a moving one.
gateway.callsWithPicture = async (callId, caller) => {
  const peer = gateway.other = new gangwayProbe.Native();
  const canvas = Object.assign(document.createElement("canvas"), { width: 320, height: 240 });
  const paint = canvas.getContext("2d");
  gateway.painting = setInterval(() => { paint.fillStyle = `hsl(${performance.now() / 20} 70% 50%)`; paint.fillRect(0, 0, 320, 240); }, 50);
  const stream = canvas.captureStream(20);
  peer.addTransceiver("audio");
  peer.addTrack(stream.getVideoTracks()[0], stream);
  const answers = gateway.on;
  gateway.on = (frame, socket) => {
    answers(frame, socket);
    if (frame.message !== "answer" || frame.data[0].callId !== callId) return;
    peer.setRemoteDescription({ type: "answer", sdp: frame.data[0].sdp });
    socket.tell("talk", { callId, status: "ESTABLISHED" });
  };
  gateway.calls(callId, caller, await gateway.describe(peer));
};
gateway.talks = () => gateway.sockets.at(-1).tell("talk", { callId: gateway.callId, status: "ESTABLISHED" });
"#;

fn files() -> [(&'static str, PathBuf); 2] {
    [
        (SITE, root().join("control/web")),
        ("http://localhost:1/client2/", root().join("node_modules/@flashphoner/websdk")),
    ]
}

/// The page in a fresh browser, filled in, with the scripted gateway behind it.
pub(crate) fn page(size: Option<(u32, u32)>, dark: bool) -> Option<Browser> {
    let mut browser = Browser::start()?;
    open(&mut browser, &View { size, dark, ..View::default() });
    Some(browser)
}

/// The same in a browser that runs, under the name `phone`.
pub(crate) fn open(browser: &mut Browser, view: &View<'_>) {
    open_at(browser, SITE, view);
}

/// The page with pictures, under the same name.
pub(crate) fn open_video(browser: &mut Browser, view: &View<'_>) {
    open_at(browser, &format!("{SITE}video.html"), view);
}

fn open_at(browser: &mut Browser, url: &str, view: &View<'_>) {
    let files = files();
    let files = files.each_ref().map(|(prefix, folder)| (*prefix, folder.as_path()));
    browser.open_as("phone", url, &View { files: &files, ..view.clone() });
    fill_in(browser);
}

/// Puts the scripted gateway behind a page that was just loaded, and an account into it.
pub(crate) fn fill_in(browser: &mut Browser) {
    browser.wait("phone", "return document.activeElement && document.activeElement.id === 'login';", 10);
    browser.eval("phone", SCRIPTED_GATEWAY, json!(null));
    browser.fill("phone", "#login", "1001");
    browser.fill("phone", "#password", "1001");
}

pub(crate) fn connect(browser: &mut Browser) {
    browser.click("phone", "#connect");
    browser.wait_text("phone", "#session-status", "Registered as 1001", 5);
}

pub(crate) fn problem(browser: &mut Browser) -> String {
    browser.wait("phone", "return !document.querySelector('#problem').hidden;", 5);
    browser.text("phone", "#problem-title")
}

/// Dials and waits until the scripted gateway lets it ring.
pub(crate) fn ring_out(browser: &mut Browser) {
    browser.fill("phone", "#number", "600");
    browser.press("phone", "Enter");
    browser.wait_text("phone", "#call-status", "Ringing", 5);
}

/// Dials and waits until the scripted gateway's other side talks.
pub(crate) fn talk(browser: &mut Browser) {
    ring_out(browser);
    browser.eval("phone", "gateway.talks();", json!(null));
    browser.wait_text("phone", "#call-status", "In call", 5);
}
