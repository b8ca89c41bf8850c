"""Degradations that widen the gap between the modalities, by level from 0 (nothing) to 1.

Each works on targets as they are stored, whatever comes after; what is missing in a depth map stays
missing. `mismatch` leaves the targets as they are and pairs some of them with a stranger's source.

Shapes: N examples, H height, W width, C channels, T samples.
"""

from collections.abc import Callable

import numpy as np
from jaxtyping import Int
from scipy.ndimage import gaussian_filter

from edgecmd.core.errors import ConfigError, choose
from edgecmd.data.pairs import Targets, target_kind

MISMATCH = "mismatch"
PATCHES = 8
LEAST_BLUR, LARGEST_BLUR = 1 / 32, 0.5
LOUDEST_NOISE = 1.0
SOFTEST_DB, LOUDEST_DB = -30.0, 20.0
FARTHEST_MM = 4000
COARSEST_MM = 4000
NARROWEST_HZ = 100.0
BAND_LIMIT = "band-limit"

Gap = Callable[[Targets, float, np.random.Generator], Targets]


def blur(target: Targets, level: float, _: np.random.Generator) -> Targets:
    """Images through a Gaussian, its standard deviation from a 32nd of the side to a half of it.

    ``side * LEAST_BLUR ** (1 - level) * LARGEST_BLUR ** level`` pixels: equal steps of the level are
    equal factors, so that no level leaves the picture as it is and the last hardly more than its mean.
    """
    sigma = target.shape[1] * LEAST_BLUR ** (1.0 - level) * LARGEST_BLUR**level
    smooth: np.ndarray = gaussian_filter(target.astype(np.float32), (0, sigma, sigma, 0))
    return np.asarray(np.rint(smooth).astype(target.dtype))


def _patches(num: int, size: int, *, level: float, generator: np.random.Generator) -> np.ndarray:
    """Cells of a grid that are taken away, (N, size): for each example its own, ``level`` of them."""
    order = generator.random((num, size)).argsort(axis=1).argsort(axis=1)
    return np.asarray(order < round(level * size))


def _erased(target: Targets, level: float, generator: np.random.Generator, *, empty: int) -> Targets:
    cells = _patches(len(target), PATCHES * PATCHES, level=level, generator=generator)
    height, width = target.shape[1:3]
    row = np.arange(height) * PATCHES // height
    column = np.arange(width) * PATCHES // width
    gone = cells.reshape(-1, PATCHES, PATCHES)[:, row][:, :, column]
    return np.where(gone[..., None], np.asarray(empty, dtype=target.dtype), target)


def erase_image(target: Targets, level: float, generator: np.random.Generator) -> Targets:
    """Squares of an eight by eight grid turned white, a share of ``level`` of them."""
    return _erased(target, level, generator, empty=255)


def erase_depth(target: Targets, level: float, generator: np.random.Generator) -> Targets:
    """Squares of an eight by eight grid not measured, a share of ``level`` of them."""
    return _erased(target, level, generator, empty=0)


