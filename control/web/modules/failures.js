// What went wrong, in words: the one table. Each row says what happened (`title`), what to do next (`advice`) and what the
// list of calls shows (`result`). {who} is the other party, {detail} what the gateway itself said.
//
// The keys are those of the WCS protocol: SIP statuses, CALL_STATUS_INFO texts, codes of a `fail`, close codes of the websocket.

const row = (result, title, advice) => ({ result, title, advice });

const AGAIN = "Try again in a moment.";
const NUMBER = "Check the number and dial again.";
const FIREWALL = "A firewall may block UDP between this browser and the gateway. Try another network, or ask the gateway's operator.";

/** The gateway's own reasons. They say more than the SIP status that may come with them. */
const CALL_INFO = {
  "Failed by ICE error": row("No connection for sound", "The sound could not be connected", FIREWALL),
  "Failed by DTLS error": row("No connection for sound", "The sound could not be secured", `The encryption of the sound did not come about. ${FIREWALL}`),
  "Failed by DTLS fingerprint error": row("Not secure", "The call was ended for safety", "The encryption was not made with the party that signalled the call. Reload this page and call again; if it happens again, tell the gateway's operator."),
  "Failed by RTP activity": row("Sound stopped", "The call was ended: no sound arrived any more", "The network broke, or the other side went away. Call again."),
  "No common codecs": row("No common format", "No common audio format", "The other side speaks none of the audio formats of this browser. Ask its operator to allow G.711 or Opus."),
  "Transcoding required, but disabled": row("No common format", "No common audio format", "The other side changed to an audio format that this call cannot change to. Call again; if it happens again, ask its operator to keep to one format."),
  "Failed by RTMP writer error": row("Failed", "The call could not be recorded", "The gateway could not write the stream of this call. Tell its operator."),
};

/** SIP statuses (RFC 3261 section 21 and its extensions). */
const SIP_STATUS = {
  401: row("Wrong password", "The call was refused: wrong password", "Check login and password, then connect again."),
  402: row("No credit", "The call was refused: payment is required", "The account has no credit for this call. Ask its operator."),
  403: row("Not allowed", "{who} may not be called", "The exchange refused the call. Ask its operator whether this account may dial that number."),
  404: row("No such number", "No such number: {who}", NUMBER),
  406: row("Refused", "{who} cannot take this kind of call", "The other side accepts no audio call. Try another way to reach it."),
  407: row("Wrong password", "The call was refused: wrong password", "Check login and password, then connect again."),
  408: row("No answer", "{who} did not answer", "Nothing answered in time. Check the number, or that the SIP domain is reachable."),
  410: row("Number gone", "{who} is no longer in use", "The number was given up. Ask for the new one."),
  413: row("Refused", "The call was too long to be signalled", "The exchange refused the size of the request. Tell the gateway's operator; fewer codecs make it smaller."),
  415: row("No common format", "No common audio format", "The other side does not understand how this call is described. Tell its operator."),
  416: row("No such address", "{who} is no address that can be called", "Use a number, or an address like name@example.com."),
  420: row("Refused", "The other exchange asks for something unknown", "It wants an extension that this gateway does not have. Tell its operator."),
  421: row("Refused", "The other exchange asks for something unknown", "It wants an extension that this gateway does not have. Tell its operator."),
  423: row("Refused", "The exchange asks for longer intervals", AGAIN),
  480: row("Not available", "{who} is not available", "The phone is not registered or did not answer. Try again later."),
  481: row("Lost", "The call was lost", "The other side no longer knows this call. Call again."),
  482: row("Going in circles", "The call went in circles", "The exchange sends the call back to where it came from. Tell its operator."),
  483: row("Too far", "The call went through too many exchanges", "It may be going in circles. Tell the operator of the exchange."),
  484: row("Number not complete", "The number {who} is not complete", NUMBER),
  485: row("Ambiguous", "{who} is not unique", "More than one phone has this name. Dial the full number."),
  486: row("Busy", "{who} is busy", AGAIN),
  487: row("Cancelled", "The call was cancelled", "It was given up before it was answered."),
  488: row("No common format", "No common audio format", "The other side speaks none of the audio formats of this browser. Ask its operator to allow G.711 or Opus."),
  491: row("Failed", "Both sides asked at the same moment", "Call again."),
  494: row("Refused", "The other exchange insists on another kind of security", "Tell the gateway's operator."),
  500: row("Failed", "The call failed", `The other exchange had an error of its own (SIP 500). ${AGAIN} If it stays so, tell its operator.`),
  501: row("Failed", "The call failed", "The other exchange cannot do this kind of call (SIP 501)."),
  502: row("Failed", "The call failed", `An exchange behind the first one gave a wrong answer (SIP 502). ${AGAIN}`),
  503: row("Overloaded", "The call could not be put through", "The exchange cannot be reached or is overloaded. Check SIP domain and port, or try again in a moment."),
  504: row("No answer", "The exchange waited in vain", `An exchange behind the first one did not answer. ${AGAIN}`),
  505: row("Failed", "The call failed", "The other exchange speaks another version of SIP. Tell its operator."),
  513: row("Refused", "The call was too long to be signalled", "The exchange refused the size of the request. Tell the gateway's operator; fewer codecs make it smaller."),
  580: row("Failed", "The network has no room for this call", AGAIN),
  600: row("Busy", "{who} is busy", AGAIN),
  603: row("Declined", "{who} declined the call", "You may call again later, or send a message instead."),
  604: row("No such number", "No such number: {who}", NUMBER),
  606: row("No common format", "No common audio format", "The other side speaks none of the audio formats of this browser. Ask its operator to allow G.711 or Opus."),
  607: row("Unwanted", "{who} does not want calls from here", "The other side marked calls of this account as unwanted."),
  608: row("Rejected", "The call was rejected on the way", "An operator on the way blocks calls of this account. Ask yours why."),
};

