// Lines above the messages, which screen readers read out at once.

import { element } from "./dom.js";

/** Say something in a place, and nothing for an empty text; with `again`, there is a button for it. */
export function notify(place, message, again = null) {
  if (!again && place.textContent === message) return; // not to be read out once more
  place.replaceChildren(message);
  if (!again) return;
  const attributes = { type: "button", className: "small", onclick: again };
  place.append(" ", element("button", attributes, "Try again"));
}
