// One call, out or in, on top of the SDK's: its states, the microphone and speaker in it, tones, and how it ended.
import { explainCall, explainMicrophone } from "./failures.js";
import { takeEnd } from "./session.js";

// The SDK keeps its peer connection to itself. Statistics, tones and a change of the microphone that cannot fail half-way need it.
let lastPeer = null;

if (window.RTCPeerConnection) {
  window.RTCPeerConnection = class extends window.RTCPeerConnection {
    constructor(...args) {
      super(...args);
      lastPeer = this;
    }
  };
}

/** Keys that have a tone (RFC 4733 section 3.2). */
export const TONE_KEYS = "1234567890*#";

/** Length of a tone and of the pause behind it, ms. */
const TONE_MS = 120;
const TONE_GAP_MS = 70;

/**
 * A call. Its states: starting, calling, ringing, incoming, connecting, established, ended.
 */
export class Call {
  #sdk;
  #media;
  #on;
  #isOwnHangup = false;

  /**
   * @param sdkCall the SDK's call, not yet called or answered
   * @param party `{ name, number, direction }`; direction is "out" or "in"
   * @param media `{ local, remote, constraints(), speaker() }`: elements, what to capture, and the speaker's id ("" for the system's)
   * @param on what to tell: `state(name)`, `microphoneGone()`, `end({ result, seconds, problem })`
   */
  constructor(sdkCall, party, media, on) {
    this.#sdk = sdkCall;
    this.#media = media;
    this.#on = on;
    this.party = party;
    this.state = party.direction === "in" ? "incoming" : "starting";
    this.isMuted = false;
    /** The other exchange, or the gateway, plays the ringing, or an announcement. */
    this.hasEarlyMedia = false;
    this.startedAt = new Date();
    this.answeredAt = 0;
    const status = Flashphoner.constants.CALL_STATUS;
    const ringing = () => { if (party.direction === "out" && !this.answeredAt) this.#become("ringing"); };
    sdkCall
      .on(status.TRYING, () => { if (party.direction === "out") this.#become("calling"); })
      .on(status.RING, ringing)
      .on(status.RING_MEDIA, () => {
        this.hasEarlyMedia = true;
        ringing();
      })
      .on(status.SESSION_PROGRESS, ringing)
      .on(status.ESTABLISHED, () => this.#established())
      .on(status.FINISH, () => this.#ended("FINISH"))
      .on(status.BUSY, () => this.#ended("FINISH"))
      .on(status.FAILED, () => this.#ended("FAILED"));
  }

  /**
   * Rejects a call that comes while there is another. When the gateway knows the other one too, whoever comes second hears busy
   * (486), and other phones of the number ring on; before that, while the browser asks for the microphone, the call is declined.
   */
  static refuse(sdkCall) {
    sdkCall.on(Flashphoner.constants.CALL_STATUS.RING, () => sdkCall.hangup());
  }

  /** The peer connection; null until there is one. */
  get peer() {
    return this.state === "incoming" || this.state === "starting" ? null : lastPeer;
  }

  /** Seconds since the answer, 0 before it. */
  get seconds() {
    return this.answeredAt ? Math.floor((performance.now() - this.answeredAt) / 1000) : 0;
  }

  /** Places an outgoing call. */
  dial() {
    this.#prepare();
    this.#sdk.call();
  }

  /** Takes an incoming call. */
  answer() {
    this.#prepare();
    this.#become("connecting");
    this.#sdk.answer({
      constraints: this.#media.constraints(),
      localVideoDisplay: this.#media.local,
      remoteVideoDisplay: this.#media.remote,
    });
  }

  /** Ends, gives up or declines it; `end` follows. */
  hangup() {
    this.#isOwnHangup = true;
    this.#sdk.hangup();
  }

  /** Ends it on this side because the session is gone. The SDK leaves such calls as they were; the gateway has ended them. */
  drop() {
    this.#finish({ status: "FINISH" }, null, "Connection lost");
    // Nothing can be sent any more, but this closes the peer connection and gives the microphone back.
    this.#sdk.hangup();
  }

  /** Sends silence instead of the microphone, or the microphone again. */
  mute(isMuted) {
    this.isMuted = isMuted;
    if (isMuted) this.#sdk.muteAudio(); else this.#sdk.unmuteAudio();
  }

  /**
   * Takes another microphone without renegotiation. The former one is kept until the new one works: the SDK's `switchMic`
   * stops it first, and knows only devices that had a name before the call.
   * When the call ends meanwhile, the new one is released and nothing is thrown.
   * @param audio constraints of getUserMedia
   */
  async changeMicrophone(audio) {
    const sender = this.#audioSender();
    if (!sender) return;
    const former = sender.track;
    let fresh = null;
    try {
      const stream = await navigator.mediaDevices.getUserMedia({ audio, video: false });
      [fresh] = stream.getAudioTracks();
      fresh.enabled = !this.isMuted;
      if (!this.#isOver) await sender.replaceTrack(fresh);
    } catch (error) {
      if (fresh) fresh.stop();
      // Once the user has hung up, a refusal means nothing to them.
      if (this.#isOver) return;
      throw error;
    }
    if (this.#isOver) return fresh.stop();
    // The SDK mutes and releases what its own element holds.
    const element = this.#media.local.querySelector("video");
    if (element && element.srcObject) {
      for (const track of element.srcObject.getAudioTracks()) element.srcObject.removeTrack(track);
      element.srcObject.addTrack(fresh);
    }
    if (former) former.stop();
    this.#watchMicrophone(fresh);
  }

  /**
   * Plays on another speaker.
   * @param {string} id the device; "" is the system's
   */
  async changeSpeaker(id) {
    await this.#sdk.setAudioOutputId(id);
  }

  /** Whether tones can be sent: the other side takes telephone events. */
  get canSendTones() {
    const sender = this.#audioSender();
    return Boolean(sender && sender.dtmf && sender.dtmf.canInsertDTMF);
  }

  /** Sends the tone of a key behind those that are still being sent. */
  sendTone(key) {
    const { dtmf } = this.#audioSender();
    dtmf.insertDTMF(dtmf.toneBuffer + key, TONE_MS, TONE_GAP_MS);
  }

  /** Whether the SDK has closed the peer connection, or is about to: at a hangup here it does not wait for the gateway. */
  get #isOver() {
    return this.#isOwnHangup || this.state === "ended";
  }

  #audioSender() {
    const audio = this.peer && this.peer.getTransceivers().find(({ receiver }) => receiver.track.kind === "audio");
    return audio ? audio.sender : null;
  }

  #prepare() {
    lastPeer = null;
    if (this.#media.speaker()) this.#sdk.setAudioOutputId(this.#media.speaker());
  }

  #watchMicrophone(track) {
    track.addEventListener("ended", () => { if (this.state === "established") this.#on.microphoneGone(); });
  }

  #established() {
    if (this.answeredAt) return;
    this.answeredAt = performance.now();
    this.#become("established");
    const sender = this.#audioSender();
    if (sender && sender.track) this.#watchMicrophone(sender.track);
  }

  #become(state) {
    this.state = state;
    this.#on.state(state);
  }

  #ended(status) {
    const end = takeEnd(this.#sdk.id());
    // A failure that the gateway has not told is the browser's own: it gave no microphone.
    const isLocal = status === "FAILED" && !end && !this.#isOwnHangup;
    const microphone = isLocal ? explainMicrophone(this.#sdk.getErrorInfo()) : null;
    this.#finish(end || { status }, microphone, null);
  }

  #finish(end, microphone, lost) {
    if (this.state === "ended") return;
    const { direction, name } = this.party;
    const seconds = this.seconds;
    const wasAnswered = this.answeredAt > 0;
    const failed = end.status === "FAILED";
    const who = name || "The other side";
    let result = wasAnswered ? "Ended" : "No answer";
    let problem = microphone;
    if (microphone) result = microphone.result;
    else if (lost) result = lost;
    else if (this.#isOwnHangup) result = wasAnswered ? "Ended" : direction === "in" ? "Declined" : "Cancelled";
    else if (direction === "in" && !wasAnswered && !(failed && this.state === "connecting")) result = "Missed";
    else if (failed || !wasAnswered) {
      // An answered call that ends is ordinary, whatever its status says, unless it failed.
      problem = explainCall(end, who);
      result = problem.result;
    }
    this.#become("ended");
    this.#on.end({ result, seconds, wasAnswered, problem });
  }
}
