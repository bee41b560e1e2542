// Light or dark: as the system has it, until the user chooses. A script of its own in the head, so that a page never shows
// the wrong colours first.
"use strict";

(() => {
  const KEY = "gangway.scheme";
  const ORDER = ["system", "light", "dark"];
  const NAMES = { system: "as the system", light: "light", dark: "dark" };
  const root = document.documentElement;

  function remembered() {
    try {
      const name = localStorage.getItem(KEY);
      return ORDER.includes(name) ? name : "system";
    } catch {
      return "system"; // storage may be forbidden; the system's scheme needs none
    }
  }

  function show(name) {
    root.dataset.scheme = name;
    const button = document.getElementById("scheme");
    if (!button) return;
    const next = ORDER[(ORDER.indexOf(name) + 1) % ORDER.length];
    button.querySelector("use").setAttribute("href", `#icon-${name}`);
    button.setAttribute("aria-label", `Colours: ${NAMES[name]}. Change to ${NAMES[next]}.`);
    button.title = `Colours: ${NAMES[name]}`;
    button.onclick = () => {
      try { localStorage.setItem(KEY, next); } catch { /* it holds until the page is closed */ }
      show(next);
    };
  }

  show(remembered());
  document.addEventListener("DOMContentLoaded", () => show(root.dataset.scheme));
})();
