"""Teacher features of pairs in a store lie beside them by row, and a student is the same, to the byte."""

import errno
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import edgecmd as ec
from edgecmd.config.assemble import Assembly
from edgecmd.config.reader import load_config
from edgecmd.data.pairs import PairedData
from edgecmd.data.stored import through_store
from edgecmd.data.stored.array_files import FilledFile, LazyRows, whole_file
from edgecmd.data.stored.store import stores_folder
from edgecmd.experiments.resources import needs, needs_rows
from edgecmd.models.teacher import feature_cache
from edgecmd.models.teacher.feature_cache import cached_features
from edgecmd.models.teacher.teachers import Teacher
from edgecmd.recipes.central import train_central
from edgecmd.training.distill import LazyTensor
from server.simulate import simulate
from tests.edgecmd.data.test_store_of_pairs import write_pairs

NUMBERS = np.random.default_rng(1).integers(0, 256, (20, 32, 32, 3), dtype=np.uint8)


class Counted(nn.Module):
    """A teacher whose feature is the mean of each colour, and that counts what it was shown."""

    def __init__(self) -> None:
        super().__init__()
        self.shown = 0

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        self.shown += len(image)
        return image.mean(dim=(2, 3))


@pytest.fixture
def teacher() -> Teacher:
    made = Teacher.of(Counted())
    made.network.module.shown = 0
    return made


@pytest.fixture
def stored(tmp_path: Path) -> LazyRows:
    np.save(tmp_path / "source.npy", NUMBERS)
    return whole_file(tmp_path / "source.npy")


@pytest.mark.parametrize("is_kept", [False, True])
def test_an_image_that_many_pairs_share_is_shown_once(
    is_kept: bool, teacher: Teacher, tmp_path: Path
) -> None:
    plain = teacher.embed(NUMBERS)
    teacher.network.module.shown = 0
    rows = np.random.default_rng(0).integers(0, 20, 500)
    found = cached_features(
        teacher, LazyRows((NUMBERS,), rows), cache_dir=tmp_path / "cache" if is_kept else None
    )
    assert isinstance(found, LazyRows)
    assert (np.asarray(found) == plain[rows]).all()
    assert teacher.network.module.shown == 20
    # Another part of the same images is answered from the cache.
    cached_features(teacher, LazyRows((NUMBERS,), rows[:7]), cache_dir=tmp_path / "cache")
    assert teacher.network.module.shown == (20 if is_kept else 40)


def test_each_image_is_shown_once_whatever_part_is_asked_for(
    stored: LazyRows, teacher: Teacher, tmp_path: Path
) -> None:
    plain = teacher.embed(NUMBERS)
    teacher.network.module.shown = 0
    for rows, shown in (([3, 1, 19], 3), ([1, 2, 3, 2], 4), ([19, 1], 4), (list(range(20)), 20)):
        found = cached_features(teacher, stored.take(np.array(rows)), cache_dir=tmp_path)
        assert isinstance(found, LazyRows)
        np.testing.assert_allclose(np.asarray(found), plain[rows], rtol=1e-6)
        assert teacher.network.module.shown == shown
    # Another process reads what this one wrote.
    assert len(list(tmp_path.glob("features-*-source.npy"))) == 1
    assert np.load(next(tmp_path.glob("features-*-source.npy"))).shape == (20, 3)


def test_features_that_were_interrupted_go_on(
    stored: LazyRows, teacher: Teacher, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feature_cache, "CHUNK", 4)
    real, calls = feature_cache._embedded, []

    def embedded(*arguments: object) -> np.ndarray:
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return real(*arguments)

    monkeypatch.setattr(feature_cache, "_embedded", embedded)
    with pytest.raises(KeyboardInterrupt):
        cached_features(teacher, stored, cache_dir=tmp_path)
    assert teacher.network.module.shown == 8
    found = cached_features(teacher, stored, cache_dir=tmp_path)
    assert teacher.network.module.shown == 20
    np.testing.assert_array_equal(
        np.asarray(found), np.concatenate([teacher.embed(p) for p in np.split(NUMBERS, 5)])
    )


@pytest.mark.parametrize("damage", ["cut", "marks", "gone", "other"])
def test_a_damaged_table_is_made_anew(damage: str, tmp_path: Path) -> None:
    path = tmp_path / "table.npy"
    FilledFile(path, shape=(4, 2), dtype=np.dtype(np.float32)).fill(np.array([1]), np.ones((1, 2)))
    assert FilledFile(path, shape=(4, 2), dtype=np.dtype(np.float32)).filled.tolist() == [
        False,
        True,
        False,
        False,
    ]
    if damage == "cut":
        path.write_bytes(path.read_bytes()[:-1])
    elif damage == "marks":
        path.with_suffix(".rows").write_bytes(b"\1")
    elif damage == "gone":
        path.with_suffix(".rows").unlink()
    shape = (4, 3) if damage == "other" else (4, 2)
    table = FilledFile(path, shape=shape, dtype=np.dtype(np.float32))
    assert not table.filled.any()
    assert np.load(path).shape == shape


