"""Degradations: what they keep, what they take away, and what each modality allows."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgecmd.core.errors import ConfigError
from edgecmd.data.modalities.table import MODALITIES
from edgecmd.data.modalities.utf8 import encode_strings
from edgecmd.data.modalities.wave import band_limit_hz
from edgecmd.experiments.theory.gaps import MISMATCH, degrade, gap_names, mismatched

NUM = 5
NOISE = np.random.default_rng(0)
TARGETS = {
    "image": NOISE.integers(0, 256, (NUM, 32, 32, 1), dtype=np.uint8),
    "depth": NOISE.integers(500, 6000, (NUM, 32, 32, 1)).astype(np.uint16),
    "text": encode_strings(["a red apple", "two dogs", "birthday cake", "grinning face", "snow"], 16),
    "wave": (3000.0 * np.sin(np.arange(2000) * 2.0) + NOISE.normal(0, 900, (NUM, 2000))).astype(np.int16),
}
TARGETS["depth"][:, 3:6] = 0
EVERY = [(kind, gap) for kind, one in MODALITIES.items() for gap in gap_names(one) if gap != MISMATCH]
RATE_HZ = 8000


def degraded(kind: str, gap: str, level: float, seed: int = 1) -> np.ndarray:
    generator = np.random.default_rng(seed)
    return degrade(TARGETS[kind], gap=gap, level=level, generator=generator, rate_hz=RATE_HZ)


def apart(kind: str, gap: str, level: float) -> float:
    return float(np.abs(degraded(kind, gap, level).astype(float) - TARGETS[kind].astype(float)).mean())


@pytest.mark.parametrize(("kind", "gap"), EVERY)
def test_kind_and_shape_stay_and_a_higher_level_takes_more(kind: str, gap: str) -> None:
    before = TARGETS[kind].copy()
    for level in (0.3, 1.0):
        made = degraded(kind, gap, level)
        assert (made.dtype, made.shape) == (before.dtype, before.shape)
        assert np.array_equal(made, degraded(kind, gap, level))
    assert np.array_equal(degraded(kind, gap, 0.0), before)
    assert 0.0 < apart(kind, gap, 0.3) < apart(kind, gap, 1.0)
    assert np.array_equal(TARGETS[kind], before)


@pytest.mark.parametrize("gap", sorted(set(MODALITIES["depth"].degradations) - {"noise"}))
@pytest.mark.parametrize("level", [0.2, 0.9])
def test_what_was_not_measured_in_a_depth_map_stays_so(gap: str, level: float) -> None:
    made = degraded("depth", gap, level)
    missing, was = made == 0, TARGETS["depth"] == 0
    if gap == "erase":
        assert missing[was].all()
        assert missing.mean() > was.mean()
    elif gap != "resample":
        assert np.array_equal(missing, was)


def test_quantised_depth_has_few_distances() -> None:
    assert len(np.unique(degraded("depth", "quantise", 1.0))) <= 4


@pytest.mark.parametrize("rate_hz", [4000, 8000, 16_000, 44_100, 48_000])
def test_a_band_limit_keeps_what_lies_below_it_and_nothing_above(rate_hz: int) -> None:
    """At level 1 whatever the rate: a tone of 50 Hz stays, one at 3/8 of the rate goes."""
    time = np.arange(rate_hz) / rate_hz
    low, high = 8000 * np.sin(2 * np.pi * 50 * time), 8000 * np.sin(2 * np.pi * (3 * rate_hz // 8) * time)
    both = np.rint(low + high).astype(np.int16)[None]
    generator = np.random.default_rng(0)
    made = degrade(both, gap="band-limit", level=1.0, generator=generator, rate_hz=rate_hz)
    np.testing.assert_allclose(made[0], low, atol=2)


@pytest.mark.parametrize("rate_hz", [4000, 16_000, 48_000])
@pytest.mark.parametrize("level", [0.25, 0.5, 0.75])
def test_the_band_limit_is_where_it_says_in_hz(rate_hz: int, level: float) -> None:
    """Half the rate and 100 Hz are the ends, and steps are equal factors; tones beside the limit tell it."""
    limit = (rate_hz / 2) ** (1 - level) * 100.0**level
    assert band_limit_hz(level, rate_hz=rate_hz) == pytest.approx(limit)
    time = np.arange(rate_hz) / rate_hz
    for tone, stays in ((math.floor(limit) - 3, True), (math.ceil(limit) + 3, False)):
        wave = np.rint(8000 * np.sin(2 * np.pi * tone * time)).astype(np.int16)[None]
        generator = np.random.default_rng(0)
        made = degrade(wave, gap="band-limit", level=level, generator=generator, rate_hz=rate_hz)
        assert np.abs(made[0].astype(int) - (wave[0] if stays else 0)).max() <= 3


def test_a_band_limit_without_a_rate_is_refused() -> None:
    with pytest.raises(ConfigError, match="rate_hz=0: the gap 'band-limit' needs"):
        degrade(TARGETS["wave"], gap="band-limit", level=0.5, generator=np.random.default_rng(0))


def test_noise_is_as_loud_as_it_says_and_does_not_clip() -> None:
    """At level 3/5 (-30 dB + 3/5 * 50 dB = 0 dB) noise is as loud as the recording: its power doubles."""
    rms = [
        np.sqrt(np.mean(wave.astype(float) ** 2))
        for wave in (TARGETS["wave"], degraded("wave", "noise", 0.6))
    ]
    assert rms[1] / rms[0] == pytest.approx(np.sqrt(2), rel=0.05)
    assert np.abs(degraded("wave", "noise", 1.0).astype(int)).max() <= 32767


def test_erasing_everything_leaves_white_paper_or_silence() -> None:
    assert (degraded("image", "erase", 1.0) == 255).all()
    assert (degraded("wave", "erase", 1.0) == 0).all()
    half = degraded("image", "erase", 0.5) == 255
    assert half.mean() == pytest.approx(0.5, abs=0.02)


def test_blur_is_as_wide_as_it_says() -> None:
    """One black pixel at half level: sigma is 64 * sqrt(1/32 * 1/2) = 8, the peak 255 / (2 pi 8^2) = 0.63."""
    dot = np.zeros((1, 64, 64, 1), dtype=np.uint8)
    dot[0, 28:37, 28:37] = 255
    made = degrade(dot, gap="blur", level=0.5, generator=np.random.default_rng(0))
    inside = math.erf(4.5 / (8.0 * math.sqrt(2.0)))
    assert made[0, 32, 32, 0] == pytest.approx(255 * inside**2, abs=1.0)


def test_resampling_shows_the_nearest_of_fewer_pixels() -> None:
    """64 pixels at half level: 64 * (2/64)^(1/2) = 11; at full level two a side, those at a quarter of it."""
    ramp = np.arange(64, dtype=np.uint8)[None, None, :, None].repeat(64, axis=1)
    half, full = (
        degrade(ramp, gap="resample", level=level, generator=np.random.default_rng(0))[0, 0, :, 0]
        for level in (0.5, 1.0)
    )
    assert len(np.unique(half)) == 11
    assert full.tolist() == [16] * 32 + [48] * 32


def test_noise_of_a_picture_has_the_width_it_says() -> None:
    """A tenth of 255 on grey, where nothing is clipped: a standard deviation of 25.5."""
    grey = np.full((1, 200, 200, 1), 128, dtype=np.uint8)
    made = degrade(grey, gap="noise", level=0.1, generator=np.random.default_rng(0))
    assert made.astype(float).std() == pytest.approx(25.5, rel=0.02)


def test_noise_of_a_depth_map_hits_its_share_of_the_pixels_missing_or_not() -> None:
    """At level 0.4, 40% have any distance from 1 to 4000 mm, 2000.5 in the mean; the others keep theirs."""
    for millimetres in (0, 8000):
        flat = np.full((1, 200, 200, 1), millimetres, dtype=np.uint16)
        made = degrade(flat, gap="noise", level=0.4, generator=np.random.default_rng(0))
        hit = made[made != millimetres]
        assert hit.size / made.size == pytest.approx(0.4, abs=0.01)
        assert 1 <= hit.min() < hit.max() <= 4000
        assert hit.mean() == pytest.approx(2000.5, rel=0.02)


def test_distances_are_quantised_to_the_step_by_hand() -> None:
    """At half level the step is 4000^(1/2) = 63 mm: 100 -> 126 (2 steps), 20 -> 1 (measured, so not 0)."""
    line = np.array([0, 20, 100, 630], dtype=np.uint16).reshape(1, 1, 4, 1)
    made = degrade(line, gap="quantise", level=0.5, generator=np.random.default_rng(0))
    assert made.ravel().tolist() == [0, 1, 126, 630]


def test_a_share_of_the_squares_is_not_measured_or_silent() -> None:
    """At level 1/4, 16 of 64 squares or stretches."""
    depth = np.full((3, 64, 64, 1), 900, dtype=np.uint16)
    wave = np.full((3, 6400), 900, dtype=np.int16)
    for target in (depth, wave):
        made = degrade(target, gap="erase", level=0.25, generator=np.random.default_rng(0))
        assert (made == 0).reshape(3, -1).mean(axis=1).tolist() == [0.25] * 3


@settings(max_examples=40, deadline=None)
@given(num=st.integers(1, 60), share=st.floats(0.0, 1.0), seed=st.integers(0, 99))
def test_mismatching_deals_every_source_once_and_moves_the_share(num: int, share: float, seed: int) -> None:
    rows = mismatched(num, share=share, generator=np.random.default_rng(seed))
    assert sorted(rows) == list(range(num))
    moved = round(share * num)
    assert (rows != np.arange(num)).sum() == (moved if moved > 1 else 0)


def test_names_and_levels_are_checked() -> None:
    assert gap_names(MODALITIES["image"]) == ("blur", "erase", "resample", "noise", MISMATCH)
    assert degraded("image", MISMATCH, 1.0) is TARGETS["image"]
    with pytest.raises(ConfigError, match="--gaps has 'blur'; for targets of kind wave: band-limit"):
        degraded("wave", "blur", 0.5)
    with pytest.raises(ConfigError, match=r"level=1\.5"):
        degraded("image", "blur", 1.5)
