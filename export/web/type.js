"use strict";
// The page to type on: shows what the student finds while somebody types.

// After so long without a key, what was found is told to a screen reader too.
const QUIET_MS = 700;

class TypePage extends Page {
  constructor(info) {
    super(info);
    this.field = byId("words");
    // A method of input for Chinese, Japanese or Korean shows letters that are not meant yet.
    this.field.addEventListener("input", (event) => { if (!event.isComposing) this.typed(); });
    this.field.addEventListener("compositionend", () => this.typed());
    byId("typing").onsubmit = (event) => { event.preventDefault(); this.changed(true); };
    byId("clear").onclick = () => { this.field.value = ""; this.field.focus(); this.changed(true); };
    this.changed(true);
  }

  async unpack() {
    const { info } = this;
    if (info.examples) this.showExamples(await asset("examples.bin"));
  }

  typed() {
    clearTimeout(this.waiting);
    this.waiting = setTimeout(() => this.changed(true), QUIET_MS);
    this.changed(false);
  }

  changed(isFinished) {
    const { info } = this, problem = problemOf(this.field.value), input = textInput(this.field.value, info.image_size);
    byId("clear").disabled = !this.field.value;
    const isNamed = Boolean(info.gallery?.texts) && /\p{Extended_Pictographic}/u.test(input.kept);
    const named = isNamed ? " The student knows what emoji are called, not how they are written." : "";
    const cut = input.isCut ? ` Only “${input.kept}” is looked at.` : "";
    tellOf("told", problem || (this.isEmpty ? "" : `${input.numBytes} of ${info.image_size} bytes.${cut}${named}`), Boolean(problem));
    this.field.setAttribute("aria-invalid", String(Boolean(problem)));
    super.changed(isFinished);
  }

  get isEmpty() { return !plain(this.field.value) || Boolean(problemOf(this.field.value)); }

  firstInput() { return textInput("a", this.info.image_size); }

  async lookOnce() {
    const isFinished = this.isFinished, input = textInput(this.field.value, this.info.image_size), seen = await this.look1(input);
    this.latencies = [...this.latencies, seen.milliseconds].slice(-NUM_LATENCIES);
    // For the browser's console, and for the test that compares with Python.
    window.edgecmdSeen = { ...seen, input: input.data, dims: input.dims, isFinished };
    const found = this.found(seen), classes = seen.scores ? likeliest(seen.scores, this.info.labels, NUM_CLASSES) : [];
    this.showFound(found);
    this.showClasses(classes);
    this.showFacts();
    byId("latency").textContent = `${seen.milliseconds.toFixed(1)} ms`;
    if (isFinished) this.say(found.length ? `Nearest: ${found[0].name}` : `Likeliest: ${classes[0].name}`);
  }

  showNothing() { this.clearResults("Ready. Type something."); }

  showExamples(bytes) {
    const { size, num } = this.info.examples;
    byId("examples").replaceChildren(...Array.from({ length: num }, (_, row) => {
      const text = textOf(bytes.subarray(row * size, (row + 1) * size));
      const button = make("button", { type: "button", textContent: text, dir: "auto" });
      button.onclick = () => { this.field.value = text; this.changed(true); };
      return make("li", {}, button);
    }));
    byId("examples-part").hidden = false;
  }
}

function tellOf(id, text, isBad) {
  byId(id).textContent = text;
  byId(id).classList.toggle("bad", isBad);
}

const THIS_PAGE = TypePage;
