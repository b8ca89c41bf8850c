"""Units hold what they should, losses of units are what the formulas say, and chunks change nothing."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from edgecmd.core.errors import ConfigError
from edgecmd.losses import LOSSES, cmc_bucket, loss_of
from edgecmd.models.students import build_student
from edgecmd.privacy.mechanisms import MECHANISMS, default_loss
from edgecmd.privacy.step.gradients import clipped_sum, norm
from edgecmd.privacy.step.randomness import DeterministicSource, SystemSource
from edgecmd.privacy.step.units import StepSettings, make_units, unit_loss
from edgecmd.settings import DistillConfig
from edgecmd.training.distill import LocalData

NUM, DIM, CLIP = 23, 5, 0.4


def made(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


ANCHORS = made(3, 9, DIM)


def pairs(num: int = NUM) -> LocalData:
    """Pairs that can be told apart: the first feature is the row's number."""
    teacher = made(2, num, DIM)
    teacher[:, 0] = torch.arange(num)
    return LocalData(target=made(1, num, 1, 16, 16), teacher=teacher)


def student() -> nn.Module:
    generator = torch.Generator().manual_seed(0)
    return build_student("gn-50k", in_channels=1, embedding_dim=DIM, generator=generator).double()


def settings(mechanism: str, **changes: int) -> StepSettings:
    return StepSettings(mechanism=mechanism, **changes)


def test_each_mechanism_has_its_losses_and_a_sensitivity() -> None:
    assert {name: one.factor for name, one in MECHANISMS.items()} == {
        "anchors": 1,
        "cosine": 1,
        "groups": 2,
        "logits": pytest.approx(16.7781122),
        "statistics": 1,
        "client": 1,
    }
    for name, one in MECHANISMS.items():
        assert one.unit == ("client" if name == "client" else "pair")
        assert one.takes(LOSSES[one.default_loss])


def test_the_losses_of_each_mechanism() -> None:
    taken = {
        name: {loss for loss, row in LOSSES.items() if one.takes(row)} for name, one in MECHANISMS.items()
    }
    assert taken == {
        "anchors": {"cmc-anchored", "cmd-anchored", "cmc+cmd-anchored"},
        "cosine": {"cosine", "l2", "fd-cmkd"},
        "groups": {"cmc-groups", "gcl"},
        "logits": {"cmc-logits"},
        "statistics": {"l2"},
        "client": set(LOSSES),
    }
    assert [default_loss(name) for name in ("none", *MECHANISMS)] == [
        "cmc",
        "cmc-anchored",
        "cosine",
        "cmc-groups",
        "cmc-logits",
        "l2",
        "cmc",
    ]


def test_in_batch_losses_have_no_form_per_unit() -> None:
    allowed = {
        "cmc-anchored",
        "cmd-anchored",
        "cmc+cmd-anchored",
        "cosine",
        "l2",
        "fd-cmkd",
        "cmc-groups",
        "gcl",
        "cmc-logits",
    }
    for loss in allowed:
        assert callable(unit_loss(loss_of(DistillConfig(loss=loss)), ANCHORS))
    for loss in LOSSES.keys() - allowed:
        with pytest.raises(ConfigError, match=f"distill.loss='{loss}'".replace("+", r"\+")):
            unit_loss(loss_of(DistillConfig(loss=loss)), ANCHORS)


@pytest.mark.parametrize(
    "loss", ["cmc-anchored", "cmd-anchored", "cmc+cmd-anchored", "cosine", "l2", "fd-cmkd"]
)
def test_the_loss_of_a_pair_is_the_mean_over_its_views(loss: str) -> None:
    config = DistillConfig(loss=loss, cmd_weight=0.7, temperature=0.2, teacher_temperature=0.3)
    z, t = made(5, 4, DIM), made(6, 1, DIM).expand(4, DIM)
    of_unit, ones = unit_loss(loss_of(config), ANCHORS), torch.ones(4, dtype=torch.bool)
    each = [of_unit(z[[row]], t[[row]], ones[[row]]) for row in range(4)]
    torch.testing.assert_close(of_unit(z, t, ones), torch.stack(each).mean())


def test_the_loss_of_a_bucket_by_the_formula_whatever_the_padding_holds() -> None:
    z, t = made(5, 5, DIM), made(6, 5, DIM)
    s, unit_t, u = (functional.normalize(one, dim=1) for one in (z[:3], t[:3], ANCHORS))
    expected = torch.zeros((), dtype=torch.float64)
    for i in range(3):
        own = [torch.exp(s[i] @ unit_t[j] / 0.2) for j in range(3)]
        public = [torch.exp(s[i] @ anchor / 0.2) for anchor in u]
        expected -= torch.log(own[i] / (sum(own) + sum(public)))
    mask = torch.tensor([True, True, True, False, False])
    z.requires_grad_()
    found = cmc_bucket(z, t, mask, ANCHORS, temperature=0.2)
    torch.testing.assert_close(found, expected)
    found.backward()
    assert not z.grad[3:].any()
    short = z[:3].detach().requires_grad_()
    cmc_bucket(short, t[:3], mask[:3], ANCHORS, temperature=0.2).backward()
    torch.testing.assert_close(z.grad[:3], short.grad)


