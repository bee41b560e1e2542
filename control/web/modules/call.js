// One call, out or in, on top of the SDK's: its states, what is captured for it, the speaker, tones, and how it ended.
import { explainCall, explainCapture } from "./failures.js";
import { takeEnd } from "./session.js";

// The SDK keeps its peer connection to itself. Statistics, tones, pictures and a change of device that cannot fail half-way
// need it: the call that is being set up claims the next one.
let claim = null;

if (window.RTCPeerConnection) {
  window.RTCPeerConnection = class extends window.RTCPeerConnection {
    constructor(...args) {
      super(...args);
      if (claim) claim(this);
    }
  };
}

/** Keys that have a tone (RFC 4733 section 3.2). */
export const TONE_KEYS = "1234567890*#";

/** Length of a tone and of the pause behind it, ms. */
const TONE_MS = 120;
const TONE_GAP_MS = 70;

/** Frames of a screen, a second: enough to follow a pointer, and text stays sharp. */
const SCREEN_FRAME_RATE = 15;

/**
 * A call. Its states: starting, calling, ringing, incoming, connecting, established, ended.
 */
export class Call {
  #sdk;
  #media;
  #on;
  #peer = null;
  #isOwnHangup = false;
  #isMuted = { audio: false, video: false };
  /** Tracks that are captured and not yet, or not now, in the SDK's element, which releases its own at the end. */
  #aside = new Set();
  #screen = null;
  #camera = null;

