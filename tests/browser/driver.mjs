// Drives one headless Chromium for a test in Rust (tests/src/browser.rs): a JSON command a line on stdin, a JSON answer a
// line on stdout. Knows pages, not Gangway.
import { readFile } from "node:fs/promises";
import { chromium } from "playwright-core";
import { problems, serve } from "./serve.mjs";

const MIME = { html: "text/html", js: "text/javascript", css: "text/css", json: "application/json", mp4: "video/mp4", png: "image/png" };

// Runs in every page before its own scripts: keeps the peer connections for getStats, hears remote tracks by FFT (audioLevel
// in getStats stays 0 unless something plays the track), and notes when a call was told to be established and when the
// decoder gave out its first picture, in ms of the page's clock.
function probe() {
  const probe = { connections: [], heard: {}, rejections: [], talks: [], firstPictures: [] };
  window.gangwayProbe = probe;
  window.WebSocket = class extends window.WebSocket {
    constructor(...args) {
      super(...args);
      this.addEventListener("message", (event) => {
        if (typeof event.data === "string" && event.data.startsWith('{"message":"talk"')) probe.talks.push(performance.now());
      });
    }
  };
  window.addEventListener("unhandledrejection", (event) => probe.rejections.push(String(event.reason)));
  if (!window.RTCPeerConnection || !navigator.mediaDevices) return;
  // The SDK asks for the microphone by the legacy call.
  const legacy = Navigator.prototype.webkitGetUserMedia;
  Navigator.prototype.webkitGetUserMedia = function (constraints, done, failed) {
    if (probe.denyMicrophone) setTimeout(() => failed(new DOMException("Permission denied", "NotAllowedError")), 0);
    else legacy.call(this, constraints, done, failed);
  };
  const Native = window.RTCPeerConnection;
  // For a test that plays the other side in the page itself.
  probe.Native = Native;
  window.RTCPeerConnection = class extends Native {
    constructor(...args) {
      super(...args);
      probe.connections.push(this);
      this.addEventListener("track", (event) => {
        if (event.track.kind === "audio") probe.listen(event.track);
        else probe.watch(event.track);
      });
    }
  };
  probe.listen = (track) => {
    const context = new AudioContext();
    const analyser = context.createAnalyser();
    analyser.fftSize = 2048;
    analyser.smoothingTimeConstant = 0;
    context.createMediaStreamSource(new MediaStream([track])).connect(analyser);
    const bins = new Float32Array(analyser.frequencyBinCount);
    const width = context.sampleRate / analyser.fftSize;
    // How often each 20 Hz step was the loudest one, and loud at all.
    setInterval(() => {
      analyser.getFloatFrequencyData(bins);
      let best = 1;
      for (let bin = 2; bin < bins.length; bin++) if (bins[bin] > bins[best]) best = bin;
      if (bins[best] < -60) return;
      const step = Math.round((best * width) / 20) * 20;
      probe.heard[step] = (probe.heard[step] || 0) + 1;
    }, 20);
  };
  probe.watch = async (track) => {
    const reader = new MediaStreamTrackProcessor({ track }).readable.getReader();
    const { value } = await reader.read();
    if (value) {
      probe.firstPictures.push(performance.now());
      value.close();
    }
    reader.cancel();
  };
  // Times at which something within 40 Hz of `hz` was the loudest.
  probe.times = (hz) => Object.entries(probe.heard).reduce((sum, [step, times]) => sum + (Math.abs(step - hz) <= 40 ? times : 0), 0);
  probe.stats = async () => {
    const wanted = ["inbound-rtp", "outbound-rtp", "transport", "codec", "candidate-pair"];
    const all = [];
    for (const connection of probe.connections) {
      const rows = [];
      (await connection.getStats()).forEach((row) => { if (wanted.includes(row.type)) rows.push(row); });
      all.push({ state: connection.connectionState, ice: connection.iceConnectionState, rows });
    }
    return all;
  };
}

