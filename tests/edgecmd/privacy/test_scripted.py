"""The real step under fixed coins: it gives the sum of its own units, and takes nothing with it."""

from functools import partial

import numpy as np
import pytest
import torch

from edgecmd.audits.static.scripted import (
    Formed,
    Script,
    bare_plan,
    loss_work,
    quiet_copy,
    settings_work,
    step_query,
)
from edgecmd.audits.static.search import Query, distance
from edgecmd.experiments.faults.step_faults import mean_clipped_last, views_as_records
from edgecmd.losses import loss_of
from edgecmd.models.students import build_student
from edgecmd.privacy.plan import PrivacyPlan
from edgecmd.privacy.step import private_step
from edgecmd.privacy.step.gradients import clipped_sum
from edgecmd.privacy.step.standardised_weights import plain_copy
from edgecmd.privacy.step.units import Units, unit_loss
from edgecmd.settings import DistillConfig
from edgecmd.training.distill import LocalData

DIM, SIDE, CLIP = 8, 16, 0.5
ANCHORS = torch.nn.functional.normalize(
    torch.randn(10, DIM, generator=torch.Generator().manual_seed(1)), dim=1
)
STUDENT = build_student(
    "ws-50k", in_channels=1, embedding_dim=DIM, generator=torch.Generator().manual_seed(0)
)
CONFIG = DistillConfig(loss="cmc-anchored", augment=1.0)


def pairs(num: int) -> LocalData:
    coins = torch.Generator().manual_seed(0)
    return LocalData(
        target=torch.rand(num, 1, SIDE, SIDE, generator=coins), teacher=torch.randn(num, DIM, generator=coins)
    )


def query_of(plan: PrivacyPlan, config: DistillConfig = CONFIG, **options: bool) -> Query:
    return step_query(STUDENT, settings_work(config, ANCHORS), plan=plan, coins=_two, **options)


def _two(num: int) -> np.ndarray:
    """Rows in turn in the first and the last bucket."""
    return (np.arange(num) % 2).astype(np.uint64) * np.uint64(2**64 - 2**44)


def by_hand(data: LocalData, members: list[list[int]], loss: str) -> dict[str, torch.Tensor]:
    """Clipped sum by single backward passes, with the units written down."""
    chunks = [
        Units(
            images=data.target[rows][None],
            teacher=data.teacher[rows][None],
            mask=torch.ones(1, len(rows), dtype=torch.bool),
        )
        for rows in members
    ]
    lossy = unit_loss(loss_of(DistillConfig(loss=loss)), ANCHORS)
    return clipped_sum(plain_copy(STUDENT).train(), chunks, lossy, clip=CLIP, engine="loop")


@pytest.mark.parametrize("whole", [False, True])
@pytest.mark.parametrize("num_views", [1, 3])
def test_the_sum_is_that_of_the_rows(num_views: int, whole: bool) -> None:
    data, rows = pairs(5), np.array([0, 1, 3, 4])
    plan = bare_plan(mechanism="anchors", clip=CLIP, num_views=num_views, chunk_size=4)
    (found,) = query_of(plan, whole=whole)([(data, rows)])
    wanted = by_hand(data, [[row] for row in rows], "cmc-anchored")
    assert distance(found, wanted) < 1e-4 * CLIP


def test_each_row_of_the_larger_set_keeps_its_bucket() -> None:
    data = pairs(5)
    plan = bare_plan(mechanism="groups", clip=CLIP, num_groups=4)
    query = query_of(plan, DistillConfig(loss="cmc-groups"))
    larger, smaller = query([(data, np.arange(5)), (data, np.array([0, 2, 3, 4]))])
    assert distance(larger, by_hand(data, [[0, 2, 4], [1, 3]], "cmc-groups")) < 1e-4 * CLIP
    assert distance(smaller, by_hand(data, [[0, 2, 4], [3]], "cmc-groups")) < 1e-4 * CLIP


