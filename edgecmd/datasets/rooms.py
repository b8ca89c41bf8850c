"""The built-in set ``rooms``: pictures of furnished rooms and their depth maps, rendered.

Test rooms are furnished with other meshes than all others. The class of each pixel is known for held-out
rooms and stays with them: what a client gets has neither classes nor the type of the room.

Shapes: N rooms, S side of a picture.
"""

import numpy as np

from edgecmd.data.experiment import Experiment, held_out
from edgecmd.data.labelled import UNLABELLED, Labels, Masks
from edgecmd.datasets.indoor import (
    KIND,
    ROOMS_FILE,
    TEST,
    TRAIN,
    VALIDATION,
    load_pairs,
    load_public,
    thin_out,
)
from edgecmd.settings import DataConfig

NAME = "rooms"


def load_rooms(config: DataConfig) -> Experiment:
    """Load the built-in set, or a larger one that ``data.path`` names.

    Args:
        config: ``image_size`` and ``source_size`` (16, 32 or 64), ``path``, ``depth_noise`` and
            ``depth_holes`` are used; the splits are fixed.

    Returns:
        The experiment; the target is depth in millimetres, uint16, (N, S, S, 1), 0 where nothing was
        measured. ``group`` is the type of the room; ``masks`` of validation and test are the pixels'
        classes. The owner of a training pair is its home.

    Raises:
        ConfigError: A size does not divide 64.
        DataError: A file is missing or damaged.
    """
    arrays, pairs, rows = load_pairs(ROOMS_FILE, config)
    train, validation, test = rows[TRAIN], rows[VALIDATION], rows[TEST]
    homes = tuple(f"home {number:02d}" for number in range(int(arrays["home"].max()) + 1))
    labels = {
        "group": Labels(values=arrays["room"].astype(np.int64), names=tuple(arrays["room_names"].tolist())),
        "home": Labels(values=arrays["home"].astype(np.int64), names=homes),
    }
    masks = Masks(
        values=thin_out(arrays["mask"], config.image_size), names=tuple(arrays["class_names"].tolist())
    )
    ids = [f"room/{row:04d}" for row in range(len(pairs))]
    tested = held_out(test, pairs=pairs, labels=labels, ids=ids, masks=masks)
    return Experiment(
        name=NAME,
        kind=KIND,
        public=load_public(image_size=config.source_side, path=config.path),
        train=pairs.take(train),
        train_owner=labels["home"].take(train),
        train_labels=labels["group"].take(train),
        train_subgroup=Labels(values=np.full(len(train), UNLABELLED), names=()),
        validation=held_out(validation, pairs=pairs, labels=labels, ids=ids, masks=masks),
        test=tested,
        test_strict=tested,
        train_ids=tuple(ids[row] for row in train),
        unseen="furniture",
    )