/** The first digit of a status that has no row of its own. */
const SIP_CLASS = {
  3: row("Moved", "{who} has moved", "The exchange names another address, to which this gateway does not follow. Ask for the new number."),
  4: row("Refused", "The call was refused", "{detail} Check the number and the account; if both are right, ask the operator of the exchange."),
  5: row("Failed", "The call failed", `{detail} The exchange could not do it. ${AGAIN}`),
  6: row("Refused", "{who} cannot be called anywhere", "{detail} Check the number and dial again."),
};

/** The rest of CALL_STATUS_INFO: what is said only when no SIP status tells more. */
const CALL_INFO_GENERAL = {
  "Failed by request timeout": row("No answer", "{who} did not answer", "Nothing answered in time. Check the number, or that the SIP domain is reachable."),
  "Failed by session creation": row("Failed", "The call could not be set up", "The gateway could not agree with the other side. Try again; if it stays so, tell the gateway's operator the time of this call."),
  "Failed by error": row("Failed", "The call was broken off", "The gateway lost this call. Call again; if it stays so, tell the gateway's operator the time of this call."),
  "Normal call clearing": row("Ended", "The call was ended", "The other side ended it before it was answered."),
};

const CALL_UNKNOWN = row("Failed", "The call failed", "{detail} Try again; if it stays so, tell the gateway's operator the time of this call.");

