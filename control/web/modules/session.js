// One session with the gateway on top of the vendor's SDK: its states, why it ended, and the calls that come in by it.
import { explainAddress, explainSession, explainSocket } from "./failures.js";

// The SDK tells a page that a call or a socket ended, not why, and that a call came in, not whether with pictures: `sipStatus`,
// `info`, descriptions and the close code are in frames and events alone. So they are read here too.
const KEPT_MAX = 32;
const ends = new Map();
const pictured = new Map();
let lastClose = 0;

/** Keeps a value, and forgets the oldest of too many. */
function keep(map, key, value) {
  map.set(key, value);
  if (map.size > KEPT_MAX) map.delete(map.keys().next().value);
}

window.WebSocket = class extends window.WebSocket {
  constructor(...args) {
    super(...args);
    lastClose = 0;
    this.addEventListener("message", (event) => {
      let frame;
      try { frame = JSON.parse(event.data); } catch { return; }
      if (!frame || !Array.isArray(frame.data)) return;
      const [first, second] = frame.data;
      if (frame.message === "finish" && first && first.callId) keep(ends, first.callId, first);
      // A section with port 0 is refused (RFC 3264 section 5.1).
      if (frame.message === "setRemoteSDP") keep(pictured, first, /^m=video [1-9]/m.test(second));
    });
    this.addEventListener("close", (event) => { lastClose = event.code; });
  }
};

/** The gateway's last word on a call, once; undefined when it said none. */
export function takeEnd(callId) {
  const end = ends.get(callId);
  ends.delete(callId);
  return end;
}

/** Whether the other side of a call has last offered or taken pictures. */
export const hasPictures = (callId) => pictured.get(callId) === true;

/**
 * A session. Its states: off, connecting, registering, connected (without registration), registered, failed.
 */
export class GatewaySession {
  #sdk = null;
  #isOurEnd = false;
  #on;

  /**
   * @param on what to tell: `state(name)`, `ended()` before the last state, `problem(words)`, `incoming(sdkCall)`
   */
  constructor(on) {
    this.#on = on;
    this.state = "off";
  }

  /** Whether calls can be made and taken. */
  get isReady() {
    return this.state === "connected" || this.state === "registered";
  }

  /** Whether there is a session, though it may not be ready yet. */
  get isOpen() {
    return this.#sdk !== null;
  }

  /**
   * Opens it.
   * @param {string} url `ws://` or `wss://`
   * @param sipOptions the account as the SDK wants it
   */
  connect(url, sipOptions) {
    const status = Flashphoner.constants.SESSION_STATUS;
    let lastFail = null;
    this.#isOurEnd = false;
    this.#become("connecting");
    const ended = (how) => {
      this.#sdk = null;
      this.#on.ended();
      this.#become(this.#isOurEnd ? "off" : "failed");
      if (this.#isOurEnd) return;
      this.#on.problem(lastFail ? explainSession(lastFail) : explainSocket(how, url, lastClose));
    };
    try {
      this.#sdk = Flashphoner.createSession({ urlServer: url, sipOptions });
    } catch {
      // The browser refused the address: there is no socket, so no event follows.
      this.#become("failed");
      this.#on.problem(explainAddress(url, location.protocol === "https:"));
      return;
    }
    this.#sdk
      .on(status.ESTABLISHED, () => this.#become(sipOptions.registerRequired ? "registering" : "connected"))
      .on(status.REGISTERED, () => this.#become("registered"))
      .on(status.WARN, (fail) => {
        if (!fail) return;
        if (fail.status === "UNREGISTERED") {
          // The session lives on: calls may still work.
          this.#become("connected");
          this.#on.problem(explainSession(fail));
        } else if (fail.apiMethod === "RegistrationStatusEvent" || fail.apiMethod === "ConnectionStatusEvent") {
          lastFail = fail;
        }
      })
      .on(status.DISCONNECTED, () => ended("closed"))
      .on(status.FAILED, () => ended("refused"))
      .on(status.INCOMING_CALL, (call) => this.#on.incoming(call));
  }

  /** Ends it. */
  disconnect() {
    this.#isOurEnd = true;
    if (this.#sdk) this.#sdk.disconnect();
  }

  /** A new call of the SDK with these options. */
  createCall(options) {
    return this.#sdk.createCall(options);
  }

  #become(state) {
    this.state = state;
    this.#on.state(state);
  }
}
