"""Inputs that say nothing are refused before a run trains, and counted where there are a few of them."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edgecmd.core.errors import DataError
from edgecmd.data.constants import all_equal, constant_inputs, constant_notes, constant_parts, constant_rows
from edgecmd.data.pairs import PairedData
from edgecmd.data.user_files.folder import load_folder
from edgecmd.settings import DataConfig

SIDE = 16


def noise(num: int = 6, *, channels: int = 3, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (num, SIDE, SIDE, channels), dtype=np.uint8)


def depth(num: int = 6) -> np.ndarray:
    return np.random.default_rng(1).integers(0, 4000, (num, SIDE, SIDE, 1)).astype(np.uint16)


def waves(num: int = 6) -> np.ndarray:
    return np.random.default_rng(2).integers(-9000, 9000, (num, 400)).astype(np.int16)


def pairs(target: np.ndarray, source: np.ndarray | None = None) -> PairedData:
    return PairedData(source=noise(len(target), seed=3) if source is None else source, target=target)


class TestWhichInputsAreConstant:
    def test_a_page_of_one_colour_is_whatever_its_colour(self):
        images = noise(4)
        images[1] = 255
        images[2] = np.array([10, 200, 30])
        assert constant_rows(images).tolist() == [False, True, True, False]

    def test_traces_of_a_lossy_file_do_not_hide_an_empty_page_and_a_thin_line_is_no_trace(self):
        images = np.full((2, SIDE, SIDE, 1), 250, np.uint8)
        images[0, ::2] = 252
        images[1, 3, 4] = 0
        assert constant_rows(images).tolist() == [True, False]

    def test_depth_is_judged_by_what_was_measured(self):
        maps = np.zeros((4, SIDE, SIDE, 1), np.uint16)
        maps[1] = 1200
        maps[2, :5] = 1200
        maps[3, 0, 0], maps[3, 0, 1] = 1200, 1300
        assert constant_rows(maps).tolist() == [True, True, True, False]

    def test_silence_is_silence_at_any_level_and_with_dither(self):
        sound = waves(4)
        sound[0], sound[1] = 0, -31000
        sound[2] = np.arange(400) % 2
        assert constant_rows(sound).tolist() == [True, True, True, False]

    def test_rows_are_counted_across_chunks(self):
        images = np.zeros((700, 2, 2, 1), np.uint8)
        images[[0, 300, 699], 0, 0] = 200
        assert np.flatnonzero(~constant_rows(images)).tolist() == [0, 300, 699]
        assert not all_equal(images)

    def test_none_and_one_input_are_not_all_equal(self):
        assert constant_rows(np.zeros((0, 4, 4, 3), np.uint8)).shape == (0,)
        assert not all_equal(np.zeros((0, 4, 4, 3), np.uint8))
        assert not all_equal(noise(1))


class TestWholeSets:
    @pytest.mark.parametrize(
        ("target", "word"),
        [
            (np.full((6, SIDE, SIDE, 1), 255, np.uint8), "one colour"),
            (np.zeros((6, SIDE, SIDE, 1), np.uint16), "distances"),
            (np.zeros((6, 400), np.int16), "silent"),
            (np.repeat(noise(1), 6, axis=0), "equal"),
            (np.repeat(depth(1), 6, axis=0), "equal"),
            (np.repeat(waves(1), 6, axis=0), "equal"),
        ],
    )
    def test_targets_that_never_change_are_a_problem(self, target, word):
        (problem,) = constant_inputs(pairs(target))
        assert "target/" in problem
        assert word in problem

    def test_pages_of_different_plain_colours_are_a_problem_too(self):
        colours = np.arange(6, dtype=np.uint8)[:, None, None, None] * np.ones((1, SIDE, SIDE, 3), np.uint8)
        (problem,) = constant_inputs(pairs(colours))
        assert "all 6 images of target/ are of one colour each" in problem

    def test_sources_too_and_both_at_once(self):
        white = np.full((6, SIDE, SIDE, 3), 255, np.uint8)
        assert "source/" in constant_inputs(pairs(noise(), white))[0]
        assert len(constant_inputs(pairs(white, white))) == 2

    def test_turned_round_the_folders_keep_the_users_names(self):
        white = np.full((6, SIDE, SIDE, 3), 255, np.uint8)
        turned = pairs(white).reversed()
        assert "target/" in constant_inputs(turned, reverse=True)[0]

    def test_a_few_among_others_are_noted_with_their_number(self):
        target = noise(6)
        target[:2] = 0
        data = pairs(target)
        assert constant_inputs(data) == []
        (note,) = constant_notes(data)
        assert note.startswith("2 of 6 images of target/")
        assert constant_notes(pairs(noise())) == []

    def test_a_part_is_looked_at_by_itself_but_its_sources_may_be_one_photograph(self):
        target, source = noise(9), noise(9, seed=5)
        target[6:] = 255
        source[3:6] = source[3]
        rows = {"training": np.arange(3), "validation": np.arange(3, 6), "test": np.arange(6, 9)}
        (problem,) = constant_parts(pairs(target, source), rows)
        assert problem.startswith("test: all 3 images of target/")


class TestFolders:
    @staticmethod
    def folder(path: Path, target: np.ndarray, source: np.ndarray) -> DataConfig:
        for name, images in (("source", source), ("target", target)):
            (path / name).mkdir(parents=True)
            for index, image in enumerate(images):
                plain = image[..., 0] if image.shape[-1] == 1 else image
                Image.fromarray(plain).save(path / name / f"{index:02d}.png")
        return DataConfig(name="folder", path=str(path), image_size=SIDE)

    @pytest.mark.parametrize(
        ("target", "source", "word"),
        [
            (np.full((30, SIDE, SIDE, 3), 255, np.uint8), noise(30), "All 30 images of target/ are of one"),
            (np.repeat(noise(1), 30, axis=0), noise(30, seed=1), "All 30 images of target/ are equal"),
            (noise(30), np.repeat(noise(1, seed=1), 30, axis=0), "All 30 images of source/ are equal"),
            (np.full((30, SIDE, SIDE, 1), 1200, np.uint16), noise(30), "All 30 depth maps of target/"),
        ],
    )
    def test_a_folder_that_never_changes_is_refused_when_it_is_loaded(self, tmp_path, target, source, word):
        with pytest.raises(DataError, match=word):
            load_folder(self.folder(tmp_path / "pairs", target, source))

    def test_one_drawing_among_empty_pages_does_not_help(self, tmp_path):
        target = np.full((30, SIDE, SIDE, 1), 255, np.uint8)
        target[7] = noise(1, channels=1)
        with pytest.raises(DataError, match=r"(Training|Test|Validation): all \d+ images of target/"):
            load_folder(self.folder(tmp_path / "pairs", target, noise(30)))

    def test_three_empty_pages_among_thirty_are_no_reason_to_refuse(self, tmp_path):
        target = noise(30, channels=1, seed=9)
        target[[4, 11, 20]] = 255
        found = load_folder(self.folder(tmp_path / "pairs", target, noise(30)))
        assert len(found.train) + len(found.validation) + len(found.test) == 30
