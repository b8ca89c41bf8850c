"""What an assessment says of a student that tells nothing apart, and which ranks it is asked for."""

from dataclasses import replace

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import confusion_matrix

from edgecmd.cli.compare import show_summary
from edgecmd.cli.run import show_results
from edgecmd.config.schema import RunConfig
from edgecmd.evaluation import evaluate
from edgecmd.evaluation.evaluate import (
    asked_ranks,
    assess,
    best_by_column,
    class_results,
    embedder,
    fault_of,
    finite,
    measured,
)
from edgecmd.evaluation.metrics import Probe, held_out_probe, unit_rows
from edgecmd.experiments.compare.summary import best_by_metric, summarise
from tests.tiny_federation import run_of


def unit(num: int = 30, *, seed: int = 0) -> np.ndarray:
    return unit_rows(np.random.default_rng(seed).normal(size=(num, 8)).astype(np.float32))


class TestFaults:
    def test_a_student_that_sees_one_thing_alone_has_collapsed(self):
        assert fault_of(np.repeat(unit(1), 30, axis=0)) == "all 30 test embeddings are the same"
        rounding = np.repeat(unit(1), 30, axis=0) + np.float32(1e-7) * unit(30, seed=1)
        assert fault_of(rounding) == "all 30 test embeddings are the same"

    def test_first_weights_are_near_each_other_and_no_collapse(self):
        assert fault_of(unit_rows(np.ones((30, 8), np.float32) + np.float32(0.01) * unit())) == ""
        assert fault_of(unit(1)) == ""

    def test_what_is_no_number_is_said_and_finds_nothing(self):
        broken = unit()
        broken[3], broken[5, 2] = np.nan, np.inf
        assert fault_of(broken) == "2 of 30 test embeddings are not finite"
        assert np.array_equal(np.flatnonzero(~finite(broken).any(axis=1)), [3, 5])
        whole = unit()
        assert finite(whole) is whole


def table(value: float, *, num: int = 100, **extra: object) -> dict[str, object]:
    few = {"linear": {"5": {"values": [value] * 3, "mean": value}}, "num_test": num}
    return {
        "retrieval": {"recall@1": value},
        "num_test": num,
        "few_labels": {"group": few},
        "clusters": {"group": {"nmi": value}},
        **extra,
    }


class TestBest:
    def test_retrieval_is_told_apart_over_items_and_nmi_never(self):
        assert best_by_column({"student": table(0.9), "l2": table(0.2)})["recall@1"] == "student"
        assert "nmi" not in best_by_column({"student": table(0.9), "l2": table(0.2)})
        assert "recall@1" not in best_by_column({"student": table(0.25), "l2": table(0.2)})

    def test_four_pairs_star_nothing(self):
        assert best_by_column({"student": table(1.0, num=4), "l2": table(0.0, num=4)}) == {}

    def test_a_collapsed_row_is_never_best_and_beats_nobody(self):
        rows = {"student": table(0.9, fault="all 100 test embeddings are the same"), "l2": table(0.5)}
        assert best_by_column(rows) == {}
        assert best_by_column(rows | {"untrained": table(0.1)})["recall@1"] == "l2"

    def test_pixels_and_nmi_rest_on_no_items(self):
        found = measured(table(0.5))
        assert not found["nmi"].is_share
        assert found["recall@1"].num_items == found["linear_5"].num_items == 100

    @pytest.mark.parametrize("things", [2, 5, 6, 100])
    def test_ranks_that_find_everything_are_not_told(self, things):
        told = asked_ranks({f"recall@{at}": 0.5 for at in (1, 5, 10)}, things=things)
        assert list(told) == [f"recall@{at}" for at in (1, 5, 10) if at < things]


