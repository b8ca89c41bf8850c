"""The front ends as `core.json` tells them in words, written with numpy alone by a reader of these words."""

import numpy as np


def kept(raw, numbers):
    """Of `crop` the middle square."""
    if numbers.get("fit") != "crop":
        return raw
    height, width = raw.shape[:2]
    s = min(height, width)
    top, left = (height - s) // 2, (width - s) // 2
    return raw[top : top + s, left : left + s]


def rows_and_columns(raw, numbers):
    """R and Q: of `pad` fewer than the side."""
    side, (height, width) = numbers["image_size"], raw.shape[:2]
    if numbers.get("fit") != "pad":
        return side, side
    m = max(height, width)
    return tuple(max(1, (2 * side * one + m) // (2 * m)) for one in (height, width))


def bordered(small, numbers, *, empty):
    side = numbers["image_size"]
    square = np.full((side, side, *small.shape[2:]), empty, dtype=np.float64)
    top, left = (side - small.shape[0]) // 2, (side - small.shape[1]) // 2
    square[top : top + small.shape[0], left : left + small.shape[1]] = small
    return square


def weights(n, N):
    """Row i: the share of each of N pixels in number i of n."""
    z = N / n
    w = max(z, 1.0)
    table = np.zeros((n, N))
    for i in range(n):
        for j in range(N):
            table[i, j] = max(0.0, 1.0 - abs((j + 0.5 - (i + 0.5) * z) / w))
    return table / table.sum(axis=1, keepdims=True)


def see_image(raw, numbers):
    """(height, width, channels) of bytes to (channels, side, side)."""
    raw = kept(raw, numbers).astype(np.float64)
    height, width, channels = raw.shape
    R, Q = rows_and_columns(raw, numbers)
    if height % R == 0 and width % Q == 0:
        small = raw.reshape(R, height // R, Q, width // Q, channels).mean(axis=(1, 3))
    else:
        small = np.einsum("ih,hwc,qw->iqc", weights(R, height), raw, weights(Q, width))
    level = bordered(np.floor(small + 0.501), numbers, empty=255)
    return ((level / 255 - numbers["offset"]) / numbers["scale"]).transpose(2, 0, 1)


def see_depth(raw, numbers):
    """(height, width, 1) of millimetres to (2, side, side)."""
    raw = kept(raw, numbers)
    height, width = raw.shape[:2]
    R, Q = rows_and_columns(raw, numbers)
    small = np.zeros((R, Q))
    for r in range(R):
        for q in range(Q):
            small[r, q] = raw[(2 * r + 1) * height // (2 * R), (2 * q + 1) * width // (2 * Q), 0]
    millimetres = bordered(small, numbers, empty=0)
    measured = np.minimum(millimetres, 1)
    metres = (millimetres / 1000 - numbers["offset_m"]) / numbers["scale_m"] * measured
    return np.stack([metres, measured])


def see_wave(raw, numbers):
    """Samples to (1, bands, windows); the numbers are those of the sentences."""
    num = 1 + (len(raw) - 256) // 128
    hann = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(256) / 256)
    power = np.stack(
        [np.abs(np.fft.rfft(raw[128 * one : 128 * one + 256] * hann)) ** 2 for one in range(num)], axis=1
    )
    mel_low, mel_high = (2595 * np.log10(1 + f / 700) for f in (60, 4000))
    edges = 700 * (10 ** (np.linspace(mel_low, mel_high, 42) / 2595) - 1)
    bands = np.zeros((40, 129))
    for m in range(40):
        low, centre, high = edges[m : m + 3]
        for k in range(129):
            f = k * 8000 / 256
            bands[m, k] = max(0, min((f - low) / (centre - low), (high - f) / (high - centre)))
    loudness = np.log(bands @ power + 1e-8)
    loudness -= loudness.max()
    return ((np.maximum(0, loudness / (0.1 * 60 * np.log(10)) + 1) - 0.57) / 0.25)[None]


SEE = {"image": see_image, "depth16": see_depth, "wave": see_wave}
