"""Which examples are copies of one another, and what copies do to a set of pairs.

Equal are examples of the same bytes. Near-equal are, for each modality by a rule of its own:

- pictures, where no cell of a 16 by 16 grid differs by more than `LEVELS` of 255 in brightness, none of a
  4 by 4 grid by more than `COLOUR_LEVELS` in a colour, and the whole by no more than a tenth of its contrast;
- depth maps, where no cell differs by more than 1% of its distance, or by 5% of its missing share;
- recordings, where the waves, turned to their loudest sample, have a correlation above `SAME_WAVE`: a copy at
  another level, or with more silence before it and less behind.

So a picture that was saved again as JPEG or resized is found; a crop, a mirrored or a brightened one is not,
nor is a recording at another speed. Groups are connected components, so they do not depend on the order.

All of this looks at a whole set at once. It is for simulations and for the owner's own commands; a device
never runs it, because one pair would decide about others.

Shapes: N examples, F numbers of a signature, R candidate pairs.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Bool, Float, Float32, Int
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from edgecmd.data.pairs import PairedData, Targets, image_digests, target_kind
from edgecmd.data.tables import few
from edgecmd.losses import SAME_FEATURE
from edgecmd.seeding import numpy_generator

if TYPE_CHECKING:
    from edgecmd.data.experiment import Experiment
    from edgecmd.data.labelled import Labels

GRID, COARSE = 16, 4
# Of 255. JPEG of quality 30 at 256 pixels moves a cell by at most 3.4; one pixel in 64 by 64 moves it by 16.
LEVELS, COLOUR_LEVELS = 8.0, 16.0
CONTRAST_SHARE = 0.1
DEPTH_PERCENT, MISSING_SHARE = 1.0, 0.05
SAME_WAVE, WAVE_SUMS, WAVE_REACH = 0.95, 64, 1.6
# Ink is darker than half; where a source is at most 32 levels lighter the ink is in it.
INK, INK_STEP, INK_SHARE, INK_PAIRS, INK_TOLD, INK_LOOKED = 128.0, 32.0, 0.9, 0.8, 0.2, 1000
CHUNK, BLOCK = 256, 65_536
BRIGHTNESS = np.array([299, 587, 114], dtype=np.int64)

Codes = Int[np.ndarray, " num"]
Rows = Int[np.ndarray, " _"]
Close = Callable[[Rows, Rows], Bool[np.ndarray, " _"]]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Signature:
    """Some numbers of each example, scaled so that near-equal ones differ by at most 1 in each.

    Attributes:
        values: (N, F).
        contrast: Norm of what makes an example differ from a blank one, in the same unit, (N,); near-equal
            examples differ by at most a tenth of it.
        close: A slower check of candidates that pass; None where there is none.
    """

    values: Float32[np.ndarray, "num size"]
    contrast: Float[np.ndarray, " num"]
    close: Close | None = None

    def is_near(self, first: Rows, second: Rows) -> Bool[np.ndarray, " _"]:
        """Which of the pairs of rows are near-equal; of each pair alone, so no other row decides."""
        apart = self.values[first] - self.values[second]
        limit = CONTRAST_SHARE * np.minimum(self.contrast[first], self.contrast[second])
        found = (np.abs(apart).max(axis=1) <= 1.0) & (np.linalg.norm(apart, axis=1) <= limit)
        if self.close is not None and found.any():
            found[found] = self.close(first[found], second[found])
        return np.asarray(found)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Alike:
    """Groups of copies among the pairs of a set, near-equal ones included.

    Attributes:
        source: Code of the group of each source, (N,).
        target: Code of the group of each target, (N,).
    """

    source: Codes
    target: Codes

    def __len__(self) -> int:
        return len(self.source)

    def take(self, rows: Rows) -> "Alike":
        """The groups of the pairs at ``rows``, in that order."""
        return Alike(source=self.source[rows], target=self.target[rows])


def alike(pairs: PairedData) -> Alike:
    """Groups of equal and near-equal examples on both halves."""
    return Alike(source=near_groups(pairs.source), target=near_groups(pairs.target))


def equal_groups(examples: Targets) -> Codes:
    """Code of the group of each example, (N,); examples of the same bytes share one."""
    codes: dict[bytes, int] = {}
    return np.array([codes.setdefault(one, len(codes)) for one in image_digests(examples)], dtype=np.int64)


def near_groups(examples: Targets) -> Codes:
    """Code of the group of each example, (N,); equal and near-equal ones share one.

    Args:
        examples: Pictures, depth maps or recordings, see `edgecmd.data.pairs.TARGETS`.

    Guarantees:
        Which examples share a group does not depend on their order. Memory beside the examples is that of
        some hundred numbers an example, and of chunks.
    """
    equal = equal_groups(examples)
    first = np.unique(equal, return_index=True)[1]
    if len(first) < 2:
        return equal
    look = SIGNATURES[target_kind(examples)](examples, first)
    return np.asarray(_components(look)[equal])


def feature_groups(features: Float[np.ndarray, "num dim"]) -> Codes:
    """Code of the group of each feature, (N,); those that point the same way (`SAME_FEATURE`) share one."""
    rows = np.asarray(features, dtype=np.float64)
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    unit = rows / np.maximum(norms, np.finfo(np.float32).tiny)
    # Candidates are found in single precision, whose error is some 1e-7; doubles decide.
    step = np.sqrt(2.0 * (1.0 - SAME_FEATURE))
    values = unit.astype(np.float32)

    def same(first: Rows, second: Rows) -> Bool[np.ndarray, " _"]:
        return np.asarray(np.linalg.norm(unit[first] - unit[second], axis=1) <= step)

    labels = np.arange(len(values))
    for one, other in _neighbours(values, reach=np.full(len(values), 2e-3), margin=2e-6):
        labels = _merged(labels, one, other, same)
    return np.unique(labels, return_inverse=True)[1]


def joined(*codes: Sequence[str] | np.ndarray) -> Codes:
    """Code of each row, (N,), where rows that share a value of any of ``codes`` share one."""
    labels = np.unique(np.asarray(codes[0]), return_inverse=True)[1]
    for one in codes[1:]:
        values, index = np.unique(np.asarray(one), return_index=True)
        first = index[np.searchsorted(values, np.asarray(one))]
        labels = _linked(labels, np.arange(len(labels)), first)
    return np.unique(labels, return_inverse=True)[1]


def joined_names(names: Sequence[str], *codes: np.ndarray) -> list[str]:
    """The name of each row, or where ``codes`` link rows of several names, the first of these by alphabet."""
    groups = joined(np.asarray(names, dtype=object).astype(str), *codes)
    first: dict[int, str] = {}
    for group, name in zip(groups.tolist(), names, strict=True):
        first[group] = min(first.get(group, name), name)
    return [first[group] for group in groups.tolist()]


def near_to(examples: Targets, others: Targets) -> Bool[np.ndarray, " num"]:
    """Which of ``examples`` are equal or near-equal to one of ``others``, (N,).

    Guarantees:
        Whether an example is, depends on that example and on ``others``, on no other example.
    """
    known = set(image_digests(others))
    found = np.array([one in known for one in image_digests(examples)], dtype=bool)
    num = len(examples)
    if not num or not len(others):
        return found
    look = SIGNATURES[target_kind(examples)](np.concatenate([examples, others]), np.arange(num + len(others)))
    for first, second in _candidates(look):
        across = (first < num) & (second >= num)
        across[across] = ~found[first[across]]
        ours, theirs = first[across], second[across]
        for start in range(0, len(ours), BLOCK):
            part = slice(start, start + BLOCK)
            found[ours[part][look.is_near(ours[part], theirs[part])]] = True
    return found


def each_its_own(num: int) -> Alike:
    """The groups of ``num`` pairs of which none is taken for a copy of another."""
    return Alike(source=np.arange(num), target=np.arange(num))


def _components(look: Signature) -> Codes:
    labels = np.arange(len(look.values))
    for first, second in _candidates(look):
        labels = _merged(labels, first, second, look.is_near)
    return np.unique(labels, return_inverse=True)[1]


def _candidates(look: Signature) -> Iterator[tuple[Rows, Rows]]:
    """Pairs of rows that may be near-equal, the earlier row first."""
    centred = look.values - look.values.mean(axis=0)
    reach = np.minimum(np.sqrt(look.values.shape[1]), CONTRAST_SHARE * look.contrast)
    return _neighbours(centred, reach=reach, margin=1.0)


def _neighbours(
    values: Float32[np.ndarray, "num size"], *, reach: Float[np.ndarray, " num"], margin: float
) -> Iterator[tuple[Rows, Rows]]:
    """Pairs of rows that may be within the smaller ``reach`` of both, a chunk of rows at a time."""
    squares = np.square(values).sum(axis=1)
    limits = np.square(reach.astype(np.float32))
    for start in range(0, len(values), CHUNK):
        rows = slice(start, start + CHUNK)
        apart = squares[rows, None] + squares[None, start:] - 2.0 * values[rows] @ values[start:].T
        apart -= np.minimum(limits[rows, None], limits[None, start:])
        first, second = np.nonzero(apart <= margin)
        later = second > first
        yield first[later] + start, second[later] + start


def _merged(labels: Codes, first: Rows, second: Rows, check: Close) -> Codes:
    """``labels`` with those candidates linked that ``check`` confirms; linked ones are not checked again."""
    while len(first):
        apart = labels[first] != labels[second]
        first, second = first[apart], second[apart]
        near = check(first[:BLOCK], second[:BLOCK]) if len(first) else np.zeros(0, dtype=bool)
        labels = _linked(labels, first[:BLOCK][near], second[:BLOCK][near])
        first, second = first[BLOCK:], second[BLOCK:]
    return labels


def _linked(labels: Codes, first: Rows, second: Rows) -> Codes:
    if not len(first):
        return labels
    size = int(labels.max()) + 1
    graph = coo_array((np.ones(len(first), dtype=np.int8), (labels[first], labels[second])), (size, size))
    return np.asarray(connected_components(graph, directed=False)[1][labels], dtype=np.int64)


def cells(values: np.ndarray, side: int) -> Float[np.ndarray, "num side side *channels"]:
    """Means over the cells of a ``side`` by ``side`` grid of maps (N, H, W, ...), by area; float64."""
    height, width = values.shape[1:3]
    rows, columns = _overlap(height, side), _overlap(width, side)
    return np.asarray(
        np.einsum("ah,nhw...,bw->nab...", rows, values.astype(np.float64), columns, optimize=True)
    )


def _overlap(length: int, num: int) -> Float[np.ndarray, "cells length"]:
    """Share of each of ``length`` pixels in each of ``num`` cells; rows sum to 1."""
    edges = np.arange(num + 1) * (length / num)
    start = np.arange(length)
    low = np.maximum(edges[:-1, None], start)
    high = np.minimum(edges[1:, None], start + 1)
    return np.asarray(np.maximum(0.0, high - low) * (num / length))


def _in_chunks(rows: Rows, work: Callable[[Rows], np.ndarray]) -> np.ndarray:
    return np.concatenate([work(rows[start : start + CHUNK]) for start in range(0, len(rows), CHUNK)])


def _centred_norm(*parts: np.ndarray) -> Float[np.ndarray, " num"]:
    """Norm of (N, cells, channels) without the mean over the cells, over all ``parts``."""
    squares = [np.square(one - one.mean(axis=1, keepdims=True)).sum(axis=(1, 2)) for one in parts]
    return np.asarray(np.sqrt(sum(squares)))


def brightness(images: np.ndarray) -> Float[np.ndarray, "num height width"]:
    """Brightness of grey or RGB pictures from 0 to 255."""
    if images.shape[3] != 3:
        return images[..., 0].astype(np.float64)
    return np.asarray(images.astype(np.int64) @ BRIGHTNESS / 1000.0)


def _of_pictures(images: np.ndarray, rows: Rows) -> Signature:
    def numbers(part: Rows) -> np.ndarray:
        chunk = images[part]
        grey = cells(brightness(chunk), GRID).reshape(len(part), -1, 1) / LEVELS
        colour = cells(chunk, COARSE).reshape(len(part), COARSE**2, -1) / COLOUR_LEVELS
        contrast = _centred_norm(grey, colour)[:, None]
        return np.concatenate([contrast, grey[..., 0], colour.reshape(len(part), -1)], axis=1).astype(
            np.float32
        )

    found = _in_chunks(rows, numbers)
    return Signature(values=found[:, 1:], contrast=found[:, 0])


def _of_depth(maps: np.ndarray, rows: Rows) -> Signature:
    def numbers(part: Rows) -> np.ndarray:
        chunk = maps[part][..., 0]
        share = cells(chunk > 0, GRID).reshape(len(part), -1, 1)
        mean = cells(chunk, GRID).reshape(len(part), -1, 1) / np.maximum(share, 1e-9)
        far = np.where(share >= 0.5, 100.0 * np.log(np.maximum(mean, 1.0)), 0.0) / DEPTH_PERCENT
        missing = share / MISSING_SHARE
        contrast = _centred_norm(far, missing)[:, None]
        return np.concatenate([contrast, far[..., 0], missing[..., 0]], axis=1).astype(np.float32)

    found = _in_chunks(rows, numbers)
    return Signature(values=found[:, 1:], contrast=found[:, 0])


def _of_waves(waves: np.ndarray, rows: Rows) -> Signature:
    # Signs that look at all samples: the sums of waves that correlate by 0.95 differ by 0.3 (one standard
    # deviation), those of others by 1.4 in each of the 64.
    signs = 2.0 * numpy_generator(0, "duplicates").integers(0, 2, (waves.shape[1], WAVE_SUMS)) - 1.0

    def numbers(part: Rows) -> np.ndarray:
        lined = _from_peak(waves[part])
        heard = np.where(np.abs(lined).max(axis=1) > 0, np.inf, 0.0)[:, None]
        return np.concatenate([heard, _unit(lined) @ signs / WAVE_REACH], axis=1).astype(np.float32)

    def same(first: Rows, second: Rows) -> Bool[np.ndarray, " _"]:
        found = [
            _correlation(
                _from_peak(waves[rows[first[at : at + CHUNK]]]),
                _from_peak(waves[rows[second[at : at + CHUNK]]]),
            )
            for at in range(0, len(first), CHUNK)
        ]
        return np.asarray(np.concatenate(found) > SAME_WAVE)

    found = _in_chunks(rows, numbers)
    return Signature(values=found[:, 1:], contrast=found[:, 0], close=same)


def _from_peak(waves: np.ndarray) -> Float[np.ndarray, "num samples"]:
    """Recordings turned so that their loudest sample stands first, and what is before it last."""
    first = np.argmax(np.abs(waves.astype(np.float64)), axis=1)
    index = (np.arange(waves.shape[1])[None] + first[:, None]) % waves.shape[1]
    return np.take_along_axis(waves, index, axis=1).astype(np.float64)


def _correlation(first: np.ndarray, second: np.ndarray) -> Float[np.ndarray, " num"]:
    return np.asarray((_unit(first) * _unit(second)).sum(axis=1))


def _unit(rows: np.ndarray) -> np.ndarray:
    return np.asarray(rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-9))


SIGNATURES: dict[str, Callable[[np.ndarray, Rows], Signature]] = {
    "image": _of_pictures,
    "depth": _of_depth,
    "wave": _of_waves,
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Contained:
    """How far the ink of the targets is dark in their sources too.

    Attributes:
        share: Share of the pairs in which at least `INK_SHARE` of the target's ink is as dark in the source.
        shifted: The same where each target meets the source of another pair.
        num: Pairs that were looked at.
    """

    share: float
    shifted: float
    num: int

    @property
    def is_told(self) -> bool:
        """Whether a good part of the targets is in the sources, and that is no accident of dark sources."""
        return self.share >= INK_TOLD and self.shifted <= self.share / 4


def contained(pairs: PairedData) -> Contained | None:
    """Whether the targets are drawings that stand in their own sources, as OpenMoji's lines do.

    Args:
        pairs: All pairs; at most `INK_LOOKED` of them are looked at, evenly over their order.

    Returns:
        The shares, or None where targets are no ink on paper of the sources' size.
    """
    if any(target_kind(one) != "image" for one in (pairs.source, pairs.target)) or len(pairs) < 2:
        return None
    rows = np.unique(np.linspace(0, len(pairs) - 1, INK_LOOKED).astype(int))
    target, source = brightness(pairs.target[rows]), brightness(pairs.source[rows])
    side = min(target.shape[1], source.shape[1])
    if target.shape[1:] != source.shape[1:]:
        target, source = cells(target, side), cells(source, side)
    ink = target < INK
    drawn = ink.any(axis=(1, 2)) & (np.median(target, axis=(1, 2)) > 255 - INK / 2)
    if drawn.mean() < INK_PAIRS:
        return None
    ink, target, source = ink[drawn], target[drawn], source[drawn]

    def share(seen: np.ndarray) -> float:
        dark = ink & (seen <= target + INK_STEP)
        return float((dark.sum(axis=(1, 2)) >= INK_SHARE * ink.sum(axis=(1, 2))).mean())

    other = np.roll(source, len(source) // 2, axis=0)
    return Contained(share=share(source), shifted=share(other), num=int(drawn.sum()))


def shared_with(copies: Alike, *, num_train: int, num_test: int) -> str:
    """What test pairs have in common with training pairs, in words; empty where nothing.

    Args:
        copies: Of all pairs: training first, test last.
        num_train: Training pairs.
        num_test: Test pairs.
    """
    told = []
    for name, codes in (("sources", copies.source), ("targets", copies.target)):
        known = np.isin(codes[len(codes) - num_test :], codes[:num_train]).sum()
        if known:
            told.append(f"{known} of {num_test} test {name}")
    return f"{' and '.join(told)} are also in training" if told else ""


def duplicate_report(whole: "Experiment") -> list[str]:
    """Sentences on copies, leaks and suspicious halves of a set, for its owner; empty where there are none.

    Args:
        whole: The experiment; its ids name the pairs.
    """
    pairs, ids = _everything(whole)
    copies = whole.copies or alike(pairs)
    lines = []
    for name, examples, codes in (
        ("source", pairs.source, copies.source),
        ("target", pairs.target, copies.target),
    ):
        lines += _on_groups(name, equal_groups(examples), codes, ids)
    both = joined_codes(equal_groups(pairs.source), equal_groups(pairs.target))
    again = np.bincount(both)[both] > 1
    if again.any():
        lines.append(
            f"Pairs that equal another pair in both halves: {_names(ids, again)}. Remove all but one."
        )
    own = _own_copy(pairs)
    if own.any():
        lines.append(f"Targets that are a copy of their own source: {_names(ids, own)}. They teach nothing.")
    return [*lines, *_on_parts(whole, copies, ids), *contained_lines(pairs)]


def duplicate_summary(whole: "Experiment") -> list[str]:
    """What a plan says of copies: short sentences, empty where there is nothing to say."""
    pairs, _ = _everything(whole)
    copies = whole.copies or alike(pairs)
    lines = []
    for name, codes in (("source", copies.source), ("target", copies.target)):
        part = codes[: len(whole.train)]
        num = int((np.bincount(part)[part] > 1).sum())
        if num:
            lines.append(f"{num} of {len(part)} training pairs share a {name} with another")
    return [*lines, *([whole.shared] if whole.shared else []), *contained_lines(pairs)]


def contained_lines(pairs: PairedData) -> list[str]:
    """A warning where the targets are drawings that stand in their own sources; else nothing."""
    found = contained(pairs)
    if found is None or not found.is_told:
        return []
    return [
        f"Targets are contained in their sources: the ink of {found.share:.0%} of {found.num} targets"
        f" is as dark in their own source (in another pair's, of {found.shifted:.0%}). A student can match"
        " the dark parts alone, so retrieval says little of what it understands."
    ]


def joined_codes(first: Codes, second: Codes) -> Codes:
    """Code of each row, (N,), where rows share one that agree in both codes."""
    return np.unique(np.stack([first, second]), axis=1, return_inverse=True)[1].ravel()


def _everything(whole: "Experiment") -> tuple[PairedData, np.ndarray]:
    """All pairs, those of training, validation and test one after the other, and their names."""
    parts = (whole.train, whole.validation.pairs, whole.test.pairs)
    names = (whole.train_ids, whole.validation.ids, whole.test.ids)
    ids = [
        ids or tuple(f"{part}-{row}" for row in range(len(one)))
        for part, one, ids in zip(("train", "validation", "test"), parts, names, strict=True)
    ]
    pairs = PairedData(
        source=np.concatenate([one.source for one in parts]),
        target=np.concatenate([one.target for one in parts]),
    )
    return pairs, np.array([name for part in ids for name in part], dtype=object)


def _names(ids: np.ndarray, rows: np.ndarray) -> str:
    return few([str(one) for one in ids[rows]])


def _on_groups(name: str, equal: Codes, near: Codes, ids: np.ndarray) -> list[str]:
    """Sentences on one half: copies to the byte, and copies that are not."""
    lines = []
    for word, codes in (("equal", equal), ("near-equal", near)):
        sizes = np.bincount(codes)
        # Near-equal groups hold the equal ones; only what they add is told again.
        if word == "near-equal" and sizes[sizes > 0].size == np.unique(equal).size:
            continue
        many = sizes[codes] > 1
        if many.any():
            num = int((sizes > 1).sum())
            groups = f"{num} group{'s' if num > 1 else ''}"
            largest = codes == int(sizes.argmax())
            lines.append(
                f"{many.sum()} of {len(codes)} pairs share {word} {name}s, in {groups}; the"
                f" largest has {_names(ids, largest)}."
                + (" Equal sources are one thing to retrieve." if name == "source" else "")
            )
    return lines


def _on_parts(whole: "Experiment", copies: Alike, ids: np.ndarray) -> list[str]:
    """Sentences on copies across concepts and across parts."""
    lines = []
    concepts = whole.train_concept
    if concepts is not None and "concept" in whole.test.labelled.labels:
        held = (whole.validation, whole.test)
        names = [
            *_texts(concepts),
            *(text for one in held for text in _texts(one.labelled.labels["concept"])),
        ]
        together = joined_names(names, copies.source, copies.target)
        moved = [(old, new) for old, new in zip(names, together, strict=True) if old != new and new]
        if moved:
            shown = few(sorted({f"{old} with {new}" for old, new in moved}))
            lines.append(f"Copies link concepts: {shown}. A split by concept keeps them in one part.")
    if whole.shared:
        known = np.isin(copies.source, copies.source[: len(whole.train)])
        known[: len(known) - len(whole.test)] = False
        named = f", such as {_names(ids, known)}" if known.any() else ""
        kept = {*whole.test_strict.ids} & {*ids[known]} or whole.test_strict is whole.test
        after = "" if kept else " The strict test leaves them out."
        lines.append(f"{whole.shared[0].upper()}{whole.shared[1:]}{named}.{after}")
    return lines


def _texts(labels: "Labels") -> list[str]:
    return [labels.names[code] if code >= 0 else "" for code in labels.values.tolist()]


def _own_copy(pairs: PairedData) -> Bool[np.ndarray, " num"]:
    """Which targets are near-equal to their own source, colours aside."""
    if any(target_kind(one) != "image" for one in (pairs.source, pairs.target)):
        return np.zeros(len(pairs), dtype=bool)

    def gap(part: Rows) -> np.ndarray:
        one, other = (cells(brightness(half[part]), GRID) for half in (pairs.source, pairs.target))
        return np.asarray(np.abs(one - other).max(axis=(1, 2)))

    return np.asarray(_in_chunks(np.arange(len(pairs)), gap) <= LEVELS)
