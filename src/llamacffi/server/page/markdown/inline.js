// Markdown's marks within a line: code, emphasis, links. What is no mark stays text.

import { element } from "../view/dom.js";

const DEPTH_MAX = 5;
const MARK = /\\|`+|\*\*|\*|__|_|~~|!?\[|https?:\/\//g;
const TAGS = { "**": "strong", __: "strong", "*": "em", _: "em", "~~": "del" };
// Bounded, so that many brackets in a row cost little.
const LINK =
  /(!?)\[((?:[^[\]\\\n]|\\.){0,300})\]\(<?((?:[^\s()<>]|\([^\s()<>]{0,100}\)){1,1000})>?(?: "[^"\n]{0,200}")?\)/y;
const ADDRESS = /https?:\/\/[^\s<>"'`]{1,1000}/y;
const SCHEMES = ["http:", "https:", "mailto:"];

/** The nodes for a text. */
export function inline(text, depth = 0) {
  const nodes = [];
  const marks = new RegExp(MARK);
  const missing = new Set(); // marks that have no partner from here on
  let shown = 0;
  for (let mark = marks.exec(text); mark; mark = marks.exec(text)) {
    const made = piece(text, mark, depth, missing);
    if (!made) continue;
    nodes.push(text.slice(shown, mark.index), made.node);
    shown = marks.lastIndex = made.end;
  }
  nodes.push(text.slice(shown));
  return nodes.filter((node) => node !== "");
}

function piece(text, { 0: mark, index }, depth, missing) {
  if (mark === "\\") return escaped(text, index);
  if (mark[0] === "`") return code(text, index, mark, missing);
  if (mark.endsWith("[")) return link(text, index, depth);
  if (mark.startsWith("http")) return address(text, index);
  return depth < DEPTH_MAX ? emphasis(text, index, mark, depth, missing) : null;
}

function escaped(text, index) {
  const next = text[index + 1] ?? "";
  return /[!-/:-@[-`{-~]/.test(next) ? { node: next, end: index + 2 } : null;
}

function code(text, index, mark, missing) {
  if (missing.has(mark)) return null;
  const start = index + mark.length;
  let end = text.indexOf(mark, start);
  while (end >= 0 && text[end + mark.length] === "`") {
    while (text[end] === "`") end += 1; // a longer run
    end = text.indexOf(mark, end);
  }
  if (end < 0) missing.add(mark);
  return end < 0
    ? null
    : { node: element("code", {}, text.slice(start, end)), end: end + mark.length };
}

function emphasis(text, index, mark, depth, missing) {
  const start = index + mark.length;
  const inWord = mark[0] === "_" && /\w/.test(text[index - 1] ?? "");
  if (missing.has(mark) || inWord || !/\S/.test(text[start] ?? "")) return null;
  let end = text.indexOf(mark, start + 1);
  while (end >= 0 && !closes(text, end, mark)) end = text.indexOf(mark, end + mark.length);
  if (end < 0) missing.add(mark);
  return end < 0
    ? null
    : {
        node: element(TAGS[mark], {}, ...inline(text.slice(start, end), depth + 1)),
        end: end + mark.length,
      };
}

function closes(text, end, mark) {
  if (/\s|\\/.test(text[end - 1])) return false;
  // One star of two belongs to something else, and so does an underscore within a word.
  if (mark === "*" && (text[end + 1] === "*" || text[end - 1] === "*")) return false;
  return mark[0] !== "_" || !/\w/.test(text[end + mark.length] ?? "");
}

function link(text, index, depth) {
  LINK.lastIndex = index;
  const found = LINK.exec(text);
  if (!found) return null;
  const [whole, image, label, target] = found;
  // Pictures are not loaded: that would tell somebody who reads what.
  const name = image
    ? [`Image: ${label || target}`]
    : inline(label, Math.max(depth + 1, DEPTH_MAX - 1));
  return { node: anchor(target, name), end: index + whole.length };
}

function address(text, index) {
  ADDRESS.lastIndex = index;
  const found = ADDRESS.exec(text)?.[0].replace(/[).,;:!?*_\]]{1,9}$/, "");
  return found ? { node: anchor(found, [found]), end: index + found.length } : null;
}

function anchor(target, name) {
  const url = URL.canParse(target) ? new URL(target) : null;
  if (!url || !SCHEMES.includes(url.protocol)) return element("span", {}, ...name);
  return element(
    "a",
    { href: url.href, target: "_blank", rel: "noopener noreferrer", title: url.href },
    ...name,
  );
}
