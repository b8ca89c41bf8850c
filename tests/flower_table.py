"""The table ``[tool.flwr.app.config]`` of pyproject.toml, as the settings' defaults give it.

``python -m tests.flower_table`` writes it anew; a test fails where it is out of date.
"""

from pathlib import Path

from server.deploy.app_bundle import HEADER, config_table

PYPROJECT = Path(__file__).parent.parent / "pyproject.toml"


def written(text: str) -> str:
    """``text`` of pyproject.toml with the table, which is its last part, replaced."""
    return text.split(HEADER)[0].rstrip() + "\n\n" + config_table()


if __name__ == "__main__":
    PYPROJECT.write_text(written(PYPROJECT.read_text(encoding="utf-8")), encoding="utf-8")
