"""The set ``stamps``: Tux Paint's images of things, and what they are called in many languages.

Kind: real. The recordings were made for these images; nothing was matched by a class. A word that was
never heard says nothing about its image, so with ``data.split=concept``, where test words are unseen in
every language, little can be expected. ``data.split=owner`` holds a language out and asks for images
that are known by their names in other languages: words that languages share carry over.
``data.split=pair`` holds single names out, in languages and voices that training has.

The set is built on the user's machine (`edgecmd.datasets.build.stamps`) and is not part of edgecmd.
The label ``group`` is the folder of the image, for reports.

Shapes: N pairs, T samples, S side of an image.
"""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
from jaxtyping import Int, Int16

from edgecmd.catalogue.data_files import checked_file
from edgecmd.catalogue.data_sets import DATA_SETS
from edgecmd.core.errors import ConfigError, DataError, choose
from edgecmd.data.experiment import Experiment, HeldOut, held_out
from edgecmd.data.labelled import Labels
from edgecmd.data.modalities.table import modality_of
from edgecmd.data.pairs import PairedData
from edgecmd.data.user_files.sound_files import Clip, check_clip
from edgecmd.data.user_files.user_pairs import check_overlap, named_owners, position, split_rows
from edgecmd.datasets.emoji import SIDE, encode, load_public, shrink
from edgecmd.datasets.pinned import read_built
from edgecmd.settings import DataConfig

NAME, KIND = "stamps", "real"
PAIRS, WAVES = "pairs", "waves"
CLIP = Clip(sampling_rate_hz=8000, seconds=2.0)
MIN_PART = 10

Rows = Int[np.ndarray, " _"]
Parts = tuple[Rows, Rows, Rows]


def load_stamps(config: DataConfig) -> Experiment:
    """Load the built set.

    Args:
        config: ``split``, ``held_out``, ``labels_from`` (languages, as owners of the pairs), the fractions,
            ``clip_s``, ``source_size`` and ``strict`` are used.

    Returns:
        The experiment. Split by concept, no test word was heard in any language; split by owner, the test
        are the recordings in the languages ``held_out`` of things that training names in another one;
        split by pair, names of such things in languages that training has.

    Raises:
        ConfigError: A setting does not suit the set.
        DataError: The set is not built, or a file of it is damaged.
    """
    _check(config)
    arrays = read_built(NAME, PAIRS)
    concept, language = arrays["concept"][arrays["row"]], arrays["language"]
    train, validation, test = choose("data.split", config.split, SPLITS)(concept, language, config)
    pairs = PairedData(
        source=shrink(arrays["picture"], config.source_side)[arrays["row"]],
        target=_waves(arrays["length"], num_samples=round(CLIP.sampling_rate_hz * config.clip_s)),
    )
    folders = [str(name).split("/") for name in arrays["stamp"]]
    labels = {
        "group": encode(np.array([parts[0] for parts in folders])).take(arrays["row"]),
        "concept": encode(concept),
        "language": encode(language),
    }
    subgroup = encode(np.array(["/".join(parts[:-1][:2]) for parts in folders])).take(arrays["row"])
    known = np.zeros(len(test), bool)
    if config.strict:
        known = modality_of(pairs.target).looks_known(pairs.target[test], pairs.target[train])
    held = {
        name: _held_out(rows, pairs=pairs, labels=labels, ids=arrays["id"])
        for name, rows in (("validation", validation), ("test", test), ("strict", test[~known]))
    }
    return Experiment(
        name=NAME,
        kind=KIND,
        public=load_public(image_size=config.source_side),
        train=pairs.take(train),
        train_owner=labels["language"].take(train),
        train_labels=labels["group"].take(train),
        train_subgroup=subgroup.take(train),
        validation=held["validation"],
        test=held["test"],
        test_strict=held["strict"] if known.any() else held["test"],
        train_ids=tuple(arrays["id"][train].tolist()),
        unseen=UNSEEN[config.split],
        train_concept=labels["concept"].take(train),
    )


def _check(config: DataConfig) -> None:
    """Refuse settings that the built files cannot serve."""
    check_clip(config, CLIP)
    if SIDE % config.source_side:
        raise ConfigError(
            f"data.source_size={config.source_side} does not suit data.name='stamps'. Allowed: 16, 32, 64."
        )


