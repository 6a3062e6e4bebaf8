// One image on the screen: asked for, drawn, put into numbers; and the numbers of the others, for the list.

import { MOST_ROWS, allParts, clearFacts, isAbsent, showArea, showFacts, showUse, totalArea } from "./facts.js";
import { sameSeries, update } from "./list.js";
import { labels, partsOf } from "./measure.js";
import { greyPng } from "./png.js";
import { Refusal, card, segment } from "./service.js";
import { View, maskLayer, spreadLayer } from "./view.js";

const at = (id) => document.getElementById(id);
const MOST_OUTLINES = 3000;
const SETTLE = 250; // milliseconds after the last move of the threshold until the server is asked
const [LEAST_TOP, FULL] = [0.05, 65535];
const SAVES = ["download", "save-json", "save-overlay"];
const [OF_DICOM, OF_SERIES] = [["save-seg", "save-sr", "save-series", "save-series-sr"], ["save-series", "save-series-sr"]];
const OF_RESULT = ["opacity", "boxes", "hide", "in", "out", "fit"]; // what can be used once there is a result

// card: of the model. items: in the list's order. current: the one that was chosen. loaded: its pictures. shown: what stands on
// the screen as the server answered it, { item, answer, query }; null while anything else does.
export const state = { card: null, items: [], current: null, loaded: null, shown: null };
export const view = new View(at("canvas"), (percent) => { at("percent").textContent = `${percent} %`; });
let given = new AbortController(); // ends the requests of an image that is no longer wanted
let settling = 0;
let counting = false;

export function say(text, bad = false) {
  at("status").textContent = text;
  at("status").classList.toggle("bad", bad);
}

export function clearResult() {
  given.abort();
  given = new AbortController();
  clearTimeout(settling);
  state.loaded = null;
  setShown(null);
  view.clear();
  clearFacts();
  showUse(state.card?.intended_use?.text, false);
  for (const id of ["scale", "force"]) at(id).hidden = true;
  for (const id of [...OF_RESULT, "threshold", "disagreement"]) at(id).disabled = true;
}

function setShown(value) {
  state.shown = value && Object.freeze(value);
  const slices = state.current ? sameSeries(state.items, state.current).length : 0;
  for (const id of SAVES) at(id).disabled = state.shown === null || state.shown.unseen;
  for (const id of OF_DICOM) at(id).disabled = !state.shown?.item.header;
  for (const id of OF_SERIES) at(id).hidden = slices < 2;
  at("save-series").textContent = `DICOM SEG of the series (${slices} slices)`;
  at("facts").classList.toggle("pending", state.shown === null);
}

function setCurrent(item) {
  if (state.current) update(state.current, false);
  state.current = item;
  clearResult();
  at("main").classList.remove("empty");
}

// For frames that follow one another: nothing of before is shown, and the signal ends when an image is chosen.
export function startLive() {
  setCurrent(null);
  for (const id of OF_RESULT) at(id).disabled = false;
  at("threshold").disabled = threshold() === null;
  at("disagreement").disabled = !hasSpread();
  at("facts").classList.remove("pending"); // the numbers are of the frame that stands beside them
  return given.signal;
}

function hasSpread() {
  return state.card.outputs.some((output) => output.name === "disagreement");
}

export function choose(item) {
  setCurrent(item);
  update(item, true);
  at("which").value = state.items.indexOf(item) + 1;
  at("which-value").textContent = `${state.items.indexOf(item) + 1} of ${state.items.length}`;
  show(item, given.signal);
}

async function show(item, signal) {
  say(`Segmenting ${item.name} …`);
  const started = performance.now();
  Object.assign(item, { state: "busy", reason: "" });
  update(item);
  try {
    state.card ??= await loadCard();
    if (item.header?.frames > 1) {
      offerUnseen(item);
      return;
    }
    const pictures = await load(item, signal);
    if (signal.aborted) return;
    state.loaded = pictures;
    present(false);
    say(`Done in ${Math.round(performance.now() - started)} ms: ${item.name}.`);
  } catch (error) {
    if (signal.aborted) return;
    if (!(error instanceof Refusal)) throw error;
    Object.assign(item, { state: "refused", reason: error.message });
    clearResult();
    say(`${item.name}: ${error.message}`, true);
    at("force").hidden = error.code !== "outside-intended-use";
  } finally {
    if (item.state === "busy") item.state = "waiting";
    update(item);
    count();
  }
}

