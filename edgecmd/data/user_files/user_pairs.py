"""A user's own pairs: what was read, how it is split, and the experiment made of it.

Shapes: N pairs, S side of an image.
"""

import hashlib
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Int

from edgecmd.catalogue.data_sets import data_set
from edgecmd.core.errors import ConfigError, DataError, choose, nearest
from edgecmd.core.text import counted
from edgecmd.data.constants import constant_inputs, constant_parts, constant_rows, refuse_constant
from edgecmd.data.duplicates import Alike, alike, each_its_own, joined_names, near_to
from edgecmd.data.experiment import Experiment, HeldOut
from edgecmd.data.labelled import IGNORED, UNLABELLED, LabelledTarget, Labels, Masks, shown_classes
from edgecmd.data.modalities.table import modality_of
from edgecmd.data.pairs import PairedData, PublicSource
from edgecmd.data.stored.array_files import chosen
from edgecmd.data.stored.kept_rows import relabelled
from edgecmd.data.user_files.csv_tables import few
from edgecmd.settings import DataConfig

COLUMNS = ("owner", "concept", "label")
MIN_PAIRS = 20
# Retrieval among one is no retrieval, and a contrastive loss needs two pairs.
MIN_PART = 2
LEAVE_OUT = "leave-out"
LEFT_OUT = (
    "{what} that are copies of held-out ones are left out (data.copies='leave-out'): under privacy no pair"
    " may move another to a different part. To keep them, name what each pair shows in the column concept"
    " of pairs.csv."
)
PARTS = ("training", "validation", "test")
# What a split follows -> what a message calls one of it, and what a user can do where there are too few.
NOUNS = {"concept": "concept", "set": "concept", "id": "thing", "owner": "owner"}
WAYS_OUT = {
    "concept": "Name finer concepts, leave the column concept out, or add pairs of other concepts.",
    "set": "Add pairs of other concepts.",
    "id": "Add pairs of other sources and targets.",
    "owner": "Add pairs of other owners, or set data.split to 'concept'.",
}
STRICT_WAYS_OUT = {
    "concept": "Give look-alikes one name in the column concept, or set",
    "id": "Name the column concept in pairs.csv, so that look-alikes share a concept, or set",
    "set": "Set",
}

Rows = Int[np.ndarray, " _"]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class OwnPairs:
    """A user's pairs in the order of their sorted ids.

    Attributes:
        ids: One name a pair.
        data: The images.
        columns: Text a pair under ``owner``, ``concept`` or ``label``, empty where unknown; a
            column that the user did not give is absent.
        public: Public source images that came with the pairs, if any.
        masks: Classes of the targets' pixels, if any; only held-out pairs keep theirs.
    """

    ids: tuple[str, ...]
    data: PairedData
    columns: Mapping[str, Sequence[str]]
    public: PublicSource | None = None
    masks: Masks | None = None

    def labels(self, column: str) -> Labels:
        """Labels out of a column; all `UNLABELLED` where it is absent."""
        texts = self.columns.get(column, [""] * len(self.ids))
        names = sorted({text for text in texts if text})
        codes = {"": UNLABELLED} | {name: index for index, name in enumerate(names)}
        return Labels(values=np.array([codes[text] for text in texts], dtype=np.int64), names=tuple(names))

    def reversed(self) -> "OwnPairs":
        """The same pairs, taught the other way; masks, which are of the targets, are left out."""
        return replace(self, data=self.data.reversed(), masks=None)

    def concepts(self) -> list[str]:
        """What the split follows: the concept of each pair, or its id where there is none."""
        texts = self.columns.get("concept", self.ids)
        return [text or name for text, name in zip(texts, self.ids, strict=True)]


def position(concept: str) -> float:
    """Where ``concept`` is in [0, 1): its SHA-256, read as a fraction."""
    return (
        int.from_bytes(hashlib.sha256(concept.encode("utf-8", "surrogatepass")).digest()[:6], "big") / 2**48
    )