def test_a_full_disk_costs_the_cache_and_not_the_run(
    stored: LazyRows, teacher: Teacher, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "no space")

    monkeypatch.setattr(FilledFile, "fill", full)
    found = cached_features(teacher, stored, cache_dir=tmp_path)
    np.testing.assert_array_equal(np.asarray(found), teacher.embed(NUMBERS))


def test_a_student_is_the_same_from_the_disk_and_from_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_pairs(tmp_path / "pairs", num=40, side=32)
    weights, centrals = [], []
    for store in ("never", "always"):
        monkeypatch.setenv("EDGECMD_CACHE", str(tmp_path / f"cache-{store}"))
        run = Assembly().run(
            load_config(
                None,
                [
                    *("data.name=folder", f"data.path={folder}", "data.image_size=32", f"data.store={store}"),
                    *(f"out={tmp_path / store}", "device=cpu", "data.strict=false", "distill.batch_size=8"),
                    *("student.architecture=ws-50k", "distill.num_anchors=16", "federation.num_clients=3"),
                    *("federation.num_rounds=2", "federation.local_steps=2", "evaluate.every_rounds=0"),
                ],
            )
        )
        is_lazy = isinstance(run.holding(0).data.target, LazyTensor)
        assert is_lazy == isinstance(run.holding(0).data.teacher, LazyTensor) == (store == "always")
        simulate(run)
        weights.append((run.folder / "student.safetensors").read_bytes())
        centrals.append([one.detach().numpy().tobytes() for one in train_central(run).parameters()])
    assert weights[0] == weights[1]
    assert centrals[0] == centrals[1]
    assert len([one for one in stores_folder().iterdir() if one.is_dir()]) == 1


def test_the_library_reads_many_pairs_from_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGECMD_CACHE", str(tmp_path / "cache"))
    folder = write_pairs(tmp_path / "pairs", num=30, side=16)
    public = ec.Images(images=NUMBERS[:, :16, :16])
    found = []
    for most in (2**26, 0):
        monkeypatch.setattr(through_store, "MOST_IN_MEMORY", most)
        pairs = ec.Pairs.from_folder(folder, size=16)
        assert isinstance(pairs.source, LazyRows) == (not most)
        task = ec.Task(pairs=pairs, teacher=Counted(), public=public)
        clients = ec.partition(pairs, num_clients=2)
        made = [
            ec.distill(task, "ws-50k", steps=3, batch_size=8, num_anchors=8).student,
            ec.federate(task, "ws-50k", clients=clients, rounds=2, local_steps=2, num_anchors=8).student,
        ]
        found.append([[one.detach().numpy().tobytes() for one in student.parameters()] for student in made])
        found[-1].append(task.fingerprint())
    assert found[0] == found[1]


def test_a_plan_says_what_is_needed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGECMD_CACHE", str(tmp_path / "cache"))
    folder = write_pairs(tmp_path / "pairs", num=24)
    run = Assembly().run(
        load_config(
            None,
            [
                *("data.name=folder", f"data.path={folder}", "data.image_size=16", "data.store=always"),
                *("device=cpu", "data.strict=false", "distill.batch_size=8", "distill.num_anchors=16"),
                *("student.architecture=ws-50k", "federation.num_clients=2"),
            ],
        )
    )
    found = needs(run, torch.nn.Sequential(torch.nn.Conv2d(1, 5, 1), torch.nn.Flatten()))
    # By hand: 24 pairs of 16 pixels, 3 bytes and 1 each; 128 numbers of the teacher of 4 bytes.
    assert found["disk"] == {"store": 24 * 256 * 4, "features": 24 * 128 * 4}
    memory = found["memory"]
    assert (memory["pairs"], memory["inputs"]) == (0, 0)
    assert memory["public images"] == len(run.task.data.public) * 16 * 16 * 3
    # Five channels, of the convolution and flat; each is kept and has a gradient. The input once.
    assert memory["a batch"] == 8 * (2 * 2 * 5 * 256 * 4 + 256 * 4)
    (disk, _), (told, size) = needs_rows(found)
    assert (disk, told) == ("disk", "memory")
    assert "a batch" in size
    whole, num = run.task.data, len(run.task.data.train)
    few = LazyRows((NUMBERS[:3, :16, :16].copy(),), np.zeros(num, dtype=np.int64))
    shared = PairedData(source=few, target=np.zeros((num, 16, 16, 1), np.uint8))
    run.task.data = replace(whole, train=shared)
    found = needs(run, torch.nn.Sequential(torch.nn.Conv2d(1, 5, 1), torch.nn.Flatten()))
    # Images that many pairs share lie in memory once, and not on the disk.
    assert found["disk"]["store"] == (24 - num) * 256 * 4
    assert found["memory"]["pairs"] == 3 * 256 * 3 + num * 256
