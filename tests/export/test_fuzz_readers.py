"""Damaged files of every format: the documented error and nothing else, on both sides.

Headers with other bytes, flipped bits, files cut off, parts doubled or gone; drawn from a seed. The fast part
is a tenth of the slow one. Nothing may be printed, and memory is bounded.
"""

import io
import resource
import sys
from collections import Counter

import numpy as np
import pytest
from PIL import Image
from user_files import chunk as part
from user_files import coded, damaged, form, noise, riff, samples, saved, wav

from edgecmd.core.errors import DataError, PrivacyError
from edgecmd.data.user_files.csv_tables import read_table
from edgecmd.data.user_files.decode import DecodeError, npy_array, npz_arrays
from edgecmd.data.user_files.device_pairs import read_device_pairs
from edgecmd.data.user_files.halves import read_source, read_target
from edgecmd.data.user_files.images import Sides, notes_on_frames
from edgecmd.data.user_files.mask_files import read_mask
from edgecmd.data.user_files.npz import read_archive
from edgecmd.data.user_files.sound_files import Clip
from edgecmd.datasets.on_disk.vggsound import _table
from edgecmd.settings import DataConfig
from export.device.reading import InferError
from export.device.sensors import SENSORS
from export.device.student import Prediction, Student, check, read_prototypes

SIDE = 24
SIDES = Sides(source=SIDE, target=SIDE, clip=Clip(sampling_rate_hz=8000, seconds=0.1))
CONFIG = DataConfig(image_size=16)
HEARD = {"rate_hz": 8000, "least_samples": 160}
MOST_GROWTH_BYTES = 900_000_000
PHOTO = Image.fromarray(noise((SIDE, SIDE, 3)))
MORE = [Image.fromarray(noise((SIDE, SIDE, 3), seed)) for seed in (1, 2)]
DEEP = Image.fromarray(np.random.default_rng(0).integers(1, 60000, (SIDE, SIDE)).astype(np.uint16))
SOUND = samples(1600)


def npy(array):
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def npz(*, packed=True, **arrays):
    buffer = io.BytesIO()
    (np.savez_compressed if packed else np.savez)(buffer, **arrays)
    return buffer.getvalue()


def flac():
    soundfile = pytest.importorskip("soundfile")
    buffer = io.BytesIO()
    soundfile.write(buffer, SOUND, 8000, format="FLAC", subtype="PCM_16")
    return buffer.getvalue()


def pairs(packed):
    texts = {"id": np.array(list("abcd")), "label": np.arange(4)}
    return npz(packed=packed, source=noise((4, SIDE, SIDE, 3)), target=noise((4, SIDE, SIDE)), **texts)


def prototypes():
    return npz(names=np.array(["a", "b"]), vectors=np.eye(2, 16, dtype=np.float32), scale=np.float64(10))


def golden():
    given = {"image": noise((1, 8, 8, 1)), "image/resized": noise((1, 9, 9, 1))}
    wanted = {f"embedding/fp32{one}": np.zeros((1, 4), np.float32) for one in ("", "/resized")}
    return npz(packed=False, **given, **wanted, **{"tolerance/fp32": np.float64(1e-3)})


class Zeros(Student):
    """A student that answers zeros; what is tested is how the files beside it are read."""

    def __init__(self, path):
        self.path, self.profile, self.outputs = path, "fp32", ["embedding"]
        self.sensor, self.embedding_dim = SENSORS["image"], 16

    def __call__(self, images, *, rate_hz=None):
        if images.dtype != np.uint8 or images.ndim != 4:
            raise InferError("no pictures", exit_code=4)
        return Prediction(np.zeros((len(images), 4), np.float32), None)


def source(path):
    read_source(path, side=SIDE, fit="squeeze")


def target(path):
    read_target(path, SIDES)
    notes_on_frames({"a": path})


def picture(path):
    SENSORS["image"].read(path, channels=1, preprocess={})


def depth(path):
    SENSORS["depth16"].read(path, channels=1, preprocess={})


def heard(path):
    SENSORS["wave"].read(path, channels=1, preprocess=HEARD)


def archive(path):
    problems: list[str] = []
    read_archive(path, CONFIG, sides=SIDES, problems=problems)
    if problems:
        raise DataError(problems[0])


def device(path):
    found = read_device_pairs(path, CONFIG, kind="grey")
    if not len(found):
        raise DataError("none")


def table(path):
    problems: list[str] = []
    read_table(path, required=("id", "label"), optional=("owner",), problems=problems)
    if problems:
        raise DataError(problems[0])


def array(path):
    try:
        npy_array(path, most_bytes=2**20)
    except DecodeError as error:  # whoever calls it adds the name
        raise DataError(str(error)) from error


def arrays(path):
    try:
        npz_arrays(path, most_bytes=2**20)
    except DecodeError as error:
        raise DataError(str(error)) from error


def compared(path):
    check(Zeros(path))


def prototype(path):
    read_prototypes(path, Zeros(path))