def drawn(ids: Sequence[str], config: DataConfig, *, notes: list[str]) -> list[int]:
    """Rows of at most ``config.max_pairs`` pairs (0: all) in their order; a hash of their ids draws them.

    Args:
        ids: Of all pairs.
        config: ``max_pairs`` and ``copies`` are used.
        notes: Gets a sentence where pairs are left out.

    Raises:
        ConfigError: Pairs would be left out under privacy.

    Guarantees:
        A smaller number draws some of what a larger one does. The draw tells nothing about the parts.
    """
    num, most = len(ids), config.max_pairs
    if not most or num <= most:
        return list(range(num))
    if config.copies == LEAVE_OUT:
        raise ConfigError(
            f"data.max_pairs={most} would leave out {num - most} of {num} pairs. Under privacy that is"
            " refused: one more pair would push another out. Set data.max_pairs=0, or move pairs away."
        )
    notes.append(f"{most} of {num} pairs are used, chosen by a hash of their ids; data.max_pairs=0 uses all.")
    return sorted(sorted(range(num), key=lambda row: position(f"drawn/{ids[row]}"))[:most])


def split_rows(
    concepts: Sequence[str],
    *,
    val_fraction: float,
    test_fraction: float,
    things: np.ndarray | None = None,
    follows: str = "concept",
) -> tuple[Rows, Rows, Rows]:
    """Cut pairs into training, validation and test, whole concepts each.

    Args:
        concepts: Concept of each pair, (N,).
        val_fraction: Share of the concepts for validation.
        test_fraction: Share of the concepts for testing.
        things: Code of what each pair shows, (N,), where several show the same; None: each its own.
        follows: What the concepts are to the user, a key of `WAYS_OUT`.

    Returns:
        Sorted rows of training, validation and test.

    Raises:
        DataError: There are too few concepts for three parts that show `MIN_PART` things.

    Guarantees:
        No concept is in two parts. A concept's part depends neither on the order of the pairs nor,
        but for sets so small that a part would show fewer than `MIN_PART` things, on the others.
    """
    codes = np.arange(len(concepts)) if things is None else things
    parts = _dealt(concepts, val_fraction=val_fraction, test_fraction=test_fraction, codes=codes)
    train, validation, test = parts
    if num_things(train, codes) < MIN_PART:
        num = len(set(concepts))
        apart = "" if things is None else " of different sources"
        smaller = _dealt(concepts, val_fraction=0.0, test_fraction=0.0, codes=codes)[0]
        fractions = (
            " Or lower data.val_fraction and data.test_fraction."
            if num_things(smaller, codes) >= MIN_PART
            else ""
        )
        raise DataError(
            f"{counted(num, NOUNS[follows])} over {counted(len(concepts), 'pair')}"
            f" {'gives' if num == 1 else 'give'} {len(train)} training,"
            f" {len(validation)} validation and {len(test)} test pairs; each needs {MIN_PART}{apart}."
            f" {WAYS_OUT[follows]}{fractions}"
        )
    return np.sort(np.array(train)), np.sort(np.array(validation)), np.sort(np.array(test))


def _dealt(
    concepts: Sequence[str], *, val_fraction: float, test_fraction: float, codes: np.ndarray
) -> tuple[list[int], list[int], list[int]]:
    """Rows of training, validation and test: whole concepts by their place, and who is short gets more."""
    members: defaultdict[str, list[int]] = defaultdict(list)
    for row, concept in enumerate(concepts):
        members[concept].append(row)
    train: list[int] = []
    validation: list[int] = []
    test: list[int] = []
    for concept in sorted(members, key=position):
        place = position(concept)
        if place < test_fraction or num_things(test, codes) < MIN_PART:
            test += members[concept]
        elif place < test_fraction + val_fraction or num_things(validation, codes) < MIN_PART:
            validation += members[concept]
        else:
            train += members[concept]
    return train, validation, test


def num_things(rows: Sequence[int] | np.ndarray, things: np.ndarray) -> int:
    """How many different things the pairs at ``rows`` show, counted up to `MIN_PART`."""
    found: set[int] = set()
    for row in rows:
        found.add(int(things[row]))
        if len(found) == MIN_PART:
            break
    return len(found)


def joined_concepts(own: OwnPairs, copies: Alike) -> list[str]:
    """What the split follows: concepts, of which those are one that copies of a source or target link.

    Guarantees:
        Pairs whose sources or targets are copies share a concept, but for examples of one single value, which
        would link everything. Where there are no copies the concepts are those of `OwnPairs.concepts`; else a
        linked one is called by the first of its names, so a pair that is added moves only pairs that it is
        itself a copy of, or that it links.
    """
    return joined_names(own.concepts(), *copies.ties)


