"""The built-in set ``rooms``: pictures of furnished rooms and their depth maps.

Kind: rendered. Both sides were computed from furniture meshes that artists made; no sensor saw anything.
Test rooms are furnished with other meshes than all others. The class of each pixel is known for held-out
rooms and stays with them: what a client gets has neither classes nor the type of the room.

Shapes: N rooms, S side of a picture.
"""

import numpy as np

from edgecmd.config_data import DataConfig
from edgecmd.data.emoji import load_public, shrink
from edgecmd.data.experiment import Experiment, HeldOut
from edgecmd.data.labelled import UNLABELLED, LabelledTarget, Labels, Masks
from edgecmd.data.pairs import PairedData, Targets
from edgecmd.data.pinned import Arrays, read_pinned
from edgecmd.errors import ConfigError
from edgecmd.shipped import shipped_file

NAME, KIND = "rooms", "rendered"
FILE = "rooms_64.npz"
CONTENT_SHA256 = "50133a94be81abcd05dead842995e11c60edf8507d6ed907736aa5590028a691"
SIDE = 64


def load_rooms(config: DataConfig) -> Experiment:
    """Load the built-in set.

    Args:
        config: ``image_size`` and ``source_size`` (16, 32 or 64) are used; the splits are fixed.

    Returns:
        The experiment; the target is depth in millimetres, uint16, (N, S, S, 1), 0 where nothing was
        hit. ``group`` is the type of the room; ``masks`` of validation and test are the pixels' classes.

    Raises:
        ConfigError: A size does not divide 64.
        DataError: The shipped file is missing or damaged.
    """
    for setting, side in (("image_size", config.image_size), ("source_size", config.source_side)):
        if side > SIDE or SIDE % side:
            raise ConfigError(f"data.{setting}={side} does not suit data.name={NAME!r}. Allowed: 16, 32, 64.")
    arrays = read_rooms()
    train, validation, test = (np.flatnonzero(arrays["split"] == part) for part in range(3))
    millimetres = arrays["depth"].astype(np.uint16) * arrays["depth_step_mm"].astype(np.uint16)
    pairs = PairedData(
        source=shrink(arrays["rgb"], config.source_side),
        target=thin_out(millimetres[..., None], config.image_size),
    )
    group = Labels(values=arrays["room"].astype(np.int64), names=tuple(arrays["room_names"].tolist()))
    masks = Masks(
        values=thin_out(arrays["mask"], config.image_size), names=tuple(arrays["class_names"].tolist())
    )
    tested = _held_out(test, pairs=pairs, group=group, masks=masks)
    return Experiment(
        name=NAME,
        kind=KIND,
        public=load_public(image_size=config.source_side),
        train=pairs.take(train),
        train_owner=Labels(values=arrays["home"][train].astype(np.int64), names=homes(arrays)),
        train_labels=group.take(train),
        train_subgroup=Labels(values=np.full(len(train), UNLABELLED), names=()),
        validation=_held_out(validation, pairs=pairs, group=group, masks=masks),
        test=tested,
        test_strict=tested,
        train_ids=_ids(train),
        unseen="furniture",
    )


def read_rooms() -> dict[str, np.ndarray]:
    """Arrays of the shipped file.

    Raises:
        DataError: It is missing or damaged.
    """
    return read_pinned(shipped_file(FILE), CONTENT_SHA256, way_out="Install edgecmd again.")


def homes(arrays: Arrays) -> tuple[str, ...]:
    """Name of each home, in the order of the numbers in ``home``."""
    return tuple(f"home {number:02d}" for number in range(int(arrays["home"].max()) + 1))


def thin_out(maps: Targets, side: int) -> Targets:
    """Every n-th pixel of depth maps or masks, so that no two distances or classes are mixed.

    Args:
        maps: (N, H, W) or (N, H, W, 1); ``side`` divides their sides.
        side: Side of the result.
    """
    step = maps.shape[1] // side
    return maps[:, step // 2 :: step, step // 2 :: step]


def _ids(rows: np.ndarray) -> tuple[str, ...]:
    return tuple(f"room/{row:04d}" for row in rows)


def _held_out(rows: np.ndarray, *, pairs: PairedData, group: Labels, masks: Masks) -> HeldOut:
    part = pairs.take(rows)
    labelled = LabelledTarget(target=part.target, labels={"group": group.take(rows)}, masks=masks.take(rows))
    return HeldOut(pairs=part, labelled=labelled, ids=_ids(rows))
