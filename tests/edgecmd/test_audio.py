"""The log-mel front end, against scipy's own transform and against what a pure tone must give."""

import numpy as np
import pytest
import torch
from scipy.signal import ShortTimeFFT
from scipy.signal.windows import hann

from edgecmd.core.errors import ConfigError
from edgecmd.data.modalities.log_mel import (
    FILTERS_HZ,
    HOP_SAMPLES,
    NUM_MELS,
    WINDOW_SAMPLES,
    LogMel,
    fourier_basis,
    hz_to_mel,
    mel_filters,
    mel_to_hz,
)
from edgecmd.data.modalities.wave import wave_input
from edgecmd.models.students import build_student
from edgecmd.privacy.step.purity import require_pure

LENGTH = 2048


def tone(hz: float, *, level: float = 0.5) -> np.ndarray:
    time = np.arange(LENGTH) / FILTERS_HZ
    return np.round(32767 * level * np.sin(2 * np.pi * hz * time)).astype(np.int16)


def picture(*waves: np.ndarray) -> np.ndarray:
    return LogMel()(wave_input(np.stack(waves)))[:, 0].numpy()


def test_the_transform_is_that_of_scipy() -> None:
    wave = np.random.default_rng(0).normal(size=LENGTH)
    windows = np.lib.stride_tricks.sliding_window_view(wave, WINDOW_SAMPLES)[::HOP_SAMPLES]
    real, imaginary = np.split(windows @ fourier_basis(WINDOW_SAMPLES).T, 2, axis=1)
    theirs = ShortTimeFFT(
        hann(WINDOW_SAMPLES, sym=False), hop=HOP_SAMPLES, fs=1, fft_mode="onesided", phase_shift=None
    ).stft(wave)
    inside = theirs[:, 1 : 1 + len(windows)].T
    np.testing.assert_allclose(np.hypot(real, imaginary), np.abs(inside), atol=1e-9)


def test_a_tone_lights_the_band_of_its_pitch() -> None:
    edges = np.linspace(hz_to_mel(60.0), hz_to_mel(FILTERS_HZ / 2), NUM_MELS + 2)
    for band in (5, 20, 35):
        found = picture(tone(float(mel_to_hz(edges[band + 1]))))[0]
        assert found.shape == (NUM_MELS, 1 + (LENGTH - WINDOW_SAMPLES) // HOP_SAMPLES)
        assert abs(int(found.mean(axis=1).argmax()) - band) <= 1


def test_loudness_and_the_other_recordings_do_not_matter() -> None:
    loud, soft, other = tone(700.0), tone(700.0, level=0.05), tone(2000.0)
    together = picture(loud, other)
    np.testing.assert_allclose(picture(loud)[0], together[0], atol=1e-4)
    # 16-bit rounding of the softer tone lies 60 dB below it, where the picture ends.
    assert np.abs(picture(soft)[0] - together[0]).mean() < 0.1


def test_silence_is_finite_and_flat() -> None:
    found = picture(np.zeros(LENGTH, dtype=np.int16))
    assert np.isfinite(found).all()
    assert found.std() == 0.0


def test_filters_are_triangles_that_cover_the_range() -> None:
    filters = mel_filters(num_mels=NUM_MELS, window_samples=WINDOW_SAMPLES, sampling_rate_hz=FILTERS_HZ)
    assert filters.shape == (NUM_MELS, WINDOW_SAMPLES // 2 + 1)
    assert filters.min() == 0.0
    assert filters.max() <= 1.0
    assert (filters.sum(axis=1) > 0).all()


def test_an_audio_student_is_pure_and_its_weights_hold_no_constant() -> None:
    student = build_student(
        "audio-50k", in_channels=1, embedding_dim=8, generator=torch.Generator().manual_seed(0)
    )
    require_pure(student, in_channels=1, image_size=(1, LENGTH))
    same = build_student("ws-50k", in_channels=1, embedding_dim=8, generator=torch.Generator().manual_seed(0))
    assert student.state_dict().keys() == same.state_dict().keys()


def test_pictures_are_refused_by_an_audio_student() -> None:
    with pytest.raises(ConfigError, match="ws-"):
        build_student("audio-50k", in_channels=3, embedding_dim=8, generator=torch.Generator())
