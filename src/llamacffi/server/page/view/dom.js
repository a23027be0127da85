// Making nodes. Text goes into text nodes only; nothing here or elsewhere parses HTML.

const SVG = "http://www.w3.org/2000/svg";

export const byId = (id) => document.getElementById(id);

/** An element with properties (a class is `className`), attributes under `attributes`, and children. */
export function element(tag, { attributes = {}, ...properties } = {}, ...children) {
  const made = Object.assign(document.createElement(tag), properties);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children);
  return made;
}

export function icon(name) {
  const svg = document.createElementNS(SVG, "svg");
  const use = document.createElementNS(SVG, "use");
  use.setAttribute("href", `#icon-${name}`);
  svg.setAttribute("aria-hidden", "true");
  svg.append(use);
  return svg;
}

export function iconButton(name, label, onclick) {
  const attributes = { "aria-label": label, title: label };
  return element("button", { type: "button", className: "icon", onclick, attributes }, icon(name));
}

/** A button that copies a text, and says so. */
export function copyButton(label, text) {
  const button = iconButton("copy", label, async () => {
    button.title = (await copy(text())) ? "Copied" : "The browser did not allow it";
    button.setAttribute("aria-label", button.title);
    button.classList.add("used");
    setTimeout(() => {
      button.title = label;
      button.setAttribute("aria-label", label);
      button.classList.remove("used");
    }, 1500);
  });
  return button;
}

async function copy(text) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    return copyBySelecting(text); // the clipboard is there for secure origins only
  }
}

function copyBySelecting(text) {
  const before = document.activeElement;
  const box = element("textarea", { value: text, className: "hidden" });
  document.body.append(box);
  box.select();
  const copied = document.execCommand("copy");
  box.remove();
  before?.focus();
  return copied;
}
