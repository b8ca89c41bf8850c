"""Losses whose table of similarities is made in blocks of rows, against tables that are held whole."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from edgecmd import losses
from edgecmd.losses import LOSSES, baselines, similarities
from edgecmd.losses.loss import alike_views
from edgecmd.losses.similarities import Rows, by_rows
from edgecmd.settings import DistillConfig

B, K, D = 11, 5, 6
TEMPERATURE, OF_TEACHER = 0.2, 0.3
# Of a table of 11 x 11: a row at a time, two with one left over, all but one.
BLOCKS = [1, 2 * B, 10 * B]
HELD = torch.eye(B, dtype=torch.bool)
# The pairs at 2 and 7 have one source, and the last row is outside of the mask.
SAME = HELD.clone()
SAME[2, 7] = SAME[7, 2] = True
MASK = torch.arange(B) < B - 1


def draw(seed: int, rows: int = B) -> Tensor:
    return torch.randn(rows, D, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def teachers() -> Tensor:
    teacher = draw(1)
    teacher[7] = 3.0 * teacher[2]
    return teacher


def norm(rows: Tensor) -> Tensor:
    return rows / rows.norm(dim=1, keepdim=True)


def share(table: Tensor, kept: Tensor) -> Tensor:
    """Softmax over what is kept; 1 elsewhere, whose logarithm is 0."""
    found = (table.exp() * kept) / (table.exp() * kept).sum(dim=1, keepdim=True)
    return torch.where(kept, found, torch.ones_like(found))


def whole_cmc(s: Tensor, t: Tensor) -> Tensor:
    table, kept = s @ t.T / TEMPERATURE, HELD | ~SAME
    return -(share(table, kept).log() + share(table.T, kept).log()).diagonal() / 2


def whole_cmd(s: Tensor, t: Tensor) -> Tensor:
    p, q = share(t @ t.T / OF_TEACHER, ~HELD), share(s @ s.T / TEMPERATURE, ~HELD)
    return -(p * q.log()).sum(dim=1)


def whole_groups(s: Tensor, t: Tensor) -> Tensor:
    table = torch.cat([s @ t.T, s @ norm(draw(2, K)).T], dim=1) / TEMPERATURE
    kept = torch.cat([HELD | ~SAME, torch.ones(B, K, dtype=torch.bool)], dim=1)
    return -share(table, kept).log().diagonal()


def whole_gcl(s: Tensor, t: Tensor) -> Tensor:
    table, others = (s @ t.T / TEMPERATURE), ~SAME & MASK
    weight = 1.0 / (SAME & MASK).sum(dim=1).clamp(min=1)
    own = table.exp().diagonal()
    to_source = own / (own + (table.exp() * others * weight).sum(dim=1))
    to_view = own / (own + (table.T.exp() * others).sum(dim=1))
    return -(to_source.log() + to_view.log()) / 2 * MASK


def whole_logits(s: Tensor, t: Tensor) -> Tensor:
    return -share(s @ t.T / losses.LOGIT_TEMPERATURE, HELD | MASK).log().diagonal() * MASK


def whole_crd(s: Tensor, t: Tensor) -> Tensor:
    z = B * (t @ t.T / TEMPERATURE).exp()[~SAME].mean()
    h, noise = (s @ t.T / TEMPERATURE).exp() / z, (B - 1) / B
    wrong = -(noise / (h + noise)).log() * ~SAME
    return -2.0 * (h / (h + noise)).log().diagonal() + wrong.sum(dim=1) + wrong.sum(dim=0)


def shares(s: Tensor, t: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    table, kept = s @ t.T / temperature, HELD | ~SAME
    return share(table, kept).log(), share(table.T, kept).log()


def relations(s: Tensor, t: Tensor, of_teacher: float) -> tuple[Tensor, Tensor]:
    p = share(t @ t.T / of_teacher, HELD | ~SAME) * (HELD | ~SAME)
    return -p * sum(shares(s, t, TEMPERATURE)) / 2, -torch.xlogy(p, p)


def whole_dark(s: Tensor, t: Tensor) -> Tensor:
    crossed, _ = relations(s, t, OF_TEACHER)
    return whole_cmc(s, t) + crossed.diagonal() - 0.6 * (crossed * ~HELD).sum(dim=1)


def whole_clip_rd(s: Tensor, t: Tensor) -> Tensor:
    found = 2.0 * whole_cmc(s, t) - shares(s, t, TEMPERATURE)[0].diagonal() / 2
    found = found + 2000.0 / D * (s - t).square().sum(dim=1)
    for weight, of_teacher in ((1.0, OF_TEACHER), (1.5, TEMPERATURE)):
        crossed, entropy = relations(s, t, of_teacher)
        found = found + weight * (crossed - entropy).sum(dim=1)
    return found


def views(s: Tensor) -> tuple[Tensor, Tensor]:
    return s, s.flip(1) + 0.1 * s.roll(1, 1)


def whole_simclr(s: Tensor, _: Tensor) -> Tensor:
    both = norm(torch.cat(views(s)))
    kept = ~torch.eye(2 * B, dtype=torch.bool)
    found = share(both @ both.T / TEMPERATURE, kept).log()
    return -(found.diagonal(B) + found.diagonal(-B)) / 2


BOTH = {"temperature": TEMPERATURE, "teacher_temperature": OF_TEACHER}
Values = Callable[[Tensor, Tensor], Tensor]
# Each loss with such a table: as it is, and as it is written with the whole table of unit vectors.
CASES: dict[str, tuple[Values, Values]] = {
    "cmc": (lambda s, t: losses.cmc(s, t, temperature=TEMPERATURE), whole_cmc),
    "cmd": (lambda s, t: losses.cmd(s, t, **BOTH), whole_cmd),
    "cmc-groups": (lambda s, t: losses.cmc_groups(s, t, draw(2, K), temperature=TEMPERATURE), whole_groups),
    "gcl": (lambda s, t: losses.gcl(s, t, MASK, temperature=TEMPERATURE), whole_gcl),
    "cmc-logits": (lambda s, t: losses.cmc_logits(s, t, MASK), whole_logits),
    "crd": (lambda s, t: baselines.crd(s, t, temperature=TEMPERATURE), whole_crd),
    "dark": (lambda s, t: baselines.dark(s, t, **BOTH, off_diagonal=-0.6), whole_dark),
    "clip-rd": (lambda s, t: baselines.clip_rd(s, t, **BOTH), whole_clip_rd),
    "simclr": (lambda s, _: baselines.nt_xent(*views(s), temperature=TEMPERATURE), whole_simclr),
}


def value_and_gradient(values: Values, student: Tensor) -> tuple[Tensor, Tensor]:
    """Values, and the gradient of a sum in which each pair has another weight."""
    rows = student.clone().requires_grad_()
    found = values(rows, teachers())
    (gradient,) = torch.autograd.grad(found @ torch.arange(1.0, B + 1.0, dtype=torch.float64), rows)
    return found.detach(), gradient


@pytest.mark.parametrize("entries", BLOCKS)
@pytest.mark.parametrize("name", CASES)
def test_blocks_have_value_and_gradient_of_the_whole_table(
    name: str, entries: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(similarities, "ENTRIES", entries)
    ours, plain = CASES[name]

    def whole(s: Tensor, t: Tensor) -> Tensor:
        return plain(s if name == "simclr" else norm(s), norm(t))

    for found, wanted in zip(
        value_and_gradient(ours, draw(0)), value_and_gradient(whole, draw(0)), strict=True
    ):
        torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-12)


def test_a_batch_of_one_source_is_as_finite_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing but the own pair is left in each row, and of CRD's norm nothing at all."""
    alone = teachers()[:1].expand(B, D)
    wanted = [baselines.crd(draw(0), alone), losses.cmc(draw(0), alone, temperature=TEMPERATURE)]
    monkeypatch.setattr(similarities, "ENTRIES", 2 * B)
    found = [baselines.crd(draw(0), alone), losses.cmc(draw(0), alone, temperature=TEMPERATURE)]
    torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-12)
    assert found[1].tolist() == [0.0] * B


