// What the page needs of a DICOM header: the series, the place in it, and the spacing. Nothing of it is shown or kept but these.

const [MARK, HEADS] = [132, [2 ** 16, 2 ** 19, 2 ** 23]]; // bytes of the file that are looked through; pixels come last
const LONG = new Set(["OB", "OW", "OF", "OD", "OL", "OV", "SQ", "UC", "UR", "UT", "UN", "SV", "UV"]);
const UNDEFINED = 0xffffffff;
const [ITEM, ITEM_END, SEQUENCE_END, PIXELS] = [0xfffee000, 0xfffee00d, 0xfffee0dd, 0x7fe00010];
const [SHARED_GROUPS, PIXEL_MEASURES, PIXEL_SPACING] = [0x52009229, 0x00289110, 0x00280030];
const TAGS = {
  0x00080060: "modality", 0x0020000e: "series", 0x00200013: "number", 0x00200032: "position", 0x00200037: "orientation",
  0x00280008: "frames", [PIXEL_SPACING]: "pixelSpacing", 0x00181164: "detectorSpacing",
};

// -> null for what is no DICOM file, else { series, modality, frames, place, spacing: [rows, columns] in mm or null, detector }.
export async function dicomHeader(file) {
  const mark = new Uint8Array(await file.slice(MARK - 4, MARK).arrayBuffer());
  if (String.fromCharCode(...mark) !== "DICM") return null;
  let found = {};
  for (const length of HEADS) {
    const data = await file.slice(0, length).arrayBuffer();
    found = {};
    if (whole(data, found) || data.byteLength === file.size) break;
  }
  const spacing = numbers(found.pixelSpacing) ?? numbers(found.detectorSpacing);
  return {
    series: found.series ?? "", modality: found.modality ?? "", frames: Number(found.frames ?? 1) || 1,
    place: place(found), spacing: spacing?.length === 2 && spacing.every((step) => step > 0) ? spacing : null,
    detector: !numbers(found.pixelSpacing),
  };
}

// Whether the header ends within `data`: else it goes on behind it, or is broken, and what was read counts.
function whole(data, found) {
  try {
    read(new DataView(data), found);
    return true;
  } catch (error) {
    if (!(error instanceof RangeError)) throw error;
    return false;
  }
}

function numbers(text) {
  const values = text?.split("\\").map(Number);
  return values?.every(Number.isFinite) && text.trim() ? values : null;
}

// Along the normal of the slice, else by its number in the series.
function place({ position, orientation, number }) {
  const [at, turn] = [numbers(position), numbers(orientation)];
  if (at?.length !== 3 || turn?.length !== 6) return Number(number) || 0;
  const [a, b, c, d, e, f] = turn;
  return at[0] * (b * f - c * e) + at[1] * (c * d - a * f) + at[2] * (a * e - b * d);
}

function read(view, found) {
  let [at, explicit, syntax] = [132, true, ""];
  while (view.getUint16(at, true) === 2) { // the group of the file itself is always explicit, little endian
    const element = header(view, at, true);
    if (element.tag === 0x00020010) syntax = text(view, element);
    at = element.start + element.length;
  }
  if (["1.2.840.10008.1.2.2", "1.2.840.10008.1.2.1.99"].includes(syntax)) return; // big endian, deflated: not sent any more
  explicit = syntax !== "1.2.840.10008.1.2";
  walk(view, at, view.byteLength, explicit, [], found);
}

function header(view, at, explicit) {
  const tag = view.getUint16(at, true) * 65536 + view.getUint16(at + 2, true);
  if (!explicit || tag >= ITEM && tag <= SEQUENCE_END) return { tag, vr: "", length: view.getUint32(at + 4, true), start: at + 8 };
  const vr = String.fromCharCode(view.getUint8(at + 4), view.getUint8(at + 5));
  return LONG.has(vr) ? { tag, vr, length: view.getUint32(at + 8, true), start: at + 12 }
    : { tag, vr, length: view.getUint16(at + 6, true), start: at + 8 };
}

function text(view, { start, length }) {
  const bytes = new Uint8Array(view.buffer, start, length); // a RangeError where the file ends first
  return String.fromCharCode(...bytes.subarray(0, 256)).replace(/[\0 ]+$/, "");
}

// The elements from `at` to `end`, or to the end of an item of undefined length; -> where they end. path: the sequences around.
function walk(view, at, end, explicit, path, found) {
  while (at < end) {
    const element = header(view, at, explicit);
    if (element.tag === PIXELS && path.length === 0) return end;
    if (element.tag === ITEM_END || element.tag === SEQUENCE_END) return element.start;
    const wanted = path.length === 0 || element.tag === PIXEL_SPACING && path.includes(SHARED_GROUPS);
    if (wanted && element.tag in TAGS && element.length !== UNDEFINED) found[TAGS[element.tag]] ??= text(view, element);
    const inside = element.length === UNDEFINED || element.tag === SHARED_GROUPS || element.tag === PIXEL_MEASURES;
    // What an unknown element holds is implicit, whatever is around it (PS3.5, 6.2.2).
    at = inside ? items(view, element, explicit && element.vr !== "UN", path, found) : element.start + element.length;
  }
  return end;
}

function items(view, { tag, start, length }, explicit, path, found) {
  const end = length === UNDEFINED ? view.byteLength : start + length;
  let at = start;
  while (at < end) {
    const item = header(view, at, explicit);
    if (item.tag === SEQUENCE_END) return item.start;
    if (item.tag !== ITEM) throw new RangeError("not an item");
    const stop = item.length === UNDEFINED ? view.byteLength : item.start + item.length;
    at = tag === PIXELS ? stop : walk(view, item.start, stop, explicit, [...path, tag], found);
  }
  return end;
}
