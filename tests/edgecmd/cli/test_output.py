"""One place prints, and what it prints is harmless, whole and readable on any output."""

import ast
import io
import json
import logging
import warnings
from pathlib import Path

import pytest

from edgecmd.cli import output
from edgecmd.cli.app import COMMANDS
from edgecmd.core.errors import MachineError
from tests.command_line import edgecmd

ROOT = Path(output.__file__).parent.parent.parent
HOSTILE = "evil\x1b[2J\u202egnp\n\u200b☃\udcff"
SHOWN = r"evil\x1b[2J\u202egnp\n\u200b☃\udcff"


class CodePage(io.TextIOWrapper):
    """An output of a code page."""

    def __init__(self, encoding: str) -> None:
        super().__init__(io.BytesIO(), encoding=encoding)

    def text(self) -> str:
        self.flush()
        return self.buffer.getvalue().decode(self.encoding)  # type: ignore[attr-defined]


def prints(tree: ast.AST) -> list[int]:
    """Lines that print or touch an output by themselves."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            name = ast.unparse(node.func)
            if name in ("print", "typer.echo", "click.echo", "typer.secho", "click.secho", "pprint"):
                found.append(node.lineno)
        if isinstance(node, ast.Attribute) and ast.unparse(node) in ("sys.stdout", "sys.stderr"):
            found.append(node.lineno)
        if isinstance(node, ast.Import | ast.ImportFrom) and "rich.console" in ast.unparse(node):
            found.append(node.lineno)
    return found


# Programs of their own process, and the handing over of streams.
APART = {
    "export/device/infer.py": "runs on a device, without edgecmd",
    "export/samples/embed.py": "a program to copy, without edgecmd",
    "export/samples/short/brief.py": "a program to copy, without edgecmd",
    "export/device/printing.py": "runs on a device, without edgecmd",
    "export/trust/worker.py": "answers its parent process by its error stream",
    "export/engines/engine_browser.py": "answers its parent process by its error stream",
    "edgecmd/cli/app.py": "puts the streams back that click replaced",
    "clients/node_program.py": "a forked process empties its streams before it ends",
}


def test_one_place_prints() -> None:
    found = {}
    for package in ("edgecmd", "clients", "server", "export"):
        for path in (ROOT / package).rglob("*.py"):
            name = path.relative_to(ROOT).as_posix()
            lines = prints(ast.parse(path.read_text(encoding="utf-8")))
            if lines and name != "edgecmd/cli/output.py" and name not in APART:
                found[name] = lines
    assert found == {}


@pytest.mark.parametrize("encoding", ["utf-8", "cp1252", "ascii", "latin-1", "cp437"])
def test_hostile_names_are_shown_on_every_code_page(monkeypatch: pytest.MonkeyPatch, encoding: str) -> None:
    stream, errors = CodePage(encoding), CodePage(encoding)
    monkeypatch.setattr("sys.stdout", stream)
    monkeypatch.setattr("sys.stderr", errors)
    output.say(f"read {HOSTILE}")
    output.print_table(HOSTILE, ["name", HOSTILE], [["a", HOSTILE]])
    output.complain(f"{HOSTILE} is broken")
    shown = SHOWN if encoding == "utf-8" else SHOWN.replace("☃", r"\u2603")
    told = stream.text()
    assert f"read {shown}\n" in told
    assert told.count("\n") == 4
    assert told.count(shown) == 4
    assert errors.text() == f"edgecmd: {shown} is broken\n"


def test_json_is_ascii_and_gives_back_every_name(capsys: pytest.CaptureFixture[str]) -> None:
    output.print_json({"name": HOSTILE})
    text = capsys.readouterr().out
    assert text.isascii()
    assert json.loads(text) == {"name": HOSTILE}


@pytest.mark.parametrize("stream", [None, "closed"])
def test_an_output_that_is_not_there_takes_nothing_and_ends_nothing(
    monkeypatch: pytest.MonkeyPatch, stream: str | None
) -> None:
    there = None if stream is None else io.StringIO()
    if there is not None:
        there.close()
    monkeypatch.setattr("sys.stdout", there)
    monkeypatch.setattr("sys.stderr", there)
    output.say("nobody hears this")
    output.warn("nor this")
    output.print_table("t", ["a"], [["b"]])


class Broken(io.StringIO):
    """An output that the system refuses."""

    def __init__(self, error: OSError) -> None:
        super().__init__()
        self._error = error

    def write(self, _: str) -> int:
        raise self._error


def test_a_full_disk_and_a_gone_reader_are_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdout", Broken(BrokenPipeError(32, "Broken pipe")))
    with pytest.raises(output.OutputClosedError):
        output.say("x")
    monkeypatch.setattr("sys.stdout", Broken(OSError(28, "No space left on device")))
    with pytest.raises(MachineError, match="no space left"):
        output.say("x")
    monkeypatch.setattr("sys.stderr", Broken(OSError(28, "No space left on device")))
    output.complain("has nowhere to go, and the exit code stays")


class Terminal(io.StringIO):
    """A terminal."""

    def isatty(self) -> bool:
        return True


ROWS = [["a name of some length", "0.1234567", "x" * 30], ["[red]not red[/red]", "[/]", ":smile:"]]


def table_on(monkeypatch: pytest.MonkeyPatch, **environment: str) -> str:
    terminal = Terminal()
    monkeypatch.setattr("sys.stdout", terminal)
    for name in ("NO_COLOR", "COLUMNS", "TERM", "FORCE_COLOR"):
        monkeypatch.delenv(name, raising=False)
    for name, value in {"TERM": "xterm", **environment}.items():
        monkeypatch.setenv(name, value)
    output.print_table("[bold]Title", ["what", "value", "more"], ROWS)
    return terminal.getvalue()


@pytest.mark.parametrize("columns", ["20", "40", "60", "80", "200"])
def test_no_width_of_a_terminal_cuts_anything_off(monkeypatch: pytest.MonkeyPatch, columns: str) -> None:
    text = table_on(monkeypatch, COLUMNS=columns)
    assert "…" not in text
    for words in ("0.1234567", "x" * 30, "length", "[red]not", "[/]", ":smile:", "[bold]Title"):
        assert words in text


def test_columns_that_do_not_fit_follow_below_beside_the_first(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = table_on(monkeypatch, COLUMNS="50").splitlines()
    assert lines == [
        "[bold]Title",
        f"  {'what':21}  value",
        "  a name of some length  0.1234567",
        "  [red]not red[/red]     [/]",
        f"  {'what':21}  more",
        f"  a name of some length  {'x' * 30}",
        "  [red]not red[/red]     :smile:",
    ]


def test_no_color_and_dumb_terminals_get_plain_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    rich = table_on(monkeypatch, COLUMNS="100")
    assert "│" in rich
    for name, value in (("NO_COLOR", "1"), ("TERM", "dumb")):
        plain = table_on(monkeypatch, COLUMNS="100", **{name: value})
        assert "\x1b" not in plain
        assert "│" not in plain
        assert "a name of some length  0.1234567" in plain


def test_columns_of_wide_characters_stand_below_each_other(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    output.print_table("t", ["n", "v"], [["中文", "1"], ["abcd", "2"]])
    lines = capsys.readouterr().out.splitlines()
    assert lines[2] == "  中文  1"
    assert lines[3] == "  abcd  2"


@pytest.mark.parametrize("debug", [False, True])
def test_what_libraries_say_is_heard_only_where_it_was_asked_for(
    capsys: pytest.CaptureFixture[str], debug: bool
) -> None:
    with output.quiet_libraries(debug=debug):
        warnings.simplefilter("default")
        warnings.warn("a library's worry", UserWarning, stacklevel=1)
        logging.getLogger("PIL.Image").warning("a library's\nlog line")
        logging.getLogger("edgecmd").warning("the run ends early: %s", "budget")
    err = capsys.readouterr().err
    assert "edgecmd: the run ends early" in err or "the run ends early: budget\n" in err
    assert ("a library's worry" in err) is debug
    assert (r"a library's\nlog line" in err) is debug
    assert "Traceback" not in err


def test_the_root_logger_is_left_as_it_was() -> None:
    before = list(logging.getLogger().handlers)
    with output.quiet_libraries(debug=False):
        assert logging.getLogger().handlers != before
    assert logging.getLogger().handlers == before


def test_help_lists_every_command_once(tmp_path: Path) -> None:
    """A command that the list does not know makes `edgecmd --help` fail."""
    done = edgecmd("--help", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    listed = [
        line.split()[0] for line in done.stdout.partition("Commands:")[2].splitlines() if line[:2] == "  "
    ]
    assert [name for name in listed if name in COMMANDS] == list(COMMANDS)
