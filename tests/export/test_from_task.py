"""A student as an object becomes a bundle: one of the table, and any module that torch exports."""

import copy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from edgecmd.config.schema import RunConfig
from edgecmd.core.errors import ConfigError, DataError, ExportError
from edgecmd.data.labelled import LabelledTarget, Labels
from edgecmd.models.any_student import student
from edgecmd.training.task import Task
from export.from_task import export_student
from export.loaded import load_bundle
from export.trust.errors import GateError, TrustError
from tests.tiny_federation import task_of

DIM = 12


class Own(nn.Module):
    """A network of no table: a convolution, whatever is given, a mean over places, a linear layer."""

    def __init__(self, inside: nn.Module) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(0)
            self.first = nn.Conv2d(1, 8, 3, stride=2, padding=1)
            self.norm, self.inside = nn.BatchNorm2d(8), inside
            self.last = nn.Linear(8, DIM)

    def forward(self, image: Tensor) -> Tensor:
        features: Tensor = self.inside(self.norm(self.first(image)))
        embedding: Tensor = self.last(features.mean(dim=(2, 3)))
        return embedding


class Frequencies(nn.Module):
    """What torch exports, as an operator that no device takes."""

    def forward(self, image: Tensor) -> Tensor:
        return torch.fft.fft2(image).real


class Branch(nn.Module):
    """What torch cannot export: which way it goes depends on the numbers."""

    def forward(self, image: Tensor) -> Tensor:
        return image + 1 if bool(image[0].sum() > 0) else image - 1


@pytest.fixture
def task(tiny: RunConfig) -> Task:
    return task_of(tiny)


def examples(task: Task) -> LabelledTarget:
    return task.data.validation.labelled


def by_hand(module: nn.Module, raw: np.ndarray) -> np.ndarray:
    """Unit embeddings as the documentation of the settings has it: v -> (v / 255 - 1) / -0.5."""
    with torch.no_grad():
        scaled = (torch.from_numpy(raw).permute(0, 3, 1, 2).float() / 255 - 1.0) / -0.5
        found = copy.deepcopy(module).eval()(scaled).numpy()
    unit: np.ndarray = found / np.linalg.norm(found, axis=1, keepdims=True)
    return unit


def test_any_module_that_torch_exports_is_exported_and_classifies(task: Task, tmp_path: Path) -> None:
    module = Own(nn.SiLU()).train()
    before = copy.deepcopy(module.state_dict())
    made = export_student(
        module, tmp_path / "bundle", task=task, examples=examples(task), profiles=["fp32", "int8"]
    )
    raw = task.data.test.pairs.target
    embedding = made.embed(raw)
    assert embedding.shape == (len(raw), DIM)
    np.testing.assert_allclose(embedding, by_hand(module, raw), atol=1e-4)
    assert made.classes == ("tall", "wide")
    assert set(made.classify(raw)) <= {"tall", "wide"}
    assert module.training
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())
    again = load_bundle(tmp_path / "bundle", profile="int8")
    assert float((again.embed(raw) * embedding).sum(axis=1).min()) > 0.9
    assert '"architecture": "<Own>"' in (tmp_path / "bundle" / "report.json").read_text()


def test_leaky_activations_go_through_every_profile(task: Task, tmp_path: Path) -> None:
    """Each way below zero of its own, behind batch statistics; every file is checked when it is loaded."""
    module = Own(nn.Sequential(nn.ELU(0.7), nn.PReLU(8, init=0.3), nn.LeakyReLU(0.2), nn.PReLU())).train()
    raw = examples(task).target
    with torch.no_grad():
        for _ in range(20):
            module(torch.from_numpy(raw).permute(0, 3, 1, 2).float() / 255)
    profiles = ("fp32", "w8", "w4", "int8")
    export_student(module, tmp_path / "own", task=task, examples=examples(task), profiles=profiles)
    for profile, least in zip(profiles, (0.99999, 0.9995, 0.9, 0.9), strict=True):
        found = load_bundle(tmp_path / "own", profile="" if profile == "fp32" else profile).embed(raw)
        assert (found * by_hand(module, raw)).sum(axis=1).min() > least, profile


