"use strict";
// Two files of one student side by side: their answers, times and sizes, and how often they agree.

const NUM_ANSWERS = 3;

class Second {
  constructor(app) {
    this.app = app;
    this.session = null;
    this.forget();
    byId("second").hidden = !app.info.second;
    byId("second-open").ontoggle = () => this.open();
    byId("second-all").onclick = () => this.lookAtExamples();
  }

  forget() { Object.assign(this, { times: [[], []], num: 0, numEqual: 0, least: 1 }); }

  get isOpen() { return this.session !== null && byId("second-open").open; }

  async open() {
    if (!byId("second-open").open || this.session) return;
    try {
      const session = await this.app.openFile("second.onnx");
      // The first look of a session is slow, so it is not counted.
      await this.app.embedWith(session, this.app.padInput());
      this.session = session;
      byId("second-size").textContent = `${megabytes(this.app.assetBytes.get("second.onnx"))} of this page are the second file.`;
      byId("second-all").hidden = !this.app.examples;
      this.app.changed(true);
    } catch (error) {
      tell("second-status", `The second file cannot be opened (${error.message ?? error}).`, true);
    }
  }

  /** What both files say of one input. */
  async look(input) {
    const seen = [await this.app.embedExactly(input), await this.app.embedWith(this.session, input)];
    seen.forEach((one, i) => this.times[i].push(one.milliseconds));
    return seen;
  }

  /** Count a finished drawing. */
  count([one, other]) {
    this.num += 1;
    this.numEqual += this.app.answers(one, 1)[0].name === this.app.answers(other, 1)[0].name ? 1 : 0;
    this.least = Math.min(this.least, dot(one.embedding, other.embedding));
  }

  async show(input, isFinished) {
    const seen = await this.look(input);
    if (isFinished) this.count(seen);
    this.table(seen);
  }

  async lookAtExamples() {
    const { size, names } = this.app.info.examples, all = this.app.examples;
    this.forget();
    let seen = null;
    for (let i = 0; i < names.length; i++) {
      seen = await this.look({ data: all.slice(i * size * size, (i + 1) * size * size), dims: [1, size, size, 1] });
      this.count(seen);
    }
    this.table(seen);
  }

  table(seen) {
    const { info } = this.app, sizes = [info.model_bytes, info.second.num_bytes];
    const answers = seen.map((one) => this.app.answers(one, NUM_ANSWERS)), cell = (text) => make("td", { textContent: text });
    const line = (title, texts) => make("tr", {}, make("th", { scope: "row", textContent: title }), ...texts.map(cell));
    byId("second-rows").replaceChildren(
      line("File", sizes.map(megabytes)),
      line("One look", this.times.map((times) => `${median(times).toFixed(1)} ms`)),
      ...Array.from({ length: Math.min(NUM_ANSWERS, answers[0].length) }, (_, i) =>
        line(["First answer", "Second", "Third"][i], answers.map((one) => `${one[i].name} (${one[i].number})`))));
    tell("second-status", this.num ? `The same first answer for ${this.numEqual} of ${counted(this.num, "drawing")}; smallest cosine of the two embeddings ${this.least.toFixed(4)}.` : "");
  }
}
