// Gangway's phone page: one account, one call at a time, on top of the vendor's SDK. The modules know sessions, calls, devices,
// statistics and words; this file knows the page.
import { Call, TONE_KEYS } from "./modules/call.js";
import { StatisticsPanel } from "./modules/charts.js";
import { Devices } from "./modules/devices.js";
import { explainMicrophone, explainPage } from "./modules/failures.js";
import { History, clock } from "./modules/history.js";
import { buildPad, flashKey } from "./modules/pad.js";
import { GatewaySession } from "./modules/session.js";
import { Sounds } from "./modules/sounds.js";
import { Sampler, verdict } from "./modules/statistics.js";

const TITLE = "Gangway Phone";

/** Enter and Space do not answer a call that has only just come: they were meant for something else. */
const ANSWER_GUARD_MS = 600;

const $ = (id) => document.getElementById(id);
const show = (id, shown) => { $(id).hidden = !shown; };
/** Writes only what changed: a live region reads each write. */
const write = (id, text) => { if ($(id).textContent !== text) $(id).textContent = text; };

let call = null;                // the call there is, null when idle
let dialled = "";               // the number dialled last
let returnTo = null;            // what had the focus before the call
let incomingAt = 0;             // when the call came in, ms
let ticker = 0;                 // interval of the call timer
let isMicrophoneGone = false;   // whether the call goes on without one
let microphoneChange = Promise.resolve(); // changes are made one after the other

const sounds = new Sounds();
const panel = new StatisticsPanel($("charts"), $("counters"));
const history = new History($("history"), $("history-empty"), (number) => dial(number));
const sampler = new Sampler("audio", onSample);
const devices = new Devices(["audioinput", "audiooutput"], onDevices);
const session = new GatewaySession({
  state: onSession,
  ended: () => { if (call) call.drop(); },
  problem: showProblem,
  incoming: onIncoming,
});

// ---- what went wrong -------------------------------------------------------------------------------------------------

function showProblem({ title, advice, link }) {
  $("problem-title").textContent = title;
  $("problem-advice").textContent = advice;
  show("problem-link", Boolean(link));
  if (link) {
    $("problem-link").href = link;
    $("problem-link").textContent = link;
  }
  show("problem", true);
}

const clearProblem = () => show("problem", false);

// ---- which view ------------------------------------------------------------------------------------------------------

const VIEWS = ["account", "dial", "incoming", "call"];

function refresh() {
  const view = call ? (call.state === "incoming" ? "incoming" : "call") : session.isReady ? "dial" : "account";
  for (const name of VIEWS) show(name, name === view);
  document.body.dataset.view = view;
  const canCall = view === "dial";
  $("number").disabled = !canCall;
  $("dial-button").disabled = !canCall;
  for (const chip of $("numbers").children) chip.disabled = !canCall;
  history.canCall = canCall;
}

/** Fields take the focus where a keyboard is likely: on a touch screen that would open one. */
const hasKeyboard = () => !window.matchMedia("(pointer: coarse)").matches;

function focusIdle() {
  const back = returnTo;
  returnTo = null;
  if (back && back.isConnected && !back.disabled && back.getClientRects().length) back.focus();
  else if (session.isReady) (hasKeyboard() ? $("number") : $("dial-button")).focus();
  else $("connect").focus();
}

// ---- session ---------------------------------------------------------------------------------------------------------

const STATES = {
  off: ["off", "Not connected"],
  connecting: ["wait", "Connecting"],
  registering: ["wait", "Registering"],
  connected: ["on", "Connected"],
  registered: ["on", "Registered"],
  failed: ["bad", "Not connected"],
};

function onSession(name) {
  const [light, label] = STATES[name];
  $("session-status").dataset.state = light;
  write("session-status", light === "on" ? `${label} as ${$("login").value}` : label);
  show("disconnect", light === "on");
  $("connect").textContent = light === "wait" ? "Cancel" : "Connect";
  $("connect").classList.toggle("go", light !== "wait");
  for (const field of $("account").querySelectorAll("input")) field.disabled = light === "wait";
  refresh();
  if (session.isReady && !call) focusIdle();
}