def sizes_seen(size: int, *, whole: bool = False) -> list[tuple[int, int]]:
    seen: list[tuple[int, int]] = []

    def of_rows(rows: Rows) -> Tensor:
        seen.append((len(rows.student), len(rows.students)))
        return rows.own(rows.similarity(1.0))

    student = torch.randn(size, 2, requires_grad=True)
    by_rows(of_rows, student, torch.randn(size, 2), whole=whole).sum().backward()
    return seen


def test_no_block_is_larger_than_the_largest_table_that_is_held_whole() -> None:
    assert sizes_seen(1024) == [(1024, 1024)]
    assert sizes_seen(1025, whole=True) == [(1025, 1025)]
    # Each block once for its losses and once more for their gradient.
    assert sorted(sizes_seen(1025)) == [(2, 1025)] * 2 + [(1023, 1025)] * 2
    seen = sizes_seen(4096)
    assert {math.prod(one) for one in seen} == {1 << 20}
    assert len(seen) == 2 * 16


@pytest.mark.parametrize("name", [name for name, row in LOSSES.items() if row.couples_pairs])
def test_no_loss_of_the_table_holds_more(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tensors that the forward pass keeps for the gradient: of 64 pairs none has 64 x 64 numbers."""
    size, kept = 64, list[int]()
    monkeypatch.setattr(similarities, "ENTRIES", 4 * size)
    loss = losses.loss_of(DistillConfig(loss=name))
    student, teacher, anchors = (torch.randn(rows, 4) for rows in (size, size, 3))

    def pack(value: Tensor) -> Tensor:
        kept.append(value.untyped_storage().nbytes() // value.element_size())
        return value

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda value: value):
        loss(alike_views(loss, student.requires_grad_()), teacher, anchors).sum()
    assert max(kept, default=0) < size * size


def test_a_bucket_of_many_rows_goes_through_torch_func(monkeypatch: pytest.MonkeyPatch) -> None:
    """Units under privacy are differentiated there, where no block can be made again."""
    rows, teacher = draw(0), teachers()
    loss = losses.GCL(temperature=TEMPERATURE)
    wanted = torch.func.grad(lambda s: loss.of_unit(s, teacher, MASK, teacher[:0]))(rows)
    monkeypatch.setattr(similarities, "ENTRIES", 2 * B)
    found = torch.func.grad(lambda s: loss.of_unit(s, teacher, MASK, teacher[:0]))(rows)
    assert torch.equal(found, wanted)