// A multi-frame object is no picture of this page's; what DICOM keeps of it can be had all the same, and is said to be unseen.
function offerUnseen(item) {
  const reason = `It holds ${item.header.frames} frames, which are not shown here; its DICOM SEG and report can be saved, unseen.`;
  Object.assign(item, { state: "refused", reason });
  say(`${item.name}: ${reason}`);
  setShown({ item, answer: { model: state.card.id }, query: queryFor(item, threshold()), unseen: true });
}

// Of a model of one class; with several the likeliest counts, and there is none.
export function threshold() {
  return state.card.input.classes.length > 1 ? null : at("threshold").value;
}

// What is asked of the server besides the image and the output.
export function queryFor(item, cut) {
  return { threshold: cut, presence: at("anyway").checked ? 0 : null, force: item.force };
}

// Everything that is drawn of one image. The probability comes once; other thresholds are previewed from it.
async function load(item, signal) {
  const query = queryFor(item, threshold());
  const [described, map, base] = await Promise.all([
    segment(item.file, { output: "json", disagreement: hasSpread(), ...query }, signal),
    query.threshold === null ? null : segment(item.file, { output: "probability", ...query }, signal),
    picture(item, signal),
  ]);
  const answer = await described.json();
  const upright = base.height === answer.size[0] && base.width === answer.size[1] ? base : await pictureOfServer(item, signal);
  const probability = map && (await greyPng(await map.arrayBuffer())).values;
  const spread = await spreadOf(answer);
  return { item, base: upright, probability, spread, answer, query, timing: described.headers.get("server-timing") };
}

function unpack(base64) {
  return Uint8Array.from(atob(base64), (letter) => letter.charCodeAt(0)).buffer;
}

async function picture(item, signal) {
  const bitmap = item.header ? null : await createImageBitmap(item.file).catch(() => null);
  return bitmap ?? pictureOfServer(item, signal);
}

// What the browser cannot show (TIFF, DICOM) the server shows: an overlay with an empty mask is the image itself.
async function pictureOfServer(item, signal) {
  const response = await segment(item.file, { output: "overlay", ...queryFor(item, 1) }, signal);
  return createImageBitmap(await response.blob());
}

// The disagreement as a picture, with the value that stands for white: the image's greatest, or 0.05 where all agree. Null where
// it was not asked for.
export async function spreadOf({ disagreement_png: png }) {
  if (!png) return null;
  const { values, width, height } = await greyPng(unpack(png));
  const greatest = values.reduce((most, value) => Math.max(most, value), 0);
  const top = Math.max(greatest, LEAST_TOP * FULL);
  return { layer: spreadLayer(values, width, height, top), top: top / FULL };
}

// The answer in `loaded`, drawn and in numbers; from here on it can be saved.
function present(keepPlace) {
  const { item, answer, query, probability, spread } = state.loaded;
  const parts = allParts(answer);
  Object.assign(item, { state: "done", summary: { count: parts.length, area: totalArea(answer) } });
  showFacts(answer, parts, item.header, state.loaded.timing, (box) => view.focus(box));
  showUse(state.card.intended_use?.text, item.force);
  showScale(spread);
  at("disagreement").disabled = spread === null;
  at("threshold").disabled = probability === null;
  for (const id of OF_RESULT) at(id).disabled = false;
  view.show(drawing(answer, state.loaded.base, spread, parts), keepPlace);
  setShown({ item, answer, query });
}

export function showScale(spread) {
  at("scale").hidden = !(at("disagreement").checked && spread);
  at("scale-top").textContent = spread?.top.toFixed(2) ?? "";
}

