"""Gradient inversion: without noise a drawing comes back, with noise it does not."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from edgecmd.audits.risk.inversion import (
    InversionRecipe,
    Knowledge,
    Trial,
    _loss,
    attacked_plan,
    guessed,
    invert,
    knowledge,
    matched,
    plain_update,
    private_update,
    run_trial,
    server_loss,
)
from edgecmd.audits.risk.similarity import psnr, ssim
from edgecmd.config.schema import RunConfig
from edgecmd.core.errors import ConfigError
from edgecmd.losses import loss_of, unit
from edgecmd.models.students import build_student, initialise
from edgecmd.training.distill import LocalData
from tests.tiny_federation import run_of, tiny_config, write_pairs

RECIPE = InversionRecipe(num_steps=120)
SIDE = 16


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> RunConfig:
    folder = tmp_path_factory.mktemp("inversion")
    return tiny_config(write_pairs(folder / "pairs.npz"), folder)


@pytest.fixture(scope="module")
def known() -> Knowledge:
    """A smooth network without strides beyond the first, the easy case of Zhu et al. 2019."""
    student = nn.Sequential(
        nn.Conv2d(1, 12, 5, stride=2, padding=2),
        nn.Sigmoid(),
        nn.Conv2d(12, 12, 5, padding=2),
        nn.Sigmoid(),
        nn.Flatten(),
        nn.Linear(12 * 64, 16),
    )
    initialise(student, generator=torch.Generator().manual_seed(0))
    anchors = torch.randn(32, 16, generator=torch.Generator().manual_seed(1))
    return Knowledge(
        student=student,
        anchors=anchors,
        config=replace(RunConfig().distill, loss="cmc-anchored"),
        low=0.0,
        high=2.0,
    )


def cross(num: int = 1) -> LocalData:
    """Crosses at different places, as ink of 2 on paper of 0."""
    image = torch.zeros(num, 1, SIDE, SIDE)
    for row in range(num):
        image[row, 0, 4 + 3 * row, 2:14] = 2.0
        image[row, 0, 2:14, 6 + 4 * row] = 2.0
    teacher = torch.randn(num, 16, generator=torch.Generator().manual_seed(2))
    return LocalData(target=image, teacher=teacher)


def likeness(found: torch.Tensor, data: LocalData) -> float:
    return psnr(found[0].numpy() / 2, data.target[0].numpy() / 2)


def search(
    known: Knowledge, update: tuple[torch.Tensor, ...], recipe: InversionRecipe = RECIPE
) -> torch.Tensor:
    return invert(known, update, num=1, size=[1, SIDE, SIDE], recipe=recipe)


def test_a_drawing_comes_back_from_its_plain_gradient(known: Knowledge) -> None:
    data = cross()
    found = search(known, plain_update(known, data))
    blank = likeness(torch.zeros_like(data.target), data)
    assert likeness(found, data) > blank + 10.0
    assert found.min() >= 0.0
    assert found.max() <= 2.0


def test_it_does_not_come_back_from_a_private_update(known: Knowledge, config: RunConfig) -> None:
    data, plan = cross(), attacked_plan(run_of(config))
    found = search(known, private_update(known, data, plan, seed=0, index=0))
    blank = likeness(torch.zeros_like(data.target), data)
    assert likeness(found, data) < blank + 1.0


def test_without_noise_the_private_path_points_where_the_gradient_does(
    known: Knowledge, config: RunConfig
) -> None:
    """Clipping one pair scales its gradient, and the way back to the parameters is linear."""
    quiet = replace(attacked_plan(run_of(config)), noise_multiplier=0.0)
    student = build_student(
        "ws-50k", in_channels=1, embedding_dim=16, generator=torch.Generator().manual_seed(0)
    )
    data, known = cross(), replace(known, student=student)
    # In double: of 50,000 products in float32 the sum alone is off by as much as is asked for.
    first = torch.cat([one.flatten() for one in plain_update(known, data)]).double()
    second = torch.cat(
        [one.flatten() for one in private_update(known, data, quiet, seed=0, index=0)]
    ).double()
    # Both are J^T of the same gradient with respect to the weights that act.
    assert float(torch.nn.functional.cosine_similarity(first, second, dim=0)) == pytest.approx(1.0, abs=1e-5)


def test_equal_seeds_give_equal_guesses(known: Knowledge) -> None:
    update, short = plain_update(known, cross()), replace(RECIPE, num_steps=5)
    assert torch.equal(search(known, update, short), search(known, update, short))
    assert not torch.equal(search(known, update, short), search(known, update, replace(short, seed=1)))


def test_of_several_searches_the_best_counts(known: Knowledge) -> None:
    update, short = plain_update(known, cross()), replace(RECIPE, num_steps=5)
    several = search(known, update, replace(short, restarts=2))
    alone = [search(known, update, short)]
    assert several.shape == alone[0].shape


@pytest.mark.parametrize("loss", ["cmc-anchored", "cmd-anchored", "cmc+cmd-anchored"])
def test_the_attacker_s_loss_is_the_client_s(known: Knowledge, loss: str) -> None:
    config = replace(known.config, loss=loss, cmd_weight=0.7, teacher_temperature=0.3)
    z, t = (torch.randn(5, 16, generator=torch.Generator().manual_seed(seed)) for seed in (3, 4))
    expected = loss_of(config)(z, t, known.anchors)
    torch.testing.assert_close(_loss(unit(z), unit(t), replace(known, config=config)), expected)


def test_a_loss_without_a_gradient_for_one_pair_is_replaced() -> None:
    assert server_loss("cmc") == "cmc-anchored"
    assert server_loss("cmd-anchored") == "cmd-anchored"


def test_the_pixel_range_is_that_of_the_student(config: RunConfig) -> None:
    known = knowledge(run_of(config), run_of(config).new_student())
    assert (known.low, known.high) == (0.0, 2.0)
    other = replace(config, data=replace(config.data, target_offset=0.5, target_scale=0.25))
    assert (
        knowledge(run_of(other), run_of(config).new_student()).low,
        knowledge(run_of(other), run_of(config).new_student()).high,
    ) == (
        -2.0,
        2.0,
    )


def test_a_private_run_is_attacked_under_its_own_plan(config: RunConfig) -> None:
    assert attacked_plan(run_of(config)).epsilon == 8.0
    private = tiny_config(
        Path(config.data.path), Path(config.out), "privacy.mechanism=groups", "privacy.epsilon=2"
    )
    assert attacked_plan(run_of(private)).epsilon == 2.0
    assert attacked_plan(run_of(private)).mechanism == "groups"


# A whole trial.


def trial_of(config: RunConfig, *, jobs: int, ticks: list[tuple[int, int]]) -> Trial:
    return run_trial(
        run_of(config),
        run_of(config).new_student(),
        batch_size=2,
        num_pairs=5,
        recipe=InversionRecipe(num_steps=2),
        jobs=jobs,
        tick=lambda *one: ticks.append(one),
    )


@pytest.mark.usefixtures("workers")
def test_a_trial_does_not_depend_on_the_number_of_processes(config: RunConfig) -> None:
    ticks: list[tuple[int, int]] = []
    one, two = (trial_of(config, jobs=jobs, ticks=ticks) for jobs in (1, 2))
    for name in ("truth", "plain", "private", "other"):
        assert getattr(one, name).shape == (4, 1, SIDE, SIDE)
        assert getattr(one, name).tobytes() == getattr(two, name).tobytes()
    assert ticks == 2 * [(1, 4), (2, 4), (3, 4), (4, 4)]
    table = one.table()
    assert set(table) == {"guess", "plain", "plain_gain", "private", "private_gain"}
    plain, guess, gain = (table[name]["psnr"]["mean"] for name in ("plain", "guess", "plain_gain"))
    assert gain == pytest.approx(plain - guess)


def test_more_pairs_than_there_are(config: RunConfig) -> None:
    with pytest.raises(ConfigError, match="--pairs=4000 is too many"):
        run_trial(
            run_of(config),
            run_of(config).new_student(),
            batch_size=1,
            num_pairs=4000,
            recipe=RECIPE,
            jobs=1,
            tick=lambda *_: None,
        )


def test_drawings_of_a_step_are_put_in_order() -> None:
    truth = np.stack([np.full((1, 2, 2), value) for value in (0.0, 0.4, 0.9, 0.1)])
    found = truth[[1, 0, 3, 2]] + 0.01
    assert matched(found, truth, batch_size=2) == pytest.approx(truth + 0.01)


def test_a_guess_is_the_best_of_others_and_an_empty_page() -> None:
    truth = np.stack([np.full((1, 8, 8), 0.5), np.full((1, 8, 8), 0.95)])
    pool = np.stack([np.full((1, 8, 8), 0.4), np.full((1, 8, 8), 0.6001)])
    other, best = guessed(truth, pool, blank=1.0)
    assert other[:, 0, 0, 0] == pytest.approx([0.4, 0.6001], abs=1e-9)
    assert best["psnr"] == pytest.approx([-20 * math.log10(0.1), -20 * math.log10(0.05)], abs=0.01)


# Likeness, by hand.


def test_psnr_by_hand() -> None:
    assert psnr(np.zeros((1, 2, 2)), np.full((1, 2, 2), 0.1)) == pytest.approx(20.0)
    assert psnr(np.zeros((1, 2, 2)), np.zeros((1, 2, 2))) == 60.0


def test_ssim_by_hand() -> None:
    flat, other = np.full((1, 20, 20), 0.2), np.full((1, 20, 20), 0.6)
    # Without any structure only the first factor of Wang's formula is left.
    assert ssim(flat, other) == pytest.approx((2 * 0.12 + 1e-4) / (0.04 + 0.36 + 1e-4), abs=1e-9)
    noise = np.random.default_rng(0).uniform(size=(1, 20, 20))
    assert ssim(noise, noise) == pytest.approx(1.0)
    assert ssim(noise, 1.0 - noise) < 0
    assert ssim(noise, other) == pytest.approx(ssim(other, noise))
