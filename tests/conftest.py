"""One torch thread, a cache of our own, and all telemetry off, before anything is imported."""

import gc
import os
from collections.abc import Iterator
from functools import cache
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"
os.environ["FLWR_TELEMETRY_ENABLED"] = "0"
os.environ["FLWR_DISABLE_UPDATE_CHECK"] = "1"
os.environ["ORT_DISABLE_TELEMETRY"] = "1"

from typing import TYPE_CHECKING

import pytest
import torch

# Jaxtyping also looks it up by name, when it instruments the first package.
from tests.shape_checks import check_types_once, next_test

if TYPE_CHECKING:
    from edgecmd.config.schema import RunConfig
    from tests.quick import KeptWorkers

torch.set_num_threads(1)
check_types_once()
# While tests are imported there is hardly any garbage, and Python would look for it again and again.
gc.disable()


def pytest_collection_finish() -> None:
    """What stands now stays to the end; to look through it for garbage again and again costs a twentieth."""
    gc.collect()
    gc.freeze()
    gc.enable()


@pytest.fixture(autouse=True, scope="session")
def feature_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Teacher features of a test session go to a folder of its own."""
    folder = tmp_path_factory.mktemp("cache")
    os.environ["EDGECMD_CACHE"] = str(folder)
    return folder


@pytest.fixture(autouse=True, scope="session")
def unsynced() -> Iterator[None]:
    """Files of tests need not outlive a power failure, and thousands of waits for the disk add up.

    What is written, in which order, and that a file is synced before it is renamed stays as it is.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("os.fsync", lambda _: None)
        yield


@pytest.fixture(autouse=True, scope="session")
def operators_listed() -> Iterator[None]:
    """The exporter lists its operators once for all tests of a process."""
    from tests.quick import operators_listed_once

    with operators_listed_once():
        yield


@pytest.fixture(autouse=True, scope="session")
def words_of_new_processes() -> Iterator[None]:
    """Audits of a random source ask two new processes once for all tests of this one.

    They import torch, and know nothing of a test.
    """
    from edgecmd.audits.step import random_source

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(random_source, "spawned_words", cache(random_source.spawned_words))
        yield


@pytest.fixture(scope="session")
def kept_workers() -> Iterator["KeptWorkers"]:
    """Two worker processes that outlive a run: each takes seconds to import what it needs."""
    from tests.quick import KeptWorkers

    kept = KeptWorkers(2)
    yield kept
    kept.end()


@pytest.fixture
def workers(kept_workers: "KeptWorkers", monkeypatch: pytest.MonkeyPatch) -> None:
    """The same two workers for all runs and studies that have any.

    What a test puts on the path of Python is not on theirs, and what it puts in place of a function neither.
    """

    def kept(num: int, *, begin: object = None) -> "KeptWorkers":
        assert num == 2
        return kept_workers

    for where in (
        "server.local_grid",
        "server.resident.workers",
        "edgecmd.core.processes",
        "edgecmd.core.jobs",
    ):
        monkeypatch.setattr(f"{where}.Workers", kept)


@pytest.fixture(autouse=True)
def own_checks() -> None:
    """The first calls of each function are checked in each test."""
    next_test()


@pytest.fixture
def unchecked_shapes() -> Iterator[None]:
    """No checks of shapes in a test of thousands of steps; `tests.shape_checks` says when that is right."""
    from tests.shape_checks import shapes_unchecked

    with shapes_unchecked():
        yield


@pytest.fixture(scope="session")
def tiny_files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A data file of eighty pairs and an untrained teacher."""
    from shapes import write_pairs

    from edgecmd.models.teacher.teachers import build_teacher, save_teacher

    folder = tmp_path_factory.mktemp("tiny")
    network = build_teacher("gn-teacher", embedding_dim=16, generator=torch.Generator().manual_seed(0))
    recipe = {"architecture": "gn-teacher", "embedding_dim": "16"}
    save_teacher(network, folder / "teacher.safetensors", recipe=recipe)
    return write_pairs(folder / "pairs.npz"), folder / "teacher.safetensors"


@pytest.fixture
def tiny(tiny_files: tuple[Path, Path], tmp_path: Path) -> "RunConfig":
    """A run on the tiny data that takes a second."""
    from shapes import shapes_config

    return shapes_config(*tiny_files, tmp_path / "runs")
