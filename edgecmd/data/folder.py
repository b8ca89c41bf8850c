"""A user's own pairs: a folder of image files, or one .npz.

::

    pairs/
      source/<id>.png    what the teacher understands
      target/<id>.png    the same, as the device will see it; or <id>.wav, <id>.flac: a recording of it
      pairs.csv          optional: id, and owner (for federation.partition) or concept (for the split)
      labels.csv         optional: id,label; for evaluation alone, no client reads it
      public/            optional: public source images, for the anchors

PNG, JPEG and WebP of 8 bits are read. Larger images are averaged down to ``data.image_size``; where
source and target have one aspect ratio but are no squares, both are squeezed alike. What becomes of
recordings: `edgecmd.data.sound`.
"""

import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np

from edgecmd.config_data import DataConfig
from edgecmd.data.archive import read_archive
from edgecmd.data.emoji import load_public
from edgecmd.data.experiment import Experiment
from edgecmd.data.images import (
    Sides,
    check_pair_aspect,
    check_size,
    read_image,
    sides_of,
    squeeze,
    stack_targets,
)
from edgecmd.data.listing import SOUNDS, FileKind, files_by_id, target_files
from edgecmd.data.own import MIN_PAIRS, MIN_PART, OwnPairs, split_own, to_experiment
from edgecmd.data.pairs import Images, PairedData, PublicSource
from edgecmd.data.sound import Recording, notes_on, read_recording
from edgecmd.data.tables import check_ids, few, read_table
from edgecmd.errors import ConfigError, DataError

CHECK_COMMAND = "edgecmd data check"

# A picture of the source, and a picture or a recording of the target.
Halves = tuple[np.ndarray, np.ndarray | Recording]


def load_folder(config: DataConfig) -> Experiment:
    """Load a user's own pairs and split them by concept or by owner.

    Args:
        config: All settings but ``name`` and the scaling of the target are used.

    Returns:
        The experiment; the target is (N, S, S, 3) where all targets have colour, else (N, S, S, 1);
        recordings are (N, T). Labellings are ``group`` (of labels.csv), ``concept`` and ``owner``, each
        only where it was given.

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
    if config.public_path:
        folder = Path(config.public_path).expanduser()
        public = _read_public(folder, side=config.source_side, name=folder.name, problems=problems)
    if own and public:
        _check_public(own, public, problems)
    if problems or own is None:
        raise _first_problem(path, problems)
    return to_experiment(own, config, public=public or _built_in_public(config.source_side), name=path.stem)


def load_pairs(path: Path, config: DataConfig) -> PairedData:
    """All pairs of a device's own folder or .npz, in the order of the sorted ids.

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
        notes: Gets a sentence for what a run can live with: recordings that are cut or clipped.

    Returns:
        A sentence for each problem; empty where a run can start.
    """
    problems: list[str] = []
    settings = config or DataConfig(image_size=image_size)
    own = _read_own(
        path.expanduser(), sides=sides_of(settings), minimum=MIN_PAIRS, problems=problems, notes=notes
    )
    if own and own.public:
        _check_public(own, own.public, problems)
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


def _built_in_public(image_size: int) -> PublicSource:
    """The built-in public set, where it comes in this size."""
    try:
        return load_public(image_size=image_size)
    except ConfigError as error:
        raise ConfigError(
            f"data.image_size={image_size} does not suit the built-in public images (16, 32 or 64)."
            " Put public source images of your own into public/ beside the pairs, or set data.public_path."
        ) from error


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
        {name: (sources[name], targets[name]) for name in ids}, kind, sides=sides, problems=problems
    )
    recordings = {name: one for name, (_, one) in found.items() if isinstance(one, Recording)}
    if notes is not None and recordings:
        notes += notes_on(recordings, clip=sides.clip)
    folder = path / "public"
    public = (
        _read_public(folder, side=sides.source, name=f"{path.name}/public", problems=problems)
        if folder.is_dir()
        else None
    )
    if not found:
        return None
    kept = {
        name: [text for one, text in zip(ids, texts, strict=True) if one in found]
        for name, texts in columns.items()
    }
    return OwnPairs(ids=tuple(found), data=_stack(found), columns=kept, public=public)


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
    files: Mapping[str, tuple[Path, Path]], kind: FileKind, *, sides: Sides, problems: list[str]
) -> dict[str, Halves]:
    """Both halves of the pairs that can be read, by id."""
    read = _read_sound_pair if kind is SOUNDS else _read_image_pair
    found: dict[str, Halves] = {}
    for name, (source, target) in files.items():
        try:
            found[name] = read(source, target, sides)
        except DataError as error:
            problems.append(str(error))
    return found


def _read_image_pair(source_path: Path, target_path: Path, sides: Sides) -> Halves:
    """Two pictures of one field of view."""
    source, target = read_image(source_path), read_image(target_path)
    check_size(source.size, side=sides.source, name=str(source_path))
    check_size(target.size, side=sides.target, name=str(target_path))
    check_pair_aspect(source.size, target.size, name=str(target_path))
    return squeeze(source.convert("RGB"), side=sides.source), squeeze(target, side=sides.target)


def _read_sound_pair(source_path: Path, target_path: Path, sides: Sides) -> Halves:
    """A picture and a recording."""
    recording = read_recording(target_path, sides.clip)
    source = read_image(source_path)
    check_size(source.size, side=sides.source, name=str(source_path))
    return squeeze(source.convert("RGB"), side=sides.source), recording


def _stack(found: Mapping[str, Halves]) -> PairedData:
    """All pairs as two arrays."""
    sources = np.stack([source for source, _ in found.values()])
    recordings = [one.samples for _, one in found.values() if isinstance(one, Recording)]
    pictures = [one for _, one in found.values() if not isinstance(one, Recording)]
    return PairedData(source=sources, target=np.stack(recordings) if recordings else stack_targets(pictures))


def _read_public(folder: Path, *, side: int, name: str, problems: list[str]) -> PublicSource | None:
    """Public source images in the order of their names."""
    images: list[np.ndarray] = []
    files = files_by_id(folder, problems)
    for one in sorted(files):
        try:
            image = read_image(files[one])
            check_size(image.size, side=side, name=str(files[one]))
        except DataError as error:
            problems.append(str(error))
            continue
        images.append(squeeze(image.convert("RGB"), side=side))
    if len(images) < max(len(files), 1):
        return None
    return PublicSource(images=np.stack(images), keys=tuple(sorted(files)), name=name)


def _check_public(own: OwnPairs, public: PublicSource, problems: list[str]) -> None:
    """Refuse public images that are sources of private pairs: anchors are shown to everybody."""
    private = dict(zip(_digests(own.data.source), own.ids, strict=True))
    both = [
        f"{key} = {private[digest]}"
        for key, digest in zip(public.keys, _digests(public.images), strict=True)
        if digest in private
    ]
    if both:
        problems.append(
            f"Public images are also the source of a pair: {few(both)}. Public images must not be private;"
            " remove them from the public set."
        )


def _digests(images: Images) -> list[bytes]:
    """SHA-256 of each image."""
    return [hashlib.sha256(np.ascontiguousarray(image).data).digest() for image in images]
