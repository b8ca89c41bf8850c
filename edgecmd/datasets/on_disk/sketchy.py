"""Sketchy (Sangkloy et al. 2016): photographs and free-hand sketches of them.

As the archive ``rendered_256x256.zip`` unpacks, with the lists of the archive ``info`` beside it::

    256x256/photo/tx_000000000000/<class>/<photo>.jpg
    256x256/sketch/tx_000000000000/<class>/<photo>-<number>.png
    info/invalid-ambiguous.txt, invalid-context.txt, invalid-error.txt, invalid-pose.txt
    info/testset.txt

Other ``tx_*`` folders (moved, scaled or cropped versions) are not read. A line of a list is taken by its
last part without the suffix; where a class stands before it, it is of that class alone. Two classes may have
a photograph of one name. The lists are optional: without ``testset.txt`` a hash of the photograph decides.
All sketches of a photograph are in one part; the class is a label and nothing else. Who drew which sketch is
not in these files.
"""

from collections import Counter
from collections.abc import Collection
from pathlib import Path, PurePosixPath

import numpy as np

from edgecmd.data.user_files.csv_tables import few
from edgecmd.data.user_files.halves import Halves, read_source
from edgecmd.data.user_files.images import (
    Sides,
    check_pair_aspect,
    check_size,
    own_size,
    read_image,
    to_square,
)
from edgecmd.datasets.on_disk.index import (
    TEST,
    TRAIN,
    Entry,
    Index,
    first_folder,
    not_used,
    one_each,
    visible,
)
from edgecmd.settings import DataConfig

PLAIN = "tx_000000000000"
PHOTOS, SKETCHES = (".jpg", ".jpeg", ".png"), (".png",)
# Class and name of a picture, without its suffix.
Key = tuple[str, str]
EXPECTED = f"photo/{PLAIN}/<class>/<photo>.jpg and sketch/{PLAIN}/<class>/<photo>-<number>.png"


def index_sketchy(path: Path, _config: DataConfig) -> Index:
    """Index of Sketchy; an entry is a sketch with its photograph.

    Args:
        path: The folder that has ``photo/`` and ``sketch/``, or the one above it.

    Raises:
        DataError: The layout is another one.
    """
    photos = first_folder((path / "photo" / PLAIN, path / "256x256" / "photo" / PLAIN), expected=EXPECTED)
    base = photos.parent.parent
    sketches = first_folder((base / "sketch" / PLAIN,), expected=EXPECTED)
    pictures, drawn = visible(photos, "*/*", PHOTOS), visible(sketches, "*/*", SKETCHES)
    known = {_key(one): one for one in pictures}
    classes = {one.parent.name for one in (*pictures, *drawn)}
    lists = next((one for one in _infos(path, base) if one.is_dir()), None)
    tested = _listed(lists, "testset.txt", classes)
    invalid = set[Key]().union(*(_listed(lists, one.name, classes) for one in _invalid_lists(lists)))
    kept = [one for one in drawn if not _is_listed(_key(one), invalid)]
    told = [*drawn, *(known[_photo_of(one)] for one in kept if _photo_of(one) in known)]
    told += [*_invalid_lists(lists), lists / "testset.txt"] if lists else []
    notes = not_used(path, told)
    if len(kept) < len(drawn):
        notes.insert(0, f"{len(drawn) - len(kept)} of {len(drawn)} sketches are in a list of invalid ones.")
    named = Counter(stem for _, stem in known)
    entries = [
        Entry(
            id=f"{one.parent.name}/{one.stem}",
            source=known[key],
            target=one,
            # The name alone where no other class has it, so that the split does not hang on the class.
            concept=key[1] if named[key[1]] == 1 else "/".join(key),
            label=one.parent.name,
            part=(TEST if _is_listed(key, tested) else TRAIN) if tested else "",
        )
        for one in kept
        if (key := _photo_of(one)) in known
    ]
    problems = one_each(map("/".join, map(_key, pictures)), what="photographs", folder=photos)
    problems += one_each(map("/".join, map(_key, drawn)), what="sketches", folder=sketches)
    lost = ["/".join(_key(one)) for one in kept if _photo_of(one) not in known]
    problems += [f"{sketches} has sketches without a photograph: {few(lost)}."] if lost else []
    if tested and not any(_is_listed(key, tested) for key in known):
        first = "/".join(filter(None, min(tested)))
        problems.append(f"{lists}/testset.txt names no photograph in {photos}, such as {first!r}.")
    return Index(entries=tuple(entries), unseen="photographs", read=_Reader(), problems=problems, notes=notes)


def _key(file: Path) -> Key:
    """Class and name of a photograph or sketch."""
    return file.parent.name, file.stem


def _photo_of(sketch: Path) -> Key:
    """Class and name of the photograph: the sketch's without its number."""
    return sketch.parent.name, sketch.stem.rpartition("-")[0]


def _is_listed(key: Key, listed: Collection[Key]) -> bool:
    """Whether a list has it, with its class or without any."""
    return key in listed or ("", key[1]) in listed


def _infos(path: Path, base: Path) -> list[Path]:
    """Where the lists may lie."""
    return [one / name for one in (path, base, base.parent) for name in ("info", "info-06-04/info")]


def _invalid_lists(folder: Path | None) -> list[Path]:
    return sorted(folder.glob("invalid-*.txt")) if folder else []


def _listed(folder: Path | None, name: str, classes: Collection[str]) -> set[Key]:
    """Class (empty where a line names none of ``classes``) and name of each line; empty without a list."""
    file = folder / name if folder else None
    if file is None or not file.is_file():
        return set()
    lines = file.read_text(encoding="utf-8", errors="replace").splitlines()
    return {_bare(line.strip(), classes) for line in lines if line.strip()}


def _bare(line: str, classes: Collection[str]) -> Key:
    path = PurePosixPath(line.replace("\\", "/"))
    is_file = path.suffix.lower() in {*PHOTOS, *SKETCHES}
    return path.parent.name if path.parent.name in classes else "", path.stem if is_file else path.name


class _Reader:
    """Reads photograph and sketch; the sketches of a photograph follow each other, so it is read once."""

    def __init__(self) -> None:
        self._last: tuple[tuple[Path, Sides], tuple[np.ndarray, tuple[int, int]]] | None = None

    def __call__(self, entry: Entry, sides: Sides) -> Halves:
        photo, size = self._photo(entry.source, sides)
        sketch = read_image(entry.target, least=sides.target)
        own = own_size(sketch)
        check_size(own, side=sides.target, fit=sides.fit, name=str(entry.target))
        check_pair_aspect(size, own, name=str(entry.target))
        return photo, to_square(sketch.convert("L"), side=sides.target, fit=sides.fit)

    def _photo(self, path: Path, sides: Sides) -> tuple[np.ndarray, tuple[int, int]]:
        # Several threads may read; each takes what it found or read itself.
        last = self._last
        if last is None or last[0] != (path, sides):
            read = read_source(path, side=sides.source, fit=sides.fit)
            last = self._last = (path, sides), read
        return last[1]
