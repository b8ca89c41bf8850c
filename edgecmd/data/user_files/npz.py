"""A user's pairs in one .npz file, read without pickle.

Shapes: N pairs, M public images, H height, W width, C channels.
"""

from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image

from edgecmd.core.errors import DataError
from edgecmd.core.text import counted
from edgecmd.data.modalities.row import Pictures
from edgecmd.data.modalities.utf8 import row_of, text_of
from edgecmd.data.pairs import PairedData, PublicSource
from edgecmd.data.stored.array_files import Examples
from edgecmd.data.stored.store import Form
from edgecmd.data.stored.through_store import (
    EndedError,
    Listed,
    Read,
    needs_store,
    pair_bytes,
    pairs_of,
    source_bytes,
    through_store,
)
from edgecmd.data.user_files.csv_tables import canonical, few, misspelt, repeated
from edgecmd.data.user_files.decode import DecodeError, npz_arrays, npz_headers, npz_members, npz_rows
from edgecmd.data.user_files.halves import Half, form_of
from edgecmd.data.user_files.images import (
    Sides,
    check_pair_aspect,
    check_size,
    make_depth,
    to_rgb,
    to_square,
)
from edgecmd.data.user_files.reading import most_array_bytes
from edgecmd.data.user_files.sound_files import (
    FULL_SCALE,
    MAX_RATE_HZ,
    MIN_RATE_HZ,
    Recording,
    make_recording,
)
from edgecmd.data.user_files.user_pairs import COLUMNS, OwnPairs, drawn
from edgecmd.settings import DataConfig

IMAGES = ("source", "target", "public")
TEXTS = ("id", *COLUMNS)
RATE = "target_rate_hz"
KNOWN = (*IMAGES, *TEXTS, RATE)
GREY_RANK, LINE_RANK = 3, 2

Arrays = Mapping[str, np.ndarray]


def read_archive(
    path: Path, config: DataConfig, *, sides: Sides, problems: list[str], notes: list[str] | None = None
) -> OwnPairs | None:
    """Read ``source``, ``target`` and, where given, ``id``, ``owner``, ``concept``, ``label``, ``public``.

    Args:
        path: The .npz file. Images are uint8, (N, H, W, C) with C 1 or 3, or (N, H, W); texts are
            (N,), of text or of integers, where -1 stands for unknown. A target of int16 and shape (N, T)
            is recordings; ``target_rate_hz``, one integer, is their rate.
            A target of uint8 and shape (N, L) is strings, see `edgecmd.data.modalities.utf8`.
            A target of uint16 and shape (N, H, W, 1) or (N, H, W) is depth in units of ``sides.ruler``.
        config: ``store``, ``max_pairs`` and ``target_kind`` are used.
        sides: What the halves are made into.
        problems: Gets a sentence for everything that is wrong.
        notes: Gets a sentence for arrays that are not used.

    Returns:
        The pairs sorted by id, or None where anything is wrong.
    """
    before, told = len(problems), [] if notes is None else notes
    arrays = _load(path, problems, notes=told, config=config)
    for check in CHECKS:
        # A later check takes for granted what the earlier ones ask for.
        if len(problems) == before:
            problems += [f"{path} {sentence}" for sentence in check(arrays)]
    if sides.reverse and "public" in arrays:
        problems.append(
            f"{path} has public images, but data.reverse=true needs public examples of what the teacher"
            " takes. Put those into a folder, set data.public_path, and leave out the array public."
        )
    if len(problems) > before:
        return None
    rows = drawn(_ids(arrays), config, notes=told)
    if _is_stored(arrays, "source", config):
        own = _through_store(path, arrays, config, sides=sides, problems=problems, rows=rows)
    else:
        own = _assemble(path, arrays, sides=sides, problems=problems, rows=rows)
    public = None if own is None else _public(path, arrays, config, sides=sides, problems=problems)
    return None if own is None or len(problems) > before else replace(own, public=public)


