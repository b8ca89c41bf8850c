"""Recordings: sound of one channel, 16 bits, at ``data.sampling_rate_hz``.

Shapes: N examples, B batch, T samples.
"""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32, Int16, UInt8
from torch import Tensor
from torch.nn import functional

from edgecmd.core.seeding import numpy_generator
from edgecmd.core.text import counted
from edgecmd.data.modalities.degrade import PATCHES, patches
from edgecmd.data.modalities.log_mel import CENTRE, SPREAD, LogMel
from edgecmd.data.modalities.motion import Batch, uniform
from edgecmd.data.modalities.row import InputShape, Lying, Modality, Stored
from edgecmd.data.modalities.signature import CHUNK, Rows, Signature, looked_at
from edgecmd.data.on_device import sent
from edgecmd.data.stored.array_files import Examples

# A recording is seen as its share of full scale: fixed, so that no private statistic enters.
FULL_SCALE = 32768.0
# Largest difference within a recording that is called silence: traces of dither.
MOST_WAVE_STEPS = 2
SAME_WAVE, WAVE_SUMS, WAVE_REACH = 0.95, 64, 1.6
# Single precision moves a correlation by some 1e-6; closer than this to the limit, doubles decide.
WAVE_DOUBT = 1e-4
# Samples of a block of recordings that is held in memory at a time.
WAVE_BLOCK = 4_194_304
SOFTEST_DB, LOUDEST_DB = -30.0, 20.0
NARROWEST_HZ = 100.0


def wave_input(wave_BT: Int16[np.ndarray, "batch samples"]) -> Float[Tensor, "batch 1 1 samples"]:
    """Recordings as shares of full scale; a line of one pixel height, so that all inputs have four axes."""
    return torch.from_numpy(np.ascontiguousarray(wave_BT).astype(np.float32) / FULL_SCALE)[:, None, None]


def input_shape(waves: Examples) -> InputShape:
    """(1, 1, T): one long line."""
    return 1, 1, int(waves.shape[1])


def augment_wave(wave_B11T: Batch, *, strength: float, generator: torch.Generator) -> Batch:
    """Views of recordings: as if at another moment, by a faster or slower voice, through another microphone.

    At strength 1: moved by up to a tenth of the length (silence enters), played up to 16 percent faster or
    slower, which moves pitch and formants alike (Ko et al. 2015), tilted towards low or high tones, louder
    or softer by a factor of 0.7 to 1.4, and with white noise 30 to 60 dB below its own peak.
    """
    if strength == 0:
        return wave_B11T
    batch, length = len(wave_B11T), wave_B11T.shape[-1]

    def draw(low: float, high: float) -> Tensor:
        return sent(uniform(batch, low, high, generator=generator)[:, None], wave_B11T.device).to(wave_B11T)

    shift, speed = draw(-0.1 * strength, 0.1 * strength), torch.exp(draw(-0.15 * strength, 0.15 * strength))
    shown = _read_at(
        wave_B11T.flatten(1), (torch.arange(length, device=shift.device).to(shift) - shift * length) * speed
    )
    tilt = draw(-0.5, 0.5) * min(strength, 1.5)
    tilted = shown + tilt * functional.pad(shown, (1, 0))[:, :-1]
    gain = torch.exp(draw(-0.35 * strength, 0.35 * strength))
    level = strength * 10.0 ** draw(-3.0, -1.5) * tilted.abs().amax(dim=1, keepdim=True)
    noise = torch.randn(batch, length, generator=generator, device=generator.device)
    noise = sent(noise, shown.device).to(shown)
    return (gain * (tilted + level * noise)).view_as(wave_B11T)


def _read_at(
    wave_BT: Float[Tensor, "batch samples"], place_BT: Float[Tensor, "batch places"]
) -> Float[Tensor, "batch places"]:
    """Samples at fractional places, linear between neighbours, silence outside."""
    last = wave_BT.shape[1] - 1
    inside = (place_BT >= 0) & (place_BT <= last)
    low = place_BT.floor().clamp(0, last - 1)
    share = place_BT - low
    before = wave_BT.gather(1, low.long())
    after = wave_BT.gather(1, low.long() + 1)
    return (before + share * (after - before)) * inside.to(wave_BT)


