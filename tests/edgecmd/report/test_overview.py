"""The sentence on top and the cards of the steps."""

from dataclasses import replace

import pytest

from edgecmd.report.overview import steps, summary
from edgecmd.report.read import RunFiles, read_run


@pytest.fixture
def run(reported) -> RunFiles:
    return read_run(reported)


def judged(run: RunFiles, numbers: dict, **recalls: float) -> str:
    """Summary when the student and l2 have these R@1."""
    for name, value in recalls.items():
        table = numbers["student"] if name == "student" else numbers["baselines"][name]
        table["retrieval"]["recall@1"] = value
    return summary(replace(run, evaluation=numbers))


def test_the_best_baseline_stands_beside_the_student(run, numbers):
    assert judged(run, numbers).endswith("(chance 0.001); the highest baseline, l2, has 0.287.")


def test_a_better_baseline_is_named_as_such(run, numbers):
    assert judged(run, numbers, l2=0.5).endswith("; the baseline l2 is better, with 0.500.")


def test_a_difference_of_little_is_no_rank(run, numbers):
    """Of 786 items 0.43 and 0.41 are within chance of each other; of 4 items everything is."""
    told = "; the baseline l2 has more, 0.430, a difference that chance may explain."
    assert judged(run, numbers, student=0.41, l2=0.43).endswith(told)
    for table in (numbers["student"], *numbers["baselines"].values()):
        table["num_test"] = 4
    told = "; the highest baseline, l2, has 0.250, a difference that chance may explain."
    assert judged(run, numbers, student=1.0, l2=0.25).endswith(told)


def test_a_collapsed_student_has_no_result(run, numbers):
    numbers["student"]["fault"] = "all 786 test embeddings are the same"
    assert judged(run, numbers).startswith("The student has collapsed: all 786 test embeddings are the same")


def test_a_draw_at_the_precision_that_is_shown(run, numbers):
    assert judged(run, numbers, student=0.50004, l2=0.49996).endswith("; the baseline l2 has the same.")


def test_what_devices_pairs_show_is_not_known(run, numbers):
    plain = summary(replace(run, evaluation=numbers))
    assert "all of concepts that no training pair shows" in plain
    told = {"runtime": "flower", "nodes": 3, "nodes_with_own_pairs": 2}
    sentence = summary(replace(run, evaluation=numbers, federation=told))
    assert "test targets of the server's own set" in sentence
    assert "no training pair" not in sentence
    none = {**told, "nodes_with_own_pairs": 0}
    assert summary(replace(run, evaluation=numbers, federation=none)) == plain


def test_one_round(run):
    sentence = summary(replace(run, evaluation={}, rounds=run.rounds[:1]))
    assert sentence == "1 round is finished, the last with loss 3.948; nothing is evaluated yet."


@pytest.mark.parametrize(
    ("teacher", "text"),
    [
        ({}, "built in"),
        ({"path": "mine.safetensors"}, "own file"),
        ({"pair_features": "a.npy", "public_features": "b.npy"}, "ready features"),
    ],
)
def test_kind_of_teacher(run, teacher, text):
    facts = steps(replace(run, settings={"teacher": teacher}))["Teacher"]
    assert facts[0] == (text, "frozen teacher of the source images")


def test_an_export_report_of_another_kind_does_no_harm(run):
    assert steps(replace(run, export={"format": 9}))["Export"] == [("done", "bundle written")]
