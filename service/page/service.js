// Asking the service: errors as sentences, the key, and waiting where the service asks to come back.

export class Refusal extends Error {
  constructor(detail, code = "unreachable", status = 0) {
    super(detail);
    this.code = code;
    this.status = status;
  }
}

const TRIES = 5;
let [key, model] = ["", ""];

export function useKey(value) {
  key = value.trim();
}

// name: of /v1/models; "" is the default one.
export function useModel(name) {
  model = name;
}

// The path, from the page's own, of the chosen model's card, and with `end` of what it does.
function pathOf(end = "") {
  if (model) return `v1/models/${encodeURIComponent(model)}${end}`;
  return end ? `v1${end}` : "v1/model";
}

export async function card() {
  return (await ask(pathOf())).json();
}

export async function models() {
  return (await ask("v1/models")).json();
}

function pause(milliseconds, signal) {
  return new Promise((resolve, reject) => {
    const timer = setTimeout(resolve, milliseconds);
    signal?.addEventListener("abort", () => {
      clearTimeout(timer);
      reject(signal.reason);
    }, { once: true });
  });
}

// The response of a 200. Throws Refusal, or the signal's AbortError where the request was given up.
export async function ask(path, options = {}) {
  const headers = { ...(key ? { "X-API-Key": key } : {}), ...options.headers };
  for (let tries = 1; ; tries++) {
    let response;
    try {
      response = await fetch(path, { ...options, headers });
    } catch (error) {
      if (error.name === "AbortError") throw error;
      throw new Refusal("The server cannot be reached.");
    }
    if (response.ok) return response;
    const problem = await response.json().catch(() => ({}));
    if ([429, 503].includes(response.status) && tries < TRIES) {
      await pause(1000 * Math.min(10, Number(response.headers.get("retry-after")) || tries), options.signal);
      continue;
    }
    throw new Refusal(problem.detail ?? `The server answered ${response.status}.`, problem.code ?? "unknown", response.status);
  }
}

// `query`: output, threshold and so on; what is null is left out.
export function segment(file, query, signal) {
  return ask(`${pathOf("/segment")}?${asQuery(query)}`, {
    method: "POST", body: file, headers: { "Content-Type": "application/octet-stream" }, signal,
  });
}

export function segmentSeries(files, query, signal) {
  const form = new FormData();
  for (const file of files) form.append("image", file);
  return ask(`${pathOf("/segment/batch")}?${asQuery(query)}`, { method: "POST", body: form, signal });
}

// Where a stream of frames goes, and the subprotocols that carry the key: no header can be set on a WebSocket.
export function streamAddress(query) {
  const address = new URL(`${pathOf("/stream")}?${asQuery(query)}`, document.baseURI);
  address.protocol = address.protocol.replace("http", "ws");
  return address;
}

export function streamProtocols() {
  if (!key) return ["gazeseg.stream.v1"];
  const letters = String.fromCharCode(...new TextEncoder().encode(key));
  return ["gazeseg.stream.v1", `gazeseg.key.${btoa(letters).replaceAll("+", "-").replaceAll("/", "_").replaceAll("=", "")}`];
}

function asQuery(query) {
  return new URLSearchParams(Object.entries(query).filter(([, value]) => value !== null && value !== false));
}
