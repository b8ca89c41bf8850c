"""Places of a pair: the loss against a hand-written loop, shared views, and independence of other pairs."""

import math
from dataclasses import replace

import pytest
import torch

from edgecmd.core.errors import ConfigError
from edgecmd.data.modalities.table import MODALITIES
from edgecmd.losses import CMC, LOSSES, SimCLR, loss_of
from edgecmd.models.students import DenseStudent, build_student
from edgecmd.settings import DistillConfig
from edgecmd.training.distill import (
    LocalData,
    Place,
    distil,
    embed_batch,
    make_optimizer,
)
from edgecmd.training.places import (
    at_places,
    choose_places,
    embed_places,
    per_pair,
    require_dense,
    shared_views,
)

DIM, SIDE, GRID = 6, 32, 8


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def student() -> DenseStudent:
    made = build_student("seg-50k", in_channels=1, embedding_dim=DIM, generator=generator(0))
    assert isinstance(made, DenseStudent)
    return made


def data(num: int = 8) -> LocalData:
    """Pairs whose teacher feature at a place is a linear function of the pixels there."""
    target = torch.randn(num, 1, GRID, GRID, generator=generator(1))
    mixing = torch.randn(DIM, 1, 3, 3, generator=generator(2))
    teacher = torch.nn.functional.conv2d(target, mixing, padding=1)
    return LocalData(target=target.repeat_interleave(4, 2).repeat_interleave(4, 3), teacher=teacher)


ANCHORS = torch.randn(10, DIM, generator=generator(3))


def test_anchored_loss_of_a_pair_is_the_mean_over_its_places_by_hand() -> None:
    config = DistillConfig(loss="cmc-anchored", temperature=0.3, augment=0.0, num_locations=5)
    encoder, held = student(), data(3)
    rows = torch.arange(3)
    batch = embed_batch(encoder, held, rows, config=config, num_views=1, views=generator(4))
    losses = per_pair(loss_of(config)(batch.student, batch.teacher, ANCHORS), 3).detach()

    place_BL = choose_places(torch.ones(3, GRID, GRID, dtype=torch.bool), num=5, generator=generator(4))
    found = encoder(held.target).detach()
    for pair in range(3):
        total = 0.0
        for place in place_BL[pair].tolist():
            down, right = divmod(place, GRID)
            s = found[pair, :, down, right]
            t = held.teacher[pair, :, down, right]
            s, t = s / s.norm(), t / t.norm()
            own = torch.exp(s @ t / 0.3)
            others = sum(torch.exp(s @ (u / u.norm()) / 0.3) for u in ANCHORS)
            total += float(-torch.log(own / (own + others)))
        assert float(losses[pair]) == pytest.approx(total / 5, rel=1e-4)


@pytest.mark.parametrize("loss", ["cmc-anchored", "cmd-anchored", "cmc+cmd-anchored", "seed", "l2", "cosine"])
def test_a_pair_with_a_loss_of_its_own_depends_on_no_other_pair(loss: str) -> None:
    config = DistillConfig(loss=loss, augment=0.0, num_locations=4)
    encoder, held = student(), data(4)

    def of_first(held: LocalData) -> torch.Tensor:
        rows = torch.arange(4)
        batch = embed_batch(encoder, held, rows, config=config, num_views=1, views=generator(4))
        return per_pair(loss_of(config)(batch.student, batch.teacher, ANCHORS), 4)[0]

    other = replace(held, target=held.target.clone(), teacher=held.teacher.clone())
    other.target[1:], other.teacher[1:] = 1e3, -1e3
    assert torch.equal(of_first(held), of_first(other))


@pytest.mark.parametrize("loss", sorted(set(LOSSES) - {"simclr"}))
def test_every_loss_has_a_form_for_places_and_a_finite_gradient(loss: str) -> None:
    config = DistillConfig(loss=loss, batch_size=4, num_locations=4)
    encoder = student()
    value = distil(
        encoder,
        data(),
        ANCHORS,
        config,
        loss=loss_of(config),
        num_steps=2,
        place=Place(seed=0, round_index=1, client=0, first_step=0, total_steps=2),
        optimizer=make_optimizer(encoder, config),
    )
    assert math.isfinite(value)
    assert all(torch.isfinite(parameter).all() for parameter in encoder.parameters())


