"""VGGSound (Chen et al. 2020): ten seconds of a video's sound beside one of its pictures.

The set is ``vggsound.csv``, without a header: YouTube id, second at which the clip starts, label, and
``train`` or ``test``. The videos are not part of it, and edgecmd reads no video; what is read is what you
made of them, as common code lays it out::

    vggsound.csv
    audio/<YouTube id>_<start, six digits>.wav     or .flac
    frames/<YouTube id>_<start, six digits>.jpg    or .png, .webp; the middle of the clip, say

such as ``audio/---g-f_I2yQ_000001.wav``. Lines without files are left out and counted: videos vanish. A pair
with one half is refused by name. Clips of one video are in one part, and the split is the official one.
"""

import csv
from pathlib import Path

from edgecmd.core.errors import DataError
from edgecmd.data.user_files import images, sound_files
from edgecmd.data.user_files.csv_tables import few
from edgecmd.data.user_files.reading import reading
from edgecmd.datasets.on_disk.index import (
    TEST,
    TRAIN,
    Entry,
    Index,
    not_used,
    one_each,
    unknown_layout,
    visible,
)
from edgecmd.settings import DataConfig

TABLE = "vggsound.csv"
LONGEST_SECOND = 6
EXPECTED = f"{TABLE}, audio/<YouTube id>_<start, six digits>.wav and frames/ of the same names with .jpg"


def index_vggsound(path: Path, _config: DataConfig) -> Index:
    """Index of VGGSound; an entry is a clip.

    Args:
        path: The folder that has the table, ``audio/`` and ``frames/``.

    Raises:
        DataError: The layout is another one, or the table is damaged.
    """
    if not all((path / name).exists() for name in (TABLE, "audio", "frames")):
        raise unknown_layout(path, expected=EXPECTED)
    sounds = visible(path / "audio", "*", sound_files.SUFFIXES)
    pictures = visible(path / "frames", "*", images.SUFFIXES)
    heard, seen = ({one.stem: one for one in files} for files in (sounds, pictures))
    lines = _table(path / TABLE)
    entries = [
        Entry(
            id=name,
            source=seen[name],
            target=heard[name],
            concept=name.rpartition("_")[0],
            label=label,
            part=part,
        )
        for name, (label, part) in sorted(lines.items())
        if name in heard and name in seen
    ]
    if not entries:
        raise unknown_layout(path / "audio", expected=EXPECTED)
    problems = one_each((one.stem for one in sounds), what="recordings", folder=path / "audio")
    problems += one_each((one.stem for one in pictures), what="pictures", folder=path / "frames")
    for one, other, folder in ((heard, seen, "frames"), (seen, heard, "audio")):
        halves = [name for name in one if name in lines and name not in other]
        if halves:
            problems.append(f"{path / folder} lacks {few(halves)}. Add the other half or remove them.")
    told = [one for one in (*sounds, *pictures) if one.stem in lines]
    notes = not_used(path, [path / TABLE, *told])
    if len(entries) < len(lines):
        notes.insert(
            0, f"{len(lines) - len(entries)} of {len(lines)} lines of {TABLE} have no pair of files."
        )
    return Index(entries=tuple(entries), unseen="videos", problems=problems, notes=notes)


def _table(path: Path) -> dict[str, tuple[str, str]]:
    """Label and part of each clip by the name of its files."""
    found: dict[str, tuple[str, str]] = {}
    with (
        reading(path, what="CSV", way_out="Fetch it again."),
        path.open(encoding="utf-8", newline="") as file,
    ):
        lines = list(csv.reader(file))
    for number, line in enumerate(lines, start=1):
        if len(line) != 4 or not _is_second(line[1].strip()) or line[3] not in (TRAIN, TEST):
            raise DataError(
                f"{path}, line {number}: {','.join(line)[:200]!r} is not YouTube id, second, label, train or"
                " test. Fetch the table again."
            )
        name, told = f"{line[0]}_{int(line[1]):06d}", (line[2].strip(), line[3])
        if found.setdefault(name, told) != told:
            raise DataError(
                f"{path}, line {number}: {name} has the label and part {told}, and {found[name]} above. Keep"
                " one line for each clip."
            )
    return found


def _is_second(text: str) -> bool:
    return text.isdecimal() and len(text) <= LONGEST_SECOND
