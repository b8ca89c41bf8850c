"""An .npy or .npz whose bytes depend on its arrays alone."""

import io
import zipfile
from collections.abc import Mapping

import numpy as np

TIMESTAMP = (1980, 1, 1, 0, 0, 0)
COMPRESSION_LEVEL = 9


def npy_bytes(array: np.ndarray) -> bytes:
    """Bytes of an .npy, not compressed."""
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, array, allow_pickle=False)
    return buffer.getvalue()


def npz_bytes(arrays: Mapping[str, np.ndarray]) -> bytes:
    """Bytes of a compressed .npz.

    Guarantees:
        Equal arrays in equal order give equal bytes under the same version of zlib: the members
        carry a fixed time and no permissions of a file system.
    """
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, array in arrays.items():
            info = zipfile.ZipInfo(f"{name}.npy", TIMESTAMP)
            info.compress_type, info.create_system = zipfile.ZIP_DEFLATED, 0
            archive.writestr(info, npy_bytes(array), compresslevel=COMPRESSION_LEVEL)
    return buffer.getvalue()
