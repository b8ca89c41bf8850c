"""A user's own pairs: a folder of image files, or one .npz.

::

    pairs/
      source/<id>.png    what the teacher understands
      target/<id>.png    the same, as the device will see it
      pairs.csv          optional: id, and owner (for federation.partition) or concept (for the split)
      labels.csv         optional: id,label; for evaluation alone, no client reads it
      public/            optional: public source images, for the anchors

PNG, JPEG and WebP of 8 bits are read. Larger images are averaged down to ``data.image_size``; where
source and target have one aspect ratio but are no squares, both are squeezed alike.
"""

import hashlib
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from edgecmd.config import DataConfig
from edgecmd.data.archive import read_archive
from edgecmd.data.emoji import load_public
from edgecmd.data.experiment import Experiment
from edgecmd.data.images import (
    SUFFIXES,
    Sides,
    check_pair_aspect,
    check_size,
    read_image,
    sides_of,
    squeeze,
    stack_targets,
)
from edgecmd.data.own import MIN_PAIRS, MIN_PART, OwnPairs, split_rows, to_experiment
from edgecmd.data.pairs import Images, PairedData, PublicSource
from edgecmd.data.tables import canonical, check_ids, few, read_table, repeated
from edgecmd.errors import ConfigError, DataError

# Read by nobody here, but someone who puts such a file between the images means it.
OTHER_SUFFIXES = (".avif", ".bmp", ".gif", ".heic", ".jp2", ".jxl", ".npy", ".svg", ".tif", ".tiff")
CHECK_COMMAND = "edgecmd data check"


def load_folder(config: DataConfig) -> Experiment:
    """Load a user's own pairs and split them by concept.

    Args:
        config: ``path``, ``public_path``, ``image_size``, the fractions and ``strict`` are used.

    Returns:
        The experiment; the target is (N, S, S, 3) where all targets have colour, else (N, S, S, 1).
        Labellings are ``group`` (of labels.csv) and ``concept``, each only where it was given.

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
        config: ``image_size`` is used.

    Raises:
        DataError: Anything is wrong with the files, or there are fewer than two pairs.
    """
    problems: list[str] = []
    own = _read_own(path.expanduser(), sides=sides_of(config), minimum=MIN_PART, problems=problems)
    if problems or own is None:
        raise _first_problem(path, problems)
    return own.data


def check_folder(path: Path, *, image_size: int = DataConfig().image_size) -> list[str]:
    """Everything that is wrong with a user's folder or .npz.

    Args:
        path: The folder or the file.
        image_size: Side of the images in a run, in pixels.

    Returns:
        A sentence for each problem; empty where a run can start.
    """
    problems: list[str] = []
    own = _read_own(
        path.expanduser(), sides=Sides(image_size, image_size), minimum=MIN_PAIRS, problems=problems
    )
    if own and own.public:
        _check_public(own, own.public, problems)
    if own and not problems:
        shares = DataConfig()
        try:
            split_rows(own.concepts(), val_fraction=shares.val_fraction, test_fraction=shares.test_fraction)
        except DataError as error:
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


def _read_own(path: Path, *, sides: Sides, minimum: int, problems: list[str]) -> OwnPairs | None:
    """Read a folder or an .npz; None where its pairs cannot be used."""
    own: OwnPairs | None = None
    if path.is_dir():
        own = _read_folder(path, sides=sides, problems=problems)
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


def _read_folder(path: Path, *, sides: Sides, problems: list[str]) -> OwnPairs | None:
    """Read source/, target/ and what lies beside them."""
    sources = _image_files(path / "source", problems)
    targets = _image_files(path / "target", problems)
    if sources and targets:
        problems += _unmatched(path, sources, targets)
    ids = sorted(sources.keys() & targets.keys())
    columns = _read_columns(path, ids, problems)
    data, read = _read_pairs(
        [(name, sources[name], targets[name]) for name in ids], sides=sides, problems=problems
    )
    folder = path / "public"
    public = (
        _read_public(folder, side=sides.source, name=f"{path.name}/public", problems=problems)
        if folder.is_dir()
        else None
    )
    if data is None:
        return None
    kept = {
        name: [text for one, text in zip(ids, texts, strict=True) if one in read]
        for name, texts in columns.items()
    }
    return OwnPairs(ids=tuple(read), data=data, columns=kept, public=public)


def _image_files(folder: Path, problems: list[str]) -> dict[str, Path]:
    """Image files of a folder by id, which is the name without its suffix."""
    if not folder.is_dir():
        problems.append(f"{folder} is missing. Pairs are source/<id>.png beside target/<id>.png.")
        return {}
    files = sorted(one for one in folder.iterdir() if one.is_file() and not one.name.startswith("."))
    images = [one for one in files if one.suffix.lower() in SUFFIXES]
    others = [one.name for one in files if one.suffix.lower() in OTHER_SUFFIXES]
    if others:
        problems.append(
            f"{folder} has files of another kind: {few(others)}. Convert them to PNG, or remove them."
        )
    if not images:
        problems.append(f"{folder} has no image ({', '.join(SUFFIXES)}). Folders inside it are not searched.")
    twice = repeated(canonical(one.stem) for one in images)
    if twice:
        problems.append(f"{folder} has ids with more than one file: {few(twice)}. Keep one file for each id.")
    return {canonical(one.stem): one for one in images}


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
    files: list[tuple[str, Path, Path]], *, sides: Sides, problems: list[str]
) -> tuple[PairedData | None, list[str]]:
    """Images of the pairs that can be read, and their ids."""
    sources: list[np.ndarray] = []
    targets: list[np.ndarray] = []
    read: list[str] = []
    for name, source_path, target_path in files:
        try:
            source, target = read_image(source_path), read_image(target_path)
            check_size(source.size, side=sides.source, name=str(source_path))
            check_size(target.size, side=sides.target, name=str(target_path))
            check_pair_aspect(source.size, target.size, name=str(target_path))
        except DataError as error:
            problems.append(str(error))
            continue
        sources.append(squeeze(source.convert("RGB"), side=sides.source))
        targets.append(squeeze(target, side=sides.target))
        read.append(name)
    if not read:
        return None, []
    return PairedData(source=np.stack(sources), target=stack_targets(targets)), read


def _read_public(folder: Path, *, side: int, name: str, problems: list[str]) -> PublicSource | None:
    """Public source images in the order of their names."""
    images: list[np.ndarray] = []
    files = _image_files(folder, problems)
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
