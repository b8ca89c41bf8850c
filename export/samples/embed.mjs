// Runs the core of an edgecmd bundle in Node: checks it, embeds a picture, keeps classes by example.
// It needs a bundle of `edgecmd export RUN --profiles w8,core`, and a runtime: `npm install onnxruntime-node`, or
// the folder that `edgecmd web fetch` names in EDGECMD_ORT_WEB. Pictures are binary PGM or PPM of 8 bits.
//
//   node embed.mjs BUNDLE                                              # the golden files alone
//   node embed.mjs BUNDLE picture.pgm [CLASS=example.pgm ...]          # classes by example, else the trained ones
//   node embed.mjs BUNDLE picture.pgm --classes mine.npz [CLASS=more.pgm ...] [--remove CLASS]
//                         [--calibrate FOLDER [--false-accepts 0.05]] [--save mine.npz]
//
// Class files are those of the core in Python (export/device/saved_embeddings.py). Everything is exported, so it
// is a module too. Exit codes: 0 all well; 2 a file cannot be used; 6 a golden value differs.
// Checked: run in Node against the golden files and the Python of edgecmd (tests/export/test_samples.py).
import { createHash } from "node:crypto";
import { existsSync, readdirSync, readFileSync, realpathSync, renameSync, writeFileSync } from "node:fs";
import { createRequire } from "node:module";
import { basename, join } from "node:path";
import { fileURLToPath, pathToFileURL } from "node:url";
import { inflateRawSync } from "node:zlib";

const FORMAT = "1", CLASSES_FORMAT = "edgecmd.classes 1", MOST_BYTES = 2 ** 28, MOST_PIXELS = 2 ** 26;
const ARRAYS = { uint8: Uint8Array, uint16: Uint16Array, float32: Float32Array };

/** A file cannot be used, or a golden value differs: a sentence and an exit code. */
export class Refused extends Error {
  constructor(message, exitCode = 2) { super(message); this.exitCode = exitCode; }
}

// ---- The bundle: core.json, raw files, preprocessing, student ----

export function readRecord(folder) {
  let record;
  try { record = JSON.parse(readFileSync(join(folder, "core.json"), "utf8")); } catch (error) {
    throw new Refused(`${join(folder, "core.json")} cannot be read (${error.message}). Export with --profiles w8,core.`);
  }
  if (record?.format !== FORMAT) {
    throw new Refused(`core.json has format ${record?.format}; this sample reads ${FORMAT}. Take that edgecmd's sample.`);
  }
  return record;
}

/** Numbers of one raw file, of exactly the size that its header says: { data, shape }. */
export function readRaw(folder, { file, dtype, shape, byte_order: order }) {
  const Kind = ARRAYS[dtype], count = shape.reduce((all, one) => all * one, 1);
  if (!Kind || order !== "little" || basename(file) !== file || !shape.every((one) => Number.isInteger(one) && one > 0)) {
    throw new Refused(`core.json has a header that this sample does not read: ${JSON.stringify({ file, dtype, shape, order })}`);
  }
  const bytes = readFileSync(join(folder, file)), needed = count * Kind.BYTES_PER_ELEMENT;
  if (bytes.length !== needed) {
    throw new Refused(`${file} has ${bytes.length} bytes; its header needs ${needed}. Copy the bundle again.`);
  }
  return { data: new Kind(Uint8Array.from(bytes).buffer), shape };
}

/** For each of `num` numbers the pixels that it is made of, of `pixels`: whole blocks, or a linear filter. */
function shares(num, pixels, blocks) {
  const zoom = pixels / num, reach = Math.max(zoom, 1);
  return Array.from({ length: num }, (_, i) => {
    const parts = [], centre = (i + 0.5) * zoom;
    for (let j = Math.max(0, Math.floor(centre - reach) - 1); j < Math.min(pixels, centre + reach + 1); j++) {
      const gap = Math.abs(j + 0.5 - centre);
      const share = blocks ? (gap < zoom / 2 ? 1 : 0) : Math.max(0, 1 - gap / reach);
      if (share > 0) parts.push([j, share]);
    }
    const total = parts.reduce((sum, [, share]) => sum + share, 0);
    return parts.map(([j, share]) => [j, share / total]);
  });
}

