"""Which files in the folder of one half belong to pairs, and what happens to all others.

Every visible file is read, or named: as a problem where it was evidently meant to be read (an image or a
recording in a form that is not), else in a note. Hidden files and those that systems leave are passed over.
"""

import os
import stat
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from edgecmd.core.text import counted
from edgecmd.data.user_files import images, sound_files
from edgecmd.data.user_files.csv_tables import (
    FEW,
    canonical,
    few,
    grouped,
    near_names,
    same_but_case,
    without_folder,
)

# Of files and folders alike, in lower case: what file managers and office programs leave behind.
SYSTEM_NAMES = frozenset(
    {"thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r", "__macosx", "@eadir", "$recycle.bin"}
)
HIDDEN_STARTS = (".", "~$")
# Not read, but who puts such a file into a half of the pairs means it. In lower case.
UNREAD: dict[str, tuple[str, ...]] = {
    "picture": (
        *(".avif", ".bmp", ".cr2", ".cr3", ".dds", ".dib", ".dng", ".emf", ".eps", ".gif", ".hdr", ".heic"),
        *(".heif", ".hif", ".ico", ".j2k", ".jp2", ".jxl", ".mng", ".nef", ".orf", ".pbm", ".pcx", ".pdf"),
        *(".pgm", ".pnm", ".ppm", ".psd", ".raf", ".raw", ".rw2", ".svg", ".svgz", ".tga", ".tif", ".tiff"),
        *(".wmf", ".xcf"),
    ),
    "recording": (
        *(".3gp", ".8svx", ".aac", ".ac3", ".aif", ".aifc", ".aiff", ".amr", ".ape", ".au", ".avi", ".caf"),
        *(".m4a", ".m4b", ".mid", ".midi", ".mka", ".mkv", ".mov", ".mp2", ".mp3", ".mp4", ".oga", ".ogg"),
        *(".ogv", ".opus", ".ra", ".rf64", ".snd", ".sph", ".w64", ".wave", ".webm", ".wma", ".wmv", ".wv"),
    ),
    "array": (".exr", ".h5", ".hdf5", ".mat", ".npy", ".npz", ".pfm", ".pkl", ".pt", ".pth"),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class FileKind:
    """One kind of file.

    Attributes:
        what: What a file of it is called.
        suffixes: Read, in lower case.
        convert: What to make of others.
    """

    what: str
    suffixes: tuple[str, ...]
    convert: str


PICTURES = FileKind(what="image", suffixes=images.SUFFIXES, convert="PNG (depth: with 16 bits)")
MASKS = FileKind(what="mask", suffixes=(".png",), convert="PNG")
SOUNDS = FileKind(what="sound file", suffixes=sound_files.SUFFIXES, convert="WAV or FLAC")
# Every ending that is read or meant in some half.
MEDIA = frozenset(
    {*PICTURES.suffixes, *SOUNDS.suffixes, *(suffix for group in UNREAD.values() for suffix in group)}
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Seen:
    """What is in a folder and in the folders in it.

    Attributes:
        files: Visible files that can be opened, by their path in the folder.
        odd: What cannot be a file of a pair, by the reason.
        deeper: Folders below those that are searched.
        empty: Folders without any visible file.
    """

    files: dict[str, Path] = field(default_factory=dict)
    odd: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    deeper: list[str] = field(default_factory=list)
    empty: list[str] = field(default_factory=list)


def is_hidden(name: str) -> bool:
    """Whether a file or folder is passed over without a word: hidden, or left there by a system."""
    return name.startswith(HIDDEN_STARTS) or name.casefold() in SYSTEM_NAMES


def is_text(name: str) -> bool:
    """Whether a name can be written as UTF-8; a split by its hash, a table and a report need that."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def seen_in(folder: Path) -> Seen:
    """Look through a folder and the folders in it; nothing is opened, so nothing can block.

    Raises:
        OSError: The folder itself cannot be listed.
    """
    seen = Seen()
    for one in sorted(folder.iterdir()):
        if not is_hidden(one.name):
            _look(one, one.name, seen, depth=0)
    return seen


def _look(path: Path, name: str, seen: Seen, *, depth: int) -> None:
    """Sort one entry into ``seen``."""
    if not is_text(name):
        seen.odd["has a name that is not UTF-8"].append(name.encode(errors="backslashreplace").decode())
        return
    try:
        mode = path.stat().st_mode
    except OSError as error:
        why = "links to nothing" if path.is_symlink() else f"cannot be examined ({error.strerror})"
        seen.odd[why].append(name)
        return
    if stat.S_ISDIR(mode):
        _look_into(path, name, seen, depth=depth)
    elif not stat.S_ISREG(mode):
        seen.odd["is not a regular file (a pipe, socket or device)"].append(name)
    elif not os.access(path, os.R_OK):
        seen.odd["may not be read by this user"].append(name)
    else:
        seen.files[name] = path


def _look_into(path: Path, name: str, seen: Seen, *, depth: int) -> None:
    """Sort what is in a folder into ``seen``, where it is searched."""
    if path.suffix.lower() in MEDIA:
        seen.odd["is a folder with the name of a file"].append(name)
        return
    try:
        inside = [one for one in sorted(path.iterdir()) if not is_hidden(one.name)]
    except OSError:
        seen.odd["is a folder that may not be read by this user"].append(name)
        return
    if depth:
        seen.deeper.append(name)
        return
    if not inside:
        seen.empty.append(name)
    for one in inside:
        _look(one, f"{name}/{one.name}", seen, depth=depth + 1)


def target_files(
    folder: Path, problems: list[str], *, notes: list[str] | None = None
) -> tuple[dict[str, Path], FileKind]:
    """Files of ``target/`` by id, and their kind: recordings where there is any, else images."""
    try:
        present = (
            {path.suffix.lower() for path in seen_in(folder).files.values()} if folder.is_dir() else set()
        )
    except OSError:
        present = set()
    pictures, sounds = present & {*PICTURES.suffixes}, present & {*SOUNDS.suffixes}
    meant = present & {*UNREAD["recording"]}
    kind = SOUNDS if sounds or (meant and not pictures) else PICTURES
    if sounds and pictures:
        problems.append(
            f"{folder} has images ({', '.join(sorted(pictures))}) beside audio files. Keep one kind; the"
            " targets of a run have one modality."
        )
    return files_by_id(folder, problems, kind=kind, notes=notes), kind


def files_by_id(
    folder: Path, problems: list[str], *, kind: FileKind = PICTURES, notes: list[str] | None = None
) -> dict[str, Path]:
    """Files of ``kind`` in a folder by id: the name without its suffix, with the folder that it is in.

    Args:
        folder: Files are in it, or all in folders in it.
        problems: Gets a sentence for everything that is wrong.
        kind: What to look for.
        notes: Gets a sentence for files that are not used.
    """
    try:
        seen = seen_in(folder)
    except FileNotFoundError:
        problems.append(
            f"{folder} is missing. Pairs are source/<id>.png beside target/<id>.png (or .wav, .flac), or"
            " beside the text of each id in pairs.csv."
        )
        return {}
    except OSError as error:
        problems.append(f"{folder} cannot be listed ({error.strerror}). Make it a folder that can be read.")
        return {}
    found = {name: path for name, path in seen.files.items() if path.suffix.lower() in kind.suffixes}
    problems += [f"{folder} {sentence}" for sentence in _problems(seen, found, kind)]
    if notes is not None:
        notes += [f"{folder} {sentence}" for sentence in _notes(seen, found)]
    return {_id(name): path for name, path in found.items()}


def _id(name: str) -> str:
    return canonical(name.removesuffix(Path(name).suffix))


def _problems(seen: Seen, found: Mapping[str, Path], kind: FileKind) -> list[str]:
    """What keeps the files of a half from being used; each sentence goes on after the folder's name."""
    problems = [
        f"has {counted(len(names), 'entry', 'entries')} that {_agreeing(why, names)}: {_shown(names)}."
        " Replace, rename or remove them."
        for why, names in seen.odd.items()
    ]
    meant = [name for name, path in seen.files.items() if name not in found and path.suffix.lower() in MEDIA]
    if meant:
        problems.append(
            f"has files of another kind: {grouped(by_ending(meant))}. Convert them to {kind.convert}, or"
            " remove them."
        )
    if seen.deeper:
        problems.append(
            f"has folders in folders: {few(seen.deeper)}. One level is searched; move the files up."
        )
    nested = sorted({name.split("/")[0] for name in found if "/" in name})
    flat = [name for name in found if "/" not in name]
    if nested and flat:
        problems.append(
            f"has {counted(len(flat), 'file')} beside folders with files: {few(nested)}. Put all files into"
            " folders, or none."
        )
    if not found:
        problems.append(f"has no {kind.what} ({', '.join(kind.suffixes)}), nor have the folders in it.")
    return problems + _double(found)


def _double(found: Mapping[str, Path]) -> list[str]:
    """A sentence where an id has more than one file."""
    files: defaultdict[str, list[str]] = defaultdict(list)
    for name in found:
        files[_id(name)].append(name)
    twice = {one: names for one, names in files.items() if len(names) > 1}
    if not twice:
        return []
    spelt = [names for names in twice.values() if len({canonical(name) for name in names}) < len(names)]
    why = " Some names look alike but are spelt differently in Unicode." if spelt else ""
    first = ", ".join(repr(name) for name in next(iter(twice.values())))
    return [
        f"has ids with more than one file: {few(twice)}. The first are {first}.{why} Keep one file"
        " for each id."
    ]


def _shown(names: Sequence[str]) -> str:
    return ", ".join(names[:FEW]) + (", ..." if len(names) > FEW else "")


def _agreeing(why: str, names: Sequence[str]) -> str:
    """A reason in the plural where it is of several names."""
    if len(names) == 1:
        return why
    for one, more in (
        ("links to nothing", "link to nothing"),
        ("is not a regular file", "are not regular files"),
        ("is a folder with the name of a file", "are folders with names of files"),
        ("is a folder", "are folders"),
        ("has a name that is", "have names that are"),
    ):
        why = why.replace(one, more)
    return why


def _notes(seen: Seen, found: Mapping[str, Path]) -> list[str]:
    """What is not used and does no harm."""
    others = [
        name for name, path in seen.files.items() if name not in found and path.suffix.lower() not in MEDIA
    ]
    notes = []
    if others:
        notes.append(f"has files that are not used: {grouped(by_ending(others))}.")
    if seen.empty:
        notes.append(f"has empty folders: {few(seen.empty)}.")
    alike = same_but_case({_id(name) for name in found})
    if alike:
        notes.append(
            f"has ids that differ only in upper and lower case: {few(alike)}. They are different pairs here,"
            " and one file on Windows and macOS."
        )
    return notes


def by_ending(names: Sequence[str]) -> dict[str, list[str]]:
    """Names in groups by the ending of the file, for `edgecmd.data.user_files.csv_tables.grouped`."""
    groups: defaultdict[str, list[str]] = defaultdict(list)
    for name in names:
        groups[Path(name).suffix.lower() or "without an ending"].append(name)
    return groups


def unmatched(path: Path, first: Mapping[str, Path], second: Mapping[str, Path]) -> list[str]:
    """Sentences about ids that have one half of a pair, with what may be meant.

    Args:
        path: Folder of both halves.
        first: Files of ``source/`` by id.
        second: Files of ``target/`` by id.
    """
    if any("/" in one for one in first) != any("/" in one for one in second):
        nested, flat = ("source", "target") if any("/" in one for one in first) else ("target", "source")
        return [
            f"{path} has folders in {nested}/ and none in {flat}/. Lay out both halves alike:"
            f" {nested}/<folder>/<id> beside {flat}/<folder>/<id>, or both without folders."
        ]
    sides = {("source", "target"): {*first} - {*second}, ("target", "source"): {*second} - {*first}}
    alone = sides[("source", "target")], sides[("target", "source")]
    sentences = []
    for (one, other), ids in sides.items():
        near = near_names(ids, alone[1] if one == "source" else alone[0]) if ids else ""
        way_out = f"{near} Give both halves the same names." if near else "Add the other half or remove them."
        if ids:
            sentences.append(f"{path} has ids in {one}/ without a file in {other}/: {few(ids)}. {way_out}")
    return sentences


KNOWN_FOLDERS = ("source", "target", "target_mask", "public")
KNOWN_TABLES = ("pairs.csv", "labels.csv", "masks.csv")


def beside(path: Path, problems: list[str], *, notes: list[str]) -> None:
    """Name what is beside the halves and the tables of a folder of pairs and is not used.

    Args:
        path: The folder.
        problems: Gets a sentence for each name that is misspelt, where what it may mean is absent.
        notes: Gets a sentence for all others.
    """
    known = (*KNOWN_FOLDERS, *KNOWN_TABLES)
    entries = [one for one in sorted(path.iterdir()) if not is_hidden(one.name)]
    present = {one.name.encode(errors="backslashreplace").decode(): one for one in entries}
    absent = [name for name in known if name not in present]
    others: list[str] = []
    for name in present:
        if name in known:
            problems += _known_problems(present[name])
            continue
        meant = next((one for one in absent if _is_misspelt(name, one)), "")
        if meant:
            problems.append(
                f"{path} has {name!r}, which is not read. Did you mean {meant!r}? Rename or remove it."
            )
        else:
            others.append(name + ("/" if present[name].is_dir() else ""))
    if others:
        groups = by_ending([name for name in others if not name.endswith("/")])
        folders = {"folders": [name for name in others if name.endswith("/")]}
        told = grouped({what: group for what, group in {**groups, **folders}.items() if group})
        notes.append(
            f"{path} has files or folders beside the pairs that are not used: {told}. Read are"
            f" {', '.join(known)}."
        )


def _known_problems(path: Path) -> list[str]:
    """A sentence where a folder or table of the known ones is something else."""
    if path.is_symlink() and not path.exists():
        return [f"{path} links to nothing. Replace or remove the link."]
    # The halves themselves are looked at where they are read.
    if path.name in ("target_mask", "public") and not path.is_dir():
        return [f"{path} is not a folder. Make it one, or remove it."]
    return []


def _is_misspelt(name: str, known: str) -> bool:
    """Whether a name is a known one in other letters, in the plural, or with a second ending."""
    low, stem = name.casefold(), without_folder(known).removesuffix(".csv")
    if "." not in known:
        return low in (known, f"{known}s", known.removesuffix("s"), known.replace("_", "-"), f"{known}s/")
    return (
        low
        in (
            known,
            f"{stem.removesuffix('s')}.csv",
            f"{stem}s.csv",
            f"{known}.txt",
            f"{known}.csv",
            f"{stem}.tsv",
        )
        or name.strip().casefold() == known
    )
