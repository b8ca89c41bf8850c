"""The set ``words``: pictures of emoji, and the strings that name them in 28 languages.

Kind: real. The names are those of Unicode's CLDR, a label and some tags for each emoji in each language, as
npm's ``emojibase-data`` carries them; the pictures are those of the set ``emoji``, one an emoji. Strings
keep the case of CLDR. Two that differ in case or white space alone are one string, and so are two that are
the same once they are cut to ``data.text_bytes``.

In validation and test each string is one question, whatever languages have it: it is asked once, among the
pictures of all emoji, and every emoji that it names is right. ``data.split=string`` holds strings out, in
every language; ``concept`` holds emoji out, those that ``emoji`` holds out too, and asks with strings that
name no other; ``owner`` holds languages out, and its strict test asks with strings that training has not.

The file ships with edgecmd; `edgecmd.datasets.build.names.words` makes it again. Licences:
``files/NOTICE-words``.

Shapes: N pairs, M emoji, S different strings, Q questions.
"""

import numpy as np
from jaxtyping import Int
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
from edgecmd.datasets.word_splits import SPLITS, UNSEEN, Names
from edgecmd.settings import DataConfig

NAME, KIND = "words", "real"
TITLES_IN = "en"
WORDS_FILE, NOTICE_FILE = "words.npz", "NOTICE-words"
CONTENT_SHA256 = "da1852b1a3c2ccf38c6157644384842562da2bd84486a8ddf7f4e6f6c200db93"

Rows = Int[np.ndarray, " _"]


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
    labels = arrays["is_label"] & (arrays["languages"][arrays["language"]] == TITLES_IN)
    titles = dict(zip(arrays["emoji"][labels].tolist(), spelt[spelling[labels]].tolist(), strict=True))
    return Names(
        language=arrays["language"].astype(np.int64),
        emoji=arrays["emoji"].astype(np.int64),
        string=key[spelling],
        is_label=arrays["is_label"],
        text=text[spelling],
        keys=tuple(keys.tolist()),
        languages=tuple(arrays["languages"].tolist()),
        concepts=tuple(arrays["concept"].tolist()),
        titles=tuple(titles.get(code, "") for code in range(len(arrays["concept"]))),
    )


def load_words(config: DataConfig) -> Experiment:
    """Load the set.

    Args:
        config: ``split`` (string, concept or owner), ``held_out`` and ``labels_from`` (languages), the
            fractions, ``source_size`` and ``text_bytes`` are used.

    Returns:
        The experiment, without ids; its parts differ in what ``unseen`` says.

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
    asked = [questions(np.flatnonzero(one), names) for one in (parts.validation, parts.test)]
    every = np.concatenate([train, *asked])
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
        # Whoever types has all emoji on the keyboard.
        public_things=images,
    )


def questions(rows: Rows, names: Names) -> Rows:
    """The first of ``rows`` of each string, in the order of the strings."""
    return rows[np.unique(names.string[rows], return_index=True)[1]]


def _held_out(rows: Rows, *, names: Names, images: Pictures, of_emoji: dict[str, Labels]) -> HeldOut:
    """Each string of the pairs at ``rows`` as one question; right are all emoji that these pairs have it for.

    A question has a label where all of these emoji have the same, and a language where one alone has it.
    """
    asked = questions(rows, names)
    place = np.searchsorted(names.string[asked], names.string[rows])
    cells = np.ones(len(rows), dtype=bool), (place, names.emoji[rows])
    right = csr_array(cells, shape=(len(asked), len(images)))
    right.sum_duplicates()
    labels = {name: _common(one, right) for name, one in of_emoji.items()}
    cells = np.ones(len(rows), dtype=bool), (place, names.language[rows])
    spoken = csr_array(cells, shape=(len(asked), len(names.languages)))
    spoken.sum_duplicates()
    every = Labels(values=np.arange(len(names.languages)), names=names.languages)
    labels["language"] = _common(every, spoken)
    pairs = PairedData(source=LazyRows((images,), names.emoji[asked]), target=names.text[asked])
    return HeldOut(
        pairs=pairs,
        labelled=LabelledTarget(target=pairs.target, labels=labels),
        gallery=Gallery(source=images, right=right, names=names.concepts, titles=names.titles),
    )


def _common(labels: Labels, right: csr_array) -> Labels:
    """The label that all things of a row of ``right`` have, else none."""
    of_right = labels.values[right.indices]
    lowest, highest = (one.reduceat(of_right, right.indptr[:-1]) for one in (np.minimum, np.maximum))
    return Labels(values=np.where(lowest == highest, lowest, UNLABELLED), names=labels.names)
