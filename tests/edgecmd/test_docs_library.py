"""The code of docs/library.md and of the README runs, one block after the other, as a reader would type it."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def code_of(page: str) -> str:
    """All Python of a page, each line at its own place, so that a traceback names it."""
    lines, inside = list[str](), False
    for line in (ROOT / page).read_text(encoding="utf-8").splitlines():
        fence = re.match(r"```(\w*)", line)
        inside = bool(fence and fence[1] == "python") if fence else inside
        lines.append(line if inside and not fence else "")
    return "\n".join(lines)


def run(page: str) -> dict[str, object]:
    names: dict[str, object] = {"__name__": "reader"}
    exec(compile(code_of(page), str(ROOT / page), "exec"), names)
    return names


def test_the_tour_of_the_library(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    run("docs/library.md")
    told = capsys.readouterr().out
    for part in ("epsilon = ", "add or remove one pair", "R@1", "Did you mean 'cmc'"):
        assert part in told
    assert (tmp_path / "runs/private/privacy.json").exists()
    assert (tmp_path / "runs/private/audit.json").exists()
    assert {one.name for one in (tmp_path / "bundle").glob("*.onnx")} >= {"student.onnx", "student.int8.onnx"}
