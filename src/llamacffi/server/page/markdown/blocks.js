// Markdown's blocks. A block is {kind, source, render}; those with the same kind and source look the same.
// A hostile text costs time in proportion to its length: nesting is bounded, and no expression backtracks far.

import { copyButton, element } from "../view/dom.js";
import { inline } from "./inline.js";

const DEPTH_MAX = 6;
const FENCE = /^ {0,3}(`{3,}|~{3,})([^`]*)$/;
const HEADING = /^ {0,3}(#{1,6})(?: (.*))?$/;
const RULE = /^ {0,3}([-*_])(?: *\1){2,} *$/;
const QUOTE = /^ {0,3}> ?/;
const ITEM = /^( {0,12})([-*+]|\d{1,9}[.)])( {1,4}|$)/;

/** Show a text in an element: only what has changed since the last time is made anew. */
export function showMarkdown(container, text) {
  const blocks = blocksOf(text.replaceAll("\r\n", "\n").replaceAll("\t", "    ").split("\n"), 0);
  const before = container.shownBlocks ?? [];
  const keys = blocks.map(({ kind, source }) => `${kind}\n${source}`);
  const same = keys.findIndex((key, index) => key !== before[index]);
  const start = same < 0 ? keys.length : same;
  while (container.children.length > start) container.lastElementChild.remove();
  container.append(...blocks.slice(start).map((block) => block.render()));
  container.shownBlocks = keys;
}

function render(lines, depth) {
  return blocksOf(lines, depth).map((block) => block.render());
}

function blocksOf(lines, depth) {
  const blocks = [];
  const nested = depth < DEPTH_MAX;
  let at = 0;
  const add = (kind, end, make) => {
    const taken = lines.slice(at, end);
    blocks.push({ kind, source: taken.join("\n"), render: () => make(taken, depth) });
    at = end;
  };
  while (at < lines.length) {
    const line = lines[at];
    if (!line.trim()) at += 1;
    else if (FENCE.test(line)) add("code", endOfCode(lines, at), code);
    else if (HEADING.test(line)) add("heading", at + 1, heading);
    else if (RULE.test(line)) add("rule", at + 1, () => element("hr"));
    else if (nested && QUOTE.test(line))
      add(
        "quote",
        endWhile(lines, at, (l) => QUOTE.test(l)),
        quote,
      );
    else if (nested && ITEM.test(line)) add("list", endOfList(lines, at), list);
    else if (isTable(lines, at))
      add(
        "table",
        endWhile(lines, at, (l) => l.includes("|")),
        table,
      );
    else add("paragraph", endOfParagraph(lines, at, nested), paragraph);
  }
  return blocks;
}

function endWhile(lines, at, holds) {
  while (at < lines.length && holds(lines[at])) at += 1;
  return at;
}

// -- code -----------------------------------------------------------------------------------------

function endOfCode(lines, at) {
  const fence = lines[at].match(FENCE)[1];
  const closes = (line) => {
    const text = line.trim();
    return text.length >= fence.length && text === fence[0].repeat(text.length);
  };
  return Math.min(endWhile(lines, at + 1, (line) => !closes(line)) + 1, lines.length);
}

function code(lines) {
  const [, fence, info] = lines[0].match(FENCE);
  const last = lines.at(-1).trim();
  const closed = lines.length > 1 && last.startsWith(fence) && !last.replaceAll(fence[0], "");
  const text = lines.slice(1, closed ? -1 : undefined).join("\n");
  const language = info.trim().split(" ")[0];
  const bar = element(
    "div",
    { className: "bar" },
    element("span", {}, language),
    copyButton("Copy the code", () => text),
  );
  // One can scroll it, so it has to take the focus.
  const pre = element(
    "pre",
    { tabIndex: 0, attributes: { role: "group", "aria-label": `Code ${language}`.trim() } },
    element("code", {}, text),
  );
  return element("div", { className: "code" }, bar, pre);
}

// -- texts ----------------------------------------------------------------------------------------

function heading(lines) {
  const [, marks, text] = lines[0].match(HEADING);
  // The page's own headings are the first two levels.
  return element(`h${Math.min(marks.length + 2, 6)}`, {}, ...inline((text ?? "").trim()));
}

function paragraph(lines) {
  return element("p", {}, ...inline(lines.join("\n").trim()));
}

function endOfParagraph(lines, at, nested) {
  const starts = (line) =>
    FENCE.test(line) ||
    HEADING.test(line) ||
    RULE.test(line) ||
    (nested && (QUOTE.test(line) || ITEM.test(line)));
  return endWhile(lines, at + 1, (line) => line.trim() && !starts(line));
}

function quote(lines, depth) {
  return element(
    "blockquote",
    {},
    ...render(
      lines.map((line) => line.replace(QUOTE, "")),
      depth + 1,
    ),
  );
}

// -- lists ----------------------------------------------------------------------------------------

const indentOf = (line) => line.length - line.trimStart().length;

function endOfList(lines, at) {
  const [, indent, mark] = lines[at].match(ITEM);
  const belongs = (index) => {
    const line = lines[index];
    const item = line.match(ITEM);
    if (item && !RULE.test(line))
      return item[1].length > indent.length || /\d/.test(item[2]) === /\d/.test(mark);
    if (line.trim())
      return (
        indentOf(line) > indent.length ||
        (lines[index - 1].trim() && !FENCE.test(line) && !HEADING.test(line) && !RULE.test(line))
      );
    return true;
  };
  let end = at + 1;
  while (end < lines.length && belongs(end)) end += 1;
  while (!lines[end - 1].trim()) end -= 1;
  return end;
}

function list(lines, depth) {
  const [, indent, mark] = lines[0].match(ITEM);
  const items = [];
  for (const line of lines) {
    const item = line.match(ITEM);
    if (item && item[1].length <= indent.length) items.push([line.slice(item[0].length)]);
    else items.at(-1).push(line);
  }
  const number = parseInt(mark, 10);
  const made = items.map((item) => element("li", {}, ...render(unindented(item), depth + 1)));
  return Number.isNaN(number)
    ? element("ul", {}, ...made)
    : element("ol", { start: number }, ...made);
}

function unindented([first, ...rest]) {
  const depths = rest.filter((line) => line.trim()).map(indentOf);
  const common = depths.reduce((least, depth) => Math.min(least, depth), Infinity);
  return [first, ...rest.map((line) => line.slice(common))];
}

// -- tables ---------------------------------------------------------------------------------------

const cellsOf = (line) =>
  line
    .trim()
    .replace(/^\|/, "")
    .replace(/\|$/, "")
    .split("|")
    .map((cell) => cell.trim());

function isTable(lines, at) {
  const next = lines[at + 1] ?? "";
  if (!lines[at].includes("|") || !next.includes("|")) return false;
  const rule = cellsOf(next);
  return rule.length === cellsOf(lines[at]).length && rule.every((cell) => /^:?-+:?$/.test(cell));
}

function table([head, , ...body]) {
  const row = (tag, line) =>
    element("tr", {}, ...cellsOf(line).map((cell) => element(tag, {}, ...inline(cell))));
  const made = element(
    "table",
    {},
    element("thead", {}, row("th", head)),
    element("tbody", {}, ...body.map((line) => row("td", line))),
  );
  return element(
    "div",
    { className: "table", tabIndex: 0, attributes: { role: "group", "aria-label": "Table" } },
    made,
  );
}
