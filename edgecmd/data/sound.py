"""Sound files of a user, made into recordings of one length, one channel and one rate.

WAV (PCM of 8, 16, 24 or 32 bits, or floating point) is read by SciPy, FLAC by soundfile, which the
extra ``[audio]`` brings. Nothing is normalised: the students take each recording against its own
loudest band, so a factor changes nothing that they see.

Shapes: N recordings, T samples, S samples of the result, K channels.
"""

import math
import struct
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int16
from scipy.io import wavfile
from scipy.signal import resample_poly

from edgecmd.config_data import DataConfig
from edgecmd.data.tables import few
from edgecmd.errors import DataError

SUFFIXES = (".flac", ".wav")
# Read by nobody here; lossy ones would also bring their artefacts into the student.
OTHER_SUFFIXES = (".aac", ".aif", ".aiff", ".m4a", ".mp3", ".oga", ".ogg", ".opus", ".wma")
READ_ERRORS = (OSError, EOFError, ValueError, KeyError, struct.error, MemoryError, OverflowError)
MAX_FILE_BYTES = 200_000_000
MIN_RATE_HZ, MAX_RATE_HZ = 1_000, 384_000
FULL_SCALE = 32768
# Below -60 dB of full scale there is nothing to learn from.
SILENCE = 1e-3
MIN_SOUND_S = 0.02
# Leading sound below 3 percent of the peak (-30 dB) counts as silence; 20 ms of it are kept.
ONSET, LEAD_S = 0.03, 0.02
CLIPPED_AT, CLIPPED_SHARE = 0.999, 0.01

