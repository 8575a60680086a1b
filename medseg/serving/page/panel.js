// What stands beside the picture: its name, why it was refused, the table, the layers, and which model answered.
import { byId } from "./elements.js";
import { hidden, showNumbers } from "./numbers.js";
import { knows, listed, number, say } from "./words.js";

const BAD_PICTURE = [400, 413, 415, "unreadable"];  // which no second try makes good

export const seen = (answer) => answer.classes.filter(({ id, name }) => id !== null && !hidden.has(name));

/** toggled() is called when a class is switched on or off. */
export function showPanel({ file, answer, refusal, state }, toggled) {
  byId("name").textContent = file.name;
  byId("found").hidden = !answer;
  byId("refusal").hidden = state !== "refused";
  if (state === "refused") showRefusal(refusal);
  nameStage(file.name, answer);
  if (answer) showNumbers(answer, toggled);
  showModelOf(answer);
}

/** What the picture is to somebody who does not see it. */
export function nameStage(name, answer) {
  const found = answer ? seen(answer).filter(({ pixels }) => pixels).map((each) => each.name) : [];
  const text = answer ? say("picture_of", { name, found: listed(found) || say("nothing") }) : say("picture_plain", { name });
  byId("stage").setAttribute("aria-label", text);
}

function showRefusal({ status, reason }) {
  const own = typeof reason === "function";
  byId("why").textContent = say(whyOf(status));
  byId("reason").textContent = own ? reason() : reason ?? "";
  byId("reason").lang = own ? document.documentElement.lang : "en";
  byId("again").hidden = BAD_PICTURE.includes(status);
}

/** The key of the words for it. */
export const whyOf = (status) => (knows(`why_${status}`) ? `why_${status}` : "why_other");

function showModelOf(answer) {
  byId("answered").textContent = answer ? answered(answer) : "";
  byId("digests").textContent = answer ? digests(answer) : "";
}

function answered({ model: { run, network, backend }, milliseconds: spent }) {
  const ms = (value) => number(value, { maximumFractionDigits: 0 }), total = Object.values(spent).reduce((sum, each) => sum + each, 0);
  return say("answered", { run, network, backend, own: ms(spent.network), total: ms(total) });
}

function digests({ model: { weights_sha256, medseg }, uncertainty }) {
  return say("digests", { weights: weights_sha256.slice(0, 12), medseg, uncertainty: number(uncertainty, { maximumFractionDigits: 2 }) });
}

/** The legend and the slider of what covers the picture: "fill", or "map" of the confidence. */
export function showLayers(mode, opacity) {
  byId("scale-legend").hidden = mode === "fill";
  byId("opacity-says").textContent = say(mode === "map" ? "opacity_confidence" : "opacity_fill");
  byId("opacity").value = opacity;
  for (const [id, value] of [["scale-low", 0], ["scale-middle", 50], ["scale-high", 100]]) {
    byId(id).textContent = say("per_cent", { value: number(value) });
  }
}

export function showModel(model) {
  const inUnits = (value, unit) => number(value / unit, { maximumFractionDigits: 0 });
  byId("finds").textContent = model ? say("finds", { classes: listed(model.classes.map(({ name }) => name)) }) : "";
  byId("most").textContent = model ? say("most", { mb: inUnits(model.limits.bytes, 1e6), megapixels: inUnits(model.limits.pixels, 1e6),
    wan: inUnits(model.limits.pixels, 1e4) }) : "";
}
