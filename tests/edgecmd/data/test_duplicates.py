"""Copies: which are found, which are not, and what becomes of sets that have them."""

import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from edgecmd.config.schema import RunConfig
from edgecmd.core.errors import DataError
from edgecmd.data import duplicates
from edgecmd.data.duplicates import contained, contained_lines
from edgecmd.data.experiment import Experiment, load_experiment
from edgecmd.data.modalities.signature import cells
from edgecmd.data.pairs import PairedData
from edgecmd.evaluation import metrics
from edgecmd.settings import DataConfig
from tests.tiny_federation import task_of

SIDE, NUM, EACH = 32, 16, 5


def photograph(seed: int, *, side: int = 128) -> Image.Image:
    coarse = np.random.default_rng(seed).integers(0, 256, (5, 5, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((side, side), Image.Resampling.BICUBIC)


def sketch(seed: int) -> Image.Image:
    draws, paper = np.random.default_rng(10_000 + seed), np.full((64, 64), 255, dtype=np.uint8)
    for _ in range(5):
        top, left = draws.integers(0, 48, 2)
        paper[top : top + 2, left : left + draws.integers(6, 16)] = 0
        paper[top : top + draws.integers(6, 16), left : left + 2] = 0
    return Image.fromarray(paper)


def again(image: Image.Image, *, kind: str = "JPEG", quality: int = 75) -> Image.Image:
    buffer = io.BytesIO()
    image.save(buffer, kind, quality=quality)
    return Image.open(buffer).convert("RGB")


def small(image: Image.Image) -> np.ndarray:
    return np.asarray(image.resize((SIDE, SIDE), Image.Resampling.BOX))


def folder_of(path: Path, *, encode: bool, columns: str = "") -> Path:
    """Sixteen photographs with five sketches each, a pair of files a sketch."""
    rows = ["id,owner" if columns == "owner" else "id,concept"]
    for one in range(NUM):
        for number in range(EACH):
            name = f"p{one:02d}-{number}"
            for half in ("source", "target"):
                (path / half).mkdir(parents=True, exist_ok=True)
            image = photograph(one)
            if encode and number:
                side = 128 - 8 * number
                image.resize((side, side)).save(path / "source" / f"{name}.jpg", quality=90 - 10 * number)
            else:
                image.save(path / "source" / f"{name}.png")
            sketch(one * EACH + number).save(path / "target" / f"{name}.png")
            rows.append(f"{name},who{number}" if columns == "owner" else f"{name},word{number}-{one % 8}")
    if columns:
        (path / "pairs.csv").write_text("\n".join(rows))
    return path


def config(path: Path, **changes: object) -> DataConfig:
    return DataConfig(name="folder", path=str(path), image_size=SIDE, **changes)  # type: ignore[arg-type]


def photographs(ids: tuple[str, ...]) -> set[str]:
    return {one.partition("-")[0] for one in ids}


def perfect(whole: Experiment) -> dict[str, float]:
    """Recall of a student that has the teacher's feature of each source: the photograph itself."""
    names = [one.partition("-")[0] for one in whole.test.ids]
    codes = np.unique(names, return_inverse=True)[1]
    teacher = metrics.unit_rows(np.random.default_rng(0).standard_normal((NUM, 32)).astype(np.float32))[codes]
    # As a teacher sees copies that were saved again: nearly the same.
    seen = teacher + np.random.default_rng(1).normal(0, 1e-3, teacher.shape).astype(np.float32)
    return metrics.recall(teacher, seen, ranks=(1,), shown=whole.test.shown)


class TestPictures:
    @pytest.mark.parametrize("quality", [95, 75, 50])
    @pytest.mark.parametrize("kind", ["JPEG", "WEBP"])
    def test_saved_again(self, kind: str, quality: int) -> None:
        whole = [photograph(seed) for seed in range(12)]
        copies = [again(one, kind=kind, quality=quality) for one in whole]
        groups = duplicates.near_groups(np.stack([small(one) for one in (*whole, *copies)]))
        assert np.array_equal(groups[:12], groups[12:])
        assert len(np.unique(groups)) == 12

    def test_resized(self) -> None:
        whole = [photograph(seed) for seed in range(12)]
        copies = [one.resize((96, 96), Image.Resampling.LANCZOS) for one in whole]
        groups = duplicates.near_groups(np.stack([small(one) for one in (*whole, *copies)]))
        assert np.array_equal(groups[:12], groups[12:])

    def test_what_is_no_copy(self) -> None:
        image = np.asarray(photograph(0).resize((64, 64)))
        dot = image.copy()
        dot[8:10, 8:10] = 255 - 255 * (dot[8:10, 8:10] > 127)
        others = [image, image[::-1], image[:, ::-1], image[..., ::-1], image // 2 + 60, 255 - image, dot]
        assert len(np.unique(duplicates.near_groups(np.stack(others)))) == len(others)

    def test_blank_pictures_are_copies_only_where_they_are_equal(self) -> None:
        flat = np.stack([np.full((16, 16, 1), value, dtype=np.uint8) for value in (254, 255, 255, 250)])
        assert duplicates.near_groups(flat).tolist() == [0, 1, 1, 2]

    def test_faint_pictures_differ_by_a_share_of_their_contrast(self) -> None:
        """Two faint drawings differ by few levels, and by all that there is to see."""
        draws = np.random.default_rng(0)
        faint = (250 + draws.integers(0, 5, (6, 16, 16, 1))).astype(np.uint8)
        assert len(np.unique(duplicates.near_groups(faint))) == 6

    @pytest.mark.parametrize("shape", [(100, 100), (28, 28), (48, 20)])
    def test_any_size(self, shape: tuple[int, int]) -> None:
        images = np.random.default_rng(0).integers(0, 256, (4, *shape, 3), dtype=np.uint8)
        assert duplicates.near_groups(images[[0, 1, 0, 2, 3, 1]]).tolist() == [0, 1, 0, 2, 3, 1]

    @given(order=st.permutations(range(9)))
    @settings(max_examples=20, deadline=None)
    def test_the_order_does_not_matter(self, order: list[int]) -> None:
        whole = [photograph(seed, side=64) for seed in range(3)]
        images = np.stack(
            [small(one) for image in whole for one in (image, again(image), again(image, quality=60))]
        )
        groups, moved = duplicates.near_groups(images), duplicates.near_groups(images[order])
        same = groups[:, None] == groups[None]
        assert np.array_equal(same[np.ix_(order, order)], moved[:, None] == moved[None])

    @pytest.mark.parametrize("side", [16, 5, 3])
    def test_cells_against_a_loop(self, side: int) -> None:
        image = np.random.default_rng(0).integers(0, 256, (1, 12, 20), dtype=np.uint8)
        fine = np.repeat(np.repeat(image[0], side, axis=0), side, axis=1).astype(float)
        expected = fine.reshape(side, 12, side, 20).mean(axis=(1, 3))
        assert cells(image, side)[0] == pytest.approx(expected)


class TestOtherHalves:
    def test_recordings_at_another_level_or_after_silence(self) -> None:
        draws = np.random.default_rng(0)
        heard = (draws.normal(0, 4000, (5, 4000)) * np.hanning(4000)).astype(np.int16)
        heard[:, 3000:] = 0
        late = np.pad(heard, ((0, 0), (700, 0)))[:, :4000]
        groups = duplicates.near_groups(np.concatenate([heard, heard // 3, late]))
        assert groups.reshape(3, 5).tolist() == [groups[:5].tolist()] * 3
        assert len(np.unique(groups)) == 5

    def test_silence_is_like_nothing_but_itself(self) -> None:
        quiet = np.zeros((3, 100), dtype=np.int16)
        quiet[2, 50] = 1
        assert duplicates.near_groups(quiet).tolist() == [0, 0, 1]

    def test_depth(self) -> None:
        far = np.random.default_rng(0).integers(1000, 4000, (4, 16, 16, 1)).astype(np.uint16)
        near = (far * 1.004).astype(np.uint16)
        holes = far.copy()
        holes[:, :4, :4] = 0
        groups = duplicates.near_groups(np.concatenate([far, near, far * 2, holes]))
        assert groups[:4].tolist() == groups[4:8].tolist()
        assert len(np.unique(groups)) == 12

    def test_features(self) -> None:
        rows = np.random.default_rng(0).standard_normal((300, 16))
        groups = duplicates.feature_groups(np.concatenate([rows, 3 * rows, -rows]))
        assert np.array_equal(groups[:300], groups[300:600])
        assert len(np.unique(groups)) == 600

    def test_joined_names(self) -> None:
        names = ["z", "b", "c", "d"]
        assert duplicates.joined_names(names, np.array([0, 1, 1, 2]), np.array([0, 1, 2, 0])) == list("dbbd")
        assert duplicates.joined_names(names, np.arange(4), np.arange(4)) == names


class TestSets:
    """Sixteen photographs with five sketches each, as copies of files or saved again."""

    @pytest.mark.parametrize("encode", [False, True])
    @pytest.mark.parametrize("columns", ["", "concept"])
    def test_no_photograph_is_in_two_parts(self, tmp_path: Path, encode: bool, columns: str) -> None:
        whole = load_experiment(config(folder_of(tmp_path, encode=encode, columns=columns)))
        parts = [photographs(one) for one in (whole.train_ids, whole.validation.ids, whole.test.ids)]
        assert sum(map(len, parts)) == NUM
        assert all(len(part) >= 2 for part in parts)
        assert whole.unseen == ("concepts" if columns else "pairs")
        assert whole.shared == ""
        assert perfect(whole) == {"recall@1": 1.0}
        assert any("sources, in 16 groups" in line for line in duplicates.duplicate_report(whole))
        assert duplicates.duplicate_summary(whole)

    def test_copies_of_one_source_are_taught_one_feature(self, tmp_path: Path) -> None:
        path = folder_of(tmp_path, encode=True)
        ids = [one.stem for one in sorted((path / "target").iterdir())]
        lines = ["id,concept", *(f"{one},{one.partition('-')[0]}" for one in ids)]
        (path / "pairs.csv").write_text("\n".join(lines))
        data = config(path)
        whole = load_experiment(data)
        names = np.array([one.partition("-")[0] for one in whole.train_ids])
        told = task_of(RunConfig(data=data)).training_features.numpy()
        for one in np.unique(names):
            assert np.ptp(told[names == one], axis=0).max() == 0.0
        assert len(np.unique(told, axis=0)) == len(np.unique(names))
        apart = task_of(RunConfig(data=replace(data, copies="leave-out"))).training_features.numpy()
        assert len(np.unique(apart, axis=0)) > len(np.unique(names))

    def test_copies_of_targets_join_too(self, tmp_path: Path) -> None:
        path = folder_of(tmp_path, encode=False)
        for one in range(NUM - 1):
            sketch(one * EACH).save(path / "target" / f"p{one + 1:02d}-1.png")
        with pytest.raises(DataError, match=r"1 thing over 80 pairs.*Copies of a source or a target"):
            load_experiment(config(path))

    def test_an_archive(self, tmp_path: Path) -> None:
        ids = [f"p{one:02d}-{number}" for one in range(NUM) for number in range(EACH)]
        np.savez(
            tmp_path / "own.npz",
            id=np.array(ids),
            source=np.stack([small(photograph(int(name[1:3]))) for name in ids]),
            target=np.stack([np.asarray(sketch(row).resize((SIDE, SIDE))) for row in range(len(ids))]),
        )
        whole = load_experiment(config(tmp_path / "own.npz"))
        assert not photographs(whole.train_ids) & photographs(whole.test.ids)
        assert perfect(whole) == {"recall@1": 1.0}

    def test_owners_share_photographs(self, tmp_path: Path) -> None:
        path = folder_of(tmp_path, encode=True, columns="owner")
        strict = load_experiment(config(path, split="owner", held_out="who4", val_fraction=0.4))
        assert 2 <= len(strict.test_strict) < NUM
        assert not photographs(strict.test_strict.ids) & photographs(strict.train_ids)
        whole = load_experiment(config(path, split="owner", held_out="who4", val_fraction=0.4, strict=False))
        assert (whole.unseen, len(whole.test)) == ("owners", NUM)
        known = len(photographs(whole.train_ids))
        assert whole.shared == f"{known} of 16 test sources are also in training"
        assert any(whole.shared[2:] in line for line in duplicates.duplicate_report(whole))

    def test_one_photograph_alone_is_refused(self, tmp_path: Path) -> None:
        path = folder_of(tmp_path, encode=False)
        for file in (path / "source").iterdir():
            photograph(0).save(file)
        with pytest.raises(DataError, match="All 80 images of source/ are equal"):
            load_experiment(config(path))

    @pytest.mark.parametrize("name", ["emoji", "objects", "rooms"])
    def test_built_in_sets_have_no_copies_that_count(self, name: str) -> None:
        whole = load_experiment(DataConfig(name=name, image_size=64))
        assert (whole.shared, whole.test.shown, whole.validation.shown) == ("", None, None)
        assert contained_lines(whole.train) == []

    def test_targets_in_their_sources(self) -> None:
        emoji = load_experiment(DataConfig(image_size=64)).train
        burnt = np.minimum(emoji.source, emoji.target)
        inside = contained(PairedData(source=burnt, target=emoji.target))
        assert inside is not None
        assert inside.share > 0.95
        shuffled = PairedData(source=np.roll(burnt, 7, axis=0), target=emoji.target)
        assert contained_lines(shuffled) == []
        (line,) = contained_lines(PairedData(source=burnt, target=emoji.target))
        assert "contained in their sources" in line

    def test_the_report_names_what_teaches_nothing(self, tmp_path: Path) -> None:
        path = folder_of(tmp_path, encode=False)
        Image.new("L", (64, 64), 255).save(path / "target" / "p03-2.png")
        photograph(5).convert("L").save(path / "target" / "p05-1.png")
        sketch(7 * EACH).save(path / "target" / "p07-1.png")
        text = "\n".join(duplicates.duplicate_report(load_experiment(config(path))))
        assert "copy of their own source" in text
        assert "Pairs that equal another pair in both halves: 2 (p07-0, p07-1)" in text
