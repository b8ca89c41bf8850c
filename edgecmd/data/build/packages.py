"""The npm packages that the pictures come from: pinned, fetched with ``npm pack``, read in memory.

Only `fetch` uses the network, and only where a tarball is not there already.
"""

import base64
import hashlib
import shutil
import subprocess
import tarfile
from dataclasses import dataclass
from pathlib import Path

from edgecmd.errors import DataError

FETCH_TIMEOUT_S = 600
FONT_MEMBER = "files/noto-emoji-emoji-400-normal.woff2"
OPENMOJI_MEMBER = "data/openmoji.json"
ICON_MEMBERS = ("icons.json", "chars.json")


@dataclass(frozen=True, kw_only=True, slots=True)
class Package:
    """One npm package at one version.

    Attributes:
        name: Name in the npm registry.
        version: Exact version.
        sha512: Base64 of the SHA-512 of the tarball, the ``integrity`` of the registry.
        members: Files of the package that are read.
    """

    name: str
    version: str
    sha512: str
    members: tuple[str, ...] = ICON_MEMBERS

    @property
    def tarball(self) -> str:
        """File name that ``npm pack`` gives the tarball."""
        return f"{self.name.lstrip('@').replace('/', '-')}-{self.version}.tgz"


PACKAGES = {
    "openmoji": Package(
        name="openmoji",
        version="17.0.0",
        sha512="EBnYrNGdcdw+OSXmENeNE1yBNRu6tOraTmoOyUbJkTmvT/+XETp8RZLSJFzD3lrPc5N9CzsyPnRTk0Vp4UaI9w==",
        members=(OPENMOJI_MEMBER,),
    ),
    "fluent-colour": Package(
        name="@iconify-json/fluent-emoji-flat",
        version="1.2.6",
        sha512="RY47RgPb47fYUiyrA64sIOL0+UU02s29sXpNBbIQRBUlPlfNFTKUmZDERGuxDs/7yNGWqQYvuaSYM1M4fRXlUw==",
    ),
    "fluent-line": Package(
        name="@iconify-json/fluent-emoji-high-contrast",
        version="1.2.6",
        sha512="esqhZPpkrF7sNX3NsLoh8KW64okEr/bzko7WNnFP+qTJGAqDPDYjp0925yxuivXy3HtVQB8xhIKu3+Nq1byX5w==",
    ),
    "noto-colour": Package(
        name="@iconify-json/noto",
        version="1.2.9",
        sha512="DQiuXENbun41ch+XPSV55H9FaWKpHTyz46YIKtSaKYD4fIDDzL1tR6H4np/T38jfrTAeI3rcKF0mqHYeZVAuaw==",
    ),
    "noto-line": Package(
        name="@fontsource/noto-emoji",
        version="5.3.2",
        sha512="N9CSzXJB04AVWYvFbuBgL2Dq964Zo91th/uOu/QLSuWBYuL9FWXGcEo6ZNwc/IJ7vmpm8KHaIKD7jF8pYm4taw==",
        members=(FONT_MEMBER,),
    ),
    "twemoji": Package(
        name="@iconify-json/twemoji",
        version="1.2.5",
        sha512="uKpuIEV0v6K5BW3Mjdyl+XKFVAbbcPxAgifKvEMtZoUZB5+YiY5zaMm2uNNCxyXzAWU9yNLlj41WU6/mvgALsw==",
    ),
    "fxemoji": Package(
        name="@iconify-json/fxemoji",
        version="1.2.2",
        sha512="UAasRaxzFUKfIGSmLwnoarsssA4LX0VLLuEmplIqM6ZNQqIQRtav8tZ4H1neTlBreXuMQyAifr5jP4kn78DpiQ==",
    ),
}


def fetch(package: Package, folder: Path) -> Path:
    """Tarball of ``package`` in ``folder``; downloaded with ``npm pack`` where it is not there yet.

    Raises:
        DataError: There is no npm, or the registry did not deliver.
    """
    path = folder / package.tarball
    if path.exists():
        return path
    way_out = f"Or put {package.tarball} into a folder and name it with --npm-dir."
    npm = shutil.which("npm")
    if npm is None:
        raise DataError(f"npm is not installed; it fetches {package.name}@{package.version}. {way_out}")
    command = [npm, "pack", f"{package.name}@{package.version}", "--silent", "--ignore-scripts"]
    try:
        subprocess.run(
            [*command, "--pack-destination", str(folder)],
            check=True,
            capture_output=True,
            text=True,
            timeout=FETCH_TIMEOUT_S,
        )
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
        detail = str(error.stderr or error).strip()
        raise DataError(f"`{' '.join(command)}` failed: {detail}. Try again later. {way_out}") from error
    if not path.exists():
        raise DataError(f"`{' '.join(command)}` did not write {path}. {way_out}")
    return path


def verify(package: Package, tarball: bytes) -> None:
    """Refuse a tarball that is not the pinned one.

    Raises:
        DataError: The SHA-512 differs.
    """
    found = base64.b64encode(hashlib.sha512(tarball).digest()).decode()
    if found != package.sha512:
        raise DataError(
            f"{package.tarball} has sha512={found}; allowed is {package.sha512}."
            f" Delete it and fetch {package.name}@{package.version} again."
        )


def read_members(package: Package, path: Path) -> dict[str, bytes]:
    """The members of ``package`` out of its verified tarball.

    Raises:
        DataError: The tarball is not the pinned one, or a member is not in it.
    """
    verify(package, path.read_bytes())
    found = {}
    with tarfile.open(path, "r:gz") as archive:
        for member in archive:
            name = member.name.split("/", 1)[-1]
            content = archive.extractfile(member) if name in package.members else None
            if content is not None:
                found[name] = content.read()
    absent = sorted(set(package.members) - set(found))
    if absent:
        raise DataError(f"{package.tarball} lacks {', '.join(absent)}; allowed is the pinned version only.")
    return found
