// A phone page: one account, one call at a time, on top of the vendor's SDK. The other modules know sessions, calls, devices,
// pictures, statistics and words; this one knows the page that they are on.
import { fillIn, loadDemo, obstacle, readAccount, showRefusedFields } from "./account.js";
import { Call, TONE_KEYS } from "./call.js";
import { StatisticsPanel } from "./charts.js";
import { DeviceChoices } from "./choices.js";
import { explainPage } from "./failures.js";
import { History, clock } from "./history.js";
import { buildPad, flashKey } from "./pad.js";
import { GatewaySession, hasPictures } from "./session.js";
import { Sounds } from "./sounds.js";
import { Sampler, verdict, worse } from "./statistics.js";
import { $, show, showPressed, write } from "./view.js";

/** Enter and Space do not answer a call that has only just come: they were meant for something else. */
const ANSWER_GUARD_MS = 600;

let title = "";
let pictures = null;            // what the page does with pictures, null when it is for sound only
let call = null;                // the call there is, null when idle
let waiting = null;             // the SDK's call that came while ours was not known to the gateway
let dialled = "";               // the number dialled last
let returnTo = null;            // what had the focus before the call
let incomingAt = 0;             // when the call came in, ms
let ticker = 0;                 // interval of the call timer

const sounds = new Sounds();
const panel = new StatisticsPanel("audio", $("charts"), $("counters"));
const history = new History($("history"), $("history-empty"), (number) => dial(number));
const sampler = new Sampler("audio", onSample);
let choices = null;
const session = new GatewaySession({
  state: onSession,
  ended: () => {
    waiting = null;
    if (call) call.drop();
  },
  problem: showProblem,
  incoming: onIncoming,
});

// ---- what went wrong -------------------------------------------------------------------------------------------------

function showProblem({ title: what, advice, link }) {
  $("problem-title").textContent = what;
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
  for (const control of [$("number"), ...$("dial").querySelectorAll(".calls-out"), ...$("numbers").children]) control.disabled = !canCall;
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
  const { url, sipOptions } = readAccount();
  session.connect(url, sipOptions);
}

function disconnect() {
  if (call) call.hangup();
  session.disconnect();
}

// ---- calls -----------------------------------------------------------------------------------------------------------

const media = {
  local: $("local-media"),
  remote: $("remote-media"),
  constraints: (withPicture) => ({ audio: constraintsOf("audio"), video: withPicture ? constraintsOf("video") : false }),
  speaker: () => choices.speaker,
};

function constraintsOf(kind) {
  const device = choices.constraints(kind);
  return kind === "video" ? { ...device, ...pictures.shape } : device;
}

/** Whether the next call is with a picture, if the user wants one. */
const canSendPicture = () => pictures !== null && choices.hasCamera;

function watch(sdkCall, party) {
  call = new Call(sdkCall, party, media, {
    state: onCall,
    agreed: () => { if (pictures) pictures.update(); },
    deviceGone: (kind) => choices.gone(kind),
    screenGone: () => pictures.screenGone(),
    end: onEnd,
  });
  const here = document.activeElement;
  returnTo = here && here !== document.body ? here : null;
  choices.begin();
}

