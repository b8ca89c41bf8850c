"""The picture of a comparison, and the paired interval against SciPy's paired test."""

import io

import numpy as np
import pytest
from PIL import Image
from scipy import stats

from edgecmd.core.statistics import paired_interval
from edgecmd.experiments.compare.summary import paired_with_reference
from edgecmd.report.studies import comparison_png, shown_metrics

SUMMARY = {
    "cmc": {
        "recall@1": {"mean": 0.3, "low": 0.2, "high": 0.4},
        "linear_5": {"mean": 0.5, "low": 0.45, "high": 0.55},
    },
    "simclr": {"linear_5": {"mean": 0.4, "low": 0.3, "high": 0.5}},
}


def test_equal_numbers_give_equal_bytes() -> None:
    assert shown_metrics(SUMMARY) == ["linear_5", "recall@1"]
    first = comparison_png(SUMMARY, titles={"linear_5": "probe k=5"})
    assert first == comparison_png(SUMMARY, titles={"linear_5": "probe k=5"})
    assert comparison_png(SUMMARY, titles={}, kinds={"cmc": "ours", "simclr": "theirs"}) != first
    assert shown_metrics(SUMMARY, first="recall@1") == ["recall@1"]
    with Image.open(io.BytesIO(first)) as opened:
        assert min(opened.size) > 100


def test_the_paired_interval_is_scipy_s() -> None:
    rng = np.random.default_rng(0)
    one, other = rng.normal(0.5, 0.1, 6).tolist(), rng.normal(0.4, 0.1, 6).tolist()
    theirs = stats.ttest_rel(one, other).confidence_interval(0.95)
    found = paired_interval(one, other)
    assert (found.low, found.high) == pytest.approx((theirs.low, theirs.high))


def test_each_method_is_held_against_the_reference_of_its_place() -> None:
    results = {
        "cmc": [{"x": 0.1}, {"x": 0.2}],
        "l2": [{"x": 0.2}, {"x": 0.4}],
        "central:cmc": [{"x": 0.5}, {"x": 0.5}],
        "central:l2": [{"x": 0.5, "y": 1.0}, {"x": 0.6, "y": 1.0}],
    }
    found = paired_with_reference(results)
    assert set(found) == {"l2", "central:l2"}
    assert found["l2"]["x"]["mean"] == pytest.approx(0.15)
    assert found["central:l2"]["x"]["against"] == "central:cmc"
    assert set(found["central:l2"]) == {"x"}
    assert paired_with_reference({"cmc": [{"x": 0.1}], "l2": [{"x": 0.2}]}) == {}