/** Codes of a session's `fail`. */
const SESSION_FAIL = {
  AUTHENTICATION_FAIL: row("", "Wrong login or password", "The SIP server refused them. Correct them and connect again."),
  USER_NOT_AVAILABLE: row("", "The SIP server does not know this login", "Check login and SIP domain, then connect again."),
  TOO_MANY_REGISTER_ATTEMPTS: row("", "Too many attempts to register", "The SIP server wants a pause. Wait some minutes, check the password, then connect again."),
  LICENSE_RESTRICTION: row("", "The gateway's licence does not allow this", "Ask the gateway's operator."),
  LICENSE_NOT_FOUND: row("", "The gateway has no licence", "Ask the gateway's operator."),
  INTERNAL_SIP_ERROR: row("", "The SIP server refused the registration", "It had an error of its own. Try again in a moment; if it stays so, tell its operator."),
  CONNECTION_ERROR: row("", "The SIP server does not answer", "Check SIP domain and port, and that this gateway can reach them."),
  REGISTER_EXPIRE: row("", "The SIP server does not answer", "Check SIP domain and port, and that this gateway can reach them."),
  SIP_PORTS_BUSY: row("", "The gateway has no free port for SIP", "It is full. Try again later, or tell its operator."),
  MEDIA_PORTS_BUSY: row("", "The gateway has no free port for sound", "It is full. Try again later, or tell its operator."),
  WRONG_SIPPROVIDER_ADDRESS: row("", "The address of the SIP server is wrong", "Check SIP domain, outbound proxy and port, then connect again."),
  CALLEE_NAME_IS_NULL: row("", "No number was dialled", "Enter a number and call again."),
  PAYMENT_REQUIRED: row("", "The SIP server wants a payment", "The account has no credit. Ask its operator."),
  REST_AUTHORIZATION_FAIL: row("", "The application denied this connection", "Your application's server does not let this account in. Sign in there first, or ask its operator."),
  REST_FAIL: row("", "The application's server does not answer", "The gateway asks it before it lets anybody in. Try again later, or tell its operator."),
  authToken: row("", "This session is over", "It was too long ago. Enter login and password and connect again."),
  UNREGISTERED: row("", "The registration was lost", "Calls to this page may not arrive. Disconnect and connect again."),
};

/** Fields of `connection` that the gateway may refuse, as the form calls them. */
const FIELDS = {
  sipLogin: "login", sipAuthenticationName: "authentication name", sipPassword: "password", sipDomain: "SIP domain",
  sipOutboundProxy: "outbound proxy", sipPort: "SIP port", sipVisibleName: "name",
};

const SESSION_UNKNOWN = row("", "The gateway refused the connection", "{detail} Check the account and connect again.");

/** Close codes of the websocket (RFC 6455 section 7.4.1). */
const SOCKET_CLOSE = {
  1001: row("", "The gateway is stopping", "It may be back soon. Connect again in a moment."),
  1008: row("", "The gateway ended the connection", "This page did not answer in time or sent too much. Connect again; if it happens again, reload the page."),
  1009: row("", "The gateway ended the connection", "A message was too long. Reload the page and connect again."),
  1012: row("", "The gateway is restarting", "Connect again in a moment."),
  1013: row("", "The gateway is full", "It takes no more sessions at the moment. Try again later."),
};

const SOCKET_LOST = row("", "The connection to the gateway was lost", "Check your network and connect again. If that fails, the gateway may be restarting.");
const UNREACHABLE = row("", "The gateway cannot be reached", "Nothing answers at {detail}. Check that it runs, and its address under More.");
const CERTIFICATE = row("", "The gateway cannot be reached", "It may not run, or this browser does not know its certificate. If it is self-signed, open this address, accept it, come back and connect again:");

/** What a browser refuses to open at all. */
const ADDRESS_INSECURE = row("", "This page needs a secure address of the gateway", "It came by https, so the browser refuses {detail}. Under More, enter the gateway's address that begins with wss://.");
const ADDRESS_UNUSABLE = row("", "The gateway's address cannot be used", "The browser refuses {detail}. Correct it under More: ws://host:port or wss://host:port, with the port that the gateway names at its start.");