def test_a_step_on_nothing_gives_nothing_and_the_student_is_kept() -> None:
    before = {name: value.clone() for name, value in STUDENT.state_dict().items()}
    query = query_of(bare_plan(mechanism="anchors", clip=CLIP), whole=True)
    (found,) = query([(pairs(2), np.arange(0))])
    assert all(not value.any() for value in found.values())
    assert all(torch.equal(value, before[name]) for name, value in STUDENT.state_dict().items())
    poisoned = pairs(2)
    poisoned.target[0] = float("nan")
    query([(poisoned, np.arange(2))])
    (again,) = query([(pairs(2), np.arange(2))])
    assert distance(again, by_hand(pairs(2), [[0], [1]], "cmc-anchored")) < 1e-4 * CLIP


def test_views_clipped_as_records_move_the_sum_by_all_of_them() -> None:
    """Four equal views, each clipped to C: the pair moves the sum by 4 C (1 - 1e-4)."""
    data, plan = pairs(4), bare_plan(mechanism="anchors", clip=1e-3, num_views=4)
    samples = [(data, np.arange(4)), (data, np.arange(3))]
    sound = distance(*query_of(plan)(samples))
    assert sound == pytest.approx(1e-3 * (1 - 1e-4), rel=1e-5)
    with views_as_records():
        planted = distance(*query_of(plan)(samples))
    assert planted == pytest.approx(4 * sound, rel=1e-5)


def test_a_layer_whose_mean_is_clipped_moves_by_more_than_a_pair_may() -> None:
    data, plan = pairs(8), bare_plan(mechanism="anchors", clip=1e-2)
    with mean_clipped_last():
        larger, smaller = query_of(plan)([(data, np.arange(8)), (data, np.arange(7))])
    assert distance(larger, smaller) > 1.3e-2


def test_a_divisor_that_counts_the_pairs_shows_in_the_whole_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """Copies of one pair, each clipped: the sum of n over n does not move, that of one over n by 1/2."""
    counted: list[int] = []
    real = private_step.make_units

    def counting(data: LocalData, rows: np.ndarray, **options: object) -> list[Units]:
        counted.append(len(rows))
        return real(data, rows, **options)

    def divided(total: dict, *, plan: PrivacyPlan, source: object) -> dict:
        return {name: 8.0 * value / counted[-1] for name, value in total.items()}

    monkeypatch.setattr(private_step, "make_units", counting)
    monkeypatch.setattr(private_step, "add_noise", divided)
    plan, data = bare_plan(mechanism="anchors", clip=CLIP), pairs(2)
    samples = [(data, np.arange(2)), (data, np.arange(1))]
    assert distance(*query_of(plan, whole=False)(samples)) <= CLIP
    assert distance(*query_of(plan, whole=True)(samples)) > CLIP


def test_the_words_of_a_script_are_coins_before_the_sum_and_noise_after_it() -> None:
    rows = np.arange(5, dtype=np.uint64)
    script = Script(rows)
    assert not script.words(9).any()
    np.testing.assert_array_equal(script.words(5), rows)
    first = script.words(624)
    np.testing.assert_array_equal(first, script.words(624))
    script.form()
    assert set(script.words(4)) == {2**63}
    script.see({})
    assert not script.words(9).any(), "the next step samples anew"
    with pytest.raises(Formed):
        Script(rows, stop=True).add({}, rows)


def test_dropout_drops_nothing_and_a_loss_of_one_s_own_is_asked() -> None:
    student = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Dropout(0.9), torch.nn.Linear(SIDE**2, DIM))
    quiet = quiet_copy(student)
    image = pairs(3).target
    assert torch.equal(quiet(image), quiet(image))
    assert student[1].p == 0.9
    plan = bare_plan(mechanism="anchors", clip=10.0)
    ask = partial(step_query, student, plan=plan)
    query = ask(loss_work(lambda s, t, _: (s * t).sum()))
    data = pairs(1)
    (found,) = query([(data, np.arange(1))])
    # The gradient of s.t at the last bias is t, whose norm C does not reach.
    factor = min(
        1.0, 10.0 * (1 - 1e-4) / float((data.teacher[0].norm() ** 2 * (1 + image[0].square().sum())).sqrt())
    )
    torch.testing.assert_close(found["2.bias"], factor * data.teacher[0].double(), rtol=1e-4, atol=1e-5)
