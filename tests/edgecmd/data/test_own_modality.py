"""A modality of one's own, movements of a wrist, added by one row: through settings to a report.

The row stands in docs/extending.md: how a movement is stored, seen, varied, shown and compared. The data set
is a row too, because no reader of files knows movements.
"""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from edgecmd.catalogue.data_sets import DATA_SETS, DataSet
from edgecmd.core.errors import ConfigError, DataError
from edgecmd.data.augment import augment
from edgecmd.data.constants import constant_notes
from edgecmd.data.duplicates import near_groups
from edgecmd.data.experiment import Experiment
from edgecmd.data.modalities.row import Modality
from edgecmd.data.modalities.signature import Signature
from edgecmd.data.modalities.table import (
    MODALITIES,
    as_pictures,
    input_shape,
    kind_of,
    modality_of,
    motion_of,
    target_input,
)
from edgecmd.data.pairs import PairedData, PublicSource
from edgecmd.data.user_files.device_pairs import read_device_pairs
from edgecmd.data.user_files.user_pairs import OwnPairs, to_experiment
from edgecmd.experiments.theory.gaps import MISMATCH, degrade, gap_names
from edgecmd.models.teacher.teachers import build_teacher, save_teacher
from edgecmd.settings import DataConfig
from tests.command_line import run

AXES, SAMPLES, PAIRS, SIDE = 3, 32, 60, 16


def documented() -> Modality:
    """The row of docs/extending.md, with a degradation and a look."""
    page = (Path(__file__).parents[3] / "docs" / "extending.md").read_text(encoding="utf-8")
    code = page.split("## A modality", 1)[1].split("```python\n", 1)[1].split("```", 1)[0]
    names: dict[str, object] = {}
    exec(compile(code, "docs/extending.md", "exec"), names)
    row = names["IMU"]
    assert isinstance(row, Modality)
    return replace(row, degradations={"coarse": coarse}, looks=(numbers,))


def coarse(stored: np.ndarray, level: float, _: np.random.Generator) -> np.ndarray:
    """In steps of up to 100."""
    step = round(1 + 99 * level)
    return stored // step * step


def numbers(stored: np.ndarray, rows: np.ndarray) -> Signature:
    """Near-equal movements differ by at most 1 in each number: by ten units."""
    values = stored[rows].reshape(len(rows), -1).astype(np.float32) / 10
    return Signature(values=values, contrast=np.linalg.norm(values, axis=1).astype(float))


IMU = documented()


