"""Command table, error handling and exit codes.

Exit codes: 0 success; 1 an unexpected error; 2 a setting or an argument; 3 an audit that contradicts a
guarantee; 4 data; 5 the federation; 6 the export; 7 privacy; 8 the machine (disk, permissions, memory,
processes); 130 stopped by Ctrl-C; 141 the reader closed the output.
"""

import os
import signal
import sys
from functools import cache
from types import FrameType
from typing import Annotated, Any

import click
import typer
from click.exceptions import NoArgsIsHelpError
from typer.core import TyperArgument, TyperGroup

from edgecmd.cli.output import (
    PIPE_CLOSED,
    OutputClosedError,
    complain,
    open_streams,
    print_help,
    quiet_libraries,
    reader_has_gone,
    say,
    settle_streams,
)
from edgecmd.core.errors import EdgecmdError
from edgecmd.core.machine import explain, import_torch_quickly, is_of_machine

os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")
os.environ.setdefault("FLWR_DISABLE_UPDATE_CHECK", "1")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
# Charts are only written to files. A notebook hands its own backend to every command that it starts, and
# edgecmd may be installed where that backend is not.
os.environ["MPLBACKEND"] = "agg"

INTERRUPTED, USAGE = 130, 2
# As the help lists them.
COMMANDS = (
    *(
        "compare",
        "robustness",
        "export",
        "infer",
        "fits",
        "theory",
        "distance",
        "node",
        "run",
        "resume",
        "runs",
        "evaluate",
        "emergent",
        "report",
        "track",
    ),
    *("init", "doctor", "pretrain", "warm-start", "simulate", "verify", "sign"),
    *("data", "bench", "web", "deploy", "audit"),
)


class _Argument(TyperArgument):
    """Shows its help, which click from 8.5 on takes from arguments of typer below 0.21."""

    def __init__(self, *, help: str | None = None, **rest: Any) -> None:  # noqa: ANN401 - as typer has them
        super().__init__(help=help, **rest)
        self._text = help

    def get_help_record(self, ctx: click.Context) -> Any:  # noqa: ANN401 - typer and click disagree
        """Name and help; only for this moment, or click would list all arguments a second time."""
        self.help, kept = self._text, self.help
        record = super().get_help_record(ctx)
        self.help = kept
        return record


typer.main.TyperArgument = _Argument  # type: ignore[attr-defined]
# Plain help has no markup, so the brackets in it must not be escaped.
typer.core.HAS_RICH = False


class Commands(TyperGroup):
    """All commands, listed in a fixed order, whichever modules define them."""

    def list_commands(self, context: click.Context) -> list[str]:
        """Names in the order of the help."""
        return sorted(super().list_commands(context), key=COMMANDS.index)


app = typer.Typer(
    name="edgecmd",
    cls=Commands,
    help="Federated contrastive cross-modality distillation: unlabelled pairs in, a small ONNX student out.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    suggest_commands=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _group(text: str) -> typer.Typer:
    """Commands under one word; click itself names what a wrong word may have meant."""
    return typer.Typer(help=text, no_args_is_help=True, rich_markup_mode=None, suggest_commands=False)


data_app = _group("Data sets: list, show, check, build.")
build_app = _group("Make a data set on this machine.")
bench_app = _group("Benchmarks: ratios of two sides measured in the same run.")
web_app = _group("Run the student in a browser.")
deploy_app = _group("Run a federation between machines: kits, checks, a trial, runs.")
app.add_typer(data_app, name="data")
data_app.add_typer(build_app, name="build")
app.add_typer(bench_app, name="bench")
app.add_typer(web_app, name="web")
app.add_typer(deploy_app, name="deploy")


def _version(value: bool | None) -> None:
    if value:
        from edgecmd import __version__

        say(f"edgecmd {__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool | None, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = None,
    debug: Annotated[
        bool, typer.Option("--debug", help="Show the traceback of an error; allowed anywhere.")
    ] = False,
) -> None:
    """Federated contrastive cross-modality distillation: unlabelled pairs in, a small ONNX student out."""


def register() -> None:
    """Import the modules that add commands; each imports what it needs only when it runs."""
    from edgecmd.cli import (  # noqa: F401
        audit,
        bench,
        compare,
        data,
        deploy,
        export,
        fits,
        run,
        setup,
        theory,
    )


@cache
def _command() -> click.Command:
    """All commands as click has them: made once, though a process may run many."""
    register()
    return typer.main.get_command(app)


def main() -> None:
    """Entry point: run a command, turn errors into one line and an exit code."""
    debug = "--debug" in sys.argv
    words = [word for word in sys.argv[1:] if word != "--debug"]
    open_streams()
    _own_interrupt()
    import_torch_quickly()
    streams = sys.stdout, sys.stderr
    with quiet_libraries(debug=debug):
        try:
            code = _ended(words, debug=debug)
        finally:
            # Click puts its own in their place when a pipe breaks.
            sys.stdout, sys.stderr = streams
            settle_streams()
    if code:
        sys.exit(code)


class _CtrlC(KeyboardInterrupt):
    """Ctrl-C during a command.

    Python notes a plain KeyboardInterrupt that leaves an ``exec`` (many libraries call one while
    they are imported) and then ends ``python -m`` by the signal, whatever the exit code was to be.
    """


def _own_interrupt() -> None:
    """Raise :class:`_CtrlC` on Ctrl-C, unless whoever started this process had it ignored."""

    def stop(_signum: int, _frame: FrameType | None) -> None:
        raise _CtrlC

    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, stop)


def _ended(words: list[str], *, debug: bool) -> int:
    """Exit code of the command ``words``; whatever goes wrong is reported in one line."""
    from edgecmd.cli.progress import progress_shown

    try:
        with progress_shown():
            return _run(words)
    except EdgecmdError as error:
        complain(str(error), debug=debug)
        return error.exit_code
    except (KeyboardInterrupt, typer.Abort):
        # A second Ctrl-C would only cut off the line that follows.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        complain("Stopped. Finished work is saved; `edgecmd resume` continues a run.")
        return INTERRUPTED
    except OutputClosedError:
        return PIPE_CLOSED
    except SystemExit as leave:
        # Click makes an exit of a broken pipe, whichever pipe it was.
        if not isinstance(leave.__context__, BrokenPipeError):
            raise
        return _failed(leave.__context__, debug=debug)
    except Exception as error:
        return _failed(error, debug=debug)


def _run(words: list[str]) -> int:
    from edgecmd.core.machine import require_own_rooms

    # Help and version need none of them, and the doctor says itself what is wrong.
    if words and words[0] != "doctor" and not words[0].startswith("-"):
        require_own_rooms()
    code = _command()(words, standalone_mode=False)
    # typer returns the code of an Exit here, and makes an Exit of Ctrl-C.
    if code == INTERRUPTED:
        raise KeyboardInterrupt
    return code if isinstance(code, int) else 0


def _misused(error: click.ClickException) -> int:
    """Words that no command takes; without any, the help is the answer."""
    if isinstance(error, NoArgsIsHelpError):
        print_help(error.format_message(), to_error=True)
    else:
        complain(error.format_message())
    return USAGE


def _failed(error: Exception, *, debug: bool) -> int:
    if isinstance(error, click.ClickException):
        return _misused(error)
    if isinstance(error, BrokenPipeError) and reader_has_gone():
        return PIPE_CLOSED
    if is_of_machine(error):
        told = explain(error)
        complain(str(told), debug=debug)
        return told.exit_code
    complain(f"Unexpected {type(error).__name__}: {error} (--debug shows where)", debug=debug)
    return 1
