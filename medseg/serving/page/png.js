// The values that a PNG stores: the class ids of a palette PNG, the grey of a grey one.
//
// A canvas would give colours instead, changed by a browser's colour management, or by its noise against tracking, and two classes may
// have one colour. The PNGs come from our own server: one channel, not interlaced, 1 to 8 bits (PNG specification, third edition).

const SIGNATURE_BYTES = 8;

export async function readPng(bytes) {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const width = view.getUint32(16), height = view.getUint32(20), bits = view.getUint8(24);
  const row = Math.ceil((width * bits) / 8), raw = await inflated(dataOf(bytes, view), height * (row + 1));
  return { width, height, values: unpacked(unfiltered(raw, row, height), row, width, height, bits) };
}

function dataOf(bytes, view) {
  const parts = [];
  for (let at = SIGNATURE_BYTES; at + 8 <= bytes.length;) {
    const length = view.getUint32(at), kind = String.fromCharCode(...bytes.subarray(at + 4, at + 8));
    if (kind === "IDAT") parts.push(bytes.subarray(at + 8, at + 8 + length));
    at += 12 + length;
  }
  return new Blob(parts);
}

async function inflated(blob, length) {
  const found = new Uint8Array(await new Response(blob.stream().pipeThrough(new DecompressionStream("deflate"))).arrayBuffer());
  if (found.length !== length) throw new Error("a PNG of another kind than the server makes");
  return found;
}

function unfiltered(raw, row, height) {
  const found = new Uint8Array(row * height);
  for (let y = 0; y < height; y++) {
    const kind = raw[y * (row + 1)], from = y * (row + 1) + 1, to = y * row;
    if (kind === 0) found.set(raw.subarray(from, from + row), to);
    else for (let x = 0; x < row; x++) {
      const left = x ? found[to + x - 1] : 0, above = y ? found[to + x - row] : 0, corner = x && y ? found[to + x - row - 1] : 0;
      found[to + x] = raw[from + x] + predicted(kind, left, above, corner);
    }
  }
  return found;
}

function predicted(kind, left, above, corner) {
  if (kind === 1) return left;
  if (kind === 2) return above;
  if (kind === 3) return (left + above) >> 1;
  const toLeft = Math.abs(above - corner), toAbove = Math.abs(left - corner), toCorner = Math.abs(left + above - 2 * corner);
  if (toLeft <= toAbove && toLeft <= toCorner) return left;
  return toAbove <= toCorner ? above : corner;
}

function unpacked(packed, row, width, height, bits) {
  if (bits === 8) return packed;
  const found = new Uint8Array(width * height), most = (1 << bits) - 1;
  for (let y = 0; y < height; y++) {
    for (let x = 0; x < width; x++) {
      const bit = x * bits;
      found[y * width + x] = (packed[y * row + (bit >> 3)] >> (8 - bits - (bit & 7))) & most;
    }
  }
  return found;
}