/** The front end `image`: bytes (height, width, channels) of any size to what the student sees, channels first. */
export function see({ data, height: high, width: wide, channels }, { image_size: side, fit, offset, scale }) {
  const short = Math.min(high, wide), crop = fit === "crop", half = (whole, part) => Math.floor((whole - part) / 2);
  const [height, width] = crop ? [short, short] : [high, wide];
  const [top, left] = crop ? [half(high, short), half(wide, short)] : [0, 0];
  const long = Math.max(height, width);
  const [rows, columns] = [height, width].map((one) =>
    fit === "pad" ? Math.max(1, Math.floor((2 * side * one + long) / (2 * long))) : side);
  const blocks = height % rows === 0 && width % columns === 0;
  const down = shares(rows, height, blocks), across = shares(columns, width, blocks);
  const scaled = new Float32Array(channels * side * side).fill((1 - offset) / scale);
  for (let channel = 0; channel < channels; channel++) {
    down.forEach((lines, row) => {
      const line = new Float64Array(width);
      for (const [y, share] of lines) {
        for (let x = 0; x < width; x++) line[x] += share * data[((top + y) * wide + left + x) * channels + channel];
      }
      across.forEach((parts, column) => {
        const level = Math.floor(parts.reduce((sum, [x, share]) => sum + share * line[x], 0) + 0.501);
        const place = (channel * side + half(side, rows) + row) * side + half(side, columns) + column;
        scaled[place] = (level / 255 - offset) / scale;
      });
    });
  }
  return scaled;
}

/** The core in ONNX Runtime: `run` gives its outputs by name, `digest` is what class files name. */
export async function openStudent(folder, record) {
  const bytes = readFileSync(join(folder, basename(record.model))), { ort, providers } = await loadRuntime();
  let session;
  try { session = await ort.InferenceSession.create(bytes, { executionProviders: providers, logSeverityLevel: 4 }); }
  catch (error) { throw new Refused(`${record.model} cannot be loaded: ${firstLine(error)}`); }
  const { name, shape } = record.input, names = record.outputs.map((one) => one.name);
  return {
    names,
    dim: record.outputs[0].shape[1],
    digest: createHash("sha256").update(bytes).digest("hex"),
    async run(scaled) {
      const found = await session.run({ [name]: new ort.Tensor("float32", scaled, shape) });
      return Object.fromEntries(names.map((one) => [one, Float32Array.from(found[one].data)]));
    },
  };
}

async function loadRuntime() {
  const web = process.env.EDGECMD_ORT_WEB;
  try {
    if (!web) return { ort: createRequire(join(process.cwd(), "x"))("onnxruntime-node"), providers: ["cpu"] };
    const ort = await import(pathToFileURL(join(web, "ort.wasm.bundle.min.mjs")));
    Object.assign(ort.env.wasm, { numThreads: 1, wasmBinary: readFileSync(join(web, "ort-wasm-simd-threaded.wasm")) });
    ort.env.logLevel = "fatal";
    return { ort, providers: ["wasm"] };
  } catch (error) {
    throw new Refused(`No runtime (${firstLine(error)}): npm install onnxruntime-node, or set EDGECMD_ORT_WEB.`);
  }
}

const firstLine = (error) => String(error?.message ?? error).split("\n")[0];
const gapOf = (found, expected) => found.reduce((worst, one, i) => {
  const gap = Math.abs(one - expected[i]);
  return gap <= worst ? worst : Number.isFinite(gap) ? gap : Infinity;
}, 0);

