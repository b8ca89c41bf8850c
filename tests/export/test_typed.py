"""Strings through the exported file: every script and length as in torch, words as words, damage refused."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from edgecmd.core.errors import ExportError
from edgecmd.data.modalities.utf8 import check_strings, encode_strings
from export.device import infer
from export.device.infer import main
from export.device.reading import InferError
from export.device.student import Student, check
from export.documents.prototypes import read_examples
from export.graph.deployable import Deployable, rebuild
from export.graph.fold_standardised import fold
from export.graph.frontends import FRONT_ENDS, at_uneven_sizes
from export.graph.to_onnx import name_values, to_onnx
from export.profiles.made_strings import made_text
from export.profiles.table import Calibration, make_profile
from export.profiles.weight_compression import StoredWeight
from export.targets import asked_for
from export.trust.checks import verify_bundle
from export.trust.errors import GateError
from export.trust.gate import gate

# Latin, Latin with a mark of its own, Cyrillic, Hebrew, Arabic, Devanagari, Thai, Hangul, Han, joined emoji,
# white space around, one that is cut within a character of three bytes.
STRINGS = (
    *(
        "dog",
        "Ku\u0308he",
        "собака",
        "כלב לבן",
        "كلب",
        "कुत्ता",
        "หมา",
        "강아지",
        "犬",
        "👩\u200d💻",
        "  a cat\u3000",
    ),
    "犬" * 17,
)


@pytest.fixture(scope="module")
def spec(make: SimpleNamespace):
    return make.kind("text")


@pytest.fixture(scope="module")
def reference(make: SimpleNamespace, spec) -> Deployable:
    return Deployable(rebuild(make.student("text-50k"), spec), spec).eval()


@pytest.fixture(scope="module")
def data(make: SimpleNamespace, spec) -> bytes:
    return to_onnx(Deployable(fold(rebuild(make.student("text-50k"), spec)), spec).eval())


@pytest.fixture(scope="module")
def exact(data: bytes):
    """Float32 outputs of the exported file for uint8 (batch, bytes)."""
    session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    return lambda rows: session.run(None, {"text": rows})


@pytest.fixture
def texts(cored: Callable[[str], Path]) -> Path:
    return cored("text")


def embedded(capsys, *words: str) -> tuple[int, dict[str, np.ndarray], str]:
    """Exit code, embeddings by string, and what was said beside them."""
    code = main([*words, "--json"])
    said = capsys.readouterr()
    records = [json.loads(line) for line in said.out.splitlines()]
    return code, {one["text"]: np.array(one["embedding"], np.float32) for one in records}, said.err


@pytest.mark.parametrize("num_bytes", [12, 48, 101])
def test_the_file_is_the_student_for_every_script_and_length(exact, reference, num_bytes: int) -> None:
    rows = encode_strings(STRINGS, num_bytes)
    with torch.no_grad():
        expected = [one.numpy() for one in reference(torch.from_numpy(rows))]
    for found, wanted in zip(exact(rows), expected, strict=True):
        assert np.abs(found - wanted).max() <= 1e-5


def test_what_the_student_sees_is_the_bytes_exactly(data: bytes, spec) -> None:
    model = onnx.load_from_string(data)
    model.graph.output.append(helper.make_tensor_value_info("scaled", TensorProto.FLOAT, None))
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    rows = np.arange(256, dtype=np.uint8).reshape(2, 128)
    (seen,) = session.run(["scaled"], {"text": rows})
    assert np.array_equal(seen, rows[:, None, None].astype(np.float32))
    in_torch = FRONT_ENDS["text"].module(spec)(torch.from_numpy(rows)).numpy()
    assert np.array_equal(in_torch, seen)


def test_padding_changes_no_embedding(exact) -> None:
    rows = encode_strings(STRINGS[:-1], 48)
    longer = np.pad(rows, ((0, 0), (0, 77)))
    alone = [exact(row[None, : int((row > 0).sum())])[0][0] for row in rows]
    for found in (exact(longer)[0], np.stack(alone)):
        assert np.abs(found - exact(rows)[0]).max() <= 1e-6


def test_a_value_inside_may_have_the_name_of_an_output() -> None:
    nodes = [
        helper.make_node("Neg", ["scaled"], ["embedding"]),
        helper.make_node("Abs", ["embedding"], ["inner"]),
        helper.make_node("Add", ["inner", "embedding"], ["embedding"]),
        helper.make_node("Sqrt", ["embedding"], ["scores"]),
    ]
    model = helper.make_model(helper.make_graph(nodes, "g", [], []))
    name_values(model)
    inside = model.graph.node[0].output[0]
    assert inside not in ("embedding", "inner", "scores")
    assert [[*one.input] for one in model.graph.node[1:]] == [[inside], ["inner", inside], ["embedding"]]
    assert [*model.graph.node[2].output] == ["embedding"]


def test_words_are_strings_and_never_files(texts: Path, tmp_path: Path) -> None:
    shutil.copy(texts / "infer.py", tmp_path / "dog")
    words = ["dog", "собака", "👩\u200d💻", "-5", "犬" * 17]
    environment = {key: value for key, value in os.environ.items() if key not in ("LANG", "PYTHONUTF8")}
    done = subprocess.run(
        [sys.executable, texts / "infer.py", texts, *words, "--format", "npy"],
        cwd=tmp_path,
        env={**environment, "LC_ALL": "C", "PYTHONPATH": ""},
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    (tmp_path / "found.npy").write_bytes(done.stdout)
    table = np.load(tmp_path / "found.npy")
    assert table["text"].tolist() == words
    assert np.abs(table["embedding"] - Student(texts)(words).embedding).max() <= 1e-6
    # Of seventeen characters of three bytes sixteen fit, and the note is for every terminal.
    assert done.stderr.decode("ascii").count("too long; its last 3 bytes are cut off") == 1


def test_in_a_bundle_its_own_program_needs_no_name_of_it(texts: Path, tmp_path: Path) -> None:
    folder = tmp_path / "bundle"
    shutil.copytree(texts, folder)
    for where, program in ((folder, "infer.py"), (tmp_path, "bundle/infer.py")):
        done = subprocess.run(
            [sys.executable, program, "dog", "a cat", "--format", "npy"],
            cwd=where,
            env={**os.environ, "PYTHONPATH": ""},
            capture_output=True,
            check=False,
        )
        assert (done.returncode, done.stderr) == (0, b"")
        (tmp_path / "found.npy").write_bytes(done.stdout)
        table = np.load(tmp_path / "found.npy")
        assert table["text"].tolist() == ["dog", "a cat"]
        assert np.array_equal(table["embedding"], Student(texts)(["dog", "a cat"]).embedding)


@pytest.fixture
def inside(texts: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The bundle, as the place of the program and of whoever asks."""
    monkeypatch.setattr(infer, "__file__", str(texts / "infer.py"))
    monkeypatch.chdir(texts)
    return texts


