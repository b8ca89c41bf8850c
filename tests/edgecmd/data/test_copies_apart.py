"""Copies of a user's pairs under privacy, blank examples, and the sieve behind both against slow oracles."""

from dataclasses import replace

import numpy as np
import pytest

from edgecmd.config.schema import RunConfig
from edgecmd.core.errors import ConfigError
from edgecmd.data.duplicates import (
    alike,
    contained,
    contained_lines,
    duplicate_report,
    each_its_own,
    near_groups,
    near_to,
    shared_with,
)
from edgecmd.data.experiment import Experiment, HeldOut
from edgecmd.data.pairs import PairedData, PublicSource, Targets
from edgecmd.data.user_files.public_images import check_public
from edgecmd.data.user_files.user_pairs import OwnPairs, joined_concepts, position, to_experiment
from edgecmd.settings import DataConfig, PrivacyConfig

SIDE = 16
CONFIG = DataConfig(name="folder", path="own", image_size=SIDE)
APART = replace(CONFIG, copies="leave-out")


def grey(seed: int) -> np.ndarray:
    """A picture of one pixel a cell of the compared grid."""
    return np.random.default_rng(seed).integers(20, 230, (SIDE, SIDE, 1), dtype=np.uint8)


def colour(seed: int) -> np.ndarray:
    return np.repeat(grey(seed), 3, axis=2)


def public() -> PublicSource:
    images = np.stack([colour(9000 + row) for row in range(4)])
    return PublicSource(images=images, keys=tuple("abcd"), name="open")


def own_of(pairs: dict[str, tuple[np.ndarray, np.ndarray]]) -> OwnPairs:
    ids = tuple(sorted(pairs))
    data = PairedData(
        source=np.stack([pairs[one][0] for one in ids]), target=np.stack([pairs[one][1] for one in ids])
    )
    return OwnPairs(ids=ids, data=data, columns={})


def places(low: float, high: float, num: int) -> list[str]:
    """Names that the split puts between two shares."""
    return [name for row in range(500) if low <= position(name := f"p{row:03d}") < high][:num]


TEST, VALIDATION = places(0.0, 0.2, 8), places(0.2, 0.3, 6)
TRAIN = places(0.45, 1.0, 24)
NEW = places(0.45, 1.0, 25)[-1]
SPLIT = replace(APART, test_fraction=0.2, val_fraction=0.1)