// The scene of an answer, for the view. base: the image; mask: labels in place of the answer's own, then without its outlines.
export function drawing(answer, base, spread, parts, mask = null) {
  const [height, width] = answer.size;
  const colours = answer.classes.map(({ colour }) => colour);
  const rings = answer.classes.flatMap(({ colour, polygons }) => polygons.map((ring) => [`rgb(${colour})`, ring]));
  return {
    base, width, height, spread: spread?.layer, mask: maskLayer(mask ?? labels(answer), width, height, colours),
    parts: parts.slice(0, MOST_ROWS), outlines: mask || rings.length > MOST_OUTLINES ? [] : rings,
  };
}

// While the threshold moves: the mask cut from the probability here; it cannot be saved until the server has answered.
export function preview() {
  at("threshold-value").value = Number(at("threshold").value).toFixed(2);
  if (!state.loaded?.probability) return;
  const least = Math.ceil(Number(at("threshold").value) * FULL);
  const empty = isAbsent(state.loaded.answer);
  const mask = Uint8Array.from(state.loaded.probability, (value) => !empty && value >= least);
  setShown(null);
  showArea(mask.reduce((sum, one) => sum + one, 0), state.loaded.answer.size, state.loaded.item.header, at("threshold").value);
  view.show(drawing(state.loaded.answer, state.loaded.base, state.loaded.spread, [], mask), true);
  clearTimeout(settling);
  settling = setTimeout(settle, SETTLE, at("threshold").value);
}

// The server's own answer at the threshold that was left; the numbers of the other images are then made anew.
async function settle(cut) {
  const [{ signal }, { item }] = [given, state.loaded];
  say(`Segmenting ${item.name} at ${cut} …`);
  try {
    const query = queryFor(item, cut);
    const response = await segment(item.file, { output: "json", ...query }, signal);
    const answer = await response.json();
    if (signal.aborted || threshold() !== cut) return;
    Object.assign(state.loaded, { answer, query, timing: response.headers.get("server-timing") });
    present(true);
    say(`Done at threshold ${Number(cut).toFixed(2)}: ${item.name}.`);
    recount();
  } catch (error) {
    if (signal.aborted) return;
    if (!(error instanceof Refusal)) throw error;
    say(error.message, true);
  }
}

// The numbers in the list were of another threshold, or of images taken for empty.
export function recount() {
  for (const item of state.items) if (item !== state.current && item.state === "done") item.state = "waiting";
  state.items.forEach((item) => update(item));
  count();
}

// The numbers of the images that are not shown, one after the other, for the list.
async function count() {
  if (counting || state.card === null) return;
  counting = true;
  for (let item; (item = state.items.find((one) => one.state === "waiting" && one !== state.current));) {
    const query = queryFor(item, threshold());
    item.state = "busy";
    update(item);
    try {
      const answer = await (await segment(item.file, { output: "json", ...query })).json();
      const parts = answer.classes.flatMap(({ rle }) => partsOf(rle));
      if (item === state.current) continue; // chosen meanwhile, and its numbers made there
      const summary = { count: parts.length, area: totalArea(answer) };
      const same = JSON.stringify(queryFor(item, threshold())) === JSON.stringify(query);
      Object.assign(item, same ? { state: "done", summary } : { state: "waiting" });
    } catch (error) {
      if (!(error instanceof Refusal)) throw error;
      if (item !== state.current) Object.assign(item, { state: "refused", reason: error.message });
    }
    update(item);
  }
  counting = false;
}

export async function loadCard() {
  const found = await card();
  const { id, strategy, precision, engine, input, threshold } = found;
  at("model").textContent = `${input.classes.join(", ")} · ${strategy} ${precision} · ${input.size} px · ${engine} · ${id.slice(0, 12)}`;
  at("threshold").value = threshold;
  at("threshold-value").value = Number(threshold).toFixed(2);
  at("anyway-row").hidden = !found.presence;
  showUse(found.intended_use?.text, false);
  return found;
}
