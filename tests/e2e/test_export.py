"""A run, its bundle, and the bundle alone in a process that can import numpy and onnxruntime alone."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edgecmd.config.reader import to_toml
from edgecmd.config.schema import RunConfig
from tests.command_line import run
from tests.tiny_federation import run_of, task_of

# What a device has not got; Pillow is missing as well.
DEVICE = """
import runpy, sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {"torch", "edgecmd", "export", "onnx", "scipy", "jaxtyping", "PIL"}:
            raise ImportError(name + " is refused")
sys.meta_path.insert(0, Refuse())
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.fixture(scope="module")
def folder(tiny_files: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder with a student, not exported."""
    from shapes import shapes_config

    out = tmp_path_factory.mktemp("export-e2e")
    config: RunConfig = shapes_config(*tiny_files, out)
    (out / "tiny.toml").write_text(to_toml(config), encoding="utf-8")
    with pytest.MonkeyPatch.context() as monkeypatch:
        assert run(monkeypatch, "simulate", "--config", out / "tiny.toml") == 0
    return out / config.name


def on_device(bundle: Path, *words: object) -> list[dict[str, object]]:
    """JSON lines of the bundle's own infer.py in a bare process."""
    command = [sys.executable, "-I", "-c", DEVICE, bundle / "infer.py", bundle, *words, "--json", "--scores"]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False, cwd=bundle)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]


