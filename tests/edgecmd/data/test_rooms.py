"""The built-in set of rooms: content, splits, what a client gets, sizes, damage."""

from pathlib import Path

import numpy as np
import pytest

from edgecmd.config_data import DataConfig
from edgecmd.data import rooms
from edgecmd.data.build.archive import npz_bytes
from edgecmd.data.experiment import Experiment, load_experiment
from edgecmd.data.labelled import IGNORED
from edgecmd.errors import ConfigError, DataError


@pytest.fixture(scope="module")
def experiment() -> Experiment:
    return load_experiment(DataConfig(name="rooms"))


@pytest.fixture(scope="module")
def arrays() -> dict[str, np.ndarray]:
    return rooms.read_rooms()


def test_depth_is_in_millimetres(experiment: Experiment, arrays: dict[str, np.ndarray]) -> None:
    first = int(np.flatnonzero(arrays["split"] == 0)[0])
    target = experiment.train.target
    assert target.dtype == np.uint16
    assert target.shape == (len(experiment.train), 64, 64, 1)
    step = int(arrays["depth_step_mm"])
    assert [int(v) for v in target[0, 5, :9, 0]] == [step * int(v) for v in arrays["depth"][first, 5, :9]]


def test_no_label_reaches_a_client(experiment: Experiment, arrays: dict[str, np.ndarray]) -> None:
    assert {field for field in dir(experiment.train) if not field.startswith("_")} == {
        "fingerprint",
        "source",
        "take",
        "target",
    }
    # Not even the shipped file has classes for the pixels of training rooms.
    assert (arrays["mask"][arrays["split"] == 0] == IGNORED).all()


@pytest.mark.parametrize("part", ["validation", "test"])
def test_held_out_rooms_have_masks(experiment: Experiment, part: str) -> None:
    labelled = getattr(experiment, part).labelled
    assert labelled.masks is not None
    assert len(labelled.masks.names) == 15
    assert labelled.masks.values.shape == labelled.target.shape[:3]
    # Where nothing was hit there is no class either.
    assert ((labelled.masks.values == IGNORED) == (labelled.target[..., 0] == 0)).all()
    assert set(labelled.labels["group"].values.tolist()) == set(range(5))


@pytest.mark.parametrize("side", [16, 32])
def test_smaller_sizes_mix_no_distances(experiment: Experiment, side: int) -> None:
    small = load_experiment(DataConfig(name="rooms", image_size=side))
    assert small.test.pairs.source.shape[1] == small.test.pairs.target.shape[1] == side
    step = 64 // side
    expected = experiment.test.pairs.target[:, step // 2 :: step, step // 2 :: step]
    assert np.array_equal(small.test.pairs.target, expected)
    assert small.test.labelled.masks is not None
    assert small.test.labelled.masks.values.shape[1:] == (side, side)


def test_other_sizes_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"data.image_size=48 .*Allowed: 16, 32, 64"):
        load_experiment(DataConfig(name="rooms", image_size=48))
    with pytest.raises(ConfigError, match=r"data.source_size=128 "):
        load_experiment(DataConfig(name="rooms", source_size=128))


def test_damage_is_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arrays: dict[str, np.ndarray]
) -> None:
    monkeypatch.setenv("EDGECMD_FILES", str(tmp_path))
    (tmp_path / rooms.FILE).write_bytes(b"PK nothing")
    with pytest.raises(DataError, match="is damaged and cannot be read"):
        rooms.read_rooms()
    depth = arrays["depth"].copy()
    depth[0, 0, 0] ^= 1
    (tmp_path / rooms.FILE).write_bytes(npz_bytes({**arrays, "depth": depth}))
    with pytest.raises(DataError, match="has content sha256="):
        rooms.read_rooms()
