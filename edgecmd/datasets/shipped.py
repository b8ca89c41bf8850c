"""Where the data files that ship with edgecmd lie, whichever copy of the code runs.

Flower carries an app as a bundle of source files alone: there, this package shadows the installed
one and has no data beside it. The files are then those of the installed distribution.
"""

import json
import os
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname

from edgecmd.core.errors import DataError

VARIABLE = "EDGECMD_FILES"
BESIDE = Path(__file__).parent / "files"


def shipped_file(name: str) -> Path:
    """Path of a file that ships with edgecmd.

    It is looked for in the folder that the environment variable ``EDGECMD_FILES`` names, beside this
    package, and in the installed distribution, also where that is an editable one.

    Args:
        name: Such as ``emoji_64.npz``.

    Raises:
        DataError: It is in none of these places.
    """
    folders = list(dict.fromkeys(_folders()))
    for folder in folders:
        if (folder / name).is_file():
            return folder / name
    raise DataError(
        f"{name} is missing; looked in {', '.join(map(str, folders))}. Install edgecmd here, or set"
        f" {VARIABLE} to the folder that holds the file."
    )


def _folders() -> Iterator[Path]:
    if os.environ.get(VARIABLE):
        yield Path(os.environ[VARIABLE])
    yield BESIDE
    try:
        installed = distribution("edgecmd")
    except PackageNotFoundError:
        return
    yield Path(str(installed.locate_file("edgecmd/datasets/files")))
    source = urlsplit(json.loads(installed.read_text("direct_url.json") or "{}").get("url", ""))
    if source.scheme == "file":
        yield Path(url2pathname(source.path)) / "edgecmd" / "datasets" / "files"
