// Answers that are being written: one at a time in a conversation, any number of conversations.

import { streamChat } from "./api.js";
import { newMessage, requestOf } from "./conversation.js";

const SAVE_EVERY_MS = 1000;

export class Answers {
  #running = new Map();
  #on;

  /** Calls on.piece(conversation, message), on.save(conversation), on.end(conversation, message, error). */
  constructor(on) {
    this.#on = on;
  }

  isRunning(id) {
    return this.#running.has(id);
  }

  /** Stop one; the server notices that nobody reads, and frees what it holds. */
  stop(id) {
    this.#running.get(id)?.abort();
  }

  /** Have the next message of a conversation written, until its end. */
  async run(conversation) {
    if (this.isRunning(conversation.id)) return;
    const controller = new AbortController();
    this.#running.set(conversation.id, controller);
    const request = requestOf(conversation);
    const message = newMessage("assistant", "", "running");
    conversation.messages.push(message);
    this.#on.save(conversation);
    let failure = null;
    try {
      await this.#write(message, request, conversation, controller.signal);
      message.status = "done";
    } catch (error) {
      message.status = controller.signal.aborted ? "stopped" : "failed";
      if (message.status === "failed") failure = error;
      message.error = failure?.message ?? "";
    }
    this.#running.delete(conversation.id);
    conversation.updated = Date.now();
    this.#on.save(conversation);
    this.#on.end(conversation, message, failure);
  }

  async #write(message, request, conversation, signal) {
    let saved = performance.now();
    let first = 0;
    for await (const chunk of streamChat(request, signal)) {
      const now = performance.now();
      const choice = chunk.choices?.[0];
      if (choice) take(message, choice);
      if (choice?.delta?.content || choice?.delta?.reasoning_content) first ||= now;
      if (chunk.usage) message.note = noteOf(chunk.usage, now - first);
      if (now - saved > SAVE_EVERY_MS) {
        this.#on.save(conversation);
        saved = now;
      }
      this.#on.piece(conversation, message);
    }
  }
}

function take(message, { delta = {}, finish_reason: finish }) {
  message.content += delta.content ?? "";
  message.reasoning += delta.reasoning_content ?? "";
  for (const { index = 0, function: called = {} } of delta.tool_calls ?? []) {
    const call = (message.calls[index] ??= { name: "", arguments: "" });
    call.name += called.name ?? "";
    call.arguments += called.arguments ?? "";
  }
  if (finish) message.finish = finish;
}

function noteOf({ completion_tokens: count }, milliseconds) {
  const speed =
    count > 1 && milliseconds > 0
      ? `, ${(((count - 1) / milliseconds) * 1000).toFixed(1)} per second`
      : "";
  return `${count} ${count === 1 ? "token" : "tokens"}${speed}`;
}
