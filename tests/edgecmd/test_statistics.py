"""Intervals within what is possible, and stars that chance does not hand out."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from edgecmd.core.statistics import (
    DIFFERENCE,
    MIN_ITEMS,
    MIN_REPEATS,
    SHARE,
    Measured,
    best_of,
    interval_text,
    items_apart,
    mean_interval,
    newcombe,
    paired_interval,
    too_few,
    wilson,
)
from edgecmd.experiments.compare.summary import (
    Items,
    best_by_metric,
    paired_with_reference,
    summarise,
    verdict,
)

SHARES = st.lists(st.floats(0.0, 1.0), min_size=1, max_size=12)


class TestIntervals:
    @given(SHARES)
    def test_a_share_has_an_interval_of_shares_or_none(self, values):
        found = mean_interval(values, bounds=SHARE)
        if len(values) < MIN_REPEATS or max(values) == min(values):
            assert found.low is None
            assert found.high is None
        elif found.low is not None:
            assert 0.0 <= found.low <= found.mean + 1e-12
            assert found.mean - 1e-12 <= found.high <= 1.0

    @given(st.lists(st.tuples(st.floats(0.0, 1.0), st.floats(0.0, 1.0)), min_size=1, max_size=8))
    def test_a_difference_of_shares_lies_between_minus_one_and_one(self, pairs):
        found = paired_interval([a for a, _ in pairs], [b for _, b in pairs], bounds=DIFFERENCE)
        assert found.low is None or -1.0 <= found.low <= found.high <= 1.0

    def test_what_was_seen_is_no_more(self):
        """Two draws gave 0.209 ± 0.702; three gave ends below zero."""
        assert str(mean_interval([0.154, 0.264], bounds=SHARE)) == "0.209"
        assert str(mean_interval([0.0, 0.186, 0.372], bounds=SHARE)) == "0.186 [0.000, 0.648]"

    def test_an_interval_that_no_bound_cuts_is_the_textbook_s(self):
        values = [0.30, 0.35, 0.31]
        low, high = stats.t.interval(0.95, 2, loc=np.mean(values), scale=stats.sem(values))
        found = mean_interval(values, bounds=SHARE)
        assert (found.low, found.high) == pytest.approx((low, high))
        assert str(found) == f"0.320 ± {(high - low) / 2:.3f}"

    @pytest.mark.parametrize("values", [[1.0, 1.0, 1.0], [0.25] * 9, [0.1 + 0.2, 0.3, 0.3]])
    def test_repetitions_that_agree_claim_no_certainty(self, values):
        assert mean_interval(values, bounds=SHARE).low is None

    def test_few_items_have_none_however_many_the_seeds(self):
        values = [0.25, 0.5, 0.75, 0.5, 0.5]
        assert mean_interval(values, bounds=SHARE, num_items=MIN_ITEMS - 1).low is None
        assert mean_interval(values, bounds=SHARE, num_items=MIN_ITEMS).low is not None

    def test_no_number_has_none(self):
        assert mean_interval([0.1, math.nan, 0.3], bounds=SHARE).low is None
        assert wilson(math.nan, num_items=100) is None

    def test_differences_keep_their_sign(self):
        row = {"mean": -0.4, "low": -1.0, "high": 0.25}
        assert interval_text(row, sign=True) == "-0.400 [-1.000, +0.250]"
        assert interval_text({"mean": 0.1, "low": None, "high": None}, sign=True) == "+0.100"

    def test_coverage_is_not_lost_by_the_cut(self):
        """Means of 40 items over 5 seeds near a bound: what the whole interval covers, the cut one does."""
        rng = np.random.default_rng(5)
        truth, whole, cut, num = 0.97, 0, 0, 2000
        for _ in range(num):
            values = (rng.binomial(40, truth, size=5) / 40).tolist()
            free, bound = mean_interval(values), mean_interval(values, bounds=SHARE)
            if free.low is None:
                continue
            whole += free.low <= truth <= free.high
            cut += bound.low <= truth <= bound.high
        assert cut == whole
        assert cut / num > 0.88

    @pytest.mark.parametrize("seeds", [3, 5])
    @pytest.mark.parametrize("items", [20, 600])
    @pytest.mark.parametrize("truth", [0.02, 0.1, 0.5, 0.97])
    def test_what_is_told_covers(self, truth, items, seeds):
        """Of the intervals that are told some 95% hold the truth: 500 draws have a standard error of 1%."""
        rng = np.random.default_rng(6)
        found = [
            mean_interval((rng.binomial(items, truth, size=seeds) / items).tolist(), bounds=SHARE)
            for _ in range(500)
        ]
        told = [one for one in found if one.low is not None]
        assert sum(one.low <= truth <= one.high for one in told) / len(told) > 0.92

    @pytest.mark.parametrize(("right", "num"), [(0, 20), (20, 20), (40, 100), (1, 632)])
    def test_a_share_of_items_has_wilson_s_interval(self, right, num):
        """By the quadratic of Wilson (1927), solved here."""
        z, p = stats.norm.ppf(0.975), right / num
        ends = np.roots([1 + z * z / num, -(2 * p + z * z / num), p * p])
        assert wilson(p, num_items=num) == pytest.approx(sorted(ends.real), abs=1e-9)

    def test_four_items_have_none(self):
        assert wilson(1.0, num_items=4) is None


class TestItems:
    def test_newcombe_by_hand(self):
        """By hand: Wilson's ends of 56, 48 and 42 of 70 are 0.692, 0.782 and 0.706.

        sqrt((0.8 - 0.692)^2 + (0.706 - 0.6)^2) = 0.152 < 0.2; with 48 it is 0.145 > 0.114.
        """
        assert items_apart(56 / 70, 42 / 70, num_items=70)
        assert not items_apart(56 / 70, 48 / 70, num_items=70)
        assert items_apart(42 / 70, 56 / 70, num_items=70)

    def test_the_interval_of_a_difference_by_the_textbook_s_formula(self):
        """Newcombe's method 10 out of Wilson's closed form; it turns its sign with the difference."""

        def ends(right: int) -> tuple[float, float]:
            z, p = 1.959963984540054, right / 70
            half = z * math.sqrt(p * (1 - p) / 70 + z * z / (4 * 70 * 70))
            return tuple((p + z * z / 140 + sign * half) / (1 + z * z / 70) for sign in (-1, 1))

        (low_1, high_1), (low_2, high_2), one, other = ends(56), ends(48), 56 / 70, 48 / 70
        low = one - other - math.sqrt((one - low_1) ** 2 + (high_2 - other) ** 2)
        high = one - other + math.sqrt((high_1 - one) ** 2 + (other - low_2) ** 2)
        assert newcombe(one, other, num_items=70) == pytest.approx((low, high))
        assert newcombe(other, one, num_items=70) == pytest.approx((-high, -low))
        assert newcombe(1.0, 0.0, num_items=MIN_ITEMS - 1) is None

    def test_nothing_is_apart_below_the_minimum(self):
        assert not items_apart(1.0, 0.0, num_items=MIN_ITEMS - 1)
        assert items_apart(1.0, 0.0, num_items=MIN_ITEMS)
        assert not items_apart(0.5, 0.5, num_items=10**6)


def shares(num: int = 100, **values: float) -> dict[str, Measured]:
    return {name: Measured(value=one, num_items=num) for name, one in values.items()}


class TestBest:
    def test_the_best_leaves_every_other_one_behind(self):
        assert best_of(shares(a=0.8, b=0.4, c=0.3)) == "a"
        assert best_of(shares(a=0.8, b=0.75, c=0.3)) is None
        assert best_of(shares(a=0.8)) is None
        assert best_of({}) is None
        assert best_of(shares(a=0.8, b=0.8)) is None

    def test_four_test_pairs_have_no_best(self):
        assert best_of(shares(num=4, student=1.0, l2=0.0)) is None
        assert "4 test pairs: too few to rank" in too_few(num_items=4)
        assert too_few(num_items=MIN_ITEMS, num_repeats=MIN_REPEATS) == ""
        assert too_few(num_repeats=1).startswith("1 seed:")

    def test_draws_and_items_must_both_agree(self):
        steady, rival = (0.80, 0.81, 0.79), (0.40, 0.41, 0.42)
        wild = (0.99, 0.50, 0.91)
        rest = Measured(value=0.41, values=rival, num_items=100)
        assert best_of({"a": Measured(value=0.80, values=steady, num_items=100), "b": rest}) == "a"
        assert best_of({"a": Measured(value=0.80, values=wild, num_items=100), "b": rest}) is None
        # Two points apart in every draw, but of a hundred items that is two.
        near = Measured(value=0.43, values=(0.42, 0.43, 0.445), num_items=100)
        assert best_of({"a": near, "b": rest}) is None
        assert best_of({"a": near, "b": rest}, items=False) == "a"

    def test_two_draws_have_no_best_and_one_run_of_no_share_neither(self):
        two = {
            "a": Measured(value=0.8, values=(0.8, 0.81), num_items=900),
            "b": Measured(value=0.1, values=(0.1, 0.12), num_items=900),
        }
        assert best_of(two) is None
        assert best_of({n: Measured(value=v, is_share=False) for n, v in (("a", 0.9), ("b", 0.1))}) is None

    def test_no_number_is_never_best(self):
        assert best_of(shares(a=math.nan, b=0.1)) is None

    def test_chance_is_seldom_starred(self):
        """Six equal methods on 60 items, 1,000 times: a star at most as often as 5%."""
        rng = np.random.default_rng(3)
        rights = rng.binomial(60, 0.4, size=(1000, 6)) / 60
        stars = sum(best_of(shares(num=60, **dict(zip("abcdef", row)))) is not None for row in rights)
        assert stars <= 50

    def test_over_seeds_chance_is_seldom_starred(self):
        rng = np.random.default_rng(4)
        stars = 0
        for table in rng.normal(0.5, 0.02, size=(1000, 5, 5)):
            lines = {name: [{"recall@1": float(v)} for v in row] for name, row in zip("abcde", table)}
            stars += bool(best_by_metric(lines, items=Items(test=100, labelled=0)))
        assert stars <= 50


class TestComparisons:
    LINES = {
        "cmc": [{"recall@1": v, "linear_10": 0.5 + v / 10} for v in (0.7, 0.72, 0.74)],
        "l2": [{"recall@1": v, "linear_10": 0.4 + v / 10} for v in (0.2, 0.23, 0.21)],
    }

    def test_enough_seeds_and_items(self):
        items = Items(test=100, labelled=100)
        assert best_by_metric(self.LINES, items=items)["recall@1"] == "cmc"
        assert verdict(self.LINES, "recall@1", items=items)["is_apart"]

    def test_each_metric_rests_on_its_own_items(self):
        items = Items(test=100, labelled=4)
        assert set(best_by_metric(self.LINES, items=items)) == {"recall@1"}
        summary = summarise(self.LINES, items=items)
        assert summary["cmc"]["linear_10"]["low"] is None
        assert summary["cmc"]["recall@1"]["low"] is not None
        paired = paired_with_reference(self.LINES, items=items)["l2"]
        assert (paired["linear_10"]["low"], paired["linear_10"]["p_holm"]) == (None, 1.0)
        assert paired["recall@1"]["p_holm"] < 0.05

    def test_megabytes_are_no_shares(self):
        lines = {"cmc": [{"megabytes": value} for value in (10.0, 12.0, 14.0)]}
        assert summarise(lines)["cmc"]["megabytes"]["high"] > 14.0

    def test_a_metric_that_one_seed_lacks_is_told_of_the_others(self):
        lines = {"cmc": [{"recall@1": 0.5, "nmi": 0.1}, {"recall@1": 0.6}, {"recall@1": 0.55}]}
        found = summarise(lines)["cmc"]
        assert (found["nmi"]["mean"], found["nmi"]["num"], found["recall@1"]["num"]) == (0.1, 1, 3)
        assert paired_with_reference({**lines, "l2": lines["cmc"]})["l2"].keys() == {"recall@1"}
