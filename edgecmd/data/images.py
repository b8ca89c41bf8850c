"""Image files of a user, made into small 8-bit arrays.

Shapes: H height, W width, S side of the result.
"""

import struct
import zlib
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageOps

from edgecmd.config_data import DataConfig
from edgecmd.data.pairs import Images
from edgecmd.data.sound import Clip, clip_of
from edgecmd.errors import DataError

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")
# Read by Pillow; anything else under a known suffix is refused, not guessed at.
FORMATS = ("PNG", "JPEG", "WEBP")
DECODE_ERRORS = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
)
GREY_MODES = ("1", "L", "LA", "La")
ASPECT_TOLERANCE = 0.01


class Sides(NamedTuple):
    """What the two halves of a pair are made into: sides in pixels, and the clip of a recording."""

    source: int
    target: int
    clip: Clip = Clip()


def sides_of(config: DataConfig) -> Sides:
    """Sides and clip that the settings ask for."""
    return Sides(source=config.source_side, target=config.image_size, clip=clip_of(config))


def read_image(path: Path) -> Image.Image:
    """Decode an image: upright, transparency over white paper.

    Returns:
        An image of mode ``L`` where the file is grey or has one bit, else ``RGB``.

    Raises:
        DataError: The file is broken, or holds more than 8 bits a grey value.
    """
    try:
        with Image.open(path, formats=FORMATS) as image:
            image.load()
            upright = ImageOps.exif_transpose(image)
    except DECODE_ERRORS as error:
        raise DataError(
            f"{path} cannot be decoded as PNG, JPEG or WebP ({error}). Save it again, or remove the pair."
        ) from error
    if upright.mode.startswith(("I", "F")):
        raise DataError(
            f"{path} has 16 bits a pixel (mode {upright.mode}), which is not supported yet."
            " Scale its values to 0..255 and save it with 8 bits."
        )
    return flatten_alpha(upright)


def flatten_alpha(image: Image.Image) -> Image.Image:
    """``image`` as ``L`` or ``RGB``, transparent pixels over white."""
    mode = "L" if image.mode in GREY_MODES else "RGB"
    if not image.has_transparency_data:
        return image.convert(mode)
    paper = Image.new("RGBA", image.size, "white")
    return Image.alpha_composite(paper, image.convert("RGBA")).convert("RGB").convert(mode)


def check_pair_aspect(source: tuple[int, int], target: tuple[int, int], *, name: str) -> None:
    """Refuse a pair whose pictures cannot lie on top of each other.

    Args:
        source: Width and height of the source in pixels.
        target: The same of the target.
        name: What an error calls the pair.

    Raises:
        DataError: The ratios of width to height differ by more than one percent.
    """
    first, second = source[0] * target[1], target[0] * source[1]
    if abs(first - second) > ASPECT_TOLERANCE * min(first, second):
        raise DataError(
            f"{name}: the source has {source[0]}x{source[1]} pixels, the target {target[0]}x{target[1]}:"
            " different aspect ratios. Both must show the same field of view; crop one of them."
        )


def check_size(size: tuple[int, int], *, side: int, name: str) -> None:
    """Refuse an image that would have to be enlarged.

    Args:
        size: Width and height in pixels.
        side: ``data.image_size``.
        name: What an error calls the image.

    Raises:
        DataError: Width or height is below ``side``.
    """
    if min(size) < side:
        raise DataError(
            f"{name} has {size[0]}x{size[1]} pixels; data.image_size={side} needs {side} at least on either"
            " side. Give larger images, or lower data.image_size (a multiple of 16)."
        )


def squeeze(image: Image.Image, *, side: int) -> UInt8[np.ndarray, "side side *channels"]:
    """Average ``image`` down to a square; all of the picture is kept, so another aspect is squeezed.

    Args:
        image: Mode ``L`` or ``RGB``, width and height at least ``side``.
        side: Side of the result in pixels.
    """
    if image.size == (side, side):
        return np.asarray(image)
    if image.width % side == 0 and image.height % side == 0:
        return np.asarray(image.reduce((image.width // side, image.height // side)))
    return np.asarray(image.resize((side, side), Image.Resampling.BILINEAR))


def to_rgb(images: Images) -> Images:
    """Grey images (N, H, W, 1) as (N, H, W, 3); others as they are."""
    return images if images.shape[-1] == 3 else np.repeat(images, 3, axis=-1)


def stack_targets(images: list[np.ndarray]) -> Images:
    """Targets of one shape: three channels where all have colour, otherwise all grey."""
    if all(image.ndim == 3 for image in images):
        return np.stack(images)
    grey = [np.asarray(Image.fromarray(image).convert("L")) for image in images]
    return np.stack(grey)[..., None]
