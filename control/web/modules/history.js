// The calls since the page was opened, newest first. Each row calls again.

/** How many are kept. */
const ROWS_MAX = 100;

const time = new Intl.DateTimeFormat([], { hour: "2-digit", minute: "2-digit" });

/** Seconds as people read them: 0:07, 12:30, 1:02:03. */
export function clock(seconds) {
  const two = (number) => String(number).padStart(2, "0");
  const [hours, minutes] = [Math.floor(seconds / 3600), Math.floor(seconds / 60) % 60];
  return hours ? `${hours}:${two(minutes)}:${two(seconds % 60)}` : `${minutes}:${two(seconds % 60)}`;
}

function span(name, text) {
  return Object.assign(document.createElement("span"), { className: name, textContent: text });
}

function icon(name) {
  const picture = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  const use = document.createElementNS("http://www.w3.org/2000/svg", "use");
  use.setAttribute("href", `#icon-${name}`);
  picture.setAttribute("aria-hidden", "true");
  picture.append(use);
  return picture;
}

/** The list. */
export class History {
  #list;
  #empty;
  #onCall;
  #canCall = false;

  /**
   * @param {HTMLOListElement} list
   * @param {HTMLElement} empty shown while there are no calls
   * @param onCall called with the number of a row
   */
  constructor(list, empty, onCall) {
    this.#list = list;
    this.#empty = empty;
    this.#onCall = onCall;
  }

  /**
   * @param entry `{ name, number, direction, startedAt, wasAnswered, result, seconds }`
   */
  add({ name, number, direction, startedAt, wasAnswered, result, seconds }) {
    const what = wasAnswered && result === "Ended" ? clock(seconds) : wasAnswered ? `${result}, ${clock(seconds)}` : result;
    const row = document.createElement("button");
    row.type = "button";
    row.disabled = !this.#canCall;
    row.dataset.direction = direction;
    row.dataset.answered = String(wasAnswered);
    const called = direction === "out" ? "Outgoing call to" : "Incoming call from";
    const length = wasAnswered ? `, talked for ${clock(seconds)}` : "";
    row.setAttribute("aria-label", `${called} ${name} at ${time.format(startedAt)}: ${result}${length}. Call again.`);
    row.append(icon(direction), span("name", name), span("result", what), span("when", time.format(startedAt)));
    row.addEventListener("click", () => this.#onCall(number));
    const item = document.createElement("li");
    item.append(row);
    this.#list.prepend(item);
    if (this.#list.children.length > ROWS_MAX) this.#list.lastElementChild.remove();
    this.#empty.hidden = true;
  }

  /** Whether rows can be called now. */
  set canCall(can) {
    this.#canCall = can;
    for (const row of this.#list.querySelectorAll("button")) row.disabled = !can;
  }
}
