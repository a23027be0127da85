// The list of conversations, which is a drawer where the screen is narrow.

import { titleOf } from "../conversation.js";
import { byId, element } from "./dom.js";

/** Show the conversations; `select` is called with the id of one that is chosen. */
export function showConversations(conversations, currentId, isRunning, select) {
  const list = byId("conversations");
  const hadFocus = list.contains(document.activeElement);
  list.replaceChildren(
    ...conversations.map((conversation) => {
      const { id } = conversation;
      const current = id === currentId;
      const button = element(
        "button",
        { type: "button", onclick: () => select(id) },
        element("span", {}, titleOf(conversation)),
      );
      if (current) button.setAttribute("aria-current", "page");
      if (isRunning(id))
        button.append(
          element(
            "span",
            { className: "dot" },
            element("span", { className: "hidden" }, " (answering)"),
          ),
        );
      return element("li", {}, button);
    }),
  );
  if (hadFocus) list.querySelector("[aria-current]")?.focus();
}

export function openDrawer(open) {
  byId("sidebar").classList.toggle("open", open);
  byId("menu").setAttribute("aria-expanded", String(open));
  if (open) byId("new").focus();
}

export const isDrawerOpen = () => byId("sidebar").classList.contains("open");
