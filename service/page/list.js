// The images that were given, in order: DICOM slices of one series together, along their place in it; the rest as they came.

import { dicomHeader } from "./dicom.js";
import { areaText } from "./measure.js";

// -> items { file, name, header, key, series, state, reason, summary, force }. One file is read after the other: they may be large.
export async function itemsOf(files) {
  const items = [];
  for (const { file, name } of files) {
    const header = await dicomHeader(file);
    items.push({ file, name, header, key: header?.series ?? "", series: "", state: "waiting", reason: "", summary: null, force: false });
  }
  return items;
}

// The items in their order; `series` becomes the key of those that share it with another one.
export function arranged(items) {
  const [firsts, sizes] = [new Map(), new Map()];
  items.forEach(({ key }, i) => {
    if (!firsts.has(key)) firsts.set(key, i);
    sizes.set(key, (sizes.get(key) ?? 0) + 1);
  });
  const places = new Map(items.map((item, i) => [item, item.key ? firsts.get(item.key) : i]));
  for (const item of items) item.series = item.key && sizes.get(item.key) > 1 ? item.key : "";
  return [...items].sort((a, b) => places.get(a) - places.get(b) || (a.header?.place ?? 0) - (b.header?.place ?? 0));
}

export function sameSeries(items, item) {
  return item.series ? items.filter((other) => other.series === item.series) : [];
}

// Fill the <ol>; choose(item) is called for a press on a row.
export function render(list, items, choose) {
  const rows = [];
  let series = "";
  for (const item of items) {
    if (item.series && item.series !== series) {
      const head = element("li", `Series of ${sameSeries(items, item).length} slices${item.header.modality ? ` (${item.header.modality})` : ""}`);
      head.className = "series";
      rows.push(head);
    }
    series = item.series;
    const button = element("button", "");
    button.type = "button";
    button.append(element("b", item.name), element("small", ""));
    button.addEventListener("click", () => choose(item));
    item.row = element("li", "");
    item.row.append(button);
    rows.push(item.row);
    update(item);
  }
  list.replaceChildren(...rows);
}

export function update(item, current = null) {
  const { row, state, summary, reason, header } = item;
  if (!row) return;
  row.classList.toggle("bad", state === "refused");
  const words = { waiting: "waiting", busy: "segmenting …", refused: reason };
  row.querySelector("small").textContent = words[state]
    ?? (summary.count ? `${summary.count} × found · ${areaText(summary.area, 0, header?.spacing)}` : "nothing found");
  row.title = reason;
  if (current === null) return;
  if (current) row.firstChild.setAttribute("aria-current", "true");
  else row.firstChild.removeAttribute("aria-current");
}

function element(kind, text) {
  const made = document.createElement(kind);
  made.textContent = text;
  return made;
}
