"""A whole experiment: the public set, the private pairs and what is held out, already split.

Only a simulation or an evaluation sees an `Experiment`. A client gets `PairedData` cut out of
`Experiment.train` and nothing else; its labels stay here, for partitions and reports.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property

import numpy as np
from jaxtyping import Int
from scipy.sparse import csr_array

from edgecmd.catalogue.data_sets import DATA_SETS, data_set, imported
from edgecmd.core.errors import ConfigError, DataError, choose
from edgecmd.core.own_code import call_factory, is_own
from edgecmd.data.duplicates import Alike, alike, joined, shared_with
from edgecmd.data.labelled import UNLABELLED, LabelledTarget, Labels, Masks
from edgecmd.data.modalities.table import kind_of, target_kinds
from edgecmd.data.pairs import Images, PairedData, PublicSource
from edgecmd.data.stored.array_files import Examples, one_after_another
from edgecmd.settings import DataConfig


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Gallery:
    """What retrieval looks among where that is not the held-out pairs' own sources, and what counts as found.

    Attributes:
        source: An image of each thing, (M, H, W, 3).
        right: Which things are right for each example, bool, (N, M), sparse; at least one for each.
        names: Name of each thing, the same in every set that shows it; empty if unknown.
        titles: What people call each thing, empty where that is not known; none at all if of no thing.
    """

    source: Images
    right: csr_array
    names: tuple[str, ...] = ()
    titles: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.right.shape[1] != len(self.source) or self.right.dtype != np.bool_:
            raise DataError(
                f"Gallery.right has shape={self.right.shape} and dtype={self.right.dtype}; allowed is bool,"
                f" with a column for each of {len(self.source)} sources."
            )
        for field in ("names", "titles"):
            given = getattr(self, field)
            if given and len(given) != len(self.source):
                raise DataError(f"Gallery.{field} has {len(given)} entries for {len(self.source)} sources.")
        if not (np.diff(self.right.indptr) > 0).all():
            raise DataError("Gallery.right has examples for which nothing is right. Leave them out.")


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class HeldOut:
    """Examples that no client trains on, as pairs and with labels.

    Attributes:
        pairs: Both modalities, for retrieval.
        labelled: The targets of ``pairs``, in the same order, with their labellings.
        ids: One name an example; empty where the set has none.
        shown: Code of what each example shows, (N,), where several share a source or show copies of one;
            retrieval then ranks things, not images (`edgecmd.evaluation.metrics.recall`). None: each its own.
        twins: Code of the group of copies of each target, (N,), of which few labels take one only where
            others are left. None: each its own.
        gallery: What retrieval looks among where several things are right for one target, as for a word that
            names several pictures; each example is then one question. None: the sources of ``pairs``.
    """

    pairs: PairedData
    labelled: LabelledTarget
    ids: tuple[str, ...] = ()
    shown: Int[np.ndarray, " num"] | None = None
    twins: Int[np.ndarray, " num"] | None = None
    gallery: Gallery | None = None

    def __post_init__(self) -> None:
        if len(self.pairs) != len(self.labelled):
            raise DataError(
                f"{len(self.pairs)} held-out pairs against {len(self.labelled)} labelled targets."
            )
        for name, codes in (("shown", self.shown), ("twins", self.twins)):
            if codes is not None and len(codes) != len(self.pairs):
                raise DataError(f"HeldOut.{name} has {len(codes)} codes for {len(self.pairs)} pairs.")
        asked = len(self.pairs) if self.gallery is None else self.gallery.right.shape[0]
        if asked != len(self.pairs):
            raise DataError(f"HeldOut.gallery answers {asked} examples of {len(self.pairs)}.")
        if self.gallery is not None and self.shown is not None:
            raise DataError("HeldOut has a gallery and shown; a gallery says what is right. Leave shown out.")
        check_ids("HeldOut", self.ids, num=len(self.pairs))

    def __len__(self) -> int:
        return len(self.pairs)

    @property
    def right(self) -> csr_array | None:
        """Which things of the gallery are right for each example; None without one."""
        return None if self.gallery is None else self.gallery.right


def held_out(
    rows: Int[np.ndarray, " num"],
    *,
    pairs: PairedData,
    labels: Mapping[str, Labels],
    ids: Sequence[str] | np.ndarray,
    masks: Masks | None = None,
) -> HeldOut:
    """The examples at ``rows`` of a whole set, as pairs and with labels.

    Args:
        rows: Which examples.
        pairs: All pairs of the set.
        labels: Labellings of all of them.
        ids: Names of all of them; empty for none.
        masks: Masks of all of them, where the set has any.
    """
    part = pairs.take(rows)
    labelled = LabelledTarget(
        target=part.target,
        labels={name: one.take(rows) for name, one in labels.items()},
        masks=None if masks is None else masks.take(rows),
    )
    return HeldOut(pairs=part, labelled=labelled, ids=_taken(ids, rows))


@dataclass(frozen=True, kw_only=True, eq=False)
class Experiment:
    """Everything that a run needs, split by concept, or by what ``unseen`` names.

    Attributes:
        name: Name of the data set.
        kind: Where the pairs come from, printed with every figure: ``real``, ``class-paired``,
            ``composed``, ``rendered``, ``procedural`` or ``synthetic``.
        public: Public source images.
        train: All training pairs; clients hold parts of them.
        train_owner: Who made each training pair; the partition ``owner`` follows it.
        train_labels: Label of each training pair; the partition ``dirichlet`` follows it.
        train_subgroup: Finer label of each training pair; divides the owners among clients.
        validation: For choosing settings, and the pool from which the few labels are drawn.
        test: For the reported figures.
        test_strict: ``test`` without targets that look like a training target; ``test`` itself
            where ``data.strict`` is off.
        train_ids: One name per training pair; empty if the set has none.
        unseen: What test and training pairs do not share, in the plural, such as ``concepts``.
        train_concept: Concept of each training pair, which the split follows; None where it is not known.
        notes: What a person should know about the files: what is not used, cut or converted.
        copies: Groups of copies among all pairs, those of training, validation and test one after the other;
            None if they were not looked for, see `all_copies`.
        public_things: An image of each thing that can be found, where everybody has all of them and the list
            is the same whatever pairs there are: private is which target belongs to which. None: private.
    """

    name: str
    kind: str
    public: PublicSource
    train: PairedData
    train_owner: Labels
    train_labels: Labels
    train_subgroup: Labels
    validation: HeldOut
    test: HeldOut
    test_strict: HeldOut
    train_ids: tuple[str, ...] = ()
    unseen: str = "concepts"
    train_concept: Labels | None = None
    notes: tuple[str, ...] = ()
    copies: Alike | None = None
    public_things: Images | None = None

    def __post_init__(self) -> None:
        for field in ("train_owner", "train_labels", "train_subgroup"):
            rows = len(getattr(self, field).values)
            if rows != len(self.train):
                raise DataError(f"Experiment.{field} has {rows} rows for {len(self.train)} training pairs.")
        check_ids("Experiment.train", self.train_ids, num=len(self.train))

    @property
    def shared(self) -> str:
        """What test and training actually share, such as "12 of 40 test sources are also in training".

        Empty where that is nothing.
        """
        return shared_with(self.all_copies(), num_train=len(self.train), num_test=len(self.test))

    def sorted_ids(self) -> list[str]:
        """Ids of all pairs, sorted; empty where the set has none."""
        parts = (self.train_ids, self.validation.ids, self.test.ids)
        return sorted(one for part in parts for one in part) if all(parts) else []

    def everything(self) -> PairedData:
        """All pairs, those of training, validation and test one after the other."""
        parts = (self.train, self.validation.pairs, self.test.pairs)
        return PairedData(
            source=one_after_another([one.source for one in parts]),
            target=one_after_another([one.target for one in parts]),
        )

    def all_copies(self) -> Alike:
        """Groups of copies among `everything`, looked for when they are first asked for."""
        return self._found_copies if self.copies is None else self.copies

    @cached_property
    def _found_copies(self) -> Alike:
        return alike(self.everything())


def cut_apart(  # noqa: PLR0913 - what an experiment is made of
    pairs: PairedData,
    *,
    name: str,
    kind: str,
    train: Int[np.ndarray, " train"],
    validation: Int[np.ndarray, " validation"],
    test: Int[np.ndarray, " test"],
    labels: Mapping[str, Labels],
    public: PublicSource,
    ids: Sequence[str] = (),
    owner: Labels | None = None,
    subgroup: Labels | None = None,
    concept: Labels | None = None,
    masks: Masks | None = None,
    strict: Int[np.ndarray, " strict"] | None = None,
    unseen: str = "concepts",
) -> Experiment:
    """An experiment made of one set of pairs, by the rows of its parts.

    Args:
        pairs: All pairs.
        name: Name of the data set.
        kind: As in `Experiment`.
        train: Rows that clients hold.
        validation: Rows of the pool from which the few labels are drawn.
        test: Rows for the reported figures.
        labels: Labellings of all pairs; the partition ``dirichlet`` follows the first.
        public: Public source images, which are in no pair.
        ids: Names of all pairs, all different; empty for none.
        owner: Who made each pair; None if unknown.
        subgroup: Finer label of each pair; None if unknown.
        concept: What the split follows; None if unknown.
        masks: Masks of all pairs, if the set has any.
        strict: Rows of the strict test; None: those of the test.
        unseen: What test and training pairs do not share, in the plural.

    Raises:
        DataError: Numbers do not fit, or an id occurs twice.
    """
    nobody = Labels(values=np.full(len(train), UNLABELLED), names=())
    parts = {
        part: held_out(rows, pairs=pairs, labels=labels, ids=ids, masks=masks)
        for part, rows in (("validation", validation), ("test", test), ("strict", strict))
        if rows is not None
    }
    return Experiment(
        name=name,
        kind=kind,
        public=public,
        train=pairs.take(train),
        train_owner=nobody if owner is None else owner.take(train),
        train_labels=next(iter(labels.values())).take(train),
        train_subgroup=nobody if subgroup is None else subgroup.take(train),
        validation=parts["validation"],
        test=parts["test"],
        test_strict=parts.get("strict", parts["test"]),
        train_ids=_taken(ids, train),
        unseen=unseen,
        train_concept=None if concept is None else concept.take(train),
    )


def _taken(ids: Sequence[str] | np.ndarray, rows: np.ndarray) -> tuple[str, ...]:
    return tuple(str(ids[row]) for row in rows) if len(ids) else ()


def check_ids(name: str, ids: tuple[str, ...], *, num: int) -> None:
    """Refuse ids that are neither absent nor one for each example, all different.

    Raises:
        DataError: The number is wrong or an id occurs twice.
    """
    if ids and (len(ids) != num or len(set(ids)) != num):
        raise DataError(f"{name} has {len(ids)} ids, {len(set(ids))} of them different, for {num} examples.")


def load_experiment(config: DataConfig) -> Experiment:
    """Load the data set that ``config.name`` names, or the one that a user's own code makes.

    Raises:
        ConfigError: The name is unknown, a setting does not suit the set, or the user's code is unusable.
        DataError: The files are missing or damaged.
    """
    row = data_set(config.name)
    if config.reverse and not row.reversible:
        allowed = ", ".join(sorted(name for name, one in DATA_SETS.items() if one.reversible))
        raise ConfigError(
            f"data.reverse=true does not suit data.name={config.name!r}: a teacher of its targets would need"
            f" public targets that are in no pair, and the set has none. Allowed: {allowed}."
        )
    made = _own(config) if is_own(config.name) else imported(row.loader)(config)
    assert isinstance(made, Experiment)
    check_kind(made.train.target, config)
    return with_copies(made)


def _own(config: DataConfig) -> Experiment:
    """What the factory of a user makes, which gets those of the settings that it names as parameters."""
    made = call_factory("data.name", config.name, offered=asdict(config))
    if not isinstance(made, Experiment):
        raise ConfigError(
            f"data.name={config.name!r} made an object of type {type(made).__name__}; allowed is"
            " edgecmd.data.experiment.Experiment. Return one: docs/extending.md shows how."
        )
    parts = (made.train, made.validation.pairs, made.test.pairs, made.test_strict.pairs)
    _check_own("source", (*(one.source for one in parts), made.public.images), config)
    _check_own("target", tuple(one.target for one in parts), config)
    return made


def _check_own(half: str, arrays: Sequence[Examples], config: DataConfig) -> None:
    """Refuse halves of a user's code that are not what the settings say, or not alike in all parts.

    Raises:
        ConfigError: With the setting to change.
    """
    found = {(one.dtype.name, *one.shape[1:]) for one in arrays}
    if len(found) > 1:
        shown = "; ".join(f"{kind} of shape {tuple(shape)}" for kind, *shape in sorted(found))
        raise ConfigError(
            f"data.name={config.name!r} made {half} arrays of different kinds: {shown}, without the first"
            f" axis. Make training, validation and test{' and public images' if half == 'source' else ''}"
            " alike."
        )
    setting, side = (
        ("source_size", config.source_side) if half == "source" else ("image_size", config.image_size)
    )
    _, *shape = found.pop()
    if len(shape) == 3 and shape[:2] != [side, side]:
        raise ConfigError(
            f"data.name={config.name!r} made {half} arrays of {shape[0]} x {shape[1]} pixels, but"
            f" data.{setting} says {side}. Set it, or make them of that side."
        )
    samples = round(config.sampling_rate_hz * config.clip_s)
    if len(shape) == 1 and shape[0] != samples:
        raise ConfigError(
            f"data.name={config.name!r} made {half} arrays of {shape[0]} samples, but data.sampling_rate_hz"
            f" and data.clip_s say {samples}. Set them, or make as many samples."
        )


def with_copies(whole: Experiment) -> Experiment:
    """The experiment whose held-out parts know their copies, which retrieval then takes for one thing.

    Guarantees:
        Where no held-out source is a copy of another, retrieval is what it was.
    """
    if whole.copies is not None:
        return whole
    # Of the part alone: whatever lies in training must not decide what is asked in the test.
    validation = _showing(whole.validation, alike(whole.validation.pairs))
    test = _showing(whole.test, alike(whole.test.pairs))
    strict = test if whole.test_strict is whole.test else _part_of(test, whole.test_strict)
    return replace(whole, validation=validation, test=test, test_strict=strict)


def _showing(held: HeldOut, copies: Alike) -> HeldOut:
    """Held-out pairs that know which of them are copies."""
    shown = held.shown
    if held.gallery is None and shown is None and len(np.unique(copies.source)) < len(held):
        shown = copies.source
    elif shown is not None:
        both = joined(shown, copies.source)
        shown = both if len(np.unique(both)) < len(np.unique(shown)) else shown
    twins = copies.target if len(np.unique(copies.target)) < len(held) else None
    return replace(held, shown=shown, twins=twins)


def _part_of(test: HeldOut, strict: HeldOut) -> HeldOut:
    """``strict`` with what the same examples show in ``test``."""
    if test.shown is None or not strict.ids:
        return strict
    row = {name: index for index, name in enumerate(test.ids)}
    return replace(strict, shown=test.shown[[row[name] for name in strict.ids]])


def check_kind(target: Examples, config: DataConfig) -> None:
    """Refuse targets of another kind than ``data.target_kind`` names.

    Raises:
        ConfigError: The name is unknown, or the targets are something else.
    """
    if config.target_kind == "auto":
        return
    choose("data.target_kind", config.target_kind, {"auto": 0, **target_kinds()})
    found = kind_of(target)
    if found != config.target_kind:
        grey = " If one image among colour images is grey, all count as grey." if found == "grey" else ""
        raise ConfigError(
            f"data.target_kind={config.target_kind!r}, but the targets of data.name={config.name!r} are"
            f" {found!r}.{grey} Set data.target_kind={found!r} or 'auto', or change the files."
        )
