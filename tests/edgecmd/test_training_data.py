"""Teacher features of training pairs in a simulation: computed once, whichever client holds a pair."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from edgecmd.config.assemble import Assembly
from edgecmd.config.schema import RunConfig
from edgecmd.training import task as tasks
from edgecmd.training.distill import LocalData
from edgecmd.training.task import Task


def dense(config: RunConfig) -> RunConfig:
    return replace(
        config,
        student=replace(config.student, architecture="seg-50k"),
        teacher=replace(config.teacher, map_dim=8),
    )


def alone(task: Task, rows: np.ndarray) -> LocalData:
    """Of the pairs at ``rows`` by themselves, as a device computes it."""
    pairs, ids = task.training_pairs(rows)
    return LocalData(target=task.target_input(pairs.target), teacher=task.pair_features(pairs, ids))


@pytest.mark.parametrize("change", [lambda config: config, dense], ids=["whole", "places"])
def test_a_part_is_what_its_pairs_give_by_themselves(tiny: RunConfig, change) -> None:
    task = Assembly().task(change(tiny))
    rows = np.array([7, 2, 11, 30])
    found, expected = task.local_data(rows), alone(task, rows)
    assert torch.equal(found.target, expected.target)
    assert found.modality == expected.modality
    # Those of places are kept as float16.
    assert torch.allclose(found.teacher, expected.teacher, rtol=1e-3, atol=1e-3)
    assert not torch.allclose(found.teacher[0], found.teacher[1], rtol=1e-3, atol=1e-3)


def test_features_of_a_pair_do_not_depend_on_the_other_rows_that_are_asked(tiny: RunConfig) -> None:
    task = Assembly().task(tiny)
    every = np.arange(len(task.data.train))
    whole = task.local_data(every).teacher
    for rows in (every[::-1], every[5:6], np.array([9, 3, 9])):
        found = task.local_data(rows.copy())
        assert torch.equal(found.teacher, whole[torch.from_numpy(rows.copy())])
    assert task.local_data(every[:0]).teacher.shape == (0, 16)


def test_clients_of_other_partitions_and_seeds_share_one_look(
    tiny: RunConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked: list[int] = []
    compute = tasks.cached_features

    def counted(teacher, images, **options):
        looked.append(len(images))
        return compute(teacher, images, **options)

    monkeypatch.setattr(tasks, "cached_features", counted)
    assembly = Assembly()
    num = len(assembly.experiment(tiny.data).train)
    whole = assembly.task(tiny).local_data(np.arange(num)).teacher
    changed = replace(
        tiny,
        seed=3,
        federation=replace(tiny.federation, num_clients=3),
        distill=replace(tiny.distill, loss="l2", anchors="random"),
    )
    for config in (tiny, changed):
        run = assembly.run(config)
        for client in range(config.federation.num_clients):
            held = run.holding(client).data
            assert torch.equal(held.teacher, whole[torch.from_numpy(run.part(client))])
    assert [one for one in looked if one == num] == [num]


def test_runs_share_a_task_where_its_features_are_the_same(tiny: RunConfig) -> None:
    assembly = Assembly()
    kept = assembly.task(tiny)
    assert assembly.task(replace(tiny, seed=9, name="other")) is kept
    for other in (
        replace(tiny, data=replace(tiny.data, target_offset=0.5)),
        replace(tiny, teacher=replace(tiny.teacher, path="", name="icons")),
        replace(tiny, student=replace(tiny.student, architecture="seg-50k")),
    ):
        assert assembly.task(other) is not kept


def test_ready_features_are_found_by_the_pairs_ids(tiny: RunConfig, tmp_path: Path) -> None:
    """The file's rows are in the order of all ids; a row here says which id it is of."""
    whole = Assembly().experiment(tiny.data)
    every = sorted((*whole.train_ids, *whole.validation.ids, *whole.test.ids))
    pair_path, public_path = tmp_path / "pairs.npy", tmp_path / "public.npy"
    np.save(pair_path, np.arange(len(every), dtype=np.float32)[:, None] + np.array([[0.0, 0.5]]))
    np.save(public_path, np.random.default_rng(0).normal(size=(len(whole.public), 2)))
    ready = replace(tiny.teacher, path="", pair_features=str(pair_path), public_features=str(public_path))
    config = replace(tiny, teacher=ready)
    rows = np.array([4, 0, 17])
    found = Assembly().task(config).local_data(rows).teacher
    assert found[:, 0].tolist() == [every.index(whole.train_ids[row]) for row in rows]
