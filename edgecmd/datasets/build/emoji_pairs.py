"""The pairs: colour image and line drawing of the same emoji by the same house, and their split.

Shapes: N pairs, S side of an image.
"""

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from edgecmd.datasets.build.icons import Emoji, IconSet, has_tone
from edgecmd.datasets.build.raster import GlyphFont, draw_glyph, ink, rasterise
from edgecmd.datasets.emoji import NO_LABEL

STYLES = ("fluent", "noto")
GROUPS = (
    "activities",
    "animals-nature",
    "food-drink",
    "objects",
    "people-body",
    "smileys-emotion",
    "symbols",
    "travel-places",
)
# A drawing whose darkest pixel is lighter than this is blank.
MIN_INK = 40
SPLIT_SEED = 0
SPLIT_BORDERS = (0.7, 0.8)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Drawing:
    """One pair: who drew it, what it shows, the colour image (S, S, 3) and the ink (S, S)."""

    style: str
    concept: str
    image: np.ndarray
    sketch: np.ndarray


def is_wanted(concept: str, emoji: Mapping[str, Emoji]) -> bool:
    """Whether a concept is known, without skin tone, and neither a flag nor a part of others."""
    return not has_tone(concept) and concept in emoji and emoji[concept].is_drawn


def named_drawings(
    style: str, colour: IconSet, line: IconSet, emoji: Mapping[str, Emoji], *, side: int
) -> Iterator[Drawing]:
    """A house with two sets of icons: the colour image and the drawing of the same name."""
    for name, svg in line.svg.items():
        concept = line.concept.get(name, colour.concept.get(name, ""))
        if name in colour.svg and is_wanted(concept, emoji):
            image, sketch = rasterise(colour.svg[name], side), ink(rasterise(svg, side))
            yield Drawing(style=style, concept=concept, image=image, sketch=sketch)


def noto_drawings(
    colour: IconSet, line: GlyphFont, emoji: Mapping[str, Emoji], *, side: int
) -> Iterator[Drawing]:
    """Noto: the colour image and the glyph of the monochrome font for the same code point."""
    names = {concept: name for name, concept in colour.concept.items()}
    for code_point in line.code_points:
        concept = f"{code_point:04x}"
        if concept not in names or not is_wanted(concept, emoji):
            continue
        sketch = draw_glyph(line, chr(code_point), side)
        if sketch is not None:
            image = rasterise(colour.svg[names[concept]], side)
            yield Drawing(style="noto", concept=concept, image=image, sketch=sketch)


def drop_useless(drawings: Iterable[Drawing]) -> list[Drawing]:
    """Drawings without the blank ones and without a house's second copy of the same ink."""
    kept: dict[tuple[str, bytes], Drawing] = {}
    for one in drawings:
        if one.sketch.max() >= MIN_INK:
            kept.setdefault((one.style, hashlib.sha256(one.sketch.tobytes()).digest()), one)
    return list(kept.values())


def split_of(concepts: np.ndarray) -> np.ndarray:
    """Split of each row: 0 train, 1 validation, 2 test; rows of one concept share it. uint8, (N,)."""
    unique, rows = np.unique(concepts, return_inverse=True)
    draws = np.random.default_rng(SPLIT_SEED).random(len(unique))
    return np.searchsorted(SPLIT_BORDERS, draws, side="right").astype(np.uint8)[rows]


def pair_arrays(
    drawings: Iterable[Drawing], emoji: Mapping[str, Emoji], *, styles: tuple[str, ...] = STYLES
) -> dict[str, np.ndarray]:
    """Arrays of the shipped file; a concept outside the eight groups gets `NO_LABEL`.

    Args:
        drawings: Blank ones and second copies are left out.
        emoji: What is known of each concept.
        styles: Houses, in the order of the codes of ``style``.
    """
    rows = drop_useless(drawings)
    concepts = np.array([row.concept for row in rows])
    groups = [emoji[row.concept].group for row in rows]
    return {
        "image": np.stack([row.image for row in rows]),
        "sketch": np.stack([row.sketch for row in rows]),
        "style": np.array([styles.index(row.style) for row in rows], dtype=np.uint8),
        "style_names": np.array(styles),
        "concept": concepts,
        "label": np.array([GROUPS.index(g) if g in GROUPS else NO_LABEL for g in groups], dtype=np.uint8),
        "label_names": np.array(GROUPS),
        "subgroup": np.array([emoji[row.concept].subgroup for row in rows]),
        "split": split_of(concepts),
    }
