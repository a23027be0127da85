// Dialogs: the browser keeps the focus in them and gives it back.

import { byId } from "./dom.js";

/** Show a dialog; resolves to its form if it is confirmed, else to null. */
function shown(dialog) {
  dialog.returnValue = "";
  const cancel = dialog.querySelector(".cancel");
  if (cancel) cancel.onclick = () => dialog.close();
  dialog.showModal();
  return new Promise((resolve) => {
    const closed = () => resolve(dialog.returnValue === "ok" ? dialog.querySelector("form") : null);
    dialog.addEventListener("close", closed, { once: true });
  });
}

export const isDialogOpen = () => document.querySelector("dialog[open]") !== null;

export const showHelp = () => shown(byId("help"));

/** Have parameters changed; resolves to all values as texts, or null. */
export async function askSettings(parameters) {
  const dialog = byId("settings");
  for (const field of dialog.querySelectorAll("[name]")) field.value = parameters[field.name] ?? "";
  const form = await shown(dialog);
  return form && Object.fromEntries(new FormData(form));
}

/** Ask whether to do something that cannot be undone. */
export async function confirmed(title, text, button) {
  return (await ask({ title, text, button })) !== null;
}

/** Ask for a line; resolves to it, or null. */
export async function askLine(title, label, value) {
  const form = await ask({ title, button: "Rename", label, value });
  return form && form.elements.value.value.trim();
}

/** Ask for an API key; resolves to {key, keep}, or null. */
export async function askKey(text) {
  const form = await ask({
    title: "API key",
    text,
    button: "Use it",
    label: "API key",
    type: "password",
    pattern: "[!-~]+",
  });
  return form && { key: form.elements.value.value, keep: form.elements.keep.checked };
}

function ask({ title, text = "", button, label = "", value = "", type = "text", pattern = null }) {
  const dialog = byId("ask");
  const field = dialog.querySelector("[name=value]");
  byId("ask-title").textContent = title;
  byId("ask-text").textContent = text;
  byId("ask-label").hidden = !label;
  byId("ask-label").firstElementChild.textContent = label;
  byId("ask-keep").hidden = type !== "password";
  byId("ask-keep").firstElementChild.checked = false;
  Object.assign(field, { type, value });
  if (pattern) field.pattern = pattern;
  else field.removeAttribute("pattern");
  dialog.querySelector("[value=ok]").textContent = button;
  const result = shown(dialog);
  if (label) field.select();
  return result;
}
