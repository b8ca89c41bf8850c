"""docs/extending.md has a page a kind, each of which fits on a screen and has code that a test runs."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = (ROOT / "docs" / "extending.md").read_text(encoding="utf-8").split("\n## ")[1:]


@pytest.mark.parametrize("page", PAGES, ids=[page.splitlines()[0] for page in PAGES])
def test_a_page_is_forty_lines_at_most_and_a_test_runs_its_code(page: str) -> None:
    assert len(page.strip().splitlines()) <= 40
    blocks = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    assert blocks
    tests = "".join(
        one.read_text(encoding="utf-8") for one in sorted((ROOT / "tests").rglob("test_own_*.py"))
    )
    for block in blocks:
        name = re.match(r"# (\w+)\.py\n", block)
        assert not name or name[1] in tests
        compile(block, "docs/extending.md", "exec")


def test_each_kind_has_a_page() -> None:
    kinds = {page.splitlines()[0].partition(" ")[2] for page in PAGES}
    needed = "loss, student, teacher, mechanism, data set, partition, modality, export profile"
    needed += ", audit level, baseline, strategy"
    assert kinds >= set(needed.split(", "))
