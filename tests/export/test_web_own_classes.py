"""Classes by example in the page: its arithmetic against infer.py's, and files that both write and read."""

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from export.device.classes import (
    Gallery,
    Prototypes,
    calibrated,
    from_examples,
    joined_scores,
    left_out,
    merged,
    nearest,
    prototype_scores,
    search,
    with_examples,
    without_class,
)
from export.device.reading import InferError
from export.device.saved_embeddings import load_gallery, load_prototypes, save_gallery, save_prototypes

NODE = shutil.which("node")
ROOM = Path(__file__).parents[2] / "export" / "web"
DIM, MODEL, OTHER = 6, "0" * 64, "1" * 64
NAMES = ("alarm clock", "<img src=x onerror=alert(1)>", "猫\U0001f408", "__proto__")

pytestmark = pytest.mark.skipif(NODE is None, reason="Node is not installed")


def node(script: str, value: object, *files: Path) -> object:
    """What ``script`` leaves in ``out``; it has ``given``, ``files`` and the page's own programs."""
    start = "".join(f"Object.assign(page, require({json.dumps(str(ROOM / name))}));" for name in PROGRAMS)
    text = (
        "(async () => { const fs = require('node:fs'), page = {};"
        + start
        + "const files = process.argv.slice(1);"
        "const given = JSON.parse(fs.readFileSync(0, 'utf8')); let out;" + script + ";"
        "process.stdout.write(JSON.stringify(out)); })()"
        ".catch((error) => { console.error(error); process.exit(1); });"
    )
    done = subprocess.run(
        [str(NODE), "-e", text, *map(str, files)],
        input=json.dumps(value),
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


PROGRAMS = ("classes.js", "saved.js", "engine.js", "kept.js", "student.js")


def unit(num: int, seed: int, *, near: np.ndarray | None = None) -> np.ndarray:
    rows = np.random.default_rng(seed).normal(size=(num, DIM)) + (0 if near is None else 2 * near)
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


EXAMPLES = {name: unit(3, at, near=unit(1, 50 + at)[0]) for at, name in enumerate(NAMES)}
MORE, STRANGERS, QUERIES = unit(2, 20, near=unit(1, 50)[0]), unit(61, 30), unit(9, 40)


@pytest.fixture(scope="module")
def by_page() -> dict:
    """Everything that the page computes of the same examples, in one start of Node."""
    return node(
        """
        let own = page.noClasses();
        for (const [name, rows] of given.examples) own = page.withExamples(own, name, rows);
        const grown = page.withExamples(own, given.examples[0][0], given.more);
        const less = page.withoutClass(grown, given.examples[1][0]);
        const rows = new Map(given.examples.map(([name, few]) => [name, [...few]]));
        rows.get(given.examples[0][0]).push(...given.more);
        const known = grown.names.flatMap((name) => page.leftOut(grown, name, rows.get(name)));
        const measured = [0.05, 0.2].map((falseAccepts) =>
          page.calibrated(grown, given.strangers, { known, falseAccepts }));
        const plain = (one) => ({ ...one, vectors: one.vectors.map((row) => [...row]) });
        let few = "";
        try { page.calibrated(grown, given.strangers.slice(0, 10)); } catch (error) { few = error.message; }
        const [saved, query] = [given.strangers, given.queries[0]];
        out = { own: plain(own), grown: plain(grown), less: plain(less),
          merged: plain(page.merged([grown, less])), known, few,
          measured: measured.map((one) => one.rejection),
          scores: given.queries.map((row) => page.prototypeScores(row, measured[1])),
          joined: given.queries.map((row) => page.joinedScores(row, [0.25, 0.75], measured[1])),
          nearest: given.queries.map((row) => page.nearestClass(row, measured[1])),
          found: page.searchSaved({ names: saved.map((_, i) => `s${i}`), vectors: saved }, query, 5) };
        """,
        {
            "examples": [[name, rows.tolist()] for name, rows in EXAMPLES.items()],
            "more": MORE.tolist(),
            "strangers": STRANGERS.tolist(),
            "queries": QUERIES.tolist(),
        },
    )


def grown_in_python() -> Prototypes:
    return with_examples(from_examples(EXAMPLES, dim=DIM), NAMES[0], MORE)


def measured_in_python(share: float) -> Prototypes:
    grown = grown_in_python()
    rows = {**EXAMPLES, NAMES[0]: np.concatenate([EXAMPLES[NAMES[0]], MORE])}
    known = np.concatenate([left_out(grown, name, rows[name]) for name in grown.names])
    return calibrated(grown, STRANGERS, known=known, false_accepts=share)


def same_classes(found: dict, expected: Prototypes) -> None:
    assert (tuple(found["names"]), tuple(found["counts"])) == (expected.names, expected.counts)
    np.testing.assert_allclose(found["vectors"], expected.vectors, atol=1e-7)
    np.testing.assert_allclose(found["lengths"], expected.lengths, atol=1e-7)
    assert (found["scale"], found["rejection"]) == (expected.scale, None)


def test_the_running_mean_and_removal_are_those_of_python(by_page: dict) -> None:
    grown = grown_in_python()
    same_classes(by_page["own"], from_examples(EXAMPLES, dim=DIM))
    same_classes(by_page["grown"], grown)
    same_classes(by_page["less"], without_class(grown, NAMES[1]))
    same_classes(by_page["merged"], merged([grown, without_class(grown, NAMES[1])]))
    assert by_page["grown"]["counts"] == [5, 3, 3, 3]


@pytest.mark.parametrize(("at", "share"), [(0, 0.05), (1, 0.2)])
def test_the_threshold_and_its_rates_are_those_of_python(by_page: dict, at: int, share: float) -> None:
    found, expected = by_page["measured"][at], measured_in_python(share).rejection
    assert expected is not None
    assert found["threshold"] == pytest.approx(expected.threshold, abs=1e-7)
    assert (tuple(found["accepts"]), tuple(found["rejects"])) == (
        expected.false_accepts,
        expected.false_rejects,
    )
    # Of 31 the (31 + 1) * 0.05 and * 0.2 rounded down largest; 30 others measure; all 14 examples are known.
    assert (found["accepts"][1], found["rejects"][1]) == (30, 14)
    cosines = np.sort((STRANGERS[::2] @ grown_in_python().vectors.T).max(axis=1))
    assert found["threshold"] == pytest.approx(cosines[-1 if at == 0 else -6], abs=1e-6)


def test_scores_joins_and_rejections_are_those_of_python(by_page: dict) -> None:
    classes = measured_in_python(0.2)
    trained = np.tile(np.array([[0.25, 0.75]]), (len(QUERIES), 1))
    np.testing.assert_allclose(by_page["scores"], prototype_scores(QUERIES, classes), atol=1e-6)
    np.testing.assert_allclose(by_page["joined"], joined_scores(QUERIES, trained, classes), atol=1e-6)
    for found, expected in zip(by_page["nearest"], nearest(QUERIES, classes), strict=True):
        assert (found["name"], found["accepted"]) == (expected.name, expected.accepted)
        assert found["cosine"] == pytest.approx(expected.cosine, abs=1e-6)
    assert {one["accepted"] for one in by_page["nearest"]} == {True, False}
    expected = search(Gallery(tuple(f"s{i}" for i in range(61)), STRANGERS), QUERIES[0], top=5)
    assert [one["name"] for one in by_page["found"]] == [name for name, _ in expected]


def test_too_few_strangers_are_named_with_the_number_of_python(by_page: dict) -> None:
    with pytest.raises(InferError, match="at least 37 are needed"):
        calibrated(grown_in_python(), STRANGERS[:10])
    assert "at least 37 are needed" in by_page["few"]


def test_files_of_the_page_are_read_by_infer_and_those_of_infer_by_the_page(tmp_path: Path) -> None:
    classes, gallery = measured_in_python(0.2), Gallery(NAMES, unit(4, 60))
    save_prototypes(tmp_path / "python.npz", classes, model=MODEL)
    save_gallery(tmp_path / "seen.npz", gallery, model=MODEL)
    # A packed archive and one without the numbers of examples are read too.
    np.savez_compressed(
        tmp_path / "old.npz", names=np.array(NAMES), vectors=classes.vectors, scale=np.float64(7)
    )
    found = node(
        """
        const expected = { dim: given.dim, digest: given.model, label: "x" };
        const read = (path) => new Uint8Array(fs.readFileSync(path));
        const own = await page.parseClasses(read(files[0]), expected);
        const seen = await page.parseGallery(read(files[1]), expected);
        const old = await page.parseClasses(read(files[2]), expected);
        fs.writeFileSync(files[3], page.packClasses(own, given.model));
        fs.writeFileSync(files[4], page.packGallery(seen, given.model));
        fs.writeFileSync(files[5], page.packClasses(old, given.model));
        out = { names: own.names, counts: own.counts, rejection: own.rejection,
          old: [old.names.length, old.scale, old.lengths] };
        """,
        {"dim": DIM, "model": MODEL},
        *(tmp_path / f"{name}.npz" for name in ("python", "seen", "old", "page", "page-seen", "page-old")),
    )
    assert (tuple(found["names"]), tuple(found["counts"])) == (classes.names, classes.counts)
    assert found["old"] == [4, 7, None]
    for name, expected in (("page", classes), ("page-old", None)):
        back = load_prototypes(tmp_path / f"{name}.npz", dim=DIM, model=MODEL)
        np.testing.assert_array_equal(back.vectors, classes.vectors)
        assert back.names == NAMES
        if expected is not None:
            assert (back.counts, back.rejection, back.scale) == (expected.counts, expected.rejection, 10.0)
            np.testing.assert_array_equal(back.lengths, expected.lengths)
    seen = load_gallery(tmp_path / "page-seen.npz", dim=DIM, model=MODEL)
    assert seen.names == NAMES
    np.testing.assert_array_equal(seen.vectors, gallery.vectors)


CHANGES: dict[str, Callable[[dict], dict]] = {
    "another model (111111111111…, this page has 000000000000…)": lambda a: {**a, "model": np.array(OTHER)},
    "its model is no SHA-256": lambda a: {**a, "model": np.array("x")},
    "its format is “edgecmd.gallery 1”": lambda a: {**a, "format": np.array("edgecmd.gallery 1")},
    "it lacks scale": lambda a: {name: one for name, one in a.items() if name != "scale"},
    "embeddings of 5 numbers": lambda a: {**a, "vectors": np.eye(4, 5, dtype=np.float32)},
    "not of length 1": lambda a: {**a, "vectors": np.full((4, DIM), 0.9, np.float32)},
    "not finite": lambda a: {**a, "vectors": np.full((4, DIM), np.nan, np.float32)},
    "two of its classes have one name": lambda a: {**a, "names": np.array(["a", "a", "b", "c"])},
    "an empty name": lambda a: {**a, "names": np.array(["", "a", "b", "c"])},
    "do not fit together": lambda a: {**a, "names": np.array(["a"])},
    "its scale is no number above 0": lambda a: {**a, "scale": np.float64(-1)},
    "its counts of examples are none": lambda a: {**a, "counts": np.array([0, 1, 1, 1])},
    "its threshold is no cosine": lambda a: {**a, "threshold": np.float64(1.5)},
    "its rates of wrong answers are none": lambda a: {**a, "errors": np.array([[3, 2], [0, 0]])},
    "of a type that is not read here": lambda a: {**a, "names": np.array([{}], dtype=object)},
}


def test_damaged_and_strange_files_are_one_sentence_each(tmp_path: Path) -> None:
    path = tmp_path / "mine.npz"
    save_prototypes(path, measured_in_python(0.2), model=MODEL)
    whole = path.read_bytes()
    arrays = dict(np.load(path))
    files = [tmp_path / f"{at}.npz" for at in range(len(CHANGES))]
    for one, change in zip(files, CHANGES.values(), strict=True):
        np.savez(one, **change(arrays))
    # Cut short, no archive, a flipped bit in an array, and nothing at all.
    flipped = bytearray(whole)
    flipped[whole.index(b"NUMPY") + 140] ^= 1
    for at, data in enumerate((whole[:-40], b"GIF89a" * 9, bytes(flipped), b"")):
        files.append(tmp_path / f"cut{at}.npz")
        files[-1].write_bytes(data)
    told = node(
        """
        out = [];
        for (const path of files) {
          const expected = { dim: given.dim, digest: given.model, label: "mine.npz" };
          const read = page.parseClasses(new Uint8Array(fs.readFileSync(path)), expected);
          out.push(await read.then(() => "read", (error) => error.message));
        }
        """,
        {"dim": DIM, "model": MODEL},
        *files,
    )
    for words, sentence in zip(
        [*CHANGES, "it is no .npz", "it is no .npz", "is damaged: its checksum is wrong", "it is no .npz"],
        told,
        strict=True,
    ):
        assert words in sentence
        assert sentence.startswith("mine.npz ")
        assert sentence.endswith(".")
        assert "\n" not in sentence


def test_no_cut_and_no_flipped_byte_breaks_out(tmp_path: Path) -> None:
    path = tmp_path / "mine.npz"
    classes = measured_in_python(0.2)
    save_prototypes(path, classes, model=MODEL)
    found = node(
        """
        const whole = new Uint8Array(fs.readFileSync(files[0]));
        const expected = { dim: given.dim, digest: given.model, label: "mine.npz" };
        const first = await page.parseClasses(whole, expected);
        out = { other: 0, odd: [] };
        for (let at = 0; at < whole.length; at += 11) {
          const flipped = whole.slice();
          flipped[at] ^= 0x55;
          for (const bytes of [whole.slice(0, at), flipped]) {
            try {
              const read = await page.parseClasses(bytes, expected);
              if (JSON.stringify(read.vectors) !== JSON.stringify(first.vectors)) out.other += 1;
            } catch (error) { if (!error.message.startsWith("mine.npz ")) out.odd.push(String(error.stack)); }
          }
        }
        """,
        {"dim": DIM, "model": MODEL},
        path,
    )
    assert found == {"other": 0, "odd": []}


def test_what_is_kept_comes_back_and_lies_apart_by_model() -> None:
    found = node(
        """
        const shelf = new Map(), storage = () => ({
          getItem: (key) => shelf.get(key) ?? null,
          setItem: (key, text) => shelf.set(key, text), removeItem: (key) => shelf.delete(key),
        });
        globalThis.fromBase64 = (text) => Uint8Array.from(Buffer.from(text, "base64"));
        const kept = new page.Kept(storage, given.model), other = new page.Kept(storage, given.other);
        const rows = [[0.5, -1], [2, 3]].map((row) => Float32Array.from(row));
        kept.write(Uint8Array.from([1, 2, 255]), new Map([["cup", rows], ["none", []]]));
        const read = kept.read(kept.text());
        const examples = [...read.examples].map(([name, few]) => [name, few.map((row) => [...row])]);
        out = { bytes: [...read.bytes], examples, other: other.text() };
        kept.forget();
        out.gone = kept.text();
        """,
        {"model": MODEL, "other": OTHER},
    )
    expected = {"bytes": [1, 2, 255], "examples": [["cup", [[0.5, -1], [2, 3]]]], "other": None, "gone": None}
    assert found == expected
