"""One file means the same to training and to a device: equal numbers, or both refuse."""

import io
import os
import struct
import sys
import tracemalloc
import zipfile

import numpy as np
import pytest
from PIL import Image
from user_files import chunk, coded, form, noise, png, riff, samples, saved, wav

from edgecmd.core.errors import DataError
from edgecmd.core.files import read_json, write_json
from edgecmd.data.user_files.halves import read_source, read_target
from edgecmd.data.user_files.images import Ruler, Sides, notes_on_frames
from edgecmd.data.user_files.npz import read_archive
from edgecmd.data.user_files.sound_files import Clip, make_recording, read_recording, read_sound
from edgecmd.settings import DataConfig
from export.device.reading import InferError
from export.device.sensors import SENSORS
from tests.user_files import check_folder

SIDE = 24
PICTURE, DEPTH, WAVE = SENSORS["image"], SENSORS["depth16"], SENSORS["wave"]
HEARD = {"rate_hz": 8000, "least_samples": 160}
MONO, STEREO = samples(), samples(channels=2)
LIST = chunk(b"LIST", b"INFOa")


def _extensible(bits, ext=1, channels=1, shares=MONO, **kinds):
    return riff(
        chunk(b"fmt ", form(0xFFFE, bits=bits, ext=ext, channels=channels)),
        chunk(b"data", coded(shares, bits, **kinds)),
    )


def _plain(*, size=None, whole=None, before=(), after=(), shares=MONO):
    return riff(
        *before,
        chunk(b"fmt ", form(channels=shares.shape[1])),
        chunk(b"data", coded(shares, 16), size=size),
        *after,
        size=whole,
    )


READ = {
    "8 bits": (wav(MONO, bits=8), MONO),
    "16 bits": (wav(MONO), MONO),
    "24 bits": (wav(MONO, bits=24), MONO),
    "32 bits": (wav(MONO, bits=32), MONO),
    "float32": (wav(MONO, bits=32, is_float=True), MONO),
    "float64": (wav(MONO, bits=64, is_float=True), MONO),
    "extensible 16": (_extensible(16), MONO),
    "extensible 24": (_extensible(24), MONO),
    "extensible float": (_extensible(32, 3, is_float=True), MONO),
    "stereo": (wav(STEREO), STEREO),
    "eight channels": (wav(samples(channels=8)), samples(channels=8)),
    "forty channels": (wav(samples(channels=40)), samples(channels=40)),
    "streamed, ffmpeg": (_plain(size=0xFFFFFFFF, whole=0xFFFFFFFF), MONO),
    "streamed, zeros": (_plain(size=0, whole=0), MONO),
    "streamed, sox": (_plain(size=0x7FFFF000, whole=0x7FFFF024), MONO),
    "list before": (_plain(before=[LIST]), MONO),
    "list behind": (_plain(after=[LIST, chunk(b"id3 ", b"abc")]), MONO),
    "zeros behind": (_plain() + bytes(64), MONO),
    "odd bytes": (riff(chunk(b"fmt ", form(bits=8)), chunk(b"data", coded(MONO[:799], 8)), LIST), MONO[:799]),
    "RIFX": (
        riff(
            chunk(b"fmt ", form(order=">"), order=">"),
            chunk(b"data", coded(MONO, 16, order=">"), order=">"),
            kind=b"RIFX",
            order=">",
        ),
        MONO,
    ),
    "RF64": (
        riff(
            chunk(b"ds64", struct.pack("<QQQI", 0, 1600, 800, 0)),
            chunk(b"fmt ", form()),
            chunk(b"data", coded(MONO, 16), size=0xFFFFFFFF),
            LIST,
            kind=b"RF64",
            size=0xFFFFFFFF,
        ),
        MONO,
    ),
}
REFUSED = {
    "opposite phase": (wav(np.concatenate([MONO, -MONO], 1)), "opposite phase"),
    "silence": (wav(MONO * 0), "silent"),
    "not finite": (wav(MONO * np.nan, bits=32, is_float=True), "not finite"),
    "not divided": (wav(MONO * 1e30, bits=32, is_float=True), "times full scale"),
    "beyond float32": (wav(MONO.astype(np.float64) * 1e300, bits=64, is_float=True), "not finite"),
    "no channels": (riff(chunk(b"fmt ", form(channels=0)), chunk(b"data", coded(MONO, 16))), "channels=0"),
    "no bits": (riff(chunk(b"fmt ", form(bits=0)), chunk(b"data", coded(MONO, 16))), "bits of a sample=0"),
    "A-law": (riff(chunk(b"fmt ", form(6, bits=8)), chunk(b"data", coded(MONO, 8))), "coded as 6"),
    "half float": (riff(chunk(b"fmt ", form(3)), chunk(b"data", coded(MONO, 16))), "bits of a sample=16"),
    "size too long": (_plain(size=1700), "should have 1700 bytes"),
    "size too short": (_plain(size=100), "no part of a WAV file|should have"),
    "cut off": (_plain()[:-1], "should have 1600 bytes, 1599"),
    "two formats of bytes": (
        riff(chunk(b"data", coded(MONO, 16)), chunk(b"fmt ", form())),
        "before their format",
    ),
    "no samples": (riff(chunk(b"fmt ", form())), "no samples"),
    "empty": (b"", "does not begin"),
    "RF64 without sizes": (b"RF64\xff\xff\xff\xffWAVEds64\0\0\0\0", "no samples"),
}