def resample(target: Targets, level: float, _: np.random.Generator) -> Targets:
    """Fewer pixels a side, ``side * (2 / side) ** level``, each shown as a square; nothing mixes."""
    side = target.shape[1]
    fewer = max(2, round(side * (2.0 / side) ** level))
    take = ((np.arange(side) * fewer // side + 0.5) * side / fewer).astype(int)
    return target[:, take][:, :, take]


def noise_image(target: Targets, level: float, generator: np.random.Generator) -> Targets:
    """White noise whose standard deviation is ``level`` times the whole range of 255, clipped to it."""
    noise = generator.normal(0.0, 255.0 * LOUDEST_NOISE * level, target.shape)
    return np.rint(np.clip(target + noise, 0, 255)).astype(target.dtype)


def noise_depth(target: Targets, level: float, generator: np.random.Generator) -> Targets:
    """Any distance up to `FARTHEST_MM` in a share ``level`` of the pixels, missing ones among them.

    Noise on what was measured alone would leave the outline of an object as it is, whatever its strength.
    """
    spikes = generator.integers(1, FARTHEST_MM + 1, target.shape).astype(target.dtype)
    return np.where(generator.random(target.shape) < level, spikes, target)


def quantise(target: Targets, level: float, _: np.random.Generator) -> Targets:
    """Distances in steps of ``COARSEST_MM ** level`` mm, up to four metres; a measured one is never 0."""
    step = round(COARSEST_MM**level)
    coarse = np.maximum(1, np.rint(target / step) * step)
    return np.where(target == 0, 0, np.clip(coarse, 0, 65535)).astype(target.dtype)


def erase_wave(target: Targets, level: float, generator: np.random.Generator) -> Targets:
    """Stretches of a 64th of the length made silent, a share of ``level`` of them."""
    cells = _patches(len(target), PATCHES * PATCHES, level=level, generator=generator)
    gone = cells[:, np.arange(target.shape[1]) * PATCHES * PATCHES // target.shape[1]]
    return np.where(gone, 0, target).astype(target.dtype)


def band_limit(target: Targets, level: float, *, rate_hz: int) -> Targets:
    """Frequencies above ``widest * (100 / widest) ** level`` Hz cut off; the widest is half the rate.

    Args:
        target: Recordings, int16, (N, T).
        level: From 0, which cuts off nothing, to 1, which leaves what lies below 100 Hz.
        rate_hz: Their sampling rate.
    """
    limit = band_limit_hz(level, rate_hz=rate_hz)
    spectrum = np.fft.rfft(target.astype(np.float64), axis=1)
    spectrum[:, np.fft.rfftfreq(target.shape[1], 1.0 / rate_hz) > limit] = 0.0
    return _as_wave(np.fft.irfft(spectrum, n=target.shape[1], axis=1), target)


def band_limit_hz(level: float, *, rate_hz: int) -> float:
    """Highest frequency that `band_limit` leaves, in Hz."""
    widest = rate_hz / 2
    return float(widest * (NARROWEST_HZ / widest) ** level)


def noise_wave(target: Targets, level: float, generator: np.random.Generator) -> Targets:
    """White noise, from 30 dB below the recording's own root mean square to 20 dB above it."""
    loudness = np.sqrt(np.mean(target.astype(np.float64) ** 2, axis=1, keepdims=True))
    noise = generator.normal(0.0, 1.0, target.shape) * loudness
    noise *= 10.0 ** ((SOFTEST_DB + (LOUDEST_DB - SOFTEST_DB) * level) / 20.0)
    return _as_wave(target + noise, target)


def _as_wave(wave: np.ndarray, like: Targets) -> Targets:
    """As loud as it must be to fit: softer where it would clip."""
    peak = np.maximum(np.abs(wave).max(axis=1, keepdims=True), 1.0)
    fitting: np.ndarray = np.rint(wave * np.minimum(1.0, 32767.0 / peak))
    return fitting.astype(like.dtype)


GAPS: dict[str, dict[str, Gap]] = {
    "image": {"blur": blur, "erase": erase_image, "resample": resample, "noise": noise_image},
    "depth": {"quantise": quantise, "erase": erase_depth, "resample": resample, "noise": noise_depth},
    "wave": {"erase": erase_wave, "noise": noise_wave},
}
# Gaps of a modality that need the sampling rate.
RATED = {"wave": {BAND_LIMIT: band_limit}}


def gap_names(kind: str) -> tuple[str, ...]:
    """Gaps that exist for a modality, `MISMATCH` last."""
    return (*RATED.get(kind, ()), *choose("modality", kind, GAPS), MISMATCH)


def degrade(
    target: Targets, *, gap: str, level: float, generator: np.random.Generator, rate_hz: int = 0
) -> Targets:
    """Targets of the same kind and shape, degraded; `MISMATCH` and level 0 give them back as they are.

    Args:
        target: See `edgecmd.data.pairs.TARGETS`.
        gap: One of `gap_names`.
        level: From 0 to 1.
        generator: Source of randomness.
        rate_hz: ``data.sampling_rate_hz``; only for recordings.

    Raises:
        ConfigError: There is no such gap for the modality, the level is outside 0..1, or a band limit has
            no rate.
    """
    kind = target_kind(target)
    if gap not in gap_names(kind):
        raise ConfigError(f"--gaps has {gap!r}; for targets of kind {kind}: {', '.join(gap_names(kind))}.")
    if not 0.0 <= level <= 1.0:
        raise ConfigError(f"level={level} of gap {gap!r} is outside the allowed range [0, 1].")
    if level == 0.0 or gap == MISMATCH:
        return target
    if gap in RATED.get(kind, {}):
        if rate_hz <= 0:
            raise ConfigError(f"rate_hz={rate_hz}: the gap {gap!r} needs the recordings' rate.")
        return RATED[kind][gap](target, level, rate_hz=rate_hz)
    return GAPS[kind][gap](target, level, generator)


def mismatched(num: int, *, share: float, generator: np.random.Generator) -> Int[np.ndarray, " num"]:
    """Row whose source each target is paired with: ``share`` of them in a circle, the rest their own.

    Args:
        num: Pairs.
        share: From 0 to 1; a single pair has no stranger and keeps its own.
        generator: Source of randomness.
    """
    rows = np.arange(num)
    moved = generator.permutation(num)[: round(share * num)]
    if len(moved) > 1:
        rows[moved] = np.roll(moved, 1)
    return rows
