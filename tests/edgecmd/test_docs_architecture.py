"""docs/architecture.md names what the code has: each room, and each function of the walks."""

import importlib
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
NAMES = sorted(set(re.findall(r"\b(?:edgecmd|clients|server|export)(?:\.[A-Za-z_]\w*)+", TEXT)))
WALKS = re.findall(r"^```\n(.*?)^```", TEXT, re.DOTALL | re.MULTILINE)


def resolve(name: str) -> object:
    """The module, or what is in it, that a dotted name stands for."""
    parts = name.split(".")
    for end in range(len(parts), 0, -1):
        try:
            found: object = importlib.import_module(".".join(parts[:end]))
        except ModuleNotFoundError:
            continue
        for part in parts[end:]:
            found = getattr(found, part)
        return found
    raise LookupError(name)


def test_the_page_has_walks_of_one_screen() -> None:
    assert len(WALKS) == 4
    assert max(len(walk.splitlines()) for walk in WALKS) <= 45
    assert len(NAMES) > 60


@pytest.mark.parametrize("name", NAMES)
def test_each_name_is_one_of_the_code(name: str) -> None:
    assert resolve(name) is not None


def test_the_table_has_each_room_once() -> None:
    table = TEXT.split("<!-- rooms -->")[1].split("\n\n")[0]
    told = re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE)
    rooms = [one.parent.name for one in (ROOT / "edgecmd").glob("*/__init__.py")]
    assert sorted(told) == sorted([*rooms, "run", "settings", "clients", "server", "export"])