@pytest.mark.parametrize("name", READ)
def test_a_wav_gives_the_same_samples_on_both_sides(tmp_path, name):
    content, shares = READ[name]
    path = tmp_path / "a.wav"
    path.write_bytes(content)
    found, rate_hz = read_sound(path)
    assert rate_hz == 8000
    np.testing.assert_array_equal(found, shares)
    heard = WAVE.read(path, channels=1, preprocess=HEARD).values
    np.testing.assert_array_equal(heard, shares.mean(axis=1, dtype=np.float32))
    clip = Clip(sampling_rate_hz=8000, seconds=0.1)
    again = make_recording(heard[:, None], 8000, clip=clip, name="heard")
    np.testing.assert_array_equal(read_recording(path, clip).samples, again.samples)


@pytest.mark.parametrize("name", REFUSED)
def test_a_wav_that_is_refused_is_refused_on_both_sides(tmp_path, name):
    content, text = REFUSED[name]
    path = tmp_path / "a.wav"
    path.write_bytes(content)
    with pytest.raises(DataError, match=rf"a\.wav.*({text})"):
        read_recording(path, Clip(sampling_rate_hz=8000, seconds=0.1))
    with pytest.raises(InferError, match=rf"a\.wav.*({text})") as caught:
        WAVE.read(path, channels=1, preprocess=HEARD)
    assert caught.value.exit_code == 4


def _pictures():
    colour, grey = Image.fromarray(noise((SIDE, 32, 3))), Image.fromarray(noise((SIDE, 32)))
    turned = Image.Exif()
    turned[0x0112] = 6
    frames = [Image.fromarray(noise((SIDE, 32, 3), seed)) for seed in (1, 2)]
    alpha = Image.fromarray(noise((SIDE, 32, 4)))
    return {
        "rgb.png": saved(colour, "PNG"),
        "grey.png": saved(grey, "PNG"),
        "one bit.png": saved(grey.convert("1"), "PNG"),
        "two bits.png": png(32, SIDE, b"".join(b"\0" + bytes(8) for _ in range(SIDE)), bits=2, colour=0),
        "alpha.png": saved(alpha, "PNG"),
        "grey alpha.png": saved(alpha.convert("LA"), "PNG"),
        "palette.png": saved(colour.quantize(16), "PNG"),
        "clear palette.png": saved(colour.quantize(16), "PNG", transparency=3),
        "palette of alphas.png": saved(colour.quantize(4), "PNG", transparency=bytes([0, 80, 160, 255])),
        "profile.png": saved(colour, "PNG", icc_profile=b"not a profile at all"),
        "animated.png": saved(colour, "PNG", save_all=True, append_images=frames),
        "photo.jpg": saved(colour, "JPEG"),
        "grey.jpg": saved(grey, "JPEG"),
        "cmyk.jpg": saved(colour.convert("CMYK"), "JPEG"),
        "turned.jpg": saved(colour, "JPEG", exif=turned),
        "turned.png": saved(colour, "PNG", exif=turned),
        "loss.webp": saved(colour, "WEBP"),
        "exact.webp": saved(alpha, "WEBP", lossless=True),
        "animated.webp": saved(colour, "WEBP", save_all=True, append_images=frames, lossless=True),
        "a gif in truth.png": saved(colour, "GIF", save_all=True, append_images=frames),
        "a jpeg in truth.png": saved(colour, "JPEG"),
    }


PICTURES = _pictures()


