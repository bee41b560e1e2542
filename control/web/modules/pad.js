// A dial pad: twelve keys with their letters (ITU-T E.161).

const KEYS = [
  ["1", ""], ["2", "ABC"], ["3", "DEF"],
  ["4", "GHI"], ["5", "JKL"], ["6", "MNO"],
  ["7", "PQRS"], ["8", "TUV"], ["9", "WXYZ"],
  ["*", ""], ["0", "+"], ["#", ""],
];

const NAMES = { "*": "star", "#": "hash" };

/** Zero held for so long is a plus. */
const HOLD_MS = 500;

/**
 * Fills `place` with keys.
 * @param {HTMLElement} place
 * @param onKey called with the key
 * @param {{ plus: boolean }} options whether zero, held, gives a plus
 */
export function buildPad(place, onKey, { plus }) {
  for (const [key, letters] of KEYS) {
    const button = document.createElement("button");
    button.type = "button";
    button.className = "key";
    button.dataset.key = key;
    const shown = key === "0" && !plus ? "" : letters;
    const digit = Object.assign(document.createElement("span"), { className: "digit", textContent: key });
    const caption = Object.assign(document.createElement("span"), { className: "letters", textContent: shown });
    button.setAttribute("aria-label", key === "0" && plus ? "0, hold for plus" : NAMES[key] || key);
    button.append(digit, caption);
    let timer = 0;
    let wasHeld = false;
    button.addEventListener("pointerdown", () => {
      wasHeld = false;
      if (key !== "0" || !plus) return;
      timer = setTimeout(() => { wasHeld = true; onKey("+"); }, HOLD_MS);
    });
    for (const kind of ["pointerup", "pointerleave", "pointercancel"]) button.addEventListener(kind, () => clearTimeout(timer));
    button.addEventListener("click", () => { if (!wasHeld) onKey(key); wasHeld = false; });
    place.append(button);
  }
}

/** Shows a key as pressed for a moment, when it was typed on the keyboard. */
export function flashKey(place, key) {
  const button = place.querySelector(`[data-key="${CSS.escape(key)}"]`);
  if (!button) return;
  button.classList.add("pressed");
  setTimeout(() => button.classList.remove("pressed"), 120);
}
