"""Depth maps of a user: units, missing values, averaging down, and what is refused."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from edgecmd.core.errors import ConfigError, DataError
from edgecmd.data.modalities.table import modality_of
from edgecmd.data.user_files.downsample import cells, majority, median_of_measured
from edgecmd.data.user_files.folder import load_folder
from edgecmd.data.user_files.images import Ruler, make_depth, to_millimetres
from edgecmd.settings import DataConfig
from tests.user_files import check_folder, read_pairs

NUM, SIDE = 30, 16


def save(path: Path, array: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)


def depth_map(seed: int, *, size: tuple[int, int] = (48, 32)) -> np.ndarray:
    """Units from 500 to 5,000, a tenth of them missing."""
    draw = np.random.default_rng(seed)
    units = draw.integers(500, 5001, size[::-1]).astype(np.uint16)
    units[draw.random(units.shape) < 0.1] = 0
    return units


def fill(folder: Path, *, num: int = NUM, size: tuple[int, int] = (48, 32)) -> Path:
    for index in range(num):
        picture = np.random.default_rng(index).integers(0, 256, (*size[::-1], 3), dtype=np.uint8)
        save(folder / "source" / f"p{index:02d}.png", picture)
        save(folder / "target" / f"p{index:02d}.png", depth_map(1000 + index, size=size))
    return folder


def config(path: Path, **settings: object) -> DataConfig:
    return DataConfig(name="folder", path=str(path), **{"image_size": SIDE, **settings})


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return fill(tmp_path / "mine")


class TestUnits:
    def test_by_hand(self):
        units = np.array([[0, 1, 5000, 65535]], dtype=np.uint16)
        assert to_millimetres(units, Ruler(mm_per_unit=0.2)).tolist() == [[0, 1, 1000, 13107]]
        assert to_millimetres(units, Ruler(mm_per_unit=10.0)).tolist() == [[0, 10, 50000, 0]]
        assert to_millimetres(units, Ruler(most_m=5.0)).tolist() == [[0, 1, 5000, 0]]

    def test_what_is_near_is_not_missing(self):
        assert to_millimetres(np.array([[1]]), Ruler(mm_per_unit=0.1)).tolist() == [[1]]


class TestCells:
    @given(height=st.integers(5, 40), width=st.integers(5, 40), side=st.integers(1, 5))
    def test_each_pixel_is_in_one_cell(self, height: int, width: int, side: int):
        picture = np.arange(height * width).reshape(height, width)
        taken, inside = cells(picture, side, side)
        assert sorted(taken[inside].tolist()) == list(range(height * width))

    @given(seed=st.integers(0, 10_000), height=st.integers(4, 21), width=st.integers(4, 21))
    def test_median_against_a_slow_loop(self, seed: int, height: int, width: int):
        draw = np.random.default_rng(seed)
        depth = draw.integers(0, 9, (height, width)).astype(np.uint16) * draw.integers(0, 2, (height, width))
        depth = depth.astype(np.uint16)
        found = median_of_measured(depth, side=4, fit="squeeze")
        for row in range(4):
            for column in range(4):
                block = depth[
                    row * height // 4 : (row + 1) * height // 4,
                    column * width // 4 : (column + 1) * width // 4,
                ].ravel()
                measured = sorted(one for one in block.tolist() if one)
                expected = measured[(len(measured) - 1) // 2] if 2 * len(measured) >= block.size else 0
                assert found[row, column] == expected

    def test_missing_never_enters_a_distance(self):
        """Of a wall at 3 m with holes no pixel becomes nearer, however many holes there are."""
        draw = np.random.default_rng(0)
        for share in (0.1, 0.45, 0.7):
            wall = np.where(draw.random((64, 96)) < share, 0, 3000).astype(np.uint16)
            assert {*np.unique(median_of_measured(wall, side=16, fit="squeeze")).tolist()} <= {0, 3000}

    def test_no_distance_between_front_and_back(self):
        edge = np.full((32, 32), 1000, dtype=np.uint16)
        edge[:, 15:] = 4000
        assert {*np.unique(median_of_measured(edge, side=16, fit="squeeze")).tolist()} == {1000, 4000}

    def test_half_measured_is_enough_and_less_is_not(self):
        half = np.array([[7, 0], [7, 0]], dtype=np.uint16)
        assert median_of_measured(half, side=1, fit="squeeze").tolist() == [[7]]
        assert median_of_measured(
            np.array([[7, 0], [0, 0]], dtype=np.uint16), side=1, fit="squeeze"
        ).tolist() == [[0]]

    def test_majority(self):
        mask = np.array([[1, 1, 255, 255], [2, 255, 2, 255]], dtype=np.uint8)
        assert majority(mask, side=1, fit="squeeze", ignored=255).tolist() == [[1]]
        assert majority(mask, side=2, fit="squeeze", ignored=255).tolist() == [[1, 255], [2, 2]]


class TestFolder:
    def test_depth_is_read_in_millimetres(self, folder: Path):
        whole = load_folder(config(folder, depth_scale_mm=0.5))
        assert modality_of(whole.train.target).name == "depth"
        assert whole.train.source.shape[1:] == (SIDE, SIDE, 3)
        for row, name in enumerate(whole.train_ids):
            units = depth_map(1000 + int(name[1:]))
            expected = median_of_measured(np.rint(units * 0.5).astype(np.uint16), side=SIDE, fit="squeeze")
            assert np.array_equal(whole.train.target[row, ..., 0], expected)
        measured = whole.train.target[whole.train.target > 0]
        assert 250 <= measured.min() <= measured.max() <= 2500

    def test_check_tells_range_and_gaps(self, folder: Path):
        notes: list[str] = []
        assert check_folder(folder, config(folder), notes=notes) == []
        assert len(notes) == 1
        assert notes[0].startswith("30 depth maps: ")
        assert check_folder(folder, config(folder, depth_scale_mm=0.01), notes=notes) == []
        assert "A median of" in notes[-1]
        assert "5000 units a metre" in notes[-1]

    def test_mixed_folders_are_refused(self, folder: Path):
        save(folder / "target" / "p03.png", np.full((32, 48), 200, dtype=np.uint8))
        assert "29 (p00, p01, p02, p04, p05, ...) of 16 bits" in check_folder(folder, config(folder))[0]
        with pytest.raises(DataError, match="the targets of a run have one modality"):
            load_folder(config(folder))

    def test_grey_pictures_are_never_taken_for_depth(self, folder: Path):
        for index in range(NUM):
            save(folder / "target" / f"p{index:02d}.png", (depth_map(index) // 32).astype(np.uint8))
        assert modality_of(load_folder(config(folder)).train.target).name == "image"
        with pytest.raises(DataError, match="an 8-bit grey image is never read as depth"):
            load_folder(config(folder, depth_scale_mm=10.0))

    def test_everything_wrong_is_named_at_once(self, folder: Path):
        save(folder / "target" / "p00.png", np.zeros((32, 48), dtype=np.uint16))
        save(folder / "target" / "p01.png", depth_map(1, size=(24, 8)))
        save(folder / "target" / "p02.png", depth_map(1, size=(32, 32)))
        (folder / "target" / "p04.png").write_bytes(b"no picture")
        problems = "\n".join(check_folder(folder, config(folder)))
        for text in (
            "p00.png has no measurement in range",
            "p01.png has 24x8 pixels",
            "p02.png: the source has 48x32 pixels, the target 32x32: different aspect ratios",
            "p04.png cannot be decoded",
        ):
            assert text in problems

    def test_a_split_keeps_what_was_read(self, folder: Path):
        pairs = read_pairs(folder, config(folder))
        whole = load_folder(config(folder))
        assert np.array_equal(pairs.target[int(whole.train_ids[0][1:])], whole.train.target[0])

    @pytest.mark.parametrize(("name", "value"), [("depth_scale_mm", 0.0), ("depth_max_m", 70.0)])
    def test_settings_have_ranges(self, name: str, value: float):
        with pytest.raises(ConfigError, match=f"data.{name}"):
            DataConfig(**{name: value})


class TestArchive:
    def write(self, path: Path, target: np.ndarray) -> Path:
        source = np.random.default_rng(0).integers(0, 256, (*target.shape[:3], 3), dtype=np.uint8)
        np.savez(path, source=source, target=target)
        return path

    @pytest.mark.parametrize("axis", [False, True])
    def test_depth(self, tmp_path: Path, axis: bool):
        target = np.stack([depth_map(index) for index in range(NUM)])
        path = self.write(tmp_path / "pairs.npz", target[..., None] if axis else target)
        pairs = read_pairs(path, config(path, depth_scale_mm=2.0))
        expected = make_depth(target[3], ruler=Ruler(mm_per_unit=2.0), side=SIDE, fit="squeeze", name="")
        assert np.array_equal(pairs.target[3], expected)

    def test_what_is_no_depth(self, tmp_path: Path):
        path = self.write(tmp_path / "pairs.npz", np.ones((NUM, 32, 48), dtype=np.float32))
        assert "Depth is a target of uint16 and one channel" in check_folder(path, config(path))[0]
        empty = np.stack([depth_map(index) for index in range(NUM)])
        empty[4] = 0
        path = self.write(tmp_path / "empty.npz", empty)
        assert "target 4 has no measurement in range" in check_folder(path, config(path))[0]


def test_look_alikes_of_depth_are_equal_ones():
    """All rooms recede upwards: a correlation would leave no test map."""
    ramp = np.linspace(1000, 4000, 32).astype(np.uint16)[:, None, None] * np.ones((1, 32, 1), np.uint16)
    train = np.stack([ramp, ramp + 10])
    test = np.stack([ramp + 5, ramp])
    assert modality_of(test).looks_known(test, train).tolist() == [False, True]
