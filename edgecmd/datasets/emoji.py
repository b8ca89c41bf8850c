"""The built-in set ``emoji``: colour images and line drawings of the same emoji by the same house.

Pairs: Fluent Emoji (flat and high contrast) and Noto (colour and the monochrome font), 64 px. Public
source images: Twemoji and FxEmoji, without any concept of the validation and test splits. These are
icons drawn by artists; they are neither photographs nor free-hand sketches. Licences: ``files/NOTICE``.

The splits are disjoint by concept, which is a code point sequence without skin tones.

Shapes: N pairs, S side of an image.
"""

import itertools
from collections.abc import Callable
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int
from PIL import Image

from edgecmd.catalogue.data_files import shipped_file
from edgecmd.core.errors import ConfigError
from edgecmd.data.duplicates import near_groups
from edgecmd.data.experiment import Experiment, cut_apart
from edgecmd.data.labelled import UNLABELLED, Labels
from edgecmd.data.modalities.image import near_duplicates
from edgecmd.data.modalities.row import Pictures
from edgecmd.data.pairs import PairedData, PublicSource
from edgecmd.datasets.pinned import Arrays, read_pinned
from edgecmd.settings import DataConfig

FOLDER = Path(__file__).parent / "files"
PAIRS_FILE = "emoji_64.npz"
PUBLIC_FILE = "public_64.npz"
CONTENT_SHA256 = {
    PAIRS_FILE: "1a8397c6f253a9e70d3cecdfef72af93543affd89f37cc2d1bb1324b83fea1d6",
    PUBLIC_FILE: "45a4fdd7723d29e5d6cec10a85b2a9e3ba0f93f38dbb437afd5eb1f46e28266b",
}
SIDE = 64
MIN_SUBGROUP_PAIRS = 20
NO_LABEL = 255


def read_shipped(name: str, *, folder: Path | None = None) -> dict[str, np.ndarray]:
    """Arrays of a shipped file.

    Args:
        name: `PAIRS_FILE` or `PUBLIC_FILE`.
        folder: Where the file is; None for where edgecmd is installed.

    Raises:
        DataError: The file is missing or its content is not the pinned one.
    """
    path = folder / name if folder else shipped_file(name)
    way_out = f"Build it again with `edgecmd data build emoji --out {path.parent}`, or reinstall edgecmd."
    return read_pinned(path, CONTENT_SHA256[name], way_out=way_out)


def box_mean(images: Pictures, side: int) -> Float[np.ndarray, "num side side channels"]:
    """Images averaged down to ``side``, which divides their own side; float32."""
    block = images.shape[1] // side
    offsets = itertools.product(range(block), repeat=2)
    # Sums of strided slices: several times faster than a mean over the axes of a reshaped view.
    total = sum(images[:, down::block, right::block].astype(np.uint32) for down, right in offsets)
    return np.asarray(np.divide(total, block**2, dtype=np.float32))


def shrink(images: Pictures, side: int) -> Pictures:
    """Images averaged down to ``side``, rounded half up; the same array where nothing is to do."""
    if images.shape[1] == side:
        return images
    return (box_mean(images, side) + 0.5).astype(np.uint8)


def resized(images: Pictures, side: int) -> Pictures:
    """Images brought to any ``side``: by `shrink` where it divides theirs, else by a bilinear filter."""
    own = images.shape[1]
    if side <= own and own % side == 0:
        return shrink(images, side)
    large = np.empty((len(images), side, side, images.shape[3]), dtype=np.uint8)
    for row, image in enumerate(images):
        large[row] = np.asarray(Image.fromarray(image).resize((side, side), Image.Resampling.BILINEAR))
    return large


def check_side(side: int) -> None:
    """Refuse an image size that the 64 px files cannot be averaged down to.

    Raises:
        ConfigError: ``side`` does not divide 64.
    """
    if side > SIDE or SIDE % side:
        raise ConfigError(f"data.image_size={side} does not suit data.name='emoji'. Allowed: 16, 32, 64.")


def encode(values: np.ndarray) -> Labels:
    """Labels out of strings; the names are sorted."""
    names, codes = np.unique(values, return_inverse=True)
    return Labels(values=codes.astype(np.int64), names=tuple(str(name) for name in names))


