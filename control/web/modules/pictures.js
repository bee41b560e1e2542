// The pictures of a call: the other side's large, one's own small, movable and out of sight if wanted; camera off, the screen
// instead of it, size and frame rate. Only the page with pictures loads this.
import { StatisticsPanel } from "./charts.js";
import { explainPage } from "./failures.js";
import { Sampler, verdict } from "./statistics.js";
import { $, show, showPressed, write } from "./view.js";

const MEMORY = "gangway.picture";

/** What a camera is asked for until the user says otherwise: pictures that any phone can show. */
const SHAPE = { width: 640, height: 480, frameRate: 25 };

function recallShape() {
  try {
    const shape = JSON.parse(localStorage.getItem(MEMORY)) || {};
    return Object.keys(SHAPE).every((field) => Number.isInteger(shape[field])) ? shape : SHAPE;
  } catch {
    return SHAPE; // storage may be forbidden, or hold something else
  }
}

function rememberShape(shape) {
  try { localStorage.setItem(MEMORY, JSON.stringify(shape)); } catch { /* it holds until the page is closed */ }
}

export class Pictures {
  #on = null;
  #call = null;
  #isDecided = false;
  /** The call whose user chooses a screen. */
  #chooses = null;
  #watched = new WeakSet();
  #panel = new StatisticsPanel("video", $("picture-charts"), $("picture-counters"));
  #sampler = new Sampler("video", (sample) => this.#sampled(sample));
  /** The connection of the pictures in words; null while none are due. */
  verdict = null;

