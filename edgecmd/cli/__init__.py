"""The command line: the only package that sees all others; it imports them when a command runs."""

__all__ = ["main"]


def main() -> None:
    """Entry point; Ctrl-C during the imports ends it as quietly as later."""
    try:
        from edgecmd.cli.app import main as run
    except KeyboardInterrupt:
        raise SystemExit(130) from None
    run()
