// What a conversation is: its shape, what may be in it, and the request that it stands for.

const ROLES = ["user", "assistant"];
const NUMBERS = [
  "temperature",
  "top_p",
  "top_k",
  "min_p",
  "presence_penalty",
  "frequency_penalty",
  "max_tokens",
  "seed",
];
const TEXTS = ["system", "reasoning_effort"];
const TITLE_CHARACTERS = 60;
export const UNTITLED = "New conversation";

// randomUUID is there for secure origins only.
const newId = () =>
  Array.from(crypto.getRandomValues(new Uint32Array(4)), (n) => n.toString(36)).join("");
const text = (value) => (typeof value === "string" ? value : "");

export function newConversation(parameters = {}, model = "") {
  const now = Date.now();
  return { id: newId(), title: "", created: now, updated: now, model, parameters, messages: [] };
}

/** A message; its status is running, done, stopped or failed. */
export function newMessage(role, content = "", status = "done") {
  return { role, content, reasoning: "", calls: [], status, finish: "", error: "", note: "" };
}

export function titleOf(conversation) {
  if (conversation.title) return conversation.title;
  const first = conversation.messages[0]?.content.trim().split("\n")[0] ?? "";
  return first.length > TITLE_CHARACTERS
    ? `${first.slice(0, TITLE_CHARACTERS)}…`
    : first || UNTITLED;
}

/** A conversation of its own, with the first so many messages of another one. */
export function branchOf(conversation, count) {
  const { parameters, model, messages } = structuredClone(conversation);
  const title = `Branch of ${titleOf(conversation).replace(/^Branch of /, "")}`;
  return { ...newConversation(parameters, model), title, messages: messages.slice(0, count) };
}

/** The parameters among these values: numbers that are numbers, texts that say something. */
export function parametersOf(values) {
  const given = {};
  for (const name of NUMBERS) {
    const value = values?.[name];
    if (value !== "" && value != null && Number.isFinite(Number(value)))
      given[name] = Number(value);
  }
  for (const name of TEXTS) if (text(values?.[name]).trim()) given[name] = values[name];
  return given;
}

/** The body of the request for the next answer. */
export function requestOf(conversation) {
  const { system, ...parameters } = conversation.parameters;
  const messages = conversation.messages.map(({ role, content }) => ({ role, content }));
  if (system) messages.unshift({ role: "system", content: system });
  const options = { stream: true, stream_options: { include_usage: true } };
  const model = conversation.model ? { model: conversation.model } : {};
  return { ...model, messages, ...options, ...parameters };
}

/** A conversation from what a file or the database says, with nothing in it of a wrong type; or null. */
export function conversationOf(value) {
  if (!text(value?.id) || !Array.isArray(value.messages)) return null;
  const messages = value.messages.filter((message) => ROLES.includes(message?.role));
  return {
    ...newConversation(parametersOf(value.parameters), text(value.model)),
    id: value.id,
    title: text(value.title),
    created: Number(value.created) || 0,
    updated: Number(value.updated) || 0,
    messages: messages.map(messageOf),
  };
}

function messageOf(value) {
  const message = newMessage(value.role, text(value.content));
  for (const name of ["reasoning", "finish", "error", "note"]) message[name] = text(value[name]);
  const calls = Array.isArray(value.calls) ? value.calls : [];
  message.calls = calls.map((call) => ({
    name: text(call?.name),
    arguments: text(call?.arguments),
  }));
  // One that was running when the page was closed has been stopped by that.
  if (value.status !== "done") message.status = value.status === "failed" ? "failed" : "stopped";
  return message;
}
