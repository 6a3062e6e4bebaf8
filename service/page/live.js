// A camera or a video: one frame in work and the newest on its way, each drawn together with its mask.

import { allParts, showFacts } from "./facts.js";
import { drawing, queryFor, say, showScale, spreadOf, startLive, threshold, view } from "./result.js";
import { Refusal, segment } from "./service.js";
import { openStream } from "./stream.js";

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

// One frame is in work and the next on its way; what is shown comes in order.
async function run(signal) {
  const counts = { done: [], frames: 0, first: presented, size: "" };
  let [link, showing] = [null, Promise.resolve()];
  watch(signal);
  try {
    for (let last = -1; !signal.aborted && !video.ended;) {
      if (video.readyState < video.HAVE_CURRENT_DATA || presented === last || video.paused) {
        await new Promise(requestAnimationFrame);
        continue;
      }
      last = presented;
      counts.first ||= presented;
      const [taken, canvas] = [performance.now(), drawn(LONGEST)];
      const blob = await canvas.convertToBlob({ type: "image/jpeg", quality: QUALITY });
      const spreads = at("disagreement").checked && !at("disagreement").disabled;
      if (link?.spreads !== spreads) {
        await showing;
        link?.close();
        link = await connect(spreads, signal);
      }
      const { threshold: cut, presence } = queryFor({ force: false }, threshold());
      const reply = link.ask(blob, taken / 1000, { threshold: cut, presence });
      reply.catch(() => {}); // it is thrown where it is shown
      await showing;
      showing = show(reply, canvas, taken, last, counts, signal);
      showing.catch(() => {}); // it is thrown where it is awaited
    }
    await showing;
  } finally {
    link?.close();
  }
}

// Over a stream where one can be opened, else a request a frame.
async function connect(spreads, signal) {
  const stream = await openStream({ disagreement: spreads }, signal);
  if (stream) return { spreads, ask: (...frame) => stream.ask(...frame), close: () => stream.close() };
  const ask = async (blob, _, query) => {
    const response = await segment(blob, { output: "json", disagreement: spreads, ...query }, signal);
    return { answer: await response.json(), timing: response.headers.get("server-timing") };
  };
  return { spreads, ask, close: () => {} };
}

async function show(reply, canvas, taken, number, counts, signal) {
  const found = await reply;
  if (signal.aborted || found === null) return;
  const { answer, timing } = found;
  const [parts, spread] = [allParts(answer), await spreadOf(answer)];
  if (signal.aborted) return;
  view.show(drawing(answer, canvas, spread, parts), counts.size === String(answer.size));
  counts.size = String(answer.size);
  showScale(spread);
  showFacts(answer, parts, null, timing, (box) => view.focus(box));
  const [now, done] = [performance.now(), counts.done];
  done.push(now);
  while (done[0] < now - OVER) done.shift();
  counts.frames++;
  const rate = done.length > 1 ? (done.length - 1) / (done.at(-1) - done[0]) * 1000 : 0;
  const left = Math.max(0, number - counts.first + 1 - counts.frames);
  at("live").textContent = `${rate.toFixed(1)} frames a second · ${Math.round(now - taken)} ms old · `
    + `${left} of ${counts.frames + left} left out`;
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
