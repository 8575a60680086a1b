// A model card's Markdown -> elements. Only what our own cards use, and all of it as text: nothing in a card can become markup.
import { make } from "./elements.js";
import { say } from "./words.js";

/** Headings, paragraphs, lists, tables and `code` of a card. */
export function cardOf(markdown) {
  return markdown.split(/\n\s*\n|\n(?=#)|(?<=^#[^\n]*)\n/m).map((block) => block.trim()).filter(Boolean).map(element);
}

function element(block) {
  const heading = block.match(/^(#{1,4}) (.*)$/);
  if (heading) return make(`h${Math.min(6, heading[1].length + 2)}`, {}, inline(heading[2]));
  const rows = block.split("\n");
  if (rows.length > 1 && /^\|[\s:|-]+\|$/.test(rows[1])) return table(rows);
  if (rows[0].startsWith("- ")) return make("ul", {}, items(rows).map((text) => make("li", {}, inline(text))));
  return make("p", {}, inline(rows.join(" ")));
}

const inline = (text) => text.split(/`([^`]+)`/).map((part, place) => (place % 2 ? make("code", { textContent: part }) : part));

function items(rows) {
  const found = [];
  for (const text of rows) if (text.startsWith("- ")) found.push(text.slice(2)); else found.push(`${found.pop()} ${text.trim()}`);
  return found;
}

function table([head, , ...rows]) {
  const cells = (text) => text.replace(/^\||\|$/g, "").split("|").map((cell) => cell.trim());
  const row = (text, tag) => make("tr", {}, cells(text).map((cell) => make(tag, {}, inline(cell))));
  const found = make("table", {}, [make("thead", {}, [row(head, "th")]), make("tbody", {}, rows.map((text) => row(text, "td")))]);
  const scroller = make("div", { className: "wide", tabIndex: 0, role: "group" }, [found]);
  scroller.setAttribute("aria-label", say("table"));
  return scroller;
}