/** A number as people write it, without its spaces and brackets; an address as it is. */
const plain = (text) => (/^[\d\s+*#()./-]+$/.test(text) ? text.replace(/[\s()./-]/g, "") : text);

function dial(text, wantsPicture = true) {
  const number = plain(text.trim());
  if (!number || !session.isReady || call) return;
  clearProblem();
  dialled = number;
  write("last-call", "");
  const withPicture = wantsPicture && canSendPicture();
  const sdkCall = session.createCall({
    callee: number,
    visibleName: $("login").value,
    constraints: media.constraints(withPicture),
    localVideoDisplay: media.local,
    remoteVideoDisplay: media.remote,
  });
  watch(sdkCall, { name: number, number, direction: "out" });
  openCall();
  showDevicePrompt(withPicture);
  call.dial(withPicture);
}

function onIncoming(sdkCall) {
  if (!call) ring(sdkCall);
  // The gateway says busy to who comes second, once it knows of the first.
  else if (call.state === "starting" && !waiting) wait(sdkCall);
  else Call.refuse(sdkCall);
}

/** Lets a caller wait until it is known whether our own call comes about: the browser may be asking for the microphone. */
function wait(sdkCall) {
  const { FINISH, FAILED } = Flashphoner.constants.CALL_STATUS;
  waiting = sdkCall;
  const gone = () => { waiting = null; };
  sdkCall.on(FINISH, gone).on(FAILED, gone);
}

function ring(sdkCall) {
  clearProblem();
  watch(sdkCall, { name: sdkCall.visibleName() || sdkCall.caller(), number: sdkCall.caller(), direction: "in" });
  incomingAt = performance.now();
  write("incoming-name", call.party.name);
  if (pictures) pictures.offered(isPictureOffered());
  document.title = `Incoming call from ${call.party.name} - ${title}`;
  refresh();
  $("answer").focus();
  sounds.ring();
}

const isPictureOffered = () => hasPictures(call.id) && canSendPicture();

function answer(wantsPicture = true) {
  if (!call || call.state !== "incoming") return;
  sounds.stop();
  const withPicture = wantsPicture && isPictureOffered();
  call.answer(withPicture);
  openCall();
  showDevicePrompt(withPicture);
}

function openCall() {
  write("call-name", call.party.name);
  write("call-timer", "");
  $("call-status").removeAttribute("data-muted");
  writeQuality("", "");
  write("tones-sent", "");
  $("mute").disabled = true;
  showMuted(false);
  $("keypad").disabled = true;
  $("hangup").disabled = false;
  showTones(false);
  document.title = `${call.party.name} - ${title}`;
  refresh();
  if (pictures) pictures.begin(call);
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
  if (waiting && state !== "starting") {
    Call.refuse(waiting);
    waiting = null;
  }
  if (state === "ringing") {
    if (call.hasEarlyMedia) sounds.stop();
    else sounds.ringback();
  }
  if (state === "established") established();
  if (pictures) pictures.update();
}

/** While the browser asks its user for the devices, the page says so. */
async function showDevicePrompt(withPicture) {
  const asked = call;
  const isWaiting = () => call === asked && (asked.state === "starting" || asked.state === "connecting");
  let permissions;
  try {
    const names = ["microphone", ...(withPicture ? ["camera"] : [])];
    permissions = await Promise.all(names.map((name) => navigator.permissions.query({ name })));
  } catch {
    return; // a browser that does not tell
  }
  const prompted = permissions.filter(({ state }) => state === "prompt");
  if (!prompted.length || !isWaiting()) return;
  write("call-status", withPicture ? "Please allow camera and microphone" : "Please allow the microphone");
  for (const permission of prompted) permission.onchange = () => { if (isWaiting()) write("call-status", CALL_WORDS[asked.state]); };
}

function established() {
  sounds.stop();
  $("mute").disabled = false;
  $("keypad").disabled = !call.canSendTones;
  // Names of devices are known now that they were allowed.
  choices.refresh();
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
  const heard = verdict("audio", samples, Math.min(silent, call.seconds));
  const { level, words } = pictures && pictures.verdict ? worse(heard, pictures.verdict) : heard;
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
  if (pictures) pictures.end();
  history.add({ name, number, direction, startedAt: call.startedAt, wasAnswered, result, seconds });
  if (wasAnswered) write("last-call", `Call with ${name} ended after ${clock(seconds)}.`);
  else write("last-call", direction === "in" && result === "Missed" ? `Missed call from ${name}.` : "");
  if (wasAnswered) writeQuality("Last call", "");
  if (problem) showProblem(problem);
  if (wasAnswered || !problem) $("number").value = "";
  call = null;
  document.body.dataset.call = "";
  document.title = title;
  refresh();
  if (wasInCall) focusIdle();
  if (!waiting) return;
  const next = waiting;
  waiting = null;
  ring(next);
  if (problem) showProblem(problem);
}

const showMuted = (isMuted) => showPressed("mute", isMuted, isMuted ? "#icon-microphone-off" : "#icon-microphone");

function toggleMute() {
  if (!call || call.state !== "established") return;
  call.mute("audio", !call.isMuted("audio"));
  showMuted(call.isMuted("audio"));
  write("call-status", call.isMuted("audio") ? "In call, your microphone is off" : CALL_WORDS.established);
  $("call-status").toggleAttribute("data-muted", call.isMuted("audio"));
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

async function changeSpeaker(id) {
  await sounds.speaker(id);
  if (call && call.state === "established") await call.changeSpeaker(id);
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
function callNumber(wantsPicture) {
  if ($("number").value.trim()) dial($("number").value, wantsPicture);
  else if (dialled) $("number").value = dialled;
  else $("number").focus();
}

// ---- start -----------------------------------------------------------------------------------------------------------

/** A button that ends or takes a call: not by a key that is held down, nor by the second half of a double click. */
function onDeliberate(id, act) {
  $(id).addEventListener("keydown", (event) => {
    const isEarly = id !== "hangup" && performance.now() - incomingAt < ANSWER_GUARD_MS;
    if ((event.key === "Enter" || event.key === " ") && (event.repeat || isEarly)) event.preventDefault();
  });
  $(id).addEventListener("click", (event) => { if (event.detail < 2) act(); });
}

function listen() {
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
  onDeliberate("answer", () => answer());
  onDeliberate("reject", decline);
  onDeliberate("hangup", () => call && hangup());
  $("mute").addEventListener("click", toggleMute);
  $("keypad").addEventListener("click", () => showTones($("tones").hidden));
  $("problem-close").addEventListener("click", () => { clearProblem(); if (!call) focusIdle(); });
  $("sound-test").addEventListener("click", () => sounds.test());
  document.addEventListener("keydown", onKey);
  window.addEventListener("beforeunload", (event) => { if (call) event.preventDefault(); });
}

/**
 * Makes a phone of the page.
 * @param {{ title: string, pictures: object | null }} options what the page is called, and what it does with pictures
 */
export async function startPhone(options) {
  ({ title, pictures } = options);
  buildPad($("pad"), typeDigit, { plus: true });
  buildPad($("call-pad"), sendTone, { plus: false });
  showRefusedFields();
  choices = new DeviceChoices(pictures !== null, {
    call: () => (call && call.state === "established" ? call : null),
    constraints: constraintsOf,
    speaker: changeSpeaker,
    problem: showProblem,
    solved: clearProblem,
  });
  if (pictures) {
    pictures.start({
      inTurn: (change) => choices.inTurn(change),
      problem: showProblem,
      dialSound: () => callNumber(false),
      answerSound: () => answer(false),
    });
  }
  listen();
  onSession("off");
  const found = obstacle();
  if (found) {
    showProblem(explainPage(found));
    $("connect").disabled = true;
    return;
  }
  choices.refresh();
  const demo = await loadDemo();
  fillIn(demo, pictures
    ? "This is the demo: connect, then call 600 and see and hear yourself. Camera and microphone are used during calls only."
    : "This is the demo: connect, then call 600 and hear yourself. The microphone is used during calls only.", dial);
  refresh();
  if (hasKeyboard()) (demo ? $("connect") : $("login")).focus();
}
