"""Which engine the page computes with: right answers are used, wrong ones and failures leave WebAssembly."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from test_web_own_classes import NODE, node

from export.device.student import Student
from export.web.page_parts import core_part, golden_part, readable_names, second_part, strangers_part

PLAN = """
const expected = { embedding: [[0.6, 0.8], [1, 0]], scores: [[0.5, 0.5], [0.25, 0.75]], tolerance: 1e-4 };
out = [];
for (const { core, gpu, runtime, answers } of given) {
  const golden = { "student.onnx": expected, "student.core.onnx": core ? expected : undefined };
  const opened = [];
  const chosen = await page.chooseEngine({
    golden, hasGpuRuntime: runtime, findGpu: async () => gpu,
    open: async (file, provider) => {
      const off = answers[`${provider} ${file}`] ?? 0;
      opened.push(`${provider} ${file}`);
      if (off === "refused") throw new Error("no such\\noperator. Status Message: Resize is not there.");
      return { off, provider, file };
    },
    look: async ({ off }, file, row) => {
      if (off === "fails") throw new Error("the device is lost");
      const all = expected.embedding[row].map((value) => (off === "nan" ? NaN : value + off));
      const embedding = off === "short" ? all.slice(1) : all;
      return { embedding, scores: expected.scores[row], milliseconds: 1 };
    },
  });
  const { provider, file, isSound, why, reference } = chosen;
  out.push({ provider, file, isSound, why, opened, reference: `${reference.provider} ${reference.file}` });
}
"""
WHOLE, CORE = "webgpu student.onnx", "webgpu student.core.onnx"
CASES = {
    "right": ({}, "webgpu", "student.onnx", "WebGPU computes the whole model: right for 2 golden inputs"),
    "whole fails": (
        {WHOLE: "refused"},
        "webgpu",
        "student.core.onnx",
        "fails at the whole model (Resize is not there)",
    ),
    "whole is wrong": (
        {WHOLE: 0.25},
        "webgpu",
        "student.core.onnx",
        "wrong at the whole model: off by 2.5e-1",
    ),
    "both are wrong": (
        {WHOLE: 0.25, CORE: 0.5},
        "wasm",
        "student.onnx",
        "wrong at the student alone: off by 5.0e-1",
    ),
    "no numbers": ({WHOLE: "nan", CORE: "short"}, "wasm", "student.onnx", "off by Infinity"),
    "lost": ({WHOLE: "fails", CORE: "fails"}, "wasm", "student.onnx", "(the device is lost)"),
}


@pytest.mark.skipif(NODE is None, reason="Node is not installed")
def test_webgpu_is_used_where_its_answers_are_right_and_webassembly_else() -> None:
    plans = [{"core": True, "gpu": True, "runtime": True, "answers": one} for one, *_ in CASES.values()]
    plans += [
        {"core": False, "gpu": True, "runtime": True, "answers": {WHOLE: 0.25}},
        {"core": True, "gpu": False, "runtime": True, "answers": {}},
        {"core": True, "gpu": True, "runtime": False, "answers": {}},
        {"core": True, "gpu": False, "runtime": True, "answers": {"wasm student.onnx": 0.25}},
    ]
    found = node(PLAN, plans)
    for one, (_, provider, file, words) in zip(found, CASES.values(), strict=False):
        assert (one["provider"], one["file"], one["isSound"]) == (provider, file, True)
        assert words in one["why"]
    alone, no_gpu, no_runtime, unsound = found[len(CASES) :]
    assert (alone["provider"], alone["opened"]) == ("wasm", ["wasm student.onnx", WHOLE])
    assert "This browser offers no WebGPU." in no_gpu["why"]
    assert "made without WebGPU" in no_runtime["why"]
    assert (no_runtime["opened"], no_runtime["provider"]) == (["wasm student.onnx"], "wasm")
    assert (unsound["isSound"], "WebAssembly is wrong: off by 2.5e-1" in unsound["why"]) == (False, True)
    # Files name the whole model, so it is there in WebAssembly whatever the engine is.
    assert {one["reference"] for one in found} == {"wasm student.onnx"}


@pytest.mark.skipif(NODE is None, reason="Node is not installed")
def test_the_core_is_fed_what_the_front_end_makes(cored: Callable[[str], Path]) -> None:
    folder = cored("ws-50k")
    student = Student(folder)
    parts = core_part(student)
    raw = (folder / "core.own.image.raw").read_bytes()
    side = student.image_size
    found = node(
        "const size = given.side * given.side; out = [];"
        "for (let at = 0; at < given.raw.length; at += size)"
        " out.push([...page.coreInput({ data: Uint8Array.from(given.raw.slice(at, at + size)),"
        " dims: [1, given.side, given.side, 1] }, given).data]);",
        {"raw": list(raw), "side": side, "offset": parts.info["offset"], "scale": parts.info["scale"]},
    )
    scaled = np.fromfile(folder / "core.own.scaled.raw", "<f4").reshape(-1, side * side)
    np.testing.assert_allclose(found, scaled, atol=1e-6)


def test_golden_values_of_the_page_are_what_python_computes(cored: Callable[[str], Path]) -> None:
    student = Student(cored("ws-50k"))
    golden, core, second = golden_part(student), core_part(student), second_part(student)
    inputs = np.frombuffer(golden.files["golden.bin"], np.uint8).reshape(-1, 32, 32, 1)
    embedding, scores = student.session.run(["embedding", "scores"], {"image": inputs})
    told = golden.info["golden"]["student.onnx"]
    np.testing.assert_allclose(told["embedding"], embedding, atol=1e-5)
    np.testing.assert_allclose(told["scores"], scores, atol=1e-5)
    # The core is of 32 bits: it differs from w8, so it is held against values of its own.
    np.testing.assert_allclose(core.info["core_golden"]["embedding"], embedding, atol=0.02)
    assert core.info["core_golden"]["embedding"] != told["embedding"]
    assert core.info["core_golden"]["tolerance"] <= 1e-3
    assert core.files["student.core.onnx"] == (student.path.parent / "student.core.onnx").read_bytes()
    assert second.info == {} or second.info["second"]["profile"] in ("fp32", "w8")
    assert json.dumps({**golden.info, **core.info})


def test_a_lonely_file_has_nothing_to_check_it_with(bundle: Callable[[str], Path], tmp_path: Path) -> None:
    path = tmp_path / "student.onnx"
    path.write_bytes((bundle("ws-50k") / "student.onnx").read_bytes())
    student = Student(path)
    assert (golden_part(student).files, core_part(student).files, second_part(student).files) == ({}, {}, {})


def test_strangers_are_embedded_by_the_student_itself(bundle: Callable[[str], Path], make) -> None:
    student, images = Student(bundle("ws-50k")), make.images(5)
    part = strangers_part(student, images)
    rows = np.frombuffer(part.files["strangers.bin"], "<i2").reshape(5, -1) / 32767
    np.testing.assert_allclose(rows, student(images).embedding, atol=1e-4)
    assert part.info == {"num_strangers": 5}
    assert strangers_part(student, None).files == {}


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["alarm_clock", "t-shirt"], ["alarm clock", "t-shirt"]),
        (["smileys-emotion", "animals-nature"], ["smileys & emotion", "animals & nature"]),
        (["emoji/1f600", "1f9d1-200d-1f3a8"], ["grinning face", "adult + artist palette"]),
        # Letters that are newer than the tables of this Python have names too.
        (["1fa75", "1faef"], ["light blue heart", "fight cloud"]),
        # What would be one name stays two.
        (["a/cup", "b/cup", "pen_"], ["a/cup", "b/cup", "pen"]),
        (["snow_owl", "snow owl"], ["snow_owl", "snow owl"]),
        # Words that are hexadecimal numbers too, and a name of which nothing would be left.
        (["face", "cafe", "_"], ["face", "cafe", "_"]),
    ],
)
def test_names_are_what_people_read_and_stay_apart(names: list[str], expected: list[str]) -> None:
    assert readable_names(names) == expected
