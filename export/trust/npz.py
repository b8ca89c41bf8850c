"""Reading strangers' .npz files: no pickle, no bomb, no false claim."""

import io
import math
import zipfile
import zlib
from pathlib import Path
from tokenize import TokenError

import numpy as np

from export.trust.errors import TrustError

MAX_ARRAYS = 256
MAX_HEADER_BYTES = 10_000
MAX_BYTES = 64 << 20
NUMBERS = "biuf"
BROKEN = (zipfile.BadZipFile, zlib.error, ValueError, TypeError, SyntaxError, TokenError, EOFError)
TOO_DEEP = (RecursionError, MemoryError, NotImplementedError, RuntimeError, OverflowError, OSError)


def read_npz(path: Path, *, max_bytes: int = MAX_BYTES, kinds: str = NUMBERS) -> dict[str, np.ndarray]:
    """Read all arrays of an .npz file.

    Args:
        path: The file.
        max_bytes: All arrays together, unpacked.
        kinds: Letters of numpy's kinds of dtype that are allowed; numbers by default.

    Guarantees:
        Nothing in the file is executed, and no more memory is taken than it has bytes and ``max_bytes``.

    Raises:
        TrustError: The file is broken, too large unpacked, or holds anything but ``kinds``.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
            _refuse_members(path.name, members, max_bytes=max_bytes)
            return {
                member.filename.removesuffix(".npy"): _array(
                    f"{path.name}: {member.filename}", archive.read(member), kinds=kinds
                )
                for member in members
            }
    except TrustError:
        raise
    except (*BROKEN, *TOO_DEEP) as error:
        raise TrustError(f"{path.name} is not a valid .npz file: {type(error).__name__}: {error}.") from error


def _refuse_members(name: str, members: list[zipfile.ZipInfo], *, max_bytes: int) -> None:
    names = [member.filename for member in members]
    total = sum(member.file_size for member in members)
    if not 1 <= len(members) <= MAX_ARRAYS:
        raise TrustError(f"{name} has {len(members):,} arrays; allowed are 1 to {MAX_ARRAYS}.")
    if total > max_bytes:
        raise TrustError(f"{name} unpacks to {total:,} bytes; allowed are {max_bytes:,}.")
    if len(set(names)) != len(names):
        raise TrustError(f"{name} has two arrays of one name; allowed are different names.")
    for member in members:
        if not member.filename.endswith(".npy") or member.flag_bits & 1:
            raise TrustError(f"{name} has {member.filename[:80]!r}; allowed are arrays, not encrypted.")


def _array(name: str, data: bytes, *, kinds: str) -> np.ndarray:
    stream = io.BytesIO(data)
    version = np.lib.format.read_magic(stream)
    if version not in ((1, 0), (2, 0)):
        raise TrustError(f"{name} has the format {version}; allowed are (1, 0) and (2, 0).")
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, by_columns, dtype = read(stream, max_header_size=MAX_HEADER_BYTES)
    if dtype.hasobject or dtype.kind not in kinds:
        raise TrustError(f"{name} has dtype {dtype}, which may hold pickled code; allowed are numbers.")
    content = data[stream.tell() :]
    if any(size < 0 for size in shape) or math.prod(shape) * dtype.itemsize != len(content):
        raise TrustError(f"{name} claims shape {shape} of {dtype} but has {len(content):,} bytes.")
    flat = np.frombuffer(content, dtype=dtype)
    return flat.reshape(shape, order="F" if by_columns else "C").copy()