def named_owners(setting: str, text: str, owners: Sequence[str]) -> set[str]:
    """Owners that a setting names, separated by commas.

    Raises:
        ConfigError: One of them owns no pair.
    """
    known = {one for one in owners if one}
    named = {part.strip() for part in text.split(",") if part.strip()}
    for name in sorted(named - known):
        raise ConfigError(f"{setting}={text!r} names {name!r}, who owns no pairs. {nearest(name, known)}")
    return named


def check_overlap(tested: set[str], labelled: set[str]) -> None:
    """Refuse labels from some of the held-out owners: from all of them or none of them is a question.

    Raises:
        ConfigError: The sets overlap, but differ.
    """
    if tested & labelled and tested != labelled:
        raise ConfigError(
            f"data.held_out and data.labels_from share {few(tested & labelled)} and differ. Give the same"
            " owners in both (labels then come from their own pairs), or different ones."
        )


def _by_concept(own: OwnPairs, config: DataConfig, copies: Alike) -> tuple[Rows, Rows, Rows]:
    """Whole concepts; owners are in all parts."""
    if config.held_out or config.labels_from:
        raise ConfigError(
            f"data.held_out={config.held_out!r} and data.labels_from={config.labels_from!r} name owners, but"
            " data.split='concept' does not follow them. Set data.split to 'owner'."
        )
    concepts = joined_concepts(own, copies)
    try:
        return split_rows(
            concepts,
            val_fraction=config.val_fraction,
            test_fraction=config.test_fraction,
            things=copies.source,
            follows=_followed(own, config),
        )
    except DataError as error:
        linked = [one for one, old, new in zip(own.ids, own.concepts(), concepts, strict=True) if old != new]
        if not linked:
            raise
        raise DataError(
            f"{error} Copies of a source or a target are kept in one part: {few(linked)} were moved to the"
            " part of their copies. Remove copies, or add pairs of other things."
        ) from error


def _followed(own: OwnPairs, config: DataConfig) -> str:
    """What a split by concept follows, a key of `WAYS_OUT`: a user has a column, a public set its own."""
    if not data_set(config.name).users_own:
        return "set"
    return "concept" if "concept" in own.columns else "id"


def _by_owner(own: OwnPairs, config: DataConfig, copies: Alike) -> tuple[Rows, Rows, Rows]:
    """Owners for testing; the validation part from owners that are named, or from the others' pairs.

    Where the same owners are named twice, the concepts of their own that a hash names are for validation.
    """
    owners = list(own.columns.get("owner", ()))
    if not owners or not all(owners):
        unknown = [name for name, owner in zip(own.ids, owners) if not owner]
        which = f"unknown for {few(unknown)}" if owners else "in no pairs.csv"
        raise DataError(
            f"data.split='owner' follows owners, which are {which}. Fill the column owner of pairs.csv, or"
            " set data.split to 'concept'."
        )
    if not config.held_out and not config.labels_from:
        return split_rows(
            owners,
            val_fraction=config.val_fraction,
            test_fraction=config.test_fraction,
            things=copies.source,
            follows="owner",
        )
    if not config.held_out:
        raise ConfigError(
            "data.labels_from needs data.held_out, which names the owners for testing. Set it too, or leave"
            " data.labels_from out."
        )
    tested = named_owners("data.held_out", config.held_out, owners)
    labelled = named_owners("data.labels_from", config.labels_from, owners)
    check_overlap(tested, labelled)
    parts: tuple[list[int], list[int], list[int]] = ([], [], [])
    for row, (owner, concept) in enumerate(zip(owners, joined_concepts(own, copies), strict=True)):
        is_drawn = position(concept) < config.val_fraction
        if owner in tested:
            part = 1 if labelled == tested and is_drawn else 2
        else:
            part = 1 if owner in labelled or (not labelled and is_drawn) else 0
        parts[part].append(row)
    if min(num_things(part, copies.source) for part in parts) < MIN_PART:
        sizes = ", ".join(f"{len(part)} {name}" for part, name in zip(parts, PARTS))
        raise DataError(
            f"The owners give {sizes} pairs; each part needs {MIN_PART} of different sources."
            " Change data.held_out, data.labels_from or data.val_fraction."
        )
    train, validation, test = (np.array(part) for part in parts)
    return train, validation, test


