"""The set ``emoji-scenes``: several emoji on one image, the same layout in line drawings, and masks.

Kind: composed. The drawings are those of the set ``emoji``; a program laid them out. In each scene two to
four objects are on a colour gradient (source) and, in the same places, as line drawings on white paper
(target); later objects cover earlier ones. The mask names the group of the emoji that covers each pixel.

Scenes of a part are made of that part's concepts alone, and public scenes of the public images. All of it
follows from ``data.scene_seed``, so nothing is stored.

Shapes: N scenes, S side of a scene, E emoji.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int, Integer, UInt8
from PIL import Image
from scipy.ndimage import binary_fill_holes

from edgecmd.core.errors import ConfigError
from edgecmd.core.seeding import numpy_generator
from edgecmd.data.experiment import Experiment, HeldOut
from edgecmd.data.labelled import UNLABELLED, LabelledTarget, Labels, Masks
from edgecmd.data.pairs import PairedData, PublicSource
from edgecmd.datasets.emoji import NO_LABEL, PAIRS_FILE, PUBLIC_FILE, check_side, read_shipped
from edgecmd.settings import DataConfig

NAME, KIND = "emoji-scenes", "composed"
BACKGROUND = "background"
# What counts as drawn: a picture darker than this in some channel, ink above this.
PAPER, INK = 245, 60
NUM_OBJECTS = (2, 5)
SIZES = (0.34, 0.66)
BLANK = Image.Resampling.BOX


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Stock:
    """Emoji that scenes are made of.

    Attributes:
        picture: RGB, uint8, (E, 64, 64, 3).
        ink: Line drawings, uint8, (E, 64, 64), 255 is ink; blank where there are images alone.
        shape: What an emoji covers, (E, 64, 64).
        members: Rows of each group.
    """

    picture: UInt8[np.ndarray, "emoji height width 3"]
    ink: UInt8[np.ndarray, "emoji height width"]
    shape: Bool[np.ndarray, "emoji height width"]
    members: tuple[Int[np.ndarray, " _"], ...]


class Scene(NamedTuple):
    """One scene: RGB (S, S, 3), ink (S, S) and mask (S, S), all uint8."""

    source: np.ndarray
    ink: np.ndarray
    mask: np.ndarray


def load_scenes(config: DataConfig) -> Experiment:
    """Compose the set.

    Args:
        config: ``image_size`` and ``source_side`` (equal; 16, 32 or 64), ``scenes`` (training, pool, test and
            public ones) and ``scene_seed``.

    Returns:
        The experiment: validation, which few labels come from, and test carry masks of nine classes.

    Raises:
        ConfigError: A size does not suit the images, or the scenes are not four counts.
        DataError: A shipped file is missing or damaged.
    """
    _check(config)
    arrays = read_shipped(PAIRS_FILE)
    names = tuple(str(name) for name in arrays["label_names"])
    parts, split = [], arrays["split"]
    for index, part in enumerate(("train", "pool", "test")):
        rows = np.flatnonzero((split == index) & (arrays["label"] != NO_LABEL))
        stock = make_stock(
            arrays["image"][rows], arrays["sketch"][rows], arrays["label"][rows], num_groups=len(names)
        )
        parts.append(compose(stock, config, part=part, num=config.scenes[index]))
    train, pool, test = parts
    pairs, train_labels = _pairs(train), majority(train.mask, names)
    tested = _held_out(test, names)
    return Experiment(
        name=NAME,
        kind=KIND,
        public=_public(config),
        train=pairs,
        train_owner=Labels(values=np.full(len(pairs), UNLABELLED), names=()),
        train_labels=train_labels,
        train_subgroup=Labels(values=np.full(len(pairs), UNLABELLED), names=()),
        validation=_held_out(pool, names),
        test=tested,
        test_strict=tested,
    )


def _check(config: DataConfig) -> None:
    check_side(config.image_size)
    if config.source_side != config.image_size:
        raise ConfigError(
            f"data.source_size={config.source_size} does not suit data.name={NAME!r}: both halves of a scene"
            f" share one layout. Allowed: 0 or {config.image_size}."
        )
    if len(config.scenes) != 4 or min(config.scenes, default=0) < 2:
        raise ConfigError(
            f"data.scenes={list(config.scenes)}; allowed are four numbers of at least 2: the number of"
            " scenes for training, for labels, for testing, and public ones."
        )


def make_stock(
    picture: np.ndarray, ink: np.ndarray, label: Integer[np.ndarray, " emoji"], *, num_groups: int
) -> Stock:
    """Emoji with their silhouettes: what image or drawing covers, holes filled."""
    drawn = (picture.min(axis=3) < PAPER) | (ink > INK)
    shape = np.stack([binary_fill_holes(one) for one in drawn])
    members = tuple(np.flatnonzero(label == group) for group in range(num_groups))
    return Stock(picture=picture, ink=ink, shape=shape, members=tuple(one for one in members if len(one)))


def compose(stock: Stock, config: DataConfig, *, part: str, num: int) -> Scene:
    """``num`` scenes, stacked; each from a generator of its own, so that a longer set begins with a shorter.

    Args:
        stock: Emoji; groups are drawn with equal probability.
        config: ``image_size`` and ``scene_seed``.
        part: What the scenes are for; other parts are other scenes.
        num: How many.
    """
    scenes = [
        one_scene(
            stock,
            side=config.image_size,
            generator=numpy_generator(config.scene_seed, f"scenes-{part}", client=index),
        )
        for index in range(num)
    ]
    return Scene(*(np.stack(arrays) for arrays in zip(*scenes, strict=True)))


def one_scene(stock: Stock, *, side: int, generator: np.random.Generator) -> Scene:
    """Two to four emoji, each a third to two thirds of the side, on a gradient; the last is on top."""
    canvas = _gradient(side, generator=generator)
    ink, mask = np.zeros((side, side)), np.zeros((side, side), dtype=np.uint8)
    for _ in range(int(generator.integers(*NUM_OBJECTS))):
        group = int(generator.integers(len(stock.members)))
        row = int(generator.choice(stock.members[group]))
        size = int(generator.integers(int(SIZES[0] * side), int(SIZES[1] * side)))
        left, top = (int(one) for one in generator.integers(-(size // 6), side - size + size // 6, 2))
        flip = bool(generator.random() < 0.5)
        cover = _sized(stock.shape[row].astype(np.uint8) * 255, size, flip=flip) / 255.0
        there, own = _overlap(top, left, size=size, side=side)
        share = cover[own]
        canvas[there] += share[..., None] * (_sized(stock.picture[row], size, flip=flip)[own] - canvas[there])
        ink[there] += share * (_sized(stock.ink[row], size, flip=flip)[own] - ink[there])
        mask[there][share > 0.5] = group + 1
    return Scene(canvas.clip(0, 255).astype(np.uint8), ink.clip(0, 255).astype(np.uint8), mask)


def _gradient(side: int, *, generator: np.random.Generator) -> Float[np.ndarray, "side side 3"]:
    """A colour that changes along one direction, with grain."""
    base, slope = generator.uniform(60, 245, 3), generator.uniform(-50, 50, 3)
    angle = generator.uniform(0, 2 * np.pi)
    down, right = np.mgrid[:side, :side] / side
    along = np.cos(angle) * right + np.sin(angle) * down
    canvas = base + slope * along[..., None] + generator.normal(0, 4, (side, side, 1))
    return np.asarray(canvas.clip(0, 255))


def _sized(image: np.ndarray, size: int, *, flip: bool) -> np.ndarray:
    """An emoji averaged down to ``size``, mirrored if asked."""
    array = np.asarray(Image.fromarray(image).resize((size, size), BLANK), dtype=np.float64)
    return array[:, ::-1] if flip else array


def _overlap(top: int, left: int, *, size: int, side: int) -> tuple[tuple[slice, slice], tuple[slice, slice]]:
    """Where an emoji is on the scene, and which part of the emoji that is."""
    there, own = [], []
    for start in (top, left):
        low, high = max(start, 0), min(start + size, side)
        there.append(slice(low, high))
        own.append(slice(low - start, high - start))
    return (there[0], there[1]), (own[0], own[1])


def _pairs(scene: Scene) -> PairedData:
    return PairedData(source=scene.source, target=255 - scene.ink[..., None])


def majority(mask: UInt8[np.ndarray, "num height width"], names: tuple[str, ...]) -> Labels:
    """Group that covers most of each scene, background aside; `UNLABELLED` where there is none."""
    counts = np.stack([(mask == group + 1).sum(axis=(1, 2)) for group in range(len(names))], axis=1)
    values = np.where(counts.max(axis=1) > 0, counts.argmax(axis=1), UNLABELLED)
    return Labels(values=values.astype(np.int64), names=names)


def _held_out(scene: Scene, names: tuple[str, ...]) -> HeldOut:
    pairs = _pairs(scene)
    labelled = LabelledTarget(
        target=pairs.target,
        labels={"group": majority(scene.mask, names)},
        masks=Masks(values=scene.mask, names=(BACKGROUND, *names)),
    )
    return HeldOut(pairs=pairs, labelled=labelled)


def _public(config: DataConfig) -> PublicSource:
    """Scenes of public images, which have no drawing; their groups are not known and not needed."""
    picture = read_shipped(PUBLIC_FILE)["image"]
    blank = np.zeros(picture.shape[:3], dtype=np.uint8)
    stock = make_stock(picture, blank, np.zeros(len(picture), dtype=np.int64), num_groups=1)
    source = compose(stock, config, part="public", num=config.scenes[3]).source
    keys = tuple(f"public-scene/{index:05d}" for index in range(len(source)))
    return PublicSource(images=source, keys=keys, name="scenes of emoji-public")
