// The account form: what stands in it at first, what it says, and what keeps the page from being a phone at all.
import { $, show } from "./view.js";

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

/** The demo service's account; null where there is no demo. */
export async function loadDemo() {
  try {
    const answer = await fetch("demo.json", { cache: "no-store" });
    return answer.status === 200 ? await answer.json() : null;
  } catch {
    return null; // the fields stay empty
  }
}

/**
 * Fills in what is known.
 * @param demo what `loadDemo` gave
 * @param {string} intro what to say of the demo
 * @param onCall called with a number of the demo that was chosen
 */
export function fillIn(demo, intro, onCall) {
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
    chip.addEventListener("click", () => onCall(number));
    $("numbers").append(chip);
  }
  show("numbers", true);
  $("intro").textContent = intro;
}

/** What the form says: the gateway's address, and the account as the SDK wants it. */
export function readAccount() {
  const text = (id) => $(id).value.trim();
  return {
    url: text("url"),
    sipOptions: {
      login: text("login"),
      authenticationName: text("auth-name") || text("login"),
      password: $("password").value,
      domain: text("domain"),
      outboundProxy: text("proxy") || text("domain"),
      port: text("port"),
      registerRequired: $("register").checked,
    },
  };
}

/** A field that is refused is shown: in closed details the browser could not say what is wrong with it. */
export function showRefusedFields() {
  const open = ({ target }) => {
    const details = target.closest("details");
    if (details) details.open = true;
  };
  // `invalid` does not bubble.
  $("account").addEventListener("invalid", open, true);
}

/** What stops the page, as a name that `explainPage` knows, or null. */
export function obstacle() {
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
