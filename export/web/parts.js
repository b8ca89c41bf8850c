"use strict";
// What every page has: its parts unpacked, the engine chosen, the newest input looked at, the results shown.

const NUM_NEAREST = 6, NUM_CLASSES = 6, NUM_LATENCIES = 50;
const byId = (id) => document.getElementById(id);

/** Bytes that each part takes in the page, or of its file. */
const assetBytes = new Map();

/** A part of the page: inside it as gzip and base64, else a file beside it. */
async function asset(name) {
  const inside = document.getElementById(`asset-${name}`);
  if (!inside) {
    const answer = await fetch(name);
    if (!answer.ok) throw new Error(`${name} is missing beside the page (HTTP ${answer.status})`);
    const bytes = new Uint8Array(await answer.arrayBuffer());
    assetBytes.set(name, bytes.length);
    return bytes;
  }
  assetBytes.set(name, inside.textContent.length);
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

/** Jobs of the runtime one after the other: it does not take two at once. */
class Turns {
  constructor() { this.last = Promise.resolve(); }

  take(work) {
    const next = this.last.then(work);
    this.last = next.catch(() => {});
    return next;
  }
}

function megabytes(num) { return num < 1e6 ? `${(num / 1e3).toFixed(0)} kB` : `${(num / 1e6).toFixed(2)} MB`; }

/** A page; what is its own is how an input is made (`input`), whether there is one (`isEmpty`), and what is shown
 * of a look (`lookOnce`, `showNothing`). */
class Page {
  constructor(info) {
    this.info = info;
    this.latencies = [];
    this.assetBytes = assetBytes;
    this.turns = new Turns();
    this.isBusy = this.isWanted = this.isReady = this.isFinished = false;
  }

  async load() {
    const { info } = this;
    this.pageBytes = document.documentElement.outerHTML.length;
    this.say("Unpacking the runtime …");
    this.ort = await loadRuntime();
    const [wasm, model] = await Promise.all([asset("runtime.wasm"), asset("student.onnx")]);
    this.say("Compiling the student …");
    prepareRuntime(this.ort, wasm);
    await this.choose(model);
    if (info.gallery) {
      this.say("Unpacking the pictures …");
      this.vectors = readVectors(await asset("gallery.bin"));
      this.sheet = await createImageBitmap(new Blob([await asset("gallery.webp")], { type: "image/webp" }));
    }
    await this.unpack();
    this.readyMs = performance.now();
    this.isReady = true;
    for (const control of document.querySelectorAll("[data-waits]")) control.disabled = false;
    document.body.dataset.state = "ready";
    this.showFacts();
    this.changed(true);
  }

  /** What else a page has. */
  async unpack() {}

  /** Find the engine whose answers to the golden inputs are right. */
  async choose(model) {
    const { info } = this, shape = info.golden_shape ?? [], size = shape.reduce((product, one) => product * one, 1);
    const inputs = info.golden ? await asset("golden.bin") : null;
    const golden = info.golden && { ...info.golden, [CORE]: info.core_golden };
    const files = new Map([[WHOLE, model]]);
    this.engine = await chooseEngine({
      golden,
      look: (session, file, row) => {
        const input = { data: inputs.slice(row * size, (row + 1) * size), dims: [1, ...shape] };
        return embed(this.ort, session, file === CORE ? coreInput(input, info) : input);
      },
      open: async (file, provider) => {
        if (!files.has(file)) files.set(file, await asset(file));
        if (provider === "webgpu") this.say("Trying WebGPU …");
        return createSession(this.ort, files.get(file), provider);
      },
      findGpu: async () => Boolean(await navigator.gpu?.requestAdapter().catch(() => null)),
      hasGpuRuntime: info.webgpu,
    });
    if (!this.engine.isSound) this.warn(`This browser computes other numbers than the student's maker. ${this.engine.why} Do not trust the answers.`);
    // Once for nothing: the first look of a session is slow.
    await this.look1(this.firstInput());
  }

  /** A line in the status; polite, so a screen reader says it when it is quiet. */
  say(text) { byId("status").textContent = text; }

  warn(text) {
    byId("error").textContent = text;
    byId("error").hidden = false;
  }

  fail(text) {
    document.body.dataset.state = "failed";
    this.warn(text);
    this.say("");
  }

  embedWith(session, input) { return this.turns.take(() => embed(this.ort, session, input)); }

  /** By the whole model in WebAssembly, whatever the engine is: files name that model. */
  embedExactly(input) { return this.embedWith(this.engine.reference, input); }

  /** One look with the engine of the page. */
  look1(input) { return this.embedWith(this.engine.session, input); }

  async openFile(name) { return createSession(this.ort, await asset(name), "wasm"); }

  changed(isFinished) {
    this.isFinished = isFinished;
    this.isWanted = true;
    if (this.isReady && !this.isBusy) this.look();
  }

  /** Run the student until it has seen the newest input; at most once a frame. */
  async look() {
    this.isBusy = true;
    byId("nearest").setAttribute("aria-busy", "true");
    try {
      while (this.isWanted) {
        this.isWanted = false;
        await new Promise((next) => setTimeout(next, 0));
        if (this.isEmpty) this.showNothing(); else await this.lookOnce();
      }
    } catch (error) {
      this.fail(`The student could not look at it (${error.message ?? error}). Reload the page.`);
    }
    this.isBusy = false;
    byId("nearest").setAttribute("aria-busy", "false");
  }

  /** The nearest pictures of the page. */
  found(seen) {
    if (!this.vectors) return [];
    const { names, texts } = this.info.gallery, found = nearest(seen.embedding, this.vectors, names, NUM_NEAREST);
    return found.map((one) => ({ ...one, text: texts?.[one.row], picture: tile(this.sheet, one.row, this.info.gallery) }));
  }

  clearResults(text) {
    window.edgecmdSeen = undefined;
    byId("nearest").replaceChildren();
    byId("classes").replaceChildren();
    byId("latency").textContent = "";
    byId("results").classList.add("empty");
    this.say(text);
  }

  /** The picture of what was found; a button where there is something to copy. */
  shown({ picture, text, name }) {
    if (!text) return picture ?? make("span", { className: "no-picture", textContent: "no picture" });
    const button = make("button", { type: "button", className: "copy", title: `Copy ${text}`, onclick: () => this.copy(text) }, picture);
    button.setAttribute("aria-label", `Copy ${text}, ${name}`);
    return button;
  }

  async copy(text) {
    try {
      await navigator.clipboard.writeText(text);
      this.say(`Copied: ${text}`);
    } catch {
      this.say(`This browser does not let a page copy. Here it is to be marked: ${text}`);
    }
  }

  showFound(found) {
    byId("results").classList.remove("empty");
    byId("nearest").replaceChildren(...found.map((one) => make("li", {},
      this.shown(one),
      make("span", { className: "name", textContent: one.name, title: one.name }),
      bar(one.cosine),
      make("span", { className: "number", textContent: one.cosine.toFixed(2) }))));
  }

  showClasses(classes) {
    byId("classes-part").hidden = !classes.length;
    byId("classes").replaceChildren(...classes.map((one) => make("li", {},
      make("span", { className: "name", title: one.name }, make("span", { textContent: one.name }), ...(one.isOwn ? [make("b", { textContent: " yours" })] : [])),
      bar(one.probability),
      make("span", { className: "number", textContent: `${(100 * one.probability).toFixed(1)} %` }))));
  }

  showFacts() {
    const requests = performance.getEntriesByType("resource").filter((one) => !/^(blob|data):/.test(one.name)).length;
    const isInside = document.body.dataset.mode === "single", files = [...assetBytes.values()].reduce((sum, one) => sum + one, 0);
    byId("fact-ready").textContent = `${(this.readyMs / 1000).toFixed(1)} s`;
    byId("fact-latency").textContent = this.latencies.length ? `${median(this.latencies).toFixed(1)} ms` : "–";
    byId("fact-requests").textContent = isInside ? String(requests) : `${requests}, all of this folder`;
    byId("fact-page").textContent = megabytes(isInside ? this.pageBytes : this.pageBytes + files);
    byId("fact-engine").textContent = this.engine.provider === "webgpu" ? "WebGPU" : "WebAssembly";
    byId("engine-why").textContent = this.engine.why;
  }
}
