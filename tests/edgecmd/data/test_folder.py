"""A user's own pairs: what is read, how it is split, and every way that it can be wrong."""

import io
import pickle
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edgecmd.core.errors import ConfigError, DataError
from edgecmd.data.experiment import load_experiment
from edgecmd.data.labelled import UNLABELLED
from edgecmd.data.modalities.image import near_duplicates
from edgecmd.data.user_files.folder import load_folder
from edgecmd.data.user_files.user_pairs import position, split_rows
from edgecmd.datasets import emoji
from edgecmd.datasets.emoji import PUBLIC_FILE, load_public, read_shipped
from edgecmd.settings import DataConfig
from tests.user_files import check_folder, read_pairs

NUM = 30
SIDE = 16


def noise(seed: int, *, size: tuple[int, int] = (SIDE, SIDE), channels: int | None = 3) -> np.ndarray:
    shape = size[::-1] if channels is None else (*size[::-1], channels)
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def save(path: Path, array: np.ndarray, **options) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path, **options)


def fill(folder: Path, *, num: int = NUM, size: tuple[int, int] = (SIDE, SIDE), colour: bool = False) -> Path:
    for index in range(num):
        save(folder / "source" / f"p{index:02d}.png", noise(index, size=size))
        target = noise(1000 + index, size=size, channels=3 if colour else None)
        save(folder / "target" / f"p{index:02d}.png", target)
    return folder


def config(path: Path, **settings) -> DataConfig:
    return DataConfig(name="folder", path=str(path), **{"image_size": SIDE, **settings})


def arrays(num: int = NUM, **extra) -> dict[str, np.ndarray]:
    source = (
        np.stack([noise(index) for index in range(num)]) if num else np.zeros((0, SIDE, SIDE, 3), np.uint8)
    )
    return {
        "source": source,
        "target": np.stack([noise(1000 + index) for index in range(num)])[..., :1],
        **extra,
    }


def archive(path: Path, **content) -> Path:
    np.savez(path, **content)
    return path


@pytest.fixture
def folder(tmp_path) -> Path:
    return fill(tmp_path / "mine")


def problem(path: Path, **settings) -> str:
    """The message of `load_folder`; its first sentence must be what `check_folder` lists first."""
    with pytest.raises(DataError) as caught:
        load_folder(config(path, **settings))
    assert str(caught.value).startswith(check_folder(path, image_size=settings.get("image_size", SIDE))[0])
    return str(caught.value)


