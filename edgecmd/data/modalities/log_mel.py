"""The front end of students of sound: a recording in, a log-mel image out, all inside the student.

Constants alone and nothing learnt: no buffer of it is part of a student's weights, and each
recording is scaled by its own loudest band alone, so that no recording acts on another.

Shapes: B batch, T samples, K frequencies, M mel bands, F frames, N samples of a window.
"""

import math

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

# A student counts in samples, so its bands, window and hop scale with the rate of what it is given. The
# filters below are those of this rate; at any other they are the same shares of half the rate.
FILTERS_HZ = 8000
WINDOW_SAMPLES, HOP_SAMPLES, NUM_MELS = 256, 128, 40
LOWEST_HZ = 60.0
# Bands are seen from the loudest down to 60 dB below it, as numbers from 1.5 to -2.
RANGE_NEPER = 0.1 * 60.0 * math.log(10.0)
CENTRE, SPREAD = 0.57, 0.25
FLOOR = 1e-8


def hz_to_mel(hz: float | np.ndarray) -> np.ndarray:
    """Pitch in mel of a frequency (O'Shaughnessy 1987: ``2595 log10(1 + f / 700)``)."""
    return np.asarray(2595.0 * np.log10(1.0 + np.asarray(hz) / 700.0))


def mel_to_hz(mel: float | np.ndarray) -> np.ndarray:
    """Inverse of `hz_to_mel`."""
    return np.asarray(700.0 * (10.0 ** (np.asarray(mel) / 2595.0) - 1.0))


def mel_filters(
    *, num_mels: int, window_samples: int, sampling_rate_hz: int
) -> Float[np.ndarray, "mels frequencies"]:
    """Triangles of height 1, equally spaced in mel between 60 Hz and half the sampling rate.

    Args:
        num_mels: M.
        window_samples: N; there are ``N / 2 + 1`` frequencies.
        sampling_rate_hz: Of the recording.
    """
    edges = mel_to_hz(np.linspace(hz_to_mel(LOWEST_HZ), hz_to_mel(sampling_rate_hz / 2), num_mels + 2))
    frequency = np.fft.rfftfreq(window_samples, 1.0 / sampling_rate_hz)
    low, centre, high = edges[:-2, None], edges[1:-1, None], edges[2:, None]
    rising, falling = (frequency - low) / (centre - low), (high - frequency) / (high - centre)
    return np.asarray(np.clip(np.minimum(rising, falling), 0.0, None))


def fourier_basis(window_samples: int) -> Float[np.ndarray, "parts window"]:
    """Rows of a Hann-windowed Fourier transform, real parts then imaginary ones, (N + 2, N)."""
    place = np.arange(window_samples)
    angle = 2.0 * np.pi * np.outer(np.arange(window_samples // 2 + 1), place) / window_samples
    hann = 0.5 - 0.5 * np.cos(2.0 * np.pi * place / window_samples)
    return np.concatenate([np.cos(angle), -np.sin(angle)]) * hann


class LogMel(nn.Module):
    """Log-mel image of a recording, from the loudest band down to 60 dB below it."""

    basis: Tensor
    filters: Tensor
    floor: Tensor

    def __init__(self) -> None:
        super().__init__()
        basis = torch.from_numpy(fourier_basis(WINDOW_SAMPLES)).float()[:, None]
        filters = mel_filters(num_mels=NUM_MELS, window_samples=WINDOW_SAMPLES, sampling_rate_hz=FILTERS_HZ)
        self.register_buffer("basis", basis, persistent=False)
        self.register_buffer("filters", torch.from_numpy(filters).float(), persistent=False)
        # One number a band: the ONNX exporter drops the addition of one number up to 1e-8 as that of 0.
        self.register_buffer("floor", torch.full((NUM_MELS, 1), FLOOR), persistent=False)

    def forward(self, wave: Float[Tensor, "batch 1 1 samples"]) -> Float[Tensor, "batch 1 mels frames"]:
        """Picture of each recording.

        Args:
            wave: Shares of full scale, (B, 1, 1, T); at least a window long.

        Guarantees:
            Computes in the precision of ``wave`` where the layers behind it do not (``distill.precision``):
            sums over a window need more than 8 bits.
        """
        if not torch.is_autocast_enabled(wave.device.type):
            return self._picture(wave)
        with torch.autocast(wave.device.type, enabled=False):
            return self._picture(wave)

    def _picture(self, wave: Float[Tensor, "batch 1 1 samples"]) -> Float[Tensor, "batch 1 mels frames"]:
        parts = functional.conv1d(wave[:, 0], self.basis, stride=HOP_SAMPLES)
        real, imaginary = parts.chunk(2, dim=1)
        loudness = torch.log(self.filters @ (real.square() + imaginary.square()) + self.floor)
        below = loudness - loudness.amax(dim=(1, 2), keepdim=True)
        share = (below / RANGE_NEPER + 1.0).clamp_min(0.0)
        return ((share - CENTRE) / SPREAD)[:, None]
