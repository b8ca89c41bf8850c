"""Arrays of the files of a set: of those that ship, whose content is pinned, and of those that were built."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from edgecmd.catalogue.data_files import checked_file
from edgecmd.catalogue.data_sets import DATA_SETS
from edgecmd.core.errors import DataError
from edgecmd.data.pairs import fingerprint
from edgecmd.data.user_files.decode import DecodeError, npz_arrays
from edgecmd.data.user_files.reading import most_array_bytes

Arrays = Mapping[str, np.ndarray]


def content_sha256(arrays: Arrays) -> str:
    """SHA-256 over names, types, shapes and bytes of ``arrays``, whatever their compression."""
    return fingerprint(np.array(sorted(arrays)), *(arrays[name] for name in sorted(arrays)))


def read_pinned(path: Path, sha256: str, *, way_out: str) -> dict[str, np.ndarray]:
    """Arrays of an .npz.

    Args:
        path: The file.
        sha256: What `content_sha256` of its arrays must be.
        way_out: A sentence about how to get the file again.

    Raises:
        DataError: The file is missing or its content is not the pinned one.
    """
    arrays = read_arrays(path, way_out=way_out)
    found = content_sha256(arrays)
    if found != sha256:
        raise DataError(f"{path} has content sha256={found}; allowed is {sha256}. {way_out}")
    return arrays


def read_arrays(path: Path, *, way_out: str) -> dict[str, np.ndarray]:
    """Arrays of an .npz, whatever they are.

    Raises:
        DataError: The file is missing or damaged.
    """
    if not path.exists():
        raise DataError(f"{path} is missing. {way_out}")
    try:
        return npz_arrays(path, most_bytes=most_array_bytes())
    except DecodeError as error:
        raise DataError(f"{path} is damaged and cannot be read ({error}). {way_out}") from error


def read_built(name: str, key: str) -> dict[str, np.ndarray]:
    """Arrays of an .npz of the built set ``name``, whose checksum is compared.

    Raises:
        DataError: The set was not built, or the file is missing or not the one that was built.
    """
    path = checked_file(name, key)
    try:
        return npz_arrays(path, most_bytes=most_array_bytes())
    except DecodeError as error:
        raise DataError(
            f"{path} cannot be read ({error}). Build it again: `{DATA_SETS[name].build}`."
        ) from error
