// One image at a time: the server sends the probability and the disagreement once, and all views are drawn from them here.

const at = (id) => document.getElementById(id);
const canvas = at("canvas");
const state = { file: null, base: null, probability: null, disagreement: null, answer: null, card: null, turn: 0 };

class Refusal extends Error {}

function headers() {
  const key = at("key").value.trim();
  return key ? { "X-API-Key": key } : {};
}

async function ask(path, options = {}) {
  let response;
  try {
    response = await fetch(path, { ...options, headers: { ...headers(), ...options.headers } });
  } catch {
    throw new Refusal("The server cannot be reached.");
  }
  if (response.ok) return response;
  if (response.status === 401) at("key-row").hidden = false;
  const problem = await response.json().catch(() => ({}));
  throw new Refusal(problem.detail ?? `The server answered ${response.status}.`);
}

function segment(query) {
  return ask(`/v1/segment?${new URLSearchParams(query)}`, {
    method: "POST", body: state.file, headers: { "Content-Type": "application/octet-stream" },
  });
}

function say(text, bad = false) {
  at("status").textContent = text;
  at("status").classList.toggle("bad", bad);
}

// The first channel of a PNG as numbers; the browser gives 8 of the 16 bits.
async function channel(blob) {
  const bitmap = await createImageBitmap(blob, { colorSpaceConversion: "none", premultiplyAlpha: "none" });
  const { width, height } = bitmap;
  const context = new OffscreenCanvas(width, height).getContext("2d", { willReadFrequently: true });
  context.drawImage(bitmap, 0, 0);
  const rgba = context.getImageData(0, 0, width, height).data;
  const values = new Uint8Array(width * height);
  for (let i = 0; i < values.length; i++) values[i] = rgba[4 * i];
  return { values, width, height };
}

function unpack(base64) {
  return new Blob([Uint8Array.from(atob(base64), (c) => c.charCodeAt(0))], { type: "image/png" });
}

// What the browser cannot show (TIFF, DICOM) the server shows: an overlay with an empty mask is the image itself.
async function picture(file) {
  try {
    return await createImageBitmap(file);
  } catch {
    const response = await segment({ output: "overlay", threshold: 1 });
    return createImageBitmap(await response.blob());
  }
}

async function show(file, name) {
  const turn = ++state.turn;
  state.file = file;
  say(`Segmenting ${name} …`);
  const started = performance.now();
  try {
    if (state.card === null) await loadCard();
    const several = state.card.input.classes.length > 1;
    const spread = state.card.outputs.some((output) => output.name === "disagreement");
    const [map, described, base] = await Promise.all([
      segment({ output: several ? "overlay" : "probability" }),
      segment(spread ? { output: "json", disagreement: true } : { output: "json" }),
      picture(file),
    ]);
    const answer = await described.json();
    const probability = several ? null : await channel(await map.blob());
    const disagreement = answer.disagreement_png ? await channel(unpack(answer.disagreement_png)) : null;
    const painted = several ? await createImageBitmap(await map.blob()) : base;
    if (turn !== state.turn) return; // a newer image was chosen meanwhile
    Object.assign(state, { base: painted, probability, disagreement, answer });
    at("size").textContent = `${answer.size[1]} × ${answer.size[0]} pixels`;
    at("time").textContent = timing(map.headers.get("server-timing"));
    at("threshold").disabled = at("opacity").disabled = several;
    at("disagreement").disabled = disagreement === null;
    at("download").disabled = false;
    at("facts").hidden = false;
    draw();
    say(`Done in ${Math.round(performance.now() - started)} ms: ${name}.`);
  } catch (error) {
    if (turn !== state.turn) return;
    if (!(error instanceof Refusal)) throw error;
    say(error.message, true);
  }
}

function timing(header) {
  const steps = [...(header ?? "").matchAll(/(\w+);dur=([\d.]+)/g)].map(([, name, ms]) => [name, Number(ms)]);
  const total = steps.find(([name]) => name === "total");
  const parts = steps.filter(([name]) => name !== "total").map(([name, ms]) => `${name} ${ms.toFixed(1)}`);
  return total ? `${total[1].toFixed(1)} ms (${parts.join(", ")})` : "";
}

function draw() {
  const { base, probability, disagreement, answer } = state;
  if (base === null) return;
  const [height, width] = answer.size;
  canvas.width = width;
  canvas.height = height;
  const context = canvas.getContext("2d");
  context.drawImage(base, 0, 0, width, height);
  let area = answer.classes.reduce((sum, one) => sum + one.area, 0);
  if (probability) {
    area = paint(context, width, height, (pixels) => mask(pixels, probability.values, width, height));
  }
  if (disagreement && at("disagreement").checked) {
    paint(context, width, height, (pixels) => heat(pixels, disagreement.values));
  }
  const share = (100 * area / (width * height)).toFixed(1);
  at("area").textContent = `${area.toLocaleString("en")} px (${share} %)`;
  at("spread").textContent = answer.mean_disagreement === null ? "one level only" : answer.mean_disagreement.toFixed(4);
  canvas.setAttribute("aria-label", `The image with its mask: ${share} % of the pixels at threshold ${at("threshold").value}`);
}