@pytest.mark.parametrize(
    ("words", "found"),
    [
        # Of files and folders that are no bundle, the name is a string as any other.
        (["labels.json"], ["labels.json"]),
        (["infer.py", "dog"], ["infer.py", "dog"]),
        (["犬" * 100], ["犬" * 100]),
        ([".", "dog"], ["dog"]),
        ([".", "km/h"], ["km/h"]),
        (["student.onnx", "dog"], ["dog"]),
        (["dog", "km/h"], ["dog", "km/h"]),
    ],
)
def test_the_first_word_is_the_bundle_where_it_is_one(inside: Path, capsys, words, found) -> None:
    assert inside.is_dir()
    code, answers, _ = embedded(capsys, *words)
    assert (code, [*answers]) == (0, found)


def test_a_word_that_may_be_a_missing_bundle_is_not_answered(inside: Path, tmp_path: Path, capsys) -> None:
    for words, told, code in (
        (["../bundel", "dog"], "../bundel is neither a bundle nor a file that is there", 2),
        (["km/h"], f"put the bundle before it: infer.py {inside} km/h", 2),
        (["student.fp23.onnx", "dog"], "student.fp23.onnx is missing or not a file", 4),
        ([str(inside)], f"{inside} is taken for the bundle; give at least one image", 2),
        ([""], "is empty", 4),
        ([], "give at least one image", 2),
    ):
        assert main(words) == code
        said = capsys.readouterr()
        assert told in said.err
        assert said.out == ""
    # A folder with the name of a word is no bundle; one that holds a student is, and then stands first.
    (tmp_path / "dog").mkdir()
    os.chdir(tmp_path)
    assert [*embedded(capsys, "dog")[1]] == ["dog"]
    shutil.copy(inside / "student.onnx", tmp_path / "dog")
    assert main(["dog"]) == 2
    assert [*embedded(capsys, "dog", "dog")[1]] == ["dog"]


