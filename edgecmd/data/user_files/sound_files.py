"""A user's sound files, made into audio clips of one length, one channel and one rate.

WAV is read by `decode`, as on a device; FLAC by soundfile, which the extra ``[audio]`` brings.
Nothing is normalised: the students take each recording against its own loudest band, so a factor changes
nothing that they see.

Shapes: N recordings, T samples, S samples of the result, K channels.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float, Int16

from edgecmd.core.errors import ConfigError, DataError
from edgecmd.data.user_files.csv_tables import few
from edgecmd.data.user_files.decode import (
    FAINTEST,
    MOST_SAMPLES,
    DecodeError,
    decode_wav,
    decoding,
    one_channel,
)
from edgecmd.data.user_files.reading import reading
from edgecmd.settings import DataConfig

SUFFIXES = (".flac", ".wav")
MAX_FILE_BYTES = 200_000_000
MIN_RATE_HZ, MAX_RATE_HZ = 1_000, 384_000
FULL_SCALE = 32768
SILENCE = FAINTEST
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


def check_clip(config: DataConfig, built: Clip) -> None:
    """Refuse recordings of another rate, or longer, than those that a set was built with.

    Raises:
        ConfigError: With what the set has.
    """
    if config.sampling_rate_hz != built.sampling_rate_hz or config.clip_s > built.seconds:
        raise ConfigError(
            f"data.sampling_rate_hz={config.sampling_rate_hz} and data.clip_s={config.clip_s:g} do not suit"
            f" data.name={config.name!r}. Allowed: {built.sampling_rate_hz}, and {built.seconds} or less."
        )


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


@runtime_checkable
class Heard(Protocol):
    """What is to be known of a recording beside its samples; see `Recording`."""

    @property
    def seconds(self) -> float:
        """Length before it was cut."""

    @property
    def clipped_share(self) -> float:
        """Share of its samples at full scale."""


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
        raise DataError(f"{path} is not a sound file that edgecmd reads ({kinds}). Convert it.")
    kind = path.suffix.lstrip(".").upper()
    way_out = "Save it again, or remove the pair."
    with reading(path, what=kind, way_out=way_out):
        num_bytes = path.stat().st_size
    if num_bytes > MAX_FILE_BYTES:
        raise DataError(
            f"{path} has {num_bytes / 1e6:.0f} MB; allowed are {MAX_FILE_BYTES / 1e6:.0f}. Cut it into one"
            " file per recording."
        )
    try:
        samples, rate_hz = reader(path)
    except DecodeError as error:
        raise DataError(f"{path} cannot be read as {kind} ({error}). {way_out}") from error
    return samples, rate_hz


def read_with_soundfile(path: Path) -> tuple[np.ndarray, int]:
    """Samples (T, K) and rate of a file that libsndfile reads.

    Raises:
        DataError: soundfile is not installed.
        DecodeError: The file is broken, holds another format than its name says, or is far too long.
    """
    try:
        import soundfile
    except (ImportError, OSError) as error:  # OSError: its library of C is missing
        raise DataError(
            f"{path} is {path.suffix.lstrip('.').upper()}, which soundfile reads; it is not installed. Run"
            ' `pip install "edgecmd[audio]"`, or convert the files to WAV.'
        ) from error
    with decoding(), soundfile.SoundFile(path) as file:
        kind = path.suffix.lstrip(".").upper()
        if file.format != kind:
            raise DecodeError(f"it holds {file.format} and not {kind}")
        if not 0 <= file.frames * file.channels <= MOST_SAMPLES:
            raise DecodeError(f"it has {file.frames * file.channels:,} samples; allowed are {MOST_SAMPLES:,}")
        return np.asarray(file.read(dtype="float32", always_2d=True)), int(file.samplerate)


Reader = Callable[[Path], tuple[np.ndarray, int]]
READERS: dict[str, Reader] = {".wav": decode_wav, ".flac": read_with_soundfile}


def make_recording(samples_TK: Channels, rate_hz: int, *, clip: Clip, name: str) -> Recording:
    """One channel at the clip's rate from the first sound on, cut or padded with silence.

    Args:
        samples_TK: Shares of full scale.
        rate_hz: Their sampling rate.
        clip: Rate and length of the result.
        name: What an error calls the recording.

    Raises:
        DataError: It is silent, also because its channels cancel each other; has hardly any sound; is not
            finite; or has an absurd rate.

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
    try:
        one = one_channel(samples_TK)
    except DecodeError as error:
        raise DataError(f"{name} {error}") from error
    clipped_share = float((np.abs(samples_TK) >= CLIPPED_AT).mean())
    mono = resample(one, rate_hz, clip.sampling_rate_hz)
    peak = float(np.abs(mono).max())
    if peak < SILENCE:
        level = f"{20 * math.log10(peak):.0f} dB" if peak else "zero"
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
    # Not above: it takes half a second, and most runs never come here.
    from scipy.signal import resample_poly

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


def notes_on(found: Mapping[str, Heard], *, clip: Clip) -> list[str]:
    """Sentences about recordings that are used, though not all of them or not as they sounded.

    Args:
        found: What was heard, by id.
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
            f"{few(clipped)} of {len(found)} recordings are clipped (at least 1% of their samples are at"
            " full scale). Record them again at a lower level if you can."
        )
    return notes
