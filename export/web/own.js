"use strict";
// The user's own classes and drawings on the page: made here, searched here, saved to files that infer.py reads.

const NUM_EXAMPLES = 3, THUMBNAIL = 44, NUM_SAVED_PICTURES = 2000;

function shown(name) { return name.replace(/_/g, " "); }

function counted(num, one, more = `${one}s`) { return `${num} ${num === 1 ? one : more}`; }

function rate([some, all]) { return `${some} (${((100 * some) / all).toFixed(1)} %) of ${all}`; }

/** Offer bytes as a file. */
function download(bytes, name) {
  const url = URL.createObjectURL(new Blob([bytes], { type: "application/octet-stream" }));
  make("a", { href: url, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(url), 10_000);
}

/** A small copy of what is on a canvas. */
function thumbnailOf(source) {
  const canvas = make("canvas", { width: THUMBNAIL, height: THUMBNAIL }), context = canvas.getContext("2d");
  canvas.setAttribute("aria-hidden", "true");
  context.imageSmoothingQuality = "high";
  context.fillStyle = "#fff";
  context.fillRect(0, 0, THUMBNAIL, THUMBNAIL);
  const scale = THUMBNAIL / Math.max(source.width, source.height), [width, height] = [source.width * scale, source.height * scale];
  context.drawImage(source, (THUMBNAIL - width) / 2, (THUMBNAIL - height) / 2, width, height);
  return canvas;
}

class OwnClasses {
  constructor(app) {
    this.app = app;
    this.classes = noClasses();
    this.examples = new Map();
    this.pending = new Map();
    this.kept = new Kept(() => window.localStorage, app.info.digest);
    byId("teach").onsubmit = (event) => { event.preventDefault(); this.run(() => this.takeDrawing()); };
    byId("class-files").onchange = (event) => this.run(() => this.takeFiles(takenFiles(event.target)));
    byId("classes-load").onchange = (event) => this.run(() => this.load(takenFiles(event.target)[0]));
    byId("classes-save").onclick = () => this.run(() => download(packClasses(this.classes, this.app.info.digest), "classes.npz"));
    byId("allowed").onchange = () => this.run(() => { this.measure(); this.changed(); });
  }

  say(text, { isBad = false } = {}) { tell("own-status", text, isBad); }

  /** Do what a button asks for; what is wrong is one sentence. */
  async run(work) {
    try { await work(); } catch (error) { this.say(error.message ?? String(error), { isBad: true }); }
  }

  /** What this browser kept of an earlier visit. */
  async start(strangers) {
    this.strangers = strangers;
    let text = null;
    try {
      text = this.kept.text();
    } catch {
      this.say("This browser keeps nothing for this page: save your classes to a file.", { isBad: true });
    }
    try {
      if (text) await this.restore(this.kept.read(text));
    } catch {
      this.say("What this browser kept of your classes is damaged and was left out. Load them from a file.", { isBad: true });
    }
    this.show();
  }

  async restore({ bytes, examples }) {
    const found = await parseClasses(bytes, { ...this.expected(), label: "What this browser kept" });
    const rows = [...examples.values()].flat();
    if (rows.some((row) => row.length !== this.app.info.embedding_dim)) throw new Error("other examples");
    this.classes = found;
    this.examples = examples;
  }

  expected() { return { dim: this.app.info.embedding_dim, digest: this.app.info.digest }; }

  takeName() {
    // A half of a letter of two halves is no text.
    const name = byId("class-name").value.trim().replace(/\p{Surrogate}/gu, "\ufffd");
    if (!name) {
      byId("class-name").focus();
      throw new Error("Give the class a name first.");
    }
    this.refuseTrained([name]);
    return name;
  }

  refuseTrained(names) {
    const { classes, labels } = this.app.info, taken = names.find((name) => classes.includes(name) || labels.includes(name));
    if (taken) throw new Error(`“${taken}” is one of the trained classes too. Give yours another name.`);
  }

  async takeDrawing() {
    const name = this.takeName(), { pad } = this.app;
    if (pad.isEmpty) throw new Error(`Draw “${name}” first, then add it.`);
    const picture = thumbnailOf(pad.canvas), { embedding } = await this.app.embedExactly(this.app.padInput());
    this.add(name, [embedding], [picture]);
    pad.clear();
  }

  async takeFiles(files) {
    const name = this.takeName();
    const { rows, pictures, failed } = await this.app.embedFiles(files, (text) => this.say(text));
    if (rows.length) this.add(name, rows, pictures);
    if (failed.length) this.say(`${failed.join(", ")}: no picture that this browser can read.`, { isBad: true });
  }

  /** Examples of a class: a new one is there once it has three. */
  add(name, rows, pictures) {
    const isNew = !this.classes.names.includes(name), waiting = this.pending.get(name) ?? { rows: [], pictures: [] };
    const all = isNew ? [...waiting.rows, ...rows] : rows;
    if (isNew && all.length < NUM_EXAMPLES) {
      this.pending.set(name, { rows: all, pictures: [...waiting.pictures, ...pictures] });
      this.say(`“${shown(name)}”: ${counted(NUM_EXAMPLES - all.length, "more drawing")}, and it is a class.`);
      return this.show();
    }
    this.classes = withExamples(this.classes, name, all);
    this.examples.set(name, [...(this.examples.get(name) ?? []), ...all]);
    this.pending.delete(name);
    const count = this.classes.counts[this.classes.names.indexOf(name)];
    this.say(`“${shown(name)}” is ${isNew ? "a class now, " : ""}the mean of ${counted(count, "example")}.`);
    this.measure();
    return this.changed();
  }

  remove(name) {
    if (!this.pending.delete(name)) {
      this.classes = withoutClass(this.classes, name);
      this.examples.delete(name);
      if (!this.classes.names.length) this.classes = noClasses();
      this.measure();
    }
    this.say(`“${shown(name)}” is gone.`);
    this.changed();
    byId("class-name").focus();
  }

  async load(file) {
    const found = await parseClasses(await bytesOf(file), { ...this.expected(), label: file.name });
    this.refuseTrained(found.names);
    this.classes = this.classes.names.length ? merged([this.classes, found]) : found;
    for (const name of found.names) { this.examples.delete(name); this.pending.delete(name); }
    if (!this.classes.rejection) this.measure();
    this.say(`${counted(found.names.length, "class", "classes")} of ${file.name}: ${found.names.map(shown).join(", ")}.`);
    this.changed();
  }

  /** The threshold for these classes, where the page has other drawings to measure it with. */
  measure() {
    if (!this.strangers || !this.classes.names.length) return;
    const known = this.classes.names.flatMap((name) => leftOut(this.classes, name, this.examples.get(name) ?? []));
    this.classes = calibrated(this.classes, this.strangers, { known, falseAccepts: Number(byId("allowed").value) / 100 });
  }

  changed() {
    this.show();
    this.keep();
    this.app.changed(true);
  }

  keep() {
    try {
      if (this.classes.names.length) this.kept.write(packClasses(this.classes, this.app.info.digest), this.examples);
      else this.kept.forget();
    } catch {
      this.say("This browser has no room to keep your classes: they last until the page is closed. Save them to a file.", { isBad: true });
    }
  }

  show() {
    const { names, counts, lengths } = this.classes, rows = [];
    for (const [name, { pictures }] of this.pending) {
      rows.push(this.row(name, `${pictures.length} of ${NUM_EXAMPLES} drawings`, pictures));
    }
    names.forEach((name, at) => rows.push(this.row(name, lengths ? counted(counts[at], "example") : "examples not told", [])));
    byId("own-classes").replaceChildren(...rows);
    byId("class-names").replaceChildren(...names.map((name) => make("option", { value: name })));
    byId("classes-save").disabled = !names.length;
    byId("allowed-part").hidden = !this.strangers || !names.length;
    byId("rates").textContent = names.length ? this.rates() : "";
  }

  row(name, text, pictures) {
    const button = make("button", { type: "button", textContent: "Remove", className: "small" });
    button.setAttribute("aria-label", `Remove ${shown(name)}`);
    button.onclick = () => this.run(() => this.remove(name));
    return make("li", {}, make("span", { className: "name", textContent: shown(name) }), make("span", { className: "quiet", textContent: text }),
      make("span", { className: "thumbs" }, ...pictures), button);
  }

  /** The threshold and how often it was wrong, in words. */
  rates() {
    const { rejection } = this.classes;
    if (!rejection) return "There is no threshold: the page has no other drawings to measure one with, so every drawing is given the nearest class.";
    const { threshold, accepts, rejects } = rejection;
    const words = `A drawing is none of yours when its cosine with the nearest class is ${threshold.toFixed(2)} or less. `
      + `Of other drawings, ${rate(accepts)} were wrongly taken for yours. `;
    return words + (rejects[1] ? `Of your examples, each judged without itself, ${rate(rejects)} were wrongly turned away.`
      : "How many of yours are turned away was not measured.");
  }
}

/** Embeddings of the user's own drawings, which are searched beside the page's pictures. */
class OwnDrawings {
  constructor(app) {
    this.app = app;
    this.names = [];
    this.vectors = [];
    this.pictures = [];
    byId("drawings-files").onchange = (event) => this.run(() => this.takeFiles(takenFiles(event.target)));
    byId("drawings-add").onclick = () => this.run(() => this.takeDrawing());
    byId("drawings-load").onchange = (event) => this.run(() => this.load(takenFiles(event.target)[0]));
    byId("drawings-save").onclick = () => this.run(() => download(packGallery(this, app.info.digest), "drawings.npz"));
    byId("drawings-empty").onclick = () => this.run(() => { this.names = []; this.vectors = []; this.pictures = []; this.changed("Empty."); });
    byId("place").onchange = () => app.changed(true);
    this.show();
  }

  async run(work) {
    try { await work(); } catch (error) { tell("drawings-status", error.message ?? String(error), true); }
  }

  put(names, vectors, pictures) {
    if (this.names.length + names.length > NUM_SAVED_PICTURES) {
      throw new Error(`That would be ${this.names.length + names.length} drawings; allowed are ${NUM_SAVED_PICTURES}.`);
    }
    this.names = [...this.names, ...names];
    this.vectors = [...this.vectors, ...vectors];
    this.pictures = [...this.pictures, ...pictures];
  }

  async takeDrawing() {
    if (this.app.pad.isEmpty) throw new Error("Draw something first, then add it.");
    const picture = thumbnailOf(this.app.pad.canvas), { embedding } = await this.app.embedExactly(this.app.padInput());
    this.put([`drawing ${this.names.length + 1}`], [embedding], [picture]);
    this.changed(`Added as drawing ${this.names.length}.`);
  }

  async takeFiles(files) {
    const { rows, pictures, names, failed } = await this.app.embedFiles(files, (text) => tell("drawings-status", text));
    this.put(names, rows, pictures);
    const bad = failed.length ? ` ${failed.join(", ")}: no picture that this browser can read.` : "";
    this.changed(`${counted(rows.length, "picture")} embedded.${bad}`, Boolean(bad));
  }

  async load(file) {
    const { dim, digest } = { dim: this.app.info.embedding_dim, digest: this.app.info.digest };
    const found = await parseGallery(await bytesOf(file), { dim, digest, label: file.name });
    this.put(found.names, found.vectors, found.names.map(() => null));
    this.changed(`${counted(found.names.length, "embedding")} of ${file.name}; the file has no pictures, only names.`);
  }

  changed(text, isBad = false) {
    tell("drawings-status", text, isBad);
    byId("place").value = this.names.length ? "own" : "page";
    this.show();
    this.app.changed(true);
  }

  show() {
    byId("drawings-count").textContent = this.names.length ? counted(this.names.length, "drawing") : "none yet";
    byId("drawings-save").disabled = byId("drawings-empty").disabled = !this.names.length;
    byId("place-part").hidden = !this.names.length || !this.app.info.gallery;
  }

  /** Whether the results are to come from here. */
  get isSearched() { return this.names.length > 0 && (!this.app.info.gallery || byId("place").value === "own"); }

  nearest(embedding, top) { return searchSaved(this, embedding, top).map((one) => ({ ...one, picture: this.pictures[one.row] })); }
}

/** Files that were chosen; the same may be chosen again. */
function takenFiles(input) {
  const files = [...input.files];
  input.value = "";
  return files;
}

async function bytesOf(file) {
  if (file.size > MOST_BYTES) throw new Error(`${file.name} is too large to be a file of embeddings.`);
  return new Uint8Array(await file.arrayBuffer());
}

function tell(id, text, isBad = false) {
  byId(id).textContent = text;
  byId(id).classList.toggle("bad", isBad);
}
