// What the page itself sounds: the ring of an incoming call, the ringing tone of an outgoing one, keys, and a test.
// Made by oscillators; nothing is loaded.

const LOUD = 0.12;

/** Row and column frequencies of the keys, Hz (ITU-T Q.23). */
const KEY_ROWS = [697, 770, 852, 941];
const KEY_COLUMNS = [1209, 1336, 1477];
const KEY_ORDER = ["1", "2", "3", "4", "5", "6", "7", "8", "9", "*", "0", "#"];

/** Notes of the ring and of the test: frequency in Hz, start and length in seconds. */
const RING = [[659, 0, 0.5], [784, 0.16, 0.5], [1047, 0.32, 0.9], [784, 0.9, 0.5], [1047, 1.06, 0.9]];
const RING_EVERY_MS = 3200;
const TEST = [[523, 0, 0.4], [659, 0.18, 0.4], [784, 0.36, 0.7]];

/** The ringing tone of most of the world: 425 Hz, one second in five (ITU-T E.180). */
const RINGBACK_HZ = 425;
const RINGBACK_S = 1;
const RINGBACK_EVERY_MS = 5000;

export class Sounds {
  #context = null;
  #timer = 0;
  #playing = [];
  #speaker = "";

  /** Plays on this speaker from now on; "" is the system's. Browsers that cannot choose stay where they are. */
  async speaker(id) {
    this.#speaker = id;
    if (this.#context && this.#context.setSinkId) await this.#context.setSinkId(id);
  }

  /** Rings until `stop`. */
  ring() {
    this.#repeat(() => this.#bells(RING), RING_EVERY_MS);
  }

  /** The other side's phone rings, until `stop`. */
  ringback() {
    this.#repeat(() => this.#steady([RINGBACK_HZ], RINGBACK_S, LOUD / 2), RINGBACK_EVERY_MS);
  }

  /** Ends ringing at once. */
  stop() {
    clearInterval(this.#timer);
    for (const node of this.#playing) node.stop();
    this.#playing = [];
  }

  /** The sound of a key. */
  key(key) {
    const at = KEY_ORDER.indexOf(key);
    this.#steady([KEY_ROWS[Math.floor(at / 3)], KEY_COLUMNS[at % 3]], 0.12, LOUD / 3);
  }

  /** Something to hear whether the speaker works. */
  test() {
    this.#bells(TEST);
  }

  #repeat(play, everyMs) {
    this.stop();
    play();
    this.#timer = setInterval(play, everyMs);
  }

  #ready() {
    if (!this.#context) {
      this.#context = new AudioContext();
      if (this.#speaker && this.#context.setSinkId) this.#context.setSinkId(this.#speaker).catch(() => { this.#speaker = ""; });
    }
    // A browser that wants a click first keeps it suspended; then there is no sound, and nothing else to do about it.
    if (this.#context.state === "suspended") this.#context.resume();
    return this.#context;
  }

  #note(type, hz, from, seconds, loudness) {
    const context = this.#ready();
    const start = context.currentTime + from;
    const source = new OscillatorNode(context, { type, frequency: hz });
    const gain = new GainNode(context, { gain: 0 });
    loudness(gain.gain, start);
    source.connect(gain).connect(context.destination);
    source.start(start);
    source.stop(start + seconds);
    this.#playing.push(source);
    source.onended = () => { this.#playing = this.#playing.filter((other) => other !== source); };
  }

  #bells(notes) {
    for (const [hz, from, seconds] of notes) {
      this.#note("sine", hz, from, seconds, (gain, start) => {
        gain.setValueAtTime(0, start);
        gain.linearRampToValueAtTime(LOUD, start + 0.01);
        gain.exponentialRampToValueAtTime(0.0005, start + seconds);
      });
    }
  }

  #steady(frequencies, seconds, loud) {
    for (const hz of frequencies) {
      this.#note("sine", hz, 0, seconds, (gain, start) => {
        gain.setValueAtTime(0, start);
        gain.linearRampToValueAtTime(loud, start + 0.01);
        gain.setValueAtTime(loud, start + seconds - 0.02);
        gain.linearRampToValueAtTime(0, start + seconds);
      });
    }
  }
}
