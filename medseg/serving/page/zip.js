// Files -> one ZIP, each as it is: pictures do not shrink. (PKWARE's APPNOTE 6.3.10, sections 4.3 and 4.4; names in UTF-8.)

const UTF8 = 0x0800, VERSION = 20, DAY = 0x21;  // 1 January 1980: when a picture was looked at is nobody's business

const TABLE = Uint32Array.from({ length: 256 }, (_, byte) => {
  let rest = byte;
  for (let bit = 0; bit < 8; bit++) rest = rest & 1 ? (rest >>> 1) ^ 0xedb88320 : rest >>> 1;
  return rest;
});

function crc32(bytes) {
  let rest = 0xffffffff;
  for (let at = 0; at < bytes.length; at++) rest = TABLE[(rest ^ bytes[at]) & 0xff] ^ (rest >>> 8);
  return ~rest >>> 0;
}

/** [{name, blob}] -> Blob. Names met again are told apart by a number. */
export async function zip(files) {
  const parts = [], directory = [], taken = new Set();
  let at = 0;
  for (const { name, blob } of files) {
    const bytes = new TextEncoder().encode(free(name, taken)), crc = crc32(new Uint8Array(await blob.arrayBuffer()));
    const common = [[2, VERSION], [2, UTF8], [2, 0], [2, 0], [2, DAY], [4, crc], [4, blob.size], [4, blob.size], [2, bytes.length], [2, 0]];
    parts.push(record(0x04034b50, common), bytes, blob);
    directory.push(record(0x02014b50, [[2, VERSION], ...common, [2, 0], [2, 0], [2, 0], [4, 0], [4, at]]), bytes);
    at += 30 + bytes.length + blob.size;
  }
  const listed = directory.reduce((sum, part) => sum + part.length, 0);
  const end = record(0x06054b50, [[2, 0], [2, 0], [2, files.length], [2, files.length], [4, listed], [4, at], [2, 0]]);
  return new Blob([...parts, ...directory, end], { type: "application/zip" });
}

function free(name, taken) {
  const [, base, end] = name.match(/^(.*?)(\.[^.]*)?$/s);
  let found = name;
  for (let again = 2; taken.has(found); again++) found = `${base}-${again}${end ?? ""}`;
  taken.add(found);
  return found;
}

/** A signature and little-endian numbers: [bytes, value] each. */
function record(signature, fields) {
  const all = [[4, signature], ...fields], found = new DataView(new ArrayBuffer(all.reduce((sum, [bytes]) => sum + bytes, 0)));
  let at = 0;
  for (const [bytes, value] of all) {
    if (bytes === 2) found.setUint16(at, value, true); else found.setUint32(at, value, true);
    at += bytes;
  }
  return new Uint8Array(found.buffer);
}
