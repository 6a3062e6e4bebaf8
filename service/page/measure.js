// From the run lengths of an answer to labels, and to its connected parts: how many, how large, where.

// COCO's compressed run lengths: numbers of 5 bits a character, from the third on as the difference from the one before last.
export function runLengths(counts) {
  const runs = [];
  for (let at = 0; at < counts.length;) {
    let value = 0, shift = 0, letter;
    do {
      letter = counts.charCodeAt(at++) - 48;
      value |= (letter & 31) << shift;
      shift += 5;
    } while (letter & 32);
    if (letter & 16 && shift < 32) value |= -1 << shift;
    runs.push(runs.length > 2 ? value + runs[runs.length - 2] : value);
  }
  return runs;
}

// Calls `each(column, first row, last row + 1)` for every vertical stretch of the mask; the runs go down the columns.
function stretches({ size: [height], counts }, each) {
  let at = 0, inside = false;
  for (const run of runLengths(counts)) {
    for (let from = at; inside && from < at + run;) {
      const column = Math.floor(from / height);
      const to = Math.min(at + run, (column + 1) * height);
      each(column, from - column * height, to - column * height);
      from = to;
    }
    at += run;
    inside = !inside;
  }
}

// Labels (height * width), row by row: 0 background, else the class's own.
export function labels(answer) {
  const [height, width] = answer.size;
  const values = new Uint8Array(height * width);
  for (const { label, rle } of answer.classes) {
    stretches(rle, (column, from, to) => {
      for (let row = from; row < to; row++) values[row * width + column] = label;
    });
  }
  return values;
}

// The parts of a class, the largest first: { area, box: [x, y, width, height] }. Pixels that touch at a corner are of one part.
export function partsOf(rle) {
  const found = [];
  let column = -1, here = [], before = [];
  const root = (part) => {
    while (part.into) part = part.into;
    return part;
  };
  stretches(rle, (x, from, to) => {
    if (x !== column) {
      before = x === column + 1 ? here : [];
      here = [];
      column = x;
    }
    let part = { area: to - from, left: x, right: x + 1, top: from, bottom: to, into: null };
    found.push(part);
    for (const other of before) {
      if (other.from > to || other.to < from) continue;
      const whole = root(other.part);
      if (whole !== root(part)) part = joined(whole, root(part));
    }
    here.push({ from, to, part: root(part) });
  });
  return found.filter((part) => !part.into).sort((a, b) => b.area - a.area).map(({ area, left, right, top, bottom }) => (
    { area, box: [left, top, right - left, bottom - top] }));
}

function joined(a, b) {
  a.area += b.area;
  a.left = Math.min(a.left, b.left);
  a.right = Math.max(a.right, b.right);
  a.top = Math.min(a.top, b.top);
  a.bottom = Math.max(a.bottom, b.bottom);
  b.into = a;
  return a;
}

const number = new Intl.NumberFormat("en", { maximumFractionDigits: 1 });

// "5,120 px (2.6 %)", and with a spacing in millimetres [between rows, between columns] " · 812.5 mm²".
export function areaText(area, total, spacing) {
  const share = total ? ` (${(100 * area / total).toFixed(1)}\u00a0%)` : "";
  return `${number.format(area)} px${share}${spacing ? ` · ${number.format(area * spacing[0] * spacing[1])}\u00a0mm²` : ""}`;
}

export function boxText([, , width, height], spacing) {
  const length = (value, step) => number.format(value * step);
  const millimetres = spacing ? ` · ${length(width, spacing[1])} × ${length(height, spacing[0])} mm` : "";
  return `${width} × ${height} px${millimetres}`;
}
