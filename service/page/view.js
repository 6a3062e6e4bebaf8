// The picture on the screen: image, mask, disagreement and boxes in layers, zoomed and moved with mouse, fingers or keys.

const LARGEST_LAYER = 4e6; // pixels; a layer of a larger image is drawn at a part of its size
const CLOSEST = 40; // screen pixels an image pixel
const [STEP, SHIFT] = [1.25, 40];
const SIDE = 1000; // of a saved picture: from there on its lines grow with it

export class View {
  // onZoom(percent) is told of every change of scale.
  constructor(canvas, onZoom) {
    this.canvas = canvas;
    this.onZoom = onZoom;
    this.options = { opacity: 0.4, disagreement: false, boxes: false, hidden: false };
    this.pointers = new Map();
    this.clear();
    new ResizeObserver(() => this.resize()).observe(canvas);
    canvas.addEventListener("wheel", (event) => this.onWheel(event), { passive: false });
    canvas.addEventListener("pointerdown", (event) => this.onDown(event));
    canvas.addEventListener("pointermove", (event) => this.onMove(event));
    for (const kind of ["pointerup", "pointercancel"]) canvas.addEventListener(kind, (event) => this.pointers.delete(event.pointerId));
    canvas.addEventListener("dblclick", () => this.fit());
    canvas.addEventListener("keydown", (event) => this.onKey(event));
  }

  clear() {
    this.scene = null;
    this.paint();
  }

  // scene: { base, width, height, mask, outlines: [[colour, [x, y, ...]]], parts: [{ box }], spread } of one image.
  show(scene, keepPlace) {
    this.scene = scene;
    if (keepPlace) this.place(this.scale, this.left, this.top);
    else this.fit();
  }

  set(options) {
    Object.assign(this.options, options);
    this.paint();
  }

  resize() {
    const dense = window.devicePixelRatio || 1;
    const fitted = this.scene && Math.abs(this.scale - this.smallest) < 1e-9;
    this.canvas.width = Math.round(this.canvas.clientWidth * dense);
    this.canvas.height = Math.round(this.canvas.clientHeight * dense);
    if (!this.scene) this.paint();
    else if (fitted) this.fit();
    else this.place(this.scale, this.left, this.top);
  }

  fitting() {
    return Math.min(this.canvas.clientWidth / this.scene.width, this.canvas.clientHeight / this.scene.height);
  }

  fit() {
    if (this.scene) this.place(this.fitting(), 0, 0);
  }

  // Put the image at `scale` with its corner at (left, top) of the canvas, kept in sight: all in CSS pixels.
  place(scale, left, top) {
    const smallest = this.smallest = this.fitting();
    this.scale = Math.min(Math.max(scale, smallest), Math.max(CLOSEST, smallest));
    const kept = (at, length, room) => (length <= room ? (room - length) / 2 : Math.min(0, Math.max(room - length, at)));
    this.left = kept(left, this.scene.width * this.scale, this.canvas.clientWidth);
    this.top = kept(top, this.scene.height * this.scale, this.canvas.clientHeight);
    this.canvas.classList.toggle("zoomed", this.scale > smallest * 1.001); // then a finger moves the image, not the page
    this.onZoom(Math.round(100 * this.scale));
    this.paint();
  }

  // Zoom by `factor` with the point (x, y) of the canvas held in place; without one, its middle.
  zoom(factor, x = this.canvas.clientWidth / 2, y = this.canvas.clientHeight / 2) {
    if (!this.scene) return;
    const scale = Math.min(Math.max(this.scale * factor, this.fitting()), CLOSEST);
    const grown = scale / this.scale;
    this.place(scale, x - (x - this.left) * grown, y - (y - this.top) * grown);
  }

  // Bring a box [x, y, width, height] of the image to the middle, half as large as the canvas.
  focus([x, y, width, height]) {
    if (!this.scene) return;
    const { clientWidth, clientHeight } = this.canvas;
    const scale = Math.min(CLOSEST / 2, 0.5 * Math.min(clientWidth / width, clientHeight / height));
    this.place(scale, clientWidth / 2 - scale * (x + width / 2), clientHeight / 2 - scale * (y + height / 2));
  }

  onWheel(event) {
    if (!this.scene) return;
    event.preventDefault();
    this.zoom(Math.exp(-event.deltaY / 400), event.offsetX, event.offsetY);
  }

  onDown(event) {
    this.canvas.setPointerCapture(event.pointerId);
    this.pointers.set(event.pointerId, [event.offsetX, event.offsetY]);
  }

  onMove(event) {
    const before = this.pointers.get(event.pointerId);
    if (!before || !this.scene) return;
    const now = [event.offsetX, event.offsetY];
    const other = [...this.pointers].find(([id]) => id !== event.pointerId)?.[1];
    this.pointers.set(event.pointerId, now);
    if (!other) {
      this.place(this.scale, this.left + now[0] - before[0], this.top + now[1] - before[1]);
      return;
    }
    const apart = (point) => Math.max(1, Math.hypot(point[0] - other[0], point[1] - other[1]));
    this.zoom(apart(now) / apart(before), (now[0] + other[0]) / 2, (now[1] + other[1]) / 2);
  }

  onKey(event) {
    const moves = { ArrowLeft: [SHIFT, 0], ArrowRight: [-SHIFT, 0], ArrowUp: [0, SHIFT], ArrowDown: [0, -SHIFT] };
    if (!this.scene) return;
    if (event.key in moves) this.place(this.scale, this.left + moves[event.key][0], this.top + moves[event.key][1]);
    else if (event.key === "+" || event.key === "=") this.zoom(STEP);
    else if (event.key === "-") this.zoom(1 / STEP);
    else if (event.key === "0") this.fit();
    else return;
    event.preventDefault();
  }

