// The page: what is shown, and what the buttons and keys do.

import { Answers } from "./answers.js";
import { branchOf, newConversation, newMessage, parametersOf, titleOf } from "./conversation.js";
import { recall, remember } from "./memory.js";
import { Store } from "./store.js";
import { askLine, askSettings, confirmed, isDialogOpen, showHelp } from "./view/dialogs.js";
import { byId, element } from "./view/dom.js";
import { Messages } from "./view/messages.js";
import { Models } from "./view/models.js";
import { notify } from "./view/notice.js";
import { isDrawerOpen, openDrawer, showConversations } from "./view/sidebar.js";
import { switchesTheme } from "./view/theme.js";

const answers = new Answers({ piece: (_, message) => messages.update(message), save, end });
const messages = new Messages(byId("messages"), byId("scroller"), { regenerate, edit, branch });
const models = new Models(byId("model"), byId("server-notice"), pickModel);
const drafts = new Map(); // what has been typed and not sent, by conversation
const text = byId("text");
let store = Store.forgetful();
let blank = newConversation();
let current = fresh();

// -- conversations --------------------------------------------------------------------------------

/** The conversation that nothing has been sent in yet. */
function fresh() {
  if (store.has(blank)) blank = newConversation();
  const parameters = parametersOf(parsed(recall("parameters")));
  return Object.assign(blank, { parameters, model: recall("model") ?? "" });
}

function parsed(json) {
  try {
    return JSON.parse(json);
  } catch {
    return null; // somebody else has written it
  }
}

function select(id) {
  if (id === current.id || (!id && current === blank && !store.has(blank))) return;
  drafts.set(current.id, text.value);
  current = store.get(id) ?? fresh();
  text.value = drafts.get(current.id) ?? "";
  fit();
  notify(byId("notice"), "");
  const { pathname, search } = location;
  history.replaceState(null, "", store.has(current) ? `#${id}` : pathname + search);
  show();
}

function start() {
  select("");
  openDrawer(false);
  text.focus();
}

function step(by) {
  const list = store.list();
  const at = list.findIndex(({ id }) => id === current.id);
  const next = list[Math.max(0, at + by)];
  if (next) select(next.id);
}

async function save(conversation) {
  try {
    await store.save(conversation);
  } catch (error) {
    notify(byId("notice"), `The browser could not store the conversation: ${error.message}`);
  }
}

async function removeCurrent() {
  const conversation = current;
  if (
    !(await confirmed(
      "Delete the conversation?",
      `“${titleOf(conversation)}” will be gone.`,
      "Delete",
    ))
  )
    return;
  answers.stop(conversation.id);
  await store.remove(conversation);
  if (current === conversation) select("");
  text.focus();
}

async function rename() {
  const conversation = current;
  const title = await askLine("Rename the conversation", "Title", titleOf(conversation));
  if (title === null) return;
  conversation.title = title;
  await save(conversation);
  show();
}

/** Another tab has changed a conversation, or deleted it. */
function changedElsewhere(id, conversation) {
  if (answers.isRunning(id)) return;
  if (conversation) store.replace(conversation);
  if (id === current.id) current = conversation ?? fresh();
  show();
}

// -- answers --------------------------------------------------------------------------------------

function send() {
  const content = text.value.trim();
  if (!content || answers.isRunning(current.id)) return;
  text.value = "";
  fit();
  current.messages.push(newMessage("user", content));
  answer(current);
}

function answer(conversation) {
  conversation.model = models.picked;
  conversation.updated = Date.now();
  answers.run(conversation);
  history.replaceState(null, "", `#${current.id}`);
  announce("Answering.");
  show();
  text.focus();
}

function regenerate(index) {
  current.messages.length = index;
  answer(current);
}

function edit(index, content, inBranch) {
  const message = current.messages[index];
  if (message.role === "assistant") {
    message.content = content;
    save(current);
    show();
    return;
  }
  if (inBranch) branchAt(index);
  current.messages.length = index;
  current.messages.push(newMessage("user", content));
  answer(current);
}

/** Go on in a new conversation: after this answer, or with this question to be changed. */
function branch(index) {
  const { role, content } = current.messages[index];
  if (role === "assistant") branchAt(index + 1);
  else branchAt(index, content);
}

function branchAt(count, draft = "") {
  const made = branchOf(current, count);
  drafts.set(made.id, draft);
  save(made);
  select(made.id);
  text.focus();
}

