"""How similar two images are: PSNR and SSIM.

Shapes: H height, W width, C channels.
"""

import math

import numpy as np
from jaxtyping import Float
from scipy.ndimage import gaussian_filter

Picture = Float[np.ndarray, "_ _ _"]
SSIM_SIGMA = 1.5
SSIM_TRUNCATE = 3.5
SSIM_K1, SSIM_K2 = 0.01, 0.03
MAX_PSNR_DB = 60.0


def psnr(first: Picture, second: Picture) -> float:
    """Peak signal-to-noise ratio in dB of images with values in [0, 1]; at most 60.

    Args:
        first: (C, H, W).
        second: (C, H, W).
    """
    error = float(np.mean((np.asarray(first, dtype=np.float64) - np.asarray(second, dtype=np.float64)) ** 2))
    return MAX_PSNR_DB if error <= 10 ** (-MAX_PSNR_DB / 10) else -10.0 * math.log10(error)


def ssim(first: Picture, second: Picture) -> float:
    """Structural similarity of images with values in [0, 1], mean over pixels and channels, at most 1.

    A Gaussian window of standard deviation 1.5 and 11 pixels, K1 = 0.01, K2 = 0.03 (Wang et al. 2004, IEEE
    Transactions on Image Processing 13:600); what is outside is mirrored.

    Args:
        first: (C, H, W).
        second: (C, H, W).
    """
    a, b = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    mean_a, mean_b = _blur(a), _blur(b)
    variance_a, variance_b = _blur(a * a) - mean_a**2, _blur(b * b) - mean_b**2
    covariance = _blur(a * b) - mean_a * mean_b
    light = (2 * mean_a * mean_b + SSIM_K1**2) / (mean_a**2 + mean_b**2 + SSIM_K1**2)
    structure = (2 * covariance + SSIM_K2**2) / (variance_a + variance_b + SSIM_K2**2)
    return float((light * structure).mean())


def _blur(picture: Picture) -> Picture:
    return np.asarray(gaussian_filter(picture, (0, SSIM_SIGMA, SSIM_SIGMA), truncate=SSIM_TRUNCATE))
