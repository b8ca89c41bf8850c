"""A user's own pairs: a folder of image files, or one .npz.

::

    pairs/
      source/<id>.png    what the teacher understands
      target/<id>.png    the same, as the device will see it: a picture, or with 16 bits a depth map;
                         or <id>.wav, <id>.flac: a recording of it
      target_mask/<id>.png  optional: the class of each pixel of the target (`edgecmd.data.mask_files`)
      pairs.csv          optional: id, and owner (for federation.partition) or concept (for the split)
      labels.csv         optional: id,label; for evaluation alone, no client reads it
      public/            optional: public source images, for the anchors

Pictures are PNG, JPEG and WebP of 8 bits, depth maps PNG of 16. Larger images are averaged down to
``data.image_size``; where source and target have one aspect ratio but are no squares, both are squeezed
alike. Of depth the median of what was measured is kept, never a mean with what is missing
(`edgecmd.data.depth`). What becomes of recordings: `edgecmd.data.sound`.
"""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path

from edgecmd.config_data import DataConfig
from edgecmd.data.archive import read_archive
from edgecmd.data.experiment import Experiment
from edgecmd.data.halves import Halves, check_one_kind, notes_on_halves, read_halves, stack_pairs
from edgecmd.data.images import Sides, notes_on_frames, sides_of, to_grey
from edgecmd.data.labelled import Masks
from edgecmd.data.listing import SOUNDS, FileKind, files_by_id, target_files
from edgecmd.data.mask_files import FOLDER as MASK_FOLDER
from edgecmd.data.mask_files import read_masks
from edgecmd.data.own import MIN_PAIRS, MIN_PART, OwnPairs, split_own, to_experiment
from edgecmd.data.pairs import PairedData, kind_of
from edgecmd.data.public import built_in_public, check_public, public_of, read_public
from edgecmd.data.tables import check_ids, few, read_table
from edgecmd.errors import ConfigError, DataError

CHECK_COMMAND = "edgecmd data check"


def load_folder(config: DataConfig) -> Experiment:
    """Load a user's own pairs and split them by concept or by owner.

    Args:
        config: All settings but ``name`` and the scaling of the target are used.

    Returns:
        The experiment; the target is (N, S, S, 3) where all targets have colour, else (N, S, S, 1);
        depth is uint16 millimetres (N, S, S, 1); recordings are (N, T). Labellings are ``group`` (of
        labels.csv), ``concept`` and ``owner``, each only where it was given.

    Raises:
        ConfigError: ``path`` is empty, or the built-in public set does not come in this size.
        DataError: Anything is wrong with the files; the message has the first problem and how to
            list all.
    """
    if not config.path:
        raise ConfigError(
            "data.path='' names no pairs. Set it to a folder with source/ and target/, or to one .npz."
        )
    path = Path(config.path).expanduser()
    problems: list[str] = []
    own = _read_own(path, sides=sides_of(config), minimum=MIN_PAIRS, problems=problems)
    public = own.public if own else None
    public = public_of(config, problems) or public
    if own and public:
        check_public(own, public, problems)
    if problems or own is None:
        raise _first_problem(path, problems)
    if config.target_kind == "grey" and kind_of(own.data.target) == "rgb":
        own = replace(own, data=replace(own.data, target=to_grey(own.data.target)))
    return to_experiment(own, config, public=public or built_in_public(config), name=path.stem)


def load_pairs(path: Path, config: DataConfig) -> PairedData:
    """All pairs of a folder or .npz in the order of the sorted ids, none left out.

    A device does not read its pairs so, because one that is wrong would decide about all of them; see
    `edgecmd.data.device_pairs`.

    Args:
        path: The folder or the file. Labels beside the pairs are not handed on.
        config: ``image_size``, ``sampling_rate_hz`` and ``clip_s`` are used.

    Raises:
        DataError: Anything is wrong with the files, or there are fewer than two pairs.
    """
    problems: list[str] = []
    own = _read_own(path.expanduser(), sides=sides_of(config), minimum=MIN_PART, problems=problems)
    if problems or own is None:
        raise _first_problem(path, problems)
    return own.data


def check_folder(
    path: Path,
    config: DataConfig | None = None,
    *,
    image_size: int = DataConfig().image_size,
    notes: list[str] | None = None,
) -> list[str]:
    """Everything that is wrong with a user's folder or .npz.

    Args:
        path: The folder or the file.
        config: Settings of the run; None for the defaults.
        image_size: Side of the images in a run, in pixels, where there is no ``config``.
        notes: Gets a sentence for what a run can live with, or that a person should look at: recordings that
            are cut or clipped, the range of depth.

    Returns:
        A sentence for each problem; empty where a run can start.
    """
    problems: list[str] = []
    settings = config or DataConfig(image_size=image_size)
    own = _read_own(
        path.expanduser(), sides=sides_of(settings), minimum=MIN_PAIRS, problems=problems, notes=notes
    )
    if own and own.public:
        check_public(own, own.public, problems)
    if own and not problems:
        try:
            split_own(own, settings)
        except (ConfigError, DataError) as error:
            problems.append(str(error))
    return problems