/** Compare preprocessing and student, apart, with the golden files. Returns a line a case. */
export async function check(folder, record, student) {
  const lines = [], { name: front, numbers } = record.front_end;
  for (const one of record.cases) {
    const arrays = Object.fromEntries(one.arrays.map((header) => [header.name, readRaw(folder, header)]));
    const [num, ...inner] = arrays.scaled.shape, part = ({ data }, row) => data.subarray(row * data.length / num, (row + 1) * data.length / num);
    if (`${inner}` !== `${record.input.shape.slice(1)}`) throw new Refused(`scaled of ${one.name} is not the core's input.`);
    let seen = 0, given = 0;
    for (let row = 0; row < num; row++) {
      const scaled = part(arrays.scaled, row);
      if (front === "image") {
        const [, height, width, channels] = arrays.image.shape;
        seen = Math.max(seen, gapOf(see({ data: part(arrays.image, row), height, width, channels }, numbers), scaled));
      }
      const found = await student.run(scaled);
      for (const name of student.names) given = Math.max(given, gapOf(found[name], part(arrays[name], row)));
    }
    const told = front === "image" ? `differs by ${seen.toPrecision(3)}` : `(${front}) is not checked`;
    lines.push(`${one.name}: preprocessing ${told}, student by ${given.toPrecision(3)}`);
    if (!(seen <= record.tolerance.scaled && given <= record.tolerance.outputs)) {
      throw new Refused(`The golden values of ${one.name} differ by more than core.json allows: ${lines.pop()}`, 6);
    }
  }
  return lines;
}

/** A binary PGM or PPM of 8 bits: { data, height, width, channels }. */
export function readPicture(path, wanted) {
  let bytes;
  try { bytes = readFileSync(path); } catch (error) { throw new Refused(`${path} cannot be read (${error.message}).`); }
  const space = String.raw`(?:\s|#[^\n]*\n)+`;
  const header = new RegExp(`^P([56])${space}(\\d{1,9})${space}(\\d{1,9})${space}(\\d{1,5})\\s`).exec(bytes.toString("latin1", 0, 4096));
  const [width, height, largest] = header ? header.slice(2).map(Number) : [0, 0, 0], channels = header?.[1] === "6" ? 3 : 1;
  if (largest !== 255 || !(width * height >= 1 && width * height <= MOST_PIXELS)) {
    throw new Refused(`${path} is no binary PGM or PPM of 8 bits with 1 to ${MOST_PIXELS} pixels.`);
  }
  if (channels !== wanted) throw new Refused(`${path} has ${channels} channels; the student takes ${wanted}.`);
  const data = bytes.subarray(header[0].length, header[0].length + width * height * channels);
  if (data.length < width * height * channels) throw new Refused(`${path} is cut off: it has ${data.length} bytes of pixels.`);
  return { data, height, width, channels };
}

// ---- Classes by example, as export/device/classes.py ----
// { names, vectors: [Float32Array of length 1], scale, lengths and counts (null where unknown), rejection or null }

export const noClasses = () => ({ names: [], vectors: [], scale: 10, lengths: [], counts: [], rejection: null });
const dot = (one, other) => one.reduce((sum, value, i) => sum + value * other[i], 0);

function unit(sum, count, name) {
  const mean = Array.from(sum, (one) => one / count), length = Math.sqrt(dot(mean, mean));
  if (!(length > 1e-6)) throw new Refused(`The examples of the class ${name} have no common direction. Give others.`);
  return [Float32Array.from(mean, (one) => one / length), length];
}

