"""The bundle: complete and checked, or not there at all."""

import hashlib
import json
import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch

from edgecmd.errors import ConfigError, ExportError
from export import bundle as bundle_module
from export.bundle import BUNDLE_FILES, export_bundle
from export.device.infer import Student as DeviceStudent
from export.verify import ParityLimits

ROOT = Path(__file__).parents[2]


def snapshot(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def arguments(make):
    """Arguments of a good export of ws-50k with a head."""
    return {"spec": make.spec("ws-50k", head=True), "probe_images": make.images(5), "metric": make.metric}


@pytest.fixture
def older(bundle, tmp_path):
    """A folder with an older bundle in it, alone in its parent folder."""
    folder = tmp_path / "runs" / "export"
    shutil.copytree(bundle("ws-50k"), folder)
    return folder


def test_bundle_has_its_files_and_they_match_their_sums(bundle):
    folder = bundle("ws-50k")
    assert {path.name for path in folder.iterdir()} == BUNDLE_FILES
    lines = (folder / "SHA256SUMS").read_text().splitlines()
    assert {line.split("  ")[1] for line in lines} == BUNDLE_FILES - {"SHA256SUMS"}
    for line in lines:
        digest, name = line.split("  ")
        assert hashlib.sha256((folder / name).read_bytes()).hexdigest() == digest
    assert json.loads((folder / "labels.json").read_text()) == ["house", "tree", "fish"]
    assert (folder / "infer.py").read_bytes() == (ROOT / "export" / "device" / "infer.py").read_bytes()


@pytest.mark.skipif(shutil.which("sha256sum") is None, reason="needs the program sha256sum")
def test_sums_are_in_the_form_of_sha256sum(bundle):
    done = subprocess.run(
        ["sha256sum", "--check", "--strict", "SHA256SUMS"], cwd=bundle("ws-50k"), check=False
    )
    assert done.returncode == 0


def test_without_a_head_there_are_no_labels(bundle):
    assert {path.name for path in bundle("gn-50k").iterdir()} == BUNDLE_FILES - {"labels.json"}


def test_bundle_can_be_read_by_others(bundle):
    assert bundle("ws-50k").stat().st_mode & 0o777 == 0o777 & ~umask()


def umask():
    current = os.umask(0)
    os.umask(current)
    return current


def test_report_has_the_figures_and_no_path(bundle):
    folder = bundle("ws-50k")
    text = (folder / "report.json").read_text()
    report = json.loads(text)
    assert report["opset"] == 20
    assert report["parity"]["batch_sizes"] == [1, 2, 5, 32]
    assert report["parity"]["max_abs"] <= report["limits"]["max_abs"]
    assert report["parity"]["metric_torch"] == report["parity"]["metric_onnx"]
    assert report["files"]["student.onnx"]["bytes"] == (folder / "student.onnx").stat().st_size
    assert report["versions"]["torch"] == torch.__version__
    assert "/" not in text


@pytest.mark.parametrize("architecture", ["ws-50k", "gn-50k"])
def test_device_reproduces_the_golden_values(bundle, architecture):
    folder = bundle(architecture)
    with np.load(folder / "golden.npz") as golden:
        prediction = DeviceStudent(folder / "student.onnx")(golden["image"])
        assert abs(prediction.embedding - golden["embedding"]).max() <= golden["tolerance"]
        assert ("scores" in golden) == (architecture == "ws-50k")
        if "scores" in golden:
            assert abs(prediction.scores - golden["scores"]).max() <= golden["tolerance"]
        # Inputs that differ, so that a constant output would be found out.
        assert abs(golden["embedding"][0] - golden["embedding"][-1]).max() > 1e-3


def test_no_probe_image_is_in_the_bundle(make, bundle):
    with np.load(bundle("ws-50k") / "golden.npz") as golden:
        for image in make.images(40):
            assert not (golden["image"] == image).all(axis=(1, 2, 3)).any()


def test_exporting_twice_gives_the_same_bytes_and_replaces_the_older_bundle(make, older, arguments):
    before = snapshot(older)
    (older / "__pycache__").mkdir()
    student = make.student("ws-50k").train()
    arguments["probe_images"] = make.images(40)
    report = export_bundle(student, older, **arguments)
    assert student.training
    assert snapshot(older) == before
    assert [path.name for path in older.parent.iterdir()] == ["export"]
    assert report.num_bytes == {name: len(content) for name, content in before.items()}
    assert report.folder == older.resolve()
    assert report.export_s > 0


def test_weights_that_are_not_finite_leave_nothing(make, tmp_path, arguments):
    student = make.student("ws-50k")
    student.trunk[0][0].weight.data.fill_(float("nan"))
    with pytest.raises(ExportError, match="not finite"):
        export_bundle(student, tmp_path / "a" / "b", **arguments)
    assert list(tmp_path.iterdir()) == []


def test_a_mismatch_leaves_nothing_and_the_older_bundle_as_it_was(
    make, tmp_path, older, arguments, monkeypatch
):
    monkeypatch.setattr(bundle_module, "to_onnx", lambda _: snapshot(older)["student.onnx"])
    before = snapshot(older)
    other = make.student("ws-50k")
    other.projector.weight.data.mul_(-1)
    for folder in (older, tmp_path / "new" / "deep"):
        with pytest.raises(ExportError, match=r"max_abs=.* exceeds the limit"):
            export_bundle(other, folder, **arguments)
        assert snapshot(older) == before
        assert [path.name for path in tmp_path.rglob("*")].count("student.onnx") == 1
        assert [path.name for path in tmp_path.iterdir()] == ["runs"]


def test_a_metric_mismatch_leaves_nothing(make, tmp_path, older, arguments, monkeypatch):
    monkeypatch.setattr(bundle_module, "to_onnx", lambda _: snapshot(older)["student.onnx"])
    before, values = snapshot(tmp_path), iter([0.5, 0.6])
    arguments["metric"] = lambda _: next(values)
    with pytest.raises(ExportError, match=r"recall@1 is 0.5000 in torch but 0.6000"):
        export_bundle(make.student("ws-50k"), older, metric_name="recall@1", **arguments)
    assert snapshot(tmp_path) == before


def test_limits_are_the_callers(make, older, arguments, monkeypatch):
    monkeypatch.setattr(bundle_module, "to_onnx", lambda _: snapshot(older)["student.onnx"])
    with pytest.raises(ExportError, match="limit 0"):
        export_bundle(make.student("ws-50k"), older, limits=ParityLimits(max_abs=0.0), **arguments)


def test_an_older_bundle_comes_back_when_the_new_one_cannot_be_placed(make, older, arguments, monkeypatch):
    monkeypatch.setattr(bundle_module, "to_onnx", lambda _: snapshot(older)["student.onnx"])
    before, rename = snapshot(older.parent), Path.rename

    def fail_on_the_new(path, target):
        if path.name == "bundle":
            raise PermissionError(13, "Permission denied")
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", fail_on_the_new)
    with pytest.raises(ExportError, match="cannot be written: Permission denied"):
        export_bundle(make.student("ws-50k"), older, **arguments)
    assert snapshot(older.parent) == before


def test_a_folder_with_other_files_is_not_replaced(make, older, arguments):
    (older / "notes.txt").write_text("mine")
    with pytest.raises(ExportError, match=r"such as notes\.txt"):
        export_bundle(make.student("ws-50k"), older, **arguments)
    with pytest.raises(ExportError, match="is a file"):
        export_bundle(make.student("ws-50k"), older / "notes.txt", **arguments)
    assert (older / "notes.txt").read_text() == "mine"


def test_a_file_that_does_not_load_is_an_export_error(make, tmp_path, arguments, monkeypatch):
    monkeypatch.setattr(bundle_module, "to_onnx", lambda _: b"not a model")
    with pytest.raises(ExportError, match="does not load on a device"):
        export_bundle(make.student("ws-50k"), tmp_path / "export", **arguments)
    assert list(tmp_path.iterdir()) == []


def test_what_does_not_fit_the_settings_is_refused(make, tmp_path, arguments):
    wrong_images = {**arguments, "probe_images": make.images(2, channels=3)}
    with pytest.raises(ExportError, match=r"allowed is uint8 of shape \(num, 32, 32, 1\)"):
        export_bundle(make.student("ws-50k"), tmp_path / "export", **wrong_images)
    unknown = {**arguments, "spec": make.spec("ws-5k")}
    with pytest.raises(ConfigError, match="ws-5k"):
        export_bundle(make.student("ws-50k"), tmp_path / "export", **unknown)
    assert list(tmp_path.iterdir()) == []
