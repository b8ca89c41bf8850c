"""The samples in Python, JavaScript and C++: golden files, the nearest classes, and files that are broken."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import onnxruntime
import plain_front
import pytest
from sample_programs import (
    LABELS,
    NO_ENGINE,
    SAMPLES,
    compiled,
    made_up_bundle,
    model,
    node,
    node_program,
    run_python,
    write_pnm,
)

from export.device.classes import (
    Prototypes,
    calibrated,
    from_examples,
    nearest,
    with_examples,
    without_class,
)
from export.device.saved_embeddings import digest_of, load_prototypes, save_prototypes

LANGUAGES = ("python", "node", "cpp")
GAPS = re.compile(r"^(\S+): preprocessing differs by (\S+), student (?:by (\S+)|is not run)", re.MULTILINE)


@pytest.fixture(scope="module")
def cpp(tmp_path_factory):
    return compiled(tmp_path_factory.mktemp("cpp"))


@pytest.fixture(scope="module")
def in_node(ort_web):
    with node_program(ort_web) as run:
        yield run


@pytest.fixture(scope="module")
def program(request):
    """How to run the sample of a language; skipped where nothing here runs it."""

    def get(language):
        if language == "python":
            return run_python
        return request.getfixturevalue("cpp").run if language == "cpp" else request.getfixturevalue("in_node")

    return get


@pytest.fixture(scope="module")
def needs_engine(request):
    """Skips what needs the student itself where C++ was compiled without an engine."""

    def check(language):
        if language == "cpp" and not request.getfixturevalue("cpp").engine:
            pytest.skip(NO_ENGINE)

    return check


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_real_bundle_agrees_with_its_golden_files(program, cored, language):
    (said,) = program(language)([[cored("ws-50k")]])
    assert (said.code, said.err) == (0, "")
    gaps = GAPS.findall(said.out)
    assert [name for name, *_ in gaps] == ["own", "uneven"]
    assert all(float(seen) <= 1e-5 and float(student or 0) <= 1e-5 for _, seen, student in gaps)


def test_the_short_sample_reads_a_real_bundle(cored):
    (said,) = run_python([[cored("ws-50k")]], name="short/brief.py")
    assert (said.code, said.err) == (0, "")
    assert re.match(r"differs by \S+, allowed 0.0001\nnearest class ", said.out), said


SIZES = {
    "squeeze": [(6, 6), (12, 18), (100, 80), (17, 5), (1, 1), (1, 40)],
    "crop": [(9, 21), (30, 12)],
    "pad": [(9, 21), (30, 12), (1, 50), (12, 6)],
}


@pytest.fixture(scope="module")
def made_up(tmp_path_factory):
    folder = tmp_path_factory.mktemp("made-up")
    return {
        fit: made_up_bundle(folder / fit, channels=1 if fit == "pad" else 3, fit=fit, sizes=sizes)
        for fit, sizes in SIZES.items()
    }


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_fit_and_size_is_seen_as_the_words_say(program, made_up, language):
    """Sides that are multiples and are not, larger and smaller, colour and grey."""
    for said, sizes in zip(
        program(language)([[one] for one in made_up.values()]), SIZES.values(), strict=True
    ):
        assert (said.code, said.err) == (0, "")
        gaps = GAPS.findall(said.out)
        assert [name for name, *_ in gaps] == [f"{height}x{width}" for height, width in sizes]
        assert all(float(seen) <= 1e-5 and float(student or 0) <= 1e-4 for _, seen, student in gaps)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """Of the colour student: by name the file, and its embedding by other code."""
    folder, coins = tmp_path_factory.mktemp("pictures"), np.random.default_rng(5)
    numbers = {"image_size": 6, "offset": 0.5, "scale": 0.25, "fit": "squeeze"}
    found = {}
    for name, size in {"one": (12, 6), "two": (6, 6), "three": (9, 7), "four": (40, 31)}.items():
        pixels = coins.integers(0, 256, (*size, 3), dtype=np.uint8)
        outputs = model(3)[1](plain_front.see_image(pixels, numbers)[None])
        found[name] = write_pnm(folder / f"{name}.ppm", pixels), {key: one[0] for key, one in outputs.items()}
    return found


def ranked(line):
    return [(name, float(score)) for name, score in re.findall(r"([^\s,]+) (-?\d\.\d{4})(?:,|$)", line)]


@pytest.mark.parametrize("language", LANGUAGES)
def test_the_nearest_classes_are_those_of_numpy(program, needs_engine, made_up, pictures, language):
    needs_engine(language)
    files = {name: file for name, (file, _) in pictures.items()}
    examples = [f"a={files['two']}", f"b={files['three']}", f"a={files['four']}"]
    trained, own = program(language)(
        [[made_up["squeeze"], files["one"]], [made_up["squeeze"], files["one"], *examples]]
    )
    assert (trained.code, own.code) == (0, 0), (trained, own)
    embedding = {name: outputs["embedding"] for name, (_, outputs) in pictures.items()}
    means = {"a": (embedding["two"] + embedding["four"]) / 2, "b": embedding["three"]}
    expected = {name: embedding["one"] @ mean / np.linalg.norm(mean) for name, mean in means.items()}
    for said, scores in (
        (trained, dict(zip(LABELS, pictures["one"][1]["scores"], strict=True))),
        (own, expected),
    ):
        line = said.out.splitlines()[-1]
        assert line.startswith(f"{files['one']}: ")
        best = sorted(scores.items(), key=lambda item: -item[1])
        found = ranked(line.removeprefix(f"{files['one']}: "))
        assert [name for name, _ in found] == [name for name, _ in best]
        assert [score for _, score in found] == pytest.approx([score for _, score in best], abs=6e-5)


def change(folder, **changes):
    record = json.loads((folder / "core.json").read_text())
    (folder / "core.json").write_text(json.dumps({**record, **changes}))


def header(folder, **changes):
    record = json.loads((folder / "core.json").read_text())
    record["cases"][0]["arrays"][1].update(changes)
    change(folder, cases=record["cases"])


def cut(path, size):
    path.write_bytes(path.read_bytes()[:size])


SCALED = "core.6x6.scaled.raw"
# What is done to a bundle, the exit code, and what the sentence says.
BROKEN = {
    "format": (lambda b: change(b, format="2"), 2, "core.json has format 2"),
    "no format": (lambda b: (b / "core.json").write_text("{}"), 2, "format"),
    "a list": (lambda b: (b / "core.json").write_text("[1]"), 2, ""),
    "no json": (lambda b: (b / "core.json").write_text('{"format": '), 2, ""),
    "deep": (lambda b: (b / "core.json").write_text("[" * 100_000), 2, ""),
    "no core": (lambda b: (b / "core.json").unlink(), 2, "core.json"),
    "short raw": (lambda b: cut(b / SCALED, 100), 2, f"{SCALED} has 100 bytes; its header needs 864"),
    "no raw": (lambda b: (b / SCALED).unlink(), 2, SCALED),
    "outside": (lambda b: header(b, file="../x"), 2, ""),
    "no size": (lambda b: header(b, shape=[2, 0, 6, 6]), 2, ""),
    "huge size": (lambda b: header(b, shape=[2**40, 2**40, 6, 6]), 2, ""),
    "text as size": (lambda b: header(b, shape="six"), 2, ""),
    "unknown kind": (lambda b: header(b, dtype="float64"), 2, ""),
    "big end": (lambda b: header(b, byte_order="big"), 2, ""),
    "no cases": (lambda b: change(b, cases=7), 2, ""),
    "other": (lambda b: (b / SCALED).write_bytes(bytes(864)), 6, "golden values of 6x6 differ"),
    "not finite": (
        lambda b: (b / SCALED).write_bytes(b"\0\0\xc0\x7f" * 216),
        6,
        "golden values of 6x6 differ",
    ),
}


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_broken_bundle_gets_one_sentence(program, made_up, tmp_path, language):
    calls = []
    for name, (harm, _, _) in BROKEN.items():
        calls.append([shutil.copytree(made_up["squeeze"], tmp_path / name)])
        harm(calls[-1][0])
    for name, said in zip(BROKEN, program(language)([*calls, []]), strict=False):
        _, code, words = BROKEN[name]
        if language == "cpp" and name == "no cases":
            # Its small reader of JSON has no lists of another type: nothing to check is nothing wrong.
            continue
        assert said.code == code, (name, said)
        assert re.fullmatch(r"error: [^\n]+\n", said.err), (name, said)
        assert words in said.err, (name, said)


NO_PICTURES = {
    "missing": (None, "nothing.ppm"),
    "text": (b"no picture", "text.ppm"),
    "empty": (b"", "empty.ppm"),
    "cut off": (b"P6\n6 6\n255\n" + bytes(50), "cut off.ppm"),
    "no size": (b"P6\n0 6\n255\n", "no size.ppm"),
    "huge": (b"P6\n999999999 999999999\n255\n" + bytes(50), "huge.ppm"),
}


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_wrong_picture_gets_one_sentence(program, needs_engine, made_up, pictures, tmp_path, language):
    needs_engine(language)
    bundle, good = made_up["squeeze"], pictures["one"][0]
    for name, (data, _) in NO_PICTURES.items():
        if data is not None:
            (tmp_path / f"{name}.ppm").write_bytes(data)
    calls = [[bundle, tmp_path / name] for _, name in NO_PICTURES.values()]
    calls += [[bundle, good, "no equals sign"], [bundle, good, f"a={tmp_path / 'text.ppm'}"]]
    if language != "python":  # Pillow makes colour of grey, and reads more bits than 8
        calls += [[bundle, write_pnm(tmp_path / "grey.pgm", np.zeros((6, 6, 1), np.uint8))]]
    for call, said in zip(calls, program(language)(calls), strict=True):
        assert said.code == 2, (call, said)
        assert re.fullmatch(r"error: [^\n]+\n", said.err), (call, said)
    broken = shutil.copytree(bundle, tmp_path / "broken")
    (broken / "student.core.onnx").write_bytes(b"no model")
    (said,) = program(language)([[broken]])
    assert said.code == 2
    # OpenVINO logs lines of its own before the sentence.
    assert said.err.splitlines()[-1].startswith("error: ")


@pytest.mark.parametrize("language", LANGUAGES)
def test_of_another_front_end_the_student_alone_is_checked(program, made_up, pictures, tmp_path, language):
    bundle = shutil.copytree(made_up["squeeze"], tmp_path / "wave")
    change(bundle, front_end={"name": "wave", "numbers": {}})
    checked, asked = program(language)([[bundle], [bundle, pictures["one"][0]]])
    assert checked.code == 0
    assert checked.out.count("preprocessing (wave) is not checked") == len(SIZES["squeeze"])
    assert asked.code == 2
    assert "The front end wave is not in this sample; its steps are in core.json." in asked.err


def test_the_python_sample_reads_what_pillow_reads(made_up, pictures, tmp_path):
    """A PNG is the same picture; what is transparent is white, as `infer.py` has it."""
    from PIL import Image

    file, _ = pictures["one"]
    Image.open(file).save(tmp_path / "same.png")
    Image.new("RGBA", (6, 6), (9, 9, 9, 0)).save(tmp_path / "clear.png")
    Image.new("RGB", (6, 6), "white").save(tmp_path / "white.png")
    Image.new("I;16", (6, 6), 700).save(tmp_path / "deep.png")
    names = [file, *(tmp_path / f"{name}.png" for name in ("same", "clear", "white", "deep"))]
    *said, deep = run_python([[made_up["squeeze"], name] for name in names])
    answers = [ranked(one.out.splitlines()[-1].partition(": ")[2]) for one in said]
    assert answers[0] == answers[1]
    assert answers[2] == answers[3]
    assert deep.code == 2
    assert "more than 8 bits" in deep.err


# ---- Classes by example: JavaScript against the Python of a device ----

CLASSES = """
const sample = await import(process.argv[1]), [rows, from, to, digest] = process.argv.slice(2);
const given = JSON.parse(rows).map((row) => Float32Array.from(row));
let classes = from === "none" ? sample.noClasses() : sample.readClasses(from, given[0].length, digest);
if (from === "none") {
  classes = sample.withExamples(classes, "cup", given.slice(0, 3));
  classes = sample.withExamples(classes, "café 😀", given.slice(3, 4));
  classes = sample.withExamples(classes, "box", given.slice(4, 6));
}
classes = sample.withExamples(classes, "cup", given.slice(6, 8));
classes = sample.withoutClass(sample.withExamples(classes, "gone", given.slice(8, 9)), "gone");
const known = given.slice(0, 6).map((row) => sample.nearest(classes, row)[0].cosine);
classes = sample.calibrated(classes, given.slice(10), { known, falseAccepts: 0.1 });
sample.writeClasses(to, classes, digest);
process.stdout.write(JSON.stringify(given.map((row) => sample.nearest(classes, row)[0])));
"""
DIGEST = "ab" * 32


def unit_rows(num, dim, seed):
    rows = np.random.default_rng(seed).normal(size=(num, dim)) + 0.7
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def in_python(rows):
    classes = from_examples({"cup": rows[:3], "café 😀": rows[3:4], "box": rows[4:6]}, dim=rows.shape[1])
    return finished(classes, rows)


def finished(classes, rows):
    classes = with_examples(classes, "cup", rows[6:8])
    classes = without_class(with_examples(classes, "gone", rows[8:9]), "gone")
    known = [one.cosine for one in nearest(rows[:6], classes)]
    return calibrated(classes, rows[10:], known=known, false_accepts=0.1)


def assert_same(found: Prototypes, expected: Prototypes):
    assert (found.names, found.counts, found.scale) == (expected.names, expected.counts, expected.scale)
    np.testing.assert_allclose(found.vectors, expected.vectors, atol=1e-6)
    np.testing.assert_allclose(found.lengths, expected.lengths, atol=1e-12)
    assert found.rejection.threshold == pytest.approx(expected.rejection.threshold, abs=1e-6)
    assert found.rejection[1:] == expected.rejection[1:]


@pytest.mark.parametrize("seed", [0, 1])
def test_node_and_python_make_equal_class_files_and_answers(ort_web, tmp_path, seed):
    rows = unit_rows(60, 16, seed)
    sample, given = (SAMPLES / "embed.mjs").as_uri(), json.dumps(rows.tolist())
    told = json.loads(node(CLASSES, sample, given, "none", tmp_path / "node.npz", DIGEST, ort_web=ort_web))
    expected = in_python(rows)
    assert_same(load_prototypes(tmp_path / "node.npz", dim=16, model=DIGEST), expected)
    for found, one in zip(told, nearest(rows, expected), strict=True):
        assert (found["name"], found["accepted"]) == (one.name, one.accepted)
        assert found["cosine"] == pytest.approx(one.cosine, abs=1e-6)
    # And on from a file that Python saved, with the running mean in it.
    save_prototypes(tmp_path / "python.npz", expected, model=DIGEST)
    node(CLASSES, sample, given, tmp_path / "python.npz", tmp_path / "more.npz", DIGEST, ort_web=ort_web)
    assert_same(load_prototypes(tmp_path / "more.npz", dim=16, model=DIGEST), finished(expected, rows))


def test_numpys_own_reader_opens_what_node_writes_and_node_what_is_packed(ort_web, tmp_path):
    rows = unit_rows(60, 16, 2)
    sample, given = (SAMPLES / "embed.mjs").as_uri(), json.dumps(rows.tolist())
    node(CLASSES, sample, given, "none", tmp_path / "node.npz", DIGEST, ort_web=ort_web)
    with np.load(tmp_path / "node.npz") as found:
        arrays = dict(found)
    save_prototypes(tmp_path / "python.npz", in_python(rows), model=DIGEST)
    with np.load(tmp_path / "python.npz") as found:
        assert {key: (one.dtype, one.shape) for key, one in arrays.items()} == {
            key: (one.dtype, one.shape) for key, one in found.items()
        }
    np.savez_compressed(tmp_path / "packed.npz", **arrays)
    node(CLASSES, sample, given, tmp_path / "packed.npz", tmp_path / "again.npz", DIGEST, ort_web=ort_web)
    assert load_prototypes(tmp_path / "again.npz", dim=16, model=DIGEST).counts == (7, 1, 2)


def test_the_program_keeps_classes_and_says_what_is_none_of_them(program, made_up, pictures, tmp_path):
    bundle, files = made_up["squeeze"], {name: file for name, (file, _) in pictures.items()}
    others, coins = tmp_path / "others", np.random.default_rng(6)
    others.mkdir()
    for num in range(10):
        write_pnm(others / f"{num}.ppm", coins.integers(0, 256, (6, 6, 3), dtype=np.uint8))
    saved = tmp_path / "mine.npz"
    calibrate = ["--calibrate", others, "--false-accepts", "0.2", "--save", saved]
    first, second, third, few = program("node")(
        [
            [bundle, files["one"], f"a={files['two']}", f"b={files['three']}", *calibrate],
            [bundle, files["two"], "--classes", saved, f"a={files['two']}", "--save", saved],
            [bundle, files["two"], "--classes", saved, "--remove", "a"],
            [bundle, files["one"], f"a={files['two']}", "--calibrate", others],
        ]
    )
    assert (first.code, second.code, third.code) == (0, 0, 0), (first, second, third)
    digest = digest_of(bundle / "student.core.onnx")
    assert load_prototypes(saved, dim=5, model=digest).counts == (2, 1)
    assert ranked(second.out.splitlines()[-1].partition(": ")[2])[0] == ("a", 1.0)
    assert [name for name, _ in ranked(third.out.splitlines()[-1].partition(": ")[2])] == ["b"]
    assert few.code == 2
    assert "10 pictures of no class are too few for --false-accepts 0.05" in few.err
    embedding = {name: outputs["embedding"] for name, (_, outputs) in pictures.items()}
    session = onnxruntime.InferenceSession(bundle / "student.core.onnx")
    numbers = {"image_size": 6, "offset": 0.5, "scale": 0.25, "fit": "squeeze"}
    rows = []
    for num in range(10):
        pixels = np.frombuffer((others / f"{num}.ppm").read_bytes()[-108:], np.uint8).reshape(6, 6, 3)
        scaled = plain_front.see_image(pixels, numbers)[None].astype(np.float32)
        rows.append(session.run(["embedding"], {"scaled": scaled})[0][0])
    own = from_examples({"a": embedding["two"][None], "b": embedding["three"][None]}, dim=5)
    (one,) = nearest(embedding["one"][None], calibrated(own, np.stack(rows), false_accepts=0.2))
    assert ("none of the classes; nearest" in first.out) == (not one.accepted)


def test_class_files_that_do_not_fit_are_refused(program, made_up, pictures, tmp_path):
    bundle, file = made_up["squeeze"], pictures["one"][0]
    digest, rows = digest_of(bundle / "student.core.onnx"), unit_rows(60, 5, 3)
    good = in_python(rows)
    save_prototypes(tmp_path / "good.npz", good, model=digest)
    save_prototypes(tmp_path / "other model.npz", good, model=DIGEST)
    save_prototypes(tmp_path / "other size.npz", in_python(unit_rows(60, 4, 3)), model=digest)
    whole = (tmp_path / "good.npz").read_bytes()
    (tmp_path / "cut.npz").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "text.npz").write_text("no archive")
    with np.load(tmp_path / "good.npz") as found:
        arrays = dict(found)
    for name, changed in {
        "long": {"vectors": arrays["vectors"] * 2},
        "twice": {"names": np.array(["cup", "cup", "box"])},
        "scale": {"scale": np.float64(-1)},
        "counts": {"counts": np.array([1, 2])},
        "objects": {"names": np.array(["a", None, "c"], dtype=object)},
    }.items():
        np.savez(tmp_path / f"{name}.npz", **{**arrays, **changed})
    names = [
        "other model",
        "other size",
        "cut",
        "text",
        "long",
        "twice",
        "scale",
        "counts",
        "objects",
        "missing",
    ]
    calls = [[bundle, file, "--classes", tmp_path / f"{name}.npz"] for name in [*names, "good"]]
    *refused, taken = program("node")(calls)
    for name, said in zip(names, refused, strict=True):
        assert said.code == 2, (name, said)
        assert re.fullmatch(r"error: \S.*\.npz cannot be used as classes: [^\n]+\n", said.err), (name, said)
    assert taken.code == 0
    assert "made with another model" in refused[0].err


def test_every_sample_says_how_it_is_run_and_how_it_was_checked():
    docs = (Path(__file__).parents[2] / "docs" / "export.md").read_text(encoding="utf-8")
    for name in ("embed.cpp", "embed.mjs", "embed.py", "Embed.kt", "Embed.swift"):
        text = (SAMPLES / name).read_text(encoding="utf-8")
        assert "BUNDLE" in text[:2500]
        assert name.endswith(".py") or "// Checked: " in text[:2500]
        assert f"`{name}`" in docs
    assert {one.name for one in SAMPLES.iterdir() if one.is_file()} == {
        "embed.cpp",
        "embed.mjs",
        "embed.py",
        "Embed.kt",
        "Embed.swift",
    }
