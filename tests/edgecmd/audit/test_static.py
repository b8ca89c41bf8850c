"""Level L0 on a real run, and each of its parts on what it must and must not contradict."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from edgecmd import losses
from edgecmd.audits.audited_student import FIRST, TRAINED, subjects
from edgecmd.audits.finding import CONTRADICTED, INDICATOR, NOT_CONTRADICTED, overall
from edgecmd.audits.static.anchors import anchors_findings, fingerprint_finding, overlap_finding
from edgecmd.audits.static.checks import check_target
from edgecmd.audits.static.purity_findings import (
    batch_loss_purity,
    student_purity,
    unit_loss_purity,
)
from edgecmd.audits.static.scripted import Script
from edgecmd.audits.static.sensitivity import Effort, private_question, search, two_buckets
from edgecmd.core.errors import DataError
from edgecmd.core.progress import watched
from edgecmd.experiments.faults.loss_faults import small_subject
from edgecmd.losses import loss_of
from edgecmd.losses.check import leaking_rows
from edgecmd.privacy.step.randomness import integers
from edgecmd.privacy.step.units import unit_loss
from edgecmd.settings import DistillConfig
from tests.tiny_federation import find_target

FEW = Effort(num_tries=12, num_pairs=4, climb_length=2)
DIM = 8
Runs = Callable[[str], Path]


class Told:
    """A watcher of progress."""

    def __init__(self) -> None:
        self.begun: list[tuple[str, int]] = []
        self.steps: list[int] = []

    def begin(self, what: str, total: int, _done: int = 0) -> int:
        self.begun.append((what, total))
        return len(self.begun)

    def advance(self, _: int, num: int) -> None:
        self.steps.append(num)

    def end(self, _: int) -> None:
        """Nothing to keep."""


@pytest.mark.parametrize(("mechanism", "claimed"), [("anchors", 1.0), ("groups", 2.0)])
def test_a_sound_private_run_is_not_contradicted(mechanism: str, claimed: float, runs: Runs) -> None:
    told, target = Told(), find_target(runs(mechanism))
    # What the audit of a run reads and computes first is told as well, once.
    _ = target.run.anchors, target.run.holding(0)
    with watched(told):
        found = check_target(target, FEW)
    assert overall(found) == NOT_CONTRADICTED
    assert len({one.key for one in found}) == len(found) == 11
    searches = [one for one in found if one.quantity == "sensitivity"]
    assert [one.name for one in searches] == [f"sensitivity search, {name}" for name in (TRAINED, FIRST)]
    for one in searches:
        assert one.claimed == claimed
        assert one.measured is not None
        assert 0.5 < one.measured <= claimed
        assert one.counts == {"tries": 12, "pairs": 4}
    assert told.begun == [("audit check", 24)]
    assert told.steps == [1] * 24


def test_a_run_of_whole_clients_tells_what_pairs_could_do(runs: Runs) -> None:
    found = check_target(find_target(runs("client")), FEW)
    by_name = {one.name: one for one in found}
    assert by_name["purity of the loss"].measured == 5
    assert (by_name[f"sensitivity search, {FIRST}"].measured or 0) > 50
    assert {one.verdict for one in found if not one.name.startswith("books")} == {INDICATOR}
    assert overall(found) == NOT_CONTRADICTED


def test_a_run_without_privacy_contradicts_nothing(runs: Runs) -> None:
    assert overall(check_target(find_target(runs("none")), FEW)) == INDICATOR


def test_a_step_with_a_sensitivity_above_the_claim_is_caught(runs: Runs) -> None:
    target = find_target(runs("anchors"))
    assert target.plan is not None
    plan = replace(target.plan, sensitivity=0.5)
    found = search(private_question(subjects(target)[0], plan, target.run, num_pairs=4), FEW)
    assert (found.verdict, found.claimed) == (CONTRADICTED, 0.5)
    assert "claimed was 0.5 C" in found.text


def test_buckets_of_the_search_are_the_first_and_the_last() -> None:
    for high in (1, 2, 3, 7, 8, 65_536):
        script = Script(two_buckets(40))
        assert not script.words(40).any(), "the first words sample every row"
        found = set(integers(script, 40, high=high))
        assert found == {0, high - 1}


# Purity.


class Centred(nn.Module):
    """Subtracts the mean of the batch."""

    def forward(self, image: Tensor) -> Tensor:
        rows = image.flatten(1)[:, :DIM]
        return rows - rows.mean(dim=0)


@pytest.mark.parametrize(("claims", "verdict"), [(True, CONTRADICTED), (False, INDICATOR)])
def test_a_student_that_mixes_is_caught_where_pairs_are_protected(claims: bool, verdict: str) -> None:
    found = student_purity(replace(small_subject(), student=Centred()), claims=claims)
    assert (found.verdict, found.measured) == (verdict, 1.0)
    assert "mixes the pairs" in found.text


def straight_through(student: Tensor, teacher: Tensor) -> Tensor:
    """Value of a loss of single pairs, gradient of the in-batch contrast."""
    mixing = losses.cmc(student, teacher, temperature=0.1)
    return (student * teacher).sum(dim=1).detach() + mixing - mixing.detach()


def test_a_loss_that_hides_its_mixing_in_the_gradient_is_caught() -> None:
    """x - x.detach() is exactly zero, so the value of each row is its own."""
    leaking = leaking_rows(straight_through, embedding_dim=DIM)
    assert leaking["gradient"] == [0, 1, 2, 3, 4]
    assert batch_loss_purity(straight_through, embedding_dim=DIM, claims=True).verdict == CONTRADICTED


@pytest.mark.parametrize(
    "loss",
    [
        lambda s, t: losses.cmc(s, t, temperature=0.1),
        lambda s, t: losses.cmd(s, t, temperature=0.1, teacher_temperature=0.1),
        lambda s, t: (s * t.mean(dim=0)).sum(dim=1),
    ],
)
def test_losses_of_the_batch_leak(loss: Callable[[Tensor, Tensor], Tensor]) -> None:
    found = batch_loss_purity(loss, embedding_dim=DIM, claims=True)
    assert (found.verdict, found.measured) == (CONTRADICTED, 5.0)


@pytest.mark.parametrize("name", ["cmc-anchored", "cmd-anchored", "cosine", "l2", "cmc-groups"])
def test_losses_of_a_unit_are_pure(name: str) -> None:
    anchors = torch.randn(6, DIM, generator=torch.Generator().manual_seed(0))
    found = unit_loss_purity(unit_loss(loss_of(DistillConfig(loss=name)), anchors), embedding_dim=DIM)
    assert found.verdict == NOT_CONTRADICTED


def test_a_unit_loss_with_a_memory_is_caught() -> None:
    seen: list[Tensor] = []

    def remembering(student: Tensor, teacher: Tensor, _: Tensor) -> Tensor:
        seen.append(teacher.detach().mean())
        return (student * teacher).sum() + torch.stack(seen).mean()

    found = unit_loss_purity(remembering, embedding_dim=DIM)
    assert found.verdict == CONTRADICTED
    assert "remembers" in found.text


# Anchors.


STATED = {"kind": "public", "num": 3, "sha256": "a" * 64}


@pytest.mark.parametrize(
    ("made", "same_environment", "verdict"),
    [
        (STATED, False, NOT_CONTRADICTED),
        ({**STATED, "sha256": "b" * 64}, True, CONTRADICTED),
        ({**STATED, "sha256": "b" * 64}, False, INDICATOR),
        ({**STATED, "num": 4}, False, CONTRADICTED),
        ({**STATED, "kind": "random", "sha256": "b" * 64}, False, CONTRADICTED),
    ],
)
def test_other_anchors_than_stated_are_caught(made: dict, same_environment: bool, verdict: str) -> None:
    assert fingerprint_finding(STATED, made, same_environment=same_environment).verdict == verdict


def test_a_run_on_other_anchors_is_caught(runs: Runs) -> None:
    target = find_target(runs("anchors"))
    assert {one.verdict for one in anchors_findings(target)} == {NOT_CONTRADICTED}
    other = replace(target, run=replace(target.run, seed=7))
    assert anchors_findings(other)[0].verdict == CONTRADICTED
    with pytest.raises(DataError, match="names no anchors"):
        anchors_findings(replace(target, privacy={"private": True}))


def test_a_public_image_that_is_a_pair_s_source_is_caught() -> None:
    images = np.random.default_rng(0).integers(0, 256, (6, 4, 4, 3), dtype=np.uint8)
    apart = overlap_finding(images[:3], [images[3:5], images[5:]])
    assert (apart.verdict, apart.counts) == (NOT_CONTRADICTED, {"public": 3, "pairs": 3})
    shared = overlap_finding(images[:3], [images[3:5], images[2:]])
    assert (shared.verdict, shared.measured) == (CONTRADICTED, 1.0)


def test_the_built_in_public_set_shares_no_image_with_its_pairs() -> None:
    from edgecmd.data.experiment import load_experiment
    from edgecmd.settings import DataConfig

    whole = load_experiment(DataConfig(image_size=16))
    parts = [whole.train.source, whole.validation.pairs.source, whole.test.pairs.source]
    assert overlap_finding(whole.public.images, parts).verdict == NOT_CONTRADICTED