class TestLoad:
    def test_through_load_experiment(self, folder):
        whole = load_experiment(config(folder))
        assert (whole.name, whole.kind) == ("mine", "user")
        assert len(whole.train) + len(whole.validation) + len(whole.test) == NUM
        assert whole.train.source.shape[1:] == (SIDE, SIDE, 3)
        assert whole.train.target.shape[1:] == (SIDE, SIDE, 1)
        assert check_folder(folder, image_size=SIDE) == []

    def test_pairs_stay_pairs(self, folder):
        whole = load_folder(config(folder))
        held = [(whole.train, whole.train_ids), (whole.test.pairs, whole.test.ids)]
        for part, ids in held:
            for row, name in enumerate(ids):
                assert np.array_equal(part.source[row], noise(int(name[1:])))
                assert np.array_equal(part.target[row, ..., 0], noise(1000 + int(name[1:]), channels=None))
        every = sorted((*whole.train_ids, *whole.validation.ids, *whole.test.ids))
        assert every == [f"p{index:02d}" for index in range(NUM)]

    def test_without_tables_there_are_no_labels(self, folder):
        whole = load_folder(config(folder))
        assert dict(whole.test.labelled.labels) == {}
        for one in (whole.train_owner, whole.train_labels, whole.train_subgroup):
            assert one.names == ()
            assert (one.values == UNLABELLED).all()

    def test_tables(self, folder):
        lines = [f"p{index:02d},o{index % 2},c{index // 3}" for index in range(NUM)]
        (folder / "pairs.csv").write_text(
            "\ufeffid, Owner,concept\n" + "\n".join(reversed(lines)), encoding="utf-8"
        )
        labelled = [f'p{index:02d},"b, {index % 2}"' for index in range(NUM - 10)]
        (folder / "labels.csv").write_text("id,label\n" + "\n".join(labelled))
        whole = load_folder(config(folder))
        assert whole.train_owner.names == ("o0", "o1")
        assert whole.train_labels.names == ("b, 0", "b, 1")
        for row, name in enumerate(whole.train_ids):
            index = int(name[1:])
            assert whole.train_owner.values[row] == index % 2
            assert whole.train_labels.values[row] == (index % 2 if index < NUM - 10 else UNLABELLED)
        assert set(whole.test.labelled.labels) == {"group", "concept", "owner"}
        parts = [whole.train_ids, whole.validation.ids, whole.test.ids]
        concepts = [{int(name[1:]) // 3 for name in ids} for ids in parts]
        assert sum(map(len, concepts)) == len(set.union(*concepts))

    def test_other_file_types_and_suffix_case(self, folder):
        for name, options in (("a.JPG", {"format": "JPEG"}), ("b.jpeg", {}), ("c.webp", {"lossless": True})):
            save(folder / "source" / name, noise(5), **options)
            save(folder / "target" / f"{name[0]}.png", noise(6 + ord(name[0]), channels=None))
        (folder / "source" / ".DS_Store").write_bytes(b"")
        (folder / "source" / "readme.txt").write_bytes(b"")
        assert check_folder(folder, image_size=SIDE) == []
        assert len(read_pairs(folder, config(folder))) == NUM + 3

    def test_unicode_forms_of_a_name_are_one_id(self, folder):
        save(folder / "source" / "a\u0308.png", noise(1))
        save(folder / "target" / "\u00e4.png", noise(2, channels=None))
        assert check_folder(folder, image_size=SIDE) == []


class TestImages:
    def one(self, tmp_path, *, source=None, target=None, **settings):
        """Source and target of a folder with one special pair, which comes first."""
        path = fill(tmp_path / "mine", num=2)
        for name, array in (("source", source), ("target", target)):
            grey = noise(7, channels=None if name == "target" else 3)
            save(path / name / "a.png", array if array is not None else grey)
        pairs = read_pairs(path, config(path, **settings))
        return pairs.source[0], pairs.target[0]

    def test_larger_images_are_averaged(self, tmp_path):
        big = noise(1, size=(32, 32))
        source, target = self.one(tmp_path, source=big, target=big[..., 0])
        mean = big.reshape(16, 2, 16, 2, 3).astype(float).mean(axis=(1, 3))
        assert np.abs(source - mean).max() <= 0.5
        assert np.abs(target[..., 0] - mean[..., 0]).max() <= 0.5

    def test_sizes_that_are_no_multiple_keep_the_mean(self, tmp_path):
        ramp = np.tile(np.linspace(0, 255, 50).astype(np.uint8), (40, 1))
        source, target = self.one(tmp_path, source=ramp, target=ramp[:20, :25])
        assert source.shape == (SIDE, SIDE, 3)
        assert abs(float(source.mean()) - float(ramp.mean())) < 1
        assert (np.diff(target[0, :, 0].astype(int)) >= 0).all()

    def test_transparency_is_white(self, tmp_path):
        rgba = np.zeros((SIDE, SIDE, 4), np.uint8)
        rgba[0, 0] = (10, 20, 30, 255)
        source, _ = self.one(tmp_path, source=rgba)
        assert source[0, 0].tolist() == [10, 20, 30]
        assert (source.reshape(-1, 3)[1:] == 255).all()

    def test_grey_with_alpha_is_grey_over_white(self, tmp_path):
        grey_alpha = np.zeros((SIDE, SIDE, 2), np.uint8)
        _, target = self.one(tmp_path, target=grey_alpha)
        assert target.shape == (SIDE, SIDE, 1)
        assert (target == 255).all()

    def test_one_bit_target(self, tmp_path):
        bits = noise(1, channels=None) > 127
        _, target = self.one(tmp_path, target=bits)
        assert np.array_equal(target[..., 0], np.where(bits, 255, 0))

    def test_colour_targets_keep_their_channels(self, tmp_path):
        path = fill(tmp_path / "mine", colour=True)
        pairs = read_pairs(path, config(path))
        assert np.array_equal(pairs.target[3], noise(1003))

    def test_mixed_targets_become_grey_where_that_is_asked_for(self, tmp_path):
        colour = noise(7)
        _, target = self.one(tmp_path, target=colour, target_kind="grey")
        assert np.array_equal(target[..., 0], np.asarray(Image.fromarray(colour).convert("L")))

    def test_palette_and_orientation(self, tmp_path):
        path = fill(tmp_path / "mine", num=2)
        Image.fromarray(noise(1)).convert("P").save(path / "target" / "a.png")
        for name in ("p00", "p01"):
            save(path / "target" / f"{name}.png", noise(9))
        turned = Image.new("RGB", (SIDE, SIDE))
        turned.paste("white", (0, 0, SIDE, 8))
        exif = turned.getexif()
        exif[0x0112] = 3  # upside down
        turned.save(path / "source" / "a.png", exif=exif)
        source = read_pairs(path, config(path)).source[0]
        assert (source[:8] == 0).all()
        assert (source[8:] == 255).all()


class TestSplit:
    def test_independent_of_order(self):
        concepts = [f"c{index}" for index in range(200)]
        forward = split_rows(concepts, val_fraction=0.1, test_fraction=0.2)
        backward = split_rows(concepts[::-1], val_fraction=0.1, test_fraction=0.2)
        for one, other in zip(forward, backward, strict=True):
            assert {concepts[row] for row in one} == {concepts[::-1][row] for row in other}

    def test_a_concept_stays_when_others_come(self):
        concepts = [f"c{index}" for index in range(400)]
        few = split_rows(concepts[:200], val_fraction=0.1, test_fraction=0.2)
        many = split_rows(concepts, val_fraction=0.1, test_fraction=0.2)
        for one, other in zip(few, many, strict=True):
            assert set(one) == {row for row in other if row < 200}

    def test_shares(self):
        concepts = [f"c{index}" for index in range(5000)]
        parts = split_rows(concepts, val_fraction=0.1, test_fraction=0.2)
        assert [len(part) / 5000 for part in parts] == pytest.approx([0.7, 0.1, 0.2], abs=0.02)

    def test_position_by_hand(self):
        # sha256("abc") begins with ba7816bf.
        assert position("abc") == pytest.approx(0xBA7816BF / 2**32, abs=1e-9)

    @pytest.mark.parametrize("num", [6, 7, 20])
    def test_small_sets_have_two_in_each_part(self, num):
        parts = split_rows([f"c{index}" for index in range(num)], val_fraction=0.01, test_fraction=0.01)
        assert min(len(part) for part in parts) >= 2
        assert sorted(np.concatenate(parts).tolist()) == list(range(num))

    def test_too_few_concepts(self, folder):
        lines = [f"p{index:02d},c{index % 2}" for index in range(NUM)]
        (folder / "pairs.csv").write_text("id,concept\n" + "\n".join(lines))
        assert "2 concepts over 30 pairs give 0 training" in problem(folder)

    def test_the_way_out_is_one_that_there_is(self, folder):
        for index in range(NUM):
            save(folder / "source" / f"p{index:02d}.png", noise(index % 2))
        told = problem(folder)
        assert "2 things over 30 pairs give 0 training" in told
        assert "column concept" not in told
        assert "val_fraction" not in told
        (folder / "pairs.csv").write_text(
            "id,owner\n" + "\n".join(f"p{index:02d},o{index % 2}" for index in range(NUM))
        )
        with pytest.raises(DataError, match=r"2 owners over 30 pairs.*Add pairs of other owners"):
            load_folder(config(folder, split="owner"))

    def test_smaller_fractions_are_named_where_they_help(self):
        names = [f"c{index}" for index in range(6)]
        with pytest.raises(DataError, match=r"Or lower data\.val_fraction"):
            split_rows(names, val_fraction=0.5, test_fraction=0.5)
        with pytest.raises(DataError, match=r"other concepts\.$"):
            split_rows(names[:4], val_fraction=0.1, test_fraction=0.1)

    def test_blank_concepts_are_the_ids(self, folder):
        plain = load_folder(config(folder))
        (folder / "pairs.csv").write_text(
            "id,concept\n" + "\n".join(f"p{index:02d}," for index in range(NUM))
        )
        assert load_folder(config(folder)).train_ids == plain.train_ids


class TestStrict:
    def test_correlation_by_hand(self):
        train = noise(1)[None]
        scaled = (train // 2 + 30).astype(np.uint8)
        flat = np.full_like(train, 7)
        test = np.concatenate([train, scaled, 255 - train, noise(2)[None], flat])
        assert near_duplicates(test, train).tolist() == [True, True, False, False, False]
        assert near_duplicates(flat, flat).tolist() == [False]
        assert near_duplicates(test, train[:0]).tolist() == [False] * 5

    def test_against_numpy(self):
        train, test = np.stack([noise(i, size=(48, 48)) for i in range(4)]), noise(9, size=(48, 48))[None]
        small = [one.reshape(16, 3, 16, 3, 3).mean(axis=(1, 3)).ravel() for one in (*test, *train)]
        expected = np.corrcoef(small)[0, 1:].max()
        assert near_duplicates(test, train, threshold=expected - 1e-4).tolist() == [True]
        assert near_duplicates(test, train, threshold=expected + 1e-4).tolist() == [False]

    def test_look_alikes_leave_the_strict_test(self, folder):
        whole = load_folder(config(folder))
        twin, original = whole.test.ids[0], whole.train_ids[0]
        # At half of the contrast: alike, and no copy.
        seen = noise(1000 + int(original[1:]), channels=None)
        save(folder / "target" / f"{twin}.png", seen // 2 + 30)
        assert load_folder(config(folder)).test_strict.ids == whole.test.ids[1:]
        loose = load_folder(config(folder, strict=False))
        assert loose.test_strict is loose.test

    def test_nothing_left(self, folder):
        for index in range(NUM):
            # A correlation of 0.94 between any two of them.
            mixed = 0.8 * noise(1, channels=None) + 0.2 * noise(100 + index, channels=None)
            save(folder / "target" / f"p{index:02d}.png", mixed.astype(np.uint8))
        with pytest.raises(DataError, match=r"a correlation above 0.9 to a training.*data.strict to false"):
            load_folder(config(folder))

    def test_nothing_left_where_owners_show_the_same_is_a_note(self, folder):
        """Owners draw the same ten things: every source of the test is one of training."""
        for index in range(NUM):
            save(folder / "source" / f"p{index:02d}.png", noise(index % 10))
        lines = [f"p{index:02d},o{index // 10},c{index % 10}" for index in range(NUM)]
        (folder / "pairs.csv").write_text("id,owner,concept\n" + "\n".join(lines))
        whole = load_folder(config(folder, split="owner", held_out="o2", labels_from="o1"))
        assert whole.test_strict is whole.test
        assert any("10 of 10 test pairs look like" in one and "no strict test" in one for one in whole.notes)

    def test_the_way_out_follows_the_column(self, folder):
        for index in range(NUM):
            mixed = 0.8 * noise(1, channels=None) + 0.2 * noise(100 + index, channels=None)
            save(folder / "target" / f"p{index:02d}.png", mixed.astype(np.uint8))
        assert "Name the column concept" in problem(folder, strict=True)
        lines = [f"p{index:02d},c{index}" for index in range(NUM)]
        (folder / "pairs.csv").write_text("id,concept\n" + "\n".join(lines))
        told = problem(folder, strict=True)
        assert "Name the column concept" not in told
        assert "Give look-alikes one name in the column concept, or set data.strict to false" in told


class TestPublic:
    def test_built_in(self, folder):
        assert load_folder(config(folder)).public.fingerprint() == load_public(image_size=SIDE).fingerprint()

    def test_folder_beside_the_pairs(self, folder):
        for index in (2, 1):
            save(folder / "public" / f"{index}.png", noise(50 + index))
        public = load_folder(config(folder)).public
        assert (public.name, public.keys) == ("mine/public", ("1", "2"))
        assert np.array_equal(public.images, [noise(51), noise(52)])

    def test_setting_comes_first(self, folder, tmp_path):
        save(folder / "public" / "a.png", noise(50))
        save(tmp_path / "elsewhere" / "b.png", noise(51))
        assert load_folder(config(folder, public_path=str(tmp_path / "elsewhere"))).public.keys == ("b",)

    def test_missing_folder(self, folder, tmp_path):
        with pytest.raises(DataError, match="elsewhere' is not an existing folder"):
            load_folder(config(folder, public_path=str(tmp_path / "elsewhere")))

    def test_private_image_in_it(self, folder):
        save(folder / "public" / "x.png", noise(3))
        text = problem(folder)
        assert "x = p03" in text
        assert "must not be private" in text

    def test_broken_and_empty(self, folder):
        (folder / "public").mkdir()
        assert "public has no image" in problem(folder)
        (folder / "public" / "a.png").write_bytes(b"")
        assert "a.png cannot be decoded" in problem(folder)

    @pytest.mark.parametrize(("side", "num"), [(48, 1447), (80, 1447), (224, 20)])
    def test_every_size_has_a_built_in_set(self, tmp_path, monkeypatch, side, num):
        """The resized pictures are Pillow's own bilinear ones, and a person is told; of 224 pixels a few."""
        first = Image.fromarray(load_public().images[7])
        shipped = {key: value[:num] for key, value in read_shipped(PUBLIC_FILE).items()}
        monkeypatch.setattr(emoji, "read_shipped", lambda _: shipped)
        path, notes = fill(tmp_path / "mine", size=(side, side)), []
        public = load_folder(config(path, image_size=side)).public
        assert public.images.shape == (num, side, side, 3)
        expected = np.asarray(first.resize((side, side), Image.Resampling.BILINEAR))
        assert np.array_equal(public.images[7], expected)
        assert check_folder(path, image_size=side, notes=notes) == []
        assert any("enlarged" in note for note in notes) == (side > 64)


class TestFolderProblems:
    def test_no_path(self):
        with pytest.raises(ConfigError, match=r"data\.path='' names no pairs"):
            load_folder(DataConfig(name="folder"))

    def test_missing(self, tmp_path):
        assert "nowhere does not exist" in problem(tmp_path / "nowhere")

    def test_neither_folder_nor_npz(self, tmp_path):
        (tmp_path / "a.txt").write_text("x")
        assert "is not a folder or an .npz" in problem(tmp_path / "a.txt")

    def test_empty(self, tmp_path):
        assert "source is missing" in problem(tmp_path)
        (tmp_path / "source").mkdir()
        (tmp_path / "target").mkdir()
        assert "source has no image" in problem(tmp_path)
        assert len(check_folder(tmp_path)) == 2

    def test_unmatched(self, folder):
        for index in range(7):
            (folder / "target" / f"p{index:02d}.png").unlink()
        (folder / "source" / "p20.png").unlink()
        text = problem(folder)
        assert "ids in source/ without a file in target/: 7 (p00, p01, p02, p03, p04, ...)" in text
        assert "1 more" in text
        assert "edgecmd data check" in text
        assert "ids in target/ without a file in source/: 1 (p20)" in check_folder(folder)[1]

    @pytest.mark.parametrize(
        "damage", [lambda data: b"", lambda data: b"text", lambda data: data[: len(data) // 2]]
    )
    @pytest.mark.parametrize("suffix", ["png", "jpg", "webp"])
    def test_broken_image(self, folder, damage, suffix):
        path = folder / "source" / f"a.{suffix}"
        save(path, noise(1, size=(64, 64)))
        path.write_bytes(damage(path.read_bytes()))
        save(folder / "target" / "a.png", noise(2))
        assert f"a.{suffix} cannot be decoded" in problem(folder)

    def test_foreign_format_under_a_known_suffix(self, folder):
        Image.fromarray(noise(1)).save(folder / "source" / "p00.png", format="BMP")
        assert "p00.png cannot be decoded as PNG, JPEG or WebP" in problem(folder)

    def test_sixteen_bits(self, folder):
        save(folder / "target" / "p03.png", noise(1, channels=None).astype(np.uint16) * 256)
        text = problem(folder)
        assert "1 (p03) of 16 bits, which are depth maps, and 29 (p00" in text
        (folder / "target" / "p03.png").unlink()
        save(folder / "target" / "p03.png", noise(3, channels=None))
        save(folder / "source" / "p04.png", noise(1, channels=None).astype(np.uint16) * 256)
        assert "p04.png has 16 bits per pixel (mode I;16): a depth map, which only a target" in problem(
            folder
        )
        assert "8 bits" in text

    def test_too_small(self, folder):
        text = problem(folder, image_size=32)
        assert "p00.png has 16x16 pixels; data.image_size=32 needs 32 at least" in text
        assert "29 more: `edgecmd data check" in text

    def test_different_shapes(self, folder):
        save(folder / "target" / "p01.png", noise(1, size=(32, 16), channels=None))
        assert "target/p01.png: the source has 16x16 pixels, the target 32x16" in problem(folder)

    def test_too_few(self, tmp_path):
        path = fill(tmp_path / "mine", num=19)
        assert "has 19 usable pairs; at least 20" in problem(path)

    def test_two_files_for_an_id(self, folder):
        save(folder / "source" / "p00.jpg", noise(1))
        assert "ids with more than one file: 1 (p00)" in problem(folder)

    def test_other_image_files(self, folder):
        save(folder / "source" / "x.bmp", noise(1))
        assert "files of another kind: 1 .bmp (x.bmp)" in problem(folder)

    def test_check_lists_all(self, folder):
        (folder / "source" / "p00.png").write_bytes(b"")
        save(folder / "target" / "p01.png", noise(1, size=(8, 8)))
        (folder / "labels.csv").write_text("id,label\nzz,1\n")
        assert len(check_folder(folder, image_size=SIDE)) == 3


class TestTableProblems:
    @pytest.mark.parametrize(
        ("name", "content", "expected"),
        [
            ("labels.csv", "id,label\np00,a\nzz,b\n", "labels.csv names ids without a pair: 1 (zz)"),
            ("labels.csv", "id,label\np00,a\np00,b\n", "names an id more than once: 1 (p00)"),
            ("labels.csv", "id,class\np00,a\n", "lacks the column label; its first line is 'id,class'"),
            ("labels.csv", "id:label\np00:a\n", "separated by commas"),
            ("labels.csv", "", "labels.csv is empty. Its first line must name id,label"),
            (
                "labels.csv",
                "id,label\np00,a,b\n",
                "1 line without exactly 2 cells, the first is 'p00,a,b' in line 2",
            ),
            ("labels.csv", 'id,label\n"p00,a\n', "cannot be read as CSV"),
            ("pairs.csv", "name,owner\np00,a\n", "pairs.csv lacks the column id"),
            ("pairs.csv", "id,owner\np00,a\n", "pairs.csv has no line for 29 (p01, p02, p03, p04, p05, ...)"),
            ("pairs.csv", "id,owners\np00,a\n", "pairs.csv has 'owners'. Did you mean 'owner'?"),
        ],
    )
    def test_message(self, folder, name, content, expected):
        (folder / name).write_text(content)
        assert expected in problem(folder)

    def test_encoding(self, folder):
        (folder / "labels.csv").write_bytes(b"id,label\np00,\xe4\n")
        assert "labels.csv cannot be read as CSV" in problem(folder)


class TestArchive:
    def test_equals_the_folder(self, folder, tmp_path):
        ids = np.array([f"p{index:02d}" for index in range(NUM)])
        content = arrays(id=ids, owner=np.arange(NUM) % 3 - 1, label=ids)
        content["target"] = np.stack([noise(1000 + index, channels=None) for index in range(NUM)])
        order = np.random.default_rng(0).permutation(NUM)
        path = archive(tmp_path / "set.npz", **{name: array[order] for name, array in content.items()})
        one, other = load_folder(config(folder)), load_folder(config(path))
        assert check_folder(path, image_size=SIDE) == []
        assert one.train_ids == other.train_ids
        assert one.train.fingerprint() == other.train.fingerprint()
        assert one.test.pairs.fingerprint() == other.test.pairs.fingerprint()
        assert other.name == "set"
        assert other.train_owner.names == ("0", "1")
        rows = np.array([int(name[1:]) for name in other.train_ids])
        assert np.array_equal(other.train_owner.values, rows % 3 - 1)
        assert set(other.test.labelled.labels) == {"group", "owner"}

    def test_shapes_and_public(self, tmp_path):
        big = np.stack([noise(index, size=(32, 48)) for index in range(NUM)])
        path = archive(tmp_path / "set.npz", source=big[..., :1], target=big, public=big[:11, ..., 1])
        whole = load_folder(config(path))
        assert whole.train.source.shape[1:] == whole.train.target.shape[1:] == (SIDE, SIDE, 3)
        assert (np.ptp(whole.train.source, axis=-1) == 0).all()
        assert whole.public.keys == tuple(f"{row:02d}" for row in range(11))
        assert whole.public.images.shape == (11, SIDE, SIDE, 3)
        mean = big[3].reshape(16, 3, 16, 2, 3).mean(axis=(1, 3))
        assert np.abs(read_pairs(path, config(path)).target[3] - mean).max() <= 0.5

    @pytest.mark.parametrize(
        ("change", "expected"),
        [
            ({"target": None}, "lacks the array 'target'; it has source"),
            ({"source": None, "target": None}, "lacks the array 'source'; it has none"),
            (
                {"source": np.zeros((NUM, SIDE, SIDE, 3))},
                "has source of dtype=float64 and shape=(30, 16, 16, 3)",
            ),
            ({"target": np.zeros((NUM, SIDE, SIDE, 3), np.uint16)}, "has target of dtype=uint16"),
            ({"target": np.zeros((NUM, SIDE, SIDE, 4), np.uint8)}, "with 1 or 3 channels"),
            ({"target": np.zeros((NUM, SIDE), np.uint8)}, "target 0: The text '' is empty"),
            ({"target": np.zeros((NUM, SIDE), np.int8)}, "has target of dtype=int8 and shape=(30, 16)"),
            ({"target": np.zeros((NUM - 1, SIDE, SIDE), np.uint8)}, "has 29 rows of target for 30 of source"),
            (
                {"target": np.zeros((NUM, SIDE, 32), np.uint8)},
                "the source has 16x16 pixels, the target 32x16",
            ),
            ({"target": np.zeros((NUM, 8, 8), np.uint8)}, "target has 8x8 pixels"),
            ({"id": np.array(["a"] * NUM)}, "repeats 1 (a) in id"),
            ({"id": np.arange(3)}, "has 3 rows of id for 30 of source"),
            ({"owner": np.zeros(NUM)}, "has owner of dtype=float64"),
            ({"owner": np.array(["a"] * NUM, dtype=object)}, "need pickle, which is refused"),
            ({"labels": np.zeros(NUM)}, "has 'labels'. Did you mean 'label'?"),
            ({"public": np.zeros((2, 8, 8), np.uint8)}, "public has 8x8 pixels"),
            (
                {"source": np.zeros((0, SIDE, SIDE, 3), np.uint8), "target": np.zeros((0, 32, 32), np.uint8)},
                "has source of shape=(0, 16, 16, 3), which is empty",
            ),
        ],
    )
    def test_message(self, tmp_path, change, expected):
        content = {name: array for name, array in (arrays() | change).items() if array is not None}
        path = archive(tmp_path / "set.npz", **content)
        assert expected in problem(path)

    def test_not_an_archive(self, tmp_path):
        path = tmp_path / "set.npz"
        for content in (b"", b"text", pickle.dumps({"source": 1})):
            path.write_bytes(content)
            assert "set.npz is not an .npz archive" in problem(path)
        buffer = io.BytesIO()
        np.save(buffer, np.zeros(3))
        path.write_bytes(buffer.getvalue())
        assert "is not an .npz archive" in problem(path)

    def test_damaged(self, tmp_path):
        path = archive(tmp_path / "set.npz", **arrays())
        data = bytearray(path.read_bytes())
        data[2000:2100] = b"\x00" * 100
        path.write_bytes(data)
        assert "The file is damaged" in problem(path)

    def test_zip_of_something_else(self, tmp_path):
        path = tmp_path / "set.npz"
        with zipfile.ZipFile(path, "w") as archive_file:
            archive_file.writestr("source", "text")
            archive_file.writestr("readme.txt", "text")
        assert "lacks the array 'source'; it has none that edgecmd knows" in problem(path)