/** A class more; or, of one that is there, the mean over the examples so far and these unit rows. */
export function withExamples(classes, name, rows) {
  if (!name || name.endsWith("\0")) throw new Refused("A class cannot have an empty name.");
  const at = classes.names.indexOf(name), dim = (classes.vectors[0] ?? rows[0])?.length;
  if (!rows.length || rows.some((row) => row.length !== dim || !row.every(Number.isFinite))) {
    throw new Refused(`The examples of the class ${name} are no finite embeddings of ${dim} numbers.`);
  }
  if (at >= 0 && !classes.lengths) throw new Refused(`The class ${name} does not say of how many examples it is. Make it again.`);
  let [vector, length] = unit(rows.reduce((sum, row) => sum.map((one, i) => one + row[i]), new Float64Array(dim)), rows.length, name);
  let count = rows.length;
  if (at >= 0) {
    const before = classes.counts[at], old = classes.vectors[at];
    const total = old.length && Float64Array.from(old, (one, i) => before * (one * classes.lengths[at]) + count * length * vector[i]);
    count += before;
    [vector, length] = unit(total, count, name);
  }
  const place = at >= 0 ? at : classes.names.length, put = (list, one) => list && Object.assign([...list], { [place]: one });
  return { names: put(classes.names, name), vectors: put(classes.vectors, vector), scale: classes.scale,
    lengths: put(classes.lengths, length), counts: put(classes.counts, count), rejection: null };
}

/** All classes but one; what was measured of rejection is dropped, since it held for other classes. */
export function withoutClass(classes, name) {
  const at = classes.names.indexOf(name), cut = (list) => list && list.filter((_, i) => i !== at);
  if (at < 0) throw new Refused(`There is no class ${name}; there are: ${classes.names.join(", ") || "none"}.`);
  return { names: cut(classes.names), vectors: cut(classes.vectors), scale: classes.scale,
    lengths: cut(classes.lengths), counts: cut(classes.counts), rejection: null };
}

/** The classes with a threshold that embeddings of no class set: every second one, the others measure it. */
export function calibrated(classes, strangers, { known = [], falseAccepts = 0.05 } = {}) {
  if (!(falseAccepts > 0 && falseAccepts < 1)) throw new Refused(`--false-accepts ${falseAccepts}: allowed is above 0 and below 1.`);
  const cosines = strangers.map((row) => Math.max(...classes.vectors.map((one) => dot(one, row))));
  const setting = cosines.filter((_, i) => i % 2 === 0), measuring = cosines.filter((_, i) => i % 2 === 1);
  const rank = Math.min(Math.trunc((setting.length + 1) * falseAccepts + 1e-9), setting.length);
  if (rank < 1 || !measuring.length) throw new Refused(`${cosines.length} pictures of no class are too few for --false-accepts ${falseAccepts}.`);
  const threshold = setting.sort((a, b) => a - b)[setting.length - rank];
  return { ...classes, rejection: { threshold,
    falseAccepts: [measuring.filter((one) => one > threshold).length, measuring.length],
    falseRejects: [known.filter((one) => one <= threshold).length, known.length] } };
}

/** The classes by cosine with a unit row, the nearest first; accepted: whether above the threshold, null without. */
export function nearest(classes, row) {
  const limit = classes.rejection?.threshold;
  return classes.names.map((name, i) => ({ name, cosine: dot(Array.from(classes.vectors[i]), row) }))
    .map((one) => ({ ...one, accepted: limit === undefined ? null : one.cosine > limit }))
    .sort((a, b) => b.cosine - a.cosine);
}

// ---- Class files: numpy's .npz, as export/device/saved_embeddings.py ----

const CRC = Uint32Array.from({ length: 256 }, (_, n) => {
  for (let k = 0; k < 8; k++) n = n & 1 ? 0xedb88320 ^ (n >>> 1) : n >>> 1;
  return n >>> 0;
});
const crc32 = (bytes) => ~bytes.reduce((crc, one) => CRC[(crc ^ one) & 255] ^ (crc >>> 8), -1) >>> 0;