def wave_pictures(wave_NT: Stored) -> UInt8[np.ndarray, "num mels frames 1"]:
    """Log-mel images, loud is dark; the same numbers that a student of recordings sees."""
    with torch.no_grad():
        seen = LogMel()(wave_input(wave_NT)).numpy()[:, 0, ::-1]
    share = np.clip(seen * SPREAD + CENTRE, 0.0, 1.0)
    return np.asarray(np.rint(255.0 * (1.0 - share)).astype(np.uint8))[..., None]


def is_constant(wave_NT: Stored) -> Bool[np.ndarray, " num"]:
    """Which recordings span at most 2 of 65,535 steps, (N,)."""
    span = wave_NT.max(axis=1).astype(np.int64) - wave_NT.min(axis=1)
    return np.asarray(span <= MOST_WAVE_STEPS)


def signature(waves: Lying, rows: Rows, *, turned: bool) -> Signature:
    """Sums of samples of random signs, and the correlation of those that agree in them.

    Near-equal are recordings whose waves, as they are or (``turned``) turned to their loudest sample, have a
    correlation above `SAME_WAVE`: a copy at another level, with a little noise, or with more silence before
    it and less behind.
    """
    # Signs that look at all samples: the sums of waves that correlate by 0.95 differ by 0.3 (one standard
    # deviation), those of others by 1.4 in each of the 64.
    signs = 2.0 * numpy_generator(0, "duplicates").integers(0, 2, (waves.shape[1], WAVE_SUMS)) - 1.0

    def numbers(part: Stored) -> np.ndarray:
        centred = _centred(part)
        shift = np.abs(centred).argmax(axis=1) if turned else np.zeros(len(part), dtype=np.int64)
        norm = np.linalg.norm(centred, axis=1)
        lined = _turned(centred / np.maximum(norm, 1e-9)[:, None], shift)
        heard = np.where(norm > 0, np.inf, 0.0)
        return np.column_stack([shift, norm, heard, lined @ signs / WAVE_REACH])

    name = "look-turned-wave" if turned else "look-wave"
    found = looked_at(waves, rows, name, numbers, like=np.dtype(np.float64))
    lined = _Lined(waves=waves, rows=rows, shift=found[:, 0].astype(np.int64), norm=found[:, 1])
    return Signature(values=found[:, 3:].astype(np.float32), contrast=found[:, 2], close=lined.is_same)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class _Lined:
    """Recordings without what is constant in them, of unit length, each turned by its ``shift``."""

    waves: Lying
    rows: Rows
    shift: Rows
    norm: Float[np.ndarray, " num"]

    def is_same(self, first: Rows, second: Rows) -> Bool[np.ndarray, " _"]:
        """Which pairs correlate; many at a time, as products of blocks of recordings."""
        step = max(1, min(2 * CHUNK, WAVE_BLOCK // self.waves.shape[1]))
        (ours, at), (theirs, to) = (np.unique(one, return_inverse=True) for one in (first, second))
        found = np.zeros(len(first))
        for start in range(0, len(ours), step):
            left = self._block(ours[start : start + step])
            for other in range(0, len(theirs), step):
                here = np.flatnonzero((at // step == start // step) & (to // step == other // step))
                if len(here):
                    product = left @ self._block(theirs[other : other + step]).T
                    found[here] = product[at[here] - start, to[here] - other]
        # What a product of blocks rounds to depends on the block; who is a copy must not.
        doubt = np.flatnonzero(np.abs(found - SAME_WAVE) <= WAVE_DOUBT)
        few = max(1, min(CHUNK, WAVE_BLOCK // self.waves.shape[1]))
        for start in range(0, len(doubt), few):
            part = doubt[start : start + few]
            found[part] = (self._exact(first[part]) * self._exact(second[part])).sum(axis=1)
        return np.asarray(found > SAME_WAVE)

    def _block(self, part: Rows) -> Float32[np.ndarray, "part samples"]:
        whole = self.waves[self.rows[part]].astype(np.float32)
        whole -= whole.mean(axis=1, keepdims=True, dtype=np.float64).astype(np.float32)
        whole *= (1.0 / np.maximum(self.norm[part], 1e-9)).astype(np.float32)[:, None]
        return _turned(whole, self.shift[part])

    def _exact(self, part: Rows) -> Float[np.ndarray, "part samples"]:
        unit = _centred(self.waves[self.rows[part]]) / np.maximum(self.norm[part], 1e-9)[:, None]
        return _turned(unit, self.shift[part])


def _centred(waves: np.ndarray) -> Float[np.ndarray, "num samples"]:
    exact = waves.astype(np.float64)
    return np.asarray(exact - exact.mean(axis=1, keepdims=True))


def _turned(waves: np.ndarray, shift: Rows) -> np.ndarray:
    """Recordings from their sample ``shift`` on, and what is before it last."""
    if not shift.any():
        return waves
    turned = np.empty_like(waves)
    for row, at in enumerate(shift.tolist()):
        turned[row, : waves.shape[1] - at] = waves[row, at:]
        turned[row, waves.shape[1] - at :] = waves[row, :at]
    return turned


def erase_wave(target: Stored, level: float, generator: np.random.Generator) -> Stored:
    """Stretches of a 64th of the length made silent, a share of ``level`` of them."""
    cells = patches(len(target), PATCHES * PATCHES, level=level, generator=generator)
    gone = cells[:, np.arange(target.shape[1]) * PATCHES * PATCHES // target.shape[1]]
    return np.where(gone, 0, target).astype(target.dtype)


def band_limit(target: Stored, level: float, *, rate_hz: int) -> Stored:
    """Frequencies above ``widest * (100 / widest) ** level`` Hz cut off; the widest is half the rate.

    Args:
        target: Recordings, int16, (N, T).
        level: From 0, which cuts off nothing, to 1, which leaves what is below 100 Hz.
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


def noise_wave(target: Stored, level: float, generator: np.random.Generator) -> Stored:
    """White noise, from 30 dB below the recording's own root mean square to 20 dB above it."""
    loudness = np.sqrt(np.mean(target.astype(np.float64) ** 2, axis=1, keepdims=True))
    noise = generator.normal(0.0, 1.0, target.shape) * loudness
    noise *= 10.0 ** ((SOFTEST_DB + (LOUDEST_DB - SOFTEST_DB) * level) / 20.0)
    return _as_wave(target + noise, target)


def _as_wave(wave: np.ndarray, like: Stored) -> Stored:
    """As loud as it must be to fit: softer where it would clip."""
    peak = np.maximum(np.abs(wave).max(axis=1, keepdims=True), 1.0)
    fitting: np.ndarray = np.rint(wave * np.minimum(1.0, 32767.0 / peak))
    return fitting.astype(like.dtype)


WAVE = Modality(
    name="wave",
    noun="recording",
    dtype=np.int16,
    rank=2,
    allowed="int16 samples of shape (num, samples)",
    kinds={"wave": 1},
    input_shape=input_shape,
    size=lambda shape: counted(shape[2], "sample"),
    stored_shape=lambda samples, **_: (samples,),
    to_input=lambda waves, **_: wave_input(waves),
    view=augment_wave,
    front="log-mel",
    has_rate=True,
    as_pictures=wave_pictures,
    is_constant=is_constant,
    constant_words="silent",
    looks=(
        lambda waves, rows: signature(waves, rows, turned=True),
        lambda waves, rows: signature(waves, rows, turned=False),
    ),
    degradations={"erase": erase_wave, "noise": noise_wave},
    degradations_at_rate={"band-limit": band_limit},
    cheap_student="audio-50k",
    cheap_steps=200,
    reader="sound",
    front_end="wave",
)
