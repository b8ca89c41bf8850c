"""Furniture libraries of Sweet Home 3D (.sh3f): what each piece is, how large, whose, under which licence.

A library is a zip with a catalogue (Java properties) and one folder of mesh, materials and textures a
piece. Debian packages five of them (sweethome3d-furniture); a .deb unpacked anywhere does as well.
"""

import re
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from edgecmd.core.errors import DataError

DEBIAN_FOLDER = Path("/usr/share/sweethome3d/furniture")
CATALOGUE = "PluginFurnitureCatalog.properties"
# The largest mesh of Debian's libraries has 47 MB; what is larger is no piece of furniture.
MAX_MEMBER_BYTES = 100_000_000
_ESCAPED = re.compile(r"\\u([0-9a-fA-F]{4})")
_NUMBERED = re.compile(r"([A-Za-z]+)#(\d+)")


@dataclass(frozen=True, kw_only=True, slots=True)
class Piece:
    """One piece of furniture.

    Attributes:
        key: Its name in all libraries, such as ``Scopia#bathroom3``.
        name: What it is, in English.
        category: Of the library, such as ``Bathroom``.
        creator: Who made it.
        library: Name of its library.
        licence: As the library states it.
        archive: The library's file.
        model: Path of the mesh inside it.
        size_m: Width, height and depth in metres.
        elevation_m: Height above the floor at which it hangs.
        rotation: Rows of the matrix that turns the mesh upright; empty for none.
    """

    key: str
    name: str
    category: str
    creator: str
    library: str
    licence: str
    archive: Path
    model: str
    size_m: tuple[float, float, float]
    elevation_m: float = 0.0
    rotation: tuple[float, ...] = ()


def read_catalogue(folder: Path = DEBIAN_FOLDER) -> list[Piece]:
    """Every piece of all libraries in a folder and below it, in the order of their keys.

    Raises:
        DataError: There is no library, or one cannot be read.
    """
    archives = sorted(folder.rglob("*.sh3f"))
    if not archives:
        raise DataError(
            f"{folder} has no furniture library (.sh3f). Install Debian's package with `sudo apt-get install"
            " sweethome3d-furniture`, or unpack its .deb and give the folder with --furniture."
        )
    pieces = [piece for archive in archives for piece in read_library(archive)]
    return sorted({piece.key: piece for piece in pieces}.values(), key=lambda piece: piece.key)


def read_library(archive: Path) -> Iterator[Piece]:
    """Pieces of one library.

    Raises:
        DataError: The file is not a library, or a piece lacks name, mesh or size.
    """
    try:
        with zipfile.ZipFile(archive) as opened:
            text = read_member(opened, CATALOGUE).decode("latin1")
    except (OSError, KeyError, zipfile.BadZipFile) as error:
        raise DataError(
            f"{archive} is not a furniture library ({error}). Install the package again."
        ) from error
    common, numbered = parse_properties(text)
    for number in sorted(numbered):
        try:
            yield _piece(numbered[number], common=common, archive=archive)
        except (KeyError, ValueError) as error:
            raise DataError(
                f"{archive}: piece {number} of {CATALOGUE} cannot be read ({error!r}). Every piece needs id,"
                " name, category, model, width, height and depth."
            ) from error


def read_member(archive: zipfile.ZipFile, name: str) -> bytes:
    """Bytes of a file inside a library.

    Raises:
        KeyError: There is none of that name.
        DataError: It is larger than `MAX_MEMBER_BYTES` when unpacked.
    """
    size = archive.getinfo(name).file_size
    if size > MAX_MEMBER_BYTES:
        raise DataError(
            f"{archive.filename}: {name} has {size} bytes; allowed are {MAX_MEMBER_BYTES}. Leave that library"
            " out."
        )
    return archive.read(name)


def parse_properties(text: str) -> tuple[dict[str, str], dict[int, dict[str, str]]]:
    """Java properties: entries of the whole library, and of each piece by its number (``name#3``)."""
    common: dict[str, str] = {}
    numbered: dict[int, dict[str, str]] = {}
    for line in text.splitlines():
        name, equals, value = line.partition("=")
        if not equals or line.startswith("#"):
            continue
        plain = _ESCAPED.sub(lambda match: chr(int(match[1], 16)), value.strip())
        match = _NUMBERED.fullmatch(name.strip())
        if match:
            numbered.setdefault(int(match[2]), {})[match[1]] = plain
        else:
            common[name.strip()] = plain
    return common, numbered


def _piece(entry: Mapping[str, str], *, common: Mapping[str, str], archive: Path) -> Piece:
    rotation = tuple(float(number) for number in entry.get("modelRotation", "").split())
    if len(rotation) not in (0, 9):
        raise ValueError(f"modelRotation has {len(rotation)} numbers, not 9")
    width, height, depth = (float(entry[name]) / 100.0 for name in ("width", "height", "depth"))
    return Piece(
        key=entry["id"],
        name=entry["name"],
        category=entry["category"],
        creator=entry.get("creator", ""),
        library=common.get("name", archive.stem),
        licence=common.get("license", ""),
        archive=archive,
        model=entry["model"].lstrip("/"),
        size_m=(width, height, depth),
        elevation_m=float(entry.get("elevation", "0")) / 100.0,
        rotation=rotation,
    )
