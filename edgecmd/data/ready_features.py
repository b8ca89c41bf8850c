"""Ready teacher features, computed by users with their own teacher and matched by id.

A row belongs to the pair, or to the public image, that its id names. A bare ``.npy`` has no ids; it is taken
only where every order in which people list files gives the same rows.

Shapes: N names, R rows of a file, D feature dimension.
"""

import contextlib
import re
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from edgecmd.core.errors import DataError
from edgecmd.data.modalities.signature import SAME_FEATURE
from edgecmd.data.user_files.csv_tables import canonical, few, read_table, repeated
from edgecmd.data.user_files.decode import (
    ArrayHeader,
    DecodeError,
    array_header,
    decoding,
    npy_array,
    npz_arrays,
    npz_headers,
    npz_members,
    plain_size,
)

Features = Float[np.ndarray, "num dim"]

SUFFIXES = (".npz", ".npy")
IDS_SUFFIX = ".ids.txt"
DTYPES = ("float16", "float32", "float64")
MIN_DIM, MAX_DIM = 2, 65_536
MAX_BYTES = 16 * 2**30
# Lengths whose squares neither vanish nor overflow in float32.
SHORTEST, LONGEST = 1e-15, 1e18
# Endings that a name may carry in a file of features and that its id does not have.
ENDINGS = (
    *(".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".ppm", ".pgm"),
    *(".pnm", ".tga", ".heic", ".heif", ".avif", ".exr", ".apng", ".dng", ".svg"),
    *(".wav", ".flac", ".ogg", ".mp3", ".mp4", ".m4a", ".aac", ".opus", ".aif", ".aiff", ".w64", ".au"),
    *(".npy", ".npz", ".pt"),
)
SORTED_WITH = (".png", ".jpg", ".jpeg", ".webp", ".wav", ".flac")


@dataclass(frozen=True, kw_only=True, slots=True)
class Wanted:
    """What one file of features must answer.

    Attributes:
        setting: Dotted key of the setting that names the file, for messages.
        path: The file.
        names: Ids of the pairs, or keys of the public images, in the order that is wanted; None where they
            are not known, so that only the form of the file is looked at.
        listed: Further orders in which a user may have them, such as that of ``pairs.csv``.
        other_halves: Folders of other images; an id in one of these is not taken for a wanted name.
    """

    setting: str
    path: Path
    names: Sequence[str] | None
    listed: Mapping[str, Sequence[str]]
    other_halves: Collection[str] = ()

    @property
    def label(self) -> str:
        """Setting and file as a message names them."""
        return f"{self.setting}={str(self.path)!r}"


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Ready:
    """Features that fit.

    Attributes:
        features: Row i belongs to ``Wanted.names[i]``, float32, (N, D).
        num_left_out: Rows of the file whose id is not wanted.
    """

    features: Features
    num_left_out: int


def read_ready(pairs: Wanted, public: Wanted, *, problems: list[str]) -> tuple[Ready, Ready] | None:
    """Both files of ready features, checked together.

    Args:
        pairs: The features of the pairs.
        public: Those of the public images.
        problems: Gets a sentence for everything that is wrong with either.

    Returns:
        Both, or None where anything is wrong.
    """
    before = len(problems)
    found = [_read_one(one, problems) for one in (pairs, public)]
    first, second = found
    if first is not None and second is not None and first.features.shape[1] != second.features.shape[1]:
        problems.append(
            f"{pairs.label} has {first.features.shape[1]} numbers per row, {public.label}"
            f" {second.features.shape[1]}. Both must come from one teacher: compute one of them again."
        )
    if first is None or second is None or len(problems) > before:
        return None
    return first, second


def _read_one(wanted: Wanted, problems: list[str]) -> Ready | None:
    """One file; None where it cannot be read or its rows cannot be told."""
    before = len(problems)
    try:
        features, ids = read_file(wanted.path)
    except DataError as error:
        problems.append(f"{wanted.setting}: {error}")
        return None
    if wanted.names is None:
        return Ready(features=features, num_left_out=0)
    rows = _rows(wanted, ids, num=len(features), names=wanted.names, problems=problems)
    if rows is None:
        return None
    # A number that float32 cannot hold becomes infinite, and its row is named below.
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        taken = features[rows].astype(np.float32)
    problems += [f"{wanted.label} {one}" for one in row_problems(taken, wanted.names)]
    left_out = len(features) - len(rows)
    return Ready(features=taken, num_left_out=left_out) if len(problems) == before else None


def _rows(
    wanted: Wanted, ids: Sequence[str] | None, *, num: int, names: Sequence[str], problems: list[str]
) -> np.ndarray | None:
    """Row of the file for each of ``names``; None with a sentence where that is not certain."""
    if ids is not None:
        found, sentences = match(ids, names, other_halves=wanted.other_halves)
        problems += [f"{wanted.label} {one}" for one in sentences]
        return None if sentences else np.array([found[name] for name in names])
    if num != len(names):
        problems.append(
            f"{wanted.label} has {num} rows, and the data has {len(names)}. {_way_out(wanted.path)}"
        )
        return None
    orders = usual_orders(names, wanted.listed)
    other = next((one for one in orders.items() if list(one[1]) != list(names)), None)
    if other is not None:
        at = next(row for row, (one, two) in enumerate(zip(names, other[1], strict=True)) if one != two)
        problems.append(
            f"{wanted.label} has no ids, and the order of its rows is not certain: row {at} is {names[at]!r},"
            f" or {other[1][at]!r} where names are {other[0]}. {_way_out(wanted.path)}"
        )
        return None
    return np.arange(num)


def _way_out(path: Path) -> str:
    """How ids are given."""
    return (
        f"Save ids with them, numpy.savez({path.with_suffix('.npz').name!r}, ids=ids, features=features), or"
        f" write {path.with_suffix(IDS_SUFFIX).name} beside it, one id per line."
    )


def _pieces(text: str) -> list[tuple[int, int, str]]:
    """``text`` cut into digits and others, so that 2 comes before 10."""
    parts = (one for one in re.split(r"(\d+)", text) if one)
    return [(0, int(one), one) if one.isdecimal() else (1, 0, one) for one in parts]


def _letters(text: str) -> str:
    """What ``ls`` looks at first in most languages: letters and digits, whatever their case."""
    return "".join(one for one in text.casefold() if one.isalnum())


# How people list files -> sort key of a name.
KEYS: dict[str, Callable[[str], Any]] = {
    "sorted": lambda name: name,
    "sorted by folders": lambda name: name.split("/"),
    "sorted whatever the case": str.casefold,
    "sorted by numbers": _pieces,
    "sorted by numbers whatever the case": lambda name: _pieces(name.casefold()),
    "sorted as ls does": lambda name: (_letters(name), name),
    "sorted by decomposed letters": lambda name: unicodedata.normalize("NFD", name),
}


def usual_orders(names: Sequence[str], listed: Mapping[str, Sequence[str]]) -> dict[str, list[str]]:
    """Orders in which people list ``names``, by how they came about.

    Args:
        names: (N,).
        listed: Orders that are in a file, by where; those of other names count for nothing.
    """
    orders = {how: sorted(names, key=key) for how, key in KEYS.items()}
    for ending in SORTED_WITH:
        for how, key in KEYS.items():
            orders[f"{how} with the ending {ending}"] = sorted(names, key=lambda name: key(name + ending))
    own = set(names)
    orders |= {
        f"in the order of {where}": list(order)
        for where, order in listed.items()
        if len(order) == len(names) and set(order) == own
    }
    return orders


def listed_orders(path: Path) -> dict[str, list[str]]:
    """Orders of ids that are beside a user's pairs: in their tables, or in their .npz.

    Args:
        path: ``data.path``. What cannot be read has no order; whoever reads the pairs says so.
    """
    orders: dict[str, list[str]] = {}
    if path.is_dir():
        for name in ("pairs.csv", "labels.csv"):
            if (path / name).is_file():
                orders[name] = list(read_table(path / name, required=("id",), optional=(), problems=[]))
    elif path.suffix.lower() == ".npz":
        with contextlib.suppress(Exception), np.load(path, allow_pickle=False) as archive:
            orders[path.name] = _texts(archive["id"])
    return orders


def spellings(name: str) -> list[str]:
    """``name``, then the same without folders in front and without a file's ending."""
    parts = [one for one in name.replace("\\", "/").split("/") if one not in ("", ".")]
    forms = [name]
    for start in range(len(parts)):
        form = "/".join(parts[start:])
        stem, dot, ending = form.rpartition(".")
        forms += [form, *([stem] if stem and (dot + ending).lower() in ENDINGS else [])]
    return list(dict.fromkeys(forms))


def match(
    given: Sequence[str], names: Sequence[str], *, other_halves: Collection[str] = ()
) -> tuple[dict[str, int], list[str]]:
    """Row of each of ``names`` in a file whose rows are called ``given``.

    A name that matches exactly is taken. Else folders in front and the ending of a file may differ, as
    long as there is one answer.

    Args:
        given: Ids of the file's rows, (R,).
        names: Names that are wanted, (N,).
        other_halves: Folders in front of an id that say that it is of another image than the wanted one.

    Returns:
        Rows by name, and sentences about everything that is uncertain or missing.
    """
    known, short = set(names), defaultdict[str, set[str]](set)
    for name in names:
        short[name.rpartition("/")[2]].add(name)
    rows: defaultdict[str, list[int]] = defaultdict(list)
    uncertain: list[str] = []
    others: list[str] = []
    for row, one in enumerate(given):
        hits = _hits(one, known, short)
        if len(hits) > 1:
            uncertain.append(one)
        for name in hits if len(hits) == 1 else ():
            rows[name].append(row)
            others += [one] if _folders_before(one, name) & {*other_halves} else []
    twice = [f"{given[rows[name][0]]} = {given[rows[name][1]]}" for name in names if len(rows[name]) > 1]
    missing = [name for name in names if not rows[name]]
    sentences = []
    if others:
        sentences.append(
            f"has ids in a folder of other images ({', '.join(sorted(other_halves))}): {few(others)}. Give"
            " features of the images that the teacher is to see; if these are the ones, leave the folder"
            " out of the ids."
        )
    if uncertain:
        sentences.append(
            f"has ids that could mean several: {few(uncertain)}. Write each id as it is in the data."
        )
    if twice:
        sentences.append(f"has several rows of one id: {few(twice)}. Keep one row for each.")
    if missing:
        sentences.append(
            f"has no row for {few(missing)} of {len(names)}. Its ids begin {', '.join(map(repr, given[:3]))}."
            " Add the rows; ids are file names, with or without ending."
        )
    return {name: found[0] for name, found in rows.items() if found}, sentences


def _hits(one: str, known: set[str], short: Mapping[str, set[str]]) -> set[str]:
    """Names that ``one`` may stand for."""
    if one in known:
        return {one}
    forms = spellings(one)
    hits = known.intersection(forms)
    if hits or "/" in one or "\\" in one:
        return hits
    return {name for form in forms for name in short.get(form, ())}


def _folders_before(given: str, name: str) -> set[str]:
    """Folders in front of ``name`` in an id that stands for it, in small letters."""
    if given == name:
        return set()
    parts = [one for one in given.replace("\\", "/").split("/") if one not in ("", ".")]
    return {one.casefold() for one in parts[: len(parts) - name.count("/") - 1]}


def row_problems(features: Features, names: Sequence[str]) -> list[str]:
    """Sentences about rows that no teacher gives.

    Args:
        features: float32, (N, D).
        names: Name of each row, (N,).
    """
    finite, zero = np.isfinite(features).all(axis=1), ~features.any(axis=1)
    flat = (features == features[:, :1]).all(axis=1)
    with np.errstate(invalid="ignore"):
        length = np.sqrt(np.square(features.astype(np.float64)).sum(axis=1))
        odd = (length < SHORTEST) | (length > LONGEST)
    wrong = {
        "numbers that are not finite": ~finite,
        "nothing but zeros": zero,
        "one number repeated": finite & ~zero & flat,
        f"a length outside {SHORTEST:g} to {LONGEST:g}": finite & ~zero & ~flat & odd,
    }
    sentences = [
        f"has rows with {what}: {few(names[row] for row in found)}. Compute them again."
        for what, found in ((what, np.flatnonzero(bad).tolist()) for what, bad in wrong.items())
        if found
    ]
    if not sentences and len(features) > 1:
        unit = features / length[:, None]
        if np.linalg.norm(unit - unit[:1], axis=1).max() <= np.sqrt(2.0 * (1.0 - SAME_FEATURE)):
            sentences.append(
                f"has {len(features)} rows that all point the same way, up to their lengths. Compute the"
                " features again."
            )
    return sentences


def read_file(path: Path) -> tuple[np.ndarray, list[str] | None]:
    """Features and ids of a file, nothing looked at but its form.

    Args:
        path: ``.npz`` with ``ids`` and ``features``, or ``.npy``, with ids in ``<name>.ids.txt`` beside it.

    Returns:
        Features of the stored type, (R, D), and R ids; None where it has none.

    Raises:
        DataError: It is missing, of another kind, damaged, too large, or not of shape (R, D).
    """
    if path.suffix.lower() not in SUFFIXES:
        raise DataError(
            f"{path} is neither .npz nor .npy. Save it with numpy.savez(path, ids=ids, features=features)."
        )
    if not path.is_file():
        what = "is a folder" if path.is_dir() else "does not exist"
        raise DataError(f"{path} {what}. Give the file; a relative path starts where the command runs.")
    try:
        features, ids = _read_npz(path) if path.suffix.lower() == ".npz" else _read_npy(path)
    except DecodeError as error:
        raise DataError(f"{path} cannot be read ({error}). Create it again.") from error
    if ids is not None:
        _check_ids(path, ids, num=len(features))
    return features, ids


def _read_npy(path: Path) -> tuple[np.ndarray, list[str] | None]:
    with decoding(), path.open("rb") as file:
        header = array_header(file, plain_size(path))
    _check_shape(header, path=path)
    features = npy_array(path, most_bytes=MAX_BYTES)
    beside = path.with_suffix(IDS_SUFFIX)
    if not beside.exists():
        return features, None
    try:
        lines = beside.read_bytes().decode("utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(
            f"{beside} cannot be read ({error}). Save it as UTF-8 text, one id per line."
        ) from error
    while lines and not lines[-1].strip():
        lines.pop()
    return features, [canonical(line) for line in lines]


def _read_npz(path: Path) -> tuple[np.ndarray, list[str] | None]:
    names, members = ("ids", "features"), npz_members(path)
    missing = [name for name in names if name not in members]
    if missing:
        raise DataError(
            f"{path} lacks the array {' and '.join(missing)}; it has"
            f" {', '.join(sorted(members)) or 'none'}. Save it with"
            " numpy.savez(path, ids=ids, features=features)."
        )
    headers = npz_headers(path, names)
    ids = headers["ids"]
    if ids.dtype.kind not in "USiu" or len(ids.shape) != 1:
        raise DataError(
            f"{path} has ids of dtype={ids.dtype} and shape={ids.shape}; allowed is text of shape (rows,)."
            " Convert them with numpy.asarray(ids).astype(str)."
        )
    _check_shape(headers["features"], path=path)
    arrays = npz_arrays(path, names=names, most_bytes=MAX_BYTES)
    return arrays["features"], _texts(arrays["ids"])


def _texts(ids: np.ndarray) -> list[str]:
    return [canonical(one.decode() if isinstance(one, bytes) else str(one)) for one in ids.tolist()]


def _check_shape(header: ArrayHeader, *, path: Path) -> None:
    """Refuse features by their header, before memory is taken for them."""
    shape, dtype = header.shape, header.dtype
    if dtype.name not in DTYPES:
        raise DataError(
            f"{path} has features of dtype={dtype}; allowed are {', '.join(DTYPES)}. Save the teacher's"
            " output with .astype(numpy.float32)."
        )
    if len(shape) != 2 or shape[0] < 1 or not MIN_DIM <= shape[1] <= MAX_DIM:
        raise DataError(
            f"{path} has features of shape={shape}; allowed is (rows, numbers), with {MIN_DIM} to"
            f" {MAX_DIM:,} numbers per row. Pool features of locations to one row per image."
        )


def _check_ids(path: Path, ids: Sequence[str], *, num: int) -> None:
    if len(ids) != num:
        raise DataError(f"{path} has {num} rows of features and {len(ids)} ids. Give each row its id.")
    if not all(ids):
        raise DataError(f"{path} has {sum(not one for one in ids)} empty ids. Give each row its id.")
    twice = repeated(ids)
    if twice:
        raise DataError(f"{path} repeats ids: {few(twice)}. Keep one row for each.")
