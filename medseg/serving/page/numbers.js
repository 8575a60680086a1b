// The legend that is also the table: a switch, a colour, a name and the area of each class.
import { byId, make, recall, remember } from "./elements.js";
import { number, say } from "./words.js";

export const hidden = new Set();  // names of classes: what is switched off stays so from picture to picture

/** Millimetres a pixel; null where none is given, NaN where it is no length. A comma may be the decimal sign. */
export function spacing_mm() {
  const text = byId("spacing").value.trim().replace(/[,，]/, ".");
  if (!text) return null;
  return /^(\d+\.?\d*|\.\d+)$/.test(text) && Number(text) > 0 ? Number(text) : NaN;
}

export function keepSpacing() {
  const wrong = Number.isNaN(spacing_mm());
  byId("spacing").setAttribute("aria-invalid", String(wrong));
  byId("spacing-wrong").hidden = !wrong;
  if (!wrong) remember("medseg-spacing", byId("spacing").value);
}

export const recallSpacing = () => { byId("spacing").value = recall("medseg-spacing"); };

export const perCent = (value) => say("per_cent", { value: number(value, { maximumSignificantDigits: 3 }) });

/** "12.3 mm²" of a class, "" without a spacing. */
export function areaOf(found, unit = true) {
  const side_mm = spacing_mm();
  if (!side_mm) return "";
  return number(found.pixels * side_mm ** 2, { maximumSignificantDigits: 4 }) + (unit ? " mm²" : "");
}

/** changed() is called when a class is switched on or off. */
export function showNumbers(answer, changed) {
  const { width_px, height_px } = answer, measured = Boolean(spacing_mm());
  byId("area-head").hidden = !measured;
  byId("areas").classList.toggle("measured", measured);
  byId("classes").replaceChildren(...answer.classes.map((found) => row(found, measured, changed)));
  const pixels = number(width_px * height_px);
  byId("size").textContent = say("size", { width: number(width_px), height: number(height_px), pixels });
}

function row(found, measured, changed) {
  const name = found.id === null ? plainName(found) : switchOf(found, changed);
  const cells = [number(found.pixels), perCent(found.percent), ...(measured ? [areaOf(found, false)] : []),
    found.confidence === null ? "–" : perCent(100 * found.confidence)];
  return make("tr", { className: found.pixels ? "" : "absent", role: "row" }, [  // roles: page.css turns rows into grids on a phone
    make("th", { scope: "row", role: "rowheader" }, [name]), ...cells.map((text) => make("td", { textContent: text, role: "cell" })),
  ]);
}

const plainName = (region) => make("span", { className: "region", textContent: say("together", { name: region.name }) });

function switchOf(found, changed) {
  const box = make("input", { type: "checkbox", checked: !hidden.has(found.name) });
  const swatch = make("span", { className: "swatch" });
  swatch.style.backgroundColor = found.colour;
  box.addEventListener("change", () => {
    if (box.checked) hidden.delete(found.name); else hidden.add(found.name);
    changed();
  });
  return make("label", { className: "switch" }, [box, swatch, make("span", { textContent: found.name })]);
}