/** What a browser says when it gives no microphone: names of DOMException, and words of its message, which is all the SDK keeps. */
const MICROPHONE = [
  [/NotAllowed|denied|permission|not allowed/i, row("No microphone", "No permission to use the microphone", "Allow the microphone for this page in the browser's address bar, then call again.")],
  [/NotFound|not found|not be found/i, row("No microphone", "No microphone was found", "Plug one in, then call again.")],
  [/NotReadable|in use|start audio source|allocate|I\/O/i, row("No microphone", "The microphone cannot be used", "Another program may hold it. Close that program, or choose another microphone under Sound, then call again.")],
  [/Overconstrained|constraint/i, row("No microphone", "The chosen microphone is not there", "Choose another one under Sound, then call again.")],
  [/Security|insecure/i, row("No microphone", "This page may not use the microphone", "The browser's settings forbid it. Open the page on https or on http://localhost.")],
];

const MICROPHONE_UNKNOWN = row("No microphone", "The call could not be started", "{detail} Choose another microphone under Sound, then call again.");

/** The same for a camera, alone or with a microphone. What is said of the microphone itself is in the table above. */
const CAMERA = [
  [/NotAllowed|denied|permission|not allowed/i, row("No camera", "No permission to use camera and microphone", "Allow both for this page in the browser's address bar, then call again. With “Sound only” the microphone is enough.")],
  [/NotFound|not found|not be found/i, row("No camera", "Camera or microphone was not found", "Plug it in, then call again. Without a camera, use “Sound only”.")],
  [/NotReadable|in use|video ?source|videoinput|allocate|I\/O/i, row("No camera", "The camera cannot be used", "Another program may hold it. Close that program, choose another camera under Picture and sound, or use “Sound only”.")],
  [/Overconstrained|constraint/i, row("No camera", "The chosen camera or microphone is not there", "Choose another one under Picture and sound, then call again.")],
  [/Security|insecure/i, row("No camera", "This page may not use camera and microphone", "The browser's settings forbid it. Open the page on https or on http://localhost.")],
];

const CAMERA_UNKNOWN = row("No camera", "The call could not be started", "{detail} Choose another camera or microphone under Picture and sound, or use “Sound only”.");

/** What stops a page before anything is dialled. */
const PAGE = {
  insecure: row("", "This page may not use the microphone here", "Browsers allow it on http://localhost and on https only. Open the page there; the gateway prints both addresses at its start."),
  noSdk: row("", "The phone could not be loaded", "The gateway does not serve the SDK at /client2/. Run ./run, or npm ci in its folder, and reload."),
  noWebRtc: row("", "This browser cannot make calls", "It has no WebRTC. Use a current Chrome, Edge, Firefox or Safari."),
  microphoneLost: row("", "The microphone is gone", "It was unplugged and there is no other: the other side hears nothing. Plug one in; it is taken at once."),
  speakerRefused: row("", "The speaker cannot be used", "The sound stays where it was. Choose another one under Sound."),
  cameraLost: row("", "The camera is gone", "It was unplugged and there is no other: the other side sees no picture. Plug one in; it is taken at once."),
  cameraRefused: row("", "The camera cannot be used", "The former one stays in use. Another program may hold the one you chose: close that program, or choose another one."),
  shapeRefused: row("", "The camera cannot change its picture", "Size and frame rate stay as they were. Choose others; they hold for the next call too."),
  screenRefused: row("", "The screen cannot be shown", "The browser or the system forbids it. Allow this browser to record the screen in the system's settings, then try again."),
  microphoneRefused: row("", "The microphone cannot be used", "The former one stays in use. Another program may hold the one you chose: close that program, or choose another one under Sound."),
};

const has = (table, key) => Object.prototype.hasOwnProperty.call(table, key);

/** A row with its blanks filled in. */
function fill(from, who, detail) {
  const words = (text) => text.replace("{who}", who).replace("{detail}", detail).trim();
  return { result: words(from.result), title: words(from.title), advice: words(from.advice) };
}

/**
 * How a call ended that did not come about or broke off.
 * @param {{status?: string, sipStatus?: number, info?: string}} end the gateway's last word on the call
 * @param {string} who the other party as people know it
 */
