"""``examples/photos_to_sketches.py`` as a user runs it: from pictures to the answer of a bundle."""

import os
import runpy
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from export.trust.checks import verify_bundle
from tests.house_counts import ROOT
from tests.quick import BRIEF_CHECKS
from tests.teacher_files import onnx_file

EXAMPLE = ROOT / "examples" / "photos_to_sketches.py"
SMALL = ("--made-up", "40", "--size", "32", "--rounds", "1", "--audit", "static", "--student", "ws-50k")
# As ``python examples/photos_to_sketches.py`` runs it.
RUN = "import runpy, sys; del sys.argv[0]; runpy.run_path(sys.argv[0], run_name='__main__')"
Call = Callable[..., None]


@pytest.fixture
def call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Call:
    def run(*words: object) -> None:
        monkeypatch.setattr(sys, "argv", [str(EXAMPLE), *map(str, words), "--out", str(tmp_path / "made")])
        runpy.run_path(str(EXAMPLE), run_name="__main__")

    return run


def told_of(said: str) -> None:
    assert "epsilon = " in said
    assert "at delta = 1e-05, for each pair (add or remove one pair of one client), against anyone" in said
    assert "not contradicted" in said
    assert "(chance 0.200; 100 examples of 5 classes)" in said
    assert said.count("nearest photographs") == 3


def in_its_own_process(*words: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", f"{BRIEF_CHECKS}{RUN}", EXAMPLE, *map(str, words)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *filter(None, sys.path)])},
    )


def test_it_goes_from_made_up_pictures_to_answers(tmp_path: Path) -> None:
    done = in_its_own_process(*SMALL, "--out", tmp_path / "made")
    assert done.returncode == 0, done.stderr[-2000:]
    told_of(done.stdout)
    bundle = tmp_path / "made" / "bundle"
    assert verify_bundle(bundle).error is None
    assert {one.name for one in bundle.glob("*.onnx")} == {"student.onnx", "student.fp32.onnx"}


def other_weights(folder: Path) -> tuple[object, ...]:
    torch.save({"other.weight": torch.zeros(3)}, folder / "other.pth")
    return "--student", "timm:tiny_net", "--weights", folder / "other.pth"


def two_inputs(folder: Path) -> tuple[object, ...]:
    return "--teacher", f"onnx:{onnx_file(folder / 'two.onnx', more_inputs=('depth',))}"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (other_weights, r"does not hold weights of timm:tiny_net: 0 of 20 tensors matched"),
        (two_inputs, r"has 2 inputs: 'image'.*'depth'.*takes one input"),
        (lambda _: ("--size", 30), r"image_size=30"),
    ],
)
def test_a_mistake_is_one_sentence(
    words: Callable[[Path], tuple[object, ...]],
    message: str,
    call: Call,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "tests" / "made_up_libraries"))
    monkeypatch.delitem(sys.modules, "timm", raising=False)
    with pytest.raises(SystemExit, match=message):
        call(*SMALL, *words(tmp_path))
    monkeypatch.delitem(sys.modules, "timm", raising=False)


@pytest.mark.slow
def test_it_takes_a_network_of_timm_at_224_pixels(tmp_path: Path) -> None:
    pytest.importorskip("timm", exc_type=ImportError)
    done = in_its_own_process("--made-up", 100, "--rounds", 2, "--out", tmp_path / "made")
    assert done.returncode == 0, done.stderr[-2000:]
    told_of(done.stdout)
    assert verify_bundle(tmp_path / "made" / "bundle").error is None