class TestClasses:
    def test_they_are_those_of_the_probe_with_all_labels(self, tiny: RunConfig) -> None:
        """scikit-learn's confusion matrix of its own regression, and the accuracy of ``evaluation.json``."""
        run, student = run_of(tiny), run_of(tiny).new_student()
        embed = embedder(student, run.task)
        found = class_results(embed, run)
        parts = [run.task.data.validation, run.task.data.test]
        (pool, told), (test, asked) = (
            (embed(p.pairs.target), p.labelled.labels["group"].values) for p in parts
        )
        fitted = LogisticRegression(C=10.0, max_iter=2000).fit(pool[told >= 0], told[told >= 0])
        rows = np.isin(asked, fitted.classes_)
        theirs = confusion_matrix(asked[rows], fitted.predict(test[rows]), labels=fitted.classes_)
        ours = np.zeros_like(theirs)
        for true, taken, num in found["counts"]:
            ours[true, taken] = num
        assert np.array_equal(ours, theirs)
        names = run.task.data.test.labelled.labels["group"].names
        assert found["labelling"] == "group"
        assert found["classes"] == [names[one] for one in fitted.classes_]
        assert found["labels"] == [int((told == one).sum()) for one in fitted.classes_]
        told_all = assess(embed, run)["few_labels"]["group"]["linear"]["all"]["mean"]
        assert np.trace(ours) / ours.sum() == told_all

    def test_without_two_classes_there_are_none(
        self, tiny: RunConfig, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def one_class(*given: object, **named: object) -> Probe:
            probe = held_out_probe(*given, **named)  # type: ignore[arg-type]
            return replace(probe, pool_labels=0 * probe.pool_labels, test_labels=0 * probe.test_labels)

        monkeypatch.setattr(evaluate, "held_out_probe", one_class)
        run = run_of(tiny)
        found = class_results(embedder(run.new_student(), run.task), run)
        assert found == {"labelling": "", "classes": [], "labels": [], "counts": []}


class TestTables:
    FACTS = {"data": "mine", "kind": "user", "unseen": "concepts"}

    def test_a_tiny_test_is_named_and_nothing_is_starred(self, capsys):
        rows = {"student": table(1.0, num=4, **self.FACTS), "l2": table(0.0, num=4, **self.FACTS)}
        show_results(rows)
        heading, *lines = capsys.readouterr().out.splitlines()
        assert heading == "Unseen concepts, user pairs; 4 test pairs: too few to rank methods"
        assert not any("*" in line for line in lines[:3])

    def test_a_star_where_more_than_chance_is_behind_it(self, capsys):
        show_results({"student": table(0.9, **self.FACTS), "l2": table(0.2, **self.FACTS)})
        printed = capsys.readouterr().out
        assert "too few" not in printed
        assert "0.900*" in printed
        assert "0.200*" not in printed

    @pytest.mark.parametrize("others", [{}, {"l2": 0.2}])
    def test_the_star_is_explained_where_methods_are_compared(self, others, capsys):
        show_results({name: table(score, **self.FACTS) for name, score in {"student": 0.9, **others}.items()})
        assert ("* better than every other method" in capsys.readouterr().out) is bool(others)

    def test_a_collapse_is_said(self, capsys):
        fault = {"fault": "all 100 test embeddings are the same"}
        show_results({"student": table(0.9, **self.FACTS, **fault), "l2": table(0.2, **self.FACTS)})
        printed = capsys.readouterr().out
        assert "student has collapsed: all 100 test embeddings are the same" in printed
        assert "0.900*" not in printed

    def test_what_is_asked_for_is_said_where_several_things_are_right(self, capsys):
        show_results({"student": table(0.9, **self.FACTS)})
        assert "R@k: retrieval of the example's own source, not" in capsys.readouterr().out
        several = {"num_ranked": 1600, "retrieval_chance": {"recall@1": 0.0012, "recall@10": 0.01149}}
        show_results({"student": table(0.9, **self.FACTS, **several)})
        said = "any right one of 1600 sources is among the nearest k (by chance 0.0012, 0.0115)"
        assert said in capsys.readouterr().out

    def test_a_comparison_of_two_seeds_has_no_interval(self, capsys):
        rows = {"cmc": [{"recall@1": 0.2}, {"recall@1": 0.4}], "l2": [{"recall@1": 0.1}, {"recall@1": 0.15}]}
        facts = {"num_seeds": 2, "num_test": 100, "num_labelled": 0}
        show_summary(summarise(rows), facts, best=best_by_metric(rows))
        heading, _, first, second, *_ = capsys.readouterr().out.splitlines()
        assert heading == "2 seeds, mean and 95% interval; 2 seeds: too few for intervals"
        assert (first.split(), second.split()) == (["cmc", "0.300"], ["l2", "0.125"])
