"""Each tutorial is a valid notebook with its outputs, names no machine, and is in the nav of the site."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
NOTEBOOKS = sorted((ROOT / "docs/tutorials").glob("*.ipynb"))
MOST_BYTES = 300_000
# Folders of a machine, and how Jupyter names who ran a cell and when.
OF_A_MACHINE = re.compile(
    r"/(?:tmp|home|root|work|Users|var|opt|usr)/|site-packages|\bExecuteTime\b|iopub\.|localhost"
)


def read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8"))


def code_of(notebook: dict[str, Any]) -> list[dict[str, Any]]:
    return [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]


def test_the_eight_tutorials_are_in_the_nav() -> None:
    site = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    pages = re.findall(r"^ +- [^:]+: tutorials/(\S+)$", site, flags=re.MULTILINE)
    assert pages == [path.name for path in NOTEBOOKS]
    assert len(pages) == 8


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_tutorial_is_whole(path: Path) -> None:
    notebook = read(path)
    assert (notebook["nbformat"], notebook["nbformat_minor"]) == (4, 5)
    assert notebook["cells"][0]["source"][0].startswith("# ")
    ids = [cell["id"] for cell in notebook["cells"]]
    assert len(set(ids)) == len(ids)
    outputs = [one for cell in code_of(notebook) for one in cell["outputs"]]
    assert outputs
    assert not [one for one in outputs if one["output_type"] == "error"]
    assert all(isinstance(cell["execution_count"], int) for cell in code_of(notebook))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_tutorial_is_small_and_names_no_machine(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert len(text.encode()) < MOST_BYTES
    words = re.sub(r'"image/png": "[^"]*"', "", text)
    assert not OF_A_MACHINE.findall(words)
    assert all(cell["metadata"] == {} for cell in read(path)["cells"])


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_sentence_stands_before_each_cell(path: Path) -> None:
    """A cell of code follows text, or one other cell that the same text is about."""
    kinds = [cell["cell_type"] for cell in read(path)["cells"]]
    assert not any(kinds[row : row + 4] == ["code"] * 4 for row in range(len(kinds)))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_the_links_of_a_tutorial_lead_somewhere(path: Path) -> None:
    text = "\n".join(
        "".join(cell["source"]) for cell in read(path)["cells"] if cell["cell_type"] == "markdown"
    )
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        if "://" not in link:
            assert (path.parent / link.partition("#")[0]).resolve().is_file(), link
