// Runs one file in ONNX Runtime Web; the job and what comes out are those of engine_worker.py. In Node it is a
// program of its own; in a browser a page imports it (engine_browser.py).

const ARRAYS = { float32: Float32Array, uint8: Uint8Array, uint16: Uint16Array };

/** Runs each case; `read` gives the bytes of a file. */
export async function runCases(ort, job, providers, read) {
  ort.env.wasm.numThreads = 1;
  ort.env.logLevel = "fatal";
  const session = await ort.InferenceSession.create(await read(job.model), { executionProviders: providers });
  const cases = [];
  for (const one of job.cases) {
    try {
      const bytes = await read(one.file);
      const data = new ARRAYS[one.dtype](bytes.buffer.slice(bytes.byteOffset, bytes.byteOffset + bytes.byteLength));
      const found = await session.run({ [job.input]: new ort.Tensor(one.dtype, data, one.shape) });
      const outputs = {};
      for (const name of job.outputs) outputs[name] = rows([...(await found[name].getData())], found[name].dims);
      cases.push({ outputs });
    } catch (error) {
      cases.push({ reason: String(error && error.message ? error.message : error) });
    }
  }
  return { version: ort.env.versions.web ?? ort.env.versions.common, cases };
}

/** Flat numbers as nested lists of these sizes. */
function rows(flat, dims) {
  if (dims.length < 2) return flat;
  const step = flat.length / dims[0];
  return Array.from({ length: dims[0] }, (_, place) =>
    rows(flat.slice(place * step, (place + 1) * step), dims.slice(1)));
}

if (typeof process !== "undefined" && process.argv?.[2]) {
  const { readFile, writeFile } = await import("node:fs/promises");
  const { pathToFileURL } = await import("node:url");
  const job = JSON.parse(process.argv[2]);
  const ort = await import(pathToFileURL(`${job.packages}/ort.wasm.bundle.min.mjs`));
  ort.env.wasm.wasmBinary = await readFile(`${job.packages}/ort-wasm-simd-threaded.wasm`);
  const result = await runCases(ort, job, ["wasm"], readFile);
  await writeFile(`${job.folder}/result.json`, JSON.stringify(result));
  process.exit(0);
}
