"""TU-Berlin (Eitz et al. 2012, "How Do Humans Sketch Objects?"): sketches of 250 classes, no photographs.

As the archive ``sketches_png.zip`` unpacks::

    png/<class>/<number>.png
    png/filelist.txt           optional here: a line <class>/<number>.png for each

There is no photograph in it, so nobody drew these sketches from a picture. ``data.source_path`` names a
folder of photographs, ``<class>/*.jpg``, whose classes are matched by name (``alarm clock`` is
``alarm_clock``); each sketch is paired with some photograph of its class. Kind: class-paired, so the class of
every pair went into making it. All sketches that got one photograph are in one part. Sketchy's
``photo/tx_000000000000`` is such a folder.
"""

from collections import defaultdict
from pathlib import Path, PurePosixPath

from edgecmd.core.errors import ConfigError
from edgecmd.data.user_files.csv_tables import canonical, few
from edgecmd.data.user_files.halves import Halves, read_source
from edgecmd.data.user_files.images import SUFFIXES, Sides, check_size, own_size, read_image, to_square
from edgecmd.data.user_files.user_pairs import position
from edgecmd.datasets.on_disk.index import (
    Entry,
    Index,
    first_folder,
    not_used,
    one_each,
    unknown_layout,
    visible,
)
from edgecmd.settings import DataConfig

LIST = "filelist.txt"
EXPECTED = "png/<class>/<number>.png"


def index_tuberlin(path: Path, config: DataConfig) -> Index:
    """Index of TU-Berlin with photographs of the same classes.

    Args:
        path: The folder that has ``png/``, or ``png/`` itself.
        config: ``source_path`` names the photographs.

    Raises:
        ConfigError: ``source_path`` is empty.
        DataError: The layout is another one, or no class has both.
    """
    if not config.source_path:
        raise ConfigError(
            "data.name='tuberlin' has sketches but no photographs. Set data.source_path to a folder of"
            " photographs, <class>/*.jpg; they are then paired by class."
        )
    root = path / "png" if (path / "png").is_dir() else path
    sketches = _by_class(first_folder((root,), expected=EXPECTED), (".png",))
    source = Path(config.source_path).expanduser()
    photos = _by_class(first_folder((source,), expected="<class>/<photo>.jpg"), SUFFIXES)
    if not sketches:
        raise unknown_layout(root, expected=EXPECTED)
    both = sorted(sketches.keys() & photos.keys())
    if not both:
        raise unknown_layout(source, expected=f"a folder for a class, such as {min(sketches)}/<photo>.jpg")
    entries = [
        entry for name in both for entry in _paired(name, sketches[name], photos[name], relative_to=source)
    ]
    alone = [name for name in sketches if name not in photos]
    notes = (
        [f"{few(alone)} of {len(sketches)} classes have no photographs and are left out."] if alone else []
    )
    # What is said of classes above is not said of their files again.
    told = [one for name in alone for one in sketches[name]]
    told += [file for one in entries for file in (one.source, one.target)]
    told += [folder / LIST for folder in (root, root.parent)]
    inside = source.resolve().is_relative_to(path.resolve())
    for folder in (path,) if inside else (path, source):
        notes += not_used(folder, told)
    return Index(
        entries=tuple(entries),
        unseen="sketches",
        kind="class-paired",
        read=_read,
        problems=[
            *_absent(root),
            *one_each((one.id for one in entries), what="sketches", folder=root),
        ],
        notes=notes,
    )


def _by_class(folder: Path, suffixes: tuple[str, ...]) -> dict[str, list[Path]]:
    """Files of each class by its name in one spelling."""
    found: defaultdict[str, list[Path]] = defaultdict(list)
    for one in visible(folder, "*/*", suffixes):
        found[_spelt(one.parent.name)].append(one)
    return dict(found)


def _spelt(name: str) -> str:
    """A class without the ways in which sets spell it: case, underscores, hyphens."""
    return canonical(name).lower().replace("_", " ").replace("-", " ")


def _paired(name: str, sketches: list[Path], photos: list[Path], *, relative_to: Path) -> list[Entry]:
    """Sketches and photographs of a class, each in the order of a hash, dealt out in turns."""
    drawn = sorted(sketches, key=lambda one: position(f"sketch/{name}/{one.name}"))
    seen = sorted(photos, key=lambda one: position(f"photo/{name}/{one.name}"))
    return [
        Entry(
            id=f"{one.parent.name}/{one.stem}",
            source=seen[row % len(seen)],
            target=one,
            concept=seen[row % len(seen)].relative_to(relative_to).as_posix(),
            label=name,
        )
        for row, one in enumerate(drawn)
    ]


def _absent(root: Path) -> list[str]:
    """A sentence about files that the set's own list has and the folder has not."""
    file = next((one for one in (root / LIST, root.parent / LIST) if one.is_file()), None)
    if file is None:
        return []
    lines = [line.strip() for line in file.read_text(encoding="utf-8", errors="replace").splitlines()]
    names = [PurePosixPath(line) for line in lines if line.endswith(".png")]
    absent = [str(one) for one in names if not (root / one.parent.name / one.name).is_file()]
    return (
        [f"{file} lists files that are missing: {few(absent)}. Unpack the archive again."] if absent else []
    )


def _read(entry: Entry, sides: Sides) -> Halves:
    """Photograph and sketch, each of an aspect of its own: they do not show the same thing."""
    photo, _ = read_source(entry.source, side=sides.source, fit=sides.fit)
    sketch = read_image(entry.target, least=sides.target)
    check_size(own_size(sketch), side=sides.target, fit=sides.fit, name=str(entry.target))
    return photo, to_square(sketch.convert("L"), side=sides.target, fit=sides.fit)
