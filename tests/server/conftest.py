"""The tiny pairs that the tests of the server share, and two worker processes."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from edgecmd.core.processes import Workers
from tests.tiny_federation import write_pairs


@pytest.fixture(scope="session")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_pairs(tmp_path_factory.mktemp("pairs") / "pairs.npz")


class KeptWorkers(Workers):
    """Workers that outlive a run: each takes seconds to import what it needs."""

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        pass


@pytest.fixture(scope="session")
def pool() -> Iterator[Workers]:
    kept = KeptWorkers(2)
    yield kept
    Workers.shutdown(kept)


@pytest.fixture
def workers(pool: Workers, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same two workers for all runs that have any."""

    def kept(num: int, *, begin: object) -> Workers:
        assert num == 2
        return pool

    for where in ("server.local_grid", "server.resident.workers"):
        monkeypatch.setattr(f"{where}.Workers", kept)
