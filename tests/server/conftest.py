"""The tiny pairs that the tests of the server share."""

from pathlib import Path

import pytest

from tests.tiny_federation import write_pairs


@pytest.fixture(scope="session")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_pairs(tmp_path_factory.mktemp("pairs") / "pairs.npz")
