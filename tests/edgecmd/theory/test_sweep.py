"""A sweep on the tiny shapes: points, what a gap does, and the summary; clients that rotate apart."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from edgecmd.config.schema import RunConfig
from edgecmd.core.errors import ConfigError, DataError
from edgecmd.evaluation.metrics import unit_rows
from edgecmd.experiments.theory import sweep
from edgecmd.experiments.theory.alignment import (
    METHODS,
    alignment,
    procrustes_residual,
    rotation,
    with_method,
)
from edgecmd.experiments.theory.summary import summarise
from edgecmd.experiments.theory.sweep import Point, SweepPlan, cheap, measure_point, plan_sweep, sweep_points
from edgecmd.report.studies import theory_png
from tests.tiny_federation import run_of, task_of

PLAN = SweepPlan(
    num_steps=4, batch_size=8, num_pairs=32, num_labels=(1, 10, 0), num_draws=2, relation_batch=4
)


def test_every_point_stands_once_and_all_start_without_a_gap() -> None:
    points = sweep_points(PLAN, gaps=("blur", "mismatch"), num_levels=5, seeds=range(2))
    assert len(points) == len(set(points)) == 2 * (1 + 2 * 4 + 2)
    assert {point.num_pairs for point in points} == {32, 16, 8}
    assert len({point.name for point in points}) == len(points)


def test_cheap_settings_keep_the_source_and_the_full_ones_are_those_of_central_training(
    tiny: RunConfig,
) -> None:
    plan = plan_sweep(run_of(tiny), fast=False)
    assert (plan.num_steps, plan.batch_size) == (4, 32)
    small = cheap(tiny, task_of(tiny).data)
    assert (small.student.architecture, small.data) == ("ws-50k", tiny.data)
    assert plan_sweep(run_of(tiny), fast=True).num_pairs == len(task_of(tiny).data.train)


def test_a_point_follows_from_its_place_and_holds_what_it_says(tiny: RunConfig) -> None:
    point = Point(gap="erase", level=0.5, seed=1, num_pairs=32)
    table = measure_point(run_of(replace(tiny, seed=point.seed)), PLAN, point)
    assert table == measure_point(run_of(replace(tiny, seed=point.seed)), PLAN, point)
    assert set(table["error"]) == {"1", "10", "all"}
    assert all(0 <= error <= 1 for error in table["error"].values())
    assert list(table["distances"]) == ["batch", "anchors"]
    for form, one in table["distances"].items():
        assert one["held_out"]["form"] == form
        assert 0 <= one["held_out"]["variation"] <= one["held_out"]["bound"] + 1e-6
    assert table["num_labels"]["1"] == 2


def test_a_student_that_rotates_freely_has_relations_within_the_batch_alone(tiny: RunConfig) -> None:
    free = replace(tiny, distill=replace(tiny.distill, loss="cmd"))
    table = measure_point(run_of(free), PLAN, Point(gap="none", level=0.0, seed=0, num_pairs=32))
    assert list(table["distances"]) == ["batch"]


def test_the_time_of_a_point_is_that_of_its_steps(tiny: RunConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    """A clock that moves by 2 s between its two readings: four steps of half a second; ten a point."""
    clock = iter([100.0, 102.0])
    monkeypatch.setattr(sweep.time, "monotonic", lambda: next(clock))
    assert sweep.seconds_a_point(run_of(tiny), replace(PLAN, num_steps=10)) == pytest.approx(5.0)


def test_a_world_without_targets_has_no_distance_left_to_learn(tiny: RunConfig) -> None:
    """Erased targets are all alike, so relations are uniform and no class can be told."""
    blank = measure_point(run_of(tiny), PLAN, Point(gap="erase", level=1.0, seed=0, num_pairs=32))
    labels = task_of(tiny).data.test.labelled.labels["group"].values
    assert blank["error"]["all"] in (pytest.approx(labels.mean()), pytest.approx(1 - labels.mean()))


def test_mismatching_changes_the_pairs_and_not_the_targets(tiny: RunConfig) -> None:
    pairs = task_of(tiny).data.test.pairs
    features = task_of(tiny).pair_features(pairs, task_of(tiny).data.test.ids)
    points = (Point(gap="mismatch", level=one, seed=0, num_pairs=32) for one in (0.0, 1.0))
    own, dealt = (sweep._world(task_of(tiny), pairs, features, point=point, part=1) for point in points)
    assert torch.equal(own.target, dealt.target)
    assert not torch.equal(own.teacher, dealt.teacher)
    assert torch.equal(own.teacher.sort(dim=0).values, dealt.teacher.sort(dim=0).values)


def test_data_without_labels_are_refused(tiny: RunConfig) -> None:
    held = task_of(tiny).data.test
    with pytest.raises(DataError, match="edgecmd distance"):
        sweep.labelling_of(replace(held, labelled=replace(held.labelled, labels={})))


def made_up(seed: int, gap: str, level: float, num_pairs: int = 32) -> dict[str, object]:
    """A point of a world in which the error is the distance, and both fall with the pairs."""
    far = 0.3 + 0.4 * level + 2.0 / num_pairs
    return {
        "point": {"gap": gap, "level": level, "seed": seed, "num_pairs": num_pairs},
        "distances": {
            "batch": {"held_out": {"variation": 1.0 - far, "bound": 1.0}, "training": {"variation": 0.0}},
            "anchors": {"held_out": {"variation": far, "bound": 1.0}, "training": {"variation": far - 0.1}},
        },
        "error": {str(k): far + 0.5 * k**-0.5 for k in (1, 2, 5, 10)},
        "num_labels": {str(k): 8 * k for k in (1, 2, 5, 10)},
        "head_norm": 3.0,
    }


def test_the_summary_of_a_world_that_obeys() -> None:
    points = [made_up(s, "none", 0.0) for s in (0, 1)]
    points += [made_up(s, "none", 0.0, num) for s in (0, 1) for num in (16, 8, 4)]
    points += [
        made_up(s, gap, level) for s in (0, 1) for gap in ("blur", "noise") for level in (0.3, 0.6, 1.0)
    ]
    table = summarise(points, PLAN, seed=0)
    assert len(table["by_gap"]) == 8
    assert table["form"] == "anchors"
    assert table["correlation"]["all"]["value"] == pytest.approx(1.0)
    assert table["correlation_batch"]["all"]["value"] == pytest.approx(-1.0)
    assert set(table["correlation"]) == {"all", "blur", "noise"}
    assert [row["size"] for row in table["by_pairs"]] == [4, 8, 16, 32]
    assert table["pairs_fit"]["exponent"]["value"] == pytest.approx(1.0, abs=0.03)
    assert table["labels_fit"]["exponent"]["value"] == pytest.approx(0.5, abs=0.03)
    by_name = {term["name"]: term["value"] for term in table["terms"]}
    assert by_name["d_TV(P_B hat, P_A hat), held-out minus training"] == pytest.approx(0.1)
    assert by_name["slope of error by distance"] == pytest.approx(1.0)
    assert theory_png(table) == theory_png(table)


def test_a_world_in_which_nothing_changes_has_no_correlation_and_no_slope() -> None:
    points = [made_up(0, "none", 0.0, num) for num in (32, 16, 8)]
    one = {"held_out": {"variation": 0.3625, "bound": 1.0}, "training": {"variation": 0.2}}
    points[0]["distances"] = {"batch": one, "anchors": one}
    points += [
        made_up(0, "blur", level) | {"distances": {"batch": one, "anchors": one}} for level in (0.5, 1.0)
    ]
    table = summarise(points, PLAN, seed=0)
    assert table["correlation"] == {"all": None, "blur": None}
    assert table["pairs_fit"] is None
    assert [term["value"] for term in table["terms"] if term["name"].startswith("slope")] == [None]
    assert theory_png(table)


def test_procrustes_finds_a_rotation_and_nothing_else() -> None:
    noise = np.random.default_rng(0)
    one = unit_rows(noise.normal(size=(40, 6)))
    turn = np.linalg.qr(noise.normal(size=(6, 6)))[0]
    assert procrustes_residual(one, one @ turn) == pytest.approx(0.0, abs=1e-9)
    other = unit_rows(noise.normal(size=(40, 6)))
    from scipy.linalg import orthogonal_procrustes

    best = orthogonal_procrustes(one, other)[0]
    direct = float(((one @ best - other) ** 2).sum() / 40)
    assert procrustes_residual(one, other) == pytest.approx(direct)
    found = alignment([one, one @ turn])
    assert found.rotated == pytest.approx(1.0)
    assert found.apart == pytest.approx(2 - 2 * found.cosine)
    same = alignment([one, one, one])
    assert (same.cosine, same.rotated) == (pytest.approx(1.0), 0.0)


def test_clients_are_followed_through_the_rounds(tiny: RunConfig) -> None:
    rows = rotation(run_of(with_method(tiny, "cmd")), num_rounds=2)
    assert [row["round"] for row in rows] == [1.0, 2.0]
    assert rows == rotation(run_of(with_method(tiny, "cmd")), num_rounds=2)
    for row in rows:
        assert -1 <= row["cosine"] <= 1
        assert 0 <= row["residual"] <= row["apart"] + 1e-9
        assert {"error_average", "error_clients", "recall@1"} <= row.keys()
    still = replace(tiny, distill=replace(tiny.distill, learning_rate=0.0))
    assert rotation(run_of(with_method(still, "cmc")), num_rounds=1)[0]["cosine"] == pytest.approx(
        1.0, abs=1e-5
    )
    assert METHODS["cmd, FedProx"]["proximal_mu"] > 0
    assert METHODS["cmd, shared projector"]["freeze_projector"]
    with pytest.raises(ConfigError, match="Did you mean 'cmc'"):
        rotation(run_of(with_method(tiny, "cmcc")), num_rounds=1)
    alone = replace(tiny, federation=replace(tiny.federation, num_clients=1))
    with pytest.raises(ConfigError, match="num_clients=1"):
        rotation(run_of(with_method(alone, "cmd")), num_rounds=1)
