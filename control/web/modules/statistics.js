// What a peer connection says about itself (W3C webrtc-stats), boiled down to what a person asks: how much, how well, by which codec.

/** How often it is asked, ms, and how many answers are kept: a minute of them. */
export const SAMPLE_MS = 1000;
export const SAMPLES_MAX = 60;

/** From here on people notice, and from there on they complain: lost packets in percent, round trip and jitter in ms. */
const FAIR = { loss: 1, roundTrip: 250, jitter: 30 };
const POOR = { loss: 5, roundTrip: 500, jitter: 80 };

/** After so many seconds without a packet something is wrong. */
const SILENT_S = 4;

const sum = (rows, field) => rows.reduce((total, row) => total + (row[field] || 0), 0);
const ms = (seconds) => (seconds === undefined ? null : seconds * 1000);

/** Codecs as people know them, by their names in SDP. */
const CODECS = { opus: "Opus", H264: "H.264", PCMU: "G.711 µ-law", PCMA: "G.711 A-law", G722: "G.722" };

function codecName(codec) {
  if (!codec) return null;
  const name = codec.mimeType.replace(/^\w+\//, "");
  return CODECS[name] || name;
}

/**
 * One report about one kind of media.
 * @param {RTCStatsReport} report of `getStats()`
 * @param {"audio"|"video"} kind
 * @returns counters since the start (packets, bytes, frames), jitter and round trip in ms, the size of pictures in pixels; null
 *   where nothing is known (yet)
 */
export function readReport(report, kind) {
  const of = { "inbound-rtp": [], "outbound-rtp": [], "remote-inbound-rtp": [], "candidate-pair": [], transport: [] };
  report.forEach((row) => {
    if (of[row.type] && (row.kind === undefined || row.kind === kind)) of[row.type].push(row);
  });
  const inbound = of["inbound-rtp"];
  const outbound = of["outbound-rtp"];
  const remote = of["remote-inbound-rtp"];
  const transport = of.transport[0];
  const pairs = of["candidate-pair"];
  const pair = (transport && pairs.find(({ id }) => id === transport.selectedCandidatePairId)) || pairs.find(({ nominated }) => nominated);
  const codec = (rows) => codecName(rows.length && rows[0].codecId ? report.get(rows[0].codecId) : null);
  const size = (rows) => (rows.length && rows[0].frameWidth ? { width: rows[0].frameWidth, height: rows[0].frameHeight } : null);
  const roundTrip = (pair && pair.currentRoundTripTime) ?? (remote[0] && remote[0].roundTripTime);
  return {
    received: {
      packets: sum(inbound, "packetsReceived"),
      bytes: sum(inbound, "bytesReceived") + sum(inbound, "headerBytesReceived"),
      lost: Math.max(0, sum(inbound, "packetsLost")),
      jitter: inbound.length ? ms(inbound[0].jitter) : null,
      codec: codec(inbound),
      frames: sum(inbound, "framesDecoded"),
      size: size(inbound),
    },
    sent: {
      packets: sum(outbound, "packetsSent"),
      bytes: sum(outbound, "bytesSent") + sum(outbound, "headerBytesSent"),
      lost: remote.length ? Math.max(0, sum(remote, "packetsLost")) : null,
      jitter: remote.length ? ms(remote[0].jitter) : null,
      codec: codec(outbound),
      frames: sum(outbound, "framesEncoded"),
      size: size(outbound),
    },
    roundTrip: ms(roundTrip),
    cipher: (transport && transport.srtpCipher) || null,
  };
}

/**
 * What happened between two readings.
 * @param former the reading before, or null
 * @param now the reading after
 * @param {number} seconds between them
 * @returns bit rates in kbit/s, loss in percent, round trip and jitter in ms, frames a second; null where nothing can be said
 */
export function rates(former, now, seconds) {
  const { roundTrip, received: { jitter } } = now;
  if (!former || seconds <= 0) return { received: null, sent: null, loss: null, roundTrip, jitter, framesReceived: null, framesSent: null };
  const frames = (side) => Math.max(0, (now[side].frames - former[side].frames) / seconds);
  const kbps = (side) => Math.max(0, ((now[side].bytes - former[side].bytes) * 8) / 1000 / seconds);
  const lost = Math.max(0, now.received.lost - former.received.lost);
  const arrived = now.received.packets - former.received.packets;
  return {
    received: kbps("received"),
    sent: kbps("sent"),
    loss: lost + arrived > 0 ? (100 * lost) / (lost + arrived) : 0,
    roundTrip,
    jitter,
    framesReceived: frames("received"),
    framesSent: frames("sent"),
  };
}

/** What is missing when packets of a kind stay away. */
const SILENT = { audio: "No sound arrives", video: "No picture arrives" };

/** From the best to the worst. */
const LEVELS = ["good", "fair", "poor"];

/** The worse of two verdicts; the first of equals. */
export const worse = (one, other) => (LEVELS.indexOf(other.level) > LEVELS.indexOf(one.level) ? other : one);

/**
 * The connection in words.
 * @param {"audio"|"video"} kind
 * @param samples the last ones, oldest first
 * @param {number} silent seconds since the last packet came
 */
export function verdict(kind, samples, silent) {
  if (silent >= SILENT_S) return { level: "poor", words: SILENT[kind] };
  const recent = samples.slice(-5);
  const mean = (field) => {
    const values = recent.map((sample) => sample[field]).filter((value) => value !== null);
    return values.length ? values.reduce((total, value) => total + value, 0) / values.length : 0;
  };
  // Packets of a picture come in bursts: their jitter says nothing.
  const fields = Object.keys(FAIR).filter((field) => kind === "audio" || field !== "jitter");
  const exceeds = (limits) => fields.some((field) => mean(field) >= limits[field]);
  if (exceeds(POOR)) return { level: "poor", words: "Poor connection" };
  if (exceeds(FAIR)) return { level: "fair", words: "Fair connection" };
  return { level: "good", words: "Good connection" };
}

/** Asks a peer connection once a second, from `start` to `stop`. */
export class Sampler {
  #timer = 0;
  #peerOf = null;
  #kind;
  #onSample;
  #former = null;
  #formerAt = 0;
  #lastPacketAt = 0;

  /**
   * @param {"audio"|"video"} kind
   * @param onSample called with `{ reading, samples, silent }`; `silent` are the seconds since a packet came
   */
  constructor(kind, onSample) {
    this.#kind = kind;
    this.#onSample = onSample;
    this.samples = [];
  }

  /**
   * @param peerOf gives the peer connection, or null while there is none yet
   */
  start(peerOf) {
    this.stop();
    this.samples = [];
    this.#former = null;
    this.#peerOf = peerOf;
    this.#lastPacketAt = performance.now();
    this.#timer = setInterval(() => this.#ask(), SAMPLE_MS);
    this.#ask();
  }

  stop() {
    clearInterval(this.#timer);
    this.#peerOf = null;
  }

  async #ask() {
    const peerOf = this.#peerOf;
    const peer = peerOf && peerOf();
    if (!peer || peer.connectionState === "closed") return;
    const report = await peer.getStats();
    // The call may have ended, and the next begun, while the browser counted.
    if (this.#peerOf !== peerOf) return;
    const now = performance.now();
    const reading = readReport(report, this.#kind);
    const isFirst = !this.#former;
    const sample = rates(this.#former, reading, (now - this.#formerAt) / 1000);
    if (isFirst || reading.received.packets > this.#former.received.packets) this.#lastPacketAt = now;
    this.#former = reading;
    this.#formerAt = now;
    if (!isFirst) this.samples.push(sample);
    if (this.samples.length > SAMPLES_MAX) this.samples.shift();
    const silent = (now - this.#lastPacketAt) / 1000;
    this.#onSample({ reading, samples: this.samples, silent });
  }
}
