// Drives one headless Firefox for a test in Rust (tests/src/browser.rs) over WebDriver BiDi, by the commands of driver.mjs that
// those tests use. Firefox sends no check to 127.0.0.1, so it runs where the gateway has another address.
import puppeteer from "puppeteer-core";
import { problems, serve } from "./serve.mjs";

// Runs in every page before its own scripts: keeps the peer connections, and the rejections that nobody handled.
function probe() {
  const probe = { connections: [], rejections: [] };
  window.gangwayProbe = probe;
  window.addEventListener("unhandledrejection", (event) => probe.rejections.push(String(event.reason)));
  window.RTCPeerConnection = class extends window.RTCPeerConnection {
    constructor(...args) {
      super(...args);
      probe.connections.push(this);
    }
  };
  // Rows of a type and kind of the newest connection. What Firefox plays it measures: `totalAudioEnergy` rises with each sound.
  probe.rows = async (type, kind) => {
    const rows = [...(await probe.connections.at(-1).getStats()).values()];
    return rows.filter((row) => row.type === type && (!kind || row.kind === kind));
  };
}

const browser = await puppeteer.launch({
  browser: "firefox",
  executablePath: process.env.GANGWAY_FIREFOX || "/usr/bin/firefox-esr",
  headless: true,
  acceptInsecureCerts: true,
  extraPrefsFirefox: {
    "media.navigator.streams.fake": true,
    "media.navigator.permission.disabled": true,
    "media.navigator.audio.fake_frequency": Number(process.env.GANGWAY_FAKE_HZ || 400),
    "media.autoplay.default": 0,
    "media.peerconnection.ice.obfuscate_host_addresses": false,
    "datareporting.policy.dataSubmissionEnabled": false,
    "app.update.auto": false,
  },
});
const pages = new Map();

const commands = {
  /** A fresh page; only the size of a view is known here. */
  async open({ page: name, url, viewport }) {
    const page = await browser.newPage();
    const entry = { page, problems: [], logs: [] };
    pages.set(name, entry);
    await page.setViewport(viewport || { width: 1100, height: 900 });
    await page.evaluateOnNewDocument(probe);
    page.on("pageerror", (error) => entry.problems.push({ kind: "uncaught", text: String(error.stack || error) }));
    page.on("console", (message) => {
      entry.logs.push(`${message.type()}: ${message.text()}`);
      if (message.type() === "error") entry.problems.push({ kind: "console", text: message.text() });
    });
    await page.goto(url, { waitUntil: "load", timeout: 20000 });
  },
  async eval({ page, script, argument }) {
    return pages.get(page).page.evaluate(`(async (argument) => { ${script} })(${JSON.stringify(argument ?? null)})`);
  },
  async wait({ page, script, argument, timeout }) {
    const until = Date.now() + timeout;
    for (;;) {
      const value = await pages.get(page).page.evaluate(`((argument) => { ${script} })(${JSON.stringify(argument ?? null)})`);
      if (value) return value;
      if (Date.now() >= until) throw new Error(`Timeout ${timeout}ms exceeded.`);
      await new Promise((done) => setTimeout(done, 50));
    }
  },
  async click({ page, selector }) {
    await pages.get(page).page.locator(selector).setTimeout(10000).click();
  },
  async fill({ page, selector, value }) {
    await pages.get(page).page.locator(selector).setTimeout(10000).fill(value);
  },
  async press({ page, key }) {
    await pages.get(page).page.keyboard.press(key);
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
};

await serve(commands, await browser.version());
await browser.close();
