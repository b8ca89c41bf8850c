"""Image files of a user, made into small arrays.

Shapes: H height, W width, S side of the result.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from edgecmd.core.errors import DataError
from edgecmd.data.pairs import Images, Targets
from edgecmd.data.user_files.csv_tables import few
from edgecmd.data.user_files.decode import (
    PICTURES_HOLD,
    DecodeError,
    decoded_picture,
    flat_picture,
    picture_frames,
)
from edgecmd.data.user_files.depth_files import Ruler, ruler_of
from edgecmd.data.user_files.reading import reading
from edgecmd.data.user_files.sound_files import Clip, clip_of
from edgecmd.settings import DataConfig

SUFFIXES = (".png", ".apng", ".jpg", ".jpeg", ".jpe", ".jfif", ".webp")
# Read by Pillow; anything else under a known suffix is refused, not guessed at.
FORMATS = PICTURES_HOLD
KINDS = "PNG, JPEG or WebP"
ASPECT_TOLERANCE = 0.01
# EXIF's tag of how a camera was held, and its values that swap width and height.
ORIENTATION, TURNED = 0x0112, (5, 6, 7, 8)


class Sides(NamedTuple):
    """What the halves of a pair are made into: sides in pixels, a recording's clip, the unit of depth.

    ``reverse`` says that the teacher takes what lies in ``target/``, so the public set holds such files.
    """

    source: int
    target: int
    clip: Clip = Clip()
    ruler: Ruler = Ruler()
    reverse: bool = False


def sides_of(config: DataConfig) -> Sides:
    """Sides, clip and unit of depth that the settings ask for."""
    return Sides(
        source=config.source_side,
        target=config.image_size,
        clip=clip_of(config),
        ruler=ruler_of(config),
        reverse=config.reverse,
    )


def open_upright(path: Path) -> Image.Image:
    """Decode an image of any mode, turned as its EXIF says; of several frames the first.

    Raises:
        DataError: The file is broken, too large, or has 16 bits in each of several channels.
    """
    try:
        image: Image.Image = decoded_picture(path, formats=FORMATS)
    except DecodeError as error:
        raise DataError(
            f"{path} cannot be decoded as {KINDS} ({error}). Save it again, or remove the pair."
        ) from error
    return image


def size_of(path: Path) -> tuple[int, int]:
    """Width and height of a picture or depth map, upright, without decoding it.

    Raises:
        DataError: It is none.
    """
    with (
        reading(path, what=KINDS, way_out="Save it again."),
        Image.open(path, formats=FORMATS) as image,
    ):
        width, height = image.size
        is_turned = image.getexif().get(ORIENTATION, 1) in TURNED
    return (height, width) if is_turned else (width, height)


def notes_on_frames(files: Mapping[str, Path]) -> list[str]:
    """A sentence about pictures of which the first frame alone is used; empty where there is none.

    Args:
        files: Pictures by id. Broken ones are left out; whoever decodes them says so.
    """
    moving = []
    for name, path in files.items():
        try:
            moving += [name] if path.suffix.lower() in SUFFIXES and picture_frames(path) > 1 else []
        except DecodeError:
            continue
    if not moving:
        return []
    return [f"{few(moving)} of {len(files)} files have several frames; the first frame is used."]


def is_depth(image: Image.Image) -> bool:
    """Whether a decoded file is a depth map: one channel of 16 bits. Everything else is a picture."""
    return image.mode.startswith("I")


def read_image(path: Path) -> Image.Image:
    """Decode a picture: upright, transparency over white paper.

    Returns:
        An image of mode ``L`` where the file is grey or has one bit, else ``RGB``.

    Raises:
        DataError: The file is broken, or holds more than 8 bits a grey value.
    """
    upright = open_upright(path)
    if is_depth(upright) or upright.mode == "F":
        raise DataError(
            f"{path} has 16 bits a pixel (mode {upright.mode}): a depth map, which only a target may be."
            " Scale its values to 0..255 and save it with 8 bits where it is a picture."
        )
    return flatten_alpha(upright, name=str(path))


def flatten_alpha(image: Image.Image, *, name: str) -> Image.Image:
    """``image`` as ``L`` or ``RGB``, transparent pixels over white.

    Raises:
        DataError: There is no memory for it; ``name`` says for which.
    """
    try:
        flat: Image.Image = flat_picture(image)
    except DecodeError as error:
        raise DataError(f"{name} cannot be made grey or RGB ({error}). Save it again, smaller.") from error
    return flat


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


def stack_targets(images: list[np.ndarray]) -> Targets:
    """Targets of one shape: depth as it is; three channels where all have colour, otherwise all grey."""
    if all(image.ndim == 3 for image in images):
        return np.stack(images)
    return to_grey(images)


def to_grey(images: Iterable[np.ndarray]) -> Images:
    """Pictures (S, S) or (S, S, 3) as one array (N, S, S, 1)."""
    return np.stack([np.asarray(Image.fromarray(image).convert("L")) for image in images])[..., None]