def _first_problem(path: Path, problems: list[str]) -> DataError:
    """Error of the first problem that says how to see the others."""
    more = f" {len(problems) - 1} more: `{CHECK_COMMAND} {path}` lists all." if len(problems) > 1 else ""
    return DataError(f"{problems[0]}{more}")


def _read_own(
    path: Path, *, sides: Sides, minimum: int, problems: list[str], notes: list[str] | None = None
) -> OwnPairs | None:
    """Read a folder or an .npz; None where its pairs cannot be used."""
    own: OwnPairs | None = None
    if path.is_dir():
        own = _read_folder(path, sides=sides, problems=problems, notes=notes)
    elif path.suffix.lower() == ".npz" and path.is_file():
        own = read_archive(path, sides=sides, problems=problems)
    elif path.exists():
        problems.append(
            f"{path} is neither a folder nor an .npz file. Give a folder with source/ and target/."
        )
    else:
        problems.append(
            f"{path} does not exist. Check data.path; a relative path starts where the command runs."
        )
    if own and sides.reverse:
        own = own.reversed()
    if own and len(own.ids) < minimum:
        problems.append(f"{path} has {len(own.ids)} usable pairs; at least {minimum} are needed. Add pairs.")
    return own


def _read_folder(
    path: Path, *, sides: Sides, problems: list[str], notes: list[str] | None
) -> OwnPairs | None:
    """Read source/, target/ and what lies beside them."""
    sources = files_by_id(path / "source", problems)
    targets, kind = target_files(path / "target", problems)
    if sources and targets:
        problems += _unmatched(path, sources, targets)
    ids = sorted(sources.keys() & targets.keys())
    columns = _read_columns(path, ids, problems)
    found = _read_pairs(
        {name: (sources[name], targets[name]) for name in ids}, sides=sides, problems=problems
    )
    halves = {name: half for name, (_, half) in found.items()}
    before = len(problems)
    check_one_kind(halves, sides, where=str(path / "target"), problems=problems)
    is_mixed = len(problems) > before
    if notes is not None:
        notes += notes_on_halves(halves, sides)
        notes += notes_on_frames({f"source/{one}": sources[one] for one in found})
        notes += notes_on_frames({f"target/{one}": targets[one] for one in found})
    masks = _masks(path, {name: targets[name] for name in found}, kind, sides=sides, problems=problems)
    folder = path / "public"
    public = (
        read_public(folder, sides=sides, name=f"{path.name}/public", problems=problems)
        if folder.is_dir()
        else None
    )
    if not found or is_mixed:
        return None
    kept = {
        name: [text for one, text in zip(ids, texts, strict=True) if one in found]
        for name, texts in columns.items()
    }
    return OwnPairs(ids=tuple(found), data=stack_pairs(found), columns=kept, public=public, masks=masks)


def _masks(
    path: Path, targets: Mapping[str, Path], kind: FileKind, *, sides: Sides, problems: list[str]
) -> Masks | None:
    """Masks of the targets, which recordings cannot have."""
    if kind is SOUNDS and (path / MASK_FOLDER).is_dir():
        problems.append(f"{path / MASK_FOLDER} has masks, but recordings have no pixels. Remove the folder.")
        return None
    return read_masks(path, targets, side=sides.target, problems=problems)


def _unmatched(path: Path, sources: Iterable[str], targets: Iterable[str]) -> list[str]:
    """Sentences about ids that have one half of a pair."""
    sides = {("source", "target"): {*sources} - {*targets}, ("target", "source"): {*targets} - {*sources}}
    return [
        f"{path} has ids in {one}/ without a file in {other}/: {few(ids)}. Add the other half or remove them."
        for (one, other), ids in sides.items()
        if ids
    ]


def _read_columns(path: Path, ids: list[str], problems: list[str]) -> dict[str, list[str]]:
    """Owner, concept and label of each id, as far as pairs.csv and labels.csv give them."""
    columns: dict[str, list[str]] = {}
    pairs_csv, labels_csv = path / "pairs.csv", path / "labels.csv"
    if pairs_csv.exists():
        table = read_table(pairs_csv, required=("id",), optional=("owner", "concept"), problems=problems)
        check_ids(pairs_csv, table, ids=ids, complete=True, problems=problems)
        given = {name for row in table.values() for name in row} - {"id"}
        columns |= {name: [table.get(one, {}).get(name, "") for one in ids] for name in sorted(given)}
    if labels_csv.exists():
        table = read_table(labels_csv, required=("id", "label"), optional=(), problems=problems)
        check_ids(labels_csv, table, ids=ids, complete=False, problems=problems)
        columns["label"] = [table.get(one, {}).get("label", "") for one in ids]
    return columns


def _read_pairs(
    files: Mapping[str, tuple[Path, Path]], *, sides: Sides, problems: list[str]
) -> dict[str, Halves]:
    """Both halves of the pairs that can be read, by id."""
    found: dict[str, Halves] = {}
    for name, (source, target) in files.items():
        try:
            found[name] = read_halves(source, target, sides)
        except DataError as error:
            problems.append(str(error))
    return found
