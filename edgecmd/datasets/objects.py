"""The built-in set ``objects``: images of single pieces of furniture and their depth maps, rendered.

Pieces of the test, of the label pool, of the pairs and of the public images are all different. Every
piece was brought to one size before it was looked at.

Shapes: N views, S side of an image.
"""

import numpy as np

from edgecmd.data.experiment import Experiment, cut_apart
from edgecmd.data.labelled import Labels
from edgecmd.datasets.indoor import KIND, OBJECTS_FILE, load_pairs, load_public
from edgecmd.datasets.pinned import Arrays
from edgecmd.settings import DataConfig

NAME = "objects"


def load_objects(config: DataConfig) -> Experiment:
    """Load the built-in set, or a larger one that ``data.path`` names.

    Args:
        config: ``image_size`` and ``source_size`` (16, 32 or 64), ``path``, ``depth_noise`` and
            ``depth_holes`` are used; the splits are fixed.

    Returns:
        The experiment; the target is depth in millimetres, uint16, (N, S, S, 1), 0 where nothing was
        measured. ``group`` is the kind of furniture. The owner of a training pair is its furniture
        library, its concept is the piece.

    Raises:
        ConfigError: A size does not divide 64.
        DataError: A file is missing or damaged.
    """
    arrays, pairs, rows = load_pairs(OBJECTS_FILE, config)
    labels = labellings(arrays)
    names = labels["concept"].names
    return cut_apart(
        pairs,
        name=NAME,
        kind=KIND,
        train=rows["train"],
        validation=rows["validation"],
        test=rows["test"],
        labels=labels,
        public=load_public(image_size=config.source_side, path=config.path),
        ids=[
            f"{names[piece]}/{view:03d}" for piece, view in zip(arrays["piece"], arrays["view"], strict=True)
        ],
        owner=labels["library"],
        subgroup=labels["group"],
        concept=labels["concept"],
        unseen="furniture",
    )


def labellings(arrays: Arrays) -> dict[str, Labels]:
    """The labellings ``group`` (kind of furniture), ``concept`` (the piece) and ``library``."""
    pieces = tuple(arrays["pieces"].tolist())
    libraries = tuple(sorted({piece.partition("#")[0] for piece in pieces}))
    codes = np.array([libraries.index(piece.partition("#")[0]) for piece in pieces])
    return {
        "group": Labels(values=arrays["label"].astype(np.int64), names=tuple(arrays["label_names"].tolist())),
        "concept": Labels(values=arrays["piece"].astype(np.int64), names=pieces),
        "library": Labels(values=codes[arrays["piece"]].astype(np.int64), names=libraries),
    }
