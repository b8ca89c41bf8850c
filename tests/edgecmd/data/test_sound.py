"""Sound files of every kind become one channel at one rate from the first sound on, or an error."""

import struct
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.io import wavfile

from edgecmd.core.errors import DataError
from edgecmd.data.user_files.sound_files import (
    FULL_SCALE,
    Clip,
    from_first_sound,
    make_recording,
    notes_on,
    read_recording,
    read_sound,
    resample,
    to_int16,
)
from tests.made_up_sound import tone, write_wav

CLIP = Clip(sampling_rate_hz=8000, seconds=0.5)


def loudest_hz(samples: np.ndarray, rate_hz: int = 8000) -> float:
    """Frequency of the largest line of the spectrum."""
    return float(np.fft.rfftfreq(len(samples), 1 / rate_hz)[np.abs(np.fft.rfft(samples)).argmax()])


@pytest.mark.parametrize(
    ("dtype", "scale", "offset"),
    [(np.uint8, 127, 128), (np.int16, 32767, 0), (np.int32, 2**31 - 1, 0), (np.float32, 1.0, 0)],
)
def test_every_sample_type_gives_the_same_shares(tmp_path: Path, dtype, scale, offset) -> None:
    shares = tone(440.0)
    stored = shares * scale + offset if dtype is np.float32 else np.rint(shares * scale + offset)
    wavfile.write(tmp_path / "a.wav", 8000, stored.astype(dtype))
    samples, rate_hz = read_sound(tmp_path / "a.wav")
    assert rate_hz == 8000
    assert samples.shape == (3200, 1)
    assert np.abs(samples[:, 0] - shares).max() < (0.01 if dtype is np.uint8 else 1e-4)


def test_24_bits(tmp_path: Path) -> None:
    values = [0, 2**22, -(2**23), 2**23 - 1]
    data = b"".join(struct.pack("<i", one)[:3] for one in values)
    form = (b"RIFF", 36 + 12, b"WAVE", b"fmt ", 16, 1, 1, 8000, 24000, 3, 24, b"data", 12)
    header = struct.pack("<4sI4s4sIHHIIHH4sI", *form)
    (tmp_path / "a.wav").write_bytes(header + data)
    samples, _ = read_sound(tmp_path / "a.wav")
    assert samples[:, 0].tolist() == pytest.approx([0.0, 0.5, -1.0, 1.0], abs=1e-6)


def test_channels_are_averaged(tmp_path: Path) -> None:
    one, other = tone(500.0, level=0.4), tone(1000.0, level=0.2)
    path = write_wav(tmp_path / "a.wav", np.stack([one, other], axis=1))
    found = read_recording(path, CLIP).samples[:3200] / FULL_SCALE
    # The first sound is in the first sample but one, and nothing is cut before it.
    assert np.abs(found - (one + other) / 2).max() < 1e-4


@pytest.mark.parametrize("rate_hz", [4000, 11025, 16000, 44100, 48000])
def test_another_rate_keeps_the_pitch_and_the_length(rate_hz: int) -> None:
    found = resample(tone(700.0, rate_hz=rate_hz).astype(np.float32), rate_hz, 8000)
    assert len(found) == pytest.approx(3200, abs=1)
    assert loudest_hz(found) == pytest.approx(700.0, abs=5.0)
    assert np.abs(found[400:-400]).max() == pytest.approx(0.5, abs=0.02)


def test_what_the_new_rate_cannot_hold_is_removed_and_not_folded() -> None:
    """6 kHz would come back as 2 kHz if every second sample were dropped."""
    found = resample(tone(6000.0, rate_hz=16000).astype(np.float32), 16000, 8000)
    assert np.abs(found[200:-200]).max() < 0.01


def test_leading_silence_goes_but_for_20_ms_and_the_end_is_silence() -> None:
    sound = np.concatenate([np.zeros(5000), tone(440.0, seconds=0.1)]).astype(np.float32)
    found = make_recording(sound[:, None], 8000, clip=CLIP, name="x")
    assert found.samples.shape == (4000,)
    loud = np.flatnonzero(np.abs(found.samples) > 0.03 * 0.5 * FULL_SCALE)
    assert loud[0] == 160
    assert not found.samples[160 + 800 :].any()
    assert found.seconds == pytest.approx(0.12, abs=0.001)


def test_a_longer_one_is_cut_and_said() -> None:
    found = make_recording(tone(440.0, seconds=2.0).astype(np.float32)[:, None], 8000, clip=CLIP, name="x")
    assert found.samples.shape == (4000,)
    (note,) = notes_on({"x": found}, clip=CLIP)
    assert "1 (x) of 1 recordings are longer than data.clip_s=0.5" in note
    assert "2.00 s" in note


def test_clipping_is_said_and_a_few_full_samples_are_not() -> None:
    square = np.sign(tone(440.0)).astype(np.float32)
    peaks = tone(440.0, level=0.9).astype(np.float32)
    peaks[1000:1010] = 1.0
    found = {
        name: make_recording(one[:, None], 8000, clip=CLIP, name=name)
        for name, one in (("square", square), ("peaks", peaks))
    }
    (note,) = notes_on(found, clip=CLIP)
    assert "1 (square) of 2 recordings are clipped" in note


