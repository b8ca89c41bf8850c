"""Which examples are copies of each other, and how copies affect a set of pairs.

Equal are examples of the same bytes; when others are near-equal, their modality says
(`Modality.looks`). Groups are connected components, so they do not depend on the order. Examples of one
single value (white pages, silence) say nothing, so they tie no pairs together: a split would else go by them.

All of this looks at a whole set at once. It is for simulations and for the owner's own commands; a device
never runs it, because one pair would decide about others.

Shapes: N examples, F numbers of a signature, R candidate pairs.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Bool, Float, Float32, Int
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from edgecmd.data.constants import constant_rows
from edgecmd.data.modalities.image import IMAGE, LEVELS, brightness
from edgecmd.data.modalities.row import digests
from edgecmd.data.modalities.signature import (
    CHUNK,
    CONTRAST_SHARE,
    GRID,
    SAME_FEATURE,
    Close,
    Rows,
    Signature,
    cells,
)
from edgecmd.data.modalities.table import modality_of
from edgecmd.data.pairs import PairedData, Targets
from edgecmd.data.stored.array_files import one_after_another
from edgecmd.data.stored.kept_rows import kept_whole
from edgecmd.data.user_files.csv_tables import FEW, few

if TYPE_CHECKING:
    from edgecmd.data.experiment import Experiment
    from edgecmd.data.labelled import Labels

# Candidates are looked for in tiles of rows by rows, and checked a few first: what these link is done with.
TILE, FIRST = 512, 4096
# The numbers in which a row is most unlike the mean: frames of one camera differ there, if anywhere.
TELLING = 4
# Single precision, as a share of the squares.
ROUNDING = 2e-6

# Ink is darker than half; it is in a source that is at most 32 levels lighter there, and 16 darker than it is
# on the whole.
INK, INK_STEP, INK_OUT, INK_SHARE, INK_PAIRS, INK_TOLD, INK_LOOKED = 128.0, 32.0, 16.0, 0.9, 0.8, 0.2, 1000

# Of pictures with more pixels fewer are looked at, but so many at least.
INK_PIXELS, INK_LEAST = 64 * 64, 100

Codes = Int[np.ndarray, " num"]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Alike:
    """Groups of copies among the pairs of a set, near-equal ones included.

    Attributes:
        source: Code of the group of each source, (N,).
        target: Code of the group of each target, (N,).
        ties: The same two, but each example of one single value is alone: what a split, the strict test and
            the count of what the parts share go by.
    """

    source: Codes
    target: Codes
    ties: tuple[Codes, Codes]

    def __len__(self) -> int:
        return len(self.source)

    def take(self, rows: Rows) -> "Alike":
        """The groups of the pairs at ``rows``, in that order."""
        source, target = self.ties
        return Alike(source=self.source[rows], target=self.target[rows], ties=(source[rows], target[rows]))


def alike(pairs: PairedData) -> Alike:
    """Groups of equal and near-equal examples on both halves; of pairs in a store they are kept beside it."""
    codes = kept_whole("copies", (pairs.source, pairs.target), lambda: _codes(pairs))
    source, target = codes
    ties = (_alone(source, constant_rows(pairs.source)), _alone(target, constant_rows(pairs.target)))
    return Alike(source=source, target=target, ties=ties)


def _codes(pairs: PairedData) -> Int[np.ndarray, "halves num"]:
    return np.stack([near_groups(pairs.source), near_groups(pairs.target)])


def _alone(codes: Codes, rows: Bool[np.ndarray, " num"]) -> Codes:
    """``codes`` with one of its own for each of ``rows``."""
    return np.where(rows, len(codes) + np.arange(len(codes)), codes)


def equal_groups(examples: Targets) -> Codes:
    """Code of the group of each example, (N,); examples of the same bytes share one."""
    codes: dict[bytes, int] = {}
    return np.array([codes.setdefault(one, len(codes)) for one in digests(examples)], dtype=np.int64)


def near_groups(examples: Targets) -> Codes:
    """Code of the group of each example, (N,); equal and near-equal ones share one.

    Args:
        examples: Images, depth maps or recordings, of any one modality.

    Guarantees:
        Which examples share a group does not depend on their order. Memory beside the examples is that of
        some hundred numbers an example, and of chunks.
    """
    equal = equal_groups(examples)
    first = np.unique(equal, return_index=True)[1]
    if len(first) < 2:
        return equal
    labels = np.arange(len(first))
    for look_at in modality_of(examples).looks:
        look = look_at(examples, first)
        labels = _grouped(labels, _nearby(look), look.is_near)
    return np.asarray(np.unique(labels, return_inverse=True)[1][equal])


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

    nearby = _Nearby(values, reach=np.full(len(values), 2e-3), margin=2e-6)
    labels = _grouped(np.arange(len(values)), nearby, same)
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
    """Which of ``examples`` are equal or near-equal to one of ``others``, (N,); none of one single value is.

    Guarantees:
        Whether an example is, depends on that example and on ``others``, on no other example.
    """
    known = set(digests(others))
    found = np.array([one in known for one in digests(examples)], dtype=bool)
    num = len(examples)
    if not num or not len(others):
        return found
    both = one_after_another([examples, others])
    for look_at in modality_of(examples).looks:
        look = look_at(both, np.arange(len(both)))
        nearby = _nearby(look)
        for rows in _tiles(0, num):
            for columns in _tiles(num, len(both)):
                left = rows[~found[rows]]
                first, second = nearby.between(left, columns)
                found[first[look.is_near(first, second)]] = True
    return np.asarray(found & ~constant_rows(examples))


def each_its_own(num: int) -> Alike:
    """The groups of ``num`` pairs of which none is taken for a copy of another."""
    alone = np.arange(num)
    return Alike(source=alone, target=alone, ties=(alone, alone))


class _Nearby:
    """Finds pairs of rows that may be near-equal: a sieve that lets others through, too.

    Args:
        values: (N, F).
        reach: Near-equal rows are within the smaller reach of both, (N,).
        margin: What rounding adds to a square.
        telling: Of how many numbers, those that tell most of a row, a difference above 1 is looked for.
    """

    def __init__(
        self,
        values: Float32[np.ndarray, "num size"],
        *,
        reach: Float[np.ndarray, " num"],
        margin: float,
        telling: int = 0,
    ) -> None:
        self.values = values
        self.squares = np.square(values).sum(axis=1)
        self.limits = np.square(reach.astype(np.float32)) + margin
        self.telling = np.zeros((len(values), 0), dtype=np.int64)
        if telling:
            telling = min(telling, values.shape[1])
            self.telling = np.concatenate(
                [
                    np.argsort(-np.abs(values[rows]), axis=1, kind="stable")[:, :telling]
                    for rows in _tiles(0, len(values))
                ]
            )

    def between(
        self, rows: Rows, columns: Rows, wanted: Bool[np.ndarray, "rows columns"] | None = None
    ) -> tuple[Rows, Rows]:
        """Pairs of one of ``rows`` and one of ``columns``, of those ``wanted``."""
        both = self.squares[rows, None] + self.squares[None, columns]
        apart = (1.0 - ROUNDING) * both - 2.0 * self.values[rows] @ self.values[columns].T
        near = apart <= np.minimum(self.limits[rows, None], self.limits[None, columns])
        first, second = np.nonzero(near if wanted is None else near & wanted)
        first, second = rows[first], columns[second]
        for number in range(self.telling.shape[1]):
            for one in (0, 1):
                at = self.telling[(first, second)[one], number]
                gap = np.abs(self.values[first, at] - self.values[second, at])
                first, second = first[gap <= 1.001], second[gap <= 1.001]
        return first, second


def _nearby(look: Signature) -> _Nearby:
    centred = look.values - look.values.mean(axis=0)
    reach = np.minimum(np.sqrt(look.values.shape[1]), CONTRAST_SHARE * look.contrast)
    return _Nearby(centred, reach=reach, margin=1.0, telling=TELLING)


def _tiles(start: int, stop: int) -> list[Rows]:
    return [np.arange(at, min(at + TILE, stop)) for at in range(start, stop, TILE)]


def _grouped(labels: Codes, nearby: _Nearby, check: Close) -> Codes:
    """``labels`` with those linked that ``check`` confirms; what is linked already is not looked at."""
    tiles = _tiles(0, len(labels))
    for number, rows in enumerate(tiles):
        for columns in tiles[number:]:
            wanted = (labels[rows, None] != labels[None, columns]) & (rows[:, None] < columns[None])
            if wanted.any():
                labels = _merged(labels, *nearby.between(rows, columns, wanted), check)
    return labels


def _merged(labels: Codes, first: Rows, second: Rows, check: Close) -> Codes:
    size = FIRST
    while len(first):
        near = check(first[:size], second[:size])
        labels = _linked(labels, first[:size][near], second[:size][near])
        first, second = first[size:], second[size:]
        apart = labels[first] != labels[second]
        first, second = first[apart], second[apart]
        size = TILE**2
    return labels


def _linked(labels: Codes, first: Rows, second: Rows) -> Codes:
    if not len(first):
        return labels
    size = int(labels.max()) + 1
    graph = coo_array((np.ones(len(first), dtype=np.int8), (labels[first], labels[second])), (size, size))
    return np.asarray(connected_components(graph, directed=False)[1][labels], dtype=np.int64)


def shared_with(copies: Alike, *, num_train: int, num_test: int) -> str:
    """What test pairs have in common with training pairs, in words; empty where nothing.

    Args:
        copies: Of all pairs: training first, test last.
        num_train: Training pairs.
        num_test: Test pairs.
    """
    told = []
    for name, codes in zip(("sources", "targets"), copies.ties, strict=True):
        known = np.isin(codes[len(codes) - num_test :], codes[:num_train]).sum()
        if known:
            told.append(f"{known} of {num_test} test {name}")
    return f"{' and '.join(told)} are also in training" if told else ""


def duplicate_report(whole: "Experiment") -> list[str]:
    """Sentences on copies, leaks and suspicious halves of a set, for its owner; empty where there are none.

    Args:
        whole: The experiment; its ids name the pairs.
    """
    pairs, ids, copies = whole.everything(), _ids(whole), whole.all_copies()
    source, target = equal_groups(pairs.source), equal_groups(pairs.target)
    lines = _on_groups("source", source, copies.source, ids) + _on_groups(
        "target", target, copies.target, ids
    )
    both = joined_codes(source, target)
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
    copies, lines = whole.all_copies(), list[str]()
    for name, codes in (("source", copies.source), ("target", copies.target)):
        part = codes[: len(whole.train)]
        num = int((np.bincount(part)[part] > 1).sum())
        if num:
            lines.append(f"{num} of {len(part)} training pairs share a {name} with another")
    return [*lines, *([whole.shared] if whole.shared else []), *contained_lines(whole.everything())]


def joined_codes(first: Codes, second: Codes) -> Codes:
    """Code of each row, (N,), where rows share one that agree in both codes."""
    return np.unique(np.stack([first, second]), axis=1, return_inverse=True)[1].ravel()


def _ids(whole: "Experiment") -> np.ndarray:
    """Names of `Experiment.everything`, made up where the set has none."""
    parts = (whole.train, whole.validation.pairs, whole.test.pairs)
    names = (whole.train_ids, whole.validation.ids, whole.test.ids)
    ids = [
        ids or tuple(f"{part}-{row}" for row in range(len(one)))
        for part, one, ids in zip(("train", "validation", "test"), parts, names, strict=True)
    ]
    return np.array([name for part in ids for name in part], dtype=object)


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
        together = joined_names(names, *copies.ties)
        moved = [(old, new) for old, new in zip(names, together, strict=True) if old != new and new]
        if moved:
            shown = few(sorted({f"{old} with {new}" for old, new in moved}))
            # Official splits and owners are as they are.
            then = "are in more than one part" if whole.shared else "share a part"
            lines.append(f"Copies link concepts: {shown}. Of this split, copies {then}.")
    if whole.shared:
        source = copies.ties[0]
        known = np.isin(source, source[: len(whole.train)])
        known[: len(known) - len(whole.test)] = False
        shown = ", ".join(sorted(str(one) for one in ids[known])[:FEW])
        named = f", such as {shown}" if shown else ""
        kept = {*whole.test_strict.ids} & {*ids[known]} or whole.test_strict is whole.test
        after = "" if kept else " The strict test leaves them out."
        lines.append(f"{whole.shared[0].upper()}{whole.shared[1:]}{named}.{after}")
    return lines


def _texts(labels: "Labels") -> list[str]:
    return [labels.names[code] if code >= 0 else "" for code in labels.values.tolist()]


def _are_images(pairs: PairedData) -> bool:
    return all(modality_of(one) is IMAGE for one in (pairs.source, pairs.target))


def _own_copy(pairs: PairedData) -> Bool[np.ndarray, " num"]:
    """Which targets are near-equal to their own source, colours aside."""
    if not _are_images(pairs):
        return np.zeros(len(pairs), dtype=bool)

    def gap(part: Rows) -> np.ndarray:
        one, other = (cells(brightness(half[part]), GRID) for half in (pairs.source, pairs.target))
        return np.asarray(np.abs(one - other).max(axis=(1, 2)))

    rows = np.arange(len(pairs))
    gaps = [gap(rows[start : start + CHUNK]) for start in range(0, len(rows), CHUNK)]
    return np.asarray(np.concatenate(gaps) <= LEVELS)


@dataclass(frozen=True, kw_only=True, slots=True)
class Contained:
    """How far the ink of the targets is dark in their sources too.

    Attributes:
        share: Share of the pairs in which at least `INK_SHARE` of the target's ink stands out in the source.
        shifted: The same where each target meets the source of another pair.
        num: Pairs that were looked at.
        tone: What the ink is in the sources: "dark" or "light".
    """

    share: float
    shifted: float
    num: int
    tone: str = "dark"

    @property
    def is_told(self) -> bool:
        """Whether a good part of the targets is in the sources, and not by an accident of dark sources."""
        return self.share >= INK_TOLD and self.shifted <= self.share / 4


def contained(pairs: PairedData) -> Contained | None:
    """Whether the targets are drawings contained in their own sources, as OpenMoji's lines are.

    Args:
        pairs: All pairs; at most `INK_LOOKED` of them are looked at, evenly over their order, and of large
            images fewer.

    Returns:
        The shares, or None where targets are no ink on paper of the sources' size. Ink is dark on light or
        light on dark, in target and source each; of these the first that is told, else the first.
    """
    if not _are_images(pairs) or len(pairs) < 2:
        return None
    pixels = max(int(np.prod(half.shape[1:3])) for half in (pairs.source, pairs.target))
    looked = min(INK_LOOKED, max(INK_LEAST, INK_LOOKED * INK_PIXELS // pixels))
    rows = np.unique(np.linspace(0, len(pairs) - 1, looked).astype(int))
    target, source = brightness(pairs.target[rows]), brightness(pairs.source[rows])
    side = min(target.shape[1], source.shape[1])
    if target.shape[1:] != source.shape[1:]:
        target, source = cells(target, side), cells(source, side)
    sources = {"dark": source, "light": 255.0 - source}
    every = [
        _contained(drawn, seen, tone=tone)
        for drawn, tones in ((target, ("dark", "light")), (255.0 - target, ("light", "dark")))
        for tone, seen in ((one, sources[one]) for one in tones)
    ]
    found = [one for one in every if one is not None]
    return next((one for one in found if one.is_told), found[0] if found else None)


def _contained(
    target: Float[np.ndarray, "num height width"], source: Float[np.ndarray, "num height width"], *, tone: str
) -> Contained | None:
    """The same of dark ink on light paper; None where the targets are not that."""
    ink = target < INK
    drawn = ink.any(axis=(1, 2)) & (np.median(target, axis=(1, 2)) > 255 - INK / 2)
    if drawn.mean() < INK_PAIRS:
        return None
    ink, target, source = ink[drawn], target[drawn], source[drawn]
    other = np.roll(source, len(source) // 2, axis=0)
    return Contained(
        share=_share(ink, target, source),
        shifted=_share(ink, target, other),
        num=int(drawn.sum()),
        tone=tone,
    )


def _share(ink: Bool[np.ndarray, "num height width"], target: np.ndarray, seen: np.ndarray) -> float:
    # In a source that is dark all over, no ink stands out.
    around = seen.mean(axis=(1, 2), keepdims=True)
    dark = ink & (seen <= np.minimum(target + INK_STEP, around - INK_OUT))
    return float((dark.sum(axis=(1, 2)) >= INK_SHARE * ink.sum(axis=(1, 2))).mean())


def contained_lines(pairs: PairedData) -> list[str]:
    """A warning if the targets are drawings contained in their own sources; otherwise nothing."""
    found = contained(pairs)
    if found is None or not found.is_told:
        return []
    return [
        f"Targets are contained in their sources: the ink of {found.share:.0%} of {found.num} targets"
        f" is as {found.tone} in their own source (in another pair's, of {found.shifted:.0%}). A student can"
        f" match the {found.tone} parts alone, so retrieval says little of what it understands."
    ]
