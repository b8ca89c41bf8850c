"""Masks of a user's targets: numbers by index, names, averaging down, and what is refused."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edgecmd.data.labelled import IGNORED
from edgecmd.data.user_files.folder import load_folder
from edgecmd.data.user_files.mask_files import read_mask
from edgecmd.settings import DataConfig
from tests.edgecmd.data.test_depth_folder import NUM, SIDE, fill
from tests.user_files import check_folder

SIZE = (48, 32)


def mask(seed: int) -> np.ndarray:
    """Classes 0 and 2 in halves, and an ignored stripe."""
    classes = np.zeros(SIZE[::-1], dtype=np.uint8)
    classes[:, SIZE[0] // 2 :] = 2
    classes[: 2 * (1 + seed % 3)] = IGNORED
    return classes


def palette(classes: np.ndarray) -> Image.Image:
    """A palette PNG whose colours have nothing to do with the numbers."""
    image = Image.frombytes("P", (classes.shape[1], classes.shape[0]), classes.tobytes())
    image.putpalette([value for one in range(256) for value in (255 - one, one, 7)])
    return image


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = fill(tmp_path / "mine", size=SIZE)
    (path / "target_mask").mkdir()
    for index in range(NUM):
        image = palette(mask(index)) if index % 2 else Image.fromarray(mask(index))
        image.save(path / "target_mask" / f"p{index:02d}.png")
    (path / "masks.csv").write_text("id,name\n0,floor\n1,wall\n2,bed\n")
    return path


def config(path: Path) -> DataConfig:
    return DataConfig(name="folder", path=str(path), image_size=SIDE)


def problems(path: Path) -> str:
    return "\n".join(check_folder(path, config(path)))


def test_masks_reach_validation_and_test(folder: Path) -> None:
    whole = load_folder(config(folder))
    for held in (whole.validation, whole.test, whole.test_strict):
        masks = held.labelled.masks
        assert masks is not None
        assert masks.names == ("floor", "wall", "bed")
        for row, name in enumerate(held.ids):
            stripe = 1 + int(name[1:]) % 3
            expected = np.zeros((SIDE, SIDE), dtype=np.uint8)
            expected[:, SIDE // 2 :] = 2
            expected[:stripe] = IGNORED
            assert np.array_equal(masks.values[row], expected)


def test_a_training_pair_adds_no_class(folder: Path) -> None:
    """The exported head has a row for each class, so a class that one training pair shows must make none."""
    (folder / "masks.csv").unlink()
    train = load_folder(config(folder)).train_ids[0]
    strange = mask(0)
    strange[strange == 2] = 9
    Image.fromarray(strange).save(folder / "target_mask" / f"{train}.png")
    whole = load_folder(config(folder))
    for held in (whole.validation, whole.test):
        assert held.labelled.masks is not None
        assert held.labelled.masks.names == ("class 0", "class 1", "class 2")
    # Names of a table are the owner's choice and stay, whoever shows them.
    (folder / "masks.csv").write_text("id,name\n0,floor\n2,bed\n9,lamp\n")
    masks = load_folder(config(folder)).test.labelled.masks
    assert masks is not None
    assert masks.names[9] == "lamp"


def test_a_pair_may_have_no_mask_and_classes_no_names(folder: Path) -> None:
    (folder / "masks.csv").unlink()
    held = load_folder(config(folder)).test
    (folder / "target_mask" / f"{held.ids[0]}.png").unlink()
    masks = load_folder(config(folder)).test.labelled.masks
    assert masks is not None
    assert masks.names == ("class 0", "class 1", "class 2")
    assert (masks.values[0] == IGNORED).all()
    assert not (masks.values[1] == IGNORED).all()


def test_everything_wrong_is_named_at_once(folder: Path) -> None:
    (folder / "masks.csv").write_text("id,name\n0,floor\n")
    masks = folder / "target_mask"
    Image.fromarray(mask(0)).convert("RGB").save(masks / "p00.png")
    Image.fromarray(mask(0)[:8, :8]).save(masks / "p01.png")
    Image.fromarray(mask(0)[:, :32]).save(masks / "p02.png")
    (masks / "p03.png").write_bytes(b"\x89PNG no picture")
    Image.fromarray(mask(0)).save(masks / "p04.png", format="JPEG")
    Image.fromarray(mask(0)).save(masks / "other.png")
    Image.fromarray(mask(0)).save(masks / "p05.jpg")
    told = problems(folder)
    for text in (
        "p00.png is not a mask (mode RGB)",
        "p01.png has 8x8 pixels",
        "p02.png: the source has 48x32 pixels, the target 32x32",
        "p03.png cannot be decoded",
        "p04.png is not a mask (mode L)",
        "masks without a pair: 1 (other)",
        "files of another kind: 1 .jpg (p05.jpg)",
        "has class 2, which",
    ):
        assert text in told


def test_grey_of_few_bits_is_refused_because_a_decoder_spreads_it(tmp_path: Path) -> None:
    """Pillow reads level 1 of a 4-bit grey PNG as 17."""
    path = tmp_path / "four.png"
    Image.fromarray(np.zeros((SIDE, SIDE), dtype=np.uint8)).save(path)
    data = bytearray(path.read_bytes())
    data[24] = 4
    path.write_bytes(bytes(data))
    with pytest.raises(ValueError, match=r"cannot be decoded|is not a mask"):
        read_mask(path, side=SIDE, fit="squeeze")


def test_names_are_whole_numbers(folder: Path) -> None:
    (folder / "masks.csv").write_text("id,name\nfloor,0\n255,sky\n")
    assert "masks.csv names 2 (255, floor); a class is a whole number from 0 to 254" in problems(folder)


def test_recordings_have_no_masks(folder: Path) -> None:
    from tests.made_up_sound import tone, write_wav

    for index in range(NUM):
        (folder / "target" / f"p{index:02d}.png").unlink()
        write_wav(folder / "target" / f"p{index:02d}.wav", tone(300.0 + index))
    assert "recordings have no pixels" in problems(folder)


def test_a_class_of_thousands_of_digits_is_named(tmp_path):
    from edgecmd.data.user_files.mask_files import _read_names

    (tmp_path / "masks.csv").write_text("id,name\n" + "9" * 5000 + ",cup\n")
    problems: list[str] = []
    assert _read_names(tmp_path / "masks.csv", problems, notes=[]) == {}
    assert "a class is a whole number from 0 to 254" in problems[0]
