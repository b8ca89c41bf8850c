"""Which numbers are shown and which one is best."""

import pytest

from edgecmd.report import scores
from edgecmd.report.scores import Column, Score


def column(**values: float) -> Column:
    return Column(title="R@1", scores={name: Score(value=value) for name, value in values.items()})


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
    assert by_title["probe 5"].half == pytest.approx((row["high"] - row["low"]) / 2)
    assert by_title["probe all"].half is None
    assert by_title["R@1"].half is None


def test_best_at_the_precision_that_is_shown():
    assert column(student=0.4, l2=0.5).winners() == ["l2"]
    assert column(student=0.50004, l2=0.49996).winners() == ["student", "l2"]
    assert column(student=0.4).winners() == []


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
