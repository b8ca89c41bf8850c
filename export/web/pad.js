"use strict";
// The drawing pad: strokes by mouse, finger, pen or keys, kept so that they can be undone.

const KEY_STEPS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
const KEY_STEP = 8, FINE_KEY_STEP = 2;

/** A picture on a square canvas, placed as training pictures were; a border is white whatever the paper is. */
function paintPicture(context, picture, { smooth, seen }) {
  context.imageSmoothingEnabled = smooth;
  context.imageSmoothingQuality = "high";
  if (seen.fit === "pad") {
    context.fillStyle = "#fff";
    context.fillRect(0, 0, seen.side, seen.side);
  }
  context.drawImage(picture, ...placement(picture.width, picture.height, seen));
}

class Pad {
  /** `onChange(isFinished)` is called after every change of the drawing. */
  constructor(canvas, cursor, { paper, size, fit, onChange }) {
    this.canvas = canvas;
    this.cursor = cursor;
    this.side = canvas.width;
    this.paper = paper;
    this.seen = { side: canvas.width, size, fit };
    this.onChange = onChange;
    this.items = [];
    this.width = 0;
    this.stroke = null;
    this.place = [this.side / 2, this.side / 2];
    this.context = canvas.getContext("2d", { willReadFrequently: true, colorSpace: "srgb" });
    this.listen();
    this.redraw();
  }

  get isEmpty() { return this.items.length === 0; }

  pixels() { return this.context.getImageData(0, 0, this.side, this.side).data; }

  undo() { this.stroke = null; if (this.items.pop()) { this.redraw(); this.onChange(true); } this.showCursor(); }

  clear() { this.stroke = null; this.items = []; this.redraw(); this.onChange(true); this.showCursor(); }

  /** Replace the drawing by a picture, brought into the square as training pictures were. */
  show(picture, { smooth }) {
    this.stroke = null;
    this.items = [{ picture, smooth }];
    this.redraw();
    this.onChange(true);
  }

  redraw() {
    this.context.fillStyle = this.paper ? "#fff" : "#000";
    this.context.fillRect(0, 0, this.side, this.side);
    for (const item of this.items) {
      if (item.picture) {
        paintPicture(this.context, item.picture, { smooth: item.smooth, seen: this.seen });
      } else {
        this.line(item.points);
      }
    }
  }

  /** A whole stroke: one path where its width is constant, so that its parts leave no seams. */
  line(points) {
    if (points.some((point) => point[2] !== points[0][2])) {
      for (let i = 0; i < points.length; i++) this.path(points.slice(Math.max(0, i - 1), i + 1));
    } else {
      this.path(points);
    }
  }

  path(points) {
    this.context.strokeStyle = this.paper ? "#000" : "#fff";
    this.context.lineWidth = points[points.length - 1][2];
    this.context.lineCap = this.context.lineJoin = "round";
    this.context.beginPath();
    this.context.moveTo(points[0][0], points[0][1]);
    for (const [x, y] of points) this.context.lineTo(x, y);
    this.context.stroke();
  }

  begin(x, y, width) {
    this.stroke = { points: [] };
    this.items.push(this.stroke);
    this.extend(x, y, width);
  }

  extend(x, y, width) {
    this.stroke.points.push([x, y, width]);
    this.path(this.stroke.points.slice(-2));
    this.onChange(false);
  }

  finish() { if (this.stroke) { this.stroke = null; this.redraw(); this.onChange(true); } }

  listen() {
    const at = (event) => {
      const box = this.canvas.getBoundingClientRect();
      return [((event.clientX - box.left) * this.side) / box.width, ((event.clientY - box.top) * this.side) / box.height];
    };
    const wide = (event) => (event.pointerType === "pen" ? this.width * (0.4 + 1.2 * event.pressure) : this.width);
    let pointer = null;
    this.canvas.addEventListener("pointerdown", (event) => {
      if (event.button !== 0 || pointer !== null) return;
      pointer = event.pointerId;
      this.canvas.setPointerCapture(pointer);
      this.begin(...at(event), wide(event));
    });
    this.canvas.addEventListener("pointermove", (event) => {
      if (event.pointerId !== pointer || !this.stroke) return;
      const events = event.getCoalescedEvents ? event.getCoalescedEvents() : [];
      for (const one of events.length ? events : [event]) this.extend(...at(one), wide(one));
    });
    for (const end of ["pointerup", "pointercancel"]) {
      this.canvas.addEventListener(end, (event) => {
        if (event.pointerId === pointer) { pointer = null; this.finish(); }
      });
    }
    this.canvas.addEventListener("keydown", (event) => this.key(event));
    this.canvas.addEventListener("focus", () => this.showCursor());
    this.canvas.addEventListener("blur", () => { this.finish(); this.showCursor(); });
  }

  key(event) {
    const step = KEY_STEPS[event.key], isUndo = event.key === "Backspace" || (event.key === "z" && (event.ctrlKey || event.metaKey));
    if (!step && event.key !== " " && event.key !== "Delete" && !isUndo) return;
    event.preventDefault();
    if (isUndo) return this.undo();
    if (event.key === "Delete") return this.clear();
    if (event.key === " " && !event.repeat) {
      if (this.stroke) this.finish(); else this.begin(...this.place, this.width);
    } else if (step) {
      const far = event.shiftKey ? FINE_KEY_STEP : KEY_STEP;
      this.place = this.place.map((value, axis) => Math.min(this.side, Math.max(0, value + far * step[axis])));
      if (this.stroke) this.extend(...this.place, this.width);
    }
    return this.showCursor();
  }

  /** The cross of the keyboard's pen: only where the keyboard is used. */
  showCursor() {
    this.cursor.hidden = !this.canvas.matches(":focus-visible");
    this.cursor.style.left = `${(100 * this.place[0]) / this.side}%`;
    this.cursor.style.top = `${(100 * this.place[1]) / this.side}%`;
    this.cursor.classList.toggle("down", this.stroke !== null);
  }
}
