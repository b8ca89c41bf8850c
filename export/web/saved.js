"use strict";
// Files of classes by example and of saved embeddings, as infer.py writes and reads them: numpy's .npz. No DOM.
// Shapes: K classes, D embedding dimension, N saved embeddings.

const CLASSES_FORMAT = "edgecmd.classes 1", GALLERY_FORMAT = "edgecmd.gallery 1";
const MOST_BYTES = 2 ** 26, UNIT_GAP = 1e-3, SHOWN_LETTERS = 12, END_BYTES = 22, LONGEST_COMMENT = 65535;

const CRC_TABLE = Uint32Array.from({ length: 256 }, (_, value) => {
  for (let bit = 0; bit < 8; bit++) value = value & 1 ? (value >>> 1) ^ 0xedb88320 : value >>> 1;
  return value;
});

function crc32(bytes) {
  let crc = 0xffffffff;
  for (const byte of bytes) crc = (crc >>> 8) ^ CRC_TABLE[(crc ^ byte) & 255];
  return (crc ^ 0xffffffff) >>> 0;
}

function joinBytes(parts) {
  const whole = new Uint8Array(parts.reduce((sum, part) => sum + part.length, 0));
  let at = 0;
  for (const part of parts) { whole.set(part, at); at += part.length; }
  return whole;
}

/** A .npy: `kind` is f4, f8 or i8 with numbers, or U with texts; an empty shape is one value. */
function npy(kind, values, shape) {
  let width = Number(kind.slice(1)), write = { f4: "setFloat32", f8: "setFloat64" }[kind];
  if (kind === "U") width = Math.max(1, ...values.map((text) => [...text].length));
  const size = kind === "U" ? 4 * width : width, data = new Uint8Array(values.length * size), view = new DataView(data.buffer);
  values.forEach((value, i) => {
    if (kind === "U") [...value].forEach((letter, place) => view.setUint32(i * size + 4 * place, letter.codePointAt(0), true));
    else if (kind === "i8") view.setBigInt64(i * size, BigInt(value), true);
    else view[write](i * size, value, true);
  });
  const sizes = shape.length === 1 ? `${shape[0]},` : shape.join(", ");
  const header = `{'descr': '<${kind === "U" ? `U${width}` : kind}', 'fortran_order': False, 'shape': (${sizes}), }`;
  const padded = `${header}${" ".repeat(63 - ((10 + header.length) % 64))}\n`;
  const start = Uint8Array.from([0x93, ...[..."NUMPY"].map((one) => one.charCodeAt(0)), 1, 0, padded.length & 255, padded.length >> 8]);
  return joinBytes([start, new TextEncoder().encode(padded), data]);
}

/** A zip archive of files as they are, dated 1980 so that equal arrays give equal bytes. */
function zipOf(files) {
  const parts = [], entries = [];
  let place = 0;
  for (const [name, data] of Object.entries(files)) {
    const letters = new TextEncoder().encode(name), fields = new Uint8Array(26), view = new DataView(fields.buffer);
    // Version 2.0, no flags, stored, 1980-01-01; then checksum, sizes and the length of the name.
    [20, 0, 0, 0, 33].forEach((value, i) => view.setUint16(2 * i, value, true));
    [crc32(data), data.length, data.length].forEach((value, i) => view.setUint32(10 + 4 * i, value, true));
    view.setUint16(22, letters.length, true);
    parts.push(Uint8Array.from([80, 75, 3, 4]), fields, letters, data);
    const rest = new Uint8Array(14);
    new DataView(rest.buffer).setUint32(10, place, true);
    entries.push(Uint8Array.from([80, 75, 1, 2, 20, 0]), fields, rest, letters);
    place += 30 + letters.length + data.length;
  }
  const end = new Uint8Array(END_BYTES), view = new DataView(end.buffer), num = Object.keys(files).length;
  end.set([80, 75, 5, 6]);
  view.setUint16(8, num, true);
  view.setUint16(10, num, true);
  view.setUint32(12, joinBytes(entries).length, true);
  view.setUint32(16, place, true);
  return joinBytes([...parts, ...entries, end]);
}

/** Files of a zip archive by name; each is compared with its checksum. */
async function unzip(bytes) {
  if (bytes.length > MOST_BYTES) throw new Error(`it has ${(bytes.length / 1e6).toFixed(0)} MB; allowed are ${MOST_BYTES / 1e6 | 0}`);
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  let end = bytes.length - END_BYTES;
  while (end >= 0 && view.getUint32(end, true) !== 0x06054b50 && bytes.length - end < END_BYTES + LONGEST_COMMENT) end--;
  if (end < 0 || view.getUint32(end, true) !== 0x06054b50) throw new Error("it is no .npz, or is cut off");
  const found = {};
  for (let num = view.getUint16(end + 10, true), at = view.getUint32(end + 16, true); num > 0; num--) {
    if (view.getUint32(at, true) !== 0x02014b50) throw new Error("its list of arrays is broken");
    const method = view.getUint16(at + 10, true), crc = view.getUint32(at + 16, true);
    const [packed, size] = [20, 24].map((place) => view.getUint32(at + place, true));
    const [name, extra, comment] = [28, 30, 32].map((place) => view.getUint16(at + place, true));
    const text = new TextDecoder().decode(bytes.subarray(at + 46, at + 46 + name)), local = view.getUint32(at + 42, true);
    const start = local + 30 + view.getUint16(local + 26, true) + view.getUint16(local + 28, true);
    if (start + packed > bytes.length || size > MOST_BYTES) throw new Error(`the array ${text} is cut off or too large`);
    const data = await unpacked(bytes.subarray(start, start + packed), method, size);
    if (data.length !== size || crc32(data) !== crc) throw new Error(`the array ${text} is damaged: its checksum is wrong`);
    if (text in found) throw new Error(`two of its arrays are called ${text}`);
    found[text] = data;
    at += 46 + name + extra + comment;
  }
  return found;
}

