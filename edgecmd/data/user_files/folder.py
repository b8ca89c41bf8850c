"""A user's own pairs: a folder of files, or one .npz.

::

    pairs/
      source/<id>.png    what the teacher understands
      target/<id>.png    the same, as the device will see it: an image, or with 16 bits a depth map;
                         or <id>.wav, <id>.flac: a recording of it
      target_mask/<id>.png  optional: the class of each pixel of the target (`mask_files`)
      pairs.csv          optional: id, and owner (for federation.partition) or concept (for the split);
                         without target/ a column text, which has the targets themselves, and optionally
                         source, the image of each: then several lines may share one
      labels.csv         optional: id,label; for evaluation alone, no client reads it
      public/            optional: public source images, for the anchors

Files may be in folders of one level, ``source/<folder>/<name>.png``, alike in both halves; the id is then
``<folder>/<name>``, and the folder the label where there is no labels.csv. What is read and what is not:
`pair_files`. Larger images are averaged down to ``data.image_size``; where source and target have
one aspect ratio but are not squares, both are squeezed alike. Of depth the median of what was measured is
kept, never a mean with what is missing (`images.make_depth`). Recordings: `sound_files`.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import numpy as np

from edgecmd.core.errors import ConfigError, DataError
from edgecmd.core.machine import path_trouble
from edgecmd.core.text import counted
from edgecmd.data.experiment import Experiment
from edgecmd.data.findings import CHECK_COMMAND, ProblemsError
from edgecmd.data.labelled import Masks
from edgecmd.data.modalities.table import kind_of, target_kinds
from edgecmd.data.pairs import PublicSource
from edgecmd.data.stored.store import Form
from edgecmd.data.stored.through_store import (
    SOURCE,
    TARGET,
    Listed,
    Read,
    pair_bytes,
    pairs_of,
    target_form,
    through_store,
)
from edgecmd.data.user_files.csv_tables import Table, check_ids, few, header_of, read_table, without_ending
from edgecmd.data.user_files.halves import (
    CELLS,
    Cell,
    Maps,
    Seen,
    check_one_kind,
    form_of,
    notes_on_targets,
    read_halves,
    read_source,
)
from edgecmd.data.user_files.images import Sides, notes_on_frames, sides_of, to_grey
from edgecmd.data.user_files.mask_files import FOLDER as MASK_FOLDER
from edgecmd.data.user_files.mask_files import read_masks
from edgecmd.data.user_files.npz import read_archive
from edgecmd.data.user_files.pair_files import (
    SOUNDS,
    FileKind,
    beside,
    files_by_id,
    target_files,
    unmatched,
)
from edgecmd.data.user_files.public_images import (
    built_in_public,
    check_public,
    mixed_colours,
    public_of,
    read_public,
)
from edgecmd.data.user_files.user_pairs import MIN_PAIRS, OwnPairs, drawn, to_experiment
from edgecmd.settings import DataConfig


@dataclass(frozen=True, kw_only=True, slots=True)
class Reading:
    """A user's folder or .npz while it is read.

    Attributes:
        path: The folder or file.
        config: Settings of the run.
        whole: Whether reading goes on after problems that are seen without opening images.
        problems: A sentence for each.
        notes: What a run can live with.
    """

    path: Path
    config: DataConfig
    whole: bool
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def sides(self) -> Sides:
        """What the halves are made into."""
        return sides_of(self.config)

    def refuse(self, *, complete: bool) -> None:
        """Raise what was found, if anything.

        Raises:
            ProblemsError: There is a problem.
        """
        if self.problems:
            raise ProblemsError(
                self.problems,
                notes=self.notes,
                command=f"{CHECK_COMMAND} {self.path}",
                complete=complete,
            )

    def pause(self) -> None:
        """Before images are opened: refuse what is already known to be wrong, unless all is asked for."""
        if not self.whole:
            self.refuse(complete=False)


# What is looked at once the pairs are read; a check adds to the problems or to the notes.
Files = Mapping[str, tuple[Path, Path]]
Check = Callable[[Reading, OwnPairs, PublicSource], None]


def _number(reading: Reading, own: OwnPairs, _public: PublicSource) -> None:
    if len(own.ids) < MIN_PAIRS:
        reading.problems.append(
            f"{reading.path} has {counted(len(own.ids), 'usable pair')}; at least {MIN_PAIRS} are"
            " needed. Add pairs."
        )


def _public(reading: Reading, own: OwnPairs, public: PublicSource) -> None:
    check_public(own, public, reading.problems)


CHECKS: tuple[Check, ...] = (_number, _public)


def load_folder(config: DataConfig, *, whole: bool = False) -> Experiment:
    """Load a user's own pairs and split them by concept or by owner.

    Args:
        config: All settings but ``name`` and the scaling of the target are used.
        whole: Read everything even where a problem is seen before; for a list of all problems.

    Returns:
        The experiment; the target is (N, S, S, 3) where all targets have colour, else (N, S, S, 1);
        depth is uint16 millimetres (N, S, S, 1); recordings are (N, T). Labellings are ``group`` (of
        labels.csv, else of the folders), ``concept`` and ``owner``, each only where it was given.

    Raises:
        ConfigError: ``path`` is empty, or the settings do not suit the pairs.
        DataError: Anything is wrong with the files; the message has the first problem and how to
            list all.

    Guarantees:
        What refuses here is what `edgecmd data check` lists: there is no other way through the files.
    """
    if not config.path:
        raise ConfigError(
            "data.path='' names no pairs. Set it to a folder with source/ and target/, or to one .npz."
        )
    reading = Reading(path=Path(config.path).expanduser(), config=config, whole=whole)
    _check_path(reading)
    public = _public_beside(reading)
    own = read_own(reading)
    public = public or (own.public if own else None) or _built_in(reading)
    if own and public:
        for check in CHECKS:
            check(reading, own, public)
    reading.refuse(complete=True)
    assert own is not None
    assert public is not None
    if config.target_kind == "grey" and kind_of(own.data.target) == "rgb":
        own = replace(own, data=replace(own.data, target=to_grey(own.data.target)))
    made = to_experiment(own, config, public=public, name=reading.path.stem)
    return replace(made, notes=(*reading.notes, *made.notes))


def _check_path(reading: Reading) -> None:
    """Refuse at once what is neither a folder nor an .npz."""
    path = reading.path
    try:
        is_folder, is_file, is_there = path.is_dir(), path.is_file(), path.exists()
        if is_folder:
            next(iter(path.iterdir()), None)
    except (OSError, ValueError) as error:
        why = path_trouble(error).rstrip(".")
        reading.problems.append(f"{path} cannot be opened: {why}. Check data.path.")
        reading.refuse(complete=True)
        return
    if is_there and not is_folder and not (is_file and path.suffix.lower() == ".npz"):
        reading.problems.append(
            f"{path} is not a folder or an .npz file. Give a folder with source/ and target/, or an .npz"
            " file."
        )
    if not is_there:
        reading.problems.append(
            f"{path} does not exist. Check data.path; a relative path starts where the command runs."
        )
    reading.refuse(complete=True)


def _public_beside(reading: Reading) -> PublicSource | None:
    """Public images that a setting names, or that are in ``public/``."""
    problems, notes = reading.problems, reading.notes
    folder = reading.path / "public"
    if reading.config.public_path:
        return public_of(reading.config, problems, notes=notes)
    if folder.is_dir():
        name = f"{reading.path.name}/public"
        return read_public(folder, reading.config, name=name, problems=problems, notes=notes)
    return None


def _built_in(reading: Reading) -> PublicSource | None:
    """The public set that ships; a problem where it does not suit."""
    if reading.problems and not reading.whole:
        return None
    try:
        return built_in_public(reading.config, notes=reading.notes)
    except ConfigError as error:
        if not reading.whole:
            raise
        reading.problems.append(str(error))
        return None


def read_own(reading: Reading) -> OwnPairs | None:
    """Read a folder or an .npz, whose problems are noted; None where its pairs cannot be used."""
    if reading.path.is_dir():
        own = _read_folder(reading)
    else:
        own = read_archive(
            reading.path,
            reading.config,
            sides=reading.sides,
            problems=reading.problems,
            notes=reading.notes,
        )
    return own.reversed() if own and reading.sides.reverse else own


def _read_folder(reading: Reading) -> OwnPairs | None:
    """Read source/, target/ and what is beside them."""
    cell = _cell_in(reading.path)
    if cell is not None:
        return _read_cells(reading, cell)
    path, problems, notes, sides = reading.path, reading.problems, reading.notes, reading.sides
    beside(path, problems, notes=notes)
    sources = files_by_id(path / "source", problems, notes=notes)
    targets, kind = target_files(path / "target", problems, notes=notes)
    if sources and targets:
        problems += unmatched(path, sources, targets)
    ids = sorted(sources.keys() & targets.keys())
    columns = _read_columns(path, ids, problems, notes=notes)
    if sides.reverse and not reading.config.public_path and not (path / "public").is_dir():
        _built_in(reading)
    reading.pause()
    rows = drawn(ids, reading.config, notes=notes)
    files = {ids[row]: (sources[ids[row]], targets[ids[row]]) for row in rows}
    look = partial(_look, reading, files)
    found = through_store(_listed(reading, files, kind), problems=problems, notes=notes, look=look)
    data = pairs_of(found)
    masks = _masks(path, {name: target for name, (_, target) in files.items()}, kind, reading)
    if data is None:
        return None
    kept = {name: [texts[row] for row in rows] for name, texts in columns.items()}
    return OwnPairs(ids=tuple(files), data=data, columns=kept, masks=masks)


def _listed(reading: Reading, files: Files, kind: FileKind) -> Listed:
    """The pairs by their files."""
    sides, every = reading.sides, list(files.values())
    grey = reading.config.target_kind == "grey"

    def halves(row: int) -> Read:
        picture, half = read_halves(*every[row], sides)
        return {SOURCE: picture, TARGET: half}

    def form() -> Form:
        return target_form((one for _, one in every), kind, sides, grey=grey)

    return _list(reading, files, read=halves, target=form)


def _list(
    reading: Reading, files: Files, *, read: Callable[[int], Read], target: Callable[[], Form]
) -> Listed:
    """Pairs by their files, with how a row is read, and the form of its target."""
    sides, config = reading.sides, reading.config
    # What is turned round is a picture for the teacher first, and grey then.
    colours = 1 if config.target_kind == "grey" and sides.reverse else 3
    source = Form(shape=(sides.source, sides.source, colours), dtype=np.dtype(np.uint8))
    return Listed(
        what=f"folder {reading.path.resolve()} {sides!r} {config.target_kind} {config.max_pairs}",
        files=list(files.items()),
        config=config,
        row_bytes=pair_bytes(config),
        read=read,
        forms=lambda: {SOURCE: source, TARGET: target()},
    )


def _cell_in(path: Path) -> Cell | None:
    """What pairs.csv has the targets of, where they are no files."""
    if (path / "target").exists():
        return None
    header = header_of(path / "pairs.csv")
    return next((one for one in CELLS.values() if one.column in header), None)


def _read_cells(reading: Reading, cell: Cell) -> OwnPairs | None:
    """Read source/, and the targets out of pairs.csv."""
    path, problems, notes, sides = reading.path, reading.problems, reading.notes, reading.sides
    beside(path, problems, notes=notes)
    images = files_by_id(path / "source", problems, notes=notes)
    file = path / "pairs.csv"
    required, optional = ("id", cell.column), ("source", "owner", "concept")
    table = read_table(file, required=required, optional=optional, problems=problems, notes=notes)
    ids = sorted(table)
    shown = _images_of(file, table, images, problems, notes=notes)
    _look_at_cells(file, {one: table[one][cell.column] for one in ids}, cell, reading)
    columns = {name: [table[one].get(name, "") for one in ids] for name in ("owner", "concept")}
    columns = {name: texts for name, texts in columns.items() if any(name in row for row in table.values())}
    if "concept" not in columns and any(row.get("source") for row in table.values()):
        # Strings of one image are no two concepts.
        columns["concept"] = [shown.get(one, one) for one in ids]
    columns |= _read_labels(path, ids, problems, notes=notes)
    if (path / MASK_FOLDER).is_dir():
        nouns = target_kinds()[cell.kind].nouns
        problems.append(f"{path / MASK_FOLDER} has masks, but {nouns} have no pixels. Remove the folder.")
    if sides.reverse and not reading.config.public_path and not (path / "public").is_dir():
        _built_in(reading)
    reading.pause()
    rows = drawn(ids, reading.config, notes=notes)
    files = {ids[row]: (images[shown[ids[row]]], file) for row in rows if ids[row] in shown}
    every = list(files.items())

    def halves(row: int) -> Read:
        name, (image, _) = every[row]
        picture, _ = read_source(image, side=sides.source, fit=sides.fit)
        return {SOURCE: picture, TARGET: cell.read(table[name][cell.column], sides)}

    listed = _list(reading, files, read=halves, target=lambda: form_of(cell.kind, sides))
    found = through_store(listed, problems=problems, notes=notes)
    notes += notes_on_frames({f"{SOURCE}/{one}": image for one, image in images.items()})
    data = pairs_of(found)
    if data is None:
        return None
    kept = {name: [texts[row] for row in rows] for name, texts in columns.items()}
    return OwnPairs(ids=tuple(files), data=data, columns=kept)


def _images_of(
    file: Path, table: Table, images: Mapping[str, Path], problems: list[str], *, notes: list[str]
) -> dict[str, str]:
    """The image of each id: what its cell ``source`` names, else the one of the same id."""
    found = {}
    for name, row in table.items():
        wanted = row.get("source") or name
        named = next((one for one in (wanted, without_ending(wanted)) if one in images), None)
        if named is not None:
            found[name] = named
    absent = {table[one].get("source") or one for one in table if one not in found}
    if absent and images:
        problems.append(
            f"{file} names images that source/ does not have: {few(absent)}. An image is named by its file,"
            " with or without the ending, in the column source, or by the id."
        )
    unused = images.keys() - set(found.values())
    if unused and table:
        notes.append(f"{file} has no line for images of source/, which are not used: {few(unused)}.")
    return found


def _look_at_cells(file: Path, texts: Mapping[str, str], cell: Cell, reading: Reading) -> None:
    """Tell of cells that are no target, and of those of which a part is kept."""
    wrong = {}
    for name, text in texts.items():
        try:
            cell.read(text, reading.sides)
        except DataError as error:
            wrong[name] = str(error)
    if wrong:
        first = min(wrong)
        reading.problems.append(
            f"{file} has a {cell.column} that cannot be used: {few(wrong)}. Of {first!r}: {wrong[first]}"
        )
    long = [name for name, text in texts.items() if cell.is_cut(text, reading.sides)]
    if long:
        reading.notes.append(
            f"{file} has a {cell.column} of which only the beginning is kept: {few(long)}. {cell.setting}"
            " says how much."
        )


def _look(reading: Reading, files: Files, seen: Mapping[str, Seen], maps: Maps, notes: list[str]) -> None:
    """Look at all targets for problems and notes."""
    where = reading.path / "target"
    check_one_kind(seen, reading.sides, where=str(where), problems=reading.problems)
    mixed_colours(seen, reading.config, where=where, problems=reading.problems, notes=notes)
    notes += notes_on_targets(seen, maps, reading.sides)
    for index, half in enumerate((SOURCE, TARGET)):
        notes += notes_on_frames({f"{half}/{one}": pair[index] for one, pair in files.items()})


def _masks(path: Path, targets: Mapping[str, Path], kind: FileKind, reading: Reading) -> Masks | None:
    """Masks of the targets, which recordings cannot have."""
    if kind is SOUNDS and (path / MASK_FOLDER).is_dir():
        reading.problems.append(
            f"{path / MASK_FOLDER} has masks, but recordings have no pixels. Remove the folder."
        )
        return None
    return read_masks(path, targets, config=reading.config, problems=reading.problems, notes=reading.notes)


def _read_labels(
    path: Path, ids: list[str], problems: list[str], *, notes: list[str]
) -> dict[str, list[str]]:
    """Label of each id, as far as labels.csv gives it; none where there is no such file."""
    file = path / "labels.csv"
    if not file.exists():
        return {}
    table = read_table(file, required=("id", "label"), optional=(), problems=problems, notes=notes)
    if ids and table:
        table = check_ids(file, table, ids=ids, complete=False, problems=problems, notes=notes)
    return {"label": [table.get(one, {}).get("label", "") for one in ids]}


def _read_columns(
    path: Path, ids: list[str], problems: list[str], *, notes: list[str]
) -> dict[str, list[str]]:
    """Owner, concept and label of each id, as far as tables and folders give them."""
    columns: dict[str, list[str]] = {}
    pairs_csv, labels_csv = path / "pairs.csv", path / "labels.csv"
    if pairs_csv.exists():
        table = read_table(
            pairs_csv, required=("id",), optional=("owner", "concept"), problems=problems, notes=notes
        )
        if ids and table:
            table = check_ids(pairs_csv, table, ids=ids, complete=True, problems=problems, notes=notes)
        given = {name for row in table.values() for name in row} - {"id"}
        columns |= {name: [table.get(one, {}).get(name, "") for one in ids] for name in sorted(given)}
    columns |= _read_labels(path, ids, problems, notes=notes)
    # The folder of a file is its label where no table says another.
    folders = [one.rpartition("/")[0] for one in ids]
    if all(folders) and folders:
        used = (
            "labels.csv gives different labels"
            if labels_csv.exists()
            else "they are the labels, for evaluation"
        )
        notes.append(
            f"{path} has its pairs in {counted(len({*folders}), 'folder')} ({few({*folders})}): {used}."
        )
        columns.setdefault("label", folders)
    return columns
