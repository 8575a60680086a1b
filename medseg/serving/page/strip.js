// The row of small pictures: what is there, how far each is, and which one is on the stage.
import { byId, make } from "./elements.js";
import { say } from "./words.js";

const SHORT = 11;  // letters that stand under a small picture
const STEPS = { ArrowLeft: -1, ArrowUp: -1, ArrowRight: 1, ArrowDown: 1, Home: -Infinity, End: Infinity };

/** The option of a new item, which keeps its element for as long as it is there. */
export function addThumb(item, choose) {
  item.image = make("span", { className: "blank", textContent: item.file.name.split(".").pop().slice(0, 5) });
  item.label = make("span", { className: "label" });
  item.says = make("span", { className: "state" });
  item.thumb = make("div", { className: "thumb", title: item.file.name }, [item.image, item.label, item.says]);
  item.thumb.setAttribute("role", "option");
  item.thumb.addEventListener("click", () => choose(item));
  byId("strip").append(item.thumb);
}

export function setThumbImage(item, url) {
  const image = make("img", { src: url, alt: "" });
  item.image.replaceWith(image);
  item.image = image;
}

/** Beginning and end: pictures taken in a row differ in their last digits. */
function shortened(name) {
  const stem = name.replace(/\.[^.]{1,5}$/, "");
  return stem.length > SHORT ? `${stem.slice(0, 3)}…${stem.slice(4 - SHORT)}` : stem;
}

export function showStrip(items, chosen) {
  for (const [place, item] of items.entries()) {
    const state = say(item.state), name = item.file.name;
    item.label.textContent = shortened(name);
    item.says.textContent = state;
    item.thumb.dataset.state = item.state;
    item.thumb.tabIndex = item === chosen ? 0 : -1;
    item.thumb.setAttribute("aria-selected", String(item === chosen));
    item.thumb.setAttribute("aria-label", say("place", { name, number: place + 1, all: items.length, state }));
  }
}

/** Arrows, Home and End move along the strip, Delete removes. */
export function listenToKeys(items, chosen, choose, remove) {
  byId("strip").addEventListener("keydown", (event) => {
    if (event.altKey || event.ctrlKey || event.metaKey) return;
    if (event.key === "Delete") remove(chosen());
    else if (event.key in STEPS) {
      const all = items(), place = all.indexOf(chosen()) + STEPS[event.key];
      choose(all[Math.max(0, Math.min(all.length - 1, place))]);
      chosen().thumb.focus();
    } else return;
    event.preventDefault();
  });
}
