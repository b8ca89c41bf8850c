"""Images and depth maps of a user, made into small arrays.

Shapes: H height, W width, S side of the result.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Integer, UInt8, UInt16
from PIL import Image

from edgecmd.core.errors import DataError
from edgecmd.core.text import counted
from edgecmd.data.modalities.row import Pictures
from edgecmd.data.stored.array_files import Examples
from edgecmd.data.user_files.csv_tables import few
from edgecmd.data.user_files.decode import (
    GREY_MODES,
    PICTURES_HOLD,
    SHRUNK,
    DecodeError,
    decoded_picture,
    flat_picture,
    picture_frames,
)
from edgecmd.data.user_files.downsample import bordered, median_of_measured, middle, shown
from edgecmd.data.user_files.reading import reading
from edgecmd.data.user_files.sound_files import Clip
from edgecmd.settings import CROP, PAD, SQUEEZE, DataConfig

SUFFIXES = (".png", ".apng", ".jpg", ".jpeg", ".jpe", ".jfif", ".webp")
# Read by Pillow; anything else under a known suffix is refused, not guessed at.
FORMATS = PICTURES_HOLD
KINDS = "PNG, JPEG or WebP"
ASPECT_TOLERANCE = 0.01
# EXIF's tag of how a camera was held, and its values that swap width and height.
ORIENTATION, TURNED = 0x0112, (5, 6, 7, 8)
# The border of a padded picture is paper.
WHITE = 255
# What uint16 millimetres can hold; 0 stands for missing.
MOST_MM = 65_535
# Depth cameras and rooms lie in between; a median outside is more often a wrong scale than a wide hall.
USUAL_M = (0.1, 20.0)

Raw = Integer[np.ndarray, "height width"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Ruler:
    """What a unit of a depth file is: ``data.depth_scale_mm``, and ``data.depth_max_m``."""

    mm_per_unit: float = DataConfig().depth_scale_mm
    most_m: float = DataConfig().depth_max_m

    @property
    def is_plain(self) -> bool:
        """Whether neither setting was changed, so that nobody said that the targets are depth."""
        return self == Ruler()


class Sides(NamedTuple):
    """What the halves of a pair are made into: sides in pixels, a recording's clip, the unit of depth.

    ``reverse`` says that the teacher takes what is in ``target/``, so the public set holds such files;
    ``fit`` is ``data.fit``, ``text_bytes`` the bytes of a string.
    """

    source: int
    target: int
    clip: Clip = Clip()
    ruler: Ruler = Ruler()
    reverse: bool = False
    fit: str = SQUEEZE
    text_bytes: int = DataConfig().text_bytes


def sides_of(config: DataConfig) -> Sides:
    """Sides, clip and unit of depth that the settings ask for."""
    return Sides(
        source=config.source_side,
        target=config.image_size,
        clip=Clip(sampling_rate_hz=config.sampling_rate_hz, seconds=config.clip_s),
        ruler=Ruler(mm_per_unit=config.depth_scale_mm, most_m=config.depth_max_m),
        reverse=config.reverse,
        fit=config.fit,
        text_bytes=config.text_bytes,
    )


def open_upright(path: Path, *, least: int = 0) -> Image.Image:
    """Decode an image of any mode, turned as its EXIF says; of several frames the first.

    Args:
        path: The file.
        least: Side that it is made into; a JPEG of four times that is decoded smaller, see
            `edgecmd.data.user_files.decode.decoded_picture`. 0: every pixel is wanted.

    Raises:
        DataError: The file is broken, too large, or has 16 bits in each of several channels.
    """
    try:
        image: Image.Image = decoded_picture(path, formats=FORMATS, least=least)
    except DecodeError as error:
        raise DataError(
            f"{path} cannot be decoded as {KINDS} ({error}). Save it again, or remove the pair."
        ) from error
    return image


def own_size(image: Image.Image) -> tuple[int, int]:
    """Width and height that the file of an opened image has, upright."""
    shrunk = image.info.get(SHRUNK, 1)
    return image.width * shrunk, image.height * shrunk


def size_of(path: Path) -> tuple[int, int]:
    """Width and height of an image or depth map, upright, without decoding it.

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
    """A sentence about images of which the first frame alone is used; empty where there is none.

    Args:
        files: Images by id. Broken ones are left out; whoever decodes them says so.
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
    """Whether a decoded file is a depth map: one channel of 16 bits. Everything else is an image."""
    return image.mode.startswith("I")


def read_image(path: Path, *, least: int = 0) -> Image.Image:
    """Decode a picture: upright, transparency over white paper.

    Args:
        path: The file.
        least: See `open_upright`.

    Returns:
        An image of mode ``L`` where the file is grey or has one bit, else ``RGB``.

    Raises:
        DataError: The file is broken, or holds more than 8 bits a grey value.
    """
    upright = open_upright(path, least=least)
    if is_depth(upright) or upright.mode == "F":
        raise DataError(
            f"{path} has 16 bits per pixel (mode {upright.mode}): a depth map, which only a target may be."
            " If it is an image, scale its values to 0..255 and save it with 8 bits."
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
        raise DataError(
            f"{name} cannot be converted to grey or RGB ({error}). Save it again, smaller."
        ) from error
    return flat


def check_pair_aspect(source: tuple[int, int], target: tuple[int, int], *, name: str) -> None:
    """Refuse a pair whose images cannot lie on top of each other.

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