@pytest.mark.parametrize("mechanism", ["anchors", "cosine", "groups"])
def test_every_sampled_pair_is_in_one_unit(mechanism: str) -> None:
    rows = np.array([0, 3, 4, 7, 11, 12, 20, 22])
    found = make_units(
        pairs(),
        rows,
        config=settings(mechanism, chunk_size=3, num_groups=3),
        augment=1.0,
        source=SystemSource(),
    )
    seen = torch.cat([chunk.teacher[chunk.mask][:, 0] for chunk in found])
    assert sorted(seen.tolist()) == rows.tolist()


@pytest.mark.parametrize(("num_views", "sizes"), [(1, [10, 10, 3]), (4, [2] * 11 + [1]), (16, [1] * 23)])
def test_a_chunk_holds_as_many_rows_as_allowed(num_views: int, sizes: list[int]) -> None:
    found = make_units(
        pairs(),
        np.arange(NUM),
        config=settings("anchors", chunk_size=10, num_views=num_views),
        augment=1.0,
        source=SystemSource(),
    )
    assert [len(chunk) for chunk in found] == sizes
    assert all(chunk.mask.shape[1] == num_views and chunk.mask.all() for chunk in found)


def test_views_of_a_pair_differ_and_differ_from_step_to_step() -> None:
    one, other = (
        make_units(
            pairs(),
            np.array([4]),
            config=settings("anchors", num_views=2),
            augment=1.0,
            source=SystemSource(),
        )[0].images
        for _ in range(2)
    )
    assert not torch.equal(one[0, 0], one[0, 1])
    assert not torch.equal(one, other)


def test_all_views_of_a_pair_are_in_its_bucket() -> None:
    """As many rows a pair as it has views, in one bucket, whatever the chunks; no pair in two."""
    found = make_units(
        pairs(),
        np.arange(NUM),
        config=settings("groups", num_groups=4, num_views=3, chunk_size=1000),
        augment=1.0,
        source=SystemSource(),
    )
    buckets = [t[m][:, 0].tolist() for chunk in found for t, m in zip(chunk.teacher, chunk.mask)]
    assert all(bucket.count(row) == 3 for bucket in buckets for row in bucket)
    assert sorted(row for bucket in buckets for row in set(bucket)) == list(range(NUM))


def test_one_bucket_is_batch_clipping() -> None:
    """With one bucket the sum of a step is the clipped gradient of the whole batch, of norm C at most."""
    loss = loss_of(DistillConfig(loss="gcl"))
    source = DeterministicSource(7)
    chunks = make_units(
        pairs(), np.arange(NUM), config=settings("groups", num_groups=1), augment=0.0, source=source
    )
    assert [len(chunk) for chunk in chunks] == [1]
    asked = student()
    found = clipped_sum(asked, chunks, unit_loss(loss, ANCHORS), clip=CLIP, engine="vmap")
    data = pairs()
    value = loss(asked(data.target), data.teacher, ANCHORS).sum()
    gradient = dict(
        zip(dict(asked.named_parameters()), torch.autograd.grad(value, list(asked.parameters())), strict=True)
    )
    size = norm(gradient)
    assert size > CLIP
    assert norm(found) == pytest.approx(CLIP * (1 - 1e-4), rel=1e-6)
    scaled = {name: one * (CLIP * (1 - 1e-4) / size) for name, one in gradient.items()}
    assert norm({name: found[name] - scaled[name] for name in found}) < 1e-6


@pytest.mark.parametrize("mechanism", ["anchors", "cosine", "groups"])
def test_no_rows_make_no_units(mechanism: str) -> None:
    for data in (pairs(), pairs(0)):
        none = np.empty(0, dtype=np.int64)
        assert make_units(data, none, config=settings(mechanism), augment=1.0, source=SystemSource()) == []


def test_a_new_pair_moves_no_other_pair_to_another_bucket() -> None:
    """Given the coins of the others; cutting a batch into slices would move every later pair."""

    def buckets(num: int) -> set[frozenset[float]]:
        chunks = make_units(
            pairs(num),
            np.arange(num),
            config=settings("groups", num_groups=4, chunk_size=1000),
            augment=0.0,
            source=DeterministicSource(7),
        )
        return {frozenset(t[m][:, 0].tolist()) for chunk in chunks for t, m in zip(chunk.teacher, chunk.mask)}

    fewer, more = buckets(NUM - 1), buckets(NUM)
    assert {bucket - {NUM - 1} for bucket in more} - {frozenset()} == fewer
    assert len(more - fewer) == 1


@pytest.mark.parametrize(
    ("mechanism", "num_views"), [("anchors", 1), ("anchors", 3), ("groups", 1), ("groups", 3)]
)
@pytest.mark.parametrize("engine", ["vmap", "loop"])
def test_the_size_of_chunks_does_not_matter(mechanism: str, num_views: int, engine: str) -> None:
    of_unit = unit_loss(loss_of(DistillConfig(loss=default_loss(mechanism))), ANCHORS)

    def total(chunk_size: int) -> dict[str, Tensor]:
        chunks = make_units(
            pairs(),
            np.arange(NUM),
            config=settings(mechanism, chunk_size=chunk_size, num_views=num_views, num_groups=4),
            augment=0.0,
            source=DeterministicSource(7),
        )
        return clipped_sum(student(), chunks, of_unit, clip=CLIP, engine=engine)

    expected = total(1)
    for chunk_size in (5, 1000):
        found = total(chunk_size)
        assert norm({name: found[name] - expected[name] for name in found}) < 1e-10 * norm(expected)
