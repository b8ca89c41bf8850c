"""Which files a folder of one half of the pairs holds: pictures, or recordings."""

from dataclasses import dataclass
from pathlib import Path

from edgecmd.data import images, sound
from edgecmd.data.tables import canonical, few, repeated


@dataclass(frozen=True, kw_only=True, slots=True)
class FileKind:
    """One kind of file.

    Attributes:
        what: What a file of it is called.
        suffixes: Read, in lower case.
        others: Not read, but someone who puts such a file there means it.
        convert: What to make of those.
    """

    what: str
    suffixes: tuple[str, ...]
    others: tuple[str, ...]
    convert: str


PICTURES = FileKind(
    what="image",
    suffixes=images.SUFFIXES,
    others=(".avif", ".bmp", ".gif", ".heic", ".jp2", ".jxl", ".npy", ".svg", ".tif", ".tiff"),
    convert="PNG",
)
MASKS = FileKind(
    what="mask",
    suffixes=(".png",),
    others=(".bmp", ".gif", ".jpeg", ".jpg", ".mat", ".npy", ".tif", ".tiff", ".webp"),
    convert="PNG",
)
SOUNDS = FileKind(
    what="sound file", suffixes=sound.SUFFIXES, others=sound.OTHER_SUFFIXES, convert="WAV or FLAC"
)


def target_files(folder: Path, problems: list[str]) -> tuple[dict[str, Path], FileKind]:
    """Files of ``target/`` by id, and their kind: recordings where there is any, else pictures."""
    present = {one.suffix.lower() for one in folder.iterdir()} if folder.is_dir() else set()
    kind = SOUNDS if present & {*SOUNDS.suffixes, *SOUNDS.others} else PICTURES
    pictures = present & {*PICTURES.suffixes, *PICTURES.others}
    if kind is SOUNDS and pictures:
        problems.append(
            f"{folder} has pictures ({', '.join(sorted(pictures))}) beside recordings. Keep one kind; the"
            " target of a run is one modality."
        )
    return files_by_id(folder, problems, kind=kind), kind


def files_by_id(folder: Path, problems: list[str], *, kind: FileKind = PICTURES) -> dict[str, Path]:
    """Files of ``kind`` in a folder by id, which is the name without its suffix.

    Args:
        folder: Folders inside it are not searched, and hidden files are left out.
        problems: Gets a sentence for everything that is wrong.
        kind: What to look for.
    """
    if not folder.is_dir():
        problems.append(
            f"{folder} is missing. Pairs are source/<id>.png beside target/<id>.png (or .wav, .flac)."
        )
        return {}
    files = sorted(one for one in folder.iterdir() if one.is_file() and not one.name.startswith("."))
    found = [one for one in files if one.suffix.lower() in kind.suffixes]
    others = [one.name for one in files if one.suffix.lower() in kind.others]
    if others:
        problems.append(
            f"{folder} has files of another kind: {few(others)}. Convert them to {kind.convert}, or remove"
            " them."
        )
    if not found:
        allowed = ", ".join(kind.suffixes)
        problems.append(f"{folder} has no {kind.what} ({allowed}). Folders inside it are not searched.")
    twice = repeated(canonical(one.stem) for one in found)
    if twice:
        problems.append(f"{folder} has ids with more than one file: {few(twice)}. Keep one file for each id.")
    return {canonical(one.stem): one for one in found}
