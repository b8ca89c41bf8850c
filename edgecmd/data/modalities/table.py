"""The table of modalities, and questions about arrays whose modality shows in the arrays themselves.

Shapes: N examples, B batch, C channels, H height, W width.
"""

import numpy as np
from jaxtyping import Float
from torch import Tensor

from edgecmd.core.errors import DataError, choose
from edgecmd.data.modalities.depth import DEPTH
from edgecmd.data.modalities.image import IMAGE, SOURCE_OFFSET, SOURCE_SCALE
from edgecmd.data.modalities.motion import Motion
from edgecmd.data.modalities.row import InputShape, Modality, Pictures
from edgecmd.data.modalities.text import TEXT
from edgecmd.data.modalities.wave import WAVE
from edgecmd.data.stored.array_files import Examples, LazyRows

# The first of several that suit is taken, such as the modality of a student by its front.
MODALITIES: dict[str, Modality] = {"image": IMAGE, "depth": DEPTH, "wave": WAVE, "text": TEXT}


def modality_of(stored: Examples, *, name: str = "target") -> Modality:
    """Modality of either half's arrays, told by type and number of axes.

    Args:
        stored: Examples, N in the first axis.
        name: What an error calls them.

    Raises:
        DataError: It is none of `MODALITIES`.
    """
    is_array = isinstance(stored, np.ndarray | LazyRows)
    for one in MODALITIES.values():
        if is_array and all(stored.shape[1:]) and one.takes(stored):
            return one
    allowed = "; or ".join(one.allowed for one in MODALITIES.values())
    kind = f"has dtype={stored.dtype} and shape={stored.shape}" if is_array else f"is {type(stored).__name__}"
    raise DataError(f"{name} {kind}; allowed is {allowed}. Convert it with numpy first.")


def target_kinds() -> dict[str, Modality]:
    """Values of ``data.target_kind`` but ``auto``, each with its modality."""
    return {kind: one for one in MODALITIES.values() for kind in one.kinds}


def modality_for(front: str) -> Modality:
    """The first modality whose students have ``front`` before the convolutions; without any, the first."""
    every = list(MODALITIES.values())
    return next((one for one in every if one.front == front), every[0])


def motion_of(modality: str) -> Motion:
    """How inputs of a modality are moved, and what covers their pixels with them.

    Raises:
        ConfigError: The modality is unknown, or its inputs are no grid of pixels.
    """
    moving = {name: one.motion for name, one in MODALITIES.items() if one.motion is not None}
    return choose("modality", modality, moving)


def as_pictures(stored: Examples) -> Pictures:
    """Examples of any modality as images, for people and for a teacher that knows images alone."""
    return modality_of(stored).as_pictures(np.asarray(stored))


def as_words(stored: Examples) -> list[str]:
    """Examples as text, of a modality whose pictures cannot show all of them; of others nothing."""
    words = modality_of(stored).as_words
    return [] if words is None else words(np.asarray(stored))


def kind_of(stored: Examples) -> str:
    """Key of `target_kinds` of a set's targets.

    Raises:
        DataError: They are of no modality that is known.
    """
    return modality_of(stored).kind(input_shape(stored)[0])


def input_shape(stored: Examples) -> InputShape:
    """(C, H, W) of one example as a student sees it.

    Raises:
        DataError: They are of no modality that is known.
    """
    return modality_of(stored).input_shape(stored)


def target_input(
    target: Examples, *, offset: float, scale: float
) -> Float[Tensor, "batch channels height width"]:
    """Targets of any modality as a student sees them.

    Args:
        target: Examples of one of `MODALITIES`.
        offset: ``data.target_offset``; for images alone.
        scale: ``data.target_scale``; for images alone.

    Guarantees:
        The exported graph does the same arithmetic.
    """
    return modality_of(target).to_input(np.asarray(target), offset=offset, scale=scale)


def source_input(source: Examples) -> Float[Tensor, "batch channels height width"]:
    """Sources of any modality as every teacher sees them: the same numbers, images on a fixed scale."""
    return target_input(source, offset=SOURCE_OFFSET, scale=SOURCE_SCALE)
