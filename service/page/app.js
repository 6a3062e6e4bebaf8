// The page: images come in, one is shown, and what is saved is what is shown. Nothing is loaded from, or sent to, another host.

import { close, isRunning, openCamera, openVideo, resume, stillFrame } from "./live.js";
import { arranged, itemsOf, render, sameSeries } from "./list.js";
import { choose, clearResult, loadCard, preview, recount, say, state, view } from "./result.js";
import { KINDS, save, saveJson, savePicture, saveSeries } from "./save.js";
import { Refusal, models, useKey, useModel } from "./service.js";

const at = (id) => document.getElementById(id);

async function add(files) {
  const fresh = await itemsOf(files);
  state.items = arranged([...state.items, ...fresh]);
  relist();
  choose(state.items.find((item) => fresh.includes(item)));
}

function relist() {
  render(at("list"), state.items, choose);
  at("several").hidden = at("steps").hidden = state.items.length < 2;
  at("which").max = Math.max(1, state.items.length);
}

function step(by) {
  const next = state.items[state.items.indexOf(state.current) + by];
  if (next) choose(next);
}

// ---- saving

async function saving(work, what) {
  if (state.shown === null) return;
  const { item, query: { threshold } } = state.shown;
  try {
    const name = await work(state.shown);
    say(`Saved ${what} of ${item.name}${threshold === null ? "" : ` at threshold ${Number(threshold).toFixed(2)}`}: ${name}`);
  } catch (error) {
    if (!(error instanceof Refusal)) throw error;
    say(error.message, true);
    at("force").hidden = error.code !== "outside-intended-use";
  }
}

for (const [id, output] of [["download", "png"], ["save-seg", "dicom-seg"], ["save-sr", "dicom-sr"]]) {
  at(id).addEventListener("click", () => saving((one) => save(output, one), KINDS[output].what));
}
at("save-overlay").addEventListener("click", () => saving((one) => savePicture(view, one), "the picture"));
at("save-json").addEventListener("click", () => saving(saveJson, "the numbers"));
for (const [id, output] of [["save-series", "dicom-seg"], ["save-series-sr", "dicom-sr"]]) {
  at(id).addEventListener("click", () => (
    saving((one) => saveSeries(output, sameSeries(state.items, one.item), one), `${KINDS[output].what} of the series`)));
}

// ---- what is pressed, dropped and pasted

function press(button) {
  for (const other of document.querySelectorAll("[data-sample]")) other.setAttribute("aria-pressed", String(other === button));
}

async function take(files) {
  if (!files.length) return;
  press(null);
  const video = [...files].find((file) => file.type.startsWith("video/"));
  if (video) await openVideo(video);
  else await add([...files].map((file) => ({ file, name: file.name || "the pasted image" })));
}