def drop_rare(labels: Labels, *, min_pairs: int) -> Labels:
    """Labels where a class with fewer than ``min_pairs`` examples becomes `UNLABELLED`, names renumbered."""
    counts = np.bincount(labels.values[labels.values >= 0], minlength=len(labels.names))
    kept = np.flatnonzero(counts >= min_pairs)
    renumbered = np.full(len(labels.names), UNLABELLED, dtype=np.int64)
    renumbered[kept] = np.arange(len(kept))
    values = np.where(labels.values >= 0, renumbered[labels.values], UNLABELLED)
    return Labels(values=values, names=tuple(labels.names[index] for index in kept))


def labellings(arrays: Arrays, *, min_subgroup_pairs: int) -> dict[str, Labels]:
    """The labellings ``group``, ``subgroup``, ``concept`` and ``style`` of all pairs."""
    group: Int[np.ndarray, " num"] = arrays["label"].astype(np.int64)
    group[group == NO_LABEL] = UNLABELLED
    return {
        "group": Labels(values=group, names=tuple(str(name) for name in arrays["label_names"])),
        "subgroup": drop_rare(encode(arrays["subgroup"]), min_pairs=min_subgroup_pairs),
        "concept": encode(arrays["concept"]),
        "style": encode(arrays["style_names"][arrays["style"]]),
    }


def load_public(*, image_size: int = SIDE) -> PublicSource:
    """The built-in public source set, Twemoji and FxEmoji; keys such as ``twemoji/1f600``.

    Args:
        image_size: Side in pixels. 16 and 32 are means of blocks of pixels; every other side is resampled.

    Raises:
        DataError: The shipped file is missing or damaged.
    """
    arrays = read_shipped(PUBLIC_FILE)
    keys = tuple(str(key) for key in arrays["key"])
    return PublicSource(images=resized(arrays["image"], image_size), keys=keys, name="emoji-public")


def load_emoji(config: DataConfig, *, min_subgroup_pairs: int = MIN_SUBGROUP_PAIRS) -> Experiment:
    """Load the built-in set.

    Args:
        config: ``image_size`` (16, 32 or 64) and ``strict`` are used; the splits are fixed.
        min_subgroup_pairs: Subgroups with fewer pairs in the whole set are `UNLABELLED`.

    Returns:
        The experiment; the target is black ink on white paper, (N, S, S, 1).

    Raises:
        ConfigError: ``image_size`` does not divide 64.
        DataError: A shipped file is missing or damaged.
    """
    return emoji_experiment(
        lambda: read_shipped(PAIRS_FILE), config, name="emoji", min_subgroup_pairs=min_subgroup_pairs
    )


def emoji_experiment(
    read: Callable[[], Arrays], config: DataConfig, *, name: str, min_subgroup_pairs: int = MIN_SUBGROUP_PAIRS
) -> Experiment:
    """The experiment of arrays as `PAIRS_FILE` has them; see `load_emoji`.

    Args:
        read: Gives the arrays; called once the settings are found to suit them.
        config: As for `load_emoji`.
        name: Name of the data set.
        min_subgroup_pairs: As for `load_emoji`.
    """
    check_side(config.image_size)
    check_side(config.source_side)
    arrays = read()
    target = 255 - arrays["sketch"][..., None]
    train, validation, test = (np.flatnonzero(arrays["split"] == part) for part in range(3))
    # Compared at the shipped size, so that the strict set is the same at every image_size.
    strict = test
    if config.strict:
        source = near_groups(arrays["image"])
        known = near_duplicates(target[test], target[train]) | np.isin(source[test], source[train])
        strict = test[~known]
    labels = labellings(arrays, min_subgroup_pairs=min_subgroup_pairs)
    pairs = PairedData(
        source=shrink(arrays["image"], config.source_side), target=shrink(target, config.image_size)
    )
    houses = arrays["style_names"][arrays["style"]]
    return cut_apart(
        pairs,
        name=name,
        kind="real",
        train=train,
        validation=validation,
        test=test,
        strict=strict,
        labels=labels,
        public=load_public(image_size=config.source_side),
        ids=[f"{house}/{concept}" for house, concept in zip(houses, arrays["concept"], strict=True)],
        owner=labels["style"],
        subgroup=labels["subgroup"],
        concept=labels["concept"],
    )
