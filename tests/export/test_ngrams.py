"""Students of hashed n-grams as files: the rows they look up, small tables, and what is made of them."""

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from edgecmd.data.modalities.utf8 import encode_strings
from edgecmd.models.trunks.strings import BASE, hashed_ngrams
from export import bundle as bundle_module
from export.device.infer import main
from export.device.student import Student
from export.formats.ort_format import to_ort
from export.graph.deployable import Deployable, rebuild
from export.profiles.core import FORBIDDEN
from export.profiles.made_strings import made_text
from export.profiles.table import Calibration, make_profile
from export.targets.activation_memory import memory_of
from export.trust.checks import verify_bundle
from export.trust.gate import gate

TABLE = "student.trunk.table.weight"
# One byte, capitals, spaces in a row, all that fits and no more, many scripts.
STRINGS = (
    "x",
    "Big DOG",
    "two  spaces",
    "-" * 48,
    "Ku\u0308he",
    "собака",
    "כלב לבן",
    "犬" * 16,
    "👩\u200d💻",
)


@pytest.fixture(scope="module")
def reference(make: SimpleNamespace) -> Deployable:
    spec = make.kind("ngram")
    return Deployable(rebuild(make.student(spec.architecture), spec), spec).eval()


@pytest.fixture(scope="module")
def data(reference: Deployable) -> bytes:
    return bundle_module.to_onnx(reference)


@pytest.fixture(scope="module")
def profiles(data: bytes) -> Callable[[str], bytes]:
    ranges = made_text(64, num_bytes=48, generator=np.random.default_rng(0))
    calibration, made = Calibration(inputs=ranges, description="made-up words"), {"fp32": data}

    def get(name: str) -> bytes:
        if name not in made:
            made[name] = make_profile(data, name, calibration=calibration)
        return made[name]

    return get


@pytest.fixture(scope="module")
def exact(data: bytes) -> Callable[[np.ndarray], np.ndarray]:
    return embedder(data)


def embedder(data: bytes) -> Callable[[np.ndarray], np.ndarray]:
    session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    return lambda rows: session.run(["embedding"], {"text": rows})[0]


def odd_rows(num_bytes: int) -> np.ndarray:
    """Strings, and what no reader gives: bytes that are no letters, a gap before the last one, no byte."""
    rows = np.zeros((4, num_bytes), np.uint8)
    rows[0], rows[1] = 255, np.arange(1, num_bytes + 1)
    rows[2, -1] = 255
    return np.concatenate([encode_strings(STRINGS, num_bytes), rows])


@pytest.mark.parametrize("num_bytes", [4, 48, 101])
def test_the_file_is_the_student_for_every_string_and_length(exact, reference, num_bytes: int) -> None:
    rows = odd_rows(num_bytes)
    with torch.no_grad():
        wanted = reference(torch.from_numpy(rows))[0].numpy()
    assert np.abs(exact(rows) - wanted).max() <= 1e-6
    assert np.abs(np.concatenate([exact(one[None]) for one in rows]) - wanted).max() <= 1e-6


def test_padding_and_capitals_change_no_number(exact) -> None:
    rows = encode_strings(STRINGS, 48)
    assert np.abs(exact(np.pad(rows, ((0, 0), (0, 77)))) - exact(rows)).max() <= 1e-6
    assert np.abs(exact(rows[:1, :1]) - exact(rows[:1])).max() <= 1e-6
    small = encode_strings([one.lower() for one in STRINGS[:4]], 48)
    assert np.array_equal(exact(small), exact(rows[:4]))


def test_rows_are_the_same_whole_numbers(profiles: Callable[[str], bytes]) -> None:
    """Of any bytes, in the file that is computed with and in the core, which has no remainder."""
    bytes_BL = np.random.default_rng(3).integers(0, 256, (64, 48)).astype(np.uint8)
    wanted, _ = hashed_ngrams(torch.from_numpy(bytes_BL.astype(np.float32))[:, None, None], num_rows=16_381)
    for name in ("w8", "core"):
        model = onnx.load_from_string(profiles(name))
        (looked_up,) = {node.input[1] for node in model.graph.node if node.op_type == "Gather"}
        model.graph.output.append(helper.make_tensor_value_info(looked_up, TensorProto.INT64, None))
        session = onnxruntime.InferenceSession(model.SerializeToString())
        if name == "w8":
            found = session.run([looked_up], {"text": bytes_BL})[0]
        else:
            seen = bytes_BL.astype(np.float32)[:, None, None, None]
            found = np.concatenate([session.run([looked_up], {"scaled": one})[0] for one in seen])
        assert np.array_equal(found, wanted.numpy()), name


@pytest.mark.parametrize(
    ("name", "least", "times"),
    [("w8", 0.9999, 3.7), ("w4", 0.97, 6.9), ("int8", 0.98, 3.7), ("dyn8", 0.999, 3.7)],
)
def test_small_tables_are_near_and_stay_small(profiles, exact, data: bytes, name, least, times) -> None:
    small, rows = profiles(name), made_text(96, num_bytes=48, generator=np.random.default_rng(1))
    gate(small)
    assert (embedder(small)(rows) * exact(rows)).sum(axis=1).min() >= least
    assert len(data) / len(small) >= times
    # None of it is turned back before it is found: not in the file, and not at loading.
    model = onnx.load_from_string(small)
    assert TABLE not in {one.name for one in model.graph.initializer}
    assert memory_of(model, (1, 48), student_alone=False).weights < len(small)


def test_a_file_for_phones_holds_the_small_table(profiles, exact, tmp_path: Path) -> None:
    (tmp_path / "w8.onnx").write_bytes(profiles("w8"))
    made = to_ort(tmp_path / "w8.onnx")
    assert len(made) < 1.05 * len(profiles("w8"))
    rows = encode_strings(STRINGS, 48)
    assert np.array_equal(embedder(made)(rows), embedder(profiles("w8"))(rows))


def test_the_core_divides_by_what_all_engines_have(profiles) -> None:
    model = onnx.load_from_string(profiles("core"))
    assert {node.op_type for node in model.graph.node}.isdisjoint(FORBIDDEN)
    # 13 is the first operator set whose sum takes its axes as an input.
    assert model.opset_import[0].version == 13


def test_what_is_left_of_numbers_below_zero_is_as_in_the_whole(data: bytes) -> None:
    model = onnx.load_from_string(data)
    (base,) = (one for one in model.graph.initializer if not one.dims and numpy_helper.to_array(one) == BASE)
    base.CopyFrom(numpy_helper.from_array(np.array(-BASE), base.name))
    changed = model.SerializeToString()
    core = onnxruntime.InferenceSession(make_profile(changed, "core"))
    for row in encode_strings(STRINGS, 48):
        (found,) = core.run(["embedding"], {"scaled": row.astype(np.float32)[None, None, None]})
        assert np.abs(found - embedder(changed)(row[None])).max() <= 1e-5


def test_a_bundle_answers_words_and_is_verified(cored: Callable[[str], Path], capsys) -> None:
    folder = cored("ngram")
    assert verify_bundle(folder).passed
    assert main([str(folder), "Big DOG", "犬" * 17, "  ", "--json"]) == 4
    said = capsys.readouterr()
    records = [json.loads(line) for line in said.out.splitlines()]
    assert [(one["text"], one["cut_bytes"]) for one in records] == [("Big DOG", 0), ("犬" * 17, 3)]
    assert "is empty" in said.err
    again = Student(folder)(["big dog", "犬" * 16]).embedding
    assert np.abs(np.array([one["embedding"] for one in records]) - again).max() <= 1e-6