# Anonymous axis: what goes in and what comes out differ in length.
Samples = Float[np.ndarray, "_"]
Channels = Float[np.ndarray, "_ _"]
Recordings = Int16[np.ndarray, "num samples"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Clip:
    """What recordings are made into: ``data.sampling_rate_hz`` and ``data.clip_s``."""

    sampling_rate_hz: int = DataConfig().sampling_rate_hz
    seconds: float = DataConfig().clip_s

    @property
    def num_samples(self) -> int:
        """S."""
        return round(self.sampling_rate_hz * self.seconds)


def clip_of(config: DataConfig) -> Clip:
    """What the settings ask for."""
    return Clip(sampling_rate_hz=config.sampling_rate_hz, seconds=config.clip_s)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Recording:
    """One recording as it will be used, and what a user may want to know of it.

    Attributes:
        samples: int16, (S,).
        seconds: Length from the first sound on, before it was cut to the clip.
        clipped_share: Share of its samples at full scale.
    """

    samples: Int16[np.ndarray, " samples"]
    seconds: float
    clipped_share: float


def read_recording(path: Path, clip: Clip, *, readers: Mapping[str, "Reader"] | None = None) -> Recording:
    """Read a sound file and make it a recording; ``readers`` as for `read_sound`.

    Raises:
        DataError: The file cannot be read, is silent, or holds hardly any sound.
    """
    samples_TK, rate_hz = read_sound(path, readers=readers)
    return make_recording(samples_TK, rate_hz, clip=clip, name=str(path))


def read_sound(path: Path, *, readers: Mapping[str, "Reader"] | None = None) -> tuple[Channels, int]:
    """Samples of a sound file as shares of full scale, (T, K), and its sampling rate in Hz.

    Args:
        path: The file.
        readers: How to read each suffix; None for `READERS`.

    Raises:
        DataError: It has none of these suffixes, is broken, cut off, absurdly large, or needs soundfile,
            which is not there.
    """
    allowed = readers or READERS
    reader = allowed.get(path.suffix.lower())
    if reader is None:
        kinds = ", ".join(sorted(allowed))
        raise DataError(f"{path} is no sound file that is read here ({kinds}). Convert it.")
    try:
        num_bytes = path.stat().st_size
        if num_bytes > MAX_FILE_BYTES:
            raise DataError(
                f"{path} has {num_bytes / 1e6:.0f} MB; allowed are {MAX_FILE_BYTES / 1e6:.0f}."
                " Cut it into one file a recording."
            )
        samples, rate_hz = reader(path)
    except READ_ERRORS as error:
        if isinstance(error, DataError):
            raise
        raise DataError(
            f"{path} cannot be read as {path.suffix.lstrip('.').upper()} ({error}). Save it again, or remove"
            " the pair."
        ) from error
    return np.atleast_2d(samples.T).T, rate_hz


def _check_chunks(path: Path) -> None:
    """Refuse a RIFF file with a chunk that says it is longer than the file, before that much is allocated."""
    with path.open("rb") as file:
        size, place = path.stat().st_size, 12
        if file.read(4) != b"RIFF":
            return
        while place + 8 <= size:
            file.seek(place)
            name, num_bytes = struct.unpack("<4sI", file.read(8))
            if place + 8 + num_bytes > size:
                raise ValueError(
                    f"its part {name!r} should have {num_bytes} bytes, {size - place - 8} are there"
                )
            place += 8 + num_bytes + num_bytes % 2


def _read_wav(path: Path) -> tuple[np.ndarray, int]:
    _check_chunks(path)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        rate_hz, stored = wavfile.read(path)
    cut_off = [str(one.message) for one in told if "prematurely" in str(one.message)]
    if cut_off:
        raise ValueError(cut_off[0])
    if stored.dtype == np.uint8:
        return (stored.astype(np.float32) - 128.0) / 128.0, rate_hz
    if stored.dtype.kind == "i":
        # 24 bits come as the upper part of 32.
        return stored.astype(np.float32) / -float(np.iinfo(stored.dtype).min), rate_hz
    return stored.astype(np.float32), rate_hz


def read_with_soundfile(path: Path) -> tuple[np.ndarray, int]:
    """Samples (T, K) and rate of a file that libsndfile reads.

    Raises:
        DataError: soundfile is not installed.
        ValueError: The file is broken.
    """
    try:
        import soundfile
    except (ImportError, OSError) as error:  # OSError: its library of C is missing
        raise DataError(
            f"{path} is {path.suffix.lstrip('.').upper()}, which soundfile reads; it is not installed. Run"
            ' `pip install "edgecmd[audio]"`, or convert the files to WAV.'
        ) from error
    try:
        samples, rate_hz = soundfile.read(path, dtype="float32", always_2d=True)
    except RuntimeError as error:
        raise ValueError(str(error)) from error
    return np.asarray(samples), int(rate_hz)


Reader = Callable[[Path], tuple[np.ndarray, int]]
READERS: dict[str, Reader] = {".wav": _read_wav, ".flac": read_with_soundfile}


def make_recording(samples_TK: Channels, rate_hz: int, *, clip: Clip, name: str) -> Recording:
    """One channel at the clip's rate from the first sound on, cut or padded with silence.

    Args:
        samples_TK: Shares of full scale.
        rate_hz: Their sampling rate.
        clip: Rate and length of the result.
        name: What an error calls the recording.

    Raises:
        DataError: It is silent, has hardly any sound, is not finite, or has an absurd rate.

    Guarantees:
        Channels are averaged. Resampling is by a polyphase filter, so what the new rate cannot hold is
        removed, not folded into it. The level is kept; what exceeds full scale is limited to it.
    """
    if not MIN_RATE_HZ <= rate_hz <= MAX_RATE_HZ:
        raise DataError(
            f"{name} has sampling_rate_hz={rate_hz}; allowed are {MIN_RATE_HZ} to {MAX_RATE_HZ}."
            " Save it again."
        )
    if samples_TK.shape[0] < MIN_SOUND_S * rate_hz:
        raise DataError(
            f"{name} has {len(samples_TK)} samples; at least {MIN_SOUND_S} s are needed. Record it again, or"
            " remove the pair."
        )
    if not np.isfinite(samples_TK).all():
        raise DataError(f"{name} holds numbers that are not finite. Save it again as 16-bit PCM.")
    clipped_share = float((np.abs(samples_TK) >= CLIPPED_AT).mean())
    mono = resample(samples_TK.mean(axis=1, dtype=np.float32), rate_hz, clip.sampling_rate_hz)
    peak = float(np.abs(mono).max())
    if peak < SILENCE:
        level = f"{20 * math.log10(peak):.0f} dB" if peak else "nothing at all"
        raise DataError(
            f"{name} is silent (peak: {level}; at least -60 dB of full scale are needed). Record it again,"
            " or remove the pair."
        )
    sound = from_first_sound(mono, clip.sampling_rate_hz)
    return Recording(
        samples=to_int16(fit(sound, clip.num_samples)),
        seconds=len(sound) / clip.sampling_rate_hz,
        clipped_share=clipped_share,
    )


def resample(samples_T: Samples, rate_hz: int, to_hz: int) -> Samples:
    """Samples at another rate, by a polyphase filter (SciPy's ``resample_poly``)."""
    if rate_hz == to_hz:
        return samples_T
    common = math.gcd(rate_hz, to_hz)
    return np.asarray(resample_poly(samples_T, to_hz // common, rate_hz // common), dtype=np.float32)


def from_first_sound(samples_T: Samples, rate_hz: int) -> Samples:
    """Samples from 20 ms before the first that exceeds 3 percent of the peak."""
    first = int(np.argmax(np.abs(samples_T) > ONSET * np.abs(samples_T).max()))
    return samples_T[max(0, first - round(LEAD_S * rate_hz)) :]


def fit(samples_T: Samples, num_samples: int) -> Samples:
    """The first ``num_samples``, with silence behind where there are fewer."""
    kept = samples_T[:num_samples]
    return np.pad(kept, (0, num_samples - len(kept)))


def to_int16(samples_T: Samples) -> Int16[np.ndarray, " samples"]:
    """Shares of full scale as 16-bit numbers, rounded, limited to what they hold."""
    scaled = np.rint(samples_T * FULL_SCALE)
    return np.asarray(np.clip(scaled, -FULL_SCALE, FULL_SCALE - 1), dtype=np.int16)


def notes_on(found: dict[str, Recording], *, clip: Clip) -> list[str]:
    """Sentences about recordings that are used, though not all of them or not as they sounded.

    Args:
        found: Recordings by id.
        clip: What they were made into.
    """
    cut = [name for name, one in found.items() if one.seconds > clip.seconds]
    clipped = [name for name, one in found.items() if one.clipped_share >= CLIPPED_SHARE]
    notes = []
    if cut:
        longest = max(one.seconds for one in found.values())
        notes.append(
            f"{few(cut)} of {len(found)} recordings are longer than data.clip_s={clip.seconds:g} and are cut"
            f" there; the longest has {longest:.2f} s. Raise data.clip_s to keep all of them."
        )
    if clipped:
        notes.append(
            f"{few(clipped)} of {len(found)} recordings are clipped (at least 1% of their samples are at full"
            " scale). Record them again with a lower level where you can."
        )
    return notes
