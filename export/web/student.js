"use strict";
// What the page computes, without any of the page: also run by Node in the tests.
// Shapes: S side of the drawing, R side that the model takes, C channels, N pictures, D embedding dimension.

const INT16_MAX = 32767;

/** Grey levels (S*S) averaged in blocks to R x R, rounded half up, as the training pictures were; R divides S. */
function blockMean(grey, side, size) {
  const block = side / size, count = block * block, small = new Uint8Array(size * size);
  for (let row = 0; row < size; row++) {
    for (let column = 0; column < size; column++) {
      let sum = 0;
      for (let y = row * block; y < (row + 1) * block; y++) {
        for (let x = column * block; x < (column + 1) * block; x++) sum += grey[y * side + x];
      }
      small[row * size + column] = Math.floor((2 * sum + count) / (2 * count));
    }
  }
  return small;
}

/** Grey levels of RGBA bytes with the weights of ITU-R 601-2, rounded as Pillow does. */
function toGrey(rgba) {
  const grey = new Uint8Array(rgba.length / 4);
  for (let i = 0; i < grey.length; i++) {
    grey[i] = (rgba[4 * i] * 19595 + rgba[4 * i + 1] * 38470 + rgba[4 * i + 2] * 7471 + 32768) >> 16;
  }
  return grey;
}

/** Where a picture is drawn, as `drawImage` takes it, on a canvas of `side` whole blocks of the `size` pixels that
 * the model sees: squeezed into it, its middle square, or whole between borders, as the training pictures were. */
function placement(width, height, { side, size, fit }) {
  const short = Math.min(width, height), long = Math.max(width, height), block = side / size;
  const middle = (whole, part) => Math.floor((whole - part) / 2);
  if (fit === "crop") return [middle(width, short), middle(height, short), short, short, 0, 0, side, side];
  if (fit !== "pad") return [0, 0, width, height, 0, 0, side, side];
  const shown = [width, height].map((one) => Math.max(1, Math.floor((2 * size * one + long) / (2 * long))));
  const starts = shown.map((one) => middle(size, one));
  return [0, 0, width, height, ...[...starts, ...shown].map((one) => one * block)];
}

/** Bytes that the model is fed: (1, R, R, C), or (1, S, S, C) where the model takes any size. */
function modelInput(rgba, side, info) {
  const grey = toGrey(rgba), size = info.fixed_size || side;
  const pixels = size === side ? grey : blockMean(grey, side, size);
  const data = new Uint8Array(pixels.length * info.channels);
  for (let i = 0; i < pixels.length; i++) data.fill(pixels[i], i * info.channels, (i + 1) * info.channels);
  return { data, dims: [1, size, size, info.channels] };
}

/** Bytes of a picture of any size (1, H, W, C), for a model that takes it and resizes it itself, as infer.py does. */
function pictureInput(rgba, width, height, info) {
  if (info.channels === 1) return { data: toGrey(rgba), dims: [1, height, width, 1] };
  return { data: Uint8Array.from(rgba.filter((_, i) => i % 4 < 3)), dims: [1, height, width, 3] };
}

/** What the core is fed: the pixels of the student's own size (1, R, R, C), scaled, channels first. */
function coreInput({ data, dims }, { offset, scale }) {
  const [, height, width, channels] = dims, count = height * width, scaled = new Float32Array(data.length);
  for (let i = 0; i < count; i++) {
    for (let c = 0; c < channels; c++) scaled[c * count + i] = (data[i * channels + c] / 255 - offset) / scale;
  }
  return { data: scaled, dims: [1, channels, height, width] };
}

/** Let the runtime use one thread and these bytes; nothing is fetched. */
function prepareRuntime(ort, wasm) {
  ort.env.wasm.numThreads = 1;
  // An engine that cannot run the model is told on the page, and not in the console.
  ort.env.logLevel = "fatal";
  ort.env.wasm.wasmBinary = wasm.buffer.slice(wasm.byteOffset, wasm.byteOffset + wasm.byteLength);
}

/** A session of the model on one thread; `wasm` are the bytes of the runtime. */
async function openSession(ort, wasm, model) {
  prepareRuntime(ort, wasm);
  return createSession(ort, model, "wasm");
}

async function createSession(ort, model, provider) {
  return ort.InferenceSession.create(model, { executionProviders: [provider], graphOptimizationLevel: "all" });
}

/** Run the model once. Returns the embedding (D), the class probabilities or null, and milliseconds. */
async function embed(ort, session, input) {
  const isCore = input.data instanceof Float32Array;
  const tensor = new ort.Tensor(isCore ? "float32" : "uint8", input.data, input.dims);
  const started = performance.now();
  const outputs = await session.run({ [session.inputNames[0]]: tensor });
  const milliseconds = performance.now() - started;
  const scores = outputs.scores ? Float32Array.from(outputs.scores.data) : null;
  return { embedding: Float32Array.from(outputs.embedding.data), scores, milliseconds };
}

/** Unit vectors (N*D) out of little-endian 16-bit fixed point. */
function readVectors(bytes) {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const vectors = new Float32Array(bytes.byteLength / 2);
  for (let i = 0; i < vectors.length; i++) vectors[i] = view.getInt16(2 * i, true) / INT16_MAX;
  return vectors;
}

/** The `count` nearest names with cosine and row, each name once, by its nearest picture. */
function nearest(embedding, vectors, names, count) {
  const dim = embedding.length, best = new Map();
  for (let row = 0; row < names.length; row++) {
    let cosine = 0;
    for (let i = 0; i < dim; i++) cosine += embedding[i] * vectors[row * dim + i];
    const known = best.get(names[row]);
    if (!known || cosine > known.cosine) best.set(names[row], { name: names[row], cosine, row });
  }
  return [...best.values()].sort((a, b) => b.cosine - a.cosine || a.row - b.row).slice(0, count);
}

/** The `count` likeliest classes; those behind the first `numTrained` are the user's own. */
function likeliest(scores, classes, count, numTrained = classes.length) {
  const all = classes.map((name, index) => ({ name, probability: scores[index], isOwn: index >= numTrained }));
  return all.sort((a, b) => b.probability - a.probability).slice(0, count);
}

if (typeof module !== "undefined") {
  module.exports = {
    blockMean, toGrey, placement, modelInput, pictureInput, coreInput, prepareRuntime, openSession, createSession, embed, readVectors, nearest, likeliest,
  };
}