at("file").addEventListener("change", async (event) => {
  const files = [...event.target.files];
  event.target.value = ""; // so that the same file can be chosen again
  await take(files);
});
for (const button of document.querySelectorAll("[data-sample]")) {
  button.setAttribute("aria-pressed", "false");
  button.addEventListener("click", async () => {
    press(button);
    const file = await (await fetch(button.dataset.sample)).blob();
    const name = button.firstElementChild.alt.split(",")[0];
    const before = state.items.find((item) => item.name === name);
    if (before) choose(before);
    else await add([{ file, name }]);
  });
}
document.addEventListener("paste", (event) => take(event.clipboardData.files));
document.addEventListener("dragover", (event) => { event.preventDefault(); at("drop").classList.add("over"); });
document.addEventListener("dragleave", () => at("drop").classList.remove("over"));
document.addEventListener("drop", (event) => {
  event.preventDefault();
  at("drop").classList.remove("over");
  take(event.dataTransfer.files);
});
at("previous").addEventListener("click", () => step(-1));
at("next").addEventListener("click", () => step(1));
at("which").addEventListener("input", () => choose(state.items[at("which").value - 1]));
at("clear").addEventListener("click", () => {
  [state.items, state.current] = [[], null];
  press(null);
  close();
  relist();
  clearResult();
  at("main").classList.add("empty");
  say("No image yet.");
});
at("camera").addEventListener("click", openCamera);
at("pause").addEventListener("click", async () => {
  if (isRunning()) await add([await stillFrame()]);
  else await resume();
});
at("stop").addEventListener("click", () => {
  close();
  clearResult();
  say("No image yet.");
});
at("force").addEventListener("click", () => {
  for (const item of [state.current, ...sameSeries(state.items, state.current)]) {
    Object.assign(item, { force: true, state: "waiting", reason: "" });
  }
  choose(state.current);
});
at("threshold").addEventListener("input", preview);
at("opacity").addEventListener("input", () => {
  at("opacity-value").value = `${Math.round(at("opacity").value * 100)} %`;
  view.set({ opacity: Number(at("opacity").value) });
});
function chooseDisagreement() {
  view.set({ disagreement: at("disagreement").checked });
  at("scale").hidden = !(at("disagreement").checked && state.loaded?.spread);
}
at("disagreement").addEventListener("change", chooseDisagreement);
at("anyway").addEventListener("change", () => {
  if (state.current) choose(state.current);
  recount();
});
at("boxes").addEventListener("change", () => view.set({ boxes: at("boxes").checked }));
at("in").addEventListener("click", () => view.zoom(1.5));
at("out").addEventListener("click", () => view.zoom(1 / 1.5));
at("fit").addEventListener("click", () => view.fit());

function hide(hidden) {
  view.set({ hidden });
  at("hide").setAttribute("aria-pressed", String(hidden));
}
at("hide").addEventListener("pointerdown", (event) => { at("hide").setPointerCapture(event.pointerId); hide(true); });
for (const kind of ["pointerup", "pointercancel", "lostpointercapture", "blur"]) at("hide").addEventListener(kind, () => hide(false));
at("hide").addEventListener("contextmenu", (event) => event.preventDefault()); // a long press on a phone
window.addEventListener("blur", () => hide(false));
document.addEventListener("keydown", (event) => { if (held(event)) hide(true); });
document.addEventListener("keyup", (event) => { if (held(event)) hide(false); });

// H anywhere but in a text field, and the space bar or Enter on the button itself.
function held({ key, target, ctrlKey, metaKey }) {
  if (at("hide").disabled || ctrlKey || metaKey || target.type === "password") return false;
  return key.toLowerCase() === "h" || (target === at("hide") && [" ", "Enter"].includes(key));
}

at("key-row").addEventListener("submit", async (event) => {
  event.preventDefault();
  useKey(at("key").value);
  if (await begin() && state.current) choose(state.current);
});

// The models served, where there is a choice.
async function listModels() {
  const served = await models();
  at("models").replaceChildren(...served.models.map((name) => new Option(name, name, false, name === served.default)));
  at("models-row").hidden = served.models.length < 2;
}

at("models").addEventListener("change", async () => {
  useModel(at("models").value);
  if (!await begin()) return;
  if (state.current) choose(state.current);
  recount();
});

async function begin() {
  try {
    clearResult();
    state.card = await loadCard();
    if (!at("models").length) await listModels();
    at("key-row").hidden = true;
    say("No image yet.");
    return true;
  } catch (error) {
    if (!(error instanceof Refusal)) throw error;
    at("key-row").hidden = error.status !== 401;
    say(error.message, true);
    return false;
  }
}

// A link may name a sample, and the disagreement: /#sample=2&disagreement
if (await begin()) {
  const wanted = new URLSearchParams(location.hash.slice(1));
  at("disagreement").checked = wanted.has("disagreement");
  chooseDisagreement();
  document.querySelector(`[data-sample="page/sample${Number(wanted.get("sample"))}.jpg"]`)?.click();
}