async function unpacked(data, method, size) {
  if (method === 0) return data;
  if (method !== 8) throw new Error("it is packed in a way that is not read");
  const reader = new Blob([data]).stream().pipeThrough(new DecompressionStream("deflate-raw")).getReader(), parts = [];
  for (let length = 0; ;) {
    const { done, value } = await reader.read();
    if (done) return joinBytes(parts);
    length += value.length;
    if (length > size) throw new Error("an array is larger than it says");
    parts.push(value);
  }
}

/** { kind, shape, values } of a .npy; kind is U, f or i. */
function parseNpy(bytes) {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  if (bytes.length < 12 || view.getUint32(0) !== 0x934e554d || bytes[6] < 1 || bytes[6] > 3) throw new Error("an array is none of numpy");
  const start = bytes[6] > 1 ? 12 : 10, end = start + (bytes[6] > 1 ? view.getUint32(8, true) : view.getUint16(8, true));
  const header = new TextDecoder().decode(bytes.subarray(start, end));
  const descr = /'descr':\s*'<(U|f|i)(\d+)'/.exec(header), sizes = /'shape':\s*\(([\d,\s]*)\)/.exec(header);
  if (!descr || !sizes || !/'fortran_order':\s*False/.test(header)) throw new Error("an array is of a type that is not read here");
  const shape = sizes[1].split(",").filter((one) => one.trim()).map(Number), count = shape.reduce((all, one) => all * one, 1);
  const [, kind, digits] = descr, width = Number(digits) * (kind === "U" ? 4 : 1), get = NUMBERS[kind + digits];
  if (!width || bytes.length - end !== count * width || (kind !== "U" && !get)) throw new Error("an array has another size than it says");
  const text = (at) => String.fromCodePoint(...Array.from({ length: width / 4 }, (_, i) => view.getUint32(at + 4 * i, true))).replace(/\0+$/, "");
  const one = kind === "U" ? text : (at) => Number(view[get](at, true));
  return { kind, shape, values: Array.from({ length: count }, (_, i) => one(end + i * width)) };
}

const NUMBERS = { f4: "getFloat32", f8: "getFloat64", i4: "getInt32", i8: "getBigInt64" };

/** The bytes of a file of classes, as infer.py's --prototypes reads them. */
function packClasses(classes, digest) {
  const num = classes.names.length, dim = classes.vectors[0].length;
  const arrays = {
    format: npy("U", [CLASSES_FORMAT], []), model: npy("U", [digest], []), names: npy("U", classes.names, [num]),
    vectors: npy("f4", classes.vectors.flatMap((row) => [...row]), [num, dim]), scale: npy("f8", [classes.scale], []),
  };
  if (classes.lengths) Object.assign(arrays, { lengths: npy("f8", classes.lengths, [num]), counts: npy("i8", classes.counts, [num]) });
  if (classes.rejection) {
    const { threshold, accepts, rejects } = classes.rejection;
    Object.assign(arrays, { threshold: npy("f8", [threshold], []), errors: npy("i8", [...accepts, ...rejects], [2, 2]) });
  }
  return npz(arrays);
}

/** The bytes of a file of saved embeddings, as infer.py's --gallery reads them. */
function packGallery({ names, vectors }, digest) {
  return npz({
    format: npy("U", [GALLERY_FORMAT], []), model: npy("U", [digest], []), names: npy("U", names, [names.length]),
    vectors: npy("f4", vectors.flatMap((row) => [...row]), [names.length, vectors[0].length]),
  });
}

function npz(arrays) {
  return zipOf(Object.fromEntries(Object.entries(arrays).map(([name, data]) => [`${name}.npy`, data])));
}

async function arraysOf(bytes) {
  const files = await unzip(bytes);
  return new Map(Object.entries(files).map(([name, data]) => [name.replace(/\.npy$/, ""), parseNpy(data)]));
}

