"""The tiny pairs that the end-to-end tests share, and what makes their runs cheap."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.quick import blank_pngs, exported_once, few_supervised_steps, libraries_untraced
from tests.tiny_federation import write_pairs


@pytest.fixture(scope="session")
def exported() -> dict[str, bytes]:
    """The files that were made of students so far."""
    return {}


@pytest.fixture(autouse=True, scope="module")
def quick(exported: dict[str, bytes]) -> Iterator[None]:
    """No test here looks at how well a baseline learns, how a student becomes a file, or a chart is painted.

    It ends with each file of tests: what it changes is seen by all tests of the process.
    """
    with few_supervised_steps(), exported_once(exported), blank_pngs(), libraries_untraced():
        yield


@pytest.fixture(scope="session")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_pairs(tmp_path_factory.mktemp("pairs") / "pairs.npz")
