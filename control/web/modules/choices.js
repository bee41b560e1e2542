// The choice of devices as the page shows it: lists, what is away, what the browser does not tell, and a change in the call.
import { Devices } from "./devices.js";
import { explainCapture, explainPage } from "./failures.js";
import { $, show, write } from "./view.js";

/** Kind of device, its list in the page, and what people call it. */
const KINDS = {
  audioinput: { list: "microphone", name: "microphone", media: "audio", lost: "microphoneLost", refused: "microphoneRefused" },
  audiooutput: { list: "speaker", name: "speaker" },
  videoinput: { list: "camera", name: "camera", media: "video", lost: "cameraLost", refused: "cameraRefused" },
};

const canChooseSpeaker = "setSinkId" in HTMLMediaElement.prototype;

export class DeviceChoices {
  #devices;
  #on;
  #withCamera;
  /** Changes are made one after the other. */
  #changes = Promise.resolve();
  /** Kinds of media whose device went away in this call, and no other was found. */
  #gone = new Set();

  /**
   * @param {boolean} withCamera whether the page has a list of cameras
   * @param on what to ask and tell: `call()` gives the call that talks, or null; `constraints(media)` what to capture; `speaker(id)`;
   *   `problem(words)`, `solved()`
   */
  constructor(withCamera, on) {
    this.#withCamera = withCamera;
    this.#on = on;
    const kinds = ["audioinput", "audiooutput", ...(withCamera ? ["videoinput"] : [])];
    this.#devices = new Devices(kinds, (kind, isAnother) => this.#changed(kind, isAnother));
    for (const kind of kinds) {
      $(KINDS[kind].list).addEventListener("change", ({ target }) => this.#devices.choose(kind, target.value));
    }
    show("speaker-field", canChooseSpeaker);
    $("sound-allow").addEventListener("click", () => this.#allow());
  }

  /** Reads the lists anew. */
  refresh() {
    return this.#devices.refresh();
  }

  /** Constraints of getUserMedia for what is chosen, by kind of media. */
  constraints(media) {
    return this.#devices.constraints(media === "audio" ? "audioinput" : "videoinput");
  }

  /** Id of the speaker in use; "" for the system's. */
  get speaker() {
    return this.#devices.used("audiooutput");
  }

  /** Whether this machine has a camera. */
  get hasCamera() {
    return this.#devices.isThere("videoinput");
  }

  /** A call begins: nothing is gone. */
  begin() {
    this.#gone.clear();
  }

  /** The device of this kind of media went away in the call; another one is taken as soon as there is one. */
  gone(media) {
    this.#gone.add(media);
    this.#change(media === "audio" ? "audioinput" : "videoinput");
  }

  /** Makes a change in the call behind those that are under way. */
  inTurn(change) {
    this.#changes = this.#changes.then(change);
    return this.#changes;
  }

  #changed(kind, isAnother) {
    const { list, media } = KINDS[kind];
    const choice = this.#devices.choice(kind);
    const options = [{ id: "", label: "System default" }, ...this.#devices.list(kind)];
    if (this.#devices.isAway(kind)) options.push({ id: choice.id, label: `${choice.label} (away)` });
    $(list).replaceChildren(...options.map(({ id, label }) => new Option(label, id)));
    $(list).value = choice ? choice.id : "";
    this.#note();
    if (kind === "audiooutput") { if (isAnother) this.#changeSpeaker(); }
    else if (isAnother || this.#gone.has(media)) this.#change(kind);
  }

  get #unnamed() {
    return ["audioinput", ...(this.#withCamera ? ["videoinput"] : [])].filter((kind) => !this.#devices.isNamed(kind));
  }

  #note() {
    const notes = [];
    for (const [kind, { name }] of Object.entries(KINDS)) {
      if (kind === "videoinput" && !this.#withCamera) continue;
      if (this.#devices.isAway(kind)) notes.push(`${this.#devices.choice(kind).label} is away; the system's ${name} is used until it is back.`);
    }
    if (!canChooseSpeaker) notes.push("This browser plays on the system's speaker.");
    const [isSoundUnnamed, isPictureUnnamed] = ["audioinput", "videoinput"].map((kind) => this.#unnamed.includes(kind) && (kind === "audioinput" || this.#devices.isThere(kind)));
    if (isSoundUnnamed || isPictureUnnamed) notes.push(`The browser tells which devices there are once the ${isSoundUnnamed ? "microphone" : "camera"} was allowed.`);
    if (this.#withCamera && !this.hasCamera) notes.push("No camera was found: calls are of sound only.");
    write("sound-note", notes.join(" "));
    show("sound-allow", isSoundUnnamed || isPictureUnnamed);
  }

  #change(kind) {
    const { media, lost, refused } = KINDS[kind];
    const call = this.#on.call();
    if (!call) return;
    this.inTurn(async () => {
      if (this.#on.call() !== call) return;
      try {
        await call.changeDevice(media, this.#on.constraints(media));
        if (this.#on.call() !== call) return;
        if (this.#gone.delete(media)) this.#on.solved();
      } catch {
        const isLost = this.#gone.has(media) || !call.isCapturing(media);
        if (isLost) this.#gone.add(media);
        else this.#devices.undo(kind);
        this.#on.problem(explainPage(isLost ? lost : refused));
      }
    });
  }

  async #changeSpeaker() {
    try {
      await this.#on.speaker(this.speaker);
    } catch {
      this.#on.problem(explainPage("speakerRefused"));
      this.#devices.undo("audiooutput");
    }
  }

  /** Asks for the devices so that the browser tells names, and lets go of them at once. */
  async #allow() {
    const withPicture = this.#withCamera && this.hasCamera;
    try {
      const stream = await navigator.mediaDevices.getUserMedia({ audio: true, video: withPicture });
      for (const track of stream.getTracks()) track.stop();
      await this.refresh();
      $(withPicture ? "camera" : "microphone").focus();
    } catch (error) {
      this.#on.problem(explainCapture(error.name, withPicture));
    }
  }
}
