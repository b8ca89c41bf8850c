"""A device's pairs of every kind, read one by one from folders and archives, with faults in single ones."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.io import wavfile

from edgecmd.core.errors import ConfigError, PrivacyError
from edgecmd.data.user_files.device_pairs import DevicePairs, read_device_pairs
from edgecmd.settings import DataConfig
from tests.device_files import SIDE, picture, write_pairs

RATE = 8000
CONFIG = DataConfig(name="folder", image_size=SIDE)
NOISE = np.random.default_rng(5)


def read(path: Path, kind: str, **settings: object) -> DevicePairs:
    return read_device_pairs(path, DataConfig(name="folder", image_size=SIDE, **settings), kind=kind)  # type: ignore[arg-type]


def sources(folder: Path, num: int) -> Path:
    for half in ("source", "target"):
        (folder / half).mkdir(parents=True)
    for row in range(num):
        picture(row, colour=True).save(folder / "source" / f"p{row}.png")
    return folder


def tone(num: int, *, loudness: float = 0.5) -> np.ndarray:
    return (loudness * 32767 * np.sin(np.arange(num) / 5)).astype(np.int16)


def test_depth_maps_and_one_that_holds_nothing(tmp_path: Path) -> None:
    folder = sources(tmp_path, 3)
    for row, value in enumerate((1500, 0, 2500)):
        Image.fromarray(np.full((SIDE, SIDE), value, np.uint16)).save(folder / "target" / f"p{row}.png")
    found = read(folder, "depth")
    assert (found.data.target.dtype, found.data.target.shape) == (np.uint16, (2, SIDE, SIDE, 1))
    assert [int(one.flat[0]) for one in found.data.target] == [1500, 2500]
    (why,) = found.skipped
    assert "p1.png" in why
    assert len(read(folder, "grey")) == 0


def test_recordings_and_one_that_is_silent(tmp_path: Path) -> None:
    folder = sources(tmp_path, 3)
    for row, samples in enumerate((tone(4000), np.zeros(4000, np.int16), tone(9000))):
        wavfile.write(folder / "target" / f"p{row}.wav", RATE, samples)
    found = read(folder, "wave")
    assert (found.data.target.dtype, found.data.target.shape) == (np.int16, (2, RATE))
    assert len(found.skipped) == 1
    # For a student of pictures the recordings are not there at all.
    assert len(read(folder, "grey")) == 0


@pytest.mark.parametrize("kind", ["grey", "rgb", "depth", "wave"])
def test_no_pair_has_the_shape_of_one_more(kind: str, tmp_path: Path) -> None:
    shapes = {
        "grey": (0, SIDE, SIDE, 1),
        "rgb": (0, SIDE, SIDE, 3),
        "depth": (0, SIDE, SIDE, 1),
        "wave": (0, RATE),
    }
    for folder in (tmp_path, sources(tmp_path / "empty", 0)):
        found = read(folder, kind)
        assert (found.data.target.shape, found.data.source.shape) == (shapes[kind], (0, SIDE, SIDE, 3))
        assert (found.digests, found.skipped) == ((), ())


def test_rows_of_an_archive_are_judged_one_by_one(tmp_path: Path) -> None:
    target = np.stack([tone(4000), np.zeros(4000, np.int16), tone(4000, loudness=0.2)])
    source = NOISE.integers(0, 256, (4, SIDE, SIDE, 3), dtype=np.uint8)
    np.savez(tmp_path / "a.npz", source=source, target=target, target_rate_hz=RATE, id=np.array(["x"] * 3))
    found = read(tmp_path / "a.npz", "wave")
    assert len(found) == 2
    assert [why.partition(":")[0] for why in found.skipped] == ["row 1", "row 3"]


def test_an_archive_without_channels_and_a_larger_one(tmp_path: Path) -> None:
    source = NOISE.integers(0, 256, (2, 2 * SIDE, 2 * SIDE, 1), dtype=np.uint8)
    target = NOISE.integers(0, 256, (2, 2 * SIDE, 2 * SIDE), dtype=np.uint8)
    np.savez(tmp_path / "a.npz", source=source, target=target)
    found = read(tmp_path / "a.npz", "grey")
    assert (found.data.source.shape, found.data.target.shape) == ((2, SIDE, SIDE, 3), (2, SIDE, SIDE, 1))
    # Two by two pixels are averaged.
    mean = target[0].reshape(SIDE, 2, SIDE, 2).mean(axis=(1, 3))
    assert np.abs(found.data.target[0, ..., 0] - mean).max() <= 0.5


def test_digests_follow_the_content_and_not_the_name(tmp_path: Path) -> None:
    one, two = (write_pairs(tmp_path / name, [3, 4]) for name in ("one", "two"))
    for half in ("source", "target"):
        (two / half / "p003.png").rename(two / half / "z.png")
    first, second = read(one, "grey"), read(two, "grey")
    assert set(first.digests) == set(second.digests)
    picture(77, colour=False).save(two / "target" / "z.png")
    assert len(set(first.digests) & set(read(two, "grey").digests)) == 1


def test_reversed_pairs_change_sides(tmp_path: Path) -> None:
    folder = write_pairs(tmp_path, range(3))
    plain, turned = read(folder, "grey"), read(folder, "grey", reverse=True)
    np.testing.assert_array_equal(turned.data.source, plain.data.target)
    np.testing.assert_array_equal(turned.data.target, plain.data.source)


@pytest.mark.parametrize("content", [b"", b"no archive", b"PK\x03\x04 cut off"])
def test_a_file_that_is_no_archive_is_the_owner_s_fault(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "a.npz").write_bytes(content)
    with pytest.raises(
        PrivacyError, match=r"is not an \.npz file with the arrays source and target"
    ) as raised:
        read(tmp_path / "a.npz", "grey")
    assert raised.value.code == "node-config"


def test_an_archive_of_objects_is_never_unpickled(tmp_path: Path) -> None:
    np.savez(
        tmp_path / "a.npz", source=np.array([print, 1], dtype=object), target=np.zeros((2, 16, 16), np.uint8)
    )
    with pytest.raises(PrivacyError, match="need pickle"):
        read(tmp_path / "a.npz", "grey")


def test_an_unknown_kind() -> None:
    with pytest.raises(ConfigError, match="data.target_kind='colour' is unknown"):
        read_device_pairs(Path(), CONFIG, kind="colour")


def test_rows_are_read_one_at_a_time(tmp_path: Path) -> None:
    """A zip bomb of rows costs the memory of the rows that are used: here none."""
    import tracemalloc

    source = np.zeros((3000, 2 * SIDE, 2 * SIDE, 3), np.uint8)
    np.savez_compressed(tmp_path / "a.npz", source=source, target=np.zeros((3000, 4, 4), np.float32))
    tracemalloc.start()
    found = read(tmp_path / "a.npz", "grey")
    assert tracemalloc.get_traced_memory()[1] < source.nbytes
    tracemalloc.stop()
    assert (len(found), len(found.skipped)) == (0, 3000)


@pytest.mark.parametrize("order", ["C", "F"])
def test_an_archive_gives_the_pairs_that_numpy_gives(tmp_path: Path, order: str) -> None:
    source = NOISE.integers(0, 256, (5, SIDE, SIDE, 3), dtype=np.uint8)
    target = NOISE.integers(0, 256, (5, SIDE, SIDE), dtype=np.uint8)
    np.savez(
        tmp_path / "a.npz", source=np.asarray(source, order=order), target=np.asarray(target, order=order)
    )
    found = read(tmp_path / "a.npz", "grey")
    np.testing.assert_array_equal(found.data.source, source)
    np.testing.assert_array_equal(found.data.target[..., 0], target)
