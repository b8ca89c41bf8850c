"""Local work: it learns, it follows from its place alone, and its parts do what they say."""

import math
from dataclasses import replace
from itertools import islice
from pathlib import Path

import golden_steps
import numpy as np
import pytest
import torch

from edgecmd.core.errors import ConfigError
from edgecmd.losses import L2, LOSSES, loss_of
from edgecmd.models.devices import place as placed
from edgecmd.models.students import Student, build_student
from edgecmd.settings import DistillConfig
from edgecmd.training.distill import (
    LocalData,
    Place,
    add_proximal_gradient,
    batches,
    distil,
    embed_batch,
    learning_rate_at,
    make_optimizer,
    optimizer_tensors,
    restore_optimizer,
)

PLACE = Place(seed=0, round_index=1, client=0, first_step=0, total_steps=40)


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def student(seed: int = 0) -> Student:
    return build_student("ws-50k", in_channels=1, embedding_dim=8, generator=generator(seed))


def data(num: int = 24) -> LocalData:
    """Pairs whose teacher feature is a linear function of the picture, so that they can be learnt."""
    target = torch.randn(num, 1, 4, 4, generator=generator(1)).repeat_interleave(4, 2).repeat_interleave(4, 3)
    mixing = torch.randn(16, 8, generator=generator(2))
    return LocalData(target=target, teacher=target[:, 0, ::4, ::4].reshape(num, 16) @ mixing)


ANCHORS = torch.randn(12, 8, generator=generator(3))


def train(config: DistillConfig, *, steps: int = 40, place: Place = PLACE) -> tuple[float, Student]:
    trained = student()
    loss = distil(
        trained,
        data(),
        ANCHORS,
        config,
        loss=loss_of(config),
        num_steps=steps,
        place=place,
        optimizer=make_optimizer(trained, config),
    )
    return loss, trained


@pytest.mark.parametrize("loss", LOSSES)
def test_every_loss_falls_below_where_it_starts(loss: str) -> None:
    config = DistillConfig(
        loss=loss, batch_size=12, learning_rate=3e-3, augment=0.2, temperature=0.3, teacher_temperature=0.3
    )
    first, _ = train(config, steps=1)
    _, trained = train(config, steps=40)
    last = distil(
        trained,
        data(),
        ANCHORS,
        replace(config, learning_rate=0.0),
        loss=loss_of(config),
        num_steps=5,
        place=PLACE,
        optimizer=make_optimizer(trained, config),
    )
    assert last < first - 0.05
    level = loss_of(config).chance_level(batch_size=12, num_anchors=12)
    assert level is None or last < level + 0.5


def test_the_result_follows_from_the_place_alone() -> None:
    config = DistillConfig(loss="cmc", batch_size=8)
    torch.manual_seed(1)
    loss_a, first = train(config, steps=3)
    torch.manual_seed(2)
    np.random.seed(2)  # noqa: NPY002 - a stranger's global seed must not matter
    loss_b, second = train(config, steps=3)
    _, elsewhere = train(config, steps=3, place=replace(PLACE, round_index=2))
    assert loss_a == loss_b
    for one, two in zip(first.parameters(), second.parameters(), strict=True):
        assert torch.equal(one, two)
    assert not torch.equal(first.projector.weight, elsewhere.projector.weight)


def test_a_loss_that_changes_over_the_run_is_told_the_share_of_its_steps() -> None:
    """Two steps a round of six in all; a round on its own asks for what it would in the whole run."""
    told: list[float] = []

    class Watched(L2):
        def at(self, share: float) -> "Watched":
            told.append(share)
            return self

    config, trained = DistillConfig(batch_size=8), student()
    for index in (0, 1, 2, 2, 40):
        place = replace(PLACE, round_index=index + 1, first_step=2 * index, total_steps=6)
        optimizer = make_optimizer(trained, config)
        distil(
            trained,
            data(),
            ANCHORS,
            config,
            loss=Watched(),
            num_steps=2,
            place=place,
            optimizer=optimizer,
        )
    assert told == pytest.approx([0, 1 / 6, 2 / 6, 3 / 6, 4 / 6, 5 / 6, 4 / 6, 5 / 6, 1, 1])


def test_batches_are_whole_and_each_epoch_is_a_permutation() -> None:
    drawn = list(islice(batches(10, batch_size=3, generator=np.random.default_rng(0)), 6))
    assert [len(one) for one in drawn] == [3] * 6
    for epoch in (drawn[:3], drawn[3:]):
        assert len(set(np.concatenate(epoch))) == 9
    assert len(next(batches(4, batch_size=64, generator=np.random.default_rng(0)))) == 4


