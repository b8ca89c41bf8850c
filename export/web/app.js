"use strict";
// The page to draw on: shows what the student finds.

const MOST_PIXELS = 2 ** 22;

/** Grey levels (size * size) on a canvas of that size. */
function showGrey(canvas, grey, size) {
  const picture = new ImageData(size, size);
  grey.forEach((level, i) => picture.data.set([level, level, level, 255], 4 * i));
  canvas.width = canvas.height = size;
  canvas.getContext("2d", { willReadFrequently: true }).putImageData(picture, 0, 0);
}

class App extends Page {
  constructor(info) {
    super(info);
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

  async unpack() {
    const { info } = this;
    if (info.examples) this.showExamples(await asset("examples.bin"));
    await this.own.start(info.num_strangers ? rowsOfVectors(readVectors(await asset("strangers.bin")), info.embedding_dim) : null);
  }

  get isEmpty() { return this.pad.isEmpty; }

  firstInput() { return this.padInput(); }

  /** The drawing as the whole model takes it. */
  padInput() { return modelInput(this.pad.pixels(), this.pad.side, this.info); }

  /** One look with the engine of the page. */
  look1(input) {
    const { session, file } = this.engine;
    if (file !== CORE) return super.look1(input);
    const small = modelInput(this.pad.pixels(), this.pad.side, { ...this.info, fixed_size: this.info.image_size });
    return this.embedWith(session, coreInput(small, this.info));
  }

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
    super.changed(isFinished);
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
    return this.drawings.isSearched ? this.drawings.nearest(seen.embedding, NUM_NEAREST) : super.found(seen);
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
    byId("verdict").textContent = "";
    this.clearResults("Ready. Draw something.");
    this.showSeen();
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

const THIS_PAGE = App;