function paint(context, width, height, fill) {
  const layer = new OffscreenCanvas(width, height);
  const layerContext = layer.getContext("2d");
  const pixels = layerContext.createImageData(width, height);
  const result = fill(pixels.data);
  layerContext.putImageData(pixels, 0, 0);
  context.drawImage(layer, 0, 0);
  return result;
}

// The class colour over the mask at the chosen opacity, and its rim in full.
function mask(rgba, values, width, height) {
  const [red, green, blue] = state.answer.classes[0].colour;
  const least = Math.ceil(Number(at("threshold").value) * 255);
  const alpha = Math.round(Number(at("opacity").value) * 255);
  const rim = Math.max(1, Math.round(Math.max(width, height) / 400));
  const inside = (x, y) => x >= 0 && y >= 0 && x < width && y < height && values[y * width + x] >= least;
  let area = 0;
  for (let y = 0; y < height; y++) {
    for (let x = 0; x < width; x++) {
      if (!inside(x, y)) continue;
      area++;
      const i = 4 * (y * width + x);
      const edge = !(inside(x - rim, y) && inside(x + rim, y) && inside(x, y - rim) && inside(x, y + rim));
      rgba[i] = red;
      rgba[i + 1] = green;
      rgba[i + 2] = blue;
      rgba[i + 3] = edge ? 255 : alpha;
    }
  }
  return area;
}

// Red, clear where the levels agree and full at a standard deviation of 0.5, the largest there is.
function heat(rgba, values) {
  for (let i = 0; i < values.length; i++) {
    rgba[4 * i] = 255;
    rgba[4 * i + 1] = 59;
    rgba[4 * i + 3] = Math.min(255, 2 * values[i]);
  }
}

async function download() {
  try {
    const response = await segment({ output: "png", threshold: at("threshold").value });
    const link = document.createElement("a");
    link.href = URL.createObjectURL(await response.blob());
    link.download = "mask.png";
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 10000);
    say(`Saved mask.png at threshold ${at("threshold").value}.`);
  } catch (error) {
    if (!(error instanceof Refusal)) throw error;
    say(error.message, true);
  }
}

async function loadCard() {
  state.card = await (await ask("/v1/model")).json();
  const { id, strategy, precision, engine, input, threshold } = state.card;
  at("model").textContent = `${input.classes.join(", ")} · ${strategy} ${precision} · ${input.size} px · ${engine} · ${id.slice(0, 12)}`;
  at("threshold").value = threshold;
  at("threshold-value").value = Number(threshold).toFixed(2);
}

function chosen(button) {
  for (const other of document.querySelectorAll("[data-sample]")) other.setAttribute("aria-pressed", String(other === button));
}

at("file").addEventListener("change", (event) => {
  const [file] = event.target.files;
  if (file) { chosen(null); show(file, file.name); }
});
for (const button of document.querySelectorAll("[data-sample]")) {
  button.setAttribute("aria-pressed", "false");
  button.addEventListener("click", async () => {
    chosen(button);
    show(await (await fetch(button.dataset.sample)).blob(), button.firstElementChild.alt);
  });
}
document.addEventListener("paste", (event) => {
  const [file] = event.clipboardData.files;
  if (file) { chosen(null); show(file, "the pasted image"); }
});
document.addEventListener("dragover", (event) => { event.preventDefault(); at("drop").classList.add("over"); });
document.addEventListener("dragleave", () => at("drop").classList.remove("over"));
document.addEventListener("drop", (event) => {
  event.preventDefault();
  at("drop").classList.remove("over");
  const [file] = event.dataTransfer.files;
  if (file) { chosen(null); show(file, file.name); }
});
at("threshold").addEventListener("input", () => {
  at("threshold-value").value = Number(at("threshold").value).toFixed(2);
  draw();
});
at("opacity").addEventListener("input", () => {
  at("opacity-value").value = `${Math.round(at("opacity").value * 100)} %`;
  draw();
});
at("disagreement").addEventListener("change", () => {
  at("scale").hidden = !at("disagreement").checked;
  draw();
});
at("download").addEventListener("click", download);
at("key-row").addEventListener("submit", async (event) => {
  event.preventDefault();
  if (await begin() && state.file) show(state.file, "the image");
});

// A link may name a sample, and the disagreement: /#sample=2&disagreement
async function begin() {
  try {
    await loadCard();
    say("No image yet.");
    return true;
  } catch (error) {
    if (!(error instanceof Refusal)) throw error;
    say(error.message, true);
    return false;
  }
}

if (await begin()) {
  const wanted = new URLSearchParams(location.hash.slice(1));
  at("disagreement").checked = wanted.has("disagreement");
  at("scale").hidden = !at("disagreement").checked;
  document.querySelector(`[data-sample="/page/sample${Number(wanted.get("sample"))}.jpg"]`)?.click();
}
