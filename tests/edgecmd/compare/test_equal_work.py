"""Equal work, counted while it is done: optimiser steps, and rows that went through a student."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.optim.optimizer import register_optimizer_step_post_hook

from edgecmd.config.schema import RunConfig
from edgecmd.core.errors import ConfigError
from edgecmd.evaluation import supervised
from edgecmd.evaluation.finetune import finetune_rows
from edgecmd.experiments.compare.jobs import make_job, measure, run_job, train_by
from edgecmd.experiments.compare.measure import check_labels, recipe_of, supervised_all_table
from edgecmd.experiments.compare.methods import LABEL_FREE, TUNED, work_of
from edgecmd.experiments.compare.tuning import (
    RATES,
    Trial,
    best_trial,
    few_labels_of,
    has_temperature,
    retrieval_score,
    trials_of,
    validation_draw,
    validation_score,
)
from edgecmd.losses import loss_of
from edgecmd.training import distill
from edgecmd.training.task import Task
from tests.tiny_federation import TESTED, run_of, task_of


class Counted:
    """What was seen: optimiser steps, and the rows of each batch of pairs."""

    def __init__(self) -> None:
        self.steps = 0
        self.rows: list[int] = []


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> Iterator[Counted]:
    seen = Counted()
    handle = register_optimizer_step_post_hook(lambda *_: setattr(seen, "steps", seen.steps + 1))
    whole = distill.embed_batch

    def embed(student: torch.nn.Module, data: object, rows: torch.Tensor, **others: object) -> object:
        seen.rows.append(len(rows))
        return whole(student, data, rows, **others)  # type: ignore[arg-type]

    monkeypatch.setattr(distill, "embed_batch", embed)
    yield seen
    handle.remove()


@pytest.mark.parametrize("method", LABEL_FREE)
def test_every_label_free_method_makes_the_same_steps_on_as_many_pairs(
    tiny: RunConfig, counted: Counted, method: str
) -> None:
    """2 clients, 2 rounds of 2 steps, batch 8: eight client steps of 8 pairs."""
    train_by(replace(tiny, name="one"), method, TESTED)
    rounds, local = tiny.federation.num_rounds, tiny.federation.local_steps
    clients, batch = tiny.federation.num_clients, tiny.distill.batch_size
    assert counted.rows == [batch] * (rounds * local * clients)
    before = rounds * local if method == "presimclr" else 0
    assert counted.steps == rounds * local * clients + before
    work = work_of(run_of(tiny), method)
    assert (work.steps, work.pairs_a_step) == (rounds * local, clients * batch)
    assert work.steps * work.pairs_a_step == sum(counted.rows)


def test_central_training_makes_as_many_steps_on_as_many_pairs(tiny: RunConfig, counted: Counted) -> None:
    train_by(tiny, "central:l2", TESTED)
    work = work_of(run_of(tiny), "central:l2")
    assert counted.rows == [work.pairs_a_step] * work.steps
    assert work == work_of(run_of(tiny), "l2")
    assert counted.steps == work.steps


def test_training_with_all_labels_makes_as_many_steps_on_as_many_examples(
    tiny: RunConfig, counted: Counted, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []
    plain = supervised.augment

    def augment(kind: str, target: torch.Tensor, **others: object) -> torch.Tensor:
        seen.append(len(target))
        return plain(kind, target, **others)  # type: ignore[arg-type]

    monkeypatch.setattr(supervised, "augment", augment)
    table = supervised_all_table(run_of(tiny))
    work = work_of(run_of(tiny), "supervised-all")
    assert counted.steps == len(seen) == work.steps
    assert set(seen) == {work.pairs_a_step}
    whole = task_of(tiny).data
    row = table["few_labels"]["group"]["linear"]["all"]  # type: ignore[index]
    assert row["num_labels"] == len(whole.train) + len(whole.validation)
    assert work_of(run_of(tiny), "supervised-all") == work_of(run_of(tiny), "cmc")


def test_supervised_training_takes_the_rate_of_the_run(tiny: RunConfig) -> None:
    recipe = recipe_of(run_of(Trial(rate=0.03).applied(tiny)), "supervised")
    assert (recipe.num_steps, recipe.batch_size, recipe.learning_rate) == (4, 8, 0.03)
    assert work_of(run_of(tiny), "teacher").steps == 0


def test_the_trial_is_that_with_the_best_score_and_of_equal_ones_the_smallest() -> None:
    low, middle, high = (Trial(rate=rate) for rate in (0.003, 0.01, 0.03))
    assert best_trial({low: 0.2, middle: 0.4, high: 0.3}) == middle
    assert best_trial({high: 0.4, middle: 0.4}) == middle
    warm, warmer = (Trial(rate=0.01, temperature=one) for one in (0.1, 0.2))
    assert best_trial({warmer: 0.4, warm: 0.4}) == warm
    assert len(RATES) == 3


def test_every_method_makes_as_many_trials() -> None:
    """Three rates with each of two temperatures, or six rates between the same ends."""
    without = {name for name in TUNED if not has_temperature(name)}
    assert without == {"l2", "socket", "fd-cmkd", "supervised", "supervised-all"}
    for name in TUNED:
        trials = trials_of(name, RATES, (0.05, 0.2))
        assert len(set(trials)) == 6
        assert (min(trials).rate, max(trials).rate) == (0.003, 0.03)
        assert {one.temperature for one in trials} == ({0.0} if name in without else {0.05, 0.2})
        assert trials_of(name, RATES, ()) == [Trial(rate=rate) for rate in RATES]
        assert [one.rate for one in trials_of(name, RATES, (0.2,))] == list(RATES)
    # 0.003, and 10 ** (1 / 5) times as much each, to three digits.
    assert [one.rate for one in trials_of("l2", RATES, (0.05, 0.2))] == [
        *(0.003, 0.00475, 0.00754, 0.0119, 0.0189, 0.03)
    ]


@pytest.mark.parametrize("method", [name for name in LABEL_FREE if has_temperature(name)])
def test_a_trial_s_temperature_is_the_one_that_the_loss_has(tiny: RunConfig, method: str) -> None:
    name = "simclr" if method == "presimclr" else method
    tried = Trial(rate=0.003, temperature=0.37).applied(tiny)
    loss = loss_of(replace(tried.distill, loss=name))
    numbers = {one: value for one, value in vars(loss).items() if one.endswith("temperature")}
    assert numbers
    assert set(numbers.values()) == {0.37}
    assert (tried.distill.learning_rate, tried.distill.central_learning_rate) == (0.003, 0.003)
    assert Trial(rate=0.003).applied(tiny).distill.temperature == tiny.distill.temperature


def test_what_a_rate_is_chosen_by() -> None:
    assert [few_labels_of(name) for name in ("linear_10", "linear_all", "recall@1", "finetune_5", "")] == [
        *(10, 0, 0, 0, 0)
    ]
    assert retrieval_score({"retrieval_validation": {"recall@1": 0.25}}, "recall@1") == 0.25
    with pytest.raises(ConfigError, match=r"Add --no-tune"):
        retrieval_score({}, "recall@1")


def test_validation_draws_share_no_row_and_leave_half_of_each_class(tiny: RunConfig) -> None:
    whole = task_of(tiny).data
    values = whole.validation.labelled.labels["group"].values
    for draw in range(3):
        drawn, rest = validation_draw(whole, num_labels=100, draw=draw, seed=0)
        assert not set(drawn) & set(rest)
        rarest = np.unique(values, return_counts=True)[1].min()
        assert np.unique(values[drawn], return_counts=True)[1].max() == max(1, rarest // 2)
    again = validation_draw(whole, num_labels=100, draw=2, seed=0)
    assert np.array_equal(again[0], drawn)


def test_the_validation_score_of_the_classes_themselves_is_one(tiny: RunConfig) -> None:
    values = task_of(tiny).data.validation.labelled.labels["group"].values
    assert (
        validation_score(np.eye(values.max() + 1)[values], task_of(tiny).data, num_labels=2, seed=tiny.seed)
        == 1.0
    )


def test_fine_tuning_is_measured_for_the_counts_that_are_asked_for(
    tiny: RunConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edgecmd.evaluation.finetune.NUM_STEPS", 3)
    table = finetune_rows(run_of(tiny).new_student(), run_of(tiny), (2,), num_draws=1, labelling="group")
    assert list(table) == ["2"]
    assert len(table["2"]["values"]) == 1  # type: ignore[arg-type]


def test_a_job_is_kept_and_refuses_other_settings(tiny: RunConfig, tmp_path: Path) -> None:
    job = make_job(tiny, "teacher-source", seed=1, folder=tmp_path)
    first = run_job(job, TESTED)
    assert job.path == tmp_path / "seed-1" / "teacher-source.json"
    before = job.path.stat().st_mtime_ns
    assert run_job(job, TESTED)["headline"] == first["headline"]
    assert job.path.stat().st_mtime_ns == before
    other = replace(job, num_fits=job.num_fits + 1)
    with pytest.raises(ConfigError, match="made with other settings"):
        run_job(other, TESTED)
    for trial, name in (
        (Trial(rate=0.03), "cmc-lr0.03.json"),
        (Trial(rate=0.03, temperature=0.05), "cmc-lr0.03-t0.05.json"),
    ):
        assert make_job(tiny, "cmc", seed=0, folder=tmp_path, trial=trial).path.name == name


def test_the_ceiling_is_the_probe_on_the_source_pictures(tiny: RunConfig, tmp_path: Path) -> None:
    table, score = measure(make_job(tiny, "teacher-source", seed=0, folder=tmp_path), TESTED)
    assert score is None
    assert set(table["few_labels"]["group"]) == {"knn", "linear"}  # type: ignore[index]
    assert "retrieval" not in table


def test_supervised_methods_need_labels(tiny: RunConfig) -> None:
    check_labels(task_of(tiny), ["supervised"])
    whole = task_of(tiny).data
    bare = replace(whole, test=replace(whole.test, labelled=replace(whole.test.labelled, labels={})))
    task = Task(bare, teacher=lambda: task_of(tiny).teacher)
    check_labels(task, ["cmc"])
    with pytest.raises(ConfigError, match="has no labels"):
        check_labels(task, ["cmc", "supervised-all"])