def test_it_learns_the_places() -> None:
    config = DistillConfig(loss="cmc", batch_size=8, num_locations=16, augment=0.0)
    encoder = student()
    optimizer, place = (
        make_optimizer(encoder, config),
        Place(seed=0, round_index=1, client=0, first_step=0, total_steps=60),
    )
    loss = distil(
        encoder, data(), ANCHORS, config, loss=loss_of(config), num_steps=60, place=place, optimizer=optimizer
    )
    level = CMC().chance_level(batch_size=8 * 16, num_anchors=10)
    assert level is not None
    assert loss < 0.85 * level


def test_uninformative_places_give_the_chance_level() -> None:
    config = DistillConfig(loss="cmc", num_locations=4)
    none = torch.zeros(3 * 4, DIM)
    teacher = torch.randn(3 * 4, DIM, generator=generator(5))
    # A zero feature stays zero: all similarities are equal, and the places of the teacher are all different.
    losses = per_pair(loss_of(config)(none, teacher, ANCHORS), 3)
    assert losses.tolist() == pytest.approx([CMC().chance_level(batch_size=12, num_anchors=0)] * 3, rel=1e-5)


def test_simclr_is_refused_with_a_way_out() -> None:
    with pytest.raises(ConfigError, match="ws-\\* student"):
        require_dense(SimCLR())


def test_views_of_target_and_map_move_alike() -> None:
    # Each place of the target is one number, and the map says the same number: they must stay together.
    maps = torch.arange(GRID * GRID, dtype=torch.float32).view(1, 1, GRID, GRID).repeat(6, 1, 1, 1)
    target = maps.repeat_interleave(4, 2).repeat_interleave(4, 3)
    view, seen, inside = shared_views("depth", target, maps, strength=1.0, generator=generator(6))
    middle = torch.nn.functional.avg_pool2d(view, 4)
    gap = (middle - seen)[inside[:, None]].abs()
    assert view.shape == target.shape
    # A column step is 1 and a row step 8: half a place of disagreement would show as up to 4 and more.
    assert float(gap.mean()) < 2.0
    assert not torch.equal(view, target)


def test_a_mirrored_view_mirrors_the_map() -> None:
    maps = torch.arange(GRID, dtype=torch.float32).expand(64, 1, GRID, GRID)
    target = maps.repeat_interleave(4, 2).repeat_interleave(4, 3)
    _, seen, _ = shared_views("image", target, maps, strength=1e-6, generator=generator(7))
    mirrored = seen[:, 0, 0, 0] > seen[:, 0, 0, -1]
    assert 0 < int(mirrored.sum()) < 64
    assert torch.allclose(seen[mirrored].flip(3), maps[mirrored], atol=1e-3)


def test_strength_zero_leaves_both_as_they_are() -> None:
    held = data()
    view, seen, inside = shared_views(
        "image", held.target, held.teacher, strength=0.0, generator=generator(0)
    )
    assert view is held.target
    assert seen is held.teacher
    assert bool(inside.all())


def test_places_from_outside_come_last() -> None:
    inside = torch.zeros(5, GRID, GRID, dtype=torch.bool)
    inside[:, :2] = True
    chosen = choose_places(inside, num=2 * GRID, generator=generator(8))
    assert [sorted(row) for row in chosen.tolist()] == [list(range(2 * GRID))] * 5
    assert choose_places(inside, num=1000, generator=generator(8)).shape == (5, GRID * GRID)


def test_rows_of_a_pair_stand_together() -> None:
    maps = torch.randn(2, DIM, 3, 4, generator=generator(9))
    place_BL = torch.tensor([[0, 5], [11, 4]])
    found = at_places(maps, place_BL)
    assert torch.equal(found[0], maps[0, :, 0, 0])
    assert torch.equal(found[1], maps[0, :, 1, 1])
    assert torch.equal(found[2], maps[1, :, 2, 3])
    assert torch.equal(found[3], maps[1, :, 1, 0])


def test_another_grid_is_refused() -> None:
    with pytest.raises(ConfigError, match="grid"):
        embed_places(
            student(),
            torch.zeros(2, 1, SIDE, SIDE),
            torch.zeros(2, DIM, 4, 4),
            modality="image",
            config=DistillConfig(augment=0.0, num_locations=2),
            generator=generator(0),
        )


def test_motions_are_those_of_the_modalities_that_are_pictures() -> None:
    assert {name for name, one in MODALITIES.items() if one.motion} == {"image", "depth"}