function end(conversation, message, failure) {
  const shown = conversation === current;
  const ends = { done: message.content, stopped: "Stopped.", failed: message.error };
  announce(shown ? ends[message.status] : `“${titleOf(conversation)}” has been answered.`);
  show();
  if (failure?.status === 401) models.enterKey(failure.message, () => retry(conversation, message));
}

function retry(conversation, message) {
  if (conversation !== current || current.messages.at(-1) !== message) return;
  regenerate(current.messages.length - 1);
}

function pickModel(name) {
  current.model = name;
  remember("model", name);
  if (store.has(current)) save(current);
}

async function changeSettings() {
  const conversation = current;
  const values = await askSettings(conversation.parameters);
  if (!values) return;
  conversation.parameters = parametersOf(values);
  remember("parameters", JSON.stringify(conversation.parameters));
  if (store.has(conversation)) save(conversation);
}

// -- the page -------------------------------------------------------------------------------------

function show() {
  const running = answers.isRunning(current.id);
  const saved = store.has(current);
  byId("title").textContent = titleOf(current);
  document.title = `${titleOf(current)} - llamacffi`;
  byId("welcome").hidden = current.messages.length > 0;
  byId("send").hidden = running;
  byId("stop").hidden = !running;
  byId("rename").disabled = byId("delete").disabled = !saved;
  byId("export").disabled = !store.list().length;
  byId("messages").setAttribute("aria-busy", String(running));
  models.pick(current.model);
  messages.show(current, running);
  showConversations(
    store.list(),
    current.id,
    (id) => answers.isRunning(id),
    (id) => {
      select(id);
      openDrawer(false);
    },
  );
}

function announce(message) {
  byId("announcer").textContent = message;
}

function fit() {
  text.style.height = "auto";
  text.style.height = `${text.scrollHeight}px`;
}

function exportAll() {
  const url = URL.createObjectURL(new Blob([store.exported()], { type: "application/json" }));
  element("a", { href: url, download: "conversations.json" }).click();
  setTimeout(() => URL.revokeObjectURL(url), 1000);
}

async function importFile() {
  const [file] = byId("import-file").files;
  byId("import-file").value = "";
  if (!file) return;
  try {
    const count = await store.import(await file.text());
    notify(
      byId("notice"),
      `${count} ${count === 1 ? "conversation has" : "conversations have"} been imported.`,
    );
  } catch {
    notify(byId("notice"), "This file has no exported conversations in it.");
  }
  show();
}

function onKey(event) {
  if (isDialogOpen() || event.isComposing) return;
  const { key, altKey, shiftKey } = event;
  const control = event.ctrlKey || event.metaKey;
  const lastOfUser = current.messages.findLast(({ role }) => role === "user");
  if (key === "Escape" && isDrawerOpen()) {
    openDrawer(false);
    byId("menu").focus();
  } else if (key === "Escape") answers.stop(current.id);
  else if (control && key === "k") start();
  else if (control && key === "/") showHelp();
  else if (control && key === ",") changeSettings();
  else if (altKey && key === "ArrowDown") step(1);
  else if (altKey && key === "ArrowUp") step(-1);
  else if (event.target !== text) return;
  else if (key === "Enter" && !shiftKey) send();
  else if (key === "ArrowUp" && !text.value && lastOfUser && !answers.isRunning(current.id))
    messages.edit(lastOfUser);
  else return;
  event.preventDefault();
}

function listen() {
  const clicks = {
    new: start,
    export: exportAll,
    import: () => byId("import-file").click(),
    "enter-key": () => models.enterKey(),
    "open-help": showHelp,
    menu: () => openDrawer(!isDrawerOpen()),
    rename,
    delete: removeCurrent,
    "open-settings": changeSettings,
    stop: () => answers.stop(current.id),
  };
  for (const [id, onclick] of Object.entries(clicks)) byId(id).onclick = onclick;
  byId("import-file").onchange = importFile;
  byId("composer").onsubmit = (event) => {
    event.preventDefault();
    send();
  };
  text.oninput = fit;
  document.onkeydown = onKey;
  onhashchange = () => select(location.hash.slice(1));
  switchesTheme(byId("theme"));
}

listen();
try {
  store = await Store.open(changedElsewhere);
} catch (error) {
  notify(
    byId("notice"),
    `Conversations are not kept, since this browser does not store them: ${error.message}`,
  );
}
current = store.get(location.hash.slice(1)) ?? current;
show();
text.focus();
await models.load();
