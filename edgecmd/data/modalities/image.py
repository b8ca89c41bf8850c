"""Images: grey or RGB, 8 bits, 255 is white. Photographs, drawings, icons.

Shapes: N examples, B batch, H height, W width, C channels, S side, P pixels after averaging down.
"""

import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor

from edgecmd.core.text import counted
from edgecmd.data.modalities.degrade import erased, resample
from edgecmd.data.modalities.motion import Batch, Motion, moved_views
from edgecmd.data.modalities.row import InputShape, Lying, Modality, Pictures, Stored
from edgecmd.data.modalities.signature import GRID, Rows, Signature, cells, centred_norm, looked_at
from edgecmd.data.stored.array_files import Examples
from edgecmd.data.stored.kept_rows import at_once

# A source is always seen as (value - 0.5) / 0.25: fixed, so that no private statistic enters.
SOURCE_OFFSET, SOURCE_SCALE = 0.5, 0.25
MOTION = Motion(max_degrees=10.0, max_shift=0.06, min_scale=0.85, max_scale=1.2)
# Largest difference within a channel that is called constant: traces of a lossy file or of dither.
MOST_GREY_LEVELS, STRIDE = 2, 8
# Of 255. JPEG of quality 30 at 256 pixels moves a cell by at most 3.4; one pixel in 64 by 64 moves it by 16.
LEVELS, COLOUR_LEVELS, COARSE = 8.0, 16.0, 4
BRIGHTNESS = (299, 587, 114)
# Correlation above which a held-out picture looks like one of training, at this side.
THRESHOLD, SIDE, CHUNK, KNOWN = 0.9, 32, 1024, 4096
LEAST_BLUR, LARGEST_BLUR = 1 / 32, 0.5
LOUDEST_NOISE = 1.0


def to_input(
    images_BHWC: UInt8[np.ndarray, "batch height width channels"], *, offset: float, scale: float
) -> Float[Tensor, "batch channels height width"]:
    """Scale uint8 images to ``(value / 255 - offset) / scale``.

    Args:
        images_BHWC: Images, uint8.
        offset: Value in [0, 1] that becomes zero.
        scale: Divisor.
    """
    image_BCHW = torch.from_numpy(np.ascontiguousarray(images_BHWC)).permute(0, 3, 1, 2)
    scaled = (image_BCHW.to(torch.float32) / 255.0 - offset) / scale
    return scaled.contiguous(memory_format=torch.channels_last)


def input_shape(images: Examples) -> InputShape:
    """(C, H, W) of one image."""
    return int(images.shape[3]), int(images.shape[1]), int(images.shape[2])


def augment_image(image_BCHW: Batch, *, strength: float, generator: torch.Generator) -> Batch:
    """Views of pictures: small rotations, shifts, scales and mirror images.

    Args:
        image_BCHW: Scaled images.
        strength: 0 returns the batch as it is; 1 is the default; larger is wilder.
        generator: Source of randomness.
    """
    return moved_views(image_BCHW, MOTION, strength=strength, generator=generator)


def from_pictures(
    image_B3HW: Float[Tensor, "batch 3 height width"], channels: int, *, offset: float, scale: float
) -> Float[Tensor, "batch _ height width"]:
    """Public images in channels and scaling of the target: colours, or the mean of the three in each."""
    seen = image_B3HW
    if channels != 3:
        seen = image_B3HW.mean(dim=1, keepdim=True).expand(-1, channels, -1, -1)
    return (seen * SOURCE_SCALE + SOURCE_OFFSET - offset) / scale


def is_constant(images_NHWC: Stored) -> Bool[np.ndarray, " num"]:
    """Which images have channels that each span at most 2 of 255 levels, (N,)."""
    # What differs among some pixels differs among all of them.
    found = _spans_little(images_NHWC[:, ::STRIDE, ::STRIDE])
    found[found] = _spans_little(images_NHWC[found])
    return found


def _spans_little(images_NHWC: Stored) -> Bool[np.ndarray, " num"]:
    span_NC = images_NHWC.max(axis=(1, 2)).astype(np.int64) - images_NHWC.min(axis=(1, 2))
    return np.asarray((span_NC <= MOST_GREY_LEVELS).all(axis=1))


def brightness(images: np.ndarray) -> Float[np.ndarray, "num height width"]:
    """Brightness of grey or RGB images from 0 to 255."""
    if images.shape[3] != 3:
        return images[..., 0].astype(np.float64)
    red, green, blue = (images[..., channel].astype(np.int32) for channel in range(3))
    return np.asarray((BRIGHTNESS[0] * red + BRIGHTNESS[1] * green + BRIGHTNESS[2] * blue) / 1000.0)


