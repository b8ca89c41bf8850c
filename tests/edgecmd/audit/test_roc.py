"""ROC figures against scikit-learn, intervals against simulation, membership scores against slow loops."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom, norm
from sklearn import metrics

from edgecmd.audits.risk import membership, roc
from edgecmd.core.errors import DataError


@st.composite
def scored(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    num = draw(st.integers(2, 60))
    scores = np.array(draw(st.lists(st.integers(-4, 4), min_size=num, max_size=num)), dtype=float)
    members = np.array(draw(st.lists(st.booleans(), min_size=num, max_size=num)))
    members[0], members[1] = True, False
    return scores, members


@given(case=scored(), fpr=st.floats(0.0, 1.0))
@settings(max_examples=60, deadline=None)
def test_area_and_rates_are_those_of_scikit_learn(case: tuple[np.ndarray, np.ndarray], fpr: float) -> None:
    scores, members = case
    assert roc.auc(scores, members) == pytest.approx(metrics.roc_auc_score(members, scores))
    wrong, right, _ = metrics.roc_curve(members, scores, drop_intermediate=False)
    np.testing.assert_allclose(roc.roc_curve(scores, members), (wrong, right))
    assert roc.tpr_at_fpr(scores, members, fpr=fpr) == right[wrong <= fpr].max()


@given(case=scored(), infinite=st.booleans())
@settings(max_examples=60, deadline=None)
def test_the_curve_counts_who_is_above_each_threshold(
    case: tuple[np.ndarray, np.ndarray], infinite: bool
) -> None:
    scores, members = case
    if infinite:
        scores = np.where(scores == 4, np.inf, np.where(scores == -4, -np.inf, scores))
    inside, others = scores[members], scores[~members]
    levels = sorted(set(scores.tolist()), reverse=True)
    expected = [(0.0, 0.0)] + [(np.mean(others >= level), np.mean(inside >= level)) for level in levels]
    np.testing.assert_array_equal(np.transpose(roc.roc_curve(scores, members)), expected)
    beaten = [(one > other) + (one == other) / 2 for one in inside for other in others]
    assert roc.auc(scores, members) == pytest.approx(np.mean(beaten), rel=1e-12)


def test_few_others_allow_no_false_positive_at_a_small_rate() -> None:
    scores = np.array([5.0, 4.0, 3.0, 2.0, 1.0])
    members = np.array([True, True, False, True, False])
    assert roc.tpr_at_fpr(scores, members, fpr=0.01) == pytest.approx(2 / 3)
    assert roc.tpr_at_fpr(-scores, members, fpr=0.01) == 0.0


def test_thinned_points_lie_on_the_curve_and_keep_its_ends() -> None:
    coins = np.random.default_rng(0)
    members = np.arange(4000) % 2 == 0
    scores = members + coins.standard_normal(4000)
    wrong, right = roc.roc_points(scores, members, num=50)
    full = set(zip(*(values.tolist() for values in roc.roc_curve(scores, members))))
    assert set(zip(wrong.tolist(), right.tolist())) <= full
    assert len(wrong) <= 50
    assert (np.diff(wrong) > 0).all()
    assert (np.diff(right) >= 0).all()
    assert (wrong[0], right[0]) == (0.0, roc.tpr_at_fpr(scores, members, fpr=0.0))
    assert (wrong[-1], right[-1]) == (1.0, 1.0)
    assert (wrong < 0.01).sum() > 8  # a linear grid of 50 would have one


def test_a_short_curve_is_not_thinned() -> None:
    wrong, right = roc.roc_points(np.array([2.0, 1.0]), np.array([True, False]))
    assert (wrong.tolist(), right.tolist()) == ([0.0, 1.0], [1.0, 1.0])


@pytest.mark.parametrize("area", [0.5, 0.8, 0.97])
def test_interval_covers_the_true_area(area: float) -> None:
    coins = np.random.default_rng(1)
    members = np.arange(80) < 40
    shift, repetitions = float(np.sqrt(2) * norm.ppf(area)), 300
    missed = 0
    for _ in range(repetitions):
        low, high = roc.auc_interval(shift * members + coins.standard_normal(80), members)
        missed += not low <= area <= high
    assert missed <= binom.ppf(0.9999, repetitions, 0.05)


def test_interval_is_about_delongs() -> None:
    coins = np.random.default_rng(2)
    members = np.arange(600) < 300
    scores = 0.7 * members + coins.standard_normal(600)
    wins = (scores[members][:, None] > scores[~members][None, :]).astype(float)
    spread = np.sqrt(wins.mean(1).var(ddof=1) / 300 + wins.mean(0).var(ddof=1) / 300)
    low, high = roc.auc_interval(scores, members)
    assert high - low == pytest.approx(2 * 1.96 * spread, rel=0.1)
    narrow = roc.auc_interval(scores, members, confidence=0.5)
    assert low < narrow[0] < wins.mean() < narrow[1] < high


def test_a_perfect_area_still_has_an_interval() -> None:
    members = np.arange(20) < 10
    low, high = roc.auc_interval(members.astype(float), members)
    assert high == 1.0
    assert 0.6 < low < 0.95
    mirrored = roc.auc_interval(-members.astype(float), members)
    assert mirrored == pytest.approx((1.0 - high, 1.0 - low))


def test_lira_is_the_normal_tail_of_each_record() -> None:
    coins = np.random.default_rng(3)
    out, seen = coins.normal(2.0, 3.0, (6, 5)), coins.normal(2.0, 3.0, 5)
    mask = np.ones((6, 5), dtype=bool)
    mask[0, 0] = mask[3, 2] = mask[1, 2] = False
    own = membership.lira_offline(seen, out, mask_SN=mask, pooled_sd=False)
    pooled = membership.lira_offline(seen, out, mask_SN=mask)
    residuals = []
    for n in range(5):
        kept = out[mask[:, n], n]
        assert norm.cdf(own[n]) == pytest.approx(norm.cdf(seen[n], kept.mean(), kept.std(ddof=1)))
        residuals.append(kept - kept.mean())
    spread = np.sqrt(np.sum(np.concatenate(residuals) ** 2) / sum(len(one) - 1 for one in residuals))
    means = [out[mask[:, n], n].mean() for n in range(5)]
    np.testing.assert_allclose(pooled, (seen - means) / spread)


def test_what_the_mask_hides_is_not_looked_at() -> None:
    out, mask = np.arange(8.0).reshape(4, 2) ** 2, np.ones((4, 2), dtype=bool)
    mask[0, 1] = False
    hidden = out.copy()
    hidden[0, 1] = np.nan
    expected = membership.lira_offline(np.ones(2), out, mask_SN=mask)
    np.testing.assert_array_equal(membership.lira_offline(np.ones(2), hidden, mask_SN=mask), expected)


def test_rmia_is_the_share_of_the_population_that_is_dominated() -> None:
    coins = np.random.default_rng(4)
    seen, out, other, other_out = (
        coins.random(7),
        coins.random((3, 7)),
        coins.random(20),
        coins.random((3, 20)),
    )
    mask = coins.random((3, 7)) < 0.7
    mask[0] = True
    found = membership.rmia_offline(
        seen, out, observed_Z=other, out_SZ=other_out, mask_SN=mask, a=0.4, gamma=1.5
    )
    for n in range(7):
        prior = (1.4 * out[mask[:, n], n].mean() + 0.6) / 2
        ratios = [
            (seen[n] / prior) / (other[z] / ((1.4 * other_out[:, z].mean() + 0.6) / 2)) for z in range(20)
        ]
        assert found[n] == pytest.approx(np.mean(np.array(ratios) > 1.5))


def test_non_members_score_as_chance_does() -> None:
    coins = np.random.default_rng(5)
    level = coins.normal(0, 1, 4000)
    noisy = 1 / (1 + np.exp(-(level + 0.3 * coins.standard_normal((5, 4000)))))
    members = np.arange(2000) % 2 == 0
    found = membership.rmia_offline(
        noisy[0, :2000], noisy[1:, :2000], observed_Z=noisy[0, 2000:], out_SZ=noisy[1:, 2000:], gamma=1.0
    )
    assert found.mean() == pytest.approx(0.5, abs=0.03)
    low, high = roc.auc_interval(found, members)
    assert low < 0.5 < high


@pytest.mark.parametrize(
    ("call", "word"),
    [
        (lambda: roc.auc(np.ones(3), np.ones(3)), "both kinds"),
        (lambda: roc.auc(np.ones(3), np.ones(2)), "lists of the same length"),
        (lambda: roc.auc(np.array([1.0, np.nan]), np.array([1, 0])), "1 scores are not numbers"),
        (lambda: roc.tpr_at_fpr(np.ones(2), np.array([1, 0]), fpr=2.0), "fpr=2.0"),
        (lambda: roc.roc_points(np.ones(2), np.array([1, 0]), num=1), "num=1"),
        (lambda: roc.auc_interval(np.ones(2), np.array([1, 0]), confidence=1.0), "confidence=1.0"),
        (lambda: membership.lira_offline(np.ones(2), np.ones((3, 3))), "reference scores"),
        (lambda: membership.lira_offline(np.ones(2), np.ones((3, 2))), "score the same"),
        (lambda: membership.lira_offline(np.ones(2), np.ones((1, 2))), "two or more"),
        (
            lambda: membership.lira_offline(np.ones(2), np.ones((1, 2)), pooled_sd=False),
            "fewer than 2",
        ),
        (lambda: membership.lira_offline(np.array([np.inf]), np.ones((3, 1))), "finite"),
        (
            lambda: membership.lira_offline(np.ones(1), np.ones((3, 1)), mask_SN=np.ones((2, 1))),
            "mask",
        ),
        (lambda: rmia(observed=2.0), "probabilities"),
        (lambda: rmia(a=1.5), "a=1.5"),
        (lambda: rmia(out=0.0, a=1.0), "probability 0"),
    ],
)
def test_impossible_input_is_named(call: object, word: str) -> None:
    with pytest.raises(DataError, match=word):
        call()  # type: ignore[operator]


def rmia(*, observed: float = 0.5, out: float = 0.5, a: float = 0.3) -> np.ndarray:
    return membership.rmia_offline(
        np.array([observed]),
        np.array([[out]]),
        observed_Z=np.array([0.5]),
        out_SZ=np.array([[0.5]]),
        a=a,
    )
