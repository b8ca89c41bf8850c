"""The command line: the only room that sees all others, and it imports them when a command runs."""

from edgecmd.cli.app import main

__all__ = ["main"]