def test_outside_of_a_bundle_it_is_named_first(texts: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    monkeypatch.chdir(texts)
    assert main(["dog"]) == 2
    assert main(["dog", "cat"]) == 4
    assert main([]) == 2
    said = capsys.readouterr().err
    assert "dog is missing or not a file. Give a bundle or its student.onnx." in said
    assert "give a bundle or its student.onnx first" in said


def test_a_list_of_str_is_what_training_stored(texts: Path, spec) -> None:
    student = Student(texts)
    assert student.preprocess == FRONT_ENDS["text"].metadata(spec)
    rows = encode_strings(STRINGS, 48)
    assert np.array_equal(student([*STRINGS]).embedding, student(rows).embedding)


def test_lines_are_answered_one_by_one(texts: Path, tmp_path: Path, capsys) -> None:
    path = tmp_path / "strings.txt"
    path.write_bytes(b"\xef\xbb\xbfdog\r\n\n\xff\xfe\ntab\there\n" + "Ku\u0308he".encode())
    code, found, said = embedded(capsys, str(texts), "--lines", str(path), "a cat")
    assert code == 4
    assert [*found] == ["a cat", "dog", "Ku\u0308he"]
    assert "line 2, The string" in said
    assert "is empty" in said
    assert "line 3, is no UTF-8 at its byte 1" in said
    assert "line 4, The string" in said
    assert "the character \\t at place 4" in said
    student = Student(texts)
    for text, row in found.items():
        assert np.abs(row - student([text]).embedding[0]).max() <= 1e-6


@pytest.mark.parametrize(
    ("words", "told", "code"),
    [
        ([""], "is empty", 4),
        (["  \u3000"], "is empty", 4),
        (["a\udcff"], "has the character \\udcff", 4),
        (["dog", "--raw", "4x4"], "--raw is for frames", 2),
        (["dog", "--draft"], "--draft is for JPEG", 2),
        (["--lines", "nowhere.txt"], "nowhere.txt cannot be read", 4),
        (["-", "--lines", "-"], "is given twice", 2),
        ([], "at least one image, folder or string", 2),
    ],
)
def test_what_is_no_string_is_refused_in_a_sentence(texts: Path, capsys, words, told, code) -> None:
    assert main([str(texts), *words]) == code
    assert told in capsys.readouterr().err


@pytest.mark.parametrize(
    "rows",
    [
        np.zeros((1, 48), np.uint8),
        np.array([[100, 0, 100]], np.uint8),
        np.zeros((1, 48), np.int64) + 100,
        np.zeros((1, 1025), np.uint8) + 100,
        np.zeros((0, 48), np.uint8),
    ],
)
def test_arrays_that_are_no_strings_are_refused(texts: Path, rows: np.ndarray) -> None:
    with pytest.raises(InferError, match="allowed are a list of str, or uint8 of shape"):
        Student(texts)(rows)


def test_classes_by_example_have_a_string_on_each_line(texts: Path, tmp_path: Path, spec, capsys) -> None:
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "animal.txt").write_text("dog\ncat\nhorse\n", encoding="utf-8")
    (mine / "food.txt").write_text("bread\nKäse\n", encoding="utf-8")
    code, _, _ = embedded(
        capsys, str(texts), "dog", "--prototypes", str(mine), "--save-prototypes", str(tmp_path / "mine.npz")
    )
    assert code == 0
    with np.load(tmp_path / "mine.npz") as saved:
        assert saved["counts"].tolist() == [3, 2]
        rows = Student(texts)(["dog", "cat", "horse"]).embedding.mean(axis=0)
        assert np.abs(saved["vectors"][0] - rows / np.linalg.norm(rows)).max() <= 1e-5
    assert main([str(texts), "bread", "--prototypes", str(tmp_path / "mine.npz")]) == 0
    assert capsys.readouterr().out.splitlines()[1].startswith("bread  food")
    # The same folder becomes a head at export.
    assert {name: len(every) for name, every in read_examples(mine, spec).items()} == {"animal": 3, "food": 2}


