"""The set ``digits``: images of handwritten digits (MNIST) and recordings of spoken ones (FSDD).

Kind: class-paired. Nobody drew a digit while saying it: each recording got some image of the same
digit, so the class of every pair went into making it, and "unlabelled pairs" is not strictly true.
Retrieval of a recording's own image would mean nothing; any image of the right digit counts.

The set is built on the user's machine (`edgecmd.datasets.build.digits`) and is not part of edgecmd.
Test recordings are by a speaker who is in no other part.

With ``data.reverse`` a teacher of recordings teaches a student of images. The teacher's public recordings
are all of some speakers who are then in no pair, and the student sees each image once, as ever.

Shapes: N recordings, T samples, S side of an image.
"""

import numpy as np

from edgecmd.core.errors import ConfigError
from edgecmd.data.experiment import Experiment, cut_apart
from edgecmd.data.labelled import Labels
from edgecmd.data.pairs import PairedData, PublicSource
from edgecmd.data.user_files.sound_files import Clip, check_clip
from edgecmd.data.user_files.user_pairs import check_overlap, named_owners
from edgecmd.datasets.pinned import read_built
from edgecmd.settings import DataConfig

NAME, KIND = "digits", "class-paired"
PAIRS = "pairs"
CLIP = Clip(sampling_rate_hz=8000, seconds=1.0)
# The takes that the makers of the recordings set aside; those of the training speakers carry the labels.
NUM_LABEL_TAKES = 5
# Arrays with a row for each recording.
OF_PAIRS = ("wave", "picture", "digit", "take", "speaker")
DIGITS = tuple(str(digit) for digit in range(10))


def load_digits(config: DataConfig) -> Experiment:
    """Load the built set.

    Args:
        config: ``held_out`` (empty: the last speaker by name), ``labels_from``, ``clip_s`` and ``reverse``
            are used.

    Returns:
        The experiment: test are all recordings by the held-out speakers; validation, which few labels
        come from, those by ``labels_from``, or else takes 0 to 4 of the other speakers; the rest trains.
        Where ``labels_from`` is ``held_out``, takes 0 to 4 of those speakers are validation, not test.

    Raises:
        ConfigError: A setting does not suit the set.
        DataError: The set is not built, or a file of it is damaged.
    """
    _check(config)
    every = read_built(NAME, PAIRS)
    arrays, public = _set_apart(every, config) if config.reverse else (every, _public(every))
    speakers = arrays["speaker"].tolist()
    train, validation, test = _split(arrays, speakers, config)
    pairs = _pairs(arrays, config)
    names, codes = np.unique(arrays["speaker"], return_inverse=True)
    labels = {
        "group": Labels(values=arrays["digit"].astype(np.int64), names=DIGITS),
        "speaker": Labels(values=codes.astype(np.int64), names=tuple(names.tolist())),
    }
    ids = [
        f"{digit}_{speaker}_{take}"
        for digit, speaker, take in zip(arrays["digit"], speakers, arrays["take"], strict=True)
    ]
    return cut_apart(
        pairs,
        name=NAME,
        kind=KIND,
        train=train,
        validation=validation,
        test=test,
        labels=labels,
        public=public,
        ids=ids,
        owner=labels["speaker"],
        unseen="images" if config.reverse else "speakers",
    )


def _check(config: DataConfig) -> None:
    """Refuse settings that the built files cannot serve."""
    check_clip(config, CLIP)
    if config.source_side != 32:
        raise ConfigError(
            f"data.source_size={config.source_size} does not suit data.name='digits'. Allowed: 0 or 32."
        )


def _split(arrays: dict[str, np.ndarray], speakers: list[str], config: DataConfig) -> list[np.ndarray]:
    """Rows of training, validation and test."""
    tested = named_owners("data.held_out", config.held_out or max(speakers), speakers)
    labelled = named_owners("data.labels_from", config.labels_from, speakers)
    check_overlap(tested, labelled)
    is_test, is_drawn = np.isin(arrays["speaker"], sorted(tested)), arrays["take"] < NUM_LABEL_TAKES
    masks = [~is_test & ~is_drawn, ~is_test & is_drawn, is_test]
    if labelled == tested:
        masks = [~is_test, is_test & is_drawn, is_test & ~is_drawn]
    elif labelled:
        is_labelled = np.isin(arrays["speaker"], sorted(labelled))
        masks = [~is_test & ~is_labelled, is_labelled, is_test]
    parts = [np.flatnonzero(mask) for mask in masks]
    if min(map(len, parts)) < len(DIGITS):
        sizes = ", ".join(str(len(part)) for part in parts)
        raise ConfigError(
            f"data.held_out={config.held_out!r} and data.labels_from={config.labels_from!r} leave {sizes}"
            f" recordings for training, labels and test. Speakers: {', '.join(sorted(set(speakers)))}."
            " Choose different speakers, and leave one for training."
        )
    return parts


def _pairs(arrays: dict[str, np.ndarray], config: DataConfig) -> PairedData:
    """Images and recordings; of reversed pairs the images have one channel, as targets do."""
    wave = arrays["wave"][:, : round(CLIP.sampling_rate_hz * config.clip_s)]
    picture = arrays["picture"][..., None]
    if config.reverse:
        return PairedData(source=wave, target=picture)
    return PairedData(source=np.repeat(picture, 3, axis=3), target=wave)


def _set_apart(
    arrays: dict[str, np.ndarray], config: DataConfig
) -> tuple[dict[str, np.ndarray], PublicSource]:
    """Pairs without the public speakers, and all that those said; their digits are not handed on.

    They are the first by name, a third (at least one) of those whom no setting names.
    """
    speakers = sorted(set(arrays["speaker"].tolist()))
    tested = named_owners("data.held_out", config.held_out or max(speakers), speakers)
    free = sorted(set(speakers) - tested - named_owners("data.labels_from", config.labels_from, speakers))
    public = free[: max(1, len(free) // 3)]
    if len(free) < 2:
        raise ConfigError(
            "data.reverse=true needs a speaker for the public recordings and one for training, in addition"
            f" to those in data.held_out and data.labels_from; of {', '.join(speakers)} there is left:"
            f" {', '.join(free) or 'nobody'}. Build the set with more speakers."
        )
    is_public = np.isin(arrays["speaker"], public)
    rows, clip = np.flatnonzero(is_public), round(CLIP.sampling_rate_hz * config.clip_s)
    kept = {name: arrays[name][~is_public] for name in OF_PAIRS}
    source = PublicSource(
        images=arrays["wave"][rows, :clip],
        keys=tuple(f"{arrays['speaker'][row]}/{place:04d}" for place, row in enumerate(rows)),
        name=f"FSDD ({', '.join(public)})",
    )
    return kept, source


def _public(arrays: dict[str, np.ndarray]) -> PublicSource:
    """Images that are in no pair; their digits are not handed on."""
    images = np.repeat(arrays["public_picture"][..., None], 3, axis=3)
    return PublicSource(
        images=images, keys=tuple(f"mnist/{row:04d}" for row in range(len(images))), name="MNIST"
    )
