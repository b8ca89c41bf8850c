"use strict";
// Classes by example in the page, and a search of saved embeddings: the arithmetic of infer.py, also run by Node.
// Shapes: K classes, D embedding dimension, N inputs. A row is an array of D numbers.
// Classes are { names, vectors (K rows), scale, lengths (K) or null, counts (K) or empty, rejection or null };
// a rejection is { threshold, accepts: [how many, of how many], rejects: [how many, of how many] }.

const CLASS_SCALE = 10, FALSE_ACCEPTS = 0.05, LEAST_LENGTH = 1e-6;

function dot(one, other) {
  let sum = 0;
  for (let i = 0; i < one.length; i++) sum += one[i] * other[i];
  return sum;
}

function noClasses() {
  return { names: [], vectors: [], scale: CLASS_SCALE, lengths: [], counts: [], rejection: null };
}

/** A mean as a row of length 1, in 32 bits as files have it, and its length before. */
function unitOf(mean, name) {
  const length = Math.sqrt(dot(mean, mean));
  if (!(length > LEAST_LENGTH)) throw new Error(`The examples of “${name}” cancel each other out. Give others.`);
  return { vector: Float32Array.from(mean, (value) => value / length), length };
}

function meanOf(rows, name) {
  if (!rows.length || rows.some((row) => row.some((value) => !Number.isFinite(value)))) {
    throw new Error(`“${name}” needs one example or more, of finite numbers.`);
  }
  const sum = new Float64Array(rows[0].length);
  for (const row of rows) for (let i = 0; i < sum.length; i++) sum[i] += row[i];
  return unitOf(sum.map((value) => value / rows.length), name);
}

/** The mean of a class before it was scaled to length 1. */
function meanAt(classes, at) {
  return Float64Array.from(classes.vectors[at], (value) => value * (classes.lengths ? classes.lengths[at] : 1));
}

/** Refuse a name that a file would not give back. */
function refuseName(name) {
  if (!name || name.endsWith("\0")) throw new Error("Give the class a name first.");
}

/** A class more; or, of a class that is there, the mean over its examples so far and these. What was measured of
 * rejection is dropped: it held for other classes. */
function withExamples(classes, name, rows) {
  refuseName(name);
  const at = classes.names.indexOf(name), isNew = at < 0;
  if (!isNew && !classes.lengths) {
    throw new Error(`“${name}” cannot grow: its file does not say of how many examples it is. Remove it and draw it again.`);
  }
  let { vector, length } = meanOf(rows, name), count = rows.length;
  if (!isNew) {
    const before = classes.counts[at], mean = meanAt(classes, at);
    const total = mean.map((value, i) => before * value + count * length * vector[i]);
    count += before;
    ({ vector, length } = unitOf(total.map((value) => value / count), name));
  }
  const put = (values, value) => (isNew ? [...values, value] : values.map((one, i) => (i === at ? value : one)));
  return {
    names: put(classes.names, name), vectors: put(classes.vectors, vector), scale: classes.scale,
    lengths: classes.lengths && put(classes.lengths, length),
    counts: classes.lengths ? put(classes.counts, count) : [], rejection: null,
  };
}

/** All classes but one. */
function withoutClass(classes, name) {
  const at = classes.names.indexOf(name);
  if (at < 0) throw new Error(`There is no class “${name}”.`);
  const but = (values) => values.filter((_, i) => i !== at);
  return {
    names: but(classes.names), vectors: but(classes.vectors), scale: classes.scale,
    lengths: classes.lengths && but(classes.lengths), counts: but(classes.counts), rejection: null,
  };
}

/** Classes of several files; of two with one name the later is used. The scale is that of the first. */
function merged(parts) {
  if (parts.length === 1) return parts[0];
  const last = new Map();
  for (const part of parts) part.names.forEach((name, at) => last.set(name, { part, at }));
  const found = [...last.values()], isKnown = found.every(({ part }) => part.lengths);
  return {
    names: [...last.keys()], vectors: found.map(({ part, at }) => part.vectors[at]), scale: parts[0].scale,
    lengths: isKnown ? found.map(({ part, at }) => part.lengths[at]) : null,
    counts: isKnown ? found.map(({ part, at }) => part.counts[at]) : [], rejection: null,
  };
}

