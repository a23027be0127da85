// The server's public interface: the list of models, and an answer in pieces.

import { recall } from "./memory.js";

/** What the server or the way to it had to say against a request. */
export class ApiError extends Error {
  constructor(message, status = 0) {
    super(message);
    this.status = status;
  }
}

/** The names of the models; none while the server is loading them. */
export async function listModels() {
  const response = await ask("v1/models", { cache: "no-store" });
  return (await response.json()).data.map((model) => String(model.id));
}

/** The chunks of an answer. */
export async function* streamChat(body, signal) {
  const response = await ask("v1/chat/completions", {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify(body),
    signal,
  });
  let complete = false;
  for await (const data of events(response.body)) {
    complete = data === "[DONE]";
    // Read on to the end: to leave now would look to the server as if nobody wanted the answer.
    if (complete) continue;
    const chunk = JSON.parse(data);
    if (chunk.error) throw new ApiError(messageOf(chunk), Number(chunk.error.code) || 0);
    yield chunk;
  }
  if (!complete) throw new ApiError("The connection ended in the middle of the answer.");
}

async function ask(path, options) {
  const key = recall("key");
  const headers = { ...options.headers, ...(key ? { Authorization: `Bearer ${key}` } : {}) };
  let response;
  try {
    // Relative to the page: the server may live below a path of another one.
    response = await fetch(new URL(path, document.baseURI), { ...options, headers });
  } catch (error) {
    if (options.signal?.aborted) throw error;
    throw new ApiError("The server does not answer. Does it still run?");
  }
  if (!response.ok) throw await errorOf(response);
  return response;
}

async function errorOf(response) {
  let message = "";
  try {
    message = messageOf(await response.json());
  } catch {
    // No JSON, as of a proxy: the status has to do.
  }
  return new ApiError(
    message || `The server answered with status ${response.status}.`,
    response.status,
  );
}

function messageOf(body) {
  const error = body.error ?? body;
  return String(error.message ?? body.detail ?? "");
}

/** The data of server-sent events. */
async function* events(stream) {
  const reader = stream.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  try {
    for (;;) {
      const { value, done } = await reader.read();
      if (done) return;
      const parts = (rest + value).split(/\r?\n\r?\n/);
      rest = parts.pop();
      for (const part of parts) {
        const lines = part.split(/\r?\n/).filter((line) => line.startsWith("data:"));
        if (lines.length) yield lines.map((line) => line.slice(5).trimStart()).join("\n");
      }
    }
  } finally {
    reader.cancel().catch(() => {}); // it may have failed already
  }
}
