"""Builders of files that ship stay in a checkout: nothing that is installed needs them, commands say so."""

import ast
import sys
import tomllib
from pathlib import Path

import pytest

from edgecmd.core.errors import ConfigError
from tests.command_line import run

ROOT = Path(__file__).parents[3]
WHEEL = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]["wheel"]
LEFT_OUT = [ROOT / one.removeprefix("/") for one in WHEEL["exclude"]]
# The commands guard these imports themselves.
GUARDED = ROOT / "edgecmd" / "cli" / "data.py"


def dotted(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts)


def is_left_out(path: Path) -> bool:
    return any(path == one or one in path.parents for one in LEFT_OUT)


def imports(path: Path) -> set[str]:
    """Modules that a file imports anywhere, by their dotted names."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{one.name}" for one in node.names)}
        elif isinstance(node, ast.Import):
            found |= {one.name for one in node.names}
    return found


def test_what_is_left_out_is_there_and_nobody_who_is_installed_imports_it() -> None:
    assert all(one.exists() for one in LEFT_OUT)
    names = {dotted(one) for one in LEFT_OUT}
    modules = [path for package in WHEEL["packages"] for path in (ROOT / package).rglob("*.py")]
    kept = [path for path in modules if not is_left_out(path) and path != GUARDED]
    assert len(kept) > 300
    users = {
        str(path.relative_to(ROOT)): sorted(used)
        for path in kept
        if (used := {one for one in imports(path) if any(f"{one}.".startswith(f"{name}.") for name in names)})
    }
    assert users == {}


@pytest.mark.parametrize(
    ("command", "modules"),
    [
        ("emoji", ("emoji",)),
        ("rooms", ("furniture.libraries", "furniture.rooms", "furniture")),
        ("teacher", ("teacher", "imagenet")),
        ("words", ("names.words", "names")),
    ],
)
def test_a_command_without_its_builder_names_the_way_out(
    command: str,
    modules: tuple[str, ...],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    for name in modules:
        # None makes Python say that there is no such module.
        monkeypatch.setitem(sys.modules, f"edgecmd.datasets.build.{name}", None)
    assert run(monkeypatch, "data", "build", command, "--out", str(tmp_path / "out")) == ConfigError.exit_code
    error = capsys.readouterr().err
    assert f"`edgecmd data build {command}` makes files that ship with edgecmd" in error
    assert "in a checkout of edgecmd's source" in error
    assert not (tmp_path / "out").exists()