def check_size(size: tuple[int, int], *, side: int, fit: str, name: str) -> None:
    """Refuse an image that would have to be enlarged.

    Args:
        size: Width and height in pixels.
        side: ``data.image_size``.
        fit: ``data.fit``.
        name: What an error calls the image.

    Raises:
        DataError: Width or height is below ``side``; with ``pad`` both are.
    """
    least, which = (max(size), "the longer") if fit == PAD else (min(size), "either")
    if least < side:
        raise DataError(
            f"{name} has {size[0]}x{size[1]} pixels; data.image_size={side} needs {side} at least on {which}"
            " side. Give larger images, or lower data.image_size (a multiple of 16)."
        )


def to_square(image: Image.Image, *, side: int, fit: str) -> UInt8[np.ndarray, "side side *channels"]:
    """Average ``image`` down to a square.

    Args:
        image: Mode ``L`` or ``RGB``.
        side: Side of the result in pixels.
        fit: ``data.fit``; a border is white.

    Guarantees:
        The exported graph does the same to within one level of 255 (`export.graph.front_image`).
    """
    if fit == CROP:
        across, down = (middle(one, min(image.size)) for one in image.size)
        image = image.crop((across.start, down.start, across.stop, down.stop))
    width, height = shown(image.size, side=side, fit=fit)
    if image.size == (width, height):
        small = image
    elif image.width % width == 0 and image.height % height == 0:
        small = image.reduce((image.width // width, image.height // height))
    else:
        small = image.resize((width, height), Image.Resampling.BILINEAR)
    return bordered(np.asarray(small), side=side, empty=WHITE)


def to_rgb(images: Pictures) -> Pictures:
    """Grey images (N, H, W, 1) as (N, H, W, 3); others as they are."""
    return images if images.shape[-1] == 3 else np.repeat(images, 3, axis=-1)


def to_grey(images: Iterable[np.ndarray]) -> Pictures:
    """Images (S, S) or (S, S, 3) as one array (N, S, S, 1)."""
    return np.stack([np.asarray(Image.fromarray(image).convert("L")) for image in images])[..., None]


def to_millimetres(units: Raw, ruler: Ruler) -> UInt16[np.ndarray, "height width"]:
    """Whole millimetres out of a file's units.

    Args:
        units: 0 where nothing was measured.
        ruler: Millimetres per unit, and the farthest distance that counts.

    Guarantees:
        0 stays 0, and nothing else becomes 0 but what is beyond ``ruler.most_m`` (or beyond 65.535 m,
        which cannot be stored): too far to trust is missing, not nearer than it is.
    """
    most = ruler.most_m * 1000.0 if ruler.most_m else float(MOST_MM)
    exact = units.astype(np.float64) * ruler.mm_per_unit
    whole = np.clip(np.rint(exact), 1, MOST_MM)
    return np.where((units > 0) & (exact <= most), whole, 0).astype(np.uint16)


def make_depth(
    units: Raw, *, ruler: Ruler, side: int, fit: str, name: str
) -> UInt16[np.ndarray, "side side 1"]:
    """A depth map as a run takes it.

    Args:
        units: As the file has them, height and width at least ``side``.
        ruler: What they mean.
        side: S.
        fit: ``data.fit``; a border is missing.
        name: What an error calls the map.

    Raises:
        DataError: Nothing in it was measured.
    """
    depth = median_of_measured(to_millimetres(units, ruler), side=side, fit=fit)
    if not depth.any():
        raise DataError(
            f"{name} has no measurement in range (data.depth_scale_mm={ruler.mm_per_unit:g},"
            f" data.depth_max_m={ruler.most_m:g}; 0 is missing, and so is a resulting pixel if less than"
            " half of it was measured). Check the scale, or remove the pair."
        )
    return depth[..., None]


def notes_on_depth(maps: Examples) -> list[str]:
    """A sentence about range and gaps, so that a wrong scale is seen; another where it looks wrong.

    Args:
        maps: uint16 millimetres, (N, S, S, 1).
    """
    counts = np.zeros(MOST_MM + 1, np.int64)
    for start in range(0, len(maps), 256):
        part = np.asarray(maps[start : start + 256])
        counts += np.bincount(part.ravel(), minlength=len(counts))
    # Of whole millimetres the counts are all there is to know.
    low, middle, high = (_quantile(counts[1:], share) / 1000.0 for share in (0.01, 0.5, 0.99))
    notes = [
        f"{counted(len(maps), 'depth map')}: {low:.2f} to {high:.2f} m (1% and 99%), median {middle:.2f} m;"
        f" {counts[0] / counts.sum():.0%} of the pixels are missing."
    ]
    if not USUAL_M[0] <= middle <= USUAL_M[1]:
        notes.append(
            f"A median of {middle:.3g} m is unusual: data.depth_scale_mm is millimetres a unit (1 for"
            " millimetres, 0.2 for 5000 units a metre). Change it where it does not fit your files."
        )
    return notes


def _quantile(counts: np.ndarray, share: float) -> float:
    """Quantile of the numbers 1, 2, ... of which there are so many each, as `numpy.quantile` gives it."""
    ends = np.cumsum(counts)
    place = (int(ends[-1]) - 1) * share
    below, above = (1 + int(np.searchsorted(ends, int(one), side="right")) for one in (place, place + 1))
    return below + (min(above, 1 + int(np.flatnonzero(counts)[-1])) - below) * (place % 1.0)


def stored_colours(path: Path) -> str:
    """What an image's header says that it is: ``depth``, ``grey`` or ``rgb``; nothing is decoded.

    Raises:
        DataError: It is none.
    """
    with reading(path, what=KINDS, way_out="Save it again."), Image.open(path, formats=FORMATS) as image:
        mode: str = image.mode
    return "depth" if mode.startswith("I") else "grey" if mode in GREY_MODES else "rgb"
