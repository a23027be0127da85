// The models to pick from, and the API key that it may take to see them.

import { listModels } from "../api.js";
import { remember, rememberHere } from "../memory.js";
import { askKey, isDialogOpen } from "./dialogs.js";
import { element } from "./dom.js";
import { notify } from "./notice.js";

const LOADING_RETRY_MS = 2000;

export class Models {
  #picker;
  #notice;
  #wanted = "";

  /** Says in the place `notice` what is wrong; calls onPick(name). */
  constructor(picker, notice, onPick) {
    this.#picker = picker;
    this.#notice = notice;
    picker.onchange = () => {
      this.#wanted = picker.value;
      onPick(picker.value);
    };
  }

  get picked() {
    return this.#picker.value;
  }

  /** Pick a model, or the first one if there is none of this name. */
  pick(name) {
    this.#wanted = name;
    const known = [...this.#picker.options].some(({ value }) => value === name);
    if (known) this.#picker.value = name;
    else this.#picker.selectedIndex = 0;
  }

  /** Ask the server for its models, until it has some. */
  async load() {
    try {
      const names = await listModels();
      const options = names.map((name) => element("option", { value: name }, name));
      this.#picker.replaceChildren(...options);
      this.pick(this.#wanted);
      notify(this.#notice, names.length ? "" : "The model is being loaded.");
      if (!names.length) setTimeout(() => this.load(), LOADING_RETRY_MS);
    } catch (error) {
      notify(this.#notice, error.message, () => this.load());
      if (error.status === 401) this.enterKey(error.message);
    }
  }

  /** Have a key entered, and go on with it. */
  async enterKey(reason = "", then = () => {}) {
    if (isDialogOpen()) return;
    const given = await askKey(reason);
    if (!given) return;
    (given.keep ? remember : rememberHere)("key", given.key);
    await this.load();
    then();
  }
}
