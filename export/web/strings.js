"use strict";
// Strings into bytes as training stored them, see edgecmd/data/modalities/string_bytes.py: also run by Node in tests.

const REFUSED = /[\p{Cc}\p{Cs}\p{Zl}\p{Zp}]/u;

/** NFC, and no white space at either end. */
function plain(text) { return text.normalize("NFC").replace(/^\p{Zs}+|\p{Zs}+$/gu, ""); }

/** Why a string cannot be looked at, as a sentence; empty: it can, or nothing is there yet. */
function problemOf(text) {
  const match = REFUSED.exec(text);
  return match ? `The character U+${match[0].codePointAt(0).toString(16).toUpperCase().padStart(4, "0")} is no part of a string. Remove it.` : "";
}

/** The longest beginning of at most `most` bytes that ends with a whole character, and no space. */
function cutText(text, most) {
  const encoder = new TextEncoder();
  let num = 0, kept = "";
  for (const letter of text) {
    num += encoder.encode(letter).length;
    if (num > most) return kept.replace(/\p{Zs}+$/u, "");
    kept += letter;
  }
  return kept;
}

/** Bytes that the model is fed (1, L), 0 behind the last; what was kept of the text, and how many bytes that is. */
function textInput(text, length) {
  const whole = plain(text), kept = cutText(whole, length), data = new Uint8Array(length);
  const bytes = new TextEncoder().encode(kept);
  data.set(bytes);
  return { data, dims: [1, length], kept, numBytes: bytes.length, isCut: kept !== whole };
}

/** The string of stored bytes. */
function textOf(bytes) {
  const end = bytes.indexOf(0);
  return new TextDecoder().decode(end < 0 ? bytes : bytes.subarray(0, end));
}

if (typeof module !== "undefined") module.exports = { plain, problemOf, cutText, textInput, textOf };
