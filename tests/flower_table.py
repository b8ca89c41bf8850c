"""The table ``[tool.flwr.app.config]`` of pyproject.toml, as the settings' defaults give it.

``python -m tests.flower_table`` writes it anew; a test fails where it is out of date.
"""

import json
from pathlib import Path

from edgecmd.config.reader import flatten
from edgecmd.config.schema import RunConfig

PYPROJECT = Path(__file__).parent.parent / "pyproject.toml"
HEADER = "[tool.flwr.app.config]"
NOTE = "# All settings with their defaults; Flower refuses others. Written by `python -m tests.flower_table`."


def table() -> str:
    """The table with a sub-table for each section, in the order of the settings."""
    lines, opened = [HEADER, NOTE], ""
    for key, value in flatten(RunConfig()).items():
        section, _, name = key.rpartition(".")
        if section != opened:
            opened = section
            lines += ["", HEADER.replace("]", f".{section}]")]
        # JSON writes numbers, truth values and plain text as TOML does.
        lines.append(f"{name} = {json.dumps(value)}")
    return "\n".join(lines) + "\n"


def written(text: str) -> str:
    """``text`` of pyproject.toml with the table, which is its last part, replaced."""
    return text.split(HEADER)[0].rstrip() + "\n\n" + table()


if __name__ == "__main__":
    PYPROJECT.write_text(written(PYPROJECT.read_text(encoding="utf-8")), encoding="utf-8")
