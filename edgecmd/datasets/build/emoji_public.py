"""The public source set: Twemoji and FxEmoji, without what is held out for validation and test.

FxEmoji comes with names only. An icon whose name does not fit exactly one emoji is left out, because
its concept could not be shown to lie outside the held-out ones.
"""

from collections.abc import Collection, Iterator, Mapping

import numpy as np

from edgecmd.datasets.build.emoji_pairs import is_wanted
from edgecmd.datasets.build.icons import Emoji, IconSet, match_names
from edgecmd.datasets.build.raster import rasterise

# A picture without any pixel darker than this in some channel is blank.
MAX_BLANK = 250


def public_icons(
    twemoji: IconSet, fxemoji: IconSet, emoji: Mapping[str, Emoji], *, held_out: Collection[str]
) -> Iterator[tuple[str, str]]:
    """Key and SVG text of each candidate.

    Guarantees:
        No concept of ``held_out``, no skin tone, no flag; a concept occurs once in each house.
    """
    matched = match_names(fxemoji.svg, emoji)
    for house, icons, concepts in (("twemoji", twemoji, twemoji.concept), ("fxemoji", fxemoji, matched)):
        keys: set[str] = set()
        for name, svg in icons.svg.items():
            concept = concepts.get(name, "")
            if concept not in keys and concept not in held_out and is_wanted(concept, emoji):
                keys.add(concept)
                yield f"{house}/{concept}", svg


def public_arrays(
    twemoji: IconSet,
    fxemoji: IconSet,
    emoji: Mapping[str, Emoji],
    *,
    pairs: Mapping[str, np.ndarray],
) -> dict[str, np.ndarray]:
    """Arrays ``image`` and ``key`` of the shipped file, of the side of ``pairs``.

    Guarantees:
        No blank picture, no two equal ones, none equal to a picture of ``pairs``.
    """
    held_out = {str(concept) for concept in pairs["concept"][pairs["split"] > 0]}
    seen = {image.tobytes() for image in pairs["image"]}
    images, keys = [], []
    for key, svg in public_icons(twemoji, fxemoji, emoji, held_out=held_out):
        image = rasterise(svg, pairs["image"].shape[1])
        if image.min() < MAX_BLANK and image.tobytes() not in seen:
            seen.add(image.tobytes())
            images.append(image)
            keys.append(key)
    return {"image": np.stack(images), "key": np.array(keys)}
