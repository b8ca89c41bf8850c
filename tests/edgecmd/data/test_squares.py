"""Pictures that are not square, and large JPEG files: read alike into memory, stores and devices."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from edgecmd.core.errors import ConfigError, DataError
from edgecmd.data.experiment import load_experiment
from edgecmd.data.user_files.device_pairs import read_device_pairs
from edgecmd.data.user_files.downsample import majority, median_of_measured, shown
from edgecmd.data.user_files.halves import read_source
from edgecmd.data.user_files.images import read_image
from edgecmd.data.user_files.mask_files import read_mask
from edgecmd.library.data import Images, Pairs
from edgecmd.library.task import Task
from edgecmd.settings import FITS, DataConfig
from tests.user_files import read_pairs

SIDE, NUM = 16, 24
# Of a picture of 32 columns and 48 rows: blocks of 2 x 2 and 3 x 3 pixels, so that means are exact.
WIDE, TALL = 32, 48


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGECMD_CACHE", str(tmp_path / "cache"))


def levels(row: int, *, channels: int = 1) -> np.ndarray:
    """Even blocks of 2 x 2 pixels, 24 x 16 of them."""
    noise = np.random.default_rng(row).integers(0, 120, (TALL // 2, WIDE // 2, channels), dtype=np.uint8)
    return (2 * noise).repeat(2, axis=0).repeat(2, axis=1)


def write_folder(path: Path, *, depth: bool = False) -> Path:
    for half in ("source", "target", "public"):
        (path / half).mkdir(parents=True)
    for row in range(NUM):
        Image.fromarray(levels(row, channels=3)).save(path / "source" / f"{row:02}.png")
        target = levels(100 + row)[..., 0]
        target = target.astype(np.uint16) * 10 + 500 if depth else target
        Image.fromarray(target).save(path / "target" / f"{row:02}.png")
        Image.fromarray(levels(200 + row, channels=3)).save(path / "public" / f"{row:02}.png")
    return path


def cropped(picture: np.ndarray) -> np.ndarray:
    """Rows 8 to 39 of 48, each block of 2 x 2 pixels as one."""
    return picture[8:40:2, ::2]


def config(path: Path, **changes: object) -> DataConfig:
    made = DataConfig(name="folder", path=str(path), image_size=SIDE, strict=False)
    return replace(made, **changes)  # type: ignore[arg-type]


def test_a_crop_keeps_the_middle_square_of_both_halves(tmp_path: Path) -> None:
    data = read_pairs(write_folder(tmp_path / "pairs"), config(tmp_path / "pairs", fit="crop"))
    for row in range(NUM):
        np.testing.assert_array_equal(data.source[row], cropped(levels(row, channels=3)))
        np.testing.assert_array_equal(data.target[row], cropped(levels(100 + row)))


def test_padding_keeps_all_between_white_borders(tmp_path: Path) -> None:
    data = read_pairs(write_folder(tmp_path / "pairs"), config(tmp_path / "pairs", fit="pad"))
    # 32 of 48 columns are 10 2/3 of 16: 11, with 2 white ones on the left and 3 on the right.
    for half in (data.source, data.target):
        assert np.all(np.asarray(half)[:, :, :2] == 255)
        assert np.all(np.asarray(half)[:, :, 13:] == 255)
        assert np.asarray(half)[:, :, 2:13].max() < 255
    wanted = Image.fromarray(levels(3, channels=3)).resize((11, 16), Image.Resampling.BILINEAR)
    np.testing.assert_array_equal(data.source[3][:, 2:13], np.asarray(wanted))


@pytest.mark.parametrize("fit", FITS)
@pytest.mark.parametrize("depth", [False, True])
def test_memory_store_archive_and_device_read_the_same(fit: str, depth: bool, tmp_path: Path) -> None:
    path = write_folder(tmp_path / "pairs", depth=depth)
    wanted = read_pairs(path, config(path, fit=fit, store="never"))
    stored = read_pairs(path, config(path, fit=fit, store="always"))
    device = read_device_pairs(path, config(path, fit=fit), kind="depth" if depth else "grey").data
    arrays = {
        half: np.stack([np.asarray(Image.open(one)) for one in sorted((path / half).iterdir())])
        for half in ("source", "target")
    }
    archive = tmp_path / "pairs.npz"
    np.savez(archive, **arrays)
    for store in ("never", "always"):
        other = read_pairs(archive, config(archive, fit=fit, store=store))
        np.testing.assert_array_equal(np.asarray(other.source), wanted.source)
        np.testing.assert_array_equal(np.asarray(other.target), wanted.target)
    for found in (
        stored,
        device,
        read_device_pairs(archive, config(archive, fit=fit), kind="depth" if depth else "grey").data,
    ):
        np.testing.assert_array_equal(np.asarray(found.source), wanted.source)
        np.testing.assert_array_equal(np.asarray(found.target), wanted.target)


def test_public_pictures_have_the_fit_of_the_pairs(tmp_path: Path) -> None:
    path = write_folder(tmp_path / "pairs")
    for fit in ("crop", "pad"):
        images = np.asarray(load_experiment(config(path, fit=fit)).public.images)
        (same,) = {len(images), NUM}
        assert same == NUM
        expected, _ = read_source(path / "public" / "05.png", side=SIDE, fit=fit)
        np.testing.assert_array_equal(images[5], expected)


def test_stores_of_two_fits_are_two(tmp_path: Path) -> None:
    path = write_folder(tmp_path / "pairs")
    found = {fit: load_experiment(config(path, fit=fit, store="always")).train.fingerprint() for fit in FITS}
    assert len(set(found.values())) == len(FITS)
    again = {fit: load_experiment(config(path, fit=fit, store="always")).train.fingerprint() for fit in FITS}
    assert again == found


def test_depth_has_a_border_without_a_measurement_and_a_mask_an_ignored_one() -> None:
    depth = np.full((4, 8), 7, np.uint16)
    padded = np.zeros((8, 8), np.uint16)
    padded[2:6] = 7
    assert median_of_measured(depth, side=8, fit="pad").tolist() == padded.tolist()
    assert median_of_measured(depth, side=4, fit="pad").tolist() == [[0] * 4, [7] * 4, [7] * 4, [0] * 4]
    mask = np.array([[0, 0, 1, 1, 1, 2], [0, 0, 1, 1, 2, 2]], np.uint8)
    assert majority(mask, side=2, fit="crop", ignored=255).tolist() == [[1, 1], [1, 1]]
    assert majority(mask, side=3, fit="pad", ignored=255).tolist() == [[255] * 3, [0, 1, 2], [255] * 3]
    assert majority(mask, side=1, fit="squeeze", ignored=255).tolist() == [[1]]


def test_masks_lie_on_their_targets(tmp_path: Path) -> None:
    values = np.random.default_rng(0).integers(0, 3, (TALL // 2, WIDE // 2), dtype=np.uint8)
    values = values.repeat(2, axis=0).repeat(2, axis=1)
    Image.fromarray(values).save(tmp_path / "mask.png")
    found = read_mask(tmp_path / "mask.png", side=SIDE, fit="crop")
    np.testing.assert_array_equal(found, cropped(values))
    padded = read_mask(tmp_path / "mask.png", side=TALL, fit="pad")
    np.testing.assert_array_equal(padded[:, 8:40], values)
    assert np.all(padded[:, :8] == 255)
    assert np.all(padded[:, 40:] == 255)


@given(st.integers(1, 5000), st.integers(1, 5000), st.sampled_from(range(16, 513, 16)))
def test_padding_shows_the_aspect_to_half_a_pixel(width: int, height: int, side: int) -> None:
    across, down = shown((width, height), side=side, fit="pad")
    assert max(across, down) == side
    for found, size in ((across, width), (down, height)):
        assert found == 1 or abs(found - side * size / max(width, height)) <= 0.5
    assert shown((height, width), side=side, fit="pad") == (down, across)


def test_what_is_too_small_depends_on_the_fit(tmp_path: Path) -> None:
    Image.fromarray(np.zeros((20, 10, 3), np.uint8)).save(tmp_path / "a.png")
    for fit in ("squeeze", "crop"):
        with pytest.raises(
            DataError, match="10x20 pixels; data.image_size=16 needs 16 at least on either side"
        ):
            read_source(tmp_path / "a.png", side=16, fit=fit)
    assert read_source(tmp_path / "a.png", side=16, fit="pad")[0].shape == (16, 16, 3)
    with pytest.raises(
        DataError, match="10x20 pixels; data.image_size=32 needs 32 at least on the longer side"
    ):
        read_source(tmp_path / "a.png", side=32, fit="pad")


def test_an_unknown_fit_is_refused() -> None:
    with pytest.raises(ConfigError, match="data.fit='stretch' is unknown. Allowed: squeeze, crop, pad."):
        DataConfig(fit="stretch")
    pictures = np.zeros((2, 16, 16, 3), np.uint8)
    with pytest.raises(ConfigError, match="data.fit='stretch' is unknown"):
        Pairs(source=pictures, target=pictures, fit="stretch")


def test_a_task_of_objects_knows_the_fit_and_reads_public_pictures_with_it(tmp_path: Path) -> None:
    path = write_folder(tmp_path / "pairs")
    pairs = Pairs.from_folder(path, size=SIDE, fit="crop")
    assert pairs.fit == "crop"
    task = Task(pairs=pairs, teacher="icons", public=Images.from_folder(path / "public"))
    assert task.fit == "crop"
    expected, _ = read_source(path / "public" / "07.png", side=SIDE, fit="crop")
    np.testing.assert_array_equal(task.data.public.images[7], expected)
    own = Images.from_folder(path / "public", size=SIDE, fit="pad")
    assert np.all(own.images[:, :, 0] == 255)


def photograph(width: int, height: int, *, seed: int = 0) -> Image.Image:
    """Soft colours with edges."""
    noise = np.random.default_rng(seed).integers(0, 256, (3, 4, 3), dtype=np.uint8)
    soft = Image.fromarray(noise).resize((width, height), Image.Resampling.BICUBIC)
    soft.paste((200, 30, 60), (width // 3, height // 4, width // 2, height // 2))
    return soft


@pytest.mark.parametrize(
    ("size", "part"),
    [
        ((64, 64), 2),
        ((126, 70), 2),
        ((128, 128), 4),
        ((300, 260), 4),
        ((256, 256), 8),
        # Too small; an odd side; five blocks a side, which are no whole number of larger pixels.
        ((62, 64), 1),
        ((65, 64), 1),
        ((80, 80), 1),
    ],
)
def test_a_jpeg_is_decoded_at_a_part_of_its_sides_that_leaves_twice_the_side(
    size: tuple[int, int], part: int, tmp_path: Path
) -> None:
    path = tmp_path / "a.jpg"
    photograph(*size).save(path, quality=90)
    opened = Image.open(path)
    opened.draft(None, (size[0] // part, size[1] // part))
    expected = np.asarray(opened)
    assert expected.shape[:2] == (size[1] // part, size[0] // part)
    np.testing.assert_array_equal(np.asarray(read_image(path, least=SIDE)), expected)
    assert np.asarray(read_image(path)).shape[:2] == size[::-1]
    found, own = read_source(path, side=SIDE, fit="squeeze")
    assert own == size
    whole = Image.open(path)
    blocks = (size[0] // SIDE, size[1] // SIDE)
    is_even = size == (blocks[0] * SIDE, blocks[1] * SIDE)
    by_hand = whole.reduce(blocks) if is_even else whole.resize((SIDE, SIDE), Image.Resampling.BILINEAR)
    difference = np.abs(found.astype(int) - np.asarray(by_hand))
    assert difference.max() == 0 if part == 1 else difference.mean() < 1.5


def test_a_large_jpeg_that_is_turned_is_the_turned_picture(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    photograph(128, 96).save(tmp_path / "turned.jpg", quality=90, exif=exif)
    photograph(128, 96).save(tmp_path / "plain.jpg", quality=90)
    turned, size = read_source(tmp_path / "turned.jpg", side=SIDE, fit="squeeze")
    plain, _ = read_source(tmp_path / "plain.jpg", side=SIDE, fit="squeeze")
    assert size == (96, 128)
    assert np.abs(turned.astype(int) - np.rot90(plain, -1)).max() <= 1


def test_other_files_are_decoded_whole(tmp_path: Path) -> None:
    picture = photograph(256, 256)
    for name in ("a.png", "a.webp"):
        picture.save(tmp_path / name, lossless=True)
        np.testing.assert_array_equal(
            np.asarray(read_image(tmp_path / name, least=SIDE)), np.asarray(picture)
        )


def test_a_message_tells_the_size_of_the_file_and_not_that_of_its_decoding(tmp_path: Path) -> None:
    path = write_folder(tmp_path / "pairs")
    (path / "source" / "03.png").unlink()
    photograph(256, 256).save(path / "source" / "03.jpg")
    with pytest.raises(DataError, match="the source has 256x256 pixels, the target 32x48"):
        read_pairs(path, config(path))


def test_large_photographs_are_the_same_in_memory_and_in_a_store(tmp_path: Path) -> None:
    path = tmp_path / "pairs"
    for half in ("source", "target"):
        (path / half).mkdir(parents=True)
        for row in range(NUM):
            picture = photograph(96, 128, seed=row)
            (picture if half == "source" else picture.convert("L")).save(path / half / f"{row:02}.jpg")
    wanted = read_pairs(path, config(path, store="never"))
    for threads in (1, 3):
        found = read_pairs(path, config(path, store="always", num_threads=threads))
        np.testing.assert_array_equal(np.asarray(found.source), wanted.source)
        np.testing.assert_array_equal(np.asarray(found.target), wanted.target)
