// Small things that the browser remembers. Without storage (blocked, full) they last as long as the page.

const PREFIX = "llamacffi.";
const unstored = new Map();

/** A value under a name: of this tab if there is one, else of this browser. */
export function recall(name) {
  try {
    const text = sessionStorage.getItem(PREFIX + name) ?? localStorage.getItem(PREFIX + name);
    if (text !== null) return text;
  } catch {
    // As if there were nothing.
  }
  return unstored.get(name) ?? null;
}

/** Keep a text in this browser, and nothing for an empty one. */
export function remember(name, text) {
  keep(name, text, () => localStorage);
}

/** Keep a text until the tab is closed. */
export function rememberHere(name, text) {
  keep(name, text, () => sessionStorage);
}

function keep(name, text, storage) {
  unstored.delete(name);
  try {
    sessionStorage.removeItem(PREFIX + name);
    localStorage.removeItem(PREFIX + name);
    if (text) storage().setItem(PREFIX + name, text);
  } catch {
    unstored.set(name, text);
  }
}