  /**
   * @param sdkCall the SDK's call, not yet called or answered
   * @param party `{ name, number, direction }`; direction is "out" or "in"
   * @param media `{ local, remote, constraints(withPicture), speaker() }`: elements, what to capture, and the speaker's id ("" for
   *   the system's)
   * @param on what to tell: `state(name)`, `agreed()` when both sides have described their media, `deviceGone(kind)`,
   *   `screenGone()` when the browser ended what `shareScreen` began, `end({ result, seconds, wasAnswered, problem })`
   */
  constructor(sdkCall, party, media, on) {
    this.#sdk = sdkCall;
    this.#media = media;
    this.#on = on;
    this.party = party;
    this.state = party.direction === "in" ? "incoming" : "starting";
    this.withPicture = false;
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
   * Rejects a call that came while there is another. As the gateway knows the other one too, whoever comes second hears busy
   * (486), and other phones of the number ring on.
   */
  static refuse(sdkCall) {
    const { NEW, RING } = Flashphoner.constants.CALL_STATUS;
    // Before its RING the SDK would end it here alone.
    if (sdkCall.status() === NEW) sdkCall.on(RING, () => sdkCall.hangup());
    else sdkCall.hangup();
  }

  /** Its id at the gateway. */
  get id() {
    return this.#sdk.id();
  }

  /** The peer connection; null until there is one. */
  get peer() {
    return this.#peer;
  }

  /** Seconds since the answer, 0 before it. */
  get seconds() {
    return this.answeredAt ? Math.floor((performance.now() - this.answeredAt) / 1000) : 0;
  }

  /** Places an outgoing call, whose SDK call was made to capture a picture or not. */
  dial(withPicture) {
    this.#prepare(withPicture);
    this.#sdk.call();
  }

  /** Takes an incoming call. */
  answer(withPicture) {
    this.#prepare(withPicture);
    this.#become("connecting");
    this.#sdk.answer({
      constraints: this.#media.constraints(withPicture),
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
  }

  /**
   * Which pictures flow: null until both sides have said.
   * @returns {{ sends: boolean, receives: boolean } | null}
   */
  get pictures() {
    const peer = this.#peer;
    if (!peer || peer.signalingState !== "stable" || !peer.remoteDescription) return null;
    const direction = (this.#transceiver("video") || {}).currentDirection || "";
    return { sends: direction.startsWith("send"), receives: direction.endsWith("recv") || direction === "recvonly" };
  }

  /** Whether silence ("audio") or darkness ("video") is sent. */
  isMuted(kind) {
    return this.#isMuted[kind];
  }

  /** Sends silence or darkness instead of what is captured, or that again. */
  mute(kind, isMuted) {
    this.#isMuted[kind] = isMuted;
    const sender = this.#sender(kind);
    const tracks = [sender && sender.track, ...this.#aside, ...this.#shown()];
    for (const track of tracks) if (track && track.kind === kind) track.enabled = !isMuted;
  }

  /**
   * Takes another microphone ("audio") or camera ("video") without renegotiation. The former one is kept until the new one works:
   * the SDK's own switches stop it first, and know only devices that had a name before the call.
   * When the call ends meanwhile, the new one is released and nothing is thrown.
   * @param {"audio"|"video"} kind
   * @param constraints what to ask the browser for
   */
  async changeDevice(kind, constraints) {
    const sender = this.#sender(kind);
    if (!sender || (kind === "video" && !this.#sendsPicture)) return;
    // Behind a screen that is shown the camera changes unseen.
    const isHidden = kind === "video" && this.#screen !== null;
    const former = isHidden ? this.#camera : sender.track;
    await this.#take(() => capture(kind, constraints, former), async (fresh) => {
      if (this.#screen && kind === "video") this.#camera = fresh;
      else await sender.replaceTrack(fresh);
    }, (fresh) => {
      if (this.#screen && kind === "video") this.#aside.add(fresh);
      else this.#show(fresh);
      if (former) this.#release(former);
      this.#watch(fresh);
    });
  }

  /**
   * Changes size and frame rate of the camera's pictures, in the call.
   * @param {{ width: number, height: number, frameRate: number }} shape as near as the camera can
   */
  async changeShape(shape) {
    const sender = this.#sender("video");
    if (!this.#sendsPicture) return;
    const camera = this.#screen ? this.#camera : sender.track;
    await camera.applyConstraints(shape);
  }

  /** Whether a microphone ("audio") or camera ("video") works for this call. */
  isCapturing(kind) {
    const sender = this.#sender(kind);
    const track = kind === "video" && this.#screen ? this.#camera : sender && sender.track;
    return Boolean(track && track.readyState === "live");
  }

  /** Whether the screen is shown instead of the camera. */
  get isSharing() {
    return this.#screen !== null;
  }

  /**
   * Lets the user choose a screen, window or tab, for which the browser waits as long as they like.
   * @returns {Promise<MediaStreamTrack | null>} for `shareScreen`; null when there is nothing to show it in, or no more. The end of
   *   the call releases it
   */
  async chooseScreen() {
    if (!this.#sendsPicture || this.#screen) return null;
    const wanted = { video: { frameRate: SCREEN_FRAME_RATE }, audio: false };
    let screen = null;
    await this.#take(() => navigator.mediaDevices.getDisplayMedia(wanted), () => {}, (fresh) => { screen = fresh; });
    return screen;
  }

  /**
   * Shows a screen that was chosen in the place of the camera: same stream, no renegotiation. The camera stays ready to come back.
   * @param {MediaStreamTrack} screen of `chooseScreen`
   */
  async shareScreen(screen) {
    const sender = this.#sender("video");
    if (!this.#sendsPicture || this.#screen || screen.readyState === "ended") return this.#release(screen);
    await this.#take(() => new MediaStream([screen]), async (fresh) => {
      if ("contentHint" in fresh) fresh.contentHint = "detail";
      const camera = sender.track;
      await sender.replaceTrack(fresh);
      this.#camera = camera;
      this.#screen = fresh;
    }, (fresh) => {
      if (this.#camera) this.#aside.add(this.#camera);
      this.#show(fresh);
      // The browser has a button of its own to end this.
      fresh.addEventListener("ended", () => { if (this.#screen === fresh) this.#on.screenGone(); });
    });
  }

  /** Shows the camera again. */
  async stopScreen() {
    const screen = this.#screen;
    if (!screen) return;
    this.#screen = null;
    screen.stop();
    const camera = this.#camera;
    this.#camera = null;
    if (this.#isOver) return;
    await this.#sender("video").replaceTrack(camera);
    if (!this.#isOver) this.#show(camera);
  }

  /** Lets go of the camera, because the other side takes no picture. */
  releaseCamera() {
    for (const track of this.#shown()) {
      if (track.kind !== "video") continue;
      this.#element().srcObject.removeTrack(track);
      track.stop();
    }
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
    const sender = this.#sender("audio");
    return Boolean(sender && sender.dtmf && sender.dtmf.canInsertDTMF);
  }

  /** Sends the tone of a key behind those that are still being sent. */
  sendTone(key) {
    const { dtmf } = this.#sender("audio");
    dtmf.insertDTMF(dtmf.toneBuffer + key, TONE_MS, TONE_GAP_MS);
  }

  /** Whether the SDK has closed the peer connection, or is about to: at a hangup here it does not wait for the gateway. */
  get #isOver() {
    return this.#isOwnHangup || this.state === "ended";
  }

  get #sendsPicture() {
    return Boolean(this.pictures && this.pictures.sends && this.#sender("video").track);
  }

  #transceiver(kind) {
    return this.#peer && this.#peer.getTransceivers().find(({ receiver }) => receiver.track.kind === kind);
  }

  #sender(kind) {
    const transceiver = this.#transceiver(kind);
    return transceiver ? transceiver.sender : null;
  }

  /** The SDK's element with what is captured. */
  #element() {
    return this.#media.local.querySelector("video");
  }

  #shown() {
    const element = this.#element();
    return element && element.srcObject ? element.srcObject.getTracks() : [];
  }

  /** Puts a track into the SDK's element in the place of the others of its kind: it is seen there, and released at the end. */
  #show(track) {
    this.#aside.delete(track);
    const element = this.#element();
    if (!element || !element.srcObject) return this.#aside.add(track);
    const others = element.srcObject.getTracks().filter(({ kind }) => kind !== track.kind);
    // A new stream: an element goes on showing the former track of a stream that changed under it.
    element.srcObject = new MediaStream([...others, track]);
  }

  #release(track) {
    this.#aside.delete(track);
    track.stop();
  }

  /**
   * Captures a track and puts it into use. While that takes its time the track is muted as the others are; when it fails, or the
   * call ends meanwhile, it is released.
   */
  async #take(ask, use, done) {
    let fresh = null;
    try {
      const stream = await ask();
      [fresh] = stream.getTracks();
      fresh.enabled = !this.#isMuted[fresh.kind];
      this.#aside.add(fresh);
      if (!this.#isOver) await use(fresh);
    } catch (error) {
      if (fresh) this.#release(fresh);
      // Once the user has hung up, a refusal means nothing to them.
      if (this.#isOver) return;
      throw error;
    }
    if (this.#isOver) return this.#release(fresh);
    done(fresh);
  }

  #prepare(withPicture) {
    this.withPicture = withPicture;
    claim = (peer) => {
      claim = null;
      this.#peer = peer;
      peer.addEventListener("signalingstatechange", () => { if (this.pictures) this.#on.agreed(); });
    };
    if (this.#media.speaker()) this.#sdk.setAudioOutputId(this.#media.speaker());
  }

  #watch(track) {
    track.addEventListener("ended", () => { if (this.state === "established") this.#on.deviceGone(track.kind); });
  }

  #established() {
    if (this.answeredAt) return;
    this.answeredAt = performance.now();
    this.#become("established");
    for (const kind of ["audio", "video"]) {
      const sender = this.#sender(kind);
      if (sender && sender.track) this.#watch(sender.track);
    }
  }

  #become(state) {
    this.state = state;
    this.#on.state(state);
  }

  #ended(status) {
    const end = takeEnd(this.#sdk.id());
    // A failure that the gateway has not told is the browser's own: it gave no microphone or camera.
    const isLocal = status === "FAILED" && !end && !this.#isOwnHangup;
    const capture = isLocal ? explainCapture(this.#sdk.getErrorInfo(), this.withPicture) : null;
    this.#finish(end || { status }, capture, null);
  }

  #finish(end, capture, lost) {
    if (this.state === "ended") return;
    const { direction, name } = this.party;
    const seconds = this.seconds;
    const wasAnswered = this.answeredAt > 0;
    const failed = end.status === "FAILED";
    const who = name || "The other side";
    let result = wasAnswered ? "Ended" : "No answer";
    let problem = capture;
    if (capture) result = capture.result;
    else if (lost) result = lost;
    else if (this.#isOwnHangup) result = wasAnswered ? "Ended" : direction === "in" ? "Declined" : "Cancelled";
    else if (direction === "in" && !wasAnswered && !(failed && this.state === "connecting")) result = "Missed";
    else if (failed || !wasAnswered) {
      // An answered call that ends is ordinary, whatever its status says, unless it failed.
      problem = explainCall(end, who);
      result = problem.result;
    }
    this.#become("ended");
    claim = null;
    // The SDK closes the connection and gives the devices back when its last call ends, or at a hangup; another may wait, or the
    // session be gone.
    if (lost || (this.#peer && this.#peer.signalingState !== "closed")) this.#sdk.hangup();
    for (const track of this.#aside) track.stop();
    this.#aside.clear();
    this.#on.end({ result, seconds, wasAnswered, problem });
  }
}

/** Asks for a device. Phones open one camera at a time: there the former one has to go first. */
async function capture(kind, constraints, former) {
  const wanted = { audio: false, video: false, [kind]: constraints };
  try {
    return await navigator.mediaDevices.getUserMedia(wanted);
  } catch (error) {
    if (kind !== "video" || error.name !== "NotReadableError" || !former) throw error;
    former.stop();
    return navigator.mediaDevices.getUserMedia(wanted);
  }
}