/** One array as .npy: `kind` is numpy's, such as <f4; of text, values are strings. */
function npy(kind, shape, values) {
  let body;
  if (kind === "<U") {
    const codes = values.map((one) => Array.from(one, (letter) => letter.codePointAt(0)));
    const longest = Math.max(1, ...codes.map((one) => one.length));
    body = Uint32Array.from(codes.flatMap((one) => [...one, ...Array(longest - one.length).fill(0)]));
    kind = `<U${longest}`;
  } else body = { "<f4": Float32Array, "<f8": Float64Array, "<i8": BigInt64Array }[kind].from(values, kind === "<i8" ? BigInt : undefined);
  const sizes = shape.length === 1 ? `(${shape[0]},)` : `(${shape.join(", ")})`;
  const text = `{'descr': '${kind}', 'fortran_order': False, 'shape': ${sizes}, }`;
  const header = Buffer.from(`\x93NUMPY\x01\0\0\0${text.padEnd(Math.ceil((text.length + 11) / 64) * 64 - 11)}\n`, "latin1");
  header.writeUInt16LE(header.length - 10, 8);
  return Buffer.concat([header, Buffer.from(body.buffer)]);
}

/** Save classes beside their place and rename; `digest` is the student's. */
export function writeClasses(path, classes, digest) {
  if (!classes.names.length) throw new Refused("There is no class to save. Give examples of one.");
  const num = classes.names.length, dim = classes.vectors[0].length, { rejection } = classes;
  const arrays = { format: npy("<U", [], [CLASSES_FORMAT]), model: npy("<U", [], [digest]), names: npy("<U", [num], classes.names),
    vectors: npy("<f4", [num, dim], classes.vectors.flatMap((one) => [...one])), scale: npy("<f8", [], [classes.scale]) };
  if (classes.lengths) Object.assign(arrays, { lengths: npy("<f8", [num], classes.lengths), counts: npy("<i8", [num], classes.counts) });
  if (rejection) Object.assign(arrays, { threshold: npy("<f8", [], [rejection.threshold]),
    errors: npy("<i8", [2, 2], [...rejection.falseAccepts, ...rejection.falseRejects]) });
  const parts = [], index = [];
  let offset = 0;
  for (const [name, data] of Object.entries(arrays)) {
    const file = Buffer.from(`${name}.npy`), common = Buffer.alloc(26); // of the local and of the central header
    [20, 0, 0, 0, 33].forEach((one, i) => common.writeUInt16LE(one, 2 * i)); // version 2.0, stored, 1980-01-01
    [crc32(data), data.length, data.length].forEach((one, i) => common.writeUInt32LE(one, 10 + 4 * i));
    common.writeUInt16LE(file.length, 22);
    const tail = Buffer.alloc(14);
    tail.writeUInt32LE(offset, 10);
    index.push(Buffer.from("PK\x01\x02\x14\0", "latin1"), common, tail, file);
    parts.push(Buffer.from("PK\x03\x04", "latin1"), common, file, data);
    offset += 30 + file.length + data.length;
  }
  const end = Buffer.alloc(22), size = Buffer.concat(index).length, entries = Object.keys(arrays).length;
  end.write("PK\x05\x06", "latin1");
  [entries, entries].forEach((one, i) => end.writeUInt16LE(one, 8 + 2 * i));
  [size, offset].forEach((one, i) => end.writeUInt32LE(one, 12 + 4 * i));
  writeFileSync(`${path}.${process.pid}.tmp`, Buffer.concat([...parts, ...index, end]));
  renameSync(`${path}.${process.pid}.tmp`, path);
}

