// The messages of the conversation that is shown.

import { showMarkdown } from "../markdown/blocks.js";
import { copyButton, element, iconButton } from "./dom.js";

const NAMES = { user: "You", assistant: "Answer" };
const NEAR_PIXELS = 60;

export class Messages {
  #list;
  #scroller;
  #actions;
  #views = new Map();
  #waiting = new Set();
  #conversation = null;

  /** Actions are called with the index of a message: regenerate, edit (and a text, and whether in a branch), branch. */
  constructor(list, scroller, actions) {
    this.#list = list;
    this.#scroller = scroller;
    this.#actions = actions;
  }

  /** Show a conversation; what is on the page already stays. */
  show(conversation, running) {
    const switched = conversation.id !== this.#conversation?.id;
    const follow = switched || this.#isAtEnd();
    this.#conversation = conversation;
    const views = new Map();
    for (const [index, message] of conversation.messages.entries()) {
      const view = this.#views.get(message) ?? new MessageView(message);
      view.place(index, conversation.messages.length, running, this.#actions);
      views.set(message, view);
    }
    this.#views = views;
    const roots = new Set([...views.values()].map((view) => view.root));
    for (const shown of [...this.#list.children]) if (!roots.has(shown)) shown.remove();
    // Those that stay are not touched, and keep the focus; new ones come last.
    for (const root of roots) if (!root.isConnected) this.#list.append(root);
    if (follow) this.#toEnd();
  }

  /** More of a message has come: show it with the next frame. */
  update(message) {
    if (!this.#views.has(message)) return; // of a conversation in the background
    if (!this.#waiting.size) requestAnimationFrame(() => this.#draw());
    this.#waiting.add(message);
  }

  edit(message) {
    this.#views.get(message)?.edit();
  }

  #draw() {
    const follow = this.#isAtEnd();
    for (const message of this.#waiting) this.#views.get(message)?.draw();
    this.#waiting.clear();
    if (follow) this.#toEnd();
  }

  #isAtEnd() {
    const { scrollTop, scrollHeight, clientHeight } = this.#scroller;
    return scrollHeight - scrollTop - clientHeight < NEAR_PIXELS;
  }

  #toEnd() {
    this.#scroller.scrollTop = this.#scroller.scrollHeight;
  }
}

class MessageView {
  #message;
  #index = 0;
  #state = "";
  #actions = null;
  #later = 0;
  #thoughts = element(
    "details",
    { className: "thoughts" },
    element("summary"),
    element("div", { className: "text" }),
  );
  #body = element("div", { className: "text" });
  #calls = element("div");
  #note = element("p", { className: "note" });
  #bar = element("div", { className: "bar" });

  constructor(message) {
    this.#message = message;
    const heading = element("h2", { className: "hidden" }, NAMES[message.role]);
    this.root = element(
      "li",
      { className: `message ${message.role}` },
      heading,
      this.#thoughts,
      this.#body,
      this.#calls,
      this.#note,
      this.#bar,
    );
  }

  /** Where it stands, and with it which buttons it has. */
  place(index, count, running, actions) {
    this.#index = index;
    this.#later = count - index - 1;
    this.#actions = actions;
    const state = `${running} ${this.#later > 0} ${this.#message.status}`;
    if (state !== this.#state) this.#bar.replaceChildren(...this.#buttons(running));
    this.#state = state;
    this.draw();
  }

  draw() {
    const { role, content, reasoning, calls, status } = this.#message;
    if (role === "user") this.#body.textContent = content;
    else showMarkdown(this.#body, content);
    this.#thoughts.hidden = !reasoning;
    const [summary, text] = this.#thoughts.children;
    summary.textContent = status === "running" && !content ? "Thinking…" : "Thoughts";
    text.textContent = reasoning;
    const lines = calls.filter(Boolean).map((call) => `${call.name}(${call.arguments})`);
    this.#calls.replaceChildren(
      ...lines.map((line) => element("pre", { className: "call", tabIndex: 0 }, line)),
    );
    this.#note.textContent = this.#noteText();
    this.#note.hidden = !this.#note.textContent;
    this.root.classList.toggle("running", status === "running");
    this.root.classList.toggle("failed", status === "failed");
  }

  /** Replace the text by a box to change it in. */
  edit() {
    const isUser = this.#message.role === "user";
    const box = element("textarea", {
      value: this.#message.content,
      attributes: { "aria-label": "Text of the message" },
    });
    box.rows = Math.min(12, this.#message.content.split("\n").length + 1);
    const finish = (branch) => {
      this.#close(form);
      this.#actions.edit(this.#index, box.value, branch);
    };
    const button = (text, onclick, className = "small") =>
      element("button", { type: "button", className, onclick }, text);
    const buttons = [button(isUser ? "Send" : "Save", () => finish(false), "small main")];
    if (isUser && this.#later)
      buttons.push(button("Send in a new conversation", () => finish(true)));
    buttons.push(button("Cancel", () => this.#cancel(form)));
    const hint = isUser && this.#later ? "Sending it replaces everything after this message." : "";
    const form = element(
      "div",
      { className: "edit" },
      box,
      element("p", { className: "note" }, hint),
      element("div", { className: "bar" }, ...buttons),
    );
    form.onkeydown = (event) => {
      if (event.key === "Escape") this.#cancel(form);
      else if (
        event.key === "Enter" &&
        !event.shiftKey &&
        isUser &&
        event.target === box &&
        !event.isComposing
      )
        finish(false);
      else return;
      event.preventDefault();
      event.stopPropagation();
    };
    this.#body.hidden = this.#bar.hidden = true;
    this.#body.after(form);
    box.focus();
  }

  #cancel(form) {
    this.#close(form);
    this.#bar.querySelector("[aria-label=Edit]")?.focus();
  }

  #close(form) {
    form.remove();
    this.#body.hidden = this.#bar.hidden = false;
  }

  #buttons(running) {
    if (this.#message.status === "running") return [];
    const buttons = [copyButton("Copy", () => this.#message.content)];
    if (running) return buttons;
    buttons.push(iconButton("pencil", "Edit", () => this.edit()));
    buttons.push(
      iconButton("branch", "Branch into a new conversation", () =>
        this.#actions.branch(this.#index),
      ),
    );
    if (this.#message.role === "assistant" && !this.#later) {
      const failed = this.#message.status === "failed";
      const again = () => this.#actions.regenerate(this.#index);
      buttons.push(
        failed
          ? element("button", { type: "button", className: "small main", onclick: again }, "Retry")
          : iconButton("again", "Regenerate", again),
      );
    }
    return buttons;
  }

  #noteText() {
    const { status, error, finish, note } = this.#message;
    if (status === "failed") return error;
    const ends = { length: "cut at the most tokens", content_filter: "filtered by the server" };
    return [status === "stopped" ? "stopped" : ends[finish], note].filter(Boolean).join(" · ");
  }
}