  paint() {
    const context = this.canvas.getContext("2d");
    context.setTransform(1, 0, 0, 1, 0, 0);
    context.clearRect(0, 0, this.canvas.width, this.canvas.height);
    this.canvas.dataset.shown = this.scene ? "image" : "nothing";
    if (!this.scene) return;
    const dense = this.canvas.width / this.canvas.clientWidth;
    Object.assign(this.canvas.dataset, { scale: this.scale, left: this.left, top: this.top });
    context.setTransform(this.scale * dense, 0, 0, this.scale * dense, this.left * dense, this.top * dense);
    context.imageSmoothingEnabled = this.scale * dense < 3; // closer than that the pixels themselves are of interest
    context.imageSmoothingQuality = "high";
    this.layers(context, this.scale, this.top, this.options.hidden);
  }

  // The whole image with what is painted over it, at the image's own size, as a PNG.
  async picture() {
    const { width, height } = this.scene;
    const canvas = new OffscreenCanvas(width, height);
    this.layers(canvas.getContext("2d"), Math.min(1, SIDE / Math.max(width, height)), 0, false);
    return canvas.convertToBlob({ type: "image/png" });
  }

  // In the image's own coordinates; `scale`: of the screen, so that lines keep their width; `top`: where the image begins there.
  layers(context, scale, top, hidden) {
    const { base, width, height, mask, outlines, parts, spread } = this.scene;
    const { opacity, disagreement, boxes } = this.options;
    context.drawImage(base, 0, 0, width, height);
    if (hidden) return;
    if (disagreement && spread) context.drawImage(spread, 0, 0, width, height);
    else {
      context.globalAlpha = opacity;
      context.drawImage(mask, 0, 0, width, height);
      context.globalAlpha = 1;
    }
    this.draw(context, scale, top, outlines, boxes ? parts : []);
  }

  // Lines have the same width on the screen at every scale, with a dark rim that shows them on bright ground.
  draw(context, scale, top, outlines, parts) {
    context.lineJoin = "round";
    for (const [wide, dark] of [[4, true], [2, false]]) {
      context.lineWidth = wide / scale;
      for (const [colour, ring] of outlines) {
        context.strokeStyle = dark ? "rgb(0 0 0 / 45%)" : colour;
        context.beginPath();
        for (let i = 0; i < ring.length; i += 2) context.lineTo(ring[i], ring[i + 1]);
        context.closePath();
        context.stroke();
      }
      context.setLineDash([6 / scale, 4 / scale]);
      for (const { box } of parts) {
        context.strokeStyle = dark ? "rgb(0 0 0 / 60%)" : "#fff";
        context.strokeRect(...box);
      }
      context.setLineDash([]);
    }
    parts.forEach(({ box: [x, y] }, i) => number(context, scale, top, i + 1, x, y));
  }
}

function number(context, scale, topOfImage, value, x, y) {
  const size = 14 / scale;
  context.font = `600 ${size}px system-ui, sans-serif`;
  const width = context.measureText(value).width + size * 0.7;
  const top = Math.max(y - size * 1.35, -topOfImage / scale);
  context.fillStyle = "rgb(0 0 0 / 75%)";
  context.fillRect(x, top, width, size * 1.35);
  context.fillStyle = "#fff";
  context.fillText(value, x + size * 0.35, top + size * 1.05);
}

// A layer of `width` x `height` pixels: colour(i) gives [red, green, blue, alpha] of pixel i, or null where it is clear.
export function layer(width, height, colour) {
  const step = Math.max(1, Math.ceil(Math.sqrt(width * height / LARGEST_LAYER)));
  const [columns, rows] = [Math.ceil(width / step), Math.ceil(height / step)];
  const canvas = new OffscreenCanvas(columns, rows);
  const context = canvas.getContext("2d");
  const pixels = context.createImageData(columns, rows);
  for (let row = 0, to = 0; row < rows; row++) {
    for (let column = 0; column < columns; column++, to += 4) {
      const found = colour(row * step * width + column * step);
      if (found) [pixels.data[to], pixels.data[to + 1], pixels.data[to + 2], pixels.data[to + 3]] = found;
    }
  }
  context.putImageData(pixels, 0, 0);
  return canvas;
}

export function maskLayer(values, width, height, colours) {
  const paints = colours.map((colour) => [...colour, 255]);
  return layer(width, height, (i) => paints[values[i] - 1]);
}

// From clear over blue and turquoise to white: told apart on red tissue and on grey slices. scale: what is shown as white.
export function spreadLayer(values, width, height, scale) {
  const ramp = Array.from({ length: 256 }, (_, i) => rampColour(i / 255));
  return layer(width, height, (i) => ramp[Math.min(255, Math.round(255 * values[i] / scale))]);
}

const STOPS = [
  [0, [20, 40, 160, 0]], [0.1, [20, 60, 200, 20]], [0.3, [30, 90, 255, 150]], [0.6, [0, 210, 255, 220]], [1, [255, 255, 255, 255]],
];

function rampColour(share) {
  const after = STOPS.findIndex(([at]) => at >= share) || 1;
  const [[from, first], [to, second]] = [STOPS[after - 1], STOPS[after]];
  return first.map((value, i) => Math.round(value + (second[i] - value) * (share - from) / (to - from)));
}