/** Arrays of an .npz by name: { kind, shape, values }. */
function npzArrays(bytes) {
  const arrays = {}, end = bytes.lastIndexOf(Buffer.from("PK\x05\x06", "latin1"));
  let at = bytes.readUInt32LE(end + 16), left = MOST_BYTES;
  for (let num = bytes.readUInt16LE(end + 10); num > 0; num--) {
    const [method, packed, size, letters, extra, note, local] = [10, 20, 24, 28, 30, 32, 42].map((place, i) =>
      [1, 2, 6].includes(i) ? bytes.readUInt32LE(at + place) : bytes.readUInt16LE(at + place));
    const name = bytes.toString("utf8", at + 46, at + 46 + letters).replace(/\.npy$/, "");
    const start = local + 30 + bytes.readUInt16LE(local + 26) + bytes.readUInt16LE(local + 28);
    const stored = bytes.subarray(start, start + packed);
    if ((left -= size) < 0 || ![0, 8].includes(method)) throw new Error(`${name} is too large or packed unknown`);
    const data = method ? inflateRawSync(stored, { maxOutputLength: size + 1 }) : stored;
    if (data.length !== size) throw new Error(`${name} is cut off`);
    arrays[name] = array(data, name);
    at += 46 + letters + extra + note;
  }
  return arrays;
}

function array(data, name) {
  const first = data[6] > 1 ? 12 : 10, start = first + (data[6] > 1 ? data.readUInt32LE(8) : data.readUInt16LE(8));
  const header = data.toString("latin1", first, start);
  const [, kind] = /'descr': '([<|][fiU]\d+)'/.exec(header) ?? [], [, sizes] = /'shape': \(([\d, ]*)\)/.exec(header) ?? [];
  if (!kind || sizes === undefined || header.includes("'fortran_order': True")) throw new Error(`${name} is no array that is read here`);
  const shape = sizes.split(",").filter((one) => one.trim()).map(Number), count = shape.reduce((all, one) => all * one, 1);
  const body = Uint8Array.from(data.subarray(start)).buffer, letters = Number(kind.slice(2));
  if (count * (kind[1] === "U" ? 4 * letters : letters) !== body.byteLength) throw new Error(`${name} is cut off`);
  const numbers = { f4: Float32Array, f8: Float64Array, i4: Int32Array, i8: BigInt64Array }[kind.slice(1)];
  if (numbers) return { kind: kind[1], shape, values: Array.from(new numbers(body), Number) };
  if (kind[1] !== "U") throw new Error(`${name} is no array that is read here`);
  const codes = new Uint32Array(body);
  const text = (_, i) => String.fromCodePoint(...codes.subarray(i * letters, (i + 1) * letters)).replace(/\0+$/, "");
  return { kind: "U", shape, values: Array.from({ length: count }, text) };
}

/** Classes of a file that Node or Python saved, or of a bundle's prototypes.npz; refused where it does not fit. */
export function readClasses(path, dim, digest) {
  try {
    const found = npzArrays(readFileSync(path)), one = (name) => found[name]?.values[0];
    const { names: { values: names }, vectors: { values: numbers, shape } } = found, num = names.length;
    if (found.format && one("format") !== CLASSES_FORMAT) throw new Error(`its format is ${one("format")}`);
    if (found.format && one("model") !== digest) throw new Error("it was made with another model, and cosines between two models mean nothing");
    if (!num || shape[0] !== num || shape[1] !== dim) throw new Error(`its vectors are ${shape.join(" x ")}, and ${num} x ${dim} is needed`);
    const vectors = names.map((_, i) => Float32Array.from(numbers.slice(i * dim, (i + 1) * dim)));
    if (!vectors.every((row) => Math.abs(Math.sqrt(dot(row, row)) - 1) <= 1e-3)) throw new Error("its vectors are not of length 1");
    if (new Set(names).size < num || !names.every(Boolean)) throw new Error("two classes have one name, or one has none");
    const lengths = found.lengths?.values ?? null, counts = found.counts?.values ?? null, errors = found.errors?.values;
    const fits = !lengths || (counts?.length === num && lengths.length === num && lengths.every((l) => l > 0 && l <= 1.001) && counts.every((c) => c >= 1));
    if (!fits || !(one("scale") > 0 && one("scale") < Infinity)) throw new Error("its scale, lengths or counts are out of range");
    const rejection = found.threshold ? { threshold: one("threshold"), falseAccepts: errors.slice(0, 2), falseRejects: errors.slice(2, 4) } : null;
    return { names, vectors, scale: one("scale"), lengths, counts, rejection };
  } catch (error) {
    throw new Refused(`${path} cannot be used as classes: ${firstLine(error)}.`);
  }
}

