"""Composed scenes: what lies where, what covers what, and that parts and seeds stay apart."""

from dataclasses import replace
from functools import cache

import numpy as np
import pytest
from scipy.ndimage import binary_erosion

from edgecmd.core.errors import ConfigError
from edgecmd.data.experiment import Experiment, load_experiment
from edgecmd.data.labelled import UNLABELLED
from edgecmd.datasets.emoji import NO_LABEL, PAIRS_FILE, read_shipped
from edgecmd.datasets.scenes import compose, majority, make_stock, one_scene
from edgecmd.settings import DataConfig

CONFIG = DataConfig(name="emoji-scenes", image_size=32, scenes=(6, 4, 4, 5))


@cache
def composed() -> Experiment:
    """The scenes of `CONFIG`, composed once; nothing changes them."""
    return load_experiment(CONFIG)


def blocks() -> tuple[np.ndarray, np.ndarray]:
    """A filled square (group 0) and a hollow one (group 1): picture and ink."""
    picture, ink = np.full((2, 64, 64, 3), 255, dtype=np.uint8), np.zeros((2, 64, 64), dtype=np.uint8)
    for row, colour in ((0, 10), (1, 200)):
        picture[row, 8:56, 8:56] = colour
        ink[row, 8:56, 8:11] = ink[row, 8:56, 53:56] = ink[row, 8:11, 8:56] = ink[row, 53:56, 8:56] = 255
    return picture, ink


def test_shapes_kinds_and_masks() -> None:
    found = composed()
    assert (found.kind, len(found.train), len(found.validation), len(found.test)) == ("composed", 6, 4, 4)
    assert len(found.public) == 5
    assert found.train.source.shape == (6, 32, 32, 3)
    assert found.train.target.shape == (6, 32, 32, 1)
    masks = found.test.labelled.masks
    assert masks is not None
    assert masks.names[0] == "background"
    assert len(masks.names) == 9
    assert masks.values.shape == (4, 32, 32)
    assert (masks.values > 0).any(axis=(1, 2)).all()


def test_the_target_is_blank_where_nothing_lies() -> None:
    found = composed()
    masks = found.test.labelled.masks
    assert masks is not None
    # Averaged down, an outline may reach a pixel that it covers by less than half.
    far = masks.values == 0
    for axis in (1, 2):
        for step in (-2, -1, 1, 2):
            far &= np.roll(masks.values, step, axis) == 0
    assert far.any()
    assert found.test.pairs.target[..., 0][far].min() > 250


def test_the_same_settings_give_the_same_scenes_and_longer_sets_begin_alike() -> None:
    first, again = composed(), load_experiment(CONFIG)
    assert first.train.fingerprint() == again.train.fingerprint()
    longer = load_experiment(replace(CONFIG, scenes=(8, 4, 4, 5)))
    assert np.array_equal(longer.train.source[:6], first.train.source)
    other = load_experiment(replace(CONFIG, scene_seed=1))
    assert not np.array_equal(other.train.source, first.train.source)
    assert not np.array_equal(first.validation.pairs.source, first.test.pairs.source)


def test_parts_are_made_of_their_own_concepts() -> None:
    arrays = read_shipped(PAIRS_FILE)
    split = arrays["split"]
    rows = [np.flatnonzero((split == part) & (arrays["label"] != NO_LABEL)) for part in range(3)]
    concepts = [set(arrays["concept"][one].tolist()) for one in rows]
    assert not concepts[0] & concepts[2]
    assert not concepts[1] & concepts[2]
    # A pool scene recomposed from the pool's rows alone is the pool scene of the set.
    stock = make_stock(
        arrays["image"][rows[1]], arrays["sketch"][rows[1]], arrays["label"][rows[1]], num_groups=8
    )
    recomposed = compose(stock, CONFIG, part="pool", num=4)
    assert np.array_equal(recomposed.source, composed().validation.pairs.source)


def test_the_last_object_covers_the_others_in_both_halves_and_in_the_mask() -> None:
    picture, ink = blocks()
    stock = make_stock(picture, ink, np.array([0, 1]), num_groups=2)
    assert stock.shape[1, 32, 32], "a hollow drawing covers its inside"
    for seed in range(20):
        scene = one_scene(stock, side=64, generator=np.random.default_rng(seed))
        for group, colour in ((1, 10), (2, 200)):
            core = binary_erosion(scene.mask == group, np.ones((5, 5)))
            right = np.abs(scene.source[core].astype(int) - colour).max(axis=1) <= 1
            # Where two of one group overlap, the upper one's edge is mixed with its white paper.
            assert right.mean() > 0.9 if core.any() else True


def test_majority_by_hand() -> None:
    mask = np.array([[[1, 1, 2]], [[0, 0, 0]], [[2, 0, 2]]], dtype=np.uint8)
    labels = majority(mask, ("a", "b"))
    assert labels.values.tolist() == [0, UNLABELLED, 1]


def test_settings_that_do_not_suit_are_refused() -> None:
    with pytest.raises(ConfigError, match="data.scenes"):
        load_experiment(replace(CONFIG, scenes=(6, 4)))
    with pytest.raises(ConfigError, match="source_size"):
        load_experiment(replace(CONFIG, source_size=64))
    with pytest.raises(ConfigError, match="image_size"):
        load_experiment(replace(CONFIG, image_size=48))
