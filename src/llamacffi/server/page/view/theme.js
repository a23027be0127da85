// Dark or light: the system's choice, until it is chosen here.

import { remember } from "../memory.js";

const system = matchMedia("(prefers-color-scheme: dark)");
const { dataset } = document.documentElement;

const isDark = () => (dataset.theme ? dataset.theme === "dark" : system.matches);

/** Make a button switch between dark and light. */
export function switchesTheme(button) {
  const show = () => button.setAttribute("aria-pressed", String(isDark()));
  button.onclick = () => {
    dataset.theme = isDark() ? "light" : "dark";
    remember("theme", dataset.theme);
    show();
  };
  system.onchange = show;
  show();
}
