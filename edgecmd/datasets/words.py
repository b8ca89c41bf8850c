"""The set ``words``: pictures of emoji, and the strings that name them in 28 languages.

Kind: real. The names are those of Unicode's CLDR, a label and some tags for each emoji in each language, as
npm's ``emojibase-data`` carries them; the pictures are those of the set ``emoji``, one an emoji. Strings
keep the case of CLDR. Two that differ in case or white space alone are one string, and so are two that are
the same once they are cut to ``data.text_bytes``.

In validation and test each string is one question, whatever languages have it: it is asked once, among the
pictures of all emoji, and every emoji that it names is right. ``data.split=string`` holds strings out, in
every language; ``concept`` holds emoji out, those that ``emoji`` holds out too, and asks with strings that
name no other; ``owner`` holds languages out, and its strict test asks with strings that training has not.

The file ships with edgecmd (`edgecmd.datasets.build.names.words` makes it again). Licences: ``files/NOTICE-words``.

Shapes: N pairs, M emoji, S different strings, Q questions.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int, UInt8
from scipy.sparse import csr_array

from edgecmd.catalogue.data_files import shipped_file
from edgecmd.core.errors import ConfigError, choose
from edgecmd.data.duplicates import Alike
from edgecmd.data.experiment import Experiment, Gallery, HeldOut
from edgecmd.data.labelled import UNLABELLED, LabelledTarget, Labels
from edgecmd.data.modalities.row import Pictures
from edgecmd.data.modalities.text import folded
from edgecmd.data.modalities.utf8 import decode_strings, encode_strings
from edgecmd.data.pairs import PairedData
from edgecmd.data.stored.array_files import LazyRows
from edgecmd.data.user_files.user_pairs import check_overlap, named_owners, position
from edgecmd.datasets.emoji import (
    MIN_SUBGROUP_PAIRS,
    PAIRS_FILE,
    SIDE,
    labellings,
    load_public,
    read_shipped,
    shrink,
)
from edgecmd.datasets.pinned import read_pinned
from edgecmd.settings import DataConfig

NAME, KIND = "words", "real"
WORDS_FILE, NOTICE_FILE = "words.npz", "NOTICE-words"
CONTENT_SHA256 = "da1852b1a3c2ccf38c6157644384842562da2bd84486a8ddf7f4e6f6c200db93"

Rows = Int[np.ndarray, " _"]
Mask = Bool[np.ndarray, " num"]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Names:
    """All pairs of a string and an emoji, a row for each language that has it.

    Attributes:
        language: Of each pair, (N,), a code of ``languages``.
        emoji: Of each pair, (N,), a code of ``concepts``.
        string: Which string it is, (N,), a code of ``keys``; strings that differ in case alone share one.
        is_label: Whether it is the label, not a tag, (N,).
        text: Each string as a student sees it, (N, data.text_bytes).
        keys: Each string without case, (S,).
        languages: Their names, such as ``es-mx``.
        concepts: Code points of the emoji.
    """

    language: Int[np.ndarray, " num"]
    emoji: Int[np.ndarray, " num"]
    string: Int[np.ndarray, " num"]
    is_label: Mask
    text: UInt8[np.ndarray, "num bytes"]
    keys: tuple[str, ...]
    languages: tuple[str, ...]
    concepts: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.emoji)

    def place(self) -> Float[np.ndarray, " num"]:
        """Where the string of each pair is in [0, 1), by its hash."""
        of_string = np.array([position(key) for key in self.keys])
        return np.asarray(of_string[self.string])


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Parts:
    """Which pairs are of which part, (N,) each; a pair may be of none.

    Attributes:
        train: Pairs that clients hold.
        validation: Pairs that answer the questions of the validation.
        test: Those of the test.
        strict: Those of the strict test; None: it is the test.
    """

    train: Mask
    validation: Mask
    test: Mask
    strict: Mask | None = None


def read_names(*, num_bytes: int) -> Names:
    """All pairs, in the order of language and emoji.

    Args:
        num_bytes: ``data.text_bytes``.

    Raises:
        DataError: The shipped file is missing or damaged.
    """
    path = shipped_file(WORDS_FILE)
    way_out = f"Build it again with `edgecmd data build words --out {path.parent}`, or reinstall edgecmd."
    arrays = read_pinned(path, CONTENT_SHA256, way_out=way_out)
    spelt, spelling = np.unique(arrays["text"].tobytes().decode().split("\n"), return_inverse=True)
    text = encode_strings(spelt.tolist(), num_bytes)
    keys, key = np.unique([folded(one) for one in decode_strings(text)], return_inverse=True)
    return Names(
        language=arrays["language"].astype(np.int64),
        emoji=arrays["emoji"].astype(np.int64),
        string=key[spelling],
        is_label=arrays["is_label"],
        text=text[spelling],
        keys=tuple(keys.tolist()),
        languages=tuple(arrays["languages"].tolist()),
        concepts=tuple(arrays["concept"].tolist()),
    )


def load_words(config: DataConfig) -> Experiment:
    """Load the set.

    Args:
        config: ``split`` (string, concept or owner), ``held_out`` and ``labels_from`` (languages), the
            fractions, ``source_size`` and ``text_bytes`` are used.

    Returns:
        The experiment; its parts differ in what `edgecmd.data.experiment.Experiment.unseen` says. It has no
        ids.

    Raises:
        ConfigError: A setting does not suit the set.
        DataError: A shipped file is missing or damaged.
    """
    if SIDE % config.source_side:
        raise ConfigError(
            f"data.source_size={config.source_side} does not suit data.name='words'. Allowed: 16, 32, 64."
        )
    names, shipped = read_names(num_bytes=config.text_bytes), read_shipped(PAIRS_FILE)
    first = np.unique(shipped["concept"], return_index=True)[1]
    of_pictures = labellings(shipped, min_subgroup_pairs=MIN_SUBGROUP_PAIRS)
    of_emoji = {name: of_pictures[name].take(first) for name in ("group", "subgroup")}
    parts = choose("data.split", config.split, SPLITS)(names, shipped["split"][first], config)
    images = shrink(shipped["image"][first], config.source_side)
    held = {
        part: _held_out(np.flatnonzero(rows), names=names, images=images, of_emoji=of_emoji)
        for part, rows in (("validation", parts.validation), ("test", parts.test), ("strict", parts.strict))
        if rows is not None
    }
    train = np.flatnonzero(parts.train)
    every = np.concatenate(
        [train, *(questions(np.flatnonzero(one), names) for one in (parts.validation, parts.test))]
    )
    # No two emoji are copies: each is asked for. To look for copies among all strings would take minutes.
    emoji, string = names.emoji[every], names.string[every]
    return Experiment(
        name=NAME,
        kind=KIND,
        public=load_public(image_size=config.source_side),
        train=PairedData(source=LazyRows((images,), names.emoji[train]), target=names.text[train]),
        train_owner=Labels(values=names.language[train], names=names.languages),
        train_labels=of_emoji["group"].take(names.emoji[train]),
        train_subgroup=of_emoji["subgroup"].take(names.emoji[train]),
        train_concept=Labels(values=names.emoji[train], names=names.concepts),
        validation=held["validation"],
        test=held["test"],
        test_strict=held.get("strict", held["test"]),
        unseen=UNSEEN[config.split],
        copies=Alike(source=emoji, target=string, ties=(emoji, string)),
    )


def questions(rows: Rows, names: Names) -> Rows:
    """The first of ``rows`` of each string, in the order of the strings."""
    return rows[np.unique(names.string[rows], return_index=True)[1]]


def _held_out(rows: Rows, *, names: Names, images: Pictures, of_emoji: dict[str, Labels]) -> HeldOut:
    """Each string of the pairs at ``rows`` as one question; right are all emoji that these pairs have it for.

    A question has a label where all of these emoji have the same.
    """
    asked = questions(rows, names)
    place = np.searchsorted(names.string[asked], names.string[rows])
    shape = (len(asked), len(images))
    right = csr_array((np.ones(len(rows), dtype=bool), (place, names.emoji[rows])), shape=shape)
    right.sum_duplicates()
    labels = {name: _common(one, right) for name, one in of_emoji.items()}
    labels["language"] = Labels(values=names.language[asked], names=names.languages)
    pairs = PairedData(source=LazyRows((images,), names.emoji[asked]), target=names.text[asked])
    return HeldOut(
        pairs=pairs,
        labelled=LabelledTarget(target=pairs.target, labels=labels),
        gallery=Gallery(source=images, right=right, names=names.concepts),
    )


def _common(labels: Labels, right: csr_array) -> Labels:
    """The label that all right emoji of a question have, else none."""
    of_right = labels.values[right.indices]
    lowest, highest = (one.reduceat(of_right, right.indptr[:-1]) for one in (np.minimum, np.maximum))
    return Labels(values=np.where(lowest == highest, lowest, UNLABELLED), names=labels.names)


def _by_string(names: Names, _: np.ndarray, config: DataConfig) -> Parts:
    """Whole strings, in every language."""
    _refuse_languages(config)
    place = names.place()
    test = place < config.test_fraction
    validation = ~test & (place < config.test_fraction + config.val_fraction)
    return Parts(train=~test & ~validation, validation=validation, test=test)


def _by_emoji(names: Names, part_of: np.ndarray, config: DataConfig) -> Parts:
    """Emoji as ``emoji`` splits them; a question names no emoji of another part."""
    _refuse_languages(config)
    part = part_of[names.emoji].astype(np.int64)
    lowest, highest = np.full(len(names.keys), 2), np.zeros(len(names.keys), dtype=np.int64)
    np.minimum.at(lowest, names.string, part)
    np.maximum.at(highest, names.string, part)
    pure = (lowest == highest)[names.string]
    return Parts(train=part == 0, validation=(part == 1) & pure, test=(part == 2) & pure)


def _by_language(names: Names, _: np.ndarray, config: DataConfig) -> Parts:
    """Whole languages for testing, each asked for its own emoji; strictly, with strings new to training."""
    owners = [names.languages[code] for code in names.language]
    tested = named_owners("data.held_out", config.held_out, owners)
    labelled = named_owners("data.labels_from", config.labels_from, owners)
    if not tested or tested | labelled == set(names.languages):
        raise ConfigError(
            "data.split='owner' of data.name='words' needs languages in data.held_out, separated by commas,"
            " and one that is neither there nor in data.labels_from. Given:"
            f" data.held_out={config.held_out!r}, data.labels_from={config.labels_from!r}. Allowed:"
            f" {', '.join(names.languages)}."
        )
    check_overlap(tested, labelled)
    in_test, in_labels = (
        np.isin(names.language, [names.languages.index(one) for one in some]) for some in (tested, labelled)
    )
    drawn = names.place() < config.val_fraction
    if not labelled:
        # A string of the validation is in no pair of training, whatever its language.
        validation, test = ~in_test & drawn, in_test
    elif labelled == tested:
        validation, test = in_test & drawn, in_test & ~drawn
    else:
        validation, test = in_labels, in_test
    train = ~in_test & ~in_labels & ~validation
    known = np.zeros(len(names.keys), dtype=bool)
    known[names.string[train]] = True
    return Parts(train=train, validation=validation, test=test, strict=test & ~known[names.string])


def _refuse_languages(config: DataConfig) -> None:
    if config.held_out or config.labels_from:
        raise ConfigError(
            f"data.held_out={config.held_out!r} and data.labels_from={config.labels_from!r} name languages,"
            f" but data.split={config.split!r} does not follow them. Set data.split to 'owner'."
        )


SPLITS: dict[str, Callable[[Names, np.ndarray, DataConfig], Parts]] = {
    "string": _by_string,
    "concept": _by_emoji,
    "owner": _by_language,
}
UNSEEN = {"string": "strings", "concept": "emoji", "owner": "languages"}
