"""Paired tests against SciPy, Holm by hand, and the verdict by numbers made up by hand."""

import numpy as np
import pytest
from scipy import stats

from edgecmd.core.statistics import holm, paired_p
from edgecmd.experiments.compare.markdown import comparison_markdown, title_of, verdict_lines
from edgecmd.experiments.compare.summary import claim_of, paired_with_reference, summarise, verdict


def lines(*values: float) -> list[dict[str, float]]:
    return [{"linear_10": value} for value in values]


# cmc+cmd is 0.03 ahead of l2 with a standard error of 0.01 / sqrt(3); cmc is behind by about 0.05.
RESULTS = {
    "cmc": lines(0.25, 0.26, 0.24),
    "cmc+cmd": lines(0.34, 0.33, 0.32),
    "cmd": lines(0.10, 0.30, 0.50),
    "l2": lines(0.30, 0.30, 0.30),
    "simclr": lines(0.20, 0.21, 0.22),
    "supervised": lines(0.90, 0.90, 0.90),
    "teacher": [{"recall@1": 0.1}] * 3,
}


def test_the_p_value_is_scipy_s() -> None:
    rng = np.random.default_rng(0)
    for num in (3, 5, 12):
        one, other = rng.normal(0.5, 0.1, num).tolist(), rng.normal(0.45, 0.1, num).tolist()
        assert paired_p(one, other) == pytest.approx(stats.ttest_rel(one, other).pvalue, rel=1e-9)
    assert paired_p([0.1, 0.2], [0.1, 0.2]) == 1.0
    # Equal differences, and two of them, show no spread that a test could stand on.
    assert paired_p([0.2, 0.3, 0.4], [0.1, 0.2, 0.3]) == 1.0
    assert paired_p([0.9, 0.8], [0.1, 0.2]) == 1.0
    with pytest.raises(ValueError, match="shorter"):
        paired_p([0.1, 0.2], [0.1])


def test_holm_by_hand() -> None:
    """Of 0.01, 0.04, 0.03: 3 x 0.01; 2 x 0.03; then 1 x 0.04, which may not be below 0.06."""
    assert holm({"a": 0.01, "b": 0.04, "c": 0.03}) == pytest.approx({"a": 0.03, "c": 0.06, "b": 0.06})
    assert holm({"a": 0.9, "b": 0.8}) == {"b": 1.0, "a": 1.0}
    assert holm({}) == {}


def test_the_adjustment_is_over_methods_with_the_same_reference_and_metric() -> None:
    found = paired_with_reference(RESULTS)
    assert "recall@1" not in found["teacher"]
    family = {name: row["linear_10"]["p"] for name, row in found.items() if "linear_10" in row}
    assert len(family) == 5
    assert {name: found[name]["linear_10"]["p_holm"] for name in family} == pytest.approx(holm(family))
    other = paired_with_reference(RESULTS, reference="l2")
    assert other["cmc"]["linear_10"]["against"] == "l2"
    assert "l2" not in other


def test_the_verdict_by_hand() -> None:
    found = verdict(RESULTS, "linear_10")
    assert found["best"] == "cmc+cmd"
    assert found["mean"] == pytest.approx(0.33)
    assert found["best_other"] == "l2"
    assert set(found["ours"]) == {"cmc", "cmc+cmd", "cmd"}
    ahead = found["ours"]["cmc+cmd"]
    half = stats.t.ppf(0.975, 2) * 0.01 / 3**0.5
    assert (ahead["mean"], ahead["low"]) == pytest.approx((0.03, 0.03 - half))
    assert ahead["claim"] == "holds"
    assert found["ours"]["cmc"]["claim"] == "behind"
    assert found["ours"]["cmd"]["claim"] == "not separated"
    said = verdict_lines(found)
    # cmd scatters so widely that it may be as good.
    told = "Highest mean of a label-free method at probe k=10: **cmc+cmd**, 0.330"
    assert said[0] == f"{told}; not told apart from every other."
    few = {name: row for name, row in RESULTS.items() if name in ("cmc", "cmc+cmd", "l2")}
    apart = verdict_lines(verdict(few, "linear_10"))[0]
    assert apart == "Best label-free method at probe k=10: **cmc+cmd**, 0.330."
    assert "cmc+cmd minus l2" in said[2]
    assert "+0.030 (+0.005 to +0.055, p = 0.035): two points or more ahead, as the paper claims." in said[2]
    assert len(said) == 3


def test_the_verdict_of_little() -> None:
    assert verdict({}, "linear_10")["best"] is None
    assert verdict_lines(verdict({}, "linear_10")) == []
    alone = verdict({"cmc": lines(0.1)}, "linear_10")
    assert (alone["best"], alone["best_other"], alone["ours"]) == ("cmc", None, {})
    one_seed = verdict({"cmc": lines(0.1), "l2": lines(0.2)}, "linear_10")
    assert (one_seed["best"], one_seed["ours"]) == ("l2", {})
    central = verdict(
        {"central:cmc": lines(0.1, 0.11, 0.12), "central:l2": lines(0.05, 0.06, 0.075)}, "linear_10"
    )
    assert central["ours"]["cmc"]["claim"] == "holds"
    both = verdict({"cmc": lines(0.1, 0.1), "central:cmc": lines(0.5, 0.5)}, "linear_10")
    assert both["mean"] == pytest.approx(0.1)


@pytest.mark.parametrize(
    ("low", "mean", "high", "claim"),
    [
        (0.001, 0.02, 0.039, "holds"),
        (0.001, 0.019, 0.037, "smaller"),
        (0.0, 0.05, 0.1, "not separated"),
        (-0.1, -0.05, 0.0, "not separated"),
        (-0.1, -0.05, -0.01, "behind"),
    ],
)
def test_what_a_difference_says(low: float, mean: float, high: float, claim: str) -> None:
    assert claim_of({"low": low, "mean": mean, "high": high}) == claim


def test_the_table_is_markdown_with_the_kind_above_it() -> None:
    about = {
        "title": "10 clients, iid",
        "headline": "linear_10",
        "reference": "cmc",
        "data": "digits",
        "kind": "class-paired",
        "unseen": "speakers",
        "num_test": 500,
        "student": "`audio-50k`, 1 parameter",
        "work": "10 optimiser steps",
        "num_seeds": 3,
        "rates": {"cmc": 0.01},
        "grid": [0.003, 0.01],
        "cpu_seconds": 120.0,
    }
    tables = {
        "summary": summarise(RESULTS),
        "paired": paired_with_reference(RESULTS),
        "verdict": verdict(RESULTS, "linear_10"),
        "about": about,
    }
    text = comparison_markdown(tables)
    assert text.startswith("### 10 clients, iid\n")
    assert text.index("kind *class-paired*") < text.index("| method |")
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert rows[0] == "| method | probe k=10 | R@1 | p against cmc | rate |"
    assert len({line.count("|") for line in rows}) == 1
    assert rows[2] == "| cmc | 0.250 ± 0.025 | - | - | 0.01 |"
    # Differences 0.09, 0.07, 0.08: t = 0.08 sqrt(3) / 0.01 with two degrees of freedom.
    p = stats.ttest_rel([0.34, 0.33, 0.32], [0.25, 0.26, 0.24]).pvalue
    assert rows[3].startswith(f"| cmc+cmd | 0.330 ± 0.025* | - | {p:.3f} |")
    assert "| teacher | - | 0.100 | - | - |" in rows
    assert "CPU time: 2 minutes" in text
    assert title_of("class_recall@1") == "class-R@1"
