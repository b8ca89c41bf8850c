"""The start of presimclr: public pictures alone, in the form of the target."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from edgecmd.config.schema import RunConfig
from edgecmd.core.errors import ConfigError
from edgecmd.data.modalities.depth import DEPTH
from edgecmd.data.modalities.image import IMAGE, to_input
from edgecmd.data.modalities.table import input_shape, source_input
from edgecmd.recipes.presimclr import as_target, run_steps, source_start
from edgecmd.settings import PretrainConfig
from edgecmd.training.task import Task
from tests.tiny_federation import run_of

RATE = PretrainConfig().learning_rate


def test_it_learns_from_public_pictures_alone(tiny: RunConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a pair was read")

    for name in ("training_pairs", "pair_features", "local_data"):
        monkeypatch.setattr(Task, name, refuse)
    losses: list[float] = []
    hot = replace(tiny, distill=replace(tiny.distill, temperature=0.5))
    source_start(
        run_of(hot),
        learning_rate=tiny.pretrain.learning_rate,
        num_steps=15,
        progress=lambda _, loss: losses.append(loss),
    )
    assert np.mean(losses[-3:]) < np.mean(losses[:3])


def test_equal_settings_give_equal_weights(tiny: RunConfig) -> None:
    one, other = (source_start(run_of(tiny), learning_rate=RATE, num_steps=2).state_dict() for _ in range(2))
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert run_steps(run_of(tiny)) == 4


def test_a_grey_picture_is_what_the_same_drawing_would_be(tiny: RunConfig) -> None:
    """Round trip by another way: the stored numbers scaled as a target's."""
    grey = np.random.default_rng(0).integers(0, 256, (3, 16, 16, 1), dtype=np.uint8)
    seen = as_target(
        source_input(np.repeat(grey, 3, axis=3)), run_of(tiny), IMAGE.from_pictures, shape=(1, 16, 16)
    )
    direct = to_input(grey, offset=tiny.data.target_offset, scale=tiny.data.target_scale)
    torch.testing.assert_close(seen, direct, rtol=1e-5, atol=1e-5)


def test_depth_sees_everything_as_measured_and_colour_stays_colour(tiny: RunConfig) -> None:
    image = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    depth = as_target(image, run_of(tiny), DEPTH.from_pictures, shape=(2, 16, 16))
    assert depth.shape == (2, 2, 16, 16)
    assert bool((depth[:, 1] == 1).all())
    assert as_target(image, run_of(tiny), IMAGE.from_pictures, shape=(3, 16, 16)).shape == (2, 3, 16, 16)


def test_recordings_are_refused(tiny: RunConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    wave = np.zeros((4, 8000), dtype=np.int16)
    assert input_shape(wave) == (1, 1, 8000)
    fake = SimpleNamespace(train=SimpleNamespace(target=wave))
    run = run_of(tiny)
    monkeypatch.setattr(run.task, "data", fake)
    with pytest.raises(ConfigError, match="recordings, and a student of recordings cannot start from images"):
        source_start(run, learning_rate=RATE, num_steps=1)
