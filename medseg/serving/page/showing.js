// One picture on the stage: the photograph, the fill, the confidence map and the outlines, one canvas each.
import { byId } from "./elements.js";
import { coloured, colourTable, confidenceTable, fitted, outline, put, sampled } from "./drawing.js";

const LINE_CSS_PX = 2;
const TALLEST = 0.72;  // of the window's height: the numbers or the buttons stay in sight

const layers = ["photo", "fill", "confidence", "lines"].map(byId);

/** shown: {photo, size, ids, confidence} with null for what is not there; view: {classes, outlines, map, opacity}. */
export function show(shown, view) {
  const stage = byId("stage"), room = byId("picture").clientWidth;
  const { css, own } = fitted(shown.size.width, shown.size.height, room, window.innerHeight * TALLEST);
  stage.style.width = `${css[0]}px`;
  stage.style.height = `${css[1]}px`;
  showPhoto(shown.photo, own);
  showFound(shown, view, own);
  fade(view);
}

export function fade({ map, opacity }) {
  byId(map ? "confidence" : "fill").style.opacity = opacity / 100;
}

function showPhoto(photo, [width, height]) {
  const [canvas] = layers;
  canvas.hidden = !photo;
  if (!photo) return;
  Object.assign(canvas, { width, height });
  const pen = canvas.getContext("2d");
  pen.imageSmoothingQuality = "high";
  pen.drawImage(photo, 0, 0, width, height);
}

function showFound({ ids, confidence }, view, [width, height]) {
  const [, fill, map, lines] = layers;
  fill.hidden = !ids || view.map;
  map.hidden = !confidence || !view.map;
  lines.hidden = !ids || !view.outlines;
  if (!ids) return;
  const seen = sampled(ids, width, height), table = colourTable(view.classes);
  if (!fill.hidden) put(fill, coloured(seen, table), width, height);
  if (!map.hidden) put(map, coloured(sampled(confidence, width, height), confidenceTable()), width, height);
  if (!lines.hidden) put(lines, outline(new Uint32Array(seen.length), seen, width, height, table, thickness(width)), width, height);
}

const thickness = (width) => Math.max(1, Math.round((LINE_CSS_PX * width) / parseFloat(byId("stage").style.width)));

export function drawScale() {
  put(byId("scale"), coloured(Uint8Array.from({ length: 256 }, (_, grey) => grey), confidenceTable()), 256, 1);
}