def _waves(length: Int[np.ndarray, " num"], *, num_samples: int) -> Int16[np.ndarray, "num samples"]:
    """Recordings out of the line of all samples, cut to ``num_samples`` or with silence behind."""
    path = checked_file(NAME, WAVES)
    line = np.load(path, allow_pickle=False, mmap_mode="r")
    if line.dtype != np.int16 or line.shape != (length.sum(),):
        raise DataError(
            f"{path} does not fit the pairs beside it. Build the set again: `{DATA_SETS[NAME].build}`."
        )
    waves = np.zeros((len(length), num_samples), dtype=np.int16)
    ends = np.cumsum(length)
    for wave, start, end in zip(waves, ends - length, ends, strict=True):
        kept = min(end - start, num_samples)
        wave[:kept] = line[start : start + kept]
    return waves


def _by_concept(concept: np.ndarray, language: np.ndarray, config: DataConfig) -> Parts:
    """Whole concepts; every language is in all parts."""
    del language
    _refuse_languages(config)
    return split_rows(concept.tolist(), val_fraction=config.val_fraction, test_fraction=config.test_fraction)


def _refuse_languages(config: DataConfig) -> None:
    if config.held_out or config.labels_from:
        raise ConfigError(
            f"data.held_out={config.held_out!r} and data.labels_from={config.labels_from!r} name languages,"
            f" but data.split={config.split!r} does not follow them. Set data.split to 'owner'."
        )


def _by_pair(concept: np.ndarray, language: np.ndarray, config: DataConfig) -> Parts:
    """Names in one language of things that training names in others, or in another image's words."""
    _refuse_languages(config)
    place = _places(concept, language)
    is_test = place < config.test_fraction
    is_drawn = ~is_test & (place < config.test_fraction + config.val_fraction)
    return _known_parts(concept, ~is_test & ~is_drawn, is_drawn, is_test)


def _places(concept: np.ndarray, language: np.ndarray) -> np.ndarray:
    """Place of each pair in [0, 1) by concept and language: equal recordings of two images go together."""
    keys = zip(concept.tolist(), language.tolist(), strict=True)
    return np.array([position(f"{one} {two}") for one, two in keys])


def _known_parts(concept: np.ndarray, train: np.ndarray, validation: np.ndarray, test: np.ndarray) -> Parts:
    """Rows of three masks; of the held-out ones those whose concept is in training."""
    known = np.isin(concept, concept[train])
    return np.flatnonzero(train), np.flatnonzero(validation & known), np.flatnonzero(test & known)


def _by_language(concept: np.ndarray, language: np.ndarray, config: DataConfig) -> Parts:
    """Whole languages for testing; in validation and test are only things that training names too."""
    languages = language.tolist()
    tested = named_owners("data.held_out", config.held_out, languages)
    labelled = named_owners("data.labels_from", config.labels_from, languages)
    if not tested:
        raise ConfigError(
            "data.split='owner' needs data.held_out for data.name='stamps': languages, separated by commas."
            f" Allowed: {', '.join(sorted(set(languages)))}."
        )
    check_overlap(tested, labelled)
    is_drawn = _places(concept, language) < config.val_fraction
    is_test, is_labelled = np.isin(language, sorted(tested)), np.isin(language, sorted(labelled))
    if not labelled:
        is_labelled = ~is_test & is_drawn
    elif labelled == tested:
        is_labelled, is_test = is_test & is_drawn, is_test & ~is_drawn
    parts = _known_parts(concept, ~is_test & ~is_labelled, is_labelled, is_test)
    if min(map(len, parts)) < MIN_PART:
        sizes = ", ".join(str(len(part)) for part in parts)
        raise ConfigError(
            f"data.held_out={config.held_out!r} and data.labels_from={config.labels_from!r} leave {sizes}"
            f" pairs for training, labels and test; each needs {MIN_PART}. Choose other languages."
        )
    return parts


SPLITS: dict[str, Callable[[np.ndarray, np.ndarray, DataConfig], Parts]] = {
    "concept": _by_concept,
    "owner": _by_language,
    "pair": _by_pair,
}
UNSEEN = {"concept": "concepts", "owner": "languages", "pair": "recordings"}


def _held_out(rows: Rows, *, pairs: PairedData, labels: dict[str, Labels], ids: np.ndarray) -> HeldOut:
    """Examples at ``rows``, which show the thing of their concept."""
    part = held_out(rows, pairs=pairs, labels=labels, ids=ids)
    return replace(part, shown=part.labelled.labels["concept"].values)
