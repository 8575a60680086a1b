// The photograph and what was found in it, on canvases of the screen's own pixels.

const HALO = 0xa0000000;  // black, for the line to stand out on skin of any shade
const LONGEST_KEPT_PX = 2048;  // of the photograph for the screen: phones have little memory
const DENSE = 3;  // more pixels of the screen in one of CSS than this are not seen
const MAGNIFIED = 4;  // a photograph is shown at most so much larger than it is
const SCALE = [[0, 0, 4], [87, 16, 110], [188, 55, 84], [249, 142, 9], [252, 255, 164]];  // "inferno" (Smith, van der Walt 2015)

// ---- the photograph

/** The upright photograph, whole; null where the browser knows no such format. */
export async function photograph(file) {
  try { return await createImageBitmap(file, { imageOrientation: "from-image" }); } catch { return null; }
}

export function canvasOf(width, height) {
  return Object.assign(document.createElement("canvas"), { width, height });
}

/** A smaller copy, with the size that the whole one has. */
export function reduced(bitmap, longest_px = LONGEST_KEPT_PX) {
  const by = Math.min(1, longest_px / Math.max(bitmap.width, bitmap.height));
  const copy = canvasOf(Math.max(1, Math.round(bitmap.width * by)), Math.max(1, Math.round(bitmap.height * by)));
  const pen = copy.getContext("2d");
  pen.imageSmoothingQuality = "high";
  pen.drawImage(bitmap, 0, 0, copy.width, copy.height);
  return { picture: copy, width: bitmap.width, height: bitmap.height };
}

// ---- colours, as a canvas holds them in 32 bits: alpha, blue, green, red

const packed = (red, green, blue, alpha) => ((alpha << 24) | (blue << 16) | (green << 8) | red) >>> 0;

/** Uint32Array (256): of each class id, 0 where it is not shown. */
export function colourTable(classes, alpha = 255) {
  const table = new Uint32Array(256);
  for (const { id, colour } of classes) table[id] = packed(...[1, 3, 5].map((at) => parseInt(colour.slice(at, at + 2), 16)), alpha);
  return table;
}

/** Uint32Array (256): of each grey of the confidence map. */
export const confidenceTable = () => Uint32Array.from({ length: 256 }, (_, grey) => {
  const place = (grey / 255) * (SCALE.length - 1), from = Math.min(SCALE.length - 2, Math.floor(place));
  return packed(...SCALE[from].map((low, channel) => Math.round(low + (SCALE[from + 1][channel] - low) * (place - from))), 255);
});

// ---- layers

/** The values at width x height, by nearest pixel centres: nothing is smoothed away or invented. */
export function sampled(map, width, height) {
  if (map.width === width && map.height === height) return map.values;
  const found = new Uint8Array(width * height);
  const columns = Uint32Array.from({ length: width }, (_, x) => ((x + 0.5) * map.width) / width);
  for (let y = 0; y < height; y++) {
    const from = Math.floor(((y + 0.5) * map.height) / height) * map.width, to = y * width;
    for (let x = 0; x < width; x++) found[to + x] = map.values[from + columns[x]];
  }
  return found;
}

export function coloured(values, table) {
  const found = new Uint32Array(values.length);  // filled by a loop: `Uint32Array.from` with a function takes 30 times as long
  for (let p = 0; p < found.length; p++) found[p] = table[values[p]];
  return found;
}

/** Draws the border of each class `thick` pixels wide on its own side, with a thin halo outside, into `pixels`. */
export function outline(pixels, ids, width, height, table, thick) {
  const halo = Math.ceil(thick / 2);
  const mark = (at, step, room) => {
    const colour = table[ids[at]], count = Math.min(room, colour ? thick : halo);
    for (let k = 0, p = at; k < count && table[ids[p]] === colour; k++, p += step) if (colour || !table[ids[p]]) pixels[p] = colour || HALO;
  };
  for (let y = 0, p = 0; y < height; y++) {
    for (let x = 0; x < width; x++, p++) {
      if (x + 1 < width && table[ids[p]] !== table[ids[p + 1]]) { mark(p, -1, x + 1); mark(p + 1, 1, width - x - 1); }
      if (y + 1 < height && table[ids[p]] !== table[ids[p + width]]) { mark(p, -width, y + 1); mark(p + width, width, height - y - 1); }
    }
  }
  return pixels;
}

export function put(canvas, pixels, width, height) {
  Object.assign(canvas, { width, height });
  canvas.getContext("2d").putImageData(new ImageData(new Uint8ClampedArray(pixels.buffer), width, height), 0, 0);
}

/** How large to show width x height in a room, in CSS pixels and in those of the screen. */
export function fitted(width, height, room_width, room_height) {
  const by = Math.min(room_width / width, room_height / height, MAGNIFIED);
  const css = [width, height].map((side) => Math.max(1, Math.floor(side * by)));
  return { css, own: css.map((side) => Math.round(side * Math.min(DENSE, window.devicePixelRatio || 1))) };
}
