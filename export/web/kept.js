"use strict";
// What stays in this browser: classes by example of one model, with the embeddings of their examples.

/** Text for bytes, and back. */
function toBase64(bytes) { return btoa(Array.from(bytes, (one) => String.fromCharCode(one)).join("")); }

/** A shelf of `storage` (localStorage, or a stand-in); classes of another model lie on another. */
class Kept {
  constructor(storage, digest) {
    this.storage = storage;
    this.key = `edgecmd.classes ${digest}`;
  }

  /** What was kept, as it lies there; null where nothing is. It throws where this browser keeps nothing. */
  text() { return this.storage().getItem(this.key); }

  /** { bytes, examples } of such a text; examples are rows by class. */
  read(text) {
    const { file, examples } = JSON.parse(text);
    const rows = (packed) => {
      const bytes = fromBase64(packed.rows), all = new Float32Array(bytes.buffer.slice(bytes.byteOffset, bytes.byteOffset + bytes.length));
      return Array.from({ length: all.length / packed.dim }, (_, i) => all.slice(i * packed.dim, (i + 1) * packed.dim));
    };
    return { bytes: fromBase64(file), examples: new Map(examples.map(([name, packed]) => [name, rows(packed)])) };
  }

  write(bytes, examples) {
    const packed = [...examples].filter(([, rows]) => rows.length).map(([name, rows]) => {
      const all = Float32Array.from(rows.flatMap((row) => [...row]));
      return [name, { dim: rows[0].length, rows: toBase64(new Uint8Array(all.buffer)) }];
    });
    this.storage().setItem(this.key, JSON.stringify({ file: toBase64(bytes), examples: packed }));
  }

  forget() { this.storage().removeItem(this.key); }
}

if (typeof module !== "undefined") module.exports = { Kept, toBase64 };