def signature(images: Lying, rows: Rows) -> Signature:
    """Brightness over a 16 by 16 grid, colours over a 4 by 4 grid.

    Near-equal are images where no cell of the first differs by more than `LEVELS` of 255, none of the
    second by more than `COLOUR_LEVELS` in a colour, and the whole by no more than a tenth of its contrast.
    """
    found = looked_at(images, rows, "look-image", _numbers, like=np.dtype(np.float32))
    return Signature(values=found[:, 1:], contrast=found[:, 0])


def _numbers(chunk: Pictures) -> np.ndarray:
    num = len(chunk)
    grey = cells(brightness(chunk), GRID).reshape(num, -1, 1) / LEVELS
    colour = cells(chunk, COARSE).reshape(num, COARSE**2, -1) / COLOUR_LEVELS
    contrast = centred_norm(grey, colour)[:, None]
    return np.concatenate([contrast, grey[..., 0], colour.reshape(num, -1)], axis=1).astype(np.float32)


def near_duplicates(
    test: Lying,
    train: Lying,
    *,
    threshold: float = THRESHOLD,
) -> Bool[np.ndarray, " num"]:
    """Which of ``test`` have a Pearson correlation above ``threshold`` to one of ``train``.

    Args:
        test: uint8, (N, S, S, C), S a multiple of 16.
        train: uint8, (M, S, S, C).
        threshold: Correlation, from -1 to 1.

    Guarantees:
        Images are compared after averaging down to 32 pixels (16 where 32 does not divide S).
        An image of one single value correlates with nothing.
    """
    if not len(train):
        return np.zeros(len(test), dtype=bool)
    found = np.full(len(test), -np.inf, np.float32)
    for first in range(0, len(train), KNOWN):
        known = _standardised(train, first, first + KNOWN)
        for start in range(0, len(test), CHUNK):
            best = (_standardised(test, start, start + CHUNK) @ known.T).max(axis=1)
            found[start : start + CHUNK] = np.maximum(found[start : start + CHUNK], best)
    return np.asarray(found > threshold)


def _standardised(images: Lying, start: int, stop: int) -> Float[np.ndarray, "num pixels"]:
    """Some images as rows of zero mean and unit length: their dot products are Pearson correlations."""
    step = at_once(images)
    firsts = range(start, min(stop, len(images)), step)
    return np.concatenate([_standard_rows(np.asarray(images[at : min(at + step, stop)])) for at in firsts])


def _standard_rows(images: Pictures) -> Float[np.ndarray, "num pixels"]:
    num, side, _, channels = images.shape
    small = SIDE if side % SIDE == 0 else SIDE // 2
    block = side // small
    blocks = images.reshape(num, small, block, small, block, channels)
    rows = blocks.mean(axis=(2, 4), dtype=np.float32).reshape(num, small * small * channels)
    rows -= rows.mean(axis=1, keepdims=True)
    rows /= np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-6)
    return np.asarray(rows)


def blur(target: Stored, level: float, _: np.random.Generator) -> Stored:
    """Images through a Gaussian, its standard deviation from a 32nd of the side to a half of it.

    ``side * LEAST_BLUR ** (1 - level) * LARGEST_BLUR ** level`` pixels: equal steps of the level are
    equal factors, so that no level leaves the image as it is and the last hardly more than its mean.
    """
    from scipy.ndimage import gaussian_filter

    sigma = target.shape[1] * LEAST_BLUR ** (1.0 - level) * LARGEST_BLUR**level
    smooth: np.ndarray = gaussian_filter(target.astype(np.float32), (0, sigma, sigma, 0))
    return np.asarray(np.rint(smooth).astype(target.dtype))


def erase_image(target: Stored, level: float, generator: np.random.Generator) -> Stored:
    """Squares of an eight by eight grid turned white, a share of ``level`` of them."""
    return erased(target, level, generator, empty=255)


def noise_image(target: Stored, level: float, generator: np.random.Generator) -> Stored:
    """White noise whose standard deviation is ``level`` times the whole range of 255, clipped to it."""
    noise = generator.normal(0.0, 255.0 * LOUDEST_NOISE * level, target.shape)
    return np.rint(np.clip(target + noise, 0, 255)).astype(target.dtype)


def _size(shape: InputShape) -> str:
    channels, height, width = shape
    return f"{width} x {height} pixels, {counted(channels, 'channel')}"


IMAGE = Modality(
    name="image",
    noun="image",
    dtype=np.uint8,
    rank=4,
    allowed="uint8 of shape (num, height, width, channels)",
    kinds={"grey": 1, "rgb": 3},
    input_shape=input_shape,
    size=_size,
    stored_shape=lambda channels, side, **_: (side, side, channels),
    to_input=to_input,
    view=augment_image,
    motion=MOTION,
    from_pictures=from_pictures,
    is_drawn=True,
    as_pictures=lambda images: images,
    is_constant=is_constant,
    constant_words="of one colour each",
    looks=(signature,),
    looks_known=near_duplicates,
    degradations={"blur": blur, "erase": erase_image, "resample": resample, "noise": noise_image},
    reader="picture",
    front_end="image",
    dense_front_end="image-dense",
)
