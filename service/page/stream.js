// Frames over one WebSocket (docs/video.md has the messages): the next one is on its way while the one before is in work.

import { Refusal, streamAddress, streamProtocols } from "./service.js";

const OPENING = 3000; // milliseconds until a connection stands; a proxy that knows no WebSockets may never say so
const [SMOOTH, RELEASE] = [0.04, 0.7]; // how masks are steadied, as in the command `video`
const LATER = [429, 503]; // the service has no place for this frame

// null where no stream can be opened: whatever the reason, a request over HTTP will say it.
export function openStream(query, signal) {
  const wish = { ...query, output: "json", order: "every", smooth: SMOOTH, release: RELEASE };
  const socket = new WebSocket(streamAddress(wish), streamProtocols());
  socket.binaryType = "arraybuffer";
  return new Promise((resolve) => {
    const give = (value) => {
      clearTimeout(timer);
      if (value === null) socket.close();
      resolve(value);
    };
    const timer = setTimeout(() => give(null), OPENING);
    socket.onopen = () => give(new Stream(socket, signal));
    socket.onclose = socket.onerror = () => give(null);
  });
}

class Stream {
  #socket;
  #waiting = []; // of each frame sent and not answered, in order: resolve and reject

  constructor(socket, signal) {
    this.#socket = socket;
    socket.onmessage = ({ data }) => this.#answer(data);
    socket.onerror = null;
    socket.onclose = ({ code, reason }) => {
      const error = signal.aborted ? signal.reason : new Refusal(`The stream has ended (${reason || code}).`);
      for (const { reject } of this.#waiting.splice(0)) reject(error);
    };
    signal.addEventListener("abort", () => this.close(), { once: true });
  }

  // { answer, timing } of one frame; null where the service had no place for it. stamp: seconds. Throws Refusal.
  ask(image, stamp, head) {
    const given = Object.fromEntries(Object.entries({ ...head, stamp }).filter(([, value]) => value !== null));
    const text = new TextEncoder().encode(JSON.stringify(given));
    const length = new DataView(new ArrayBuffer(4));
    length.setUint32(0, text.length);
    return new Promise((resolve, reject) => {
      if (this.#socket.readyState !== WebSocket.OPEN) {
        reject(new Refusal("The stream has ended."));
        return;
      }
      this.#waiting.push({ resolve, reject });
      this.#socket.send(new Blob([length, text, image]));
    });
  }

  close() {
    this.#socket.close();
  }

  #answer(data) {
    const end = 4 + new DataView(data).getUint32(0);
    const head = JSON.parse(new TextDecoder().decode(data.slice(4, end)));
    const { resolve, reject } = this.#waiting.shift();
    if (!head.problem) {
      const timing = Object.entries(head.seconds).map(([name, value]) => `${name};dur=${(1000 * value).toFixed(2)}`);
      const answer = JSON.parse(new TextDecoder().decode(data.slice(end)));
      resolve({ answer, timing: [...timing, `batch;desc="${head.batch}"`].join(", ") });
    } else if (LATER.includes(head.problem.status)) resolve(null);
    else reject(new Refusal(head.problem.detail, head.problem.code, head.problem.status));
  }
}
