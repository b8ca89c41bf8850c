"""Command table, error handling and exit codes.

Exit codes: 0 done; 1 an unexpected error; 2 a setting or an argument; 3 an audit that
contradicts a guarantee; 4 data; 5 the federation; 6 the export; 7 privacy; 130 stopped by Ctrl-C.
"""

import os
import sys
import traceback
from typing import Annotated

import typer

from edgecmd.errors import EdgecmdError

os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")
os.environ.setdefault("FLWR_DISABLE_UPDATE_CHECK", "1")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")

INTERRUPTED = 130
app = typer.Typer(
    name="edgecmd",
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
bench_app = _group("Measurements, as ratios in one run.")
web_app = _group("The student in a browser.")
app.add_typer(data_app, name="data")
data_app.add_typer(build_app, name="build")
app.add_typer(bench_app, name="bench")
app.add_typer(web_app, name="web")


def _version(value: bool | None) -> None:
    if value:
        from edgecmd import __version__

        print(f"edgecmd {__version__}")
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
        audit_check,
        audit_faults,
        audit_many,
        audit_one_run,
        audit_risk,
        audit_step,
        bench,
        compare,
        data,
        data_build,
        device,
        distance,
        export_bench,
        node,
        run,
        setup,
        theory,
        train,
        verify,
        web,
    )


def main() -> None:
    """Entry point: run a command, turn errors into one line and an exit code."""
    from edgecmd.cli.progress import progress_shown

    debug = "--debug" in sys.argv
    register()
    try:
        with progress_shown():
            code = app([word for word in sys.argv[1:] if word != "--debug"], standalone_mode=False)
        # typer returns the code of an Exit here, and makes an Exit of Ctrl-C.
        if code == INTERRUPTED:
            raise KeyboardInterrupt
        if isinstance(code, int) and code:
            sys.exit(code)
    except EdgecmdError as error:
        _fail(str(error), code=error.exit_code, debug=debug)
    except KeyboardInterrupt:
        message = "Stopped. What was finished is saved; `edgecmd resume` goes on with a run."
        _fail(message, code=INTERRUPTED, debug=False)
    except typer.Abort:
        _fail("Stopped.", code=INTERRUPTED, debug=False)
    except Exception as error:
        if hasattr(error, "format_message"):
            _fail(error.format_message(), code=2, debug=debug)
        _fail(f"Unexpected {type(error).__name__}: {error} (--debug shows where)", code=1, debug=debug)


def _fail(message: str, *, code: int, debug: bool) -> None:
    if debug:
        traceback.print_exc()
    print(f"edgecmd: {message}", file=sys.stderr)
    sys.exit(code)
