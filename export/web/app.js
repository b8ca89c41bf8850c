"use strict";
// The page: loads what lies inside it or beside it, and shows what the student finds.

const NUM_NEAREST = 6, NUM_CLASSES = 6, NUM_LATENCIES = 50;
const byId = (id) => document.getElementById(id);

/** A part of the page: inside it as gzip and base64, else a file beside it. */
async function asset(name) {
  const inside = document.getElementById(`asset-${name}`);
  if (!inside) {
    const answer = await fetch(name);
    if (!answer.ok) throw new Error(`${name} is missing beside the page (HTTP ${answer.status})`);
    return new Uint8Array(await answer.arrayBuffer());
  }
  const packed = fromBase64(inside.textContent);
  inside.remove();
  const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

function fromBase64(text) {
  if (Uint8Array.fromBase64) return Uint8Array.fromBase64(text);
  const letters = atob(text), bytes = new Uint8Array(letters.length);
  for (let i = 0; i < bytes.length; i++) bytes[i] = letters.charCodeAt(i);
  return bytes;
}

async function loadRuntime() {
  if (!document.getElementById("asset-runtime.mjs")) return import("./runtime.mjs");
  const url = URL.createObjectURL(new Blob([await asset("runtime.mjs")], { type: "text/javascript" }));
  try { return await import(url); } finally { URL.revokeObjectURL(url); }
}

/** Why this browser cannot show the page, in words, or an empty text. */
function obstacle() {
  const isInside = Boolean(document.getElementById("asset-runtime.mjs"));
  if (!isInside && location.protocol === "file:") {
    return "This folder needs a web server; a browser does not load its parts from the disk. Run: edgecmd web serve, and the folder.";
  }
  if (typeof WebAssembly === "undefined") {
    return "WebAssembly is switched off in this browser (perhaps by a lockdown mode), and the student needs it.";
  }
  if (isInside && typeof DecompressionStream === "undefined") {
    return "This browser is too old to unpack the page. Chrome 80, Firefox 113 and Safari 16.4 or later can.";
  }
  return "";
}

function make(tag, properties = {}, ...children) {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  return element;
}

function bar(share) {
  const fill = make("i");
  fill.style.width = `${(100 * Math.min(1, Math.max(0, share))).toFixed(1)}%`;
  const track = make("span", { className: "bar" }, fill);
  track.setAttribute("aria-hidden", "true");
  return track;
}

function median(values) { return [...values].sort((a, b) => a - b)[values.length >> 1]; }

/** One tile of the sheet of pictures, as a canvas. */
function tile(sheet, row, info) {
  const size = info.tile, canvas = make("canvas", { width: size, height: size });
  canvas.setAttribute("aria-hidden", "true");
  const left = (row % info.columns) * size, top = Math.floor(row / info.columns) * size;
  canvas.getContext("2d").drawImage(sheet, left, top, size, size, 0, 0, size, size);
  return canvas;
}

/** Grey levels (size * size) on a canvas of that size. */
function showGrey(canvas, grey, size) {
  const picture = new ImageData(size, size);
  grey.forEach((level, i) => picture.data.set([level, level, level, 255], 4 * i));
  canvas.width = canvas.height = size;
  canvas.getContext("2d", { willReadFrequently: true }).putImageData(picture, 0, 0);
}

class App {
  constructor(info) {
    this.info = info;
    this.latencies = [];
    this.isBusy = this.isWanted = this.isReady = this.isFinished = false;
    this.pad = new Pad(byId("pad"), byId("cursor"), {
      paper: info.paper, size: info.image_size, fit: info.fit, onChange: (done) => this.changed(done),
    });
    byId("undo").onclick = () => this.pad.undo();
    byId("clear").onclick = () => this.pad.clear();
    byId("file").onchange = (event) => this.open(event.target);
    for (const radio of document.querySelectorAll("input[name=pen]")) {
      radio.onchange = () => { this.pad.width = (Number(radio.value) * this.pad.side) / 64; };
      if (radio.checked) radio.onchange();
    }
    this.changed(true);
  }

  async load() {
    this.say("Unpacking the runtime …");
    const runtime = await loadRuntime();
    const [wasm, model] = await Promise.all([asset("runtime.wasm"), asset("student.onnx")]);
    this.say("Compiling the student …");
    this.ort = runtime;
    this.session = await openSession(runtime, wasm, model);
    await embed(this.ort, this.session, modelInput(this.pad.pixels(), this.pad.side, this.info));
    if (this.info.gallery) {
      this.say("Unpacking the pictures …");
      this.vectors = readVectors(await asset("gallery.bin"));
      this.sheet = await createImageBitmap(new Blob([await asset("gallery.webp")], { type: "image/webp" }));
    }
    if (this.info.examples) this.showExamples(await asset("examples.bin"));
    this.readyMs = performance.now();
    this.isReady = true;
    document.body.dataset.state = "ready";
    this.showFacts();
    this.changed(true);
  }

  /** A line in the status; polite, so a screen reader says it when it is quiet. */
  say(text) { byId("status").textContent = text; }

  fail(text) {
    document.body.dataset.state = "failed";
    byId("error").textContent = text;
    byId("error").hidden = false;
    this.say?.("");
  }

  changed(isFinished) {
    byId("hint").hidden = !this.pad?.isEmpty;
    byId("undo").disabled = byId("clear").disabled = this.pad?.isEmpty ?? true;
    this.isFinished = isFinished;
    this.isWanted = true;
    if (this.isReady && !this.isBusy) this.look();
  }

  /** Run the student until it has seen the newest drawing; at most once a frame. */
  async look() {
    this.isBusy = true;
    byId("nearest").setAttribute("aria-busy", "true");
    try {
      while (this.isWanted) {
        this.isWanted = false;
        await new Promise((next) => setTimeout(next, 0));
        if (this.pad.isEmpty) this.showNothing(); else await this.lookOnce();
      }
    } catch (error) {
      this.fail(`The student could not look at the drawing (${error.message ?? error}). Reload the page.`);
    }
    this.isBusy = false;
    byId("nearest").setAttribute("aria-busy", "false");
  }

  async lookOnce() {
    const isFinished = this.isFinished, input = modelInput(this.pad.pixels(), this.pad.side, this.info);
    const seen = await embed(this.ort, this.session, input);
    this.latencies = [...this.latencies, seen.milliseconds].slice(-NUM_LATENCIES);
    // For the browser's console, and for the test that compares with Python.
    window.edgecmdSeen = { ...seen, input: input.data, dims: input.dims, isFinished };
    this.showSeen();
    const found = this.vectors ? nearest(seen.embedding, this.vectors, this.info.gallery.names, NUM_NEAREST) : [];
    const classes = seen.scores ? likeliest(seen.scores, this.info.classes, NUM_CLASSES) : [];
    this.showFound(found);
    this.showClasses(classes);
    this.showFacts();
    byId("latency").textContent = `${seen.milliseconds.toFixed(1)} ms`;
    if (isFinished) this.say(found.length ? `Nearest: ${found[0].name}` : `Likeliest: ${classes[0].name}`);
  }

  showNothing() {
    window.edgecmdSeen = undefined;
    byId("nearest").replaceChildren();
    byId("classes").replaceChildren();
    byId("latency").textContent = "";
    byId("results").classList.add("empty");
    this.say("Ready. Draw something.");
    this.showSeen();
  }

  showFound(found) {
    byId("results").classList.remove("empty");
    byId("nearest").replaceChildren(...found.map((one) => make("li", {},
      tile(this.sheet, one.row, this.info.gallery),
      make("span", { className: "name", textContent: one.name, title: one.name }),
      bar(one.cosine),
      make("span", { className: "number", textContent: one.cosine.toFixed(2) }))));
  }

  showClasses(classes) {
    byId("classes").replaceChildren(...classes.map((one) => make("li", {},
      make("span", { className: "name", textContent: one.name, title: one.name }),
      bar(one.probability),
      make("span", { className: "number", textContent: `${(100 * one.probability).toFixed(1)} %` }))));
  }

  /** The small picture that the student gets: averaged here, or inside the model by the same rule. */
  showSeen() {
    const size = this.info.image_size, grey = blockMean(toGrey(this.pad.pixels()), this.pad.side, size);
    showGrey(byId("seen"), grey, size);
    byId("seen-size").textContent = `${size} × ${size}`;
  }

  showExamples(bytes) {
    const { size, names } = this.info.examples;
    byId("examples").replaceChildren(...names.map((name, index) => {
      const canvas = make("canvas");
      showGrey(canvas, bytes.subarray(index * size * size, (index + 1) * size * size), size);
      canvas.setAttribute("aria-hidden", "true");
      const button = make("button", { type: "button", title: name }, canvas);
      button.setAttribute("aria-label", `Drawing: ${name}`);
      button.onclick = () => this.pad.show(canvas, { smooth: false });
      return make("li", {}, button);
    }));
    byId("examples-part").hidden = false;
  }

  showFacts() {
    const requests = performance.getEntriesByType("resource").filter((one) => !/^(blob|data):/.test(one.name)).length;
    const isInside = document.body.dataset.mode === "single";
    byId("fact-ready").textContent = `${(this.readyMs / 1000).toFixed(1)} s`;
    byId("fact-latency").textContent = this.latencies.length ? `${median(this.latencies).toFixed(1)} ms` : "–";
    byId("fact-requests").textContent = isInside ? String(requests) : `${requests}, all of this folder`;
  }

  async open(input) {
    const [file] = input.files;
    input.value = "";
    if (!file) return;
    try {
      this.pad.show(await createImageBitmap(file), { smooth: true });
    } catch {
      this.say(`${file.name} is not a picture that this browser can read.`);
    }
  }
}

async function start() {
  const problem = obstacle();
  const app = new App(JSON.parse(byId("info").textContent));
  if (problem) return app.fail(problem);
  try {
    return await app.load();
  } catch (error) {
    return app.fail(`The student could not be loaded: ${error.message ?? error}.`);
  }
}

start();