def test_saved_embeddings_are_found_by_other_words(texts: Path, tmp_path: Path, capsys) -> None:
    saved = str(tmp_path / "seen.npz")
    assert embedded(capsys, str(texts), "dog", "a cat", "--save-gallery", saved)[0] == 0
    assert main([str(texts), "dog", "--gallery", saved, "--top", "1", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["similar"][0]["name"] == "dog"


def test_the_bundle_is_verified_and_its_golden_values_hold(texts: Path) -> None:
    assert check(Student(texts)) <= 1e-4
    verdict = verify_bundle(texts)
    assert verdict.passed, verdict.error


def test_the_core_sees_what_its_words_say(texts: Path) -> None:
    record = json.loads((texts / "core.json").read_text(encoding="utf-8"))
    assert record["input"]["shape"] == [1, 1, 1, 48]
    (case,) = record["cases"]
    arrays = {
        one["name"]: np.fromfile(texts / one["file"], one["dtype"]).reshape(one["shape"])
        for one in case["arrays"]
    }
    assert np.array_equal(arrays["scaled"], arrays["text"][:, None, None].astype(np.float32))
    check_strings(arrays["text"], name="golden")


def damaged(data: bytes, change: Callable[[onnx.ModelProto], None]) -> bytes:
    model = onnx.load_from_string(data)
    change(model)
    return model.SerializeToString()


def another_axis(model: onnx.ModelProto) -> None:
    (found,) = (one for one in model.graph.initializer if one.name == "front_end.axes")
    found.CopyFrom(numpy_helper.from_array(np.array([1, 3]), "front_end.axes"))


def another_type(model: onnx.ModelProto) -> None:
    (cast,) = (one for one in model.graph.node if one.name == "front_end.float.Cast")
    cast.attribute[0].i = TensorProto.FLOAT16


def fixed_length(model: onnx.ModelProto) -> None:
    model.graph.input[0].type.tensor_type.shape.dim[1].dim_value = 48


def another_kind(model: onnx.ModelProto) -> None:
    for entry in model.metadata_props:
        if entry.key == "edgecmd.front_end":
            entry.value = "wave"


def wide_numbers(model: onnx.ModelProto) -> None:
    model.graph.input[0].type.tensor_type.elem_type = TensorProto.INT64


@pytest.mark.parametrize("change", [another_axis, another_type, fixed_length, another_kind, wide_numbers])
def test_the_gate_refuses_a_damaged_front_end(data: bytes, change) -> None:
    assert gate(data)
    with pytest.raises(GateError):
        gate(damaged(data, change))


def test_profiles_are_near_or_say_why_not(data: bytes, exact) -> None:
    rows = made_text(96, num_bytes=48, generator=np.random.default_rng(1))
    ranges = made_text(64, num_bytes=48, generator=np.random.default_rng(0))
    calibration = Calibration(inputs=ranges, description="made-up words")
    least = {"w8": 0.9999, "int8": 0.95}
    for name, most in least.items():
        session = onnxruntime.InferenceSession(make_profile(data, name, calibration=calibration))
        found = session.run(["embedding"], {"text": rows})[0]
        assert (found * exact(rows)[0]).sum(axis=1).min() >= most, name
    with pytest.raises(ExportError, match="Profile dyn8 is for transformers"):
        make_profile(data, "dyn8")


def test_narrow_layers_along_a_string_are_told_from_others() -> None:
    def weight(*shape: int) -> StoredWeight:
        return StoredWeight(name="w", values=np.ones(shape, np.float32), axis=0)

    assert weight(40, 16, 1, 5).is_narrow_line
    assert not weight(80, 112, 1, 3).is_narrow_line
    assert not weight(40, 16, 3, 3).is_narrow_line
    assert not weight(40, 16, 1, 1).is_narrow_line
    assert not weight(48, 96).is_narrow_line


def test_made_up_words_are_strings_of_many_scripts() -> None:
    rows = made_text(100, num_bytes=48, generator=np.random.default_rng(0))
    check_strings(rows, name="made up")
    assert rows.any(axis=1).all()
    # First bytes of one, two, three and four bytes a character.
    assert {3, 6, 7} <= set((rows[:, 0] >> 5).tolist())
    assert np.array_equal(rows, made_text(100, num_bytes=48, generator=np.random.default_rng(0)))


def test_sizes_of_a_built_in_student_are_those_of_strings(monkeypatch) -> None:
    specs = []
    monkeypatch.setattr(asked_for, "to_onnx", lambda one: specs.append(one.spec) or b"")
    monkeypatch.setattr(asked_for, "make_profile", lambda data, name, calibration: data)
    asked_for.built_in("text-50k", image_size=64, profiles="fp32")
    assert (specs[0].front_end, specs[0].image_size, specs[0].rate_hz) == ("text", 48, 0)


def test_uneven_lengths_are_longer_and_cut() -> None:
    rows = encode_strings(["dog"], 48)
    found = at_uneven_sizes(rows, "text")
    assert {name: one.shape for name, one in found.items()} == {"73": (1, 73), "35": (1, 35)}
    assert all(one[0].tobytes().rstrip(b"\0") == b"dog" for one in found.values())


def test_a_spec_of_strings_has_no_rate(spec) -> None:
    with pytest.raises(ExportError, match="rate_hz=8000 does not go with front_end='text'"):
        replace(spec, rate_hz=8000)
