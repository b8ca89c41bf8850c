"""The errors of all checks of a bundle."""

from collections.abc import Iterator
from contextlib import contextmanager

from edgecmd.core.errors import EdgecmdError, ExportError

AGAIN = "Get the bundle again from its maker, or make it again with `edgecmd export`."


class TrustError(ExportError):
    """A bundle is not what it claims to be; its model was not used."""


class GateError(ExportError):
    """An ONNX file has a form that no student has; it was not loaded."""


@contextmanager
def content_of(name: str) -> Iterator[None]:
    """Whatever the content of a file makes our own code raise is a fault of that file.

    Args:
        name: Of the file.

    Raises:
        TrustError: In place of any error but those that are told already, and those of this machine: its
            disk and its memory.
    """
    try:
        yield
    except (EdgecmdError, OSError, MemoryError):
        raise
    except Exception as error:  # a stranger's file may hold anything
        told = " ".join(ascii(str(error))[1:-1].split())[:200]
        raise TrustError(
            f"{name} has content that no check can read: {type(error).__name__}: {told}. {AGAIN}"
        ) from error