def pairs_with_copies() -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Pairs of which some are copies within a part, some across, and two differ by ten levels."""
    pairs = {name: (colour(row), grey(1000 + row)) for row, name in enumerate([*TEST, *VALIDATION, *TRAIN])}
    pairs[TEST[1]] = (pairs[TEST[0]][0], pairs[TEST[1]][1])
    pairs[TRAIN[1]] = (pairs[TRAIN[0]][0] + 2, pairs[TRAIN[1]][1])
    pairs[TRAIN[2]] = (pairs[TEST[2]][0] + 2, pairs[TRAIN[2]][1])
    pairs[TRAIN[3]] = (pairs[TRAIN[3]][0], pairs[VALIDATION[0]][1])
    pairs[VALIDATION[1]] = (pairs[VALIDATION[1]][0], pairs[TEST[3]][1] + 1)
    pairs[TRAIN[4]] = (pairs[TEST[4]][0] + 10, pairs[TRAIN[4]][1])
    return pairs


def made(pairs: dict[str, tuple[np.ndarray, np.ndarray]], config: DataConfig = SPLIT) -> Experiment:
    return to_experiment(own_of(pairs), config, public=public(), name="own")


def same(first: HeldOut, second: HeldOut) -> bool:
    codes = ((first.shown, second.shown), (first.twins, second.twins))
    return (
        first.ids == second.ids
        and np.array_equal(first.pairs.source, second.pairs.source)
        and np.array_equal(first.pairs.target, second.pairs.target)
        and all(np.array_equal(one, other) for one, other in codes)
    )


def is_near(one: np.ndarray, other: np.ndarray) -> bool:
    """Whether two examples, with nothing beside them, are copies."""
    return len(np.unique(near_groups(np.stack([one, other])))) == 1


class TestApart:
    """Under ``data.copies="leave-out"`` a pair that is added moves no other."""

    def test_the_copies_are_left_out(self) -> None:
        whole = made(pairs_with_copies())
        assert whole.test.ids == tuple(sorted(TEST))
        assert whole.validation.ids == tuple(sorted({*VALIDATION} - {VALIDATION[1]}))
        assert set(whole.train_ids) == {*TRAIN} - {TRAIN[2], TRAIN[3]}
        assert whole.shared == ""
        assert whole.notes[0].startswith("3 pairs that are copies of held-out ones are left out")

    def test_no_copy_of_a_held_out_pair_is_trained_on(self) -> None:
        whole = made(pairs_with_copies())
        for held in (whole.test, whole.validation):
            for half in ("source", "target"):
                others = getattr(held.pairs, half)
                for one in getattr(whole.train, half):
                    assert not any(is_near(one, other) for other in others)

    @pytest.mark.parametrize("source", ["test", "validation", "train", "bridge", "blank", "new"])
    @pytest.mark.parametrize("target", ["test", "validation", "train", "blank", "new"])
    def test_one_pair_more(self, source: str, target: str) -> None:
        pairs = pairs_with_copies()
        before = made(pairs)
        sources = {
            "test": pairs[TEST[0]][0] + 1,
            "validation": pairs[VALIDATION[2]][0],
            "train": pairs[TRAIN[0]][0],
            "bridge": pairs[TEST[4]][0] + 5,
            "blank": np.full_like(colour(0), 255),
            "new": colour(777),
        }
        targets = {
            "test": pairs[TEST[5]][1],
            "validation": pairs[VALIDATION[3]][1] + 1,
            "train": pairs[TRAIN[7]][1],
            "blank": np.full_like(grey(0), 255),
            "new": grey(778),
        }
        after = made({**pairs, NEW: (sources[source], targets[target])})
        assert same(after.test, before.test)
        assert same(after.validation, before.validation)
        assert same(after.test_strict, before.test_strict)
        left_out = source in ("test", "validation", "bridge") or target in ("test", "validation")
        assert set(after.train_ids) - set(before.train_ids) == (set() if left_out else {NEW})
        assert set(before.train_ids) <= set(after.train_ids)

    def test_the_bridge_is_one(self) -> None:
        pairs = pairs_with_copies()
        ends = (pairs[TEST[4]][0], pairs[TRAIN[4]][0])
        assert not is_near(*ends)
        assert all(is_near(pairs[TEST[4]][0] + 5, end) for end in ends)
        joined = made({**pairs, NEW: (pairs[TEST[4]][0] + 5, grey(1))}, replace(SPLIT, copies="join"))
        assert joined.shared == ""
        assert len({TEST[4], TRAIN[4], NEW} & {*joined.train_ids}) in (0, 3)

    def test_settings(self) -> None:
        private = PrivacyConfig(mechanism="anchors")
        with pytest.raises(ConfigError, match="data.copies='join'.*Allowed: auto, leave-out"):
            RunConfig(data=DataConfig(copies="join"), privacy=private)
        with pytest.raises(ConfigError, match="data.copies='jion' is unknown"):
            DataConfig(copies="jion")
        run = RunConfig(privacy=private)
        assert (RunConfig().data.copies, run.data.copies) == ("auto", "leave-out")
        assert replace(run, privacy=PrivacyConfig()).data.copies == "leave-out"


class TestOracles:
    @staticmethod
    def recordings() -> np.ndarray:
        draws = np.random.default_rng(0)
        heard = (draws.normal(0, 3000, (12, 800)) * np.hanning(800)).astype(np.int16)
        heard[6:9] = heard[:3] // 2 + draws.normal(0, 20, (3, 800)).astype(np.int16)
        heard[9] = np.roll(heard[3], 60)
        heard[10] = 0
        return heard

    @staticmethod
    def pictures() -> np.ndarray:
        """Frames of one camera: a square stands somewhere, or nowhere; and pictures of other things."""
        base, draws = colour(3), np.random.default_rng(1)
        frames = np.stack([base] * 14 + [colour(4), colour(4) + 3, np.zeros_like(base), np.zeros_like(base)])
        for row in range(10):
            top, left = draws.integers(0, 3, 2) * 5
            frames[row, top : top + 2, left : left + 2] ^= 31
        frames[10:14] += draws.integers(0, 7, (4, 1, 1, 1), dtype=np.uint8)
        return frames

    @staticmethod
    def depth() -> np.ndarray:
        far = np.random.default_rng(2).integers(1000, 4000, (12, SIDE, SIDE, 1)).astype(np.uint16)
        far[6:] = (far[:6] * np.array([1.002, 1.009, 1.011, 1.02, 1.0, 0.995])[:, None, None, None]).astype(
            np.uint16
        )
        far[11] = 0
        return far

    @pytest.mark.parametrize("kind", ["pictures", "depth", "recordings"])
    def test_near_to_and_groups(self, kind: str) -> None:
        examples: Targets = getattr(self, kind)()
        near = np.array([[is_near(one, other) for other in examples] for one in examples])
        blank = np.array([len(np.unique(one)) == 1 for one in examples])
        assert 0 < np.triu(near, 1).sum() < len(near) * (len(near) - 1) / 2
        for cut in (3, len(examples) // 2, len(examples) - 2):
            expected = near[:cut, cut:].any(axis=1) & ~blank[:cut]
            assert np.array_equal(near_to(examples[:cut], examples[cut:]), expected)
        reached = np.linalg.matrix_power(near.astype(np.int64), len(near)) > 0
        groups = near_groups(examples)
        assert np.array_equal(groups[:, None] == groups[None], reached)

    def test_tiles(self) -> None:
        """More rows than a tile has, of which each meets its copy in another one."""
        images = np.stack([colour(row) for row in range(600)])
        groups = near_groups(np.concatenate([images, images + 2]))
        assert np.array_equal(groups[:600], groups[600:])
        assert len(np.unique(groups)) == 600
        assert near_to(images, (images + 2)[::2]).tolist() == [True, False] * 300

    def test_empty(self) -> None:
        images = np.stack([colour(0)])
        assert near_to(images[:0], images).tolist() == []
        assert near_to(images, images[:0]).tolist() == [False]


@pytest.mark.parametrize("kind", ["tones", "chords", "clipped"])
def test_recordings_whose_loudest_sample_is_one_of_many(kind: str) -> None:
    """A little noise moves the loudest sample of such a recording to another place."""
    draws, time = np.random.default_rng(0), np.arange(4000) / 8000
    if kind == "clipped":
        smooth = np.ones(20) / 20
        heard = np.stack([np.convolve(draws.normal(size=4000), smooth, "same") for _ in range(12)])
        heard = np.clip(heard, -0.15, 0.15)
    else:
        pitches = draws.integers(20, 300, (12, 3, 1)) * 10 + (kind == "tones") * draws.random((12, 3, 1))
        heard = np.sin(2 * np.pi * pitches * time).sum(axis=1)
    noisy = heard + 0.01 * np.abs(heard).max(axis=1, keepdims=True) * draws.normal(size=heard.shape)
    groups = near_groups((np.concatenate([heard, noisy]) * 8000).astype(np.int16))
    assert np.array_equal(groups[:12], groups[12:])
    assert len(np.unique(groups)) == 12


def test_a_constant_part_makes_no_recordings_alike() -> None:
    heard = np.random.default_rng(0).normal(0, 500, (6, 4000)).astype(np.int16)
    assert len(np.unique(near_groups(heard + np.int16(9000)))) == 6
    assert near_groups(np.stack([heard[0], heard[0] + np.int16(9000)])).tolist() == [0, 0]


class TestBlank:
    """Examples of one single value are equal, and tie nothing together."""

    @pytest.mark.parametrize("half", ["source", "target"])
    def test_a_split_does_not_go_by_them(self, half: str) -> None:
        pairs = {f"p{row:03d}": (colour(row), grey(1000 + row)) for row in range(40)}
        before = made(pairs, CONFIG)
        for name in sorted(pairs)[::2]:
            source, target = pairs[name]
            white = np.full_like(source if half == "source" else target, 255)
            pairs[name] = (white, target) if half == "source" else (source, white)
        after = made(pairs, CONFIG)
        assert after.train_ids == before.train_ids
        assert (after.test.ids, after.shared) == (before.test.ids, "")
        own = own_of(pairs)
        copies = alike(own.data)
        assert joined_concepts(own, copies) == list(own.ids)
        assert len(np.unique(getattr(copies, half))) == 21
        assert shared_with(copies, num_train=20, num_test=20) == ""
        if half == "target":
            assert after.test_strict.ids == before.test_strict.ids

    def test_blank_sources_are_one_thing_to_retrieve(self) -> None:
        pairs = {f"p{row:03d}": (colour(row), grey(1000 + row)) for row in range(40)}
        ids = made(pairs, CONFIG).test.ids
        for name in ids[:2]:
            pairs[name] = (np.zeros_like(pairs[name][0]), pairs[name][1])
        shown = made(pairs, CONFIG).test.shown
        assert shown is not None
        assert len(np.unique(shown)) == len(ids) - 1

    def test_rows_keep_their_ties(self) -> None:
        data = own_of(pairs_with_copies()).data
        copies, rows = alike(data), np.array([5, 1, 3])
        part = copies.take(rows)
        assert np.array_equal(part.ties[0], copies.ties[0][rows])
        assert np.array_equal(part.ties[1], copies.ties[1][rows])
        assert np.array_equal(each_its_own(4).ties[1], np.arange(4))


class TestPublic:
    def problems(self, image: np.ndarray) -> list[str]:
        own, found = own_of(pairs_with_copies()), list[str]()
        images = np.concatenate([public().images, image[None]])
        check_public(own, PublicSource(images=images, keys=tuple("abcde"), name="open"), found)
        return found

    def test_what_is_no_source(self) -> None:
        assert self.problems(colour(5555)) == []

    def test_a_source_that_was_saved_again(self) -> None:
        (problem,) = self.problems(pairs_with_copies()[TRAIN[9]][0] + 2)
        assert (
            f"nearly equal to the source of a pair, as if it had been saved again: 1 (e) to 1 ({TRAIN[9]})"
            in (problem)
        )

    def test_an_equal_one_is_told_once(self) -> None:
        (problem,) = self.problems(pairs_with_copies()[TRAIN[9]][0])
        assert f"1 (e = {TRAIN[9]})" in problem


@pytest.mark.parametrize("paper", ["light", "dark"])
@pytest.mark.parametrize("lines", ["light", "dark"])
def test_targets_in_bright_or_dark_sources(paper: str, lines: str) -> None:
    """White or black lines in smooth grey pictures, as drawings on white or on black paper."""
    draws = np.random.default_rng(0)
    coarse = draws.integers(80, 170, (40, 4, 4, 1)).repeat(8, axis=1).repeat(8, axis=2)
    ink = np.zeros((40, 32, 32, 1), dtype=bool)
    for row in range(40):
        for _ in range(3):
            top, left = draws.integers(0, 20, 2)
            ink[row, top, left : left + 10] = ink[row, top : top + 10, left] = True
    source = np.where(ink, 255 if lines == "light" else 0, coarse).astype(np.uint8).repeat(3, axis=3)
    target = np.where(ink, 0 if paper == "light" else 255, 255 if paper == "light" else 0).astype(np.uint8)
    found = contained(PairedData(source=source, target=target))
    assert found is not None
    assert (found.is_told, found.tone, found.share) == (True, lines, 1.0)
    (line,) = contained_lines(PairedData(source=source, target=target))
    assert f"as {lines} in their own source" in line
    assert contained_lines(PairedData(source=np.roll(source, 7, axis=0), target=target)) == []


def test_the_report_says_whether_copies_share_a_part() -> None:
    pairs = {f"p{row:03d}": (colour(row % 20), grey(1000 + row)) for row in range(40)}
    own = own_of(pairs)
    owners = ["ann" if row < 20 else "bob" for row in range(40)]
    own = replace(own, columns={"owner": owners, "concept": [f"word{row}" for row in range(40)]})
    config = replace(CONFIG, split="owner", held_out="bob", val_fraction=0.3, strict=False)
    (linked,) = (
        line
        for line in duplicate_report(to_experiment(own, config, public=public(), name="own"))
        if line.startswith("Copies link concepts")
    )
    assert linked.endswith("copies are in more than one part.")
    lines = duplicate_report(to_experiment(own, CONFIG, public=public(), name="own"))
    assert any(line.endswith("copies share a part.") for line in lines)
    lines = duplicate_report(to_experiment(own, config, public=public(), name="own"))
    assert any("test sources are also in training, such as p0" in line for line in lines)
    assert not any("such as 1" in line for line in lines)
