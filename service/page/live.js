// A camera or a video: the newest frame is asked for as soon as the one before is answered, and drawn together with its mask.

import { allParts, showFacts } from "./facts.js";
import { drawing, queryFor, say, showScale, spreadOf, startLive, threshold, view } from "./result.js";
import { Refusal, segment } from "./service.js";

const at = (id) => document.getElementById(id);
const LONGEST = 960; // side of a frame as it is sent, pixels
const [QUALITY, OVER] = [0.9, 2000]; // of the JPEG; milliseconds over which the frames a second are counted
const video = at("video");
let stream = null;
let name = "";
let presented = 0; // frames that the video has shown
let turn = 0; // of the runs: one that was overtaken leaves the video alone

export async function openCamera() {
  if (!navigator.mediaDevices) {
    say("The browser gives no camera to a page without TLS: open it on localhost or over https.", true);
    return;
  }
  try {
    const media = await navigator.mediaDevices.getUserMedia({ video: { facingMode: "environment" }, audio: false });
    await open({ media, called: "camera" });
  } catch (error) {
    if (!(error instanceof DOMException)) throw error;
    say(`There is no camera for this page: ${error.message}`, true);
  }
}

export function openVideo(file) {
  return open({ source: URL.createObjectURL(file), called: file.name });
}

async function open({ media = null, source = "", called }) {
  close();
  [stream, name, presented] = [media, called, 0];
  video.srcObject = media;
  if (!media) video.src = source;
  at("pause").hidden = at("stop").hidden = false;
  await resume();
}

// Lets go of the camera, or of the video.
export function close() {
  video.pause();
  stream?.getTracks().forEach((track) => track.stop());
  if (video.src) URL.revokeObjectURL(video.src);
  video.removeAttribute("src");
  [stream, video.srcObject] = [null, null];
  for (const id of ["pause", "stop", "live"]) at(id).hidden = true;
}

export async function resume() {
  const [signal, mine] = [startLive(), ++turn];
  at("pause").textContent = "Pause";
  at("live").textContent = "";
  at("live").hidden = false;
  say(`Playing ${name} …`);
  try {
    await video.play();
    await run(signal);
    if (!signal.aborted) say(`${name} has come to its end.`);
  } catch (error) {
    if (signal.aborted) return;
    if (!(error instanceof Refusal || error instanceof DOMException)) throw error;
    say(error instanceof Refusal ? error.message : `${name} cannot be played: ${error.message}`, true);
  } finally {
    if (mine === turn) {
      video.pause();
      at("pause").textContent = "Go on";
      at("live").hidden = true;
    }
  }
}

export function isRunning() {
  return !video.paused;
}

// The frame that stands still, whole, as an image like any other: { file, name }.
export async function stillFrame() {
  video.pause();
  const canvas = drawn(Infinity);
  const file = await canvas.convertToBlob({ type: "image/png" });
  return { file, name: `${name.replace(/\.\w+$/, "")} at ${video.currentTime.toFixed(2)} s` };
}

function drawn(longest) {
  const { videoWidth, videoHeight } = video;
  const scale = Math.min(1, longest / Math.max(videoWidth, videoHeight));
  const canvas = new OffscreenCanvas(Math.round(videoWidth * scale), Math.round(videoHeight * scale));
  canvas.getContext("2d").drawImage(video, 0, 0, canvas.width, canvas.height);
  return canvas;
}

async function run(signal) {
  const done = [];
  let [frames, first, size] = [0, presented, ""];
  watch(signal);
  for (let last = -1; !signal.aborted && !video.ended;) {
    if (video.readyState < video.HAVE_CURRENT_DATA || presented === last || video.paused) {
      await new Promise(requestAnimationFrame);
      continue;
    }
    last = presented;
    first ||= presented;
    const [taken, canvas] = [performance.now(), drawn(LONGEST)];
    const blob = await canvas.convertToBlob({ type: "image/jpeg", quality: QUALITY });
    const spreads = at("disagreement").checked && !at("disagreement").disabled;
    const query = queryFor({ force: false }, threshold());
    const response = await segment(blob, { output: "json", disagreement: spreads, ...query }, signal);
    const answer = await response.json();
    const [parts, spread] = [allParts(answer), await spreadOf(answer)];
    if (signal.aborted) return;
    view.show(drawing(answer, canvas, spread, parts), size === String(answer.size));
    size = String(answer.size);
    showScale(spread);
    showFacts(answer, parts, null, response.headers.get("server-timing"), (box) => view.focus(box));
    const now = performance.now();
    done.push(now);
    while (done[0] < now - OVER) done.shift();
    frames++;
    const rate = done.length > 1 ? (done.length - 1) / (done.at(-1) - done[0]) * 1000 : 0;
    const left = Math.max(0, last - first + 1 - frames);
    at("live").textContent = `${rate.toFixed(1)} frames a second · ${Math.round(now - taken)} ms old · `
      + `${left} of ${frames + left} left out`;
  }
}

// Count the video's own frames, so that those in between are known.
function watch(signal) {
  if (!video.requestVideoFrameCallback) {
    const tick = () => { presented++; if (!signal.aborted) requestAnimationFrame(tick); };
    requestAnimationFrame(tick);
    return;
  }
  const seen = (_, { presentedFrames }) => {
    presented = presentedFrames;
    if (!signal.aborted) video.requestVideoFrameCallback(seen);
  };
  video.requestVideoFrameCallback(seen);
}