export function explainCall(end, who) {
  const info = String(end.info || "");
  const status = Number(end.sipStatus) || 0;
  const detail = `${[info, status ? `SIP ${status}` : ""].filter(Boolean).join(", ") || "The gateway gave no reason"}.`;
  const found =
    (has(CALL_INFO, info) && CALL_INFO[info]) ||
    SIP_STATUS[status] ||
    SIP_CLASS[Math.floor(status / 100)] ||
    (has(CALL_INFO_GENERAL, info) && CALL_INFO_GENERAL[info]) ||
    CALL_UNKNOWN;
  return fill(found, who, detail);
}

/**
 * Why a session was refused or lost its registration.
 * @param {{status?: string, info?: string}} fail the gateway's `fail`
 */
export function explainSession(fail) {
  const info = String(fail.info || "");
  if (fail.status === "UNREGISTERED") return fill(SESSION_FAIL.UNREGISTERED, "", "");
  if (has(SESSION_FAIL, info)) return fill(SESSION_FAIL[info], "", "");
  const [, field, reason] = /^(\w+): (.*)$/.exec(info) || [];
  if (field === "authToken") return fill(SESSION_FAIL.authToken, "", "");
  if (field && has(FIELDS, field)) {
    return { result: "", title: `The ${FIELDS[field]} cannot be used`, advice: `The gateway says: ${reason}. Correct it and connect again.` };
  }
  return fill(SESSION_UNKNOWN, "", info ? `${info}.` : "It gave no reason.");
}

/**
 * Why the websocket is gone, when the gateway gave no `fail`.
 * @param {"refused"|"closed"} how whether it never opened or was closed later
 * @param {string} url where it leads
 * @param {number} code the close code, 0 when there was none
 * @returns what it means; `link` is an address to open, when that helps
 */
export function explainSocket(how, url, code) {
  if (has(SOCKET_CLOSE, code)) return fill(SOCKET_CLOSE[code], "", "");
  if (how === "closed") return fill(SOCKET_LOST, "", "");
  if (url.startsWith("wss:")) return { ...fill(CERTIFICATE, "", ""), link: url.replace(/^wss:/, "https:") };
  return fill(UNREACHABLE, "", url);
}

/**
 * Why the browser opens no websocket to an address (WHATWG WebSockets, the constructor's exceptions).
 * @param {string} url the address
 * @param {boolean} isSecurePage whether the page came by https: browsers then refuse `ws://` to other machines
 */
export function explainAddress(url, isSecurePage) {
  return fill(isSecurePage && url.startsWith("ws:") ? ADDRESS_INSECURE : ADDRESS_UNUSABLE, "", url);
}

/**
 * Why there is no microphone.
 * @param {string} name what the browser calls it, or its message
 */
export function explainMicrophone(name) {
  const text = String(name || "");
  const found = MICROPHONE.find(([pattern]) => pattern.test(text));
  // Chromium's message for a device that is gone is empty.
  if (!found && !text) return fill(MICROPHONE.find(([pattern]) => pattern.test("Overconstrained"))[1], "", "");
  return fill(found ? found[1] : MICROPHONE_UNKNOWN, "", text ? `${text}.` : "");
}

/**
 * Why a call could not capture what it wanted.
 * @param {string} name what the browser calls it, or its message
 * @param {boolean} withPicture whether a camera was asked for too
 */
export function explainCapture(name, withPicture) {
  const text = String(name || "");
  if (!withPicture || /audio ?(source|input)/i.test(text)) return explainMicrophone(text);
  // Chromium's message for a device that is gone is empty.
  const [, found] = CAMERA.find(([pattern]) => pattern.test(text || "Overconstrained")) || [null, CAMERA_UNKNOWN];
  return fill(found, "", text ? `${text}.` : "");
}

/** What stops the page, by a name of the table. */
export const explainPage = (name) => fill(PAGE[name], "", "");
