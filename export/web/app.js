"use strict";
// The page: loads what lies inside it or beside it, and shows what the student finds.

const NUM_NEAREST = 6, NUM_CLASSES = 6, NUM_LATENCIES = 50, MOST_PIXELS = 2 ** 22;
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

/** Grey levels (size * size) on a canvas of that size. */
function showGrey(canvas, grey, size) {
  const picture = new ImageData(size, size);
  grey.forEach((level, i) => picture.data.set([level, level, level, 255], 4 * i));
  canvas.width = canvas.height = size;
  canvas.getContext("2d", { willReadFrequently: true }).putImageData(picture, 0, 0);
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

class App {
  constructor(info) {
    this.info = info;
    this.latencies = [];
    this.assetBytes = assetBytes;
    this.turns = new Turns();
    this.isBusy = this.isWanted = this.isReady = this.isFinished = false;
    this.seen = { side: byId("pad").width, size: info.image_size, fit: info.fit };
    this.pad = new Pad(byId("pad"), byId("cursor"), {
      paper: info.paper, size: info.image_size, fit: info.fit, onChange: (done) => this.changed(done),
    });
    this.own = new OwnClasses(this);
    this.drawings = new OwnDrawings(this);
    this.second = new Second(this);
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
    if (info.examples) this.showExamples(await asset("examples.bin"));
    await this.own.start(info.num_strangers ? rowsOfVectors(readVectors(await asset("strangers.bin")), info.embedding_dim) : null);
    this.readyMs = performance.now();
    this.isReady = true;
    for (const control of document.querySelectorAll("[data-waits]")) control.disabled = false;
    document.body.dataset.state = "ready";
    this.showFacts();
    this.changed(true);
  }

  /** Find the engine whose answers to the golden inputs are right. */
  async choose(model) {
    const { info } = this, side = info.image_size, size = side * side * info.channels;
    const inputs = info.golden ? await asset("golden.bin") : null;
    const golden = info.golden && { ...info.golden, [CORE]: info.core_golden };
    const files = new Map([[WHOLE, model]]);
    this.engine = await chooseEngine({
      golden,
      look: (session, file, row) => {
        const input = { data: inputs.slice(row * size, (row + 1) * size), dims: [1, side, side, info.channels] };
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
    await this.look1(this.padInput());
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

  /** The drawing as the whole model takes it. */
  padInput() { return modelInput(this.pad.pixels(), this.pad.side, this.info); }

  embedWith(session, input) { return this.turns.take(() => embed(this.ort, session, input)); }

  /** By the whole model in WebAssembly, whatever the engine is: files name that model. */
  embedExactly(input) { return this.embedWith(this.engine.reference, input); }

  /** One look with the engine of the page. */
  look1(input) {
    const { session, file } = this.engine;
    if (file !== CORE) return this.embedWith(session, input);
    const small = modelInput(this.pad.pixels(), this.pad.side, { ...this.info, fixed_size: this.info.image_size });
    return this.embedWith(session, coreInput(small, this.info));
  }

  async openFile(name) { return createSession(this.ort, await asset(name), "wasm"); }

  /** What a picture file shows, as the model takes it, and a small copy. Transparent is white. */
  async fileInput(file) {
    const picture = await createImageBitmap(file, { colorSpaceConversion: "none" }), { info, seen } = this;
    const shrink = info.fixed_size ? 1 : Math.min(1, Math.sqrt(MOST_PIXELS / (picture.width * picture.height)));
    const [width, height] = info.fixed_size ? [seen.side, seen.side] : [picture.width, picture.height].map((one) => Math.max(1, Math.floor(one * shrink)));
    const canvas = make("canvas", { width, height }), context = canvas.getContext("2d", { willReadFrequently: true, colorSpace: "srgb" });
    context.fillStyle = "#fff";
    context.fillRect(0, 0, width, height);
    if (info.fixed_size) paintPicture(context, picture, { smooth: true, seen }); else context.drawImage(picture, 0, 0, width, height);
    const rgba = context.getImageData(0, 0, width, height).data;
    return { input: info.fixed_size ? modelInput(rgba, seen.side, info) : pictureInput(rgba, width, height, info), canvas };
  }

  /** Embeddings of picture files; those that cannot be read are named. */
  async embedFiles(files, say) {
    const found = { rows: [], names: [], pictures: [], failed: [] };
    for (const [at, file] of files.entries()) {
      say(`Embedding ${at + 1} of ${files.length} …`);
      try {
        const { input, canvas } = await this.fileInput(file), { embedding } = await this.embedExactly(input);
        found.rows.push(embedding);
        found.names.push(file.name);
        found.pictures.push(thumbnailOf(canvas));
      } catch {
        found.failed.push(file.name);
      }
    }
    return found;
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
    const isFinished = this.isFinished, input = this.padInput(), seen = await this.look1(input);
    this.latencies = [...this.latencies, seen.milliseconds].slice(-NUM_LATENCIES);
    // For the browser's console, and for the test that compares with Python.
    window.edgecmdSeen = { ...seen, input: input.data, dims: input.dims, isFinished };
    this.showSeen();
    const found = this.found(seen), classes = this.classesOf(seen);
    this.showFound(found);
    this.showClasses(classes);
    const verdict = this.verdictOf(seen);
    byId("verdict").textContent = verdict;
    this.showFacts();
    byId("latency").textContent = `${seen.milliseconds.toFixed(1)} ms`;
    if (this.second.isOpen) await this.second.show(input, isFinished);
    if (isFinished) this.say(found.length ? `Nearest: ${found[0].name}` : verdict || `Likeliest: ${classes[0].name}`);
  }

  /** The nearest pictures of the page, or of the user's own. */
  found(seen) {
    if (this.drawings.isSearched) return this.drawings.nearest(seen.embedding, NUM_NEAREST);
    if (!this.vectors) return [];
    const found = nearest(seen.embedding, this.vectors, this.info.gallery.names, NUM_NEAREST);
    return found.map((one) => ({ ...one, picture: tile(this.sheet, one.row, this.info.gallery) }));
  }

  /** The likeliest classes: the trained ones, and beside them or alone the user's own. */
  classesOf({ embedding, scores }) {
    const { labels } = this.info, { classes } = this.own, names = classes.names.map(shown);
    const isJoined = scores && names.length && classes.rejection;
    if (isJoined) return likeliest(joinedScores(embedding, scores, classes), [...labels, ...names], NUM_CLASSES, labels.length);
    if (names.length) return likeliest(prototypeScores(embedding, classes), names, NUM_CLASSES, 0);
    return scores ? likeliest(scores, labels, NUM_CLASSES, labels.length) : [];
  }

  /** Whether the drawing is one of the user's own classes, in words. */
  verdictOf({ embedding }) {
    const { classes } = this.own;
    if (!classes.names.length) return "";
    const { name, cosine, accepted } = nearestClass(embedding, classes), told = `${shown(name)}, cosine ${cosine.toFixed(2)}`;
    if (accepted === null) return `Nearest of your classes: ${told}`;
    return accepted ? `One of yours: ${told}` : `None of your classes (nearest: ${told})`;
  }

  /** First answers of a look: of the page's pictures, else of the trained classes. */
  answers({ embedding, scores }, count) {
    if (this.vectors) {
      return nearest(embedding, this.vectors, this.info.gallery.names, count).map(({ name, cosine }) => ({ name, number: cosine.toFixed(3) }));
    }
    return likeliest(scores, this.info.labels, count, 0).map(({ name, probability }) => ({ name, number: `${(100 * probability).toFixed(1)} %` }));
  }

  showNothing() {
    window.edgecmdSeen = undefined;
    byId("nearest").replaceChildren();
    byId("classes").replaceChildren();
    byId("latency").textContent = byId("verdict").textContent = "";
    byId("results").classList.add("empty");
    this.say("Ready. Draw something.");
    this.showSeen();
  }

  showFound(found) {
    byId("results").classList.remove("empty");
    byId("nearest").replaceChildren(...found.map((one) => make("li", {},
      one.picture ?? make("span", { className: "no-picture", textContent: "no picture" }),
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

  /** The small picture that the student gets: averaged here, or inside the model by the same rule. */
  showSeen() {
    const size = this.info.image_size, grey = blockMean(toGrey(this.pad.pixels()), this.pad.side, size);
    showGrey(byId("seen"), grey, size);
    byId("seen-size").textContent = `${size} × ${size}`;
  }

  showExamples(bytes) {
    const { size, names } = this.info.examples;
    this.examples = bytes;
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
    const isInside = document.body.dataset.mode === "single", files = [...assetBytes.values()].reduce((sum, one) => sum + one, 0);
    byId("fact-ready").textContent = `${(this.readyMs / 1000).toFixed(1)} s`;
    byId("fact-latency").textContent = this.latencies.length ? `${median(this.latencies).toFixed(1)} ms` : "–";
    byId("fact-requests").textContent = isInside ? String(requests) : `${requests}, all of this folder`;
    byId("fact-page").textContent = megabytes(isInside ? this.pageBytes : this.pageBytes + files);
    byId("fact-engine").textContent = this.engine.provider === "webgpu" ? "WebGPU" : "WebAssembly";
    byId("engine-why").textContent = this.engine.why;
  }

  async open(input) {
    const [file] = takenFiles(input);
    if (!file) return;
    try {
      this.pad.show(await createImageBitmap(file), { smooth: true });
    } catch {
      this.say(`${file.name} is not a picture that this browser can read.`);
    }
  }
}

/** Rows (N arrays of D numbers) of vectors that lie behind each other. */
function rowsOfVectors(vectors, dim) {
  return Array.from({ length: vectors.length / dim }, (_, i) => vectors.subarray(i * dim, (i + 1) * dim));
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