/** Softmax of the scaled cosines, (K). */
function prototypeScores(embedding, classes) {
  const logits = classes.vectors.map((vector) => classes.scale * dot(embedding, vector)), top = Math.max(...logits);
  const powers = logits.map((value) => Math.exp(value - top)), sum = powers.reduce((all, one) => all + one, 0);
  return powers.map((value) => value / sum);
}

/** Scores of the trained classes, and behind them those of the classes by example; together they are 1. */
function joinedScores(embedding, trained, classes) {
  const cosine = Math.max(...classes.vectors.map((vector) => dot(embedding, vector)));
  const share = 0.5 + 0.5 * Math.tanh(0.5 * classes.scale * (cosine - classes.rejection.threshold));
  return [...Array.from(trained, (one) => (1 - share) * one), ...prototypeScores(embedding, classes).map((one) => share * one)];
}

/** The class that an embedding is nearest to, their cosine, and whether it is accepted; null: no threshold. */
function nearestClass(embedding, classes) {
  const cosines = classes.vectors.map((vector) => dot(embedding, vector));
  const at = cosines.indexOf(Math.max(...cosines));
  const accepted = classes.rejection ? cosines[at] > classes.rejection.threshold : null;
  return { name: classes.names[at], cosine: cosines[at], accepted };
}

/** Cosine of each example with its nearest class, had it not been an example itself; none of a class of one. */
function leftOut(classes, name, rows) {
  const at = classes.names.indexOf(name);
  if (!classes.lengths || classes.counts[at] < 2) return [];
  const mean = meanAt(classes, at);
  return rows.map((row) => {
    const rest = mean.map((value, i) => classes.counts[at] * value - row[i]);
    const own = dot(row, rest) / Math.max(Math.sqrt(dot(rest, rest)), LEAST_LENGTH);
    return Math.max(own, ...classes.vectors.filter((_, i) => i !== at).map((vector) => dot(row, vector)));
  });
}

/** The classes with a threshold for inputs of none of them: the first, third, ... stranger set it, the others
 * measure false accepts; `known` are cosines of inputs of the classes, which measure false rejects. */
function calibrated(classes, strangers, { known = [], falseAccepts = FALSE_ACCEPTS } = {}) {
  const cosines = strangers.map((row) => Math.max(...classes.vectors.map((vector) => dot(row, vector))));
  const setting = cosines.filter((_, i) => i % 2 === 0), measuring = cosines.filter((_, i) => i % 2 === 1);
  const rank = Math.min(Math.floor((setting.length + 1) * falseAccepts + 1e-9), setting.length);
  if (rank < 1 || !measuring.length) {
    const least = Math.max(2, 2 * Math.ceil(1 / falseAccepts - 1 - 1e-9) - 1);
    throw new Error(`${cosines.length} drawings of no class are too few to allow so little; at least ${least} are needed.`);
  }
  const threshold = setting.sort((a, b) => a - b)[setting.length - rank];
  const count = (values, holds) => [values.filter(holds).length, values.length];
  return { ...classes, rejection: {
    threshold, accepts: count(measuring, (one) => one > threshold), rejects: count(known, (one) => one <= threshold),
  } };
}

/** The `top` saved embeddings nearest to one: name, cosine and place, the nearest first; of equals the earlier. */
function searchSaved(gallery, embedding, top) {
  const found = gallery.names.map((name, row) => ({ name, cosine: dot(gallery.vectors[row], embedding), row }));
  return found.sort((a, b) => b.cosine - a.cosine || a.row - b.row).slice(0, top);
}

if (typeof module !== "undefined") {
  module.exports = {
    noClasses, withExamples, withoutClass, merged, prototypeScores, joinedScores, nearestClass, leftOut, calibrated, searchSaved,
  };
}
