// The numbers beside the picture: what was found, how large, where; in millimetres where the image says its spacing.

import { areaText, boxText, partsOf } from "./measure.js";

export const MOST_ROWS = 12;
const at = (id) => document.getElementById(id);

// All connected parts of all classes, the largest first: { name, area, box }.
export function allParts(answer) {
  const found = answer.classes.flatMap(({ name, rle }) => partsOf(rle).map((part) => ({ name, ...part })));
  return found.sort((a, b) => b.area - a.area);
}

export function totalArea(answer) {
  return answer.classes.reduce((sum, one) => sum + one.area, 0);
}

// parts: as `allParts` gives them; choose(box) is called for a press on the number of one.
export function showFacts(answer, parts, header, serverTiming, choose) {
  const [height, width] = answer.size;
  at("count").textContent = countText(answer, parts);
  showArea(totalArea(answer), answer.size, header, answer.threshold);
  at("presence-row").hidden = answer.presence === null;
  at("presence").textContent = presenceText(answer);
  at("unusual-row").hidden = !answer.unusual;
  at("unusual").textContent = answer.unusual_because.join("; ");
  at("spread").textContent = answer.mean_disagreement === null ? "one level only" : answer.mean_disagreement.toFixed(4);
  at("size").textContent = `${width} × ${height} pixels${spacingText(header)}`;
  at("time").textContent = timing(serverTiming);
  fillRows(parts, header?.spacing ?? null, choose);
  at("facts").hidden = false;
}

export function showArea(area, [height, width], header, threshold) {
  at("area").textContent = areaText(area, width * height, header?.spacing ?? null);
  const share = (100 * area / (width * height)).toFixed(1);
  at("canvas").setAttribute("aria-label", `The image with its mask: ${share} % of the pixels at threshold ${threshold}`);
}

export function clearFacts() {
  for (const id of ["count", "area", "presence", "unusual", "spread", "size", "time"]) at(id).textContent = "";
  at("rows").replaceChildren();
  for (const id of ["facts", "parts", "more"]) at(id).hidden = true;
  at("canvas").setAttribute("aria-label", "No image yet");
}

// Whether the model takes the image for one that shows nothing: then nothing is marked, whatever the pixels say.
export function isAbsent({ presence, presence_threshold: least }) {
  return presence !== null && presence < least;
}

function presenceText(answer) {
  if (answer.presence === null) return "";
  const least = answer.presence_threshold;
  if (isAbsent(answer)) return `${answer.presence.toFixed(2)}, under ${least.toFixed(2)}: nothing is marked`;
  return `${answer.presence.toFixed(2)}${least ? ` (at least ${least.toFixed(2)})` : ""}`;
}

// use: the text of the model's intended use, if it has one; forced: whether this image contradicts it.
export function showUse(use, forced) {
  const model = use ? `For ${use.replace(/\.$/, "")}. ` : "";
  const warning = forced ? "This image is of another kind, so the result may mean nothing. " : "";
  at("use").textContent = `${model}${warning}Not a medical device. For research and evaluation.`;
  at("use").classList.toggle("forced", forced);
}

function spacingText(header) {
  if (!header) return "";
  if (!header.spacing) return ", no spacing known";
  const [rows, columns] = header.spacing.map((step) => step.toFixed(2));
  return ` of ${columns} × ${rows} mm${header.detector ? " at the detector" : ""}`;
}

function countText(answer, parts) {
  const counts = answer.classes.map(({ name }) => [parts.filter((part) => part.name === name).length, name]);
  return counts.filter(([count]) => count).map(([count, name]) => `${count} × ${name}`).join(", ") || "nothing";
}

function fillRows(parts, spacing, choose) {
  at("rows").replaceChildren(...parts.slice(0, MOST_ROWS).map((part, i) => {
    const row = document.createElement("tr");
    const to = document.createElement("button");
    to.type = "button";
    to.textContent = i + 1;
    to.setAttribute("aria-label", `Zoom to number ${i + 1}`);
    to.addEventListener("click", () => choose(part.box));
    for (const content of [to, part.name, areaText(part.area, 0, spacing), boxText(part.box, spacing)]) {
      row.insertCell().append(content);
    }
    return row;
  }));
  at("parts").hidden = parts.length === 0;
  at("more").hidden = parts.length <= MOST_ROWS;
  at("more").textContent = `and ${parts.length - MOST_ROWS} smaller ones`;
}

function timing(header) {
  const steps = [...(header ?? "").matchAll(/(\w+);dur=([\d.]+)/g)].map(([, name, ms]) => [name, Number(ms)]);
  const total = steps.find(([name]) => name === "total");
  const parts = steps.filter(([name]) => name !== "total").map(([name, ms]) => `${name} ${ms.toFixed(1)}`);
  return total ? `${total[1].toFixed(1)} ms (${parts.join(", ")})` : "";
}
