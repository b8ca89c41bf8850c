"""The built-in set ``rooms``: images of furnished rooms and their depth maps, rendered.

Test rooms are furnished with other meshes than all others. The class of each pixel is known for held-out
rooms and stays with them: what a client gets has neither classes nor the type of the room.

Shapes: N rooms, S side of an image.
"""

import numpy as np

from edgecmd.data.experiment import Experiment, cut_apart
from edgecmd.data.labelled import Labels, Masks
from edgecmd.datasets.indoor import KIND, ROOMS_FILE, load_pairs, load_public, thin_out
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
    homes = tuple(f"home {number:02d}" for number in range(int(arrays["home"].max()) + 1))
    labels = {
        "group": Labels(values=arrays["room"].astype(np.int64), names=tuple(arrays["room_names"].tolist())),
        "home": Labels(values=arrays["home"].astype(np.int64), names=homes),
    }
    return cut_apart(
        pairs,
        name=NAME,
        kind=KIND,
        train=rows["train"],
        validation=rows["validation"],
        test=rows["test"],
        labels=labels,
        public=load_public(image_size=config.source_side, path=config.path),
        ids=[f"room/{row:04d}" for row in range(len(pairs))],
        owner=labels["home"],
        masks=Masks(
            values=thin_out(arrays["mask"], config.image_size), names=tuple(arrays["class_names"].tolist())
        ),
        unseen="furniture",
    )