SPLITS: dict[str, Callable[[OwnPairs, DataConfig, Alike], tuple[Rows, Rows, Rows]]] = {
    "concept": _by_concept,
    "owner": _by_owner,
}


def split_own(own: OwnPairs, config: DataConfig, *, copies: Alike | None = None) -> tuple[Rows, Rows, Rows]:
    """Rows of training, validation and test, as ``config.split`` says.

    Args:
        own: The pairs.
        config: The settings of the split.
        copies: Groups of copies among the pairs; None: they are looked for.

    Raises:
        ConfigError: The settings contradict each other, or name owners that there are not.
        DataError: There are too few concepts or owners, or a pair without owner.
    """
    split = choose("data.split", config.split, SPLITS)
    return split(own, config, alike(own.data) if copies is None else copies)


def to_experiment(
    own: OwnPairs,
    config: DataConfig,
    *,
    public: PublicSource,
    name: str,
    kind: str = "user",
    rows: tuple[Rows, Rows, Rows] | None = None,
    unseen: str = "",
    copies: Alike | None = None,
) -> Experiment:
    """The experiment of a user's pairs.

    Args:
        own: The pairs.
        config: The settings of the split and ``strict`` are used.
        public: Public source images.
        name: Name of the data set.
        kind: Where the pairs come from, see `Experiment`.
        rows: Rows of training, validation and test; None: ``config.split`` decides.
        unseen: What the test does not share with training, in the plural; empty: what ``split`` follows.
        copies: Groups of copies among the pairs; None: they are looked for.

    Raises:
        ConfigError: The settings of the split do not suit the pairs.
        DataError: There are too few concepts to split, a half of a part never changes, or by concept the test
            targets all look like training targets; by other splits there is no strict test then, and a note.

    Guarantees:
        With ``config.split`` "concept" and no ``rows`` no source and no target of one part is a copy of one
        in another, but for examples of one single value. Else `Experiment.shared` tells how many are, and
        ``strict`` leaves those out.
        With ``config.copies`` "leave-out" a pair moves no other between the parts, and whether it is trained
        on depends on that pair and on what is held out alone.
    """
    refuse_constant(constant_inputs(own.data, reverse=config.reverse))
    left_out = 0
    if config.copies == LEAVE_OUT and rows is None and config.split == "concept":
        parts, left_out = without_copies(own, split_own(own, config, copies=each_its_own(len(own.ids))))
        copies = _among(own, np.concatenate(parts))
    else:
        copies = alike(own.data) if copies is None else copies
        parts = rows or split_own(own, config, copies=linked(copies, config))
    refuse_constant(constant_parts(own.data, dict(zip(PARTS, parts)), reverse=config.reverse))
    train, validation, test = parts
    held = np.concatenate([validation, test])
    own = replace(own, masks=None if own.masks is None else without_unseen(own.masks, held))
    followed = _followed(own, config) if rows is None and config.split == "concept" else ""
    strict, strict_notes = (
        _strict_rows(own, parts, copies, followed=followed) if config.strict else (None, ())
    )
    tested = _held_out(own, test)
    order = np.concatenate([train, validation, test])
    return Experiment(
        name=name,
        kind=kind,
        public=public,
        train=own.data.take(train),
        train_owner=own.labels("owner").take(train),
        train_labels=own.labels("label").take(train),
        train_subgroup=own.labels("subgroup").take(train),
        validation=_held_out(own, validation),
        test=tested,
        test_strict=tested if strict is None else _held_out(own, strict),
        train_ids=tuple(own.ids[row] for row in train),
        unseen=unseen or unseen_of(own, config),
        train_concept=own.labels("concept").take(train) if "concept" in own.columns else None,
        copies=copies.take(order),
        notes=(*((LEFT_OUT.format(what=counted(left_out, "pair")),) if left_out else ()), *strict_notes),
    )


def linked(copies: Alike, config: DataConfig) -> Alike:
    """The copies that the split puts into one part: all, or with ``config.copies`` "leave-out" none."""
    return each_its_own(len(copies)) if config.copies == LEAVE_OUT else copies


def _among(own: OwnPairs, rows: Rows) -> Alike:
    """Copies among the pairs at ``rows`` alone; a pair that is left out links no others."""
    found, num = alike(own.data.take(rows)), len(own.ids)

    def spread(codes: np.ndarray) -> np.ndarray:
        every = 2 * num + np.arange(num)
        every[rows] = codes
        return every

    ties = (spread(found.ties[0]), spread(found.ties[1]))
    return Alike(source=spread(found.source), target=spread(found.target), ties=ties)


