"""How the pairs of ``words`` are split: by string, by emoji or by language; see `edgecmd.datasets.words`.

Shapes: N pairs, S different strings, M emoji.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int, UInt8

from edgecmd.core.errors import ConfigError
from edgecmd.data.user_files.user_pairs import check_overlap, named_owners, position
from edgecmd.settings import DataConfig

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
        titles: Label of each emoji in English, whole; empty where it has none.
    """

    language: Int[np.ndarray, " num"]
    emoji: Int[np.ndarray, " num"]
    string: Int[np.ndarray, " num"]
    is_label: Mask
    text: UInt8[np.ndarray, "num bytes"]
    keys: tuple[str, ...]
    languages: tuple[str, ...]
    concepts: tuple[str, ...]
    titles: tuple[str, ...]

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