CSV = (
    "id,label,owner\r\n" + "".join(f'{row:03d},"c, {row % 3}",ö{row % 2}\r\n' for row in range(30))
).encode()
# Name of the file, its content, how many bytes are header, its readers.
FORMATS = {
    "PNG": ("a.png", lambda: saved(PHOTO, "PNG"), 60, (source, target, picture)),
    "APNG": ("a.png", lambda: saved(PHOTO, "PNG", save_all=True, append_images=MORE), 100, (target, picture)),
    "PNG of 16 bits": ("a.png", lambda: saved(DEEP, "PNG"), 60, (target, depth)),
    "PNG with text": (
        "a.png",
        lambda: saved(PHOTO.quantize(8), "PNG", transparency=b"\1\2", exif=b"Exif\0\0II*\0\10\0\0\0\0\0"),
        200,
        (source, picture),
    ),
    "JPEG": ("a.jpg", lambda: saved(PHOTO, "JPEG", quality=70), 600, (source, target, picture)),
    "JPEG in four inks": ("a.jpg", lambda: saved(PHOTO.convert("CMYK"), "JPEG"), 600, (source, picture)),
    "WebP": ("a.webp", lambda: saved(PHOTO, "WEBP"), 40, (source, target, picture)),
    "animated WebP": (
        "a.webp",
        lambda: saved(PHOTO, "WEBP", save_all=True, append_images=MORE),
        90,
        (target, picture),
    ),
    "GIF": ("a.gif", lambda: saved(PHOTO, "GIF", save_all=True, append_images=MORE), 40, (picture,)),
    "BMP": ("a.bmp", lambda: saved(PHOTO, "BMP"), 54, (picture,)),
    "TIFF": ("a.tif", lambda: saved(PHOTO, "TIFF"), 200, (picture, depth)),
    "packed TIFF": ("a.tif", lambda: saved(PHOTO, "TIFF", compression="tiff_lzw"), 200, (picture,)),
    "PNM": ("a.ppm", lambda: b"P6\n# a b\n24 24\n255\n" + noise((SIDE, SIDE, 3)).tobytes(), 20, (picture,)),
    "npy": ("a.npy", lambda: npy(noise((SIDE, SIDE))), 128, (picture, depth, array)),
    "WAV": ("a.wav", lambda: wav(SOUND), 48, (target, heard)),
    "extensible WAV": (
        "a.wav",
        lambda: riff(part(b"fmt ", form(0xFFFE, ext=1, bits=24)), part(b"data", coded(SOUND, 24))),
        72,
        (target, heard),
    ),
    "float WAV": ("a.wav", lambda: wav(samples(1600, 2), bits=32, is_float=True), 48, (target, heard)),
    "FLAC": ("a.flac", flac, 60, (target,)),
    "npz": ("a.npz", lambda: pairs(packed=True), 300, (archive, device)),
    "plain npz": ("a.npz", lambda: pairs(packed=False), 300, (archive, device)),
    "mask": (
        "a.png",
        lambda: saved(PHOTO.quantize(8), "PNG"),
        60,
        (lambda path: read_mask(path, side=SIDE, fit="squeeze"),),
    ),
    "CSV": ("a.csv", lambda: CSV, 40, (table,)),
    "vggsound.csv": ("a.csv", lambda: b"abc,1,a dog,train\nxyz,20,a cat,test\n" * 9, 40, (_table,)),
    "prototypes.npz": ("a.npz", prototypes, 300, (prototype, arrays)),
    "golden.npz": ("golden.npz", golden, 300, (compared,)),
}
ALLOWED = (DataError, InferError, PrivacyError)


def fuzz(name, folder, num):
    file, make, header, readers = FORMATS[name]
    path, good, counts = folder / file, make(), Counter()
    path.write_bytes(good)
    for reader in readers:
        if reader not in (depth, picture, arrays) or name not in ("npy", "TIFF"):
            reader(path)  # whole, it is read
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for content in damaged(good, num, header=header, seed=sum(map(ord, name))):
        path.write_bytes(content)
        for reader in readers:
            try:
                reader(path)
                counts["read"] += 1
            except ALLOWED:
                counts["refused"] += 1
    growth = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
    assert growth < MOST_GROWTH_BYTES
    return counts, growth


@pytest.mark.skipif(sys.platform != "linux", reason="memory is counted in other units elsewhere")
@pytest.mark.parametrize("name", FORMATS)
def test_a_damaged_file_gives_the_documented_error(tmp_path, capfd, name):
    counts, _ = fuzz(name, tmp_path, 200)
    assert counts["refused"] > 0
    assert capfd.readouterr() == ("", "")


@pytest.mark.slow
@pytest.mark.parametrize("name", FORMATS)
def test_two_thousand_damaged_files(tmp_path, capfd, name):
    counts, growth = fuzz(name, tmp_path, 2000)
    assert capfd.readouterr() == ("", "")
    with capfd.disabled():
        sys.stdout.write(
            f"\n{name}: {counts['read']} read, {counts['refused']} refused, +{growth / 1e6:.0f} MB\n"
        )
