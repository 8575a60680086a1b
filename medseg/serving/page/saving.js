// Files to keep: the mask, the picture with its outlines and its legend, labelme JSON, and all of them in one ZIP.
import { outlinesOf } from "./asking.js";
import { make } from "./elements.js";
import { canvasOf, colourTable, coloured, outline, photograph } from "./drawing.js";
import { areaOf, perCent } from "./numbers.js";
import { readPng } from "./png.js";
import { say } from "./words.js";
import { zip } from "./zip.js";

const LINES_ACROSS = 400;  // a line is this part of the picture's longer side, as on a screen
const NARROWEST_PX = 320;  // for a legend that can be read under the smallest picture
const INK = "#1c2126", PAPER = "#ffffff", NOTHING = "#6a6f75";
const HOLD_MS = 60_000;  // for a browser that asks where to save

const plain = (name) => name.replace(/[\\/:*?"<>|\x00-\x1f]/g, "_");
const stem = (name) => plain(name).replace(/\.[^.]{1,5}$/, "") || "image";

export const bytesOf = (base64) => Uint8Array.from(atob(base64), (letter) => letter.charCodeAt(0));

// ---- one file of one picture: {name, blob}

export function maskFile({ file, answer }) {
  return { name: `${stem(file.name)}-mask.png`, blob: new Blob([answer.mask], { type: "image/png" }) };
}

export async function labelmeFile({ file }) {
  const content = { ...await outlinesOf(file), imagePath: plain(file.name) };
  return { name: `${stem(file.name)}.json`, blob: new Blob([JSON.stringify(content, null, 2)], { type: "application/json" }) };
}

/** view: {classes, opacity} as on the screen. Throws where the browser has no canvas so large. */
export async function overlayFile({ file, answer }, view) {
  const [jpeg, whole] = [file.type === "image/jpeg", await overlay(file, answer, view)];
  const blob = await new Promise((done) => { whole.toBlob(done, jpeg ? "image/jpeg" : "image/png", 0.92); });
  if (!blob) throw new Error("no canvas so large");
  return { name: `${stem(file.name)}-overlay.${jpeg ? "jpg" : "png"}`, blob };
}

// ---- the picture with its legend

async function overlay(file, answer, view) {
  const { width_px, height_px } = answer, bitmap = await photograph(file);
  const legend = lines(answer, view.classes, Math.max(NARROWEST_PX, width_px));
  const canvas = canvasOf(Math.max(NARROWEST_PX, width_px), height_px + legend.height_px), pen = canvas.getContext("2d");
  pen.fillStyle = PAPER;
  pen.fillRect(0, 0, canvas.width, canvas.height);
  pen.fillStyle = NOTHING;
  pen.fillRect(0, 0, width_px, height_px);
  if (bitmap?.width === width_px && bitmap.height === height_px) pen.drawImage(bitmap, 0, 0);
  bitmap?.close();
  pen.drawImage(await found(answer, view), 0, 0);
  drawLegend(pen, legend, height_px);
  return canvas;
}

async function found({ mask, width_px, height_px }, { classes, opacity }) {
  const { values } = await readPng(mask), thick = Math.max(1, Math.round(Math.max(width_px, height_px) / LINES_ACROSS));
  const pixels = coloured(values, colourTable(classes, Math.round(2.55 * opacity)));
  const layer = canvasOf(width_px, height_px);
  outline(pixels, values, width_px, height_px, colourTable(classes), thick);
  layer.getContext("2d").putImageData(new ImageData(new Uint8ClampedArray(pixels.buffer), width_px, height_px), 0, 0);
  return layer;
}

/** The legend's entries in the lines on which they have room, and below what a picture that is passed on must not lose. */
function lines(answer, classes, width_px) {
  const letter_px = Math.max(14, Math.round(width_px / 50)), font = `${letter_px}px system-ui, sans-serif`, places = [];
  const pen = canvasOf(1, 1).getContext("2d");
  pen.font = font;
  let x = letter_px, y = letter_px;
  for (const each of classes) {
    const text = [each.name, perCent(each.percent), areaOf(each)].filter(Boolean).join("  ");
    const wide = pen.measureText(text).width + 3 * letter_px;
    if (x > letter_px && x + wide > width_px) [x, y] = [letter_px, y + 1.8 * letter_px];
    places.push({ x, y, text, colour: each.colour });
    x += wide;
  }
  for (const text of [answer.model.run, say("research_short")]) places.push({ x: letter_px, y: y += 1.8 * letter_px, text, colour: null });
  return { places, font, letter_px, height_px: Math.ceil(y + 2 * letter_px) };
}

function drawLegend(pen, { places, font, letter_px }, top_px) {
  Object.assign(pen, { font, textBaseline: "middle", strokeStyle: INK });
  for (const { x, y, text, colour } of places) {
    const start = colour ? x + 1.5 * letter_px : x;
    if (colour) drawSwatch(pen, [x, top_px + y, letter_px, letter_px], colour);
    pen.fillStyle = INK;
    pen.fillText(text, start, top_px + y + letter_px / 2, pen.canvas.width - start);
  }
}

function drawSwatch(pen, box, colour) {
  pen.fillStyle = colour;
  pen.fillRect(...box);
  pen.strokeRect(...box);
}

// ---- to the disk

export function save({ name, blob }) {
  const link = make("a", { href: URL.createObjectURL(blob), download: name });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), HOLD_MS);
  return name;
}

/** Every file of every picture, in one, since phones save only one at a time. viewOf(item) as of `overlayFile`. */
export async function saveAll(items, viewOf) {
  const files = [];
  for (const item of items) files.push(maskFile(item), await labelmeFile(item), await overlayFile(item, viewOf(item)));
  return save({ name: "medseg.zip", blob: await zip(files) });
}
