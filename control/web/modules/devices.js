// Microphones, cameras and speakers: lists that follow plugging and unplugging, the user's choice, and its memory.
// What is chosen is remembered by id and name; while that device is away the system's is used, and when it is back, it is.

const MEMORY = "gangway.device.";

/** Entries of Chromium that stand for another device of the same list. */
const ALIASES = ["default", "communications"];

function recall(kind) {
  try {
    const { id, label } = JSON.parse(localStorage.getItem(MEMORY + kind)) || {};
    return id ? { id: String(id), label: String(label || "") } : null;
  } catch {
    return null; // storage may be forbidden, or hold something else
  }
}

function remember(kind, choice) {
  try {
    if (choice) localStorage.setItem(MEMORY + kind, JSON.stringify(choice));
    else localStorage.removeItem(MEMORY + kind);
  } catch { /* the choice holds until the page is closed */ }
}

/** The devices of some kinds: "audioinput", "audiooutput", "videoinput". */
export class Devices {
  #kinds = new Map();
  #onChange;

  /**
   * @param {string[]} kinds kinds of MediaDeviceInfo
   * @param onChange called with the kind when the device in use is another one than before
   */
  constructor(kinds, onChange) {
    this.#onChange = onChange;
    for (const kind of kinds) this.#kinds.set(kind, { list: [], choice: recall(kind), used: "", former: null });
    if (navigator.mediaDevices) navigator.mediaDevices.addEventListener("devicechange", () => this.refresh());
  }

  /** Reads the lists anew. */
  async refresh() {
    if (!navigator.mediaDevices) return;
    const all = await navigator.mediaDevices.enumerateDevices();
    for (const [kind, entry] of this.#kinds) {
      const own = all.filter((device) => device.kind === kind);
      entry.isThere = own.length > 0;
      entry.isNamed = own.some((device) => device.label);
      entry.list = own
        .filter((device) => device.deviceId && !ALIASES.includes(device.deviceId))
        .map((device, number) => ({ id: device.deviceId, label: device.label || `Device ${number + 1}` }));
    }
    for (const [kind, entry] of this.#kinds) this.#settle(kind, entry);
  }

  /** The devices of a kind, `{ id, label }` each, without the system's choice. */
  list(kind) {
    return this.#kinds.get(kind).list;
  }

  /** Whether the browser tells names; it does once the microphone was allowed. */
  isNamed(kind) {
    return Boolean(this.#kinds.get(kind).isNamed);
  }

  /** Whether there is a device of a kind at all; a browser tells that before it tells names. */
  isThere(kind) {
    return Boolean(this.#kinds.get(kind).isThere);
  }

  /** What the user chose, though it may be away; null for the system's. */
  choice(kind) {
    return this.#kinds.get(kind).choice;
  }

  /** Id of the device in use; "" for the system's. */
  used(kind) {
    return this.#kinds.get(kind).used;
  }

  /** Whether the chosen device is away. */
  isAway(kind) {
    const { choice, used } = this.#kinds.get(kind);
    return Boolean(choice) && choice.id !== used;
  }

  /** Chooses a device by its id; "" for the system's. */
  choose(kind, id) {
    const entry = this.#kinds.get(kind);
    entry.former = { choice: entry.choice, used: entry.used };
    entry.choice = entry.list.find((device) => device.id === id) || null;
    remember(kind, entry.choice);
    this.#settle(kind, entry);
  }

  /** Goes back to what was chosen before, because the browser refused the last choice. */
  undo(kind) {
    const entry = this.#kinds.get(kind);
    if (!entry.former) return;
    Object.assign(entry, entry.former, { former: null });
    remember(kind, entry.choice);
    this.#onChange(kind, false);
  }

  /** Constraints of getUserMedia for the device in use. */
  constraints(kind) {
    const id = this.used(kind);
    return id ? { deviceId: { exact: id } } : true;
  }

  #settle(kind, entry) {
    const { choice, list } = entry;
    // An id may change, e.g. when a user clears site data; the name then still tells the device.
    const found = choice && (list.find(({ id }) => id === choice.id) || list.find(({ label }) => label === choice.label));
    if (found) entry.choice = found;
    const former = entry.used;
    entry.used = found ? found.id : "";
    this.#onChange(kind, former !== entry.used);
  }
}
