"""The bundle: complete and checked, or not there at all."""

import dataclasses
import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from edgecmd.core.errors import ConfigError, ExportError, MachineError
from export import bundle as bundle_module
from export.bundle import Options, export_bundle
from export.device.assemble import program
from export.device.classes import Prototypes
from export.device.student import Student as DeviceStudent
from export.device.student import check
from export.documents.prototypes import head_of
from export.graph.to_onnx import to_onnx
from export.trust.listing import LABELS, PROTOTYPES
from export.trust.verify import ParityError, TaskMetric

ROOT = Path(__file__).parents[2]
ALWAYS = {
    "student.onnx",
    "infer.py",
    "golden.npz",
    "report.json",
    "MODEL_CARD.md",
    "ml-bom.cdx.json",
    "SHA256SUMS",
}
EXPORT_ELSEWHERE = """
import sys
sys.path.insert(0, sys.argv[1])
from pathlib import Path
import torch
import export
from conftest import OPTIONS, TASK, make_images, make_spec, make_student
from export.bundle import export_bundle
assert export.__file__.startswith(sys.argv[1])
torch.set_num_threads(1)
export_bundle(
    make_student("ws-50k"),
    Path(sys.argv[2]),
    spec=make_spec("ws-50k", head=True),
    probe_images=make_images(40),
    task=TASK,
    options=OPTIONS,
)
"""


