// The conversations, in this browser's IndexedDB; other tabs hear of every change.

import { conversationOf, newConversation } from "./conversation.js";

const NAME = "llamacffi";
const TABLE = "conversations";

const done = (request) =>
  new Promise((resolve, reject) => {
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error);
  });

export class Store {
  #database = null;
  #channel = new BroadcastChannel(NAME);
  #conversations = new Map();
  #removed = new WeakSet();

  /** Open it; onForeign is called with the id of a conversation that another tab has changed. */
  static async open(onForeign) {
    const store = new Store();
    const request = indexedDB.open(NAME, 1);
    request.onupgradeneeded = () => request.result.createObjectStore(TABLE, { keyPath: "id" });
    store.#database = await done(request);
    for (const value of await done(store.#table("readonly").getAll())) store.#take(value);
    store.#channel.onmessage = async ({ data: id }) => {
      const value = await done(store.#table("readonly").get(id));
      if (!value) store.#conversations.delete(id);
      onForeign(id, value && conversationOf(value));
    };
    return store;
  }

  /** One that forgets, for a browser that does not store. */
  static forgetful() {
    return new Store();
  }

  /** The one that was used last comes first. */
  list() {
    return [...this.#conversations.values()].sort((a, b) => b.updated - a.updated);
  }

  get(id) {
    return this.#conversations.get(id);
  }

  has(conversation) {
    return this.#conversations.get(conversation.id) === conversation;
  }

  /** Take over what another tab has saved. */
  replace(conversation) {
    this.#conversations.set(conversation.id, conversation);
  }

  /** Keep it as it is now; one that has been removed stays away, even if an answer to it ends after that. */
  async save(conversation) {
    if (this.#removed.has(conversation)) return;
    this.#conversations.set(conversation.id, conversation);
    if (this.#database) await done(this.#table("readwrite").put(conversation));
    this.#channel.postMessage(conversation.id);
  }

  async remove(conversation) {
    const { id } = conversation;
    this.#removed.add(conversation);
    this.#conversations.delete(id);
    if (this.#database) await done(this.#table("readwrite").delete(id));
    this.#channel.postMessage(id);
  }

  exported() {
    return JSON.stringify({ format: NAME, version: 1, conversations: this.list() }, null, 1);
  }

  /** Add the conversations of an exported file; returns how many. Those that are here stay as they are. */
  async import(text) {
    const found = JSON.parse(text).conversations.map(conversationOf).filter(Boolean);
    let added = 0;
    for (const conversation of found) {
      const present = this.#conversations.get(conversation.id);
      if (present?.updated === conversation.updated) continue;
      if (present) conversation.id = newConversation().id;
      await this.save(conversation);
      added += 1;
    }
    return added;
  }

  #take(value) {
    const conversation = conversationOf(value);
    if (conversation) this.#conversations.set(conversation.id, conversation);
  }

  #table(mode) {
    return this.#database.transaction(TABLE, mode).objectStore(TABLE);
  }
}