// ---- The program ----

const OPTIONS = ["--classes", "--remove", "--calibrate", "--false-accepts", "--save"];

async function answer([folder, picture, ...words]) {
  if (!folder) throw new Refused("Give a bundle: embed.mjs BUNDLE [picture.pgm [CLASS=example.pgm ...]]");
  const record = readRecord(folder), student = await openStudent(folder, record);
  for (const line of await check(folder, record, student)) console.log(line);
  if (picture === undefined) return;
  const { name: front, numbers } = record.front_end;
  if (front !== "image") throw new Refused(`The front end ${front} is not in this sample; its steps are in core.json.`);
  const embed = (path) => student.run(see(readPicture(path, numbers.channels), numbers));
  const options = {}, examples = new Map();
  for (let i = 0; i < words.length; i++) {
    const equals = words[i].indexOf("=");
    if (OPTIONS.includes(words[i]) && words[i + 1] !== undefined) options[words[i]] = words[++i];
    else if (equals > 0 && !words[i].startsWith("--")) {
      const name = words[i].slice(0, equals), { embedding } = await embed(words[i].slice(equals + 1));
      examples.set(name, [...(examples.get(name) ?? []), embedding]);
    } else throw new Refused(`${words[i]} is neither CLASS=example.pgm nor an option with a value: ${OPTIONS.join(" ")}`);
  }
  let classes = options["--classes"] ? readClasses(options["--classes"], student.dim, student.digest) : noClasses();
  for (const [name, rows] of examples) classes = withExamples(classes, name, rows);
  if (options["--remove"]) classes = withoutClass(classes, options["--remove"]);
  if (options["--calibrate"]) {
    if (!classes.names.length) throw new Refused("--calibrate needs classes: give --classes or examples.");
    const strangers = [];
    for (const file of readdirSync(options["--calibrate"]).filter((one) => /\.p[gp]m$/.test(one)).sort()) {
      strangers.push((await embed(join(options["--calibrate"], file))).embedding);
    }
    classes = calibrated(classes, strangers, { falseAccepts: Number(options["--false-accepts"] ?? 0.05) });
  }
  if (options["--save"]) writeClasses(options["--save"], classes, student.digest);
  const { embedding, scores } = await embed(picture);
  let best = nearest(classes, embedding).map(({ name, cosine, accepted }) => [name, cosine, accepted]);
  if (!best.length && scores) {
    const labels = JSON.parse(readFileSync(join(folder, "labels.json"), "utf8"));
    best = labels.map((name, i) => [name, scores[i]]).sort((a, b) => b[1] - a[1]);
  }
  const told = best.slice(0, 3).map(([name, score]) => `${name} ${score.toFixed(4)}`).join(", ");
  const first = `first values ${[...embedding.slice(0, 4)].map((one) => (one < 0 ? "" : "+") + one.toFixed(4)).join(" ")}`;
  console.log(`${picture}: ${best[0]?.[2] === false ? "none of the classes; nearest " : ""}${told || first}`);
}

/** Runs the program; its exit code. */
export async function main(words) {
  try {
    await answer(words);
    return 0;
  } catch (error) {
    const known = error instanceof Refused;
    console.error(`error: ${known ? error.message : `this is no bundle that this sample reads (${firstLine(error)}).`}`);
    return known ? error.exitCode : 2;
  }
}

if (existsSync(process.argv[1] ?? "") && realpathSync(process.argv[1]) === fileURLToPath(import.meta.url)) {
  main(process.argv.slice(2)).then((code) => process.exit(code));
}