def snapshot(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def arguments(make):
    """Arguments of a good export of ws-50k with a head."""
    spec = make.spec("ws-50k", head=True)
    options = Options(profiles=("fp32",))
    return {"spec": spec, "probe_images": make.images(5), "task": make.task, "options": options}


@pytest.fixture
def older(bundle, tmp_path):
    """A folder with an older bundle in it, alone in its parent folder."""
    folder = tmp_path / "runs" / "export"
    shutil.copytree(bundle("ws-50k"), folder)
    return folder


def test_bundle_has_its_files_and_they_match_their_sums(bundle):
    folder = bundle("ws-50k")
    expected = ALWAYS | {LABELS, "student.w8.onnx", "student.int8.onnx"}
    assert {path.name for path in folder.iterdir()} == expected
    lines = (folder / "SHA256SUMS").read_text().splitlines()
    assert {line.split("  ")[1] for line in lines} == expected - {"SHA256SUMS"}
    for line in lines:
        digest, name = line.split("  ")
        assert hashlib.sha256((folder / name).read_bytes()).hexdigest() == digest
    assert json.loads((folder / "labels.json").read_text()) == ["house", "tree", "fish"]
    assert (folder / "infer.py").read_text() == program()


@pytest.mark.skipif(shutil.which("sha256sum") is None, reason="needs the program sha256sum")
def test_sums_are_in_the_form_of_sha256sum(bundle):
    done = subprocess.run(
        ["sha256sum", "--check", "--strict", "SHA256SUMS"], cwd=bundle("ws-50k"), check=False
    )
    assert done.returncode == 0


def test_without_a_head_there_are_no_labels(bundle):
    assert {path.name for path in bundle("gn-50k").iterdir()} == ALWAYS


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
    assert report["opset"] == 18
    assert report["requires"] == {"numpy": "1.21", "onnxruntime": "1.14", "python": "3.8"}
    assert report["parity"] == report["profiles"]["fp32"]["parity"]
    assert report["parity"]["batch_sizes"] == [1, 2, 5, 32]
    assert report["parity"]["input_sizes"] == ["32x32", "64x64", "81x17"]
    assert report["parity"]["max_abs"] <= report["profiles"]["fp32"]["limits"]["max_abs"] == 1e-4
    assert report["profiles"]["w8"]["parity"]["min_cosine"] >= 0.9995
    assert report["profiles"]["int8"]["parity"]["mean_cosine"] >= 0.99
    assert report["calibration"] == "16 made-up pictures"
    assert report["files"]["student.onnx"]["bytes"] == (folder / "student.onnx").stat().st_size
    assert report["versions"]["torch"] == torch.__version__
    assert "/" not in text


@pytest.mark.parametrize("profile", ["fp32", "w8", "int8"])
def test_device_reproduces_the_golden_values(bundle, profile):
    folder = bundle("ws-50k")
    student = DeviceStudent(folder, profile=profile)
    assert student.profile == profile
    assert check(student) <= 1e-6
    with np.load(folder / "golden.npz") as golden:
        assert golden["image"].shape == (4, 32, 32, 1)
        assert golden["image/resized"].shape == (2, 81, 17, 1)
        assert golden["tolerance/int8"] == 2e-2
        assert golden["tolerance/w8"] == golden["tolerance/fp32"] == 1e-4
        found = student(golden["image"])
        np.testing.assert_allclose(found.scores, golden[f"scores/{profile}"], atol=1e-6)
        # Inputs that differ, so that a constant output would be found out.
        embedding = golden[f"embedding/{profile}"]
        assert abs(embedding[0] - embedding[-1]).max() > 1e-3


def test_golden_values_of_a_bundle_without_a_head(bundle):
    assert check(DeviceStudent(bundle("gn-50k"))) <= 1e-6
    with np.load(bundle("gn-50k") / "golden.npz") as golden:
        assert set(golden.files) == {
            "image",
            "image/resized",
            "embedding/fp32",
            "embedding/fp32/resized",
            "tolerance/fp32",
        }


def test_no_probe_image_is_in_the_bundle(make, bundle):
    with np.load(bundle("ws-50k") / "golden.npz") as golden:
        for image in make.images(40):
            assert not (golden["image"] == image).all(axis=(1, 2, 3)).any()


def test_exporting_twice_gives_the_same_bytes_and_replaces_the_older_bundle(
    make, older, arguments, monkeypatch
):
    monkeypatch.setattr(bundle_module, "to_onnx", to_onnx)
    before = snapshot(older)
    (older / "__pycache__").mkdir()
    (older / "demo.html").write_text("stale")
    student = make.student("ws-50k").train()
    arguments |= {"probe_images": make.images(40), "options": make.options}
    report = export_bundle(student, older, **arguments)
    assert student.training
    assert snapshot(older) == before
    assert [path.name for path in older.parent.iterdir()] == ["export"]
    assert report.num_bytes == {name: len(content) for name, content in before.items()}
    assert report.folder == older.resolve()
    assert list(report.parity) == ["fp32", "w8", "int8"]


def test_a_whole_bundle_has_the_same_bytes_in_another_process_folder_and_hash_seed(bundle, tmp_path):
    checkout = tmp_path / "another-checkout"
    for package in ("edgecmd", "export"):
        unneeded = shutil.ignore_patterns("__pycache__", "*.npz", "*.safetensors")
        shutil.copytree(ROOT / package, checkout / package, ignore=unneeded)
    shutil.copy(Path(__file__).parent / "conftest.py", checkout)
    done = subprocess.run(
        [sys.executable, "-c", EXPORT_ELSEWHERE, checkout, tmp_path / "elsewhere" / "other name"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONHASHSEED": "4242", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr.decode()
    assert snapshot(tmp_path / "elsewhere" / "other name") == snapshot(bundle("ws-50k"))


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
        with pytest.raises(ExportError, match=r"max_abs_own_size=.* exceeds the limit"):
            export_bundle(other, folder, **arguments)
        assert snapshot(older) == before
        assert [path.name for path in tmp_path.rglob("*")].count("student.onnx") == 1
        assert [path.name for path in tmp_path.iterdir()] == ["runs"]


def test_a_metric_mismatch_leaves_nothing(make, tmp_path, older, arguments, monkeypatch):
    monkeypatch.setattr(bundle_module, "to_onnx", lambda _: snapshot(older)["student.onnx"])
    before, values = snapshot(tmp_path), iter([0.5, 0.8])
    arguments["task"] = TaskMetric(name="recall@1", metric=lambda _: next(values))
    with pytest.raises(ExportError, match=r"recall@1 is 0.5000 in torch but 0.8000"):
        export_bundle(make.student("ws-50k"), older, **arguments)
    assert snapshot(tmp_path) == before


def test_limits_are_the_callers(make, older, arguments, monkeypatch):
    monkeypatch.setattr(bundle_module, "to_onnx", lambda _: snapshot(older)["student.onnx"])
    before = snapshot(older)
    arguments["options"] = Options(profiles=("fp32", "w8"), min_cosine=0.9999999)
    with pytest.raises(ExportError, match=r"profile w8 .* below the limit 1.*lower export.min_cosine"):
        export_bundle(make.student("ws-50k"), older, **arguments)
    arguments["options"] = Options(profiles=("w8",), floor=0.99)
    with pytest.raises(ParityError, match=r"metric is .* with profile w8; the floor is 0.99") as caught:
        export_bundle(make.student("ws-50k"), older, **arguments)
    assert caught.value.exit_code == 6
    assert snapshot(older) == before


def test_int8_beyond_its_limit_names_the_layer_that_hurts_most(make, older, arguments, monkeypatch):
    monkeypatch.setattr(bundle_module, "to_onnx", lambda _: snapshot(older)["student.onnx"])
    before, calls = snapshot(older), []

    def drop(_embedding):
        calls.append(1)
        return 0.9 if len(calls) == 1 else 0.5  # torch first, and once; then ONNX Runtime

    arguments |= {"task": TaskMetric(name="accuracy", metric=drop), "options": make.options}
    arguments["options"] = Options(profiles=("int8",), calibration=make.calibration())
    with pytest.raises(
        ExportError, match=r"0.9000 in torch but 0.5000 .* int8.*hurts most is student\.trunk"
    ):
        export_bundle(make.student("ws-50k"), older, **arguments)
    # The export by both, then all layers, and each of the seven between the ends.
    assert len(calls) == 2 + 1 + 7
    assert snapshot(older) == before


def test_ctrl_c_leaves_nothing(make, tmp_path, older, arguments, monkeypatch):
    monkeypatch.setattr(bundle_module, "to_onnx", lambda _: snapshot(older)["student.onnx"])
    before = snapshot(tmp_path)

    def interrupt(_):
        raise KeyboardInterrupt

    arguments["task"] = TaskMetric(name="metric", metric=interrupt)
    for folder in (older, tmp_path / "new" / "deep"):
        with pytest.raises(KeyboardInterrupt):
            export_bundle(make.student("ws-50k"), folder, **arguments)
    assert snapshot(tmp_path) == before
    assert [path.name for path in tmp_path.iterdir()] == ["runs"]


def test_what_the_gate_refuses_is_not_written(make, tmp_path, older, arguments, monkeypatch):
    model = onnx.load(older / "student.onnx")
    model.metadata_props.add(key="foreign", value="x")
    monkeypatch.setattr(bundle_module, "to_onnx", lambda _: model.SerializeToString())
    with pytest.raises(ExportError, match="file: It has the property 'foreign'"):
        export_bundle(make.student("ws-50k"), tmp_path / "new", **arguments)
    assert [path.name for path in tmp_path.iterdir()] == ["runs"]


def test_prototypes_are_a_head_and_a_file(make, older, arguments, monkeypatch):
    vectors = np.eye(3, 16, dtype=np.float32)
    prototypes = Prototypes(("a", "b", "c"), vectors, 10.0)
    arguments["spec"] = dataclasses.replace(arguments["spec"], head=head_of(prototypes))
    arguments["options"] = Options(profiles=("fp32",), prototypes=prototypes)
    export_bundle(make.student("ws-50k"), older, **arguments)
    with np.load(older / PROTOTYPES) as file:
        np.testing.assert_array_equal(file["vectors"], vectors)
        assert file["names"].tolist() == ["a", "b", "c"]
        assert file["scale"] == 10.0
    found = DeviceStudent(older)(make.images(2))
    logits = 10.0 * found.embedding[:, :3]
    expected = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(found.scores, expected, atol=1e-6)


def test_an_older_bundle_comes_back_when_the_new_one_cannot_be_placed(make, older, arguments, monkeypatch):
    monkeypatch.setattr(bundle_module, "to_onnx", lambda _: snapshot(older)["student.onnx"])
    before, replace, failed = snapshot(older.parent), Path.replace, []

    def fail_on_the_new(path, target):
        if target == older and not failed:
            failed.append(path)
            raise PermissionError(13, "Permission denied")
        return replace(path, target)

    monkeypatch.setattr(Path, "replace", fail_on_the_new)
    with pytest.raises(MachineError, match="cannot be written: this user has no permission"):
        export_bundle(make.student("ws-50k"), older, **arguments)
    assert failed
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
    with pytest.raises(ExportError, match="not an ONNX file"):
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