def _is_stored(arrays: Arrays, name: str, config: DataConfig) -> bool:
    """Whether an array goes through a store; both halves do, or none."""
    half, each = ("source", pair_bytes) if name in ("source", "target") else (name, source_bytes)
    return half in arrays and needs_store(len(arrays[half]) * each(config), config)


def _load(path: Path, problems: list[str], *, notes: list[str], config: DataConfig) -> dict[str, np.ndarray]:
    """Known arrays of an archive; those that go through a store as arrays of their form without numbers."""
    try:
        names = tuple(npz_members(path))
    except DecodeError as error:
        problems.append(
            f"{path} is not an .npz archive, or it is cut off ({error}); a pickle is never read."
            " Make it with numpy.savez_compressed(path, source=..., target=...)."
        )
        return {}
    problems += [f"{path} {sentence}" for sentence in misspelt(names, KNOWN)]
    others = [name for name in names if name not in KNOWN]
    if others:
        notes.append(f"{path} has arrays that are not used: {few(others)}. Read are {', '.join(KNOWN)}.")
    try:
        forms = _forms(path)
        kept = {name: one for name, one in forms.items() if _is_stored(forms, name, config)}
        wanted = tuple(name for name in KNOWN if name not in kept)
        return {**npz_arrays(path, names=wanted, most_bytes=most_array_bytes()), **kept}
    except DecodeError as error:
        way_out = "The file is damaged or too large; create it again."
        if "pickle" in str(error):
            way_out = "Python objects need pickle, which is refused; save text with dtype=str."
        problems.append(f"{path}: {error}. {way_out}")
    return {}


def _forms(path: Path) -> dict[str, np.ndarray]:
    """Images of an archive as arrays of their type and shape that take no memory."""
    headers = npz_headers(path, IMAGES)
    return {name: np.broadcast_to(np.zeros((), one.dtype), one.shape) for name, one in headers.items()}


def _image_problems(arrays: Arrays) -> list[str]:
    """Sentences about the image arrays that are absent or have a wrong type or shape."""
    problems = [
        f"lacks the array {name!r}; it has {', '.join(sorted(arrays)) or 'none that edgecmd knows'}."
        for name in ("source", "target")
        if name not in arrays
    ]
    for name in (name for name in IMAGES if name in arrays):
        array = arrays[name]
        if name == "target" and is_sound(array):
            problems += _rate_problems(arrays)
            continue
        channels = array.shape[GREY_RANK:]
        if name == "target" and (is_depth(array) or is_text(array)):
            continue
        if array.dtype != np.uint8 or array.ndim < GREY_RANK or channels not in {(), (1,), (3,)}:
            problems.append(
                f"has {name} of dtype={array.dtype} and shape={array.shape}; allowed is uint8 of shape (num,"
                " height, width) or (num, height, width, channels) with 1 or 3 channels. Scale values to"
                " 0..255 and convert with .astype(numpy.uint8). Depth is a target of uint16 and one"
                " channel; data.depth_scale_mm sets its unit. Strings are a target of uint8 and shape (num,"
                " bytes)."
            )
    return problems


def is_sound(target: np.ndarray) -> bool:
    """Whether targets are recordings: int16 of shape (N, T)."""
    return target.dtype == np.int16 and target.ndim == LINE_RANK


def is_text(target: np.ndarray) -> bool:
    """Whether targets are strings: uint8 of shape (N, L)."""
    return target.dtype == np.uint8 and target.ndim == LINE_RANK


def is_line(target: np.ndarray) -> bool:
    """Whether targets have no sides: recordings or strings."""
    return is_sound(target) or is_text(target)


def is_depth(target: np.ndarray) -> bool:
    """Whether targets are depth maps: uint16 of shape (N, H, W) or (N, H, W, 1)."""
    return target.dtype == np.uint16 and (target.ndim == GREY_RANK or target.shape[GREY_RANK:] == (1,))


