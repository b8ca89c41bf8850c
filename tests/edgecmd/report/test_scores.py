"""Which numbers are shown and which one is best."""

import pytest

from edgecmd.core.statistics import Measured
from edgecmd.report import scores
from edgecmd.report.scores import Column, Score


def column(num: int = 100, **values: float) -> Column:
    rows = {name: Score(value=one, rests=Measured(value=one, num_items=num)) for name, one in values.items()}
    return Column(title="R@1", scores=rows)


def best(one: Column) -> list[str]:
    return [name for name in one.scores if one.is_best(name)]


def test_columns_in_the_order_of_the_page(numbers):
    titles = [one.title for one in scores.columns(numbers)]
    assert titles == [
        "R@1",
        "R@5",
        "R@10",
        "strict R@1",
        "one-shot",
        "probe 1",
        "probe 5",
        "probe 10",
        "probe 30",
        "probe all",
    ]


def test_chance_of_each_column(numbers):
    chance = {one.title: one.chance for one in scores.columns(numbers)}
    assert chance["R@5"] == pytest.approx(5 / 786)
    assert chance["strict R@1"] is None
    assert chance["one-shot"] == pytest.approx(1 / 310)
    assert chance["probe 10"] == pytest.approx(0.2214)


def test_the_student_comes_first_and_missing_numbers_stay_out(numbers):
    by_title = {one.title: one.scores for one in scores.columns(numbers)}
    assert next(iter(scores.methods(numbers))) == "student"
    assert "simclr" not in by_title["R@1"]
    assert set(by_title["probe 5"]) == {"student", "untrained", "teacher as it is", "l2", "simclr", "scratch"}


def test_half_an_interval_only_where_draws_were_repeated(numbers):
    row = numbers["student"]["few_labels"]["group"]["linear"]["5"]
    by_title = {one.title: one.scores["student"] for one in scores.columns(numbers)}
    five = by_title["probe 5"]
    assert (five.low, five.high) == (row["low"], row["high"])
    assert five.interval == f"± {(row['high'] - row['low']) / 2:.3f}"
    assert by_title["probe all"].interval == by_title["R@1"].interval == ""


def test_files_of_older_versions_show_no_interval_that_could_not_be(numbers):
    row = numbers["student"]["few_labels"]["group"]["linear"]["5"]
    row |= {"mean": 0.209, "low": -0.493, "high": 0.911, "num": 2}
    by_title = {one.title: one.scores["student"] for one in scores.columns(numbers)}
    assert by_title["probe 5"].interval == ""
    row |= {"num": 3}
    five = {one.title: one.scores["student"] for one in scores.columns(numbers)}["probe 5"]
    assert five.interval == "0.000 to 0.911"


def test_best_needs_more_than_chance():
    """Of 100 items 40 and 70 are apart; 40 and 50 are not (the difference has a standard error of 0.07)."""
    assert best(column(student=0.4, l2=0.7)) == ["l2"]
    assert best(column(student=0.4, l2=0.5)) == []
    assert column(student=0.4, l2=0.5).top() == ["l2"]
    assert column(student=0.50004, l2=0.49996).top() == ["student", "l2"]
    assert best(column(student=0.4)) == []
    assert best(column(num=4, student=0.0, l2=1.0)) == []


def test_a_collapsed_method_is_ranked_nowhere(numbers):
    numbers["baselines"]["l2"]["fault"] = "all 786 test embeddings are the same"
    found = {one.title: one for one in scores.columns(numbers)}
    assert best(found["one-shot"]) != ["l2"]
    assert "l2" not in found["one-shot"].top()
    assert scores.faults(numbers) == {"l2": "all 786 test embeddings are the same"}


def test_ranks_that_find_everything_are_left_out(numbers):
    for table in scores.methods(numbers).values():
        table["num_test"], table["num_things"] = 25, 5
    titles = [one.title for one in scores.columns(numbers)]
    assert "R@1" in titles
    assert not {"R@5", "R@10"} & set(titles)
    assert scores.columns(numbers)[0].chance == pytest.approx(1 / 5)


def test_numbers_of_labels_rise_and_all_is_last(numbers):
    shuffled = {"all": {"mean": 0.5}, "10": {"mean": 0.4}, "2": {"mean": 0.3}}
    table = {"student": {"few_labels": {"group": {"linear": shuffled}}}}
    assert scores.num_labels(table, "group", "linear") == ["2", "10", "all"]


def test_main_labelling_is_the_coarsest_that_has_results(numbers):
    assert scores.main_labelling(numbers) == "group"
    assert scores.labellings(numbers) == ["group", "subgroup"]
    assert (
        scores.main_labelling({"student": {"few_labels": {"group": {}, "subgroup": {"majority": 1}}}})
        == "subgroup"
    )
    assert scores.main_labelling({}) == ""


def test_labels_a_class(numbers):
    assert scores.labels_a_class(numbers, "group") == pytest.approx(392 / 8)
    assert scores.labels_a_class({}, "group") is None