@pytest.mark.parametrize("name", PICTURES)
def test_a_picture_gives_the_same_pixels_on_both_sides(tmp_path, name):
    path = tmp_path / name
    path.write_bytes(PICTURES[name])
    image = PICTURE.read(path, channels=3, preprocess={}).values
    sides = (image.shape[1], image.shape[0])
    side = min(sides)
    # Squeezing is the graph's work: it is left out where the side is the picture's own.
    source, size = read_source(path, side=1, fit="squeeze")
    assert size == sides
    square = Image.fromarray(image).resize((1, 1), Image.Resampling.BOX)
    assert np.abs(source.astype(int) - np.asarray(square).astype(int)).max() <= 1
    target, _ = read_target(path, Sides(source=side, target=side))
    whole = image if target.ndim == 3 else PICTURE.read(path, channels=1, preprocess={}).values[..., 0]
    flat = Image.fromarray(whole)
    expected = flat if flat.size == (side, side) else flat.resize((side, side), Image.Resampling.BILINEAR)
    np.testing.assert_array_equal(target, np.asarray(expected))


def test_the_first_frame_is_used_and_a_note_says_so(tmp_path):
    for name, content in PICTURES.items():
        (tmp_path / name).write_bytes(content)
    moving = ["animated.png", "animated.webp", "a gif in truth.png"]
    first = PICTURE.read(tmp_path / "animated.png", channels=3, preprocess={}).values
    np.testing.assert_array_equal(first, noise((SIDE, 32, 3)))
    (note,) = notes_on_frames({name: tmp_path / name for name in PICTURES})
    assert note.startswith(f"3 ({', '.join(sorted(moving))}) of {len(PICTURES)} files have several frames")


def _deep(colour, channels):
    row = b"\0" + noise((2 * 32 * channels,)).tobytes()
    return png(32, SIDE, row * SIDE, bits=16, colour=colour)


BAD = {
    "48 bits.png": (_deep(2, 3), "16 bits in each"),
    "64 bits.png": (_deep(6, 4), "16 bits in each"),
    "32 bits.png": (_deep(4, 2), "16 bits in each"),
    "16 bits.png": (_deep(0, 1), "depth map"),
    "bomb.png": (saved(Image.new("1", (9000, 9000)), "PNG"), "81000000|9000 x 9000 pixels"),
    "bmp in truth.png": (saved(Image.new("L", (32, SIDE)), "BMP"), "cannot"),
    "float in truth.png": (saved(Image.new("F", (32, SIDE)), "TIFF"), "cannot"),
    "empty.png": (b"", "cannot"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_picture_that_is_refused_is_refused_on_both_sides(tmp_path, name):
    content, text = BAD[name]
    path = tmp_path / name
    path.write_bytes(content)
    tracemalloc.start()
    with pytest.raises(DataError, match=text):
        read_source(path, side=SIDE, fit="squeeze")
    with pytest.raises(InferError, match=text) as caught:
        PICTURE.read(path, channels=3, preprocess={})
    assert tracemalloc.get_traced_memory()[1] < 2**24
    tracemalloc.stop()
    assert caught.value.exit_code == 4


def test_other_endings_of_a_device_are_not_cut_to_8_bits_either(tmp_path):
    header = struct.pack("<2sHIH", b"II", 42, 8, 9)
    tags = [
        (256, 3, 1, 4),
        (257, 3, 1, 4),
        (258, 3, 3, 122),
        (259, 3, 1, 1),
        (262, 3, 1, 2),
        (273, 4, 1, 128),
        (277, 3, 1, 3),
        (278, 3, 1, 4),
        (279, 4, 1, 96),
    ]
    body = b"".join(struct.pack("<HHII", *one) for one in tags) + struct.pack("<I", 0)
    path = tmp_path / "deep.tif"
    path.write_bytes(header + body + struct.pack("<3H", 16, 16, 16) + noise((96,)).tobytes())
    with pytest.raises(InferError, match="16 bits in each"):
        PICTURE.read(path, channels=3, preprocess={})


def test_depth_is_the_same_on_both_sides(tmp_path):
    units = np.random.default_rng(0).integers(1, 60000, (SIDE, SIDE)).astype(np.uint16)
    path = tmp_path / "depth.png"
    Image.fromarray(units).save(path)
    sides = Sides(source=SIDE, target=SIDE, ruler=Ruler())
    np.testing.assert_array_equal(
        read_target(path, sides)[0], DEPTH.read(path, channels=1, preprocess={}).values
    )
    np.testing.assert_array_equal(read_target(path, sides)[0][..., 0], units)
    Image.fromarray(units * 0).save(path)
    with pytest.raises(DataError, match="no measurement"):
        read_target(path, sides)
    with pytest.raises(InferError, match="no measurement"):
        DEPTH.read(path, channels=1, preprocess={})


def _npy(shape, *, kind="|u1", body=b"", order="False"):
    text = f"{{'descr': '{kind}', 'fortran_order': {order}, 'shape': {shape}, }}".encode()
    text += b" " * (117 - len(text)) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text + body


def _npz(path, **members):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            if isinstance(content, np.ndarray):
                buffer = io.BytesIO()
                np.save(buffer, content)
                content = buffer.getvalue()
            archive.writestr(f"{name}.npy", content)
    return path


SOURCE, TARGET = noise((4, SIDE, SIDE, 3)), noise((4, SIDE, SIDE))


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (_npy("(1000000000000, 64, 64, 3)", body=bytes(1000)), "claims the shape"),
        (_npy("(-5, 64, 64, 3)", body=bytes(1000)), "claims the shape"),
        (_npy("(1000000000000, 0)"), "claims the shape"),
        (_npy("(True, 3)", body=bytes(3)), "claims the shape"),
        (_npy("(4,)", kind="|O8", body=bytes(32)), "need pickle"),
        (_npy("(4, (", body=bytes(4)), "source"),
        (b"\x93NUMPY\x02\x00" + struct.pack("<I", 2**31) + b"{}", "its header has"),
        (b"\x93NUMPY\x01\x00\x10\x00" + b"(" * 16, "source"),
        (b"", "does not begin"),
    ],
)
def test_an_array_that_lies_is_refused_before_memory_is_taken(tmp_path, content, text):
    path = _npz(tmp_path / "set.npz", source=content, target=TARGET)
    problems: list[str] = []
    tracemalloc.start()
    assert read_archive(path, DataConfig(), sides=Sides(source=SIDE, target=SIDE), problems=problems) is None
    assert tracemalloc.get_traced_memory()[1] < 2**23
    tracemalloc.stop()
    assert text in problems[0]
    (tmp_path / "a.npy").write_bytes(content)
    with pytest.raises(InferError, match=r"a\.npy"):
        PICTURE.read(tmp_path / "a.npy", channels=1, preprocess={})