def _rate_problems(arrays: Arrays) -> list[str]:
    """A sentence where the rate of the recordings is absent or no single integer."""
    rate = arrays.get(RATE)
    if rate is None or rate.shape != () or rate.dtype.kind not in "iu":
        found = "none" if rate is None else f"dtype={rate.dtype} and shape={rate.shape}"
        return [f"has recordings and {RATE}: {found}. Save one integer beside them: {RATE}=8000."]
    if not MIN_RATE_HZ <= int(rate) <= MAX_RATE_HZ:
        return [f"has {RATE}={int(rate)}; allowed are {MIN_RATE_HZ} to {MAX_RATE_HZ}. Save the true rate."]
    return []


def _size_problems(arrays: Arrays) -> list[str]:
    """Sentences about image arrays without an image or a pixel."""
    return [
        f"has {name} of shape={arrays[name].shape}, which is empty. Save at least one, or leave the array"
        " out."
        for name in IMAGES
        if name in arrays and not arrays[name].size
    ]


def _text_problems(arrays: Arrays) -> list[str]:
    """Sentences about lengths and texts that do not fit the images."""
    num = len(arrays["source"])
    problems = []
    for name in (name for name in TEXTS if name in arrays):
        array = arrays[name]
        if array.dtype.kind not in "Uiu" or array.ndim != 1:
            way_out = "with numpy.char.decode(array)" if array.dtype.kind == "S" else "with .astype(str)"
            problems.append(
                f"has {name} of dtype={array.dtype} and shape={array.shape}; allowed is text or integers of"
                f" shape (num,). Convert it {way_out}."
            )
    return problems + [
        f"has {counted(len(arrays[name]), 'row')} of {name} for {num} of source. Every row is one pair."
        for name in ("target", *TEXTS)
        if name in arrays and arrays[name].ndim and len(arrays[name]) != num
    ]


def _id_problems(arrays: Arrays) -> list[str]:
    """Sentences about ids that are empty or occur twice."""
    ids = _texts(arrays["id"]) if "id" in arrays else []
    problems = []
    if not all(ids):
        problems.append(
            f"has {counted(sum(not one for one in ids), 'empty id')} (-1 counts as empty). Fill them in."
        )
    twice = repeated(one for one in ids if one)
    return [*problems, f"repeats {few(twice)} in id. Make the ids unique."] if twice else problems


CHECKS: tuple[Callable[[Arrays], list[str]], ...] = (
    _image_problems,
    _size_problems,
    _text_problems,
    _id_problems,
)


def _texts(array: np.ndarray) -> list[str]:
    """Entries as text; -1 is empty."""
    return ["" if text == "-1" else text for text in map(canonical, map(str, array.tolist()))]


def _assemble(
    path: Path, arrays: Arrays, *, sides: Sides, problems: list[str], rows: list[int]
) -> OwnPairs | None:
    """Scale the images, make the recordings, and sort the pairs."""
    before = len(problems)
    images: dict[str, np.ndarray] = {}
    try:
        if is_line(arrays["target"]):
            images["target"] = _measured(path, arrays, sides=sides, problems=problems)
        else:
            check_pair_aspect(_size(arrays["source"]), _size(arrays["target"]), name=str(path))
        if is_depth(arrays["target"]):
            check_size(_size(arrays["target"]), side=sides.target, fit=sides.fit, name=f"{path}: target")
            images["target"] = _measured(path, arrays, sides=sides, problems=problems)
        for name in (name for name in ("source", "target") if name not in images):
            side = sides.target if name == "target" else sides.source
            images[name] = _all_square(arrays[name], side=side, fit=sides.fit, name=f"{path}: {name}")
    except DataError as error:
        problems.append(str(error))
    if len(problems) > before:
        return None
    data = PairedData(source=to_rgb(images["source"]), target=images["target"])
    return _sorted(arrays, data.take(np.array(rows)), rows)


def _sorted(arrays: Arrays, data: PairedData, rows: list[int]) -> OwnPairs:
    """The pairs at ``rows`` in the order of their ids, with what is known of each."""
    every = {name: _texts(arrays[name]) for name in COLUMNS if name in arrays}
    texts = {name: [values[row] for row in rows] for name, values in every.items()}
    names = _ids(arrays)
    ids = [names[row] for row in rows]
    order = sorted(range(len(ids)), key=ids.__getitem__)
    return OwnPairs(
        ids=tuple(ids[row] for row in order),
        data=data.take(np.array(order)),
        columns={name: [values[row] for row in order] for name, values in texts.items()},
    )


