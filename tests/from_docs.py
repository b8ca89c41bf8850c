"""Code of the documentation, as the modules that it says it is."""

import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def module_of(page: str, name: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Write the code block of ``docs/<page>`` that begins with ``# <name>.py``; it can then be imported."""
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    block = re.search(rf"```python\n# {name}\.py\n(.*?)```", text, re.DOTALL)
    assert block, f"docs/{page} has no code of {name}.py"
    (folder / f"{name}.py").write_text(block[1], encoding="utf-8")
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.delitem(sys.modules, name, raising=False)