def test_a_bundle_gives_on_a_device_what_the_student_gives_here(
    folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from edgecmd.cli.run import config_of
    from edgecmd.evaluation.metrics import recall
    from edgecmd.models.student_file import load_student
    from export.from_run import prepare
    from export.graph.deployable import Deployable, rebuild
    from export.trust.verify import run_torch

    bundle = tmp_path / "device"
    assert run(monkeypatch, "export", folder, "--out", bundle, "--profiles", "fp32,w8,int8") == 0
    assert "int8" in capsys.readouterr().out
    config, student = config_of(folder), load_student(folder / "student.safetensors")
    images = task_of(config).data.test.pairs.target
    (tmp_path / "pictures").mkdir()
    for row, image in enumerate(images):
        np.save(tmp_path / "pictures" / f"{row:03}.npy", image)
    spec = prepare(run_of(config), config.export).spec
    expected = run_torch(Deployable(rebuild(student, spec), spec).eval(), images)
    teacher = task_of(config).held_out_features("test")
    for profile in ("fp32", "w8", "int8"):
        lines = on_device(bundle, tmp_path / "pictures", "--profile", profile)
        embedding = np.array([line["embedding"] for line in lines])
        scores = np.array([list(line["scores"].values()) for line in lines])
        if profile == "fp32":
            np.testing.assert_allclose(embedding, expected.embedding, atol=1e-4)
            assert expected.scores is not None
            np.testing.assert_allclose(scores, expected.scores, atol=1e-4)
        gap = recall(embedding, teacher)["recall@1"] - recall(expected.embedding, teacher)["recall@1"]
        assert abs(gap) <= max(0.01, 1 / len(images)) + 1e-9
    for profile in ("fp32", "w8", "int8"):
        on_device(bundle, "--check", "--profile", profile)
    card = (bundle / "MODEL_CARD.md").read_text()
    assert "no private pair" in card
    assert str(tmp_path) not in card
    assert str(folder) not in (bundle / "report.json").read_text()
    # The command line says the same words.
    assert run(monkeypatch, "infer", bundle, tmp_path / "pictures" / "000.npy", "--json") == 0
    assert (
        json.loads(capsys.readouterr().out)["embedding"]
        == on_device(bundle, tmp_path / "pictures" / "000.npy")[0]["embedding"]
    )


def test_prototypes_make_classes_and_a_device_adds_one(
    folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from edgecmd.cli.run import config_of

    images = task_of(config_of(folder)).data.test.pairs.target
    classes, bundle = tmp_path / "classes", tmp_path / "bundle"
    (classes / "first").mkdir(parents=True)
    Image.fromarray(images[0].squeeze()).save(classes / "first" / "a.png")
    Image.fromarray(images[1].squeeze()).save(classes / "second.png")
    assert run(monkeypatch, "export", folder, "--out", bundle, "--prototypes", classes) == 0
    assert json.loads((bundle / "labels.json").read_text()) == ["first", "second"]
    np.save(tmp_path / "second.npy", images[1])
    (line,) = on_device(bundle, tmp_path / "second.npy")
    assert line["top"][0]["class"] == "second"
    # In numpy from prototypes.npz, with one class more, the same.
    (tmp_path / "new" / "third").mkdir(parents=True)
    np.save(tmp_path / "new" / "third" / "c.npy", images[2])
    options = ["--prototypes", bundle / "prototypes.npz", "--prototypes", tmp_path / "new"]
    (more,) = on_device(bundle, tmp_path / "second.npy", *options)
    scores = more["scores"]
    assert list(scores) == ["first", "second", "third"]
    ratio = line["scores"]["first"] / line["scores"]["second"]
    assert scores["first"] / scores["second"] == pytest.approx(ratio, rel=1e-2)


def test_a_floor_that_is_missed_ends_with_code_6_and_leaves_nothing(
    folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["export", folder, "--out", tmp_path / "b", "--floor", "0.99"]
    assert run(monkeypatch, *words) == 6
    assert "the floor is 0.99" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_wrong_words_are_named(
    folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, "export", folder, "--profiles", "int9") == 2
    assert "Did you mean 'int8'" in capsys.readouterr().err
    assert run(monkeypatch, "export", folder, "--profiles", "int8", "--calibration", "pairs") == 2
    assert "export.calibration='pairs' is unknown" in capsys.readouterr().err
    assert run(monkeypatch, "export", folder, "--profiles", "dyn8", "--out", tmp_path / "b") == 6
    assert "Profile dyn8 is for transformers" in capsys.readouterr().err
    assert run(monkeypatch, "export", folder, "--prototypes", tmp_path / "missing") == 4
    assert "is not a folder" in capsys.readouterr().err


ALL_TARGETS = "cortex-m7,phone,browser,pi"


def verdicts(text: str) -> list[str]:
    """The sentences about targets that a command printed."""
    names = tuple(f"{name}, " for name in ALL_TARGETS.split(","))
    return [line for line in text.splitlines() if line.startswith(names)]


def test_export_tells_of_each_target_what_fits_tells(
    folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["export", folder, "--out", tmp_path / "b", "--profiles", "w8,int8,core", "--target", ALL_TARGETS]
    assert run(monkeypatch, *words) == 0
    exported = capsys.readouterr().out
    told = verdicts(exported)
    assert sorted(line.split(":")[0] for line in told) == sorted(
        f"{target}, {profile}" for profile in ("w8", "int8", "core") for target in ALL_TARGETS.split(",")
    )
    assert all(": fits: " in line for line in told)
    assert run(monkeypatch, "fits", tmp_path / "b", "--target", ALL_TARGETS) == 0
    assert verdicts(capsys.readouterr().out) == told
    assert run(monkeypatch, "fits", tmp_path / "b", "--json") == 0
    targets = json.loads(capsys.readouterr().out)[str(tmp_path / "b")]["w8"]["targets"]
    report = json.loads((tmp_path / "b" / "report.json").read_text())
    assert report["profiles"]["w8"]["targets"] == targets
    # A bundle with a core says where the programs that read it are.
    (samples,) = [line for line in exported.splitlines() if line.startswith("Samples that read its core")]
    assert (Path(samples.split(": ", 1)[1]) / "embed.cpp").is_file()


def test_a_target_that_takes_no_profile_ends_with_code_6_and_the_bundle_is_there(
    tiny_files: tuple[Path, Path],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    from shapes import shapes_config

    config = shapes_config(*tiny_files, tmp_path)
    (tmp_path / "gn.toml").write_text(to_toml(config), encoding="utf-8")
    gn = ["--set", "student.architecture=gn-50k"]
    assert run(monkeypatch, "simulate", "--config", tmp_path / "gn.toml", *gn) == 0
    capsys.readouterr()
    bundle = tmp_path / config.name / "export"
    assert run(monkeypatch, "export", bundle.parent, "--target", "pi,cortex-m7") == 6
    exported = capsys.readouterr()
    assert (bundle / "student.onnx").is_file()
    assert run(monkeypatch, "fits", bundle, "--target", "pi,cortex-m7") == 6
    found = capsys.readouterr()
    assert verdicts(found.out) == verdicts(exported.out) != []
    assert found.err == exported.err
    assert "No profile fits cortex-m7: w8 has no operator InstanceNormalization" in found.err
    assert run(monkeypatch, "fits", bundle, "--target", "pi") == 0


def test_an_unknown_target_is_named_before_anything_is_written(
    folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for command in (["export", folder, "--out", tmp_path / "b"], ["fits", "ws-50k"]):
        assert run(monkeypatch, *command, "--target", "pi,cortex-m8") == 2
        assert "--target='cortex-m8' is unknown" in (said := capsys.readouterr().err)
        assert "Did you mean 'cortex-m7'" in said
    assert list(tmp_path.iterdir()) == []
