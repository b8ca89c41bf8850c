"""The distance against a loop, its bound, its interval, and when it is refused."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from edgecmd.core.errors import DataError
from edgecmd.experiments.theory import distance
from edgecmd.experiments.theory.distance import Relations, measure, relation_variation, require_trustworthy

RELATIONS = Relations(batch_size=8, temperature=0.3, teacher_temperature=0.5)


def draw(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def slow_variation(s: np.ndarray, t: np.ndarray, tau: float, teacher_tau: float) -> list[float]:
    s, t = (one / np.linalg.norm(one, axis=1, keepdims=True) for one in (s, t))
    out = []
    for i in range(len(s)):
        others = [j for j in range(len(s)) if j != i]
        p_a = [math.exp(float(t[i] @ t[j]) / teacher_tau) for j in others]
        p_b = [math.exp(float(s[i] @ s[j]) / tau) for j in others]
        out.append(sum(abs(a / sum(p_a) - b / sum(p_b)) for a, b in zip(p_a, p_b, strict=True)) / 2)
    return out


@pytest.mark.parametrize("seed", range(3))
def test_variation_equals_the_loop_written_from_the_formula(seed: int) -> None:
    s, t = draw(seed, 8, 5), draw(seed + 9, 8, 6)
    fast = relation_variation(s, t, RELATIONS)
    np.testing.assert_allclose(fast.numpy(), slow_variation(s.numpy(), t.numpy(), 0.3, 0.5), rtol=1e-10)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 1000), tau=st.floats(0.05, 2.0), mix=st.floats(0.0, 1.0))
def test_it_lies_between_zero_and_the_bound_of_the_loss(seed: int, tau: float, mix: float) -> None:
    """Mean TV(p_A, p_B) <= sqrt((L_CMD - H(p_A)) / 2), whatever student and teacher are."""
    t = draw(seed, 40, 6)
    s = mix * t + (1.0 - mix) * draw(seed + 1, 40, 6)
    found = measure(s, t, replace(RELATIONS, temperature=tau, teacher_temperature=tau), seed=seed)
    assert 0.0 <= found.variation <= min(1.0, found.bound + 1e-9)


def test_a_rotated_teacher_is_at_no_distance() -> None:
    t = draw(0, 32, 5)
    rotation = torch.linalg.qr(draw(1, 5, 5)).Q
    found = measure(t @ rotation, t, replace(RELATIONS, teacher_temperature=0.3))
    assert found.variation == pytest.approx(0.0, abs=1e-7)
    assert (found.num_pairs, found.batch_size) == (32, 8)


def test_disjoint_relations_are_at_distance_one() -> None:
    """Two blocks of two: the teacher pairs neighbours, the student pairs strangers."""
    teacher = torch.eye(4, dtype=torch.float64)[[0, 0, 1, 1]]
    student = torch.eye(4, dtype=torch.float64)[[0, 1, 0, 1]]
    cold = Relations(batch_size=4, temperature=0.01, teacher_temperature=0.01)
    assert relation_variation(student, teacher, cold).tolist() == pytest.approx([1.0] * 4)


def test_the_interval_holds_the_truth_as_often_as_it_says() -> None:
    """Twenty means of normal draws; a percentile interval of 24 values covers a little less than 95%."""
    generator = np.random.default_rng(0)
    covered = 0
    for _ in range(100):
        low, high = distance.bootstrap_interval(
            generator.normal(0.5, 1.0, 24), num_resamples=200, generator=generator
        )
        covered += low <= 0.5 <= high
    assert covered >= 85


def test_it_settles_with_more_pairs_and_is_the_same_each_time() -> None:
    s, t = draw(0, 256, 5), draw(1, 256, 5)
    steps = distance.convergence(s, t, RELATIONS, seed=3)
    assert [one.num_pairs for one in steps] == [16, 32, 64, 128, 256]
    assert steps == distance.convergence(s, t, RELATIONS, seed=3)
    assert steps[-1].high - steps[-1].low < steps[0].high - steps[0].low + 0.05
    assert require_trustworthy(steps[-1]) is steps[-1]


def test_what_cannot_be_answered_for_is_refused() -> None:
    s, t = draw(0, 64, 64), draw(1, 64, 64)
    cold = measure(s, t, replace(RELATIONS, teacher_temperature=0.05))
    assert cold.diagonal > 0.99
    with pytest.raises(DataError, match=r"dominated by the diagonal.*teacher_temperature"):
        require_trustworthy(cold)
    fine = measure(s, t, RELATIONS)
    with pytest.raises(DataError, match="is based on 2 batches"):
        require_trustworthy(measure(s[:20], t[:20], RELATIONS))
    with pytest.raises(DataError, match=r"wider than 0\.1"):
        require_trustworthy(replace(fine, low=0.2, high=0.5))
    with pytest.raises(DataError, match="10 held-out pairs make 1 batches of 8"):
        measure(s[:10], t[:10], RELATIONS)


def test_the_fitted_temperature_is_never_farther_than_a_student_that_tells_nothing_apart() -> None:
    s, t = draw(0, 64, 5), draw(1, 64, 5)
    fitted = measure(s, t, distance.fit_temperature(s, t, RELATIONS))
    nothing = measure(torch.ones(64, 5, dtype=torch.float64), t, RELATIONS)
    assert fitted.variation <= nothing.variation + 1e-9
    assert fitted.variation <= measure(s, t, RELATIONS).variation + 1e-9


def test_the_fitted_temperature_finds_the_teacher_s() -> None:
    t = draw(0, 64, 5)
    warm = replace(RELATIONS, teacher_temperature=0.02 * 2.0**4)
    found = distance.fit_temperature(t, t, warm)
    assert found.temperature == pytest.approx(0.32)
    assert measure(t, t, found).variation == pytest.approx(0.0, abs=1e-9)


def test_relations_to_anchors_by_hand() -> None:
    """Two anchors on the axes; the teacher leans to one by e, the student to the other: TV = tanh(1/2)."""
    one, other = torch.eye(2, dtype=torch.float64)
    relations = Relations(batch_size=2, temperature=1.0, teacher_temperature=1.0, anchors=torch.eye(2))
    found = relation_variation(torch.stack([other, one]), torch.stack([one, one]), relations)
    assert found.tolist() == pytest.approx([math.tanh(0.5), 0.0])


def test_strangers_elsewhere_do_not_move_what_a_pair_has_to_do_with_the_anchors() -> None:
    """Half of the pairs get a stranger's teacher: the others keep their distance, unlike within the batch."""
    s, t = draw(0, 8, 5), draw(1, 8, 5)
    mixed = torch.cat([t[:4], t[4:].roll(1, 0)])
    anchored = replace(RELATIONS, anchors=draw(2, 20, 5))
    assert torch.equal(relation_variation(s, t, anchored)[:4], relation_variation(s, mixed, anchored)[:4])
    within = (relation_variation(s, t, RELATIONS) - relation_variation(s, mixed, RELATIONS))[:4]
    assert within.abs().min() > 1e-3


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 1000), tau=st.floats(0.05, 2.0))
def test_relations_to_anchors_keep_the_bound_and_see_a_rotation(seed: int, tau: float) -> None:
    t = draw(seed, 40, 6)
    relations = replace(RELATIONS, temperature=tau, teacher_temperature=tau, anchors=draw(seed + 2, 30, 6))
    found = measure(draw(seed + 1, 40, 6), t, relations, seed=seed)
    assert 0.0 <= found.variation <= min(1.0, found.bound + 1e-9)
    assert (found.form, measure(t, t, relations).variation) == ("anchors", 0.0)
    turned = t @ torch.linalg.qr(draw(seed + 3, 6, 6)).Q
    assert measure(turned, t, relations).variation > 1e-3


def test_anchors_need_one_space_and_more_than_one_that_counts() -> None:
    with pytest.raises(DataError, match=r"student\.dim=4, teacher\.dim=5"):
        relation_variation(draw(0, 8, 4), draw(1, 8, 5), replace(RELATIONS, anchors=draw(2, 20, 5)))
    t = draw(0, 64, 5)
    cold = replace(RELATIONS, teacher_temperature=1e-4, anchors=draw(2, 20, 5))
    with pytest.raises(DataError, match="dominated by the nearest anchor"):
        require_trustworthy(measure(t, t, cold))
