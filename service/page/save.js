// What is saved is what is shown: every file is made from the very image, threshold and model of the answer on the screen.

import { Refusal, segment, segmentSeries } from "./service.js";

function stem(name) {
  return name.replace(/\.(png|jpe?g|jfif|tiff?|dcm|dicom|ima)$/i, "") || "image";
}

function offer(blob, name) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
}

// The blob of a response. Throws Refusal where another model has been put in place since the answer was shown.
async function checked(response, shown) {
  const model = response.headers.get("x-model-id");
  if (model !== shown.answer.model) throw new Refusal("The server has another model now than what is shown; choose the image anew.");
  return response.blob();
}

export const KINDS = {
  png: { end: "_mask.png", what: "the mask" },
  "dicom-seg": { end: "_seg.dcm", what: "the DICOM SEG" },
  "dicom-sr": { end: "_sr.dcm", what: "the report" },
};

// shown: { item, answer, query } as drawn; query: its threshold, presence and force. -> the name of the file that was saved.
export async function save(output, shown) {
  const name = stem(shown.item.name) + KINDS[output].end;
  offer(await checked(await segment(shown.item.file, { ...shown.query, output }), shown), name);
  return name;
}

// The picture as it is on the screen, at the image's own size.
export async function savePicture(view, shown) {
  const name = `${stem(shown.item.name)}_overlay.png`;
  offer(await view.picture(), name);
  return name;
}

export async function saveSeries(output, items, shown) {
  const name = `${stem(shown.item.name)}_series${KINDS[output].end}`;
  const files = items.map((item) => item.file);
  offer(await checked(await segmentSeries(files, { ...shown.query, output }), shown), name);
  return name;
}

export function saveJson(shown) {
  const { disagreement_png: left, ...answer } = shown.answer;
  const name = `${stem(shown.item.name)}.json`;
  offer(new Blob([JSON.stringify({ image: shown.item.name, ...answer }, null, 2)], { type: "application/json" }), name);
  return name;
}
