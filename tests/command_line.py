"""One command of the command line within the test's own process."""

import sys

import pytest

from edgecmd.cli.app import main


def run(monkeypatch: pytest.MonkeyPatch, *words: object) -> int:
    """Exit code of one command."""
    monkeypatch.setattr(sys, "argv", ["edgecmd", *map(str, words)])
    try:
        main()
    except SystemExit as leave:
        return int(leave.code or 0)
    return 0