/** Classes of a file, which may hold anything. What is wrong is said in one sentence that begins with `label`. */
async function parseClasses(bytes, { dim, digest, label }) {
  return named(label, "no file of classes", async () => {
    const found = await arraysOf(bytes);
    if (found.has("format")) refuseFormat(found, CLASSES_FORMAT);
    lacking(found, "names", "vectors", "scale");
    const { names, rows } = rowsOf(found), [scale] = found.get("scale").values;
    if (found.get("scale").values.length !== 1 || found.get("scale").kind === "U" || !(scale > 0 && scale < Infinity)) {
      throw new Error("its scale is no number above 0");
    }
    if (new Set(names).size < names.length) throw new Error("two of its classes have one name");
    const classes = { names, vectors: rows, scale, ...countsOf(found, names.length), rejection: rejectionOf(found) };
    if (found.has("format")) { refuseRows(names, rows); refuseModel(found, digest); }
    refuseDim(rows, dim);
    return classes;
  });
}

/** Saved embeddings of a file, which may hold anything. */
async function parseGallery(bytes, { dim, digest, label }) {
  return named(label, "no file of saved embeddings", async () => {
    const found = await arraysOf(bytes);
    if (found.has("format")) refuseFormat(found, GALLERY_FORMAT);
    lacking(found, "format", "model", "names", "vectors");
    const { names, rows } = rowsOf(found);
    refuseRows(names, rows);
    refuseModel(found, digest);
    refuseDim(rows, dim);
    return { names, vectors: rows };
  });
}

/** An error about the model, said as it is. */
class OtherModel extends Error {}

async function named(label, what, read) {
  try {
    return await read();
  } catch (error) {
    // A RangeError: a number in the file points outside it.
    const reason = error instanceof RangeError ? "it is damaged" : error.message;
    throw new Error(error instanceof OtherModel ? `${label} ${reason}` : `${label} is ${what} that can be used: ${reason}.`);
  }
}

function lacking(found, ...names) {
  const gone = names.filter((name) => !found.has(name));
  if (gone.length) throw new Error(`it lacks ${gone.join(", ")}`);
}

function textOf(array) { return array && array.kind === "U" && array.values.length === 1 ? array.values[0] : ""; }

function refuseFormat(found, expected) {
  const given = textOf(found.get("format"));
  if (given !== expected) throw new Error(`its format is “${given.slice(0, 40)}”, and “${expected}” is read here`);
}

function refuseModel(found, digest) {
  lacking(found, "model");
  const given = textOf(found.get("model"));
  if (!/^[0-9a-f]{64}$/.test(given)) throw new Error("its model is no SHA-256");
  if (given !== digest) {
    const [one, other] = [given, digest].map((text) => `${text.slice(0, SHOWN_LETTERS)}…`);
    throw new OtherModel(`was made with another model (${one}, this page has ${other}), so it means nothing here. Make it again with this one.`);
  }
}

function refuseDim(rows, dim) {
  if (rows[0].length !== dim) {
    throw new OtherModel(`has embeddings of ${rows[0].length} numbers, and this model gives ${dim}: it is of another model.`);
  }
}

function rowsOf(found) {
  const names = found.get("names"), vectors = found.get("vectors"), [num, dim] = vectors.shape;
  const fits = names.shape.length === 1 && names.kind === "U" && names.values.length && vectors.shape.length === 2;
  if (!fits || num !== names.values.length || vectors.kind !== "f") throw new Error("its names and vectors do not fit together");
  if (!vectors.values.every(Number.isFinite)) throw new Error("its vectors have numbers that are not finite");
  return { names: names.values, rows: names.values.map((_, i) => Float32Array.from(vectors.values.slice(i * dim, (i + 1) * dim))) };
}

function refuseRows(names, rows) {
  const length = (row) => Math.sqrt(row.reduce((sum, value) => sum + value * value, 0));
  if (rows.some((row) => !(Math.abs(length(row) - 1) <= UNIT_GAP))) throw new Error("its vectors are not of length 1");
  if (!names.every(Boolean)) throw new Error("it has an empty name");
}

function countsOf(found, num) {
  if (!found.has("lengths") && !found.has("counts")) return { lengths: null, counts: [] };
  lacking(found, "lengths", "counts");
  const lengths = found.get("lengths"), counts = found.get("counts");
  const fits = [lengths, counts].every((one) => one.shape.length === 1 && one.shape[0] === num) && lengths.kind === "f" && counts.kind === "i";
  if (!fits || !counts.values.every((one) => one >= 1) || !lengths.values.every((one) => one > 0 && one <= 1 + UNIT_GAP)) {
    throw new Error("its counts of examples are none");
  }
  return { lengths: lengths.values, counts: counts.values };
}

function rejectionOf(found) {
  if (!found.has("threshold") && !found.has("errors")) return null;
  lacking(found, "threshold", "errors");
  const threshold = found.get("threshold"), errors = found.get("errors"), [a, b, c, d] = errors.values;
  if (threshold.shape.length || threshold.kind !== "f" || !(Math.abs(threshold.values[0]) <= 1 + UNIT_GAP)) {
    throw new Error("its threshold is no cosine");
  }
  if (errors.kind !== "i" || errors.shape.join() !== "2,2" || Math.min(a, b, c, d) < 0 || a > b || c > d || b < 1) {
    throw new Error("its rates of wrong answers are none");
  }
  return { threshold: threshold.values[0], accepts: [a, b], rejects: [c, d] };
}

if (typeof module !== "undefined") module.exports = { packClasses, packGallery, parseClasses, parseGallery };