  constructor() {
    this.#selectShape(recallShape());
    if (!$("size").value || !$("rate").value) this.#selectShape(SHAPE);
    $("size").addEventListener("change", () => this.#shaped());
    $("rate").addEventListener("change", () => this.#shaped());
    $("picture-mute").addEventListener("click", () => this.#toggleCamera());
    $("share").addEventListener("click", () => this.#toggleScreen());
    show("share", Boolean(navigator.mediaDevices && navigator.mediaDevices.getDisplayMedia));
    $("statistics-picture").addEventListener("click", () => this.#showStatistics(true));
    $("statistics-sound").addEventListener("click", () => this.#showStatistics(false));
    $("enlarge").addEventListener("click", () => (document.fullscreenElement ? document.exitFullscreen() : $("call").requestFullscreen()));
    show("enlarge", Boolean(document.fullscreenEnabled));
    document.addEventListener("fullscreenchange", () => {
      const isLarge = document.fullscreenElement !== null;
      showPressed("enlarge", isLarge, isLarge ? "#icon-reduce" : "#icon-enlarge");
    });
    makeMovable($("picture"), $("own"), $("own-move"));
    $("own-hide").addEventListener("click", () => this.#showOwn($("own").dataset.shown === "no"));
  }

  /**
   * @param on what to ask and tell: `inTurn(change)` makes a change in the call behind others, `problem(words)`, `dialSound()`,
   *   `answerSound()`
   */
  start(on) {
    this.#on = on;
    $("dial-sound").addEventListener("click", () => on.dialSound());
    $("answer-sound").addEventListener("click", () => on.answerSound());
  }

  /** What a camera is to be asked for. */
  get shape() {
    const [width, height] = $("size").value.split("x").map(Number);
    return { width, height, frameRate: Number($("rate").value) };
  }

  /** A call comes in, with pictures offered or not. */
  offered(withPicture) {
    write("incoming-title", withPicture ? "Incoming video call" : "Incoming call");
    show("answer-sound", withPicture);
  }

  /** A call begins. */
  begin(call) {
    this.#call = call;
    this.#isDecided = false;
    this.verdict = null;
    this.#showOwn(true);
    this.#panel.clear();
    this.#sampler.start(() => call.peer);
    this.update();
  }

  /** The call is over. */
  end() {
    this.#call = null;
    this.#sampler.stop();
    if (document.fullscreenElement) document.exitFullscreen();
  }

  /** Shows what is known of the pictures now. */
  update() {
    const call = this.#call;
    if (!call) return;
    const flow = call.pictures;
    const isTalking = call.state === "established";
    if (flow && isTalking) this.#decide(flow);
    const remote = $("remote-media").querySelector("video");
    if (remote && !this.#watched.has(remote)) {
      this.#watched.add(remote);
      remote.addEventListener("resize", () => this.update());
    }
    const isSeen = Boolean(flow && flow.receives && remote && remote.videoWidth);
    $("picture").dataset.seen = isSeen ? "yes" : "no";
    const sends = flow ? flow.sends : call.withPicture;
    show("own", sends && Boolean($("local-media").querySelector("video")));
    const canChange = isTalking && Boolean(flow) && flow.sends;
    $("picture-mute").disabled = !canChange;
    $("share").disabled = !canChange;
    $("own").dataset.source = call.isSharing ? "screen" : "camera";
    showPressed("picture-mute", call.isMuted("video"), call.isMuted("video") ? "#icon-camera-off" : "#icon-camera");
    showPressed("share", call.isSharing, call.isSharing ? "#icon-screen-off" : "#icon-screen");
    write("picture-note", isTalking && flow ? describe(call, flow, isSeen) : "");
  }

  /** The browser ended what was shared: its own button was pressed, or the window closed. */
  screenGone() {
    this.#stopScreen();
  }

  /** The camera is let go of once it is sure that nobody sees it. */
  #decide({ sends, receives }) {
    if (this.#isDecided) return;
    this.#isDecided = true;
    if (!sends) this.#call.releaseCamera();
    this.#showStatistics(sends || receives);
  }

  #toggleCamera() {
    const call = this.#call;
    if (!call) return;
    call.mute("video", !call.isMuted("video"));
    this.update();
  }

  #toggleScreen() {
    const call = this.#call;
    if (!call) return;
    if (call.isSharing) this.#stopScreen();
    else if (this.#chooses !== call) this.#shareScreen(call);
  }

  /** The list of screens may be open for long: changes of devices, and the next call, do not wait for it. */
  async #shareScreen(call) {
    this.#chooses = call;
    try {
      const screen = await call.chooseScreen();
      if (screen) this.#change(call, () => call.shareScreen(screen), "screenRefused");
    } catch (error) {
      // Whoever closes the list without choosing has changed their mind.
      const hasDeclined = /denied by user|not allowed by the user/i.test(error.message);
      if (this.#call === call && !hasDeclined) this.#on.problem(explainPage("screenRefused"));
    } finally {
      if (this.#chooses === call) this.#chooses = null;
    }
  }

  #stopScreen() {
    const call = this.#call;
    if (call) this.#change(call, () => call.stopScreen(), "cameraRefused");
  }

  #selectShape({ width, height, frameRate }) {
    $("size").value = `${width}x${height}`;
    $("rate").value = String(frameRate);
  }

  #shaped() {
    const { shape } = this;
    rememberShape(shape);
    const call = this.#call;
    if (call && call.state === "established") this.#change(call, () => call.changeShape(shape), "shapeRefused");
  }

  #change(call, change, refused) {
    this.#on.inTurn(async () => {
      if (this.#call !== call) return;
      try {
        await change();
      } catch {
        if (this.#call === call) this.#on.problem(explainPage(refused));
      } finally {
        if (this.#call === call) this.update();
      }
    });
  }

  #showOwn(isShown) {
    $("own").dataset.shown = isShown ? "yes" : "no";
    $("own-hide").setAttribute("aria-expanded", String(isShown));
    $("own-hide").setAttribute("aria-label", isShown ? "Hide my picture" : "Show my picture");
    $("own-hide").querySelector("use").setAttribute("href", isShown ? "#icon-close" : "#icon-person");
  }

  #showStatistics(isOfPicture) {
    show("picture-statistics", isOfPicture);
    show("sound-statistics", !isOfPicture);
    $("statistics-picture").setAttribute("aria-pressed", String(isOfPicture));
    $("statistics-sound").setAttribute("aria-pressed", String(!isOfPicture));
  }

  #sampled({ reading, samples, silent }) {
    this.#panel.show({ reading, samples });
    const call = this.#call;
    if (!call) return;
    this.update();
    const flow = call.pictures;
    const isDue = call.state === "established" && flow && flow.receives && $("picture").dataset.seen === "yes";
    this.verdict = isDue ? verdict("video", samples, Math.min(silent, call.seconds)) : null;
  }
}

/** So many seconds a first picture may take until the page speaks of it. */
const FIRST_PICTURE_S = 5;

/** What is missing of the pictures, and why. */
function describe(call, { sends, receives }, isSeen) {
  const { name } = call.party;
  if (receives && !isSeen && call.seconds >= FIRST_PICTURE_S) return `${name} has sent no picture so far.`;
  if (!call.withPicture || (sends && receives)) return "";
  if (sends) return `${name} sees you and sends no picture.`;
  return receives ? `${name} does not take your picture; your camera is off.` : `${name} takes no pictures: you hear each other, and your camera is off.`;
}

const CORNERS = { top: "top", bottom: "bottom", left: "left", right: "right" };
const MOVES = { ArrowUp: "top", ArrowDown: "bottom", ArrowLeft: "left", ArrowRight: "right" };

/** Lets `item` be dragged by `handle` to the corners of `frame`, and moved there by arrow keys. */
function makeMovable(frame, item, handle) {
  let from = null;
  const place = (side) => {
    const corner = item.dataset.corner.split("-");
    corner[side === "left" || side === "right" ? 1 : 0] = CORNERS[side];
    item.dataset.corner = corner.join("-");
    handle.setAttribute("aria-label", `Your picture, ${corner.join(" ")}. Drag it to another corner, or use the arrow keys.`);
  };
  place("right");
  handle.addEventListener("keydown", (event) => {
    if (!MOVES[event.key]) return;
    event.preventDefault();
    place(MOVES[event.key]);
  });
  handle.addEventListener("pointerdown", (event) => {
    from = { x: event.clientX, y: event.clientY };
    handle.setPointerCapture(event.pointerId);
  });
  handle.addEventListener("pointermove", (event) => {
    if (from) item.style.translate = `${event.clientX - from.x}px ${event.clientY - from.y}px`;
  });
  const drop = () => {
    if (!from) return;
    from = null;
    const [own, all] = [item, frame].map((element) => element.getBoundingClientRect());
    item.style.translate = "";
    place(own.x + own.width / 2 < all.x + all.width / 2 ? "left" : "right");
    place(own.y + own.height / 2 < all.y + all.height / 2 ? "top" : "bottom");
  };
  for (const kind of ["pointerup", "pointercancel"]) handle.addEventListener(kind, drop);
}