function connect() {
  clearProblem();
  const text = (id) => $(id).value.trim();
  session.connect(text("url"), {
    login: text("login"),
    authenticationName: text("auth-name") || text("login"),
    password: $("password").value,
    domain: text("domain"),
    outboundProxy: text("proxy") || text("domain"),
    port: text("port"),
    registerRequired: $("register").checked,
  });
}

function disconnect() {
  if (call) call.hangup();
  session.disconnect();
}

// ---- calls -----------------------------------------------------------------------------------------------------------

const media = {
  local: $("local-media"),
  remote: $("remote-media"),
  constraints: () => ({ audio: devices.audio, video: false }),
  speaker: () => devices.used("audiooutput"),
};

function watch(sdkCall, party) {
  call = new Call(sdkCall, party, media, { state: onCall, microphoneGone: onMicrophoneGone, end: onEnd });
  const here = document.activeElement;
  returnTo = here && here !== document.body ? here : null;
  isMicrophoneGone = false;
}

/** A number as people write it, without its spaces and brackets; an address as it is. */
const plain = (text) => (/^[\d\s+*#()./-]+$/.test(text) ? text.replace(/[\s()./-]/g, "") : text);

function dial(text) {
  const number = plain(text.trim());
  if (!number || !session.isReady || call) return;
  clearProblem();
  dialled = number;
  write("last-call", "");
  const sdkCall = session.createCall({
    callee: number,
    visibleName: $("login").value,
    constraints: media.constraints(),
    localVideoDisplay: media.local,
    remoteVideoDisplay: media.remote,
  });
  watch(sdkCall, { name: number, number, direction: "out" });
  openCall();
  showMicrophonePrompt();
  call.dial();
}

function onIncoming(sdkCall) {
  if (call) {
    Call.refuse(sdkCall);
    return;
  }
  clearProblem();
  watch(sdkCall, { name: sdkCall.visibleName() || sdkCall.caller(), number: sdkCall.caller(), direction: "in" });
  incomingAt = performance.now();
  write("incoming-name", call.party.name);
  document.title = `Incoming call from ${call.party.name} - ${TITLE}`;
  refresh();
  $("answer").focus();
  sounds.ring();
}

function answer() {
  if (!call || call.state !== "incoming") return;
  sounds.stop();
  call.answer();
  openCall();
  showMicrophonePrompt();
}

function openCall() {
  write("call-name", call.party.name);
  write("call-timer", "");
  writeQuality("", "");
  write("tones-sent", "");
  $("mute").disabled = true;
  showMuted(false);
  $("keypad").disabled = true;
  $("hangup").disabled = false;
  showTones(false);
  document.title = `${call.party.name} - ${TITLE}`;
  refresh();
  onCall(call.state);
  $("call").focus();
  panel.clear();
  const sampled = call;
  sampler.start(() => sampled.peer);
}

const CALL_WORDS = { starting: "Starting", calling: "Calling", ringing: "Ringing", connecting: "Connecting", established: "In call" };

function onCall(state) {
  if (!CALL_WORDS[state]) return;
  document.body.dataset.call = state;
  write("call-status", CALL_WORDS[state]);
  $("call-avatar").dataset.rings = state === "ringing" || state === "calling" ? "yes" : "no";
  if (state === "ringing") {
    if (call.hasEarlyMedia) sounds.stop();
    else sounds.ringback();
  }
  if (state === "established") established();
}

/** While the browser asks its user for the microphone, the page says so. */
async function showMicrophonePrompt() {
  const asked = call;
  const isWaiting = () => call === asked && (asked.state === "starting" || asked.state === "connecting");
  let permission;
  try {
    permission = await navigator.permissions.query({ name: "microphone" });
  } catch {
    return; // a browser that does not tell
  }
  if (permission.state !== "prompt" || !isWaiting()) return;
  write("call-status", "Please allow the microphone");
  permission.onchange = () => { if (isWaiting()) write("call-status", CALL_WORDS[asked.state]); };
}

function established() {
  sounds.stop();
  $("mute").disabled = false;
  $("keypad").disabled = !call.canSendTones;
  // Names of devices are known now that the microphone was allowed.
  devices.refresh();
  tick();
  ticker = setInterval(tick, 500);
  document.body.dataset.statistics = "yes";
}

const tick = () => write("call-timer", clock(call.seconds));

function onSample({ reading, samples, silent }) {
  panel.show({ reading, samples });
  if (!call) return;
  // The other exchange plays its own ringing, or an announcement.
  if (call.state === "ringing" && reading.received.packets > 0) sounds.stop();
  if (call.state !== "established") return;
  const { level, words } = verdict(samples, Math.min(silent, call.seconds));
  writeQuality(words, level);
  $("keypad").disabled = !call.canSendTones;
}

/** The connection in words, in both places. */
function writeQuality(words, level) {
  for (const id of ["statistics-state", "call-quality"]) {
    write(id, words);
    if (level) $(id).dataset.level = level; else delete $(id).dataset.level;
  }
}

function onEnd({ result, seconds, wasAnswered, problem }) {
  const { name, number, direction } = call.party;
  const wasInCall = $("stage").contains(document.activeElement) || document.activeElement === document.body;
  clearInterval(ticker);
  sounds.stop();
  sampler.stop();
  history.add({ name, number, direction, startedAt: call.startedAt, wasAnswered, result, seconds });
  if (wasAnswered) write("last-call", `Call with ${name} ended after ${clock(seconds)}.`);
  else write("last-call", direction === "in" && result === "Missed" ? `Missed call from ${name}.` : "");
  if (wasAnswered) writeQuality("Last call", "");
  if (problem) showProblem(problem);
  if (wasAnswered || !problem) $("number").value = "";
  call = null;
  document.body.dataset.call = "";
  document.title = TITLE;
  refresh();
  if (wasInCall) focusIdle();
}

function showMuted(isMuted) {
  $("mute").setAttribute("aria-pressed", String(isMuted));
  $("mute").querySelector("use").setAttribute("href", isMuted ? "#icon-microphone-off" : "#icon-microphone");
}

function toggleMute() {
  if (!call || call.state !== "established") return;
  call.mute(!call.isMuted);
  showMuted(call.isMuted);
  write("call-status", call.isMuted ? "In call, your microphone is off" : CALL_WORDS.established);
}

function hangup() {
  $("hangup").disabled = true;
  write("call-status", "Hanging up");
  call.hangup();
}

function decline() {
  if (call && call.state === "incoming") call.hangup();
}

function showTones(isShown) {
  show("tones", isShown);
  $("keypad").setAttribute("aria-expanded", String(isShown));
  document.body.classList.toggle("with-tones", isShown);
}

function sendTone(key) {
  if (!call || !call.canSendTones) return;
  call.sendTone(key);
  sounds.key(key);
  $("tones-sent").textContent = ($("tones-sent").textContent + key).slice(-24);
}

// ---- devices ---------------------------------------------------------------------------------------------------------

const SELECTS = { audioinput: "microphone", audiooutput: "speaker" };
const canChooseSpeaker = "setSinkId" in HTMLMediaElement.prototype;

function onDevices(kind, isAnother) {
  const select = $(SELECTS[kind]);
  const options = [{ id: "", label: "System default" }, ...devices.list(kind)];
  const choice = devices.choice(kind);
  if (devices.isAway(kind)) options.push({ id: choice.id, label: `${choice.label} (away)` });
  select.replaceChildren(...options.map(({ id, label }) => new Option(label, id)));
  select.value = choice ? choice.id : "";
  show("sound-allow", !devices.isNamed("audioinput"));
  writeSoundNote();
  if (kind === "audioinput" && (isAnother || isMicrophoneGone)) changeMicrophone();
  if (kind === "audiooutput" && isAnother) changeSpeaker();
}

function writeSoundNote() {
  const notes = [];
  if (devices.isAway("audioinput")) notes.push(`${devices.choice("audioinput").label} is away; the system's microphone is used until it is back.`);
  if (devices.isAway("audiooutput")) notes.push(`${devices.choice("audiooutput").label} is away; the system's speaker is used until it is back.`);
  if (!canChooseSpeaker) notes.push("This browser plays on the system's speaker.");
  if (!devices.isNamed("audioinput")) notes.push("The browser tells which devices there are once the microphone was allowed.");
  write("sound-note", notes.join(" "));
}

function changeMicrophone() {
  const changed = call;
  if (!changed || changed.state !== "established") return;
  microphoneChange = microphoneChange.then(async () => {
    if (call !== changed) return;
    try {
      await changed.changeMicrophone(devices.audio);
      if (call !== changed) return;
      if (isMicrophoneGone) clearProblem();
      isMicrophoneGone = false;
    } catch {
      showProblem(explainPage(isMicrophoneGone ? "microphoneLost" : "microphoneRefused"));
      if (!isMicrophoneGone) devices.undo("audioinput");
    }
  });
}

async function changeSpeaker() {
  const id = devices.used("audiooutput");
  try {
    await sounds.speaker(id);
    if (call && call.state === "established") await call.changeSpeaker(id);
  } catch {
    showProblem(explainPage("speakerRefused"));
    devices.undo("audiooutput");
  }
}

function onMicrophoneGone() {
  isMicrophoneGone = true;
  changeMicrophone();
}

/** Asks for the microphone so that the browser tells names, and lets go of it at once. */
async function allowDevices() {
  try {
    const stream = await navigator.mediaDevices.getUserMedia({ audio: true });
    for (const track of stream.getTracks()) track.stop();
    await devices.refresh();
    $("microphone").focus();
  } catch (error) {
    showProblem(explainMicrophone(error.name));
  }
}

// ---- keyboard --------------------------------------------------------------------------------------------------------

const isField = (target) => target.matches("input, select, textarea, summary");

function onEscape() {
  if (call && call.state === "incoming") decline();
  else if (call && !$("tones").hidden) { showTones(false); $("keypad").focus(); }
  else if (call && call.state !== "established") hangup();
  // A conversation is not cut off by one key: it leads to the button, Enter then ends it.
  else if (call) $("hangup").focus();
  else if (!$("problem").hidden) clearProblem();
  else if (document.activeElement === $("number")) $("number").value = "";
}

function onKey(event) {
  if (event.defaultPrevented || event.ctrlKey || event.metaKey || event.altKey || event.isComposing) return;
  if (event.key === "Escape") {
    if (!event.repeat) onEscape();
    return;
  }
  if (isField(event.target)) return;
  if (call && call.state === "established" && TONE_KEYS.includes(event.key)) {
    sendTone(event.key);
    flashKey($("call-pad"), event.key);
  } else if (!call && session.isReady && (TONE_KEYS + "+").includes(event.key)) {
    event.preventDefault();
    typeDigit(event.key);
    flashKey($("pad"), event.key);
    $("number").focus();
  } else if (!call && session.isReady && event.key === "Backspace") {
    erase();
  } else if (event.key === "Enter" && event.target === document.body && document.body.dataset.view === "dial") {
    callNumber();
  }
}

function typeDigit(key) {
  $("number").value += key;
}

function erase() {
  $("number").value = $("number").value.slice(0, -1);
}

/** Calls what is in the field; when that is empty, brings back what was dialled last, as phones do. */
function callNumber() {
  if ($("number").value.trim()) dial($("number").value);
  else if (dialled) $("number").value = dialled;
  else $("number").focus();
}

// ---- start -----------------------------------------------------------------------------------------------------------

/** The gateway's address from where this page was loaded, when it is not told otherwise. */
function defaultUrl(demo) {
  const secure = location.protocol === "https:";
  const told = demo && (secure ? demo.wss : demo.ws);
  if (!told) return secure ? `wss://${location.hostname}:8443` : `ws://${location.hostname}:8080`;
  // A gateway that listens everywhere cannot know under which name this browser reaches it.
  const url = new URL(told);
  url.hostname = location.hostname;
  return url.href.replace(/\/$/, "");
}

const DEMO_NUMBERS = { 600: "echo", 601: "voice menu", 602: "busy", 603: "rings on", 604: "not found", 605: "early media" };

function fillIn(demo) {
  $("url").value = defaultUrl(demo);
  $("domain").value = (demo && demo.sipDomain) || location.hostname;
  $("port").value = (demo && demo.sipPort) || 5060;
  if (!demo) return;
  $("login").value = demo.login || "";
  $("password").value = demo.password || "";
  for (const [number, what] of Object.entries(DEMO_NUMBERS)) {
    const chip = document.createElement("button");
    chip.type = "button";
    chip.append(Object.assign(document.createElement("b"), { textContent: number }), " ", what);
    chip.addEventListener("click", () => dial(number));
    $("numbers").append(chip);
  }
  show("numbers", true);
  $("intro").textContent = "This is the demo: connect, then call 600 and hear yourself. The microphone is used during calls only.";
}

/** What stops the page, or null. */
function obstacle() {
  if (!window.isSecureContext) return "insecure";
  if (!window.RTCPeerConnection || !navigator.mediaDevices) return "noWebRtc";
  if (typeof Flashphoner === "undefined") return "noSdk";
  try {
    // Without the SDK's gain node the microphone's own track is sent: a shorter way, and one that can be replaced in the call.
    Flashphoner.init({ createMicGainNode: false });
  } catch {
    return "noWebRtc";
  }
  return null;
}

async function start() {
  onSession("off");
  const found = obstacle();
  if (found) {
    showProblem(explainPage(found));
    $("connect").disabled = true;
    return;
  }
  devices.refresh();
  let demo = null;
  try {
    const answer = await fetch("demo.json", { cache: "no-store" });
    if (answer.status === 200) demo = await answer.json();
  } catch { /* no demo: the fields stay empty */ }
  fillIn(demo);
  refresh();
  if (hasKeyboard()) (demo ? $("connect") : $("login")).focus();
}

/** A button that ends or takes a call: not by a key that is held down, nor by the second half of a double click. */
function onDeliberate(id, act) {
  $(id).addEventListener("keydown", (event) => {
    const isEarly = id !== "hangup" && performance.now() - incomingAt < ANSWER_GUARD_MS;
    if ((event.key === "Enter" || event.key === " ") && (event.repeat || isEarly)) event.preventDefault();
  });
  $(id).addEventListener("click", (event) => { if (event.detail < 2) act(); });
}

buildPad($("pad"), (key) => typeDigit(key), { plus: true });
buildPad($("call-pad"), sendTone, { plus: false });
show("speaker-field", canChooseSpeaker);
panel.clear();

$("account").addEventListener("submit", (event) => {
  event.preventDefault();
  if (session.isOpen) disconnect(); else connect();
});
$("disconnect").addEventListener("click", disconnect);
$("dial").addEventListener("submit", (event) => {
  event.preventDefault();
  callNumber();
});
$("erase").addEventListener("click", erase);
onDeliberate("answer", answer);
onDeliberate("reject", decline);
onDeliberate("hangup", () => call && hangup());
$("mute").addEventListener("click", toggleMute);
$("keypad").addEventListener("click", () => showTones($("tones").hidden));
$("problem-close").addEventListener("click", () => { clearProblem(); if (!call) focusIdle(); });
$("microphone").addEventListener("change", (event) => devices.choose("audioinput", event.target.value));
$("speaker").addEventListener("change", (event) => devices.choose("audiooutput", event.target.value));
$("sound-allow").addEventListener("click", allowDevices);
$("sound-test").addEventListener("click", () => sounds.test());
document.addEventListener("keydown", onKey);
window.addEventListener("beforeunload", (event) => { if (call) event.preventDefault(); });
start();
