"""One way to open a user's file: whatever a library raises becomes one error that names the file."""

import contextlib
import os
import warnings
from collections.abc import Iterator
from pathlib import Path

from edgecmd.core.errors import DataError, EdgecmdError
from edgecmd.data.user_files.decode import reason_of

# Arrays of one archive, unpacked. Machines with less than twice that take half of what they have.
MOST_ARRAY_BYTES = 16 * 2**30


@contextlib.contextmanager
def reading(path: Path, *, what: str, way_out: str) -> Iterator[None]:
    """Name the file in whatever a library raises on it, and keep its warnings from the screen.

    Put calls of libraries into the block and nothing else: a fault of our own code is not a fault of a file.

    Args:
        path: The user's file.
        what: What it should be, such as ``a MATLAB file``.
        way_out: A sentence on what to do.

    Raises:
        DataError: For any exception but those of edgecmd itself, which pass.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except EdgecmdError:
        raise
    except Exception as error:
        raise DataError(f"{path} cannot be read as {what} ({reason_of(error)}). {way_out}") from error


def most_array_bytes() -> int:
    """What the arrays of one archive may take on this machine: `MOST_ARRAY_BYTES`, or half of its memory."""
    try:
        memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, OSError, ValueError):
        return MOST_ARRAY_BYTES
    return min(MOST_ARRAY_BYTES, memory // 2) if memory > 0 else MOST_ARRAY_BYTES