def test_the_head_is_that_of_the_examples(task: Task, tmp_path: Path) -> None:
    """Two classes that one pixel tells apart are told apart by a student that lets that pixel through."""

    class Corner(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(1))

        def forward(self, image: Tensor) -> Tensor:
            corner = image[:, :, 0, 0] * self.weight
            return torch.cat([corner - 1.0, 1.0 - 0.5 * corner], dim=1)

    raw = np.full((40, 16, 16, 1), 255, np.uint8)
    raw[::2, 0, 0] = 0
    labels = {"group": Labels(values=np.arange(40) % 2, names=("ink", "blank"))}
    given = LabelledTarget(target=raw, labels=labels)
    made = export_student(Corner(), tmp_path / "b", task=task, examples=given, profiles=["fp32"])
    assert made.classify(raw[:4]) == ["ink", "blank", "ink", "blank"]


def test_without_examples_no_pair_is_looked_at(task: Task, tmp_path: Path) -> None:
    whole = task.data
    blank = np.zeros_like(whole.train.target)
    blind = copy.copy(task)
    blind.data = replace(
        whole, train=replace(whole.train, target=blank, source=np.zeros_like(whole.train.source))
    )
    module = Own(nn.ReLU())
    for name, one in (("seen", task), ("blind", blind)):
        export_student(module, tmp_path / name, task=one, profiles=["int8"])
    files = sorted(path.name for path in (tmp_path / "seen").iterdir())
    assert "labels.json" not in files
    for name in files:
        assert (tmp_path / "seen" / name).read_bytes() == (tmp_path / "blind" / name).read_bytes(), name
    with pytest.raises(ExportError, match="has no head"):
        load_bundle(tmp_path / "seen").classify(whole.test.pairs.target)
    with pytest.raises(ExportError, match="allowed is uint8 of shape"):
        load_bundle(tmp_path / "seen").embed(np.zeros((2, 16, 16, 1), np.float32))


@pytest.mark.parametrize(
    ("inside", "error", "told"),
    [
        (
            Frequencies(),
            GateError,
            r"'DFT', which is not an operator of a student.*Build that part of the student from other",
        ),
        (Branch(), ExportError, r"cannot export architecture='<Own>': Could not guard on data-dependent"),
        (nn.Flatten(), ConfigError, "The student <Own>"),
    ],
)
def test_what_does_not_export_is_named_and_nothing_is_left(
    inside: nn.Module,
    error: type[Exception],
    told: str,
    task: Task,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    folder = tmp_path / "new"
    folder.mkdir()
    with pytest.raises(error, match=told) as caught:
        export_student(Own(inside), folder / "bundle", task=task)
    assert list(folder.iterdir()) == []
    assert "\x1b" not in str(caught.value)
    assert str(Path(torch.__file__).parent) not in capfd.readouterr().err


def test_examples_that_do_not_fit_are_refused(task: Task, tmp_path: Path) -> None:
    module, good = student("ws-50k", dim=DIM, size=16), examples(task)
    small = LabelledTarget(target=good.target[:, :8, :8], labels=good.labels)
    with pytest.raises(DataError, match=r"examples has uint8 inputs of shape \(8, 8, 1\), .* \(16, 16, 1\)"):
        export_student(module, tmp_path / "b", task=task, examples=small)
    with pytest.raises(DataError, match="labelling='colour' is not a labelling of the examples; allowed are"):
        export_student(module, tmp_path / "b", task=task, examples=good, labelling="colour")
    one = LabelledTarget(
        target=good.target, labels={"group": Labels(values=np.zeros(len(good), int), names=("tall",))}
    )
    with pytest.raises(DataError, match="at least 2 classes; given are 1"):
        export_student(module, tmp_path / "b", task=task, examples=one)
    dense = student("seg-50k", dim=DIM, size=16)
    with pytest.raises(DataError, match="predicts a class for each pixel"):
        export_student(dense, tmp_path / "b", task=task, examples=good)
    assert not (tmp_path / "b").exists()


def test_a_bundle_that_was_changed_is_not_loaded(
    bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import shutil

    folder = tmp_path / "changed"
    shutil.copytree(bundle("ws-50k"), folder)
    assert load_bundle(folder).classes == ("house", "tree", "fish")
    model = folder / "student.onnx"
    data = bytearray(model.read_bytes())
    data[-20] ^= 1
    model.write_bytes(bytes(data))
    monkeypatch.setattr("export.loaded.DeviceStudent", lambda *_, **__: pytest.fail("it was loaded"))
    with pytest.raises(TrustError, match=r"student\.onnx was changed"):
        load_bundle(folder)


def test_a_profile_that_a_bundle_has_not_is_named(bundle) -> None:
    with pytest.raises(ExportError, match="dyn8"):
        load_bundle(bundle("ws-50k"), profile="dyn8")