def test_a_bomb_of_an_archive_is_refused_by_a_limit(tmp_path, monkeypatch):
    path = _npz(tmp_path / "set.npz", source=np.zeros((200, 64, 64, 3), np.uint8), target=TARGET)
    monkeypatch.setattr("edgecmd.data.user_files.npz.most_array_bytes", lambda: 1_000_000)
    problems: list[str] = []
    assert read_archive(path, DataConfig(), sides=Sides(source=SIDE, target=SIDE), problems=problems) is None
    assert "unpacked; allowed are 0.001" in problems[0]


def test_a_single_value_in_place_of_rows_is_named(tmp_path):
    problems: list[str] = []
    path = _npz(tmp_path / "set.npz", source=SOURCE, target=TARGET, id=np.array("x"))
    assert read_archive(path, DataConfig(), sides=Sides(source=SIDE, target=SIDE), problems=problems) is None
    assert "has id of dtype=<U1 and shape=(); allowed is text or integers of shape (num,)" in problems[0]


@pytest.mark.parametrize("order", ["C", "F"])
def test_arrays_are_read_as_numpy_reads_them(tmp_path, order):
    path = _npz(tmp_path / "set.npz", source=np.asarray(SOURCE, order=order), target=TARGET)
    own = read_archive(path, DataConfig(), sides=Sides(source=SIDE, target=SIDE), problems=[])
    np.testing.assert_array_equal(own.data.source, SOURCE)
    np.testing.assert_array_equal(own.data.target[..., 0], TARGET)
    assert own.data.source.flags.writeable


@pytest.mark.skipif(sys.platform != "linux", reason="other systems allow no such name")
def test_a_name_that_is_no_text_is_named_as_its_escape(tmp_path):
    for half, shape in (("source", (SIDE, SIDE, 3)), ("target", (SIDE, SIDE))):
        (tmp_path / half).mkdir()
        for row in range(30):
            name = b"\xff\xfe" if row == 0 else str(row).encode()
            content = saved(Image.fromarray(noise(shape, row)), "PNG")
            (tmp_path / half / os.fsdecode(name + b".png")).write_bytes(content)
    problems = check_folder(tmp_path, image_size=16)
    for half, problem in zip(("source", "target"), problems, strict=True):
        assert f"{half} has 1 entry that has a name that is not UTF-8: \\udcff\\udcfe.png" in problem
    write_json(tmp_path / "a.json", {"id": os.fsdecode(b"\xff")})
    assert read_json(tmp_path / "a.json") == {"id": "\udcff"}
