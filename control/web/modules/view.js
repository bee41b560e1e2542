// The page's elements by their ids.

/** The element with this id. */
export const $ = (id) => document.getElementById(id);

/** Shows an element or takes it out of the page. */
export const show = (id, shown) => { $(id).hidden = !shown; };

/** Writes only what changed: a live region reads each write. */
export const write = (id, text) => { if ($(id).textContent !== text) $(id).textContent = text; };

/** A button that is on or off, with the icon of what it is now. */
export function showPressed(id, isPressed, icon) {
  $(id).setAttribute("aria-pressed", String(isPressed));
  $(id).querySelector("use").setAttribute("href", icon);
}
