// The grey values of a PNG at their full 16 bits, which a canvas would cut to 8.

const WIDTHS = { 1: 1, 2: 1, 4: 1, 8: 1, 16: 2 };

// -> { values: Uint16Array (height * width, 65535 is 1.0), width, height }. Grey PNGs without interlacing, of 8 or 16 bits.
export async function greyPng(buffer) {
  const bytes = new Uint8Array(buffer);
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const parts = [];
  let width = 0, height = 0, depth = 0;
  for (let at = 8; at + 8 <= bytes.length;) {
    const length = view.getUint32(at);
    const kind = String.fromCharCode(...bytes.subarray(at + 4, at + 8));
    if (kind === "IHDR") {
      [width, height, depth] = [view.getUint32(at + 8), view.getUint32(at + 12), bytes[at + 16]];
      if (bytes[at + 17] !== 0 || depth < 8 || bytes[at + 20] !== 0) throw new Error("not a grey PNG of 8 or 16 bits");
    }
    if (kind === "IDAT") parts.push(bytes.subarray(at + 8, at + 8 + length));
    at += 12 + length;
  }
  const inflated = new Blob(parts).stream().pipeThrough(new DecompressionStream("deflate"));
  const rows = new Uint8Array(await new Response(inflated).arrayBuffer());
  const size = WIDTHS[depth];
  unfilter(rows, width * size, height, size);
  const values = new Uint16Array(width * height);
  for (let y = 0, to = 0; y < height; y++) {
    for (let x = 0, from = y * (width * size + 1) + 1; x < width; x++, from += size) {
      values[to++] = size === 2 ? rows[from] << 8 | rows[from + 1] : rows[from] * 257;
    }
  }
  return { values, width, height };
}

// Undo the filter that each row begins with, in place (PNG specification, 9.2). size: bytes a pixel.
function unfilter(rows, length, height, size) {
  for (let y = 0; y < height; y++) {
    const start = y * (length + 1) + 1;
    const above = start - length - 1;
    const filter = rows[start - 1];
    for (let i = 0; i < length && filter !== 0; i++) {
      const left = i >= size ? rows[start + i - size] : 0;
      const up = y > 0 ? rows[above + i] : 0;
      const corner = y > 0 && i >= size ? rows[above + i - size] : 0;
      rows[start + i] += filter === 1 ? left : filter === 2 ? up : filter === 3 ? (left + up) >> 1 : paeth(left, up, corner);
    }
  }
}

function paeth(left, up, corner) {
  const guess = left + up - corner;
  const [a, b, c] = [Math.abs(guess - left), Math.abs(guess - up), Math.abs(guess - corner)];
  return a <= b && a <= c ? left : b <= c ? up : corner;
}