def _ids(arrays: Arrays) -> list[str]:
    num = len(arrays["source"])
    return _texts(arrays["id"]) if "id" in arrays else [f"{row:0{len(str(num))}d}" for row in range(num)]


def _through_store(
    path: Path,
    arrays: Arrays,
    config: DataConfig,
    *,
    sides: Sides,
    problems: list[str],
    rows: list[int],
) -> OwnPairs | None:
    """The pairs out of a store, which is made of rows that are unpacked one after another."""
    source, target = arrays["source"], arrays["target"]
    # What is turned round is a picture for the teacher first, and grey then.
    grey = config.target_kind == "grey"
    source_grey, target_grey = grey and sides.reverse, grey and not sides.reverse
    try:
        if not is_line(target):
            check_pair_aspect(_size(source), _size(target), name=str(path))
            check_size(_size(target), side=sides.target, fit=sides.fit, name=f"{path}: target")
        check_size(_size(source), side=sides.source, fit=sides.fit, name=f"{path}: source")
    except DataError as error:
        problems.append(str(error))
        return None

    def forms() -> dict[str, Form]:
        colours = 3 if target.shape[GREY_RANK:] == (3,) and not target_grey else 1
        form = Form(shape=(sides.target, sides.target, colours), dtype=target.dtype)
        picture = Form(shape=(sides.source, sides.source, 1 if source_grey else 3), dtype=np.dtype(np.uint8))
        lines = {np.dtype(np.int16): "wave", np.dtype(np.uint8): "text"}
        return {"source": picture, "target": form_of(lines[target.dtype], sides) if is_line(target) else form}

    names = _ids(arrays)
    with closing(_Unpacked(path, arrays, ("source", "target"), sides=sides)) as unpacked:
        listed = Listed(
            what=f"npz {path.resolve()} {sides!r} {config.target_kind} {config.max_pairs}",
            files=[(names[row], (path,)) for row in rows],
            config=config,
            row_bytes=pair_bytes(config),
            in_order=True,
            read=lambda row: unpacked.read(rows[row]),
            forms=forms,
        )
        data = pairs_of(through_store(listed, problems=problems, notes=[]))
    return None if data is None else _sorted(arrays, data, rows)


class _Unpacked:
    """Rows of some arrays of an archive, one after another."""

    def __init__(self, path: Path, arrays: Arrays, names: tuple[str, ...], *, sides: Sides) -> None:
        self._path, self._sides = path, sides
        self._rows = {name: npz_rows(path, name) for name in names}
        self._next, self._num = 0, len(arrays[names[0]])
        self._measured = is_line(arrays["target"]) or is_depth(arrays["target"])
        self._rate = int(arrays[RATE]) if is_sound(arrays["target"]) else 0

    def read(self, row: int) -> Read:
        """What there is at ``row``, which is behind those that were read.

        Raises:
            DataError: The target cannot be used.
            EndedError: The archive is damaged.
        """
        return {name: self._half(name, row, one) for name, one in self._row(row).items()}

    def close(self) -> None:
        """Close the archive, however far it was read."""
        for one in self._rows.values():
            one.close()

    def _half(self, name: str, row: int, one: np.ndarray) -> Half:
        sides, called = self._sides, f"{self._path}: {name} {row}"
        if name == "target" and self._measured:
            return measured(one, rate=self._rate, sides=sides, name=called)
        side = sides.target if name == "target" else sides.source
        square = _all_square(one[None], side=side, fit=sides.fit, name=called)
        return np.asarray(square[0] if name == "target" else to_rgb(square)[0])

    def _row(self, row: int) -> dict[str, np.ndarray]:
        try:
            while self._next <= row:
                found = {name: next(one) for name, one in self._rows.items()}
                self._next += 1
            if self._next == self._num:
                # What lies behind the last row says whether all of them were whole.
                for one in self._rows.values():
                    next(one, None)
        except (DecodeError, StopIteration) as error:
            why = str(error) or "it is cut off"
            raise EndedError(f"{self._path}: {why}. The file is damaged; create it again.") from error
        return found