def test_one_pair_is_too_few() -> None:
    with pytest.raises(ConfigError, match="A client holds 1 pair; at least 2"):
        next(batches(1, batch_size=4, generator=np.random.default_rng(0)))


def test_learning_rate_by_hand() -> None:
    config = DistillConfig(learning_rate=2.0)
    assert learning_rate_at(config, step=0, total_steps=100) == pytest.approx(2.0 / 5)
    half = 2.0 * (1 + math.cos(math.pi / 2)) / 2
    assert learning_rate_at(config, step=50, total_steps=100) == pytest.approx(half)
    constant = replace(config, schedule="constant")
    assert learning_rate_at(constant, step=99, total_steps=100) == 2.0
    with pytest.raises(ConfigError, match="distill.schedule='linear'"):
        learning_rate_at(replace(config, schedule="linear"), step=0, total_steps=10)


def test_the_proximal_gradient_by_hand() -> None:
    trained = student()
    reference = [parameter.detach() - 2.0 for parameter in trained.parameters()]
    for parameter in trained.parameters():
        parameter.grad = torch.ones_like(parameter)
    add_proximal_gradient(trained, reference, mu=0.25)
    for parameter in trained.parameters():
        torch.testing.assert_close(parameter.grad, torch.full_like(parameter, 1.5))


def test_a_strong_proximal_term_keeps_the_student_near() -> None:
    _, free = train(DistillConfig(loss="cmc", batch_size=8, optimizer="sgd", learning_rate=0.05), steps=20)
    held_config = DistillConfig(
        loss="cmc", batch_size=8, optimizer="sgd", learning_rate=0.05, proximal_mu=5.0
    )
    _, held = train(held_config, steps=20)
    start = student().projector.weight
    assert (held.projector.weight - start).norm() < (free.projector.weight - start).norm() / 2


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_a_shared_projector_stays_as_it_was_and_all_else_learns(optimizer: str) -> None:
    config = DistillConfig(
        loss="cmd", batch_size=8, optimizer=optimizer, weight_decay=0.1, freeze_projector=True
    )
    _, trained = train(config, steps=3)
    for (name, before), after in zip(student().named_parameters(), trained.parameters()):
        assert torch.equal(before, after) == name.startswith("projector."), name
        assert after.requires_grad


@pytest.mark.parametrize("name", ["adamw", "sgd"])
def test_optimiser_state_survives_a_round_trip(name: str) -> None:
    config = DistillConfig(loss="cmc", batch_size=8, optimizer=name)
    straight, halves = student(), student()
    optimizer = make_optimizer(straight, config)
    for round_index in (1, 2):
        place = replace(PLACE, round_index=round_index)
        distil(
            straight,
            data(),
            ANCHORS,
            config,
            loss=loss_of(config),
            num_steps=2,
            place=place,
            optimizer=optimizer,
        )
    kept: dict[str, torch.Tensor] = {}
    for round_index in (1, 2):
        fresh = make_optimizer(halves, config)
        restore_optimizer(fresh, kept)
        place = replace(PLACE, round_index=round_index)
        distil(
            halves, data(), ANCHORS, config, loss=loss_of(config), num_steps=2, place=place, optimizer=fresh
        )
        kept = optimizer_tensors(fresh)
    for one, two in zip(straight.parameters(), halves.parameters(), strict=True):
        assert torch.equal(one, two)


@pytest.mark.parametrize("name", ["adamw", "sgd"])
def test_kept_state_is_put_back_in_the_memory_layout_of_its_parameter(name: str) -> None:
    """On a device weights of convolutions lie channels last, and a file row by row: no number may move."""
    config = DistillConfig(optimizer=name)
    layers = [placed(torch.nn.Conv2d(3, 4, 3), torch.device("cpu")) for _ in range(2)]
    layers[1].load_state_dict(layers[0].state_dict())
    whole, optimizer = make_optimizer(layers[0], config), make_optimizer(layers[1], config)
    coins = torch.Generator().manual_seed(0)
    for _ in range(3):
        pulled = torch.randn(layers[0].weight.shape, generator=coins)
        for layer, one in zip(layers, (whole, optimizer), strict=True):
            layer.weight.grad = torch.empty_like(layer.weight).copy_(pulled)
            one.step()
        kept = optimizer_tensors(optimizer)
        optimizer = make_optimizer(layers[1], config)
        restore_optimizer(optimizer, kept)
    assert torch.equal(layers[0].weight, layers[1].weight)