@given(st.lists(st.floats(-2, 2, width=32), min_size=1, max_size=50))
def test_16_bits_are_within_half_a_step_and_limited(values: list[float]) -> None:
    shares = np.array(values, dtype=np.float32)
    found = to_int16(shares)
    within = np.clip(shares, -1.0, 1.0 - 1 / FULL_SCALE)
    assert np.abs(found / FULL_SCALE - within).max() <= 0.5 / FULL_SCALE + 1e-7


@given(st.integers(0, 3000), st.floats(0.01, 1.0))
def test_the_first_sound_does_not_depend_on_the_level(lead: int, level: float) -> None:
    sound = np.concatenate([np.zeros(lead), tone(440.0, seconds=0.05)]).astype(np.float32)
    assert len(from_first_sound(sound, 8000)) == len(from_first_sound(np.float32(level) * sound, 8000))


@pytest.mark.parametrize(
    ("shares", "text"),
    [
        (np.zeros(4000), "is silent (peak: zero"),
        (tone(440.0, level=5e-4), "is silent (peak: -66 dB"),
        (np.zeros(100), "has 100 samples; at least 0.02 s"),
        (np.zeros(0), "has 0 samples"),
        (np.full(4000, np.nan), "not finite"),
    ],
)
def test_what_holds_no_sound_is_refused(shares: np.ndarray, text: str) -> None:
    with pytest.raises(DataError) as caught:
        make_recording(shares.astype(np.float32)[:, None], 8000, clip=CLIP, name="x")
    assert text in str(caught.value)


@pytest.mark.parametrize("rate_hz", [0, 999, 10**6])
def test_an_absurd_rate_is_refused(rate_hz: int) -> None:
    with pytest.raises(DataError, match=f"sampling_rate_hz={rate_hz}; allowed are 1000 to 384000"):
        make_recording(np.ones((4000, 1), dtype=np.float32), rate_hz, clip=CLIP, name="x")


class TestFiles:
    def test_damaged_in_every_place(self, tmp_path: Path) -> None:
        """Any file that is cut is refused, wherever it is cut, or read as far as it says it goes."""
        whole = write_wav(tmp_path / "a.wav", tone(440.0)).read_bytes()
        for length in (0, 3, 11, 20, 36, 43, 44, 1000, len(whole) - 1):
            (tmp_path / "b.wav").write_bytes(whole[:length])
            with pytest.raises(DataError, match=r"b\.wav (cannot be read as WAV|has 0 samples)"):
                read_recording(tmp_path / "b.wav", CLIP)

    def test_not_a_sound_file(self, tmp_path: Path) -> None:
        (tmp_path / "a.wav").write_bytes(b"ID3 this is an mp3 with another name" * 10)
        with pytest.raises(DataError, match=r"a\.wav cannot be read as WAV.*Save it again"):
            read_sound(tmp_path / "a.wav")
        with pytest.raises(
            DataError, match=r"a\.mp3 is not a sound file that edgecmd reads \(\.flac, \.wav\)"
        ):
            read_sound(tmp_path / "a.mp3")

    def test_a_header_that_promises_gigabytes(self, tmp_path: Path) -> None:
        content = bytearray(write_wav(tmp_path / "a.wav", tone(440.0)).read_bytes())
        content[40:44] = struct.pack("<I", 2**31)
        (tmp_path / "a.wav").write_bytes(content)
        with pytest.raises(DataError, match="cannot be read as WAV"):
            read_sound(tmp_path / "a.wav")

    def test_too_large(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("edgecmd.data.user_files.sound_files.MAX_FILE_BYTES", 1000)
        with pytest.raises(DataError, match="Cut it into one file per recording"):
            read_sound(write_wav(tmp_path / "a.wav", tone(440.0)))

    def test_unknown_chunks_are_passed_over(self, tmp_path: Path) -> None:
        content = write_wav(tmp_path / "a.wav", tone(440.0)).read_bytes()
        chunk = b"LIST" + struct.pack("<I", 4) + b"INFO"
        size = struct.pack("<I", len(content) - 8 + len(chunk))
        (tmp_path / "b.wav").write_bytes(content[:4] + size + content[8:12] + chunk + content[12:])
        plain, other = (read_sound(tmp_path / name)[0] for name in ("a.wav", "b.wav"))
        assert np.array_equal(plain, other)


class TestFlac:
    def test_flac_is_wav(self, tmp_path: Path) -> None:
        soundfile = pytest.importorskip("soundfile")
        wav = write_wav(tmp_path / "a.wav", tone(440.0))
        soundfile.write(tmp_path / "a.flac", tone(440.0), 8000, subtype="PCM_16")
        found = [read_recording(tmp_path / name, CLIP).samples.astype(int) for name in ("a.wav", "a.flac")]
        assert np.abs(found[0] - found[1]).max() <= 1
        assert wav.exists()

    def test_broken(self, tmp_path: Path) -> None:
        pytest.importorskip("soundfile")
        (tmp_path / "a.flac").write_bytes(b"fLaC, but not really")
        with pytest.raises(DataError, match=r"a\.flac cannot be read as FLAC"):
            read_sound(tmp_path / "a.flac")

    def test_without_soundfile(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "soundfile", None)
        (tmp_path / "a.flac").write_bytes(b"fLaC")
        with pytest.raises(DataError, match=r'pip install "edgecmd\[audio\]".*convert the files to WAV'):
            read_sound(tmp_path / "a.flac")