def movements(num: int, *, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(-999, 1000, (num, SAMPLES, AXES), dtype=np.int16)


def load_movements(config: DataConfig) -> Experiment:
    """Pairs of noise pictures and noise movements; five labels."""
    noise = np.random.default_rng(7)
    source = noise.integers(0, 256, (PAIRS, SIDE, SIDE, 3), dtype=np.uint8)
    own = OwnPairs(
        ids=tuple(f"take-{row:02d}" for row in range(PAIRS)),
        data=PairedData(source=source, target=movements(PAIRS)),
        columns={"label": [f"class-{row % 5}" for row in range(PAIRS)]},
    )
    images = noise.integers(0, 256, (24, SIDE, SIDE, 3), dtype=np.uint8)
    public = PublicSource(images=images, keys=tuple(map(str, range(24))), name="noise")
    return to_experiment(own, config, public=public, name="wrists", kind="synthetic")


@pytest.fixture(autouse=True)
def imu(monkeypatch: pytest.MonkeyPatch) -> Modality:
    """The row, and a data set of it."""
    monkeypatch.setitem(MODALITIES, "imu", IMU)
    row = DataSet(
        loader=f"{__name__}:load_movements",
        kind="synthetic",
        pair="a movement beside a picture",
        licence="none",
        provenance="made up",
        attribution="nobody",
    )
    monkeypatch.setitem(DATA_SETS, "wrists", row)
    return IMU


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Words of a run that takes a second."""
    monkeypatch.chdir(tmp_path)
    network = build_teacher("gn-teacher", embedding_dim=16, generator=torch.Generator().manual_seed(0))
    teacher = tmp_path / "teacher.safetensors"
    save_teacher(network, teacher, recipe={"architecture": "gn-teacher", "embedding_dim": "16"})
    every = (
        'data.name="wrists"',
        'data.target_kind="imu"',
        f"data.image_size={SIDE}",
        "data.strict=false",
        f'teacher.path="{teacher}"',
        'student.architecture="ws-50k"',
        "distill.batch_size=8",
        "distill.num_anchors=16",
        "federation.num_clients=3",
        "federation.num_rounds=2",
        "federation.local_steps=1",
        "evaluate.num_labels=1",
        "evaluate.num_draws=1",
        'name="imu"',
    )
    return [word for one in every for word in ("--set", one)]


def test_arrays_tell_that_they_are_movements() -> None:
    target = movements(4)
    assert (modality_of(target).name, kind_of(target), input_shape(target)) == ("imu", "imu", (3, 1, 32))
    # By hand: the second axis of the first sample of the third movement, as a share of the largest.
    value = target_input(target, offset=9.0, scale=9.0)[2, 1, 0, 0].item()
    assert value == pytest.approx(target[2, 0, 1] / 1000)
    with pytest.raises(DataError, match=r"int16 samples .*; or int16 of shape \(num, samples, axes\)"):
        modality_of(target.astype(np.int32))


def test_the_house_asks_the_row() -> None:
    target = movements(4)
    view = augment(
        "imu",
        IMU.to_input(target, offset=0.0, scale=1.0),
        strength=1.0,
        generator=torch.Generator().manual_seed(0),
    )
    ratio = view / IMU.to_input(target, offset=0.0, scale=1.0)
    assert 0.89 < ratio.nanmean().item() < 1.11
    assert as_pictures(target).shape == (4, AXES, SAMPLES, 1)
    target[1], target[2], target[3] = target[0], target[0] + 5, 7
    # The second equals the first, the third is within half a unit of it, the fourth is another.
    assert near_groups(target).tolist() == [0, 0, 0, 1]
    pictures = np.random.default_rng(0).integers(0, 256, (4, SIDE, SIDE, 3), dtype=np.uint8)
    assert constant_notes(PairedData(source=pictures, target=target)) == [
        "1 of 4 movements of target/ are at rest: nothing can be learnt from them, and in a test they can"
        " only be guessed."
    ]
    assert gap_names(IMU) == ("coarse", MISMATCH)
    made = degrade(target, gap="coarse", level=1.0, generator=np.random.default_rng(0))
    assert set(np.unique(made % 100)) == {0}
    with pytest.raises(ConfigError, match="Allowed: depth, image"):
        motion_of("imu")


def test_a_device_reads_no_file_as_a_movement_and_answers_all_the_same(tmp_path: Path) -> None:
    path = tmp_path / "pairs.npz"
    source = np.random.default_rng(0).integers(0, 256, (3, SIDE, SIDE, 3), dtype=np.uint8)
    np.savez(path, source=source, target=source[..., :1])
    found = read_device_pairs(path, DataConfig(image_size=16, sampling_rate_hz=4000, clip_s=0.1), kind="imu")
    assert found.data.target.shape == (0, 400, AXES)
    assert found.skipped[0].endswith("holds images; data.target_kind='imu' takes movements.")


def test_distillation_federation_evaluation_and_report(
    settings: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, "simulate", *settings) == 0
    out = capsys.readouterr().out
    # Nobody finds out only after the training.
    assert "Students of movements cannot be exported" in " ".join(out.split())
    assert run(monkeypatch, "evaluate", "runs/imu", "--baselines") == 0
    table = json.loads(Path("runs/imu/evaluation.json").read_text())
    assert set(table["baselines"]) == {"untrained", "teacher as it is", "l2", "simclr", "scratch"}
    assert 0.0 <= table["student"]["retrieval"]["recall@1"] <= 1.0
    assert run(monkeypatch, "report", "runs/imu") == 0
    assert "wrists" in Path("runs/imu/report.html").read_text()
    capsys.readouterr()
    assert run(monkeypatch, "export", "runs/imu") == 2
    said = " ".join(capsys.readouterr().err.split())
    assert (
        "Students of movements cannot be exported: the modality 'imu' has front_end=''. Allowed: image,"
        in said
    )
    assert not Path("runs/imu/export").exists()


def test_privacy(settings: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    private = ["--set", "privacy.mechanism=anchors", "--set", "privacy.deterministic=true"]
    assert run(monkeypatch, "simulate", *settings, *private) == 0
    assert json.loads(Path("runs/imu/privacy.json").read_text())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ('student.architecture="audio-50k"', "which are movements. Allowed: ws-50k"),
        ('student.architecture="seg-50k"', "which are movements. Allowed: ws-50k"),
        ('data.target_kind="wave"', "are 'imu'. Set data.target_kind='imu' or 'auto'"),
        ('data.target_kind="imo"', "Did you mean 'imu'?"),
    ],
)
def test_what_does_not_suit_is_refused(
    change: str,
    message: str,
    settings: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run(monkeypatch, "simulate", *settings, "--set", change) == 2
    assert message in " ".join(capsys.readouterr().err.split())
