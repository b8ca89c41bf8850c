"use strict";
// Which engine the page computes with: WebGPU where its answers to golden inputs are right, else WebAssembly. No DOM.
// Shapes: N golden inputs, R side that the model takes, C channels, D embedding dimension.

const WHOLE = "student.onnx", CORE = "student.core.onnx", NUM_ROUNDS = 3;

function middleOf(values) { return [...values].sort((a, b) => a - b)[values.length >> 1]; }

/** Largest difference of two lists of numbers; infinite where one is shorter or has no number. */
function largestGap(found, expected) {
  if (!found || found.length !== expected.length) return Infinity;
  return expected.reduce((most, value, i) => {
    const gap = Math.abs(found[i] - value);
    return gap >= 0 ? Math.max(most, gap) : Infinity;
  }, 0);
}

/** Largest difference from the golden values, and the time of one look, which is the median after the first round.
 * `look(row)` gives { embedding, scores, milliseconds }. */
async function tryGolden(look, expected) {
  const times = [];
  let gap = 0;
  for (let round = 0; round < NUM_ROUNDS; round++) {
    for (let row = 0; row < expected.embedding.length; row++) {
      const seen = await look(row);
      gap = Math.max(gap, largestGap(seen.embedding, expected.embedding[row]));
      if (expected.scores) gap = Math.max(gap, largestGap(seen.scores, expected.scores[row]));
      if (round > 0) times.push(seen.milliseconds);
    }
  }
  return { gap, isRight: gap <= expected.tolerance, milliseconds: middleOf(times) };
}

function shortReason(error) {
  const text = String(error?.message ?? error).replace(/\s+/g, " "), told = /Status Message: (.*)/.exec(text);
  return (told ? told[1] : text).slice(0, 160).replace(/[.\s]+$/, "");
}

/**
 * The engine of the page.
 *
 * `golden` has the expected values of each file by its name, or is null where nothing can be checked; `look(session,
 * file, row)` runs one golden input; `open(file, provider)` gives a session; `findGpu()` gives whether there is one.
 * Returns { provider, file, session, reference, isSound, why }: `reference` is the session of the whole model in
 * WebAssembly, which is there in any case; `isSound` is false where even that gives other numbers.
 */
async function chooseEngine({ golden, look, open, findGpu, hasGpuRuntime }) {
  const reference = await open(WHOLE, "wasm"), base = { provider: "wasm", file: WHOLE, session: reference, reference };
  if (!golden) return { ...base, isSound: true, why: "WebAssembly. The page has no golden inputs, so nothing was checked." };
  const told = await tryGolden((row) => look(reference, WHOLE, row), golden[WHOLE]);
  const num = golden[WHOLE].embedding.length, isSound = told.isRight;
  const checked = isSound ? `right for ${num} golden inputs (off by at most ${told.gap.toExponential(1)})`
    : `wrong: off by ${told.gap.toExponential(1)}, allowed ${golden[WHOLE].tolerance.toExponential(0)}`;
  const wasm = `WebAssembly is ${checked}, ${told.milliseconds.toFixed(1)} ms a look`;
  if (!hasGpuRuntime) return { ...base, isSound, why: `${wasm}. The page was made without WebGPU.` };
  if (!(await findGpu())) return { ...base, isSound, why: `${wasm}. This browser offers no WebGPU.` };
  const refused = [];
  for (const file of [WHOLE, CORE].filter((one) => golden[one])) {
    const name = file === WHOLE ? "the whole model" : "the student alone";
    try {
      const session = await open(file, "webgpu"), found = await tryGolden((row) => look(session, file, row), golden[file]);
      if (found.isRight) {
        const before = refused.length ? ` ${refused.join(" ")} The page scales the pixels itself.` : "";
        const told = `WebGPU computes ${name}: right for ${num} golden inputs (off by at most ${found.gap.toExponential(1)})`;
        return { provider: "webgpu", file, session, reference, isSound: true, why: `${told}, ${found.milliseconds.toFixed(1)} ms a look.${before} ${wasm}.` };
      }
      await session.release?.();
      refused.push(`WebGPU is wrong at ${name}: off by ${found.gap.toExponential(1)}, allowed ${golden[file].tolerance.toExponential(0)}.`);
    } catch (error) {
      refused.push(`WebGPU fails at ${name} (${shortReason(error)}).`);
    }
  }
  return { ...base, isSound, why: `${wasm}. ${refused.join(" ")}` };
}

if (typeof module !== "undefined") module.exports = { chooseEngine, tryGolden, largestGap };