def without_copies(own: OwnPairs, parts: tuple[Rows, Rows, Rows]) -> tuple[tuple[Rows, Rows, Rows], int]:
    """The parts without training pairs that are copies of held-out ones, and validation pairs of test ones.

    Returns:
        Rows of training, validation and test, and how many pairs were left out.

    Raises:
        DataError: Too few are left.

    Guarantees:
        The test is what it was. Whether a pair stays depends on that pair and on what is held out from it.
    """
    train, validation, test = parts
    validation = _not_near(own, validation, test)
    train = _not_near(own, train, np.concatenate([validation, test]))
    if min(len(train), len(validation)) < MIN_PART:
        raise DataError(
            f"Without copies of what is held out, {len(train)} training and {len(validation)} validation"
            f" pairs are left; each part needs {MIN_PART}. Name what each pair shows in the column concept"
            " of pairs.csv, so that copies share a part; without privacy, data.copies='join' does that."
        )
    left_out = len(parts[0]) - len(train) + len(parts[1]) - len(validation)
    return (train, validation, test), left_out


def _not_near(own: OwnPairs, rows: Rows, held: Rows) -> Rows:
    data, other = own.data.take(rows), own.data.take(held)
    known = near_to(data.source, other.source) | near_to(data.target, other.target)
    return np.asarray(rows[~known])


def unseen_of(own: OwnPairs, config: DataConfig) -> str:
    """What the split keeps apart, in the plural: owners, concepts, or where some have none the pairs."""
    is_named = all(own.columns.get("concept", ("",)))
    return "pairs" if config.split == "concept" and not is_named else f"{config.split}s"


def without_unseen(masks: Masks, held: Rows) -> Masks:
    """Masks without the last classes that nobody named and that no pair at ``held`` shows.

    A mask without a table of names has as many classes as its largest number says. A training pair must not
    add one: the exported head has a row for each class.
    """
    named = [index for index, name in enumerate(masks.names) if name != f"class {index}"]
    num = 1 + max([*named, *shown_classes(chosen(masks.values, held))], default=-1)
    if num == len(masks.names):
        return masks
    table = np.arange(IGNORED + 1, dtype=np.uint8)
    table[num:] = IGNORED
    return Masks(values=relabelled(masks.values, table), names=masks.names[:num])


def _held_out(own: OwnPairs, rows: Rows) -> HeldOut:
    """Pairs at ``rows`` with the labellings that the user gave; copies of a source show one thing.

    Copies are those among these pairs alone: what is in training must not decide what a test asks.
    """
    data = own.data.take(rows)
    copies = alike(data)
    given = {"group": "label", "concept": "concept", "owner": "owner"}
    labels = {name: own.labels(column).take(rows) for name, column in given.items() if column in own.columns}
    masks = None if own.masks is None else own.masks.take(rows)
    labelled = LabelledTarget(target=data.target, labels=labels, masks=masks)
    ids = tuple(own.ids[row] for row in rows)
    return HeldOut(pairs=data, labelled=labelled, ids=ids, shown=copies.source, twins=copies.target)


def _strict_rows(
    own: OwnPairs, parts: tuple[Rows, Rows, Rows], copies: Alike, *, followed: str
) -> tuple[Rows | None, tuple[str, ...]]:
    """Test rows whose target looks like none of training, and neither half of which is a copy; and notes.

    Only a split by concept can keep look-alikes apart, so elsewhere too few are no reason to refuse: None.
    """
    train, _, test = parts
    target, taught = chosen(own.data.target, test), chosen(own.data.target, train)
    known = modality_of(target).looks_known(target, taught) & ~constant_rows(target)
    for codes in copies.ties:
        known |= np.isin(codes[test], codes[train])
    novel = test[~known]
    if num_things(novel, copies.source) >= MIN_PART:
        return np.asarray(novel), ()
    told = (
        f"{len(test) - len(novel)} of {len(test)} test pairs look like a training pair: a copy of its source"
        " or target, or a target with a correlation above 0.9 to a training target."
    )
    if not followed:
        return None, (f"{told} So there is no strict test, and its results are left out.",)
    raise DataError(f"{told} {STRICT_WAYS_OUT[followed]} data.strict to false: there is no strict test then.")
