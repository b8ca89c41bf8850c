"""Masks of a user's targets: a class for each pixel, from ``target_mask/<id>.png``.

Grey or palette PNG of 8 bits; the number of a pixel is its class, 255 is ignored. What colours a palette
has says nothing. Names of the classes: ``masks.csv`` with the columns ``id,name``.

Shapes: H height, W width, S side of the result.
"""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from edgecmd.core.errors import DataError
from edgecmd.data.labelled import IGNORED, Masks, shown_classes
from edgecmd.data.stored.store import Form
from edgecmd.data.stored.through_store import Listed, Read, through_store
from edgecmd.data.user_files.csv_tables import few, near_names, read_table
from edgecmd.data.user_files.downsample import majority
from edgecmd.data.user_files.images import check_pair_aspect, check_size, open_upright, size_of
from edgecmd.data.user_files.pair_files import MASKS, files_by_id
from edgecmd.data.user_files.reading import reading
from edgecmd.settings import DataConfig

FOLDER, NAMES = "target_mask", "masks.csv"
MODES = ("L", "P")
PNG = b"\x89PNG"
# Bytes 24 and 25 of a PNG: bits a channel, and 0 for grey, of which a decoder spreads fewer levels to 255.
DEPTH_AT, GREY = 24, 0
# Digits of a class; Python refuses to read thousands of them.
LONGEST = 9


def read_masks(
    path: Path,
    targets: Mapping[str, Path],
    *,
    config: DataConfig,
    problems: list[str],
    notes: list[str] | None = None,
) -> Masks | None:
    """Masks of the pairs, (N, S, S), all `IGNORED` where a pair has none.

    Args:
        path: Folder that may hold ``target_mask/`` and ``masks.csv``.
        targets: File of each pair's target by id: images or depth maps.
        config: Side and fit of the targets, and whether many are kept in a store.
        problems: Gets a sentence for everything that is wrong.
        notes: Gets a sentence for files that are not used.

    Returns:
        None where there is no such folder or it cannot be used.
    """
    folder, before = path / FOLDER, len(problems)
    if not folder.is_dir():
        if notes is not None and (path / NAMES).exists():
            notes.append(f"{path / NAMES} is not used: there is no {FOLDER}/ beside it.")
        return None
    files = files_by_id(folder, problems, kind=MASKS, notes=notes)
    unknown = [name for name in files if name not in targets]
    if unknown:
        near = near_names(unknown, [name for name in targets if name not in files])
        problems.append(
            f"{folder} has masks without a pair: {few(unknown)}. {near}{' ' if near else ''}Remove them, or"
            " give them the names of their pairs."
        )
    names = _read_names(path / NAMES, problems, notes=notes)
    seen = set[int]()
    found = through_store(_listed(folder, files, targets, config, seen), problems=problems, notes=[])
    shown = sorted(seen - {IGNORED}) if found is None else shown_classes(found[FOLDER])
    stray = [one for one in shown if names and one not in names]
    if stray:
        problems.append(
            f"{folder} has class {stray[0]}, which {path / NAMES} does not name. Add a line {stray[0]},NAME,"
            f" or use {IGNORED} for ignored pixels."
        )
    if found is None or len(problems) > before:
        return None
    num = 1 + max([*names, *shown], default=-1)
    return Masks(values=found[FOLDER], names=tuple(names.get(one, f"class {one}") for one in range(num)))


def _listed(
    folder: Path,
    files: Mapping[str, Path],
    targets: Mapping[str, Path],
    config: DataConfig,
    seen: set[int],
) -> Listed:
    """The masks of ``targets``; ``seen`` gets the numbers of all that are read."""
    ids, side, fit = list(targets), config.image_size, config.fit
    form = Form(shape=(side, side), dtype=np.dtype(np.uint8))

    def read(row: int) -> Read:
        file, target = files.get(ids[row]), targets[ids[row]]
        empty = np.full(form.shape, IGNORED, form.dtype)
        mask = empty if file is None else read_mask(file, side=side, fit=fit, target=target)
        seen.update(np.unique(mask).tolist())
        return {FOLDER: mask}

    return Listed(
        what=f"masks {folder.resolve()} {side} {fit} {config.max_pairs}",
        files=[(name, (targets[name], *([files[name]] if name in files else []))) for name in ids],
        config=config,
        row_bytes=form.nbytes,
        read=read,
        forms=lambda: {FOLDER: form},
        seen=FOLDER,
        nouns="masks",
    )


def read_mask(
    file: Path, *, side: int, fit: str, target: Path | None = None
) -> UInt8[np.ndarray, "side side"]:
    """One mask, each cell of pixels as its most frequent class (`downsample.majority`).

    Args:
        file: PNG.
        side: S.
        fit: ``data.fit``; a border is ignored.
        target: What it is a mask of; it must have the same aspect.

    Raises:
        DataError: It is broken, too small, has colours instead of numbers, or another aspect.
    """
    image = open_upright(file)
    with reading(file, what="a mask", way_out="Save it again."), file.open("rb") as opened:
        header = opened.read(DEPTH_AT + 2)
    is_spread = header[DEPTH_AT + 1] == GREY and header[DEPTH_AT] != 8
    if image.mode not in MODES or not header.startswith(PNG) or is_spread:
        raise DataError(
            f"{file} is not a mask (mode {image.mode}): a mask is PNG, grey with 8 bits or with a palette,"
            f" whose values are classes; {IGNORED} is ignored. Save it like that; colours have no meaning"
            " here."
        )
    check_size(image.size, side=side, fit=fit, name=str(file))
    if target is not None:
        check_pair_aspect(size_of(target), image.size, name=str(file))
    return majority(np.asarray(image), side=side, fit=fit, ignored=IGNORED)


def _read_names(path: Path, problems: list[str], *, notes: list[str] | None) -> Mapping[int, str]:
    """Names by class; empty where there is no table."""
    if not path.exists():
        return {}
    table = read_table(path, required=("id", "name"), optional=(), problems=problems, notes=notes)
    odd = [one for one in table if not one.isdecimal() or len(one) > LONGEST or int(one) >= IGNORED]
    if odd:
        problems.append(f"{path} names {few(odd)}; a class is a whole number from 0 to {IGNORED - 1}.")
        return {}
    return {int(one): row["name"] for one, row in table.items()}