def test_unknown_names_are_refused_with_the_nearest() -> None:
    with pytest.raises(ConfigError, match="distill.loss='cmcc' is unknown.*Did you mean 'cmc'"):
        train(DistillConfig(loss="cmcc"), steps=1)
    with pytest.raises(ConfigError, match="distill.optimizer='adam'.*Did you mean 'adamw'"):
        train(DistillConfig(loss="cmc", optimizer="adam"), steps=1)


# What is added up in another order, or with fused products, differs by 5e-13 after ten steps in double (seen
# with SSE 4, AVX2, AVX-512 and AMX); one number that is rounded to float32 on the way shows as 1e-7.
SAME = 1e-9


def golden_losses() -> list[float]:
    lines = (Path(__file__).parent.parent / "golden" / "cmc.txt").read_text().splitlines()
    return [float(line.split()[1]) for line in lines]


def test_the_golden_file_is_what_the_formulas_give() -> None:
    assert golden_steps.ten_losses() == pytest.approx(golden_losses(), abs=SAME)


def test_ten_steps_have_the_losses_of_the_golden_file() -> None:
    """A refactoring that is not meant to change the computation must not change these ten numbers.

    In double: AdamW divides a gradient by its own size, so that in float32 the last digits, which are each
    processor's own, reach the first ones of a weight whose gradient is nearly zero.
    """
    trained, config = student().double(), DistillConfig(loss="cmc", batch_size=8, learning_rate=3e-3)
    trained.load_state_dict(golden_steps.first_weights())
    target, teacher = golden_steps.pairs()
    optimizer = make_optimizer(trained, config)
    found = []
    for step in range(10):
        place = Place(seed=0, round_index=step + 1, client=0, first_step=step, total_steps=10)
        pairs = LocalData(target=target, teacher=teacher)
        found.append(
            distil(
                trained,
                pairs,
                ANCHORS,
                config,
                loss=loss_of(config),
                num_steps=1,
                place=place,
                optimizer=optimizer,
            )
        )
    assert found == pytest.approx(golden_losses(), abs=SAME)


@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_one_kernel_of_adamw_makes_the_steps_of_the_formula(decay: float) -> None:
    """Loshchilov and Hutter, arXiv 1711.05101: decay beside the moments, each at its own bias correction."""
    layer = torch.nn.Linear(3, 2, bias=False).double()
    config = DistillConfig(loss="cmc", learning_rate=0.05, weight_decay=decay)
    optimizer = make_optimizer(layer, config)
    assert optimizer.defaults["fused"] is True
    weight, coins = layer.weight.detach().clone(), torch.Generator().manual_seed(3)
    mean, square = torch.zeros_like(weight), torch.zeros_like(weight)
    for step in range(1, 6):
        slope = torch.randn(2, 3, generator=coins, dtype=torch.float64)
        layer.weight.grad = slope
        optimizer.step()
        mean, square = 0.9 * mean + 0.1 * slope, 0.999 * square + 0.001 * slope**2
        moved = (mean / (1 - 0.9**step)) / ((square / (1 - 0.999**step)).sqrt() + 1e-8)
        weight = weight * (1 - 0.05 * decay) - 0.05 * moved
    torch.testing.assert_close(layer.weight.detach(), weight, rtol=1e-12, atol=1e-12)


def test_a_device_without_that_kernel_takes_the_other_way() -> None:
    optimizer = make_optimizer(torch.nn.Linear(3, 2, device="meta"), DistillConfig(loss="cmc"))
    assert not optimizer.defaults["fused"]


def test_two_views_go_through_the_student_together() -> None:
    """What comes out is what each view gives by itself."""
    trained, config, rows = student().double(), DistillConfig(loss="simclr", augment=0.0), torch.arange(5)
    held = LocalData(target=data().target.double(), teacher=data().teacher.double())
    calls: list[int] = []
    trained.register_forward_hook(lambda _, given, made: calls.append(len(given[0])))
    coins = torch.Generator().manual_seed(0)
    found = embed_batch(trained, held, rows, config=config, num_views=2, views=coins).student
    assert calls == [10]
    assert found.shape == (2, 5, 8)
    alone = trained(held.target[rows])
    torch.testing.assert_close(found, torch.stack([alone, alone]), rtol=1e-9, atol=1e-12)
