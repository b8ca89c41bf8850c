// Calls the student of an edgecmd bundle in JavaScript: golden inputs in, and how far its outputs are from theirs.
// It needs a bundle of `edgecmd export RUN --profiles w8,core`. In Node, with `npm install onnxruntime-node` or with
// the folder that `edgecmd web fetch` names in EDGECMD_ORT_WEB:
//
//   node brief.mjs BUNDLE
//
// In a page, with this file and that folder's two files beside it:
//
//   import * as ort from "./ort.wasm.bundle.min.mjs";
//   import { compare } from "./brief.mjs";
//   const { text } = await compare(ort, async (name) => (await fetch(`BUNDLE/${name}`)).arrayBuffer());
//
// What makes the input of a picture is in embed.mjs, a folder above, as are the checks of a bundle.
// Exit codes: 0 all well; 2 a file cannot be used; 6 an output differs by more than core.json allows.
// Checked: run in Node with onnxruntime-web, and in a page (tests/export/test_samples_short.py).

/** What to print, and the exit code; `read` gives the ArrayBuffer of a bundle's file. */
export async function compare(ort, read) {
  const json = async (name) => JSON.parse(new TextDecoder().decode(await read(name)));
  const record = await json("core.json");
  if (record.format !== "1") throw new Error(`core.json has format ${record.format}; this sample reads 1`);
  const raw = async (name) => { // little-endian float32, rows first
    const { file, shape } = record.cases[0].arrays.find((one) => one.name === name);
    const bytes = await read(file), needed = shape.reduce((all, one) => all * one, 4);
    if (bytes.byteLength !== needed) throw new Error(`${file} has ${bytes.byteLength} bytes; core.json says ${needed}`);
    return new Float32Array(bytes);
  };
  const scaled = await raw("scaled"), { shape } = record.input, size = shape.reduce((all, one) => all * one);
  const names = record.outputs.map((one) => one.name), expected = await Promise.all(names.map(raw));

  const session = await ort.InferenceSession.create(new Uint8Array(await read(record.model)));
  const rows = []; // the core takes one input at a time
  for (let at = 0; at < scaled.length; at += size) {
    rows.push(await session.run({ scaled: new ort.Tensor("float32", scaled.slice(at, at + size), shape) }, names));
  }

  const gaps = names.flatMap((name, i) => {
    const found = rows.flatMap((row) => [...row[name].data]);
    return Array.from(expected[i], (one, j) => Math.abs(one - found[j]));
  });
  const gap = Math.max(...gaps), allowed = record.tolerance.outputs, { embedding, scores } = rows[0];
  let told = `first values ${[...embedding.data.slice(0, 4)].map((one) => one.toFixed(4)).join(" ")}`;
  if (scores) {
    const best = scores.data.indexOf(Math.max(...scores.data));
    told = `nearest class ${(await json("labels.json"))[best]} ${scores.data[best].toFixed(4)}`;
  }
  return { text: `differs by ${gap.toPrecision(3)}, allowed ${allowed}\n${told}`, code: gap <= allowed ? 0 : 6 };
}

/** The program in Node; its exit code. */
export async function main([folder]) {
  try {
    const [{ readFile }, { createRequire }, { pathToFileURL }] = await Promise.all(
      ["fs/promises", "module", "url"].map((name) => import(`node:${name}`)));
    const web = process.env.EDGECMD_ORT_WEB, here = createRequire(`${process.cwd()}/x`);
    const ort = web ? await import(pathToFileURL(`${web}/ort.wasm.bundle.min.mjs`)) : here("onnxruntime-node");
    if (web) Object.assign(ort.env.wasm, { numThreads: 1, wasmBinary: await readFile(`${web}/ort-wasm-simd-threaded.wasm`) });
    const { text, code } = await compare(ort, async (name) => Uint8Array.from(await readFile(`${folder}/${name}`)).buffer);
    console.log(text);
    return code;
  } catch (error) {
    console.error(`error: this is no bundle that brief.mjs reads (${String(error.message ?? error).split("\n")[0]}).`);
    return 2;
  }
}

if (globalThis.process?.argv[1]?.endsWith("brief.mjs")) process.exitCode = await main(process.argv.slice(2));