def _public(
    path: Path, arrays: Arrays, config: DataConfig, *, sides: Sides, problems: list[str]
) -> PublicSource | None:
    """Public images under their row numbers; None where there are none, or they cannot be used."""
    if "public" not in arrays:
        return None
    images, name, side = arrays["public"], f"{path}: public", sides.source
    keys = tuple(f"{row:0{len(str(len(images)))}d}" for row in range(len(images)))
    try:
        check_size(_size(images), side=side, fit=sides.fit, name=name)
        if not _is_stored(arrays, "public", config):
            pictures: Examples = to_rgb(_all_square(images, side=side, fit=sides.fit, name=name))
            return PublicSource(images=pictures, keys=keys, name=f"{path.stem}/public")
    except DataError as error:
        problems.append(str(error))
        return None
    with closing(_Unpacked(path, arrays, ("public",), sides=sides)) as unpacked:
        listed = Listed(
            what=f"public of npz {path.resolve()} {sides!r}",
            files=[(one, (path,)) for one in keys],
            config=config,
            row_bytes=source_bytes(config),
            in_order=True,
            read=unpacked.read,
            forms=lambda: {"public": Form(shape=(side, side, 3), dtype=np.dtype(np.uint8))},
            seen="public",
            nouns="public images",
        )
        found = through_store(listed, problems=problems, notes=[])
    if found is None:
        return None
    return PublicSource(images=found["public"], keys=keys, name=f"{path.stem}/public")


def _measured(path: Path, arrays: Arrays, *, sides: Sides, problems: list[str]) -> np.ndarray:
    """Targets as `measured` makes them; a sentence for each that cannot be."""
    made, rate = [], int(arrays[RATE]) if is_sound(arrays["target"]) else 0
    for row, target in enumerate(arrays["target"]):
        try:
            made.append(measured(target, rate=rate, sides=sides, name=f"{path}: target {row}"))
        except DataError as error:
            problems.append(str(error))
    halves = [one.samples if isinstance(one, Recording) else one for one in made]
    return np.array(halves, dtype=arrays["target"].dtype)


def measured(target: np.ndarray, *, rate: int, sides: Sides, name: str) -> Half:
    """One recording of int16, (T,), string of uint8, (L,), or depth map of uint16, (H, W) or (H, W, 1).

    All as training takes them.

    Raises:
        DataError: It does not fit, or holds nothing.
    """
    if target.dtype == np.int16:
        shares = target.astype(np.float32)[:, None] / FULL_SCALE
        return make_recording(shares, rate, clip=sides.clip, name=name)
    if target.dtype == np.uint8:
        text = text_of(target, name=name)
        try:
            return row_of(text, sides.text_bytes)
        except DataError as error:
            raise DataError(f"{name}: {error}") from error
    return make_depth(
        target.reshape(target.shape[:2]), ruler=sides.ruler, side=sides.target, fit=sides.fit, name=name
    )


def _size(array: np.ndarray) -> tuple[int, int]:
    """Width and height of the images of an array."""
    return array.shape[2], array.shape[1]


def _all_square(array: np.ndarray, *, side: int, fit: str, name: str) -> Pictures:
    """Images averaged down to ``side``, always with a channel axis."""
    check_size(_size(array), side=side, fit=fit, name=name)
    grey = array[..., 0] if array.shape[GREY_RANK:] == (1,) else array
    if _size(array) != (side, side):
        small = [to_square(Image.fromarray(one), side=side, fit=fit) for one in grey]
        grey = np.array(small, dtype=np.uint8).reshape(len(grey), side, side, *grey.shape[GREY_RANK:])
    return grey[..., None] if grey.ndim == GREY_RANK else grey
