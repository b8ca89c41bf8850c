"""The built-in sets of rooms and objects: content, splits, what a client gets, sizes, sensor, damage."""

from pathlib import Path

import numpy as np
import pytest

from edgecmd.catalogue.data_files import shipped_file
from edgecmd.core.errors import ConfigError, DataError
from edgecmd.data.experiment import Experiment, load_experiment
from edgecmd.data.labelled import IGNORED
from edgecmd.datasets import indoor
from edgecmd.datasets.build.npz_writer import npz_bytes
from edgecmd.settings import DataConfig


@pytest.fixture(scope="module")
def experiment() -> Experiment:
    return load_experiment(DataConfig(name="rooms"))


@pytest.fixture(scope="module")
def arrays() -> dict[str, np.ndarray]:
    return indoor.read_indoor(indoor.ROOMS_FILE)


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
        "reversed",
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
    assert small.test.pairs.source.shape[1:] == (side, side, 3)
    assert small.test.pairs.target.shape[1] == side
    step = 64 // side
    expected = experiment.test.pairs.target[:, step // 2 :: step, step // 2 :: step]
    assert np.array_equal(small.test.pairs.target, expected)
    assert small.test.labelled.masks is not None
    assert small.test.labelled.masks.values.shape[1:] == (side, side)


def test_pictures_keep_the_size_that_they_are_given_apart_from_the_maps(experiment: Experiment) -> None:
    apart = load_experiment(DataConfig(name="rooms", image_size=32, source_size=64))
    assert apart.test.pairs.target.shape[1] == 32
    assert np.array_equal(apart.test.pairs.source, experiment.test.pairs.source)


def test_other_sizes_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"data.image_size=48 .*Allowed: 16, 32, 64"):
        load_experiment(DataConfig(name="rooms", image_size=48))
    with pytest.raises(ConfigError, match=r"data.source_size=128 "):
        load_experiment(DataConfig(name="rooms", source_size=128))


@pytest.fixture(scope="module")
def objects() -> Experiment:
    return load_experiment(DataConfig(name="objects"))


def pieces(ids: tuple[str, ...]) -> set[str]:
    return {one.rpartition("/")[0] for one in ids}


def test_counts(experiment: Experiment, objects: Experiment) -> None:
    for whole, counts in ((experiment, [800, 200, 200]), (objects, [1550, 432, 576])):
        assert [len(whole.train), len(whole.validation), len(whole.test)] == counts
        assert (whole.kind, whole.unseen, len(whole.public)) == ("rendered", "furniture", 2007)
    # The pool and the test have every kind equally often; the pairs have as many as there are pieces.
    for held, num in ((objects.validation, 36), (objects.test, 48)):
        assert np.bincount(held.labelled.labels["group"].values).tolist() == [num] * 12
    assert np.bincount(objects.train_labels.values).min() == 40
    assert np.bincount(objects.train_labels.values).max() == 290


def test_no_piece_of_furniture_is_in_two_parts(objects: Experiment) -> None:
    parts = [
        pieces(one)
        for one in (objects.public.keys, objects.train_ids, objects.validation.ids, objects.test.ids)
    ]
    assert sum(map(len, parts)) == len(set.union(*parts))
    assert [len(one) for one in parts[1:]] == [155, 76, 97]


def test_no_picture_is_in_two_parts(experiment: Experiment, objects: Experiment) -> None:
    for whole in (experiment, objects):
        parts = (whole.train, whole.validation.pairs, whole.test.pairs)
        pictures = [image.tobytes() for part in parts for image in part.source]
        assert len(set(pictures)) == len(pictures)
        assert not set(pictures) & {image.tobytes() for image in whole.public.images}


def test_homes_hold_their_rooms_and_libraries_their_furniture(
    experiment: Experiment, objects: Experiment
) -> None:
    assert np.bincount(experiment.train_owner.values).tolist() == [40] * 20
    assert objects.train_owner.names == (
        "Blend Swap CC-0",
        "Blend Swap CC-BY",
        "Kator Legaz",
        "Reallusion",
        "Scopia",
    )
    owners = [objects.train_owner.names[value] for value in objects.train_owner.values]
    assert owners == [one.partition("#")[0] for one in objects.train_ids]


def test_objects_miss_their_background(objects: Experiment) -> None:
    seen = objects.test.pairs.target > 0
    assert seen.mean(axis=(1, 2, 3)).min() > 0.02
    # Brought to a radius of 0.75 m and looked at from 1.67 to 2.16 m.
    assert objects.test.pairs.target[seen].min() > 800
    assert objects.test.pairs.target.max() < 3060


def test_the_sensor_changes_targets_alone(objects: Experiment) -> None:
    sensed = load_experiment(DataConfig(name="objects", depth_noise=3.0, depth_holes=0.5))
    assert np.array_equal(sensed.test.pairs.source, objects.test.pairs.source)
    assert sensed.public.fingerprint() == objects.public.fingerprint()
    before, after = objects.test.pairs.target, sensed.test.pairs.target
    assert (after[before == 0] == 0).all()
    assert 0.02 < (after[before > 0] == 0).mean() < 0.5
    assert np.array_equal(sensed.test.labelled.target, after)


def test_the_notice_names_every_piece(objects: Experiment) -> None:
    text = " ".join(shipped_file(indoor.NOTICE_FILE).read_text(encoding="utf-8").split())
    every = objects.train_ids + objects.validation.ids + objects.test.ids + objects.public.keys
    for piece in pieces(every):
        if not piece.startswith("room-"):
            assert f"({piece.partition('#')[2]})" in text


@pytest.mark.parametrize("name", [indoor.ROOMS_FILE, indoor.OBJECTS_FILE, indoor.PUBLIC_FILE])
def test_damage_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    config = DataConfig(name="rooms")
    arrays = indoor.read_indoor(name, path=config.path)
    monkeypatch.setenv("EDGECMD_FILES", str(tmp_path))
    (tmp_path / name).write_bytes(b"PK nothing")
    with pytest.raises(DataError, match="is damaged and cannot be read"):
        indoor.read_indoor(name, path=config.path)
    first = next(iter(arrays))
    changed = arrays[first].copy()
    changed[0, 0, 0] ^= 1
    (tmp_path / name).write_bytes(npz_bytes({first: changed[:1]}))
    with pytest.raises(DataError, match="has content sha256="):
        indoor.read_indoor(name, path=config.path)
