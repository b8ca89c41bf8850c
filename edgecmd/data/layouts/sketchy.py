"""Sketchy (Sangkloy et al. 2016): photographs and free-hand sketches of them.

As the archive ``rendered_256x256.zip`` unpacks, with the lists of the archive ``info`` beside it::

    256x256/photo/tx_000000000000/<class>/<photo>.jpg
    256x256/sketch/tx_000000000000/<class>/<photo>-<number>.png
    info/invalid-ambiguous.txt, invalid-context.txt, invalid-error.txt, invalid-pose.txt
    info/testset.txt

Other ``tx_*`` folders (moved, scaled or cropped versions) are not read. A line of a list is taken by its
last part without the suffix, whether it has the class before it or not. The lists are optional: without
``testset.txt`` a hash of the photograph decides. All sketches of a photograph are in one part; the class is a
label and nothing else. Who drew which sketch is not in these files.
"""

from functools import lru_cache
from pathlib import Path, PurePosixPath

import numpy as np

from edgecmd.config_data import DataConfig
from edgecmd.data.halves import Halves, read_source
from edgecmd.data.images import Sides, check_pair_aspect, check_size, read_image, squeeze
from edgecmd.data.layouts.index import TEST, TRAIN, Entry, Index, first_folder
from edgecmd.data.tables import few

PLAIN = "tx_000000000000"
PHOTOS, SKETCHES = (".jpg", ".jpeg", ".png"), (".png",)
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
    known = {one.stem: one for one in sorted(photos.glob("*/*")) if one.suffix.lower() in PHOTOS}
    drawn = [one for one in sorted(sketches.glob("*/*")) if one.suffix.lower() in SKETCHES]
    lists = next((one for one in _infos(path, base) if one.is_dir()), None)
    tested = _listed(lists, "testset.txt")
    invalid = set[str]().union(*(_listed(lists, one.name) for one in sorted(_invalid_lists(lists))))
    kept = [one for one in drawn if one.stem not in invalid]
    lost = [one.stem for one in kept if _photo_of(one) not in known]
    problems = [f"{sketches} has sketches without a photograph: {few(lost)}."] if lost else []
    if tested and not tested & known.keys():
        problems.append(
            f"{lists}/testset.txt names no photograph in {photos}, such as {sorted(tested)[0]!r}."
        )
    notes = []
    if len(kept) < len(drawn):
        notes.append(f"{len(drawn) - len(kept)} of {len(drawn)} sketches are in a list of invalid ones.")
    entries = [
        Entry(
            id=f"{one.parent.name}/{one.stem}",
            source=known[_photo_of(one)],
            target=one,
            concept=_photo_of(one),
            label=one.parent.name,
            part=(TEST if _photo_of(one) in tested else TRAIN) if tested else "",
        )
        for one in kept
        if _photo_of(one) in known
    ]
    return Index(entries=tuple(entries), unseen="photographs", read=_read, problems=problems, notes=notes)


def _photo_of(sketch: Path) -> str:
    """Name of the photograph: the sketch's without its number."""
    return sketch.stem.rpartition("-")[0]


def _infos(path: Path, base: Path) -> list[Path]:
    """Where the lists may lie."""
    return [one / name for one in (path, base, base.parent) for name in ("info", "info-06-04/info")]


def _invalid_lists(folder: Path | None) -> list[Path]:
    return list(folder.glob("invalid-*.txt")) if folder else []


def _listed(folder: Path | None, name: str) -> set[str]:
    """Names in a list, without class and suffix; empty where there is no list."""
    file = folder / name if folder else None
    if file is None or not file.is_file():
        return set()
    lines = file.read_text(encoding="utf-8", errors="replace").splitlines()
    return {_bare(line.strip()) for line in lines if line.strip()}


def _bare(line: str) -> str:
    name = PurePosixPath(line.replace("\\", "/")).name
    suffixes = {*PHOTOS, *SKETCHES}
    return name.rpartition(".")[0] if f".{name.rpartition('.')[2].lower()}" in suffixes else name


def _read(entry: Entry, sides: Sides) -> Halves:
    """Photograph and sketch; the sketches of a photograph follow each other, so it is read once."""
    photo, size = _photo(entry.source, sides.source)
    sketch = read_image(entry.target)
    check_size(sketch.size, side=sides.target, name=str(entry.target))
    check_pair_aspect(size, sketch.size, name=str(entry.target))
    return photo, squeeze(sketch.convert("L"), side=sides.target)


@lru_cache(maxsize=1)
def _photo(path: Path, side: int) -> tuple[np.ndarray, tuple[int, int]]:
    return read_source(path, side=side)