const browser = await chromium.launch({
  executablePath: process.env.GANGWAY_CHROMIUM || "/usr/bin/chromium",
  headless: true,
  args: [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--allow-loopback-in-peer-connection",
    // Three cameras, because what the second one makes is all but black.
    "--use-fake-ui-for-media-stream", "--use-fake-device-for-media-stream=device-count=3", "--autoplay-policy=no-user-gesture-required",
  ],
});
const pages = new Map();

function note(page, kind, text) {
  page.problems.push({ kind, text });
}

const commands = {
  /** A fresh context and page; `viewport`, `dark` and `files` (URL prefix -> folder on disk) are optional. */
  async open({ page: name, url, viewport, dark, files, reduced }) {
    const context = await browser.newContext({
      viewport: viewport || { width: 1100, height: 900 },
      colorScheme: dark ? "dark" : "light",
      reducedMotion: reduced ? "reduce" : "no-preference",
      ignoreHTTPSErrors: true,
    });
    await context.addInitScript(probe);
    const page = await context.newPage();
    const entry = { page, context, problems: [], logs: [] };
    pages.set(name, entry);
    page.on("pageerror", (error) => note(entry, "uncaught", String(error.stack || error)));
    page.on("console", (message) => {
      entry.logs.push(`${message.type()}: ${message.text()}`);
      if (/Unknown server message/.test(message.text())) note(entry, "unknown message", message.text());
      if (message.type() === "error") note(entry, "console", `${message.text()} ${message.location().url}`);
    });
    for (const [prefix, folder] of Object.entries(files || {})) {
      await context.route((target) => target.href.startsWith(prefix), async (route) => {
        const file = new URL(route.request().url()).pathname.slice(new URL(prefix).pathname.length) || "index.html";
        try {
          await route.fulfill({ body: await readFile(`${folder}/${file}`), contentType: MIME[file.split(".").pop()] || "text/plain" });
        } catch {
          await route.fulfill({ status: 404, body: "no such file" });
        }
      });
    }
    await page.goto(url, { waitUntil: "load", timeout: 20000 });
  },
  async eval({ page, script, argument }) {
    return pages.get(page).page.evaluate(`(async (argument) => { ${script} })(${JSON.stringify(argument ?? null)})`);
  },
  // Polls from here: Playwright's own polling is an eval in the page, which a Content-Security-Policy forbids; an evaluation
  // by the debugger is not.
  async wait({ page, script, argument, timeout }) {
    const until = Date.now() + timeout;
    for (;;) {
      let value = null;
      try {
        value = await pages.get(page).page.evaluate(`((argument) => { ${script} })(${JSON.stringify(argument ?? null)})`);
      } catch (error) {
        // A page that is being loaded anew.
        if (!/context was destroyed|navigation/i.test(String(error.message))) throw error;
      }
      if (value) return value;
      if (Date.now() >= until) throw new Error(`Timeout ${timeout}ms exceeded.`);
      await new Promise((done) => setTimeout(done, 50));
    }
  },
  async click({ page, selector }) {
    await pages.get(page).page.click(selector, { timeout: 10000 });
  },
  async fill({ page, selector, value }) {
    await pages.get(page).page.fill(selector, value, { timeout: 10000 });
  },
  /** Drags an element by the mouse, by so many pixels. */
  async drag({ page, selector, by }) {
    const { mouse } = pages.get(page).page;
    const box = await pages.get(page).page.locator(selector).boundingBox();
    const [x, y] = [box.x + box.width / 2, box.y + box.height / 2];
    await mouse.move(x, y);
    await mouse.down();
    await mouse.move(x + by[0], y + by[1], { steps: 5 });
    await mouse.up();
  },
  async press({ page, key }) {
    await pages.get(page).page.keyboard.press(key);
  },
  async setChecked({ page, selector, value }) {
    await pages.get(page).page.setChecked(selector, value, { timeout: 10000 });
  },
  async screenshot({ page, file }) {
    await pages.get(page).page.screenshot({ path: file, fullPage: true });
  },
  async problems({ page }) {
    return problems(pages.get(page));
  },
  async logs({ page }) {
    return pages.get(page).logs.slice(-60);
  },
  async close({ page }) {
    await pages.get(page).context.close();
    pages.delete(page);
  },
};

await serve(commands, browser.version());
await browser.close();
