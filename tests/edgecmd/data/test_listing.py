"""Every visible file of a user's folder is read, or named: as a problem, or in a note."""

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edgecmd.core.errors import DataError
from edgecmd.data.user_files.device_pairs import read_device_pairs
from edgecmd.data.user_files.folder import load_folder
from edgecmd.data.user_files.pair_files import MASKS, PICTURES, SOUNDS, UNREAD, files_by_id
from edgecmd.settings import DataConfig
from tests.user_files import check_folder

SIDE, NUM = 16, 24


def write(path: Path, seed: int, *, colour: bool) -> None:
    shape = (SIDE, SIDE, 3) if colour else (SIDE, SIDE)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)).save(path)


def pairs(folder: Path, names: list[str] | None = None) -> Path:
    for index, name in enumerate(names or [f"p{index:02d}" for index in range(NUM)]):
        write(folder / "source" / f"{name}.png", index, colour=True)
        write(folder / "target" / f"{name}.png", 1000 + index, colour=False)
    return folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return pairs(tmp_path / "mine")


def config(path: Path, **settings: object) -> DataConfig:
    return DataConfig(name="folder", path=str(path), image_size=SIDE, strict=False, **settings)  # type: ignore[arg-type]


def found(path: Path) -> tuple[list[str], list[str]]:
    """Problems and notes of a folder; a run refuses exactly where there are problems."""
    notes: list[str] = []
    problems = check_folder(path, config(path), notes=notes)
    if problems:
        with pytest.raises(DataError) as caught:
            load_folder(config(path))
        assert str(caught.value).startswith(problems[0])
    else:
        assert load_folder(config(path)).notes == tuple(notes)
    return problems, notes


@pytest.mark.parametrize("half", ["source", "target", "public", "target_mask"])
@pytest.mark.parametrize("kind", sorted(UNREAD))
def test_every_ending_that_is_meant_and_not_read_is_named(folder: Path, half: str, kind: str) -> None:
    write(folder / "public" / "one.png", 7, colour=True)
    mask = folder / "target_mask" / "p00.png"
    mask.parent.mkdir()
    Image.new("L", (SIDE, SIDE), 1).save(mask)
    for suffix in UNREAD[kind]:
        (folder / half / f"p00x{suffix.upper()}").write_bytes(b"x")
    problems, _ = found(folder)
    told = "\n".join(problems)
    assert f"{folder / half} has files of another kind: " in told
    for suffix in UNREAD[kind]:
        assert f"1 {suffix} (p00x{suffix.upper()})" in told


def test_many_files_are_one_line(folder: Path) -> None:
    for index in range(3091):
        (folder / "target" / f"n{index:04d}.heic").write_bytes(b"")
    problems, _ = found(folder)
    assert len(problems) == 1
    assert "3091 .heic (n0000.heic, n0001.heic, n0002.heic, ...)" in problems[0]


def test_what_systems_leave_is_passed_over_in_silence(folder: Path) -> None:
    for name in ("Thumbs.db", "desktop.ini", "._p00.png", ".DS_Store", "~$labels.xlsx", "Icon\r"):
        for place in (folder, folder / "source", folder / "target"):
            (place / name).write_bytes(b"x")
    (folder / "source" / "__MACOSX").mkdir()
    (folder / "source" / ".ipynb_checkpoints").mkdir()
    write(folder / "source" / ".ipynb_checkpoints" / "p00.png", 1, colour=True)
    assert found(folder) == ([], [])


def test_other_files_are_noted_and_do_no_harm(folder: Path) -> None:
    for name in ("readme.txt", "notes.txt", "LICENSE"):
        (folder / "source" / name).write_bytes(b"x")
    for name in ("classes.json", "pairs.xlsx", "labels.txt"):
        (folder / name).write_bytes(b"x")
    (folder / "target" / "later").mkdir()
    (folder / "raw").mkdir()
    problems, notes = found(folder)
    assert problems == []
    told = "\n".join(notes)
    assert "not used: 2 .txt (notes.txt, readme.txt), 1 without an ending (LICENSE)." in told
    assert "1 .json (classes.json), 1 .txt (labels.txt), 1 .xlsx (pairs.xlsx), 1 folders (raw/)" in told
    assert "target has empty folders: 1 (later)" in told


@pytest.mark.parametrize("name", ["Labels.csv", "label.csv", "labels.csv.txt", "PAIRS.CSV", "pair.csv"])
def test_a_misspelt_table_is_named(folder: Path, name: str) -> None:
    (folder / name).write_text("id,label\np00,a\n")
    (sentence,) = found(folder)[0]
    assert f"has {name!r}, which is not read. Did you mean" in sentence


def test_what_has_a_known_name_and_is_something_else(folder: Path) -> None:
    (folder / "public").write_text("x")
    (folder / "pairs.csv").mkdir()
    (folder / "labels.csv").symlink_to("/nonexistent.csv")
    told = "\n".join(found(folder)[0])
    assert "public is not a folder. Make it one, or remove it." in told
    assert "pairs.csv cannot be read as CSV: it is not a regular file" in told
    assert "labels.csv links to nothing." in told


@pytest.mark.parametrize("half", ["source", "target"])
def test_a_half_that_is_a_file(folder: Path, half: str) -> None:
    (folder / half).rename(folder / "elsewhere")
    (folder / half).write_text("x")
    assert f"{folder / half} cannot be listed (Not a directory)" in found(folder)[0][0]


@pytest.mark.parametrize("name", ["Public", "target_masks", "target-mask"])
def test_a_misspelt_folder_is_named(folder: Path, name: str) -> None:
    (folder / name).mkdir()
    assert f"has {name!r}, which is not read. Did you mean" in found(folder)[0][0]


def make_odd(path: Path, kind: str) -> None:
    path.unlink()
    if kind == "a link to nothing":
        path.symlink_to("/nonexistent.png")
    elif kind == "a loop of links":
        path.symlink_to(path.name)
    elif kind == "a pipe":
        os.mkfifo(path)
    elif kind == "a folder":
        path.mkdir()


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("a link to nothing", "has 1 entry that links to nothing: p03.png."),
        ("a loop of links", "has 1 entry that links to nothing: p03.png."),
        ("a pipe", "has 1 entry that is not a regular file (a pipe, socket or device): p03.png."),
        ("a folder", "has 1 entry that is a folder with the name of a file: p03.png."),
    ],
)
@pytest.mark.parametrize("half", ["source", "target"])
def test_what_is_no_file_is_named_and_nothing_hangs(
    folder: Path, half: str, kind: str, expected: str
) -> None:
    make_odd(folder / half / "p03.png", kind)
    assert found(folder)[0][0].startswith(f"{folder / half} {expected}")
    assert len(read_device_pairs(folder, config(folder), kind="grey")) == NUM - 1


def test_links_to_files_are_read(folder: Path, tmp_path: Path) -> None:
    (folder / "source" / "p03.png").rename(tmp_path / "real.png")
    (folder / "source" / "p03.png").symlink_to(tmp_path / "real.png")
    assert found(folder) == ([], [])


def test_names_that_are_not_text(folder: Path) -> None:
    for half in ("source", "target"):
        (folder / half / "p00.png").rename(folder / half / os.fsdecode(b"\xff\xfe.png"))
    problems, _ = found(folder)
    assert len(problems) == 2
    assert "has 1 entry that has a name that is not UTF-8: \\udcff\\udcfe.png." in problems[0]
    assert all(one.isprintable() for one in problems)


class TestNested:
    """``source/<folder>/<name>``: the folder is part of the id, and the label of an evaluation."""

    @staticmethod
    def names() -> list[str]:
        return [f"{'cat' if index % 2 else 'dog'}/{index:02d}" for index in range(NUM)]

    def test_folders_are_ids_and_labels(self, tmp_path: Path) -> None:
        folder = pairs(tmp_path / "mine", self.names())
        problems, notes = found(folder)
        assert problems == []
        assert notes == [
            f"{folder} has its pairs in 2 folders (2 (cat, dog)): they are the labels, for evaluation."
        ]
        whole = load_folder(config(folder))
        every = [*whole.train_ids, *whole.validation.ids, *whole.test.ids]
        assert sorted(every) == sorted(self.names())
        assert whole.train_labels.names == ("cat", "dog")
        for name, value in zip(whole.train_ids, whole.train_labels.values, strict=True):
            assert whole.train_labels.names[value] == name.split("/")[0]

    def test_a_table_of_labels_counts_more(self, tmp_path: Path) -> None:
        folder = pairs(tmp_path / "mine", self.names())
        (folder / "labels.csv").write_text("id,label\n" + "".join(f"{one},x\n" for one in self.names()))
        assert load_folder(config(folder)).train_labels.names == ("x",)

    def test_names_may_repeat_in_other_folders(self, tmp_path: Path) -> None:
        names = [f"c{index % 2}/{index // 2:02d}" for index in range(NUM)]
        assert found(pairs(tmp_path / "mine", names))[0] == []

    def test_masks_and_public_may_lie_in_folders(self, tmp_path: Path) -> None:
        folder = pairs(tmp_path / "mine", self.names())
        for name in self.names():
            write(folder / "public" / f"{name}.png", hash(name) % 1000 + 5000, colour=True)
            (folder / "target_mask" / name).parent.mkdir(parents=True, exist_ok=True)
            Image.new("L", (SIDE, SIDE), 1).save(folder / "target_mask" / f"{name}.png")
        assert found(folder)[0] == []
        whole = load_folder(config(folder))
        assert whole.test.labelled.masks is not None
        assert (whole.test.labelled.masks.values == 1).all()
        assert len(whole.public) == NUM

    def test_a_device_reads_the_same_pairs(self, tmp_path: Path) -> None:
        """And one more pair, in whatever folder, adds one row."""
        folder = pairs(tmp_path / "mine", self.names())
        before = read_device_pairs(folder, config(folder), kind="grey")
        assert len(before) == NUM
        write(folder / "source" / "new" / "x.png", 1, colour=True)
        write(folder / "target" / "new" / "x.png", 2, colour=False)
        after = read_device_pairs(folder, config(folder), kind="grey")
        assert set(before.digests) < set(after.digests)
        assert len(after) == NUM + 1
        # A lone file where others lie in folders decides nothing but about itself.
        write(folder / "source" / "y.png", 3, colour=True)
        assert read_device_pairs(folder, config(folder), kind="grey").digests == after.digests

    def test_flat_files_beside_folders(self, tmp_path: Path) -> None:
        folder = pairs(tmp_path / "mine", [*self.names(), "alone"])
        problems, _ = found(folder)
        assert "source has 1 file beside folders with files: 2 (cat, dog). Put all" in problems[0]

    def test_halves_lie_alike(self, tmp_path: Path) -> None:
        folder = pairs(tmp_path / "mine", self.names())
        for path in sorted((folder / "target").glob("*/*.png")):
            path.rename(folder / "target" / path.name)
        (sentence,) = found(folder)[0][:1]
        assert "has folders in source/ and none in target/. Lay out both halves alike" in sentence

    def test_deeper_folders_are_named(self, tmp_path: Path) -> None:
        folder = pairs(tmp_path / "mine", self.names())
        write(folder / "source" / "cat" / "young" / "x.png", 1, colour=True)
        assert "source has folders in folders: 1 (cat/young)" in found(folder)[0][0]


class TestHalves:
    @pytest.mark.parametrize(
        ("other", "expected"),
        [
            ("P03", "differ only by upper and lower case: 'p03' for 'P03'"),
            ("p3", "differ only by leading zeros"),
            ("p03.jpg", "differ only by an ending or a folder of the name: 'p03' for 'p03.jpg'"),
            ("p-03", "differ only by blanks, dashes or underscores: 'p03' for 'p-03'"),
        ],
    )
    def test_what_is_nearly_alike_is_said(self, tmp_path: Path, other: str, expected: str) -> None:
        names = [f"p{index:02d}" if index != 3 else "p03" for index in range(NUM)]
        folder = pairs(tmp_path / "mine", names if other != "p3" else [*names[:3], *names[4:], "q003"])
        if other == "p3":
            (folder / "target" / "q003.png").rename(folder / "target" / "q3.png")
        else:
            (folder / "target" / "p03.png").rename(folder / "target" / f"{other}.png")
        assert expected in found(folder)[0][0]
        assert found(folder)[0][0].endswith("Give both halves the same names.")

    def test_two_files_of_one_id_are_both_named(self, folder: Path) -> None:
        write(folder / "source" / "p05.jpg", 5, colour=True)
        (sentence,) = found(folder)[0]
        assert "more than one file: 1 (p05). The first are 'p05.jpg', 'p05.png'. Keep one" in sentence

    def test_two_unicode_spellings_of_one_name(self, folder: Path) -> None:
        for name in ("\u00e9", "e\u0301"):
            write(folder / "source" / f"{name}.png", len(name), colour=True)
        write(folder / "target" / "\u00e9.png", 9, colour=False)
        assert "look alike but are spelt differently in Unicode" in found(folder)[0][0]

    def test_ids_that_differ_in_case_are_noted(self, folder: Path) -> None:
        for index, name in enumerate(("A", "a")):
            write(folder / "source" / f"{name}.png", 70 + index, colour=True)
            write(folder / "target" / f"{name}.png", 80 + index, colour=False)
        problems, notes = found(folder)
        assert problems == []
        assert "only in upper and lower case: 2 (A, a)" in notes[0]


@pytest.mark.parametrize("suffix", [".jfif", ".jpe", ".apng", ".JFIF"])
def test_other_names_of_what_is_read(folder: Path, suffix: str) -> None:
    """Of the same formats, read alike on a device."""
    form = "PNG" if "png" in suffix else "JPEG"
    path = folder / "source" / "p03.png"
    Image.open(path).save(folder / "source" / f"p03{suffix}", format=form)
    path.unlink()
    assert found(folder) == ([], [])
    assert len(read_device_pairs(folder, config(folder), kind="grey")) == NUM


def test_a_folder_that_cannot_be_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A superuser may list everything, so the system's answer is made up."""
    folder = pairs(tmp_path / "mine")
    real = Path.iterdir

    def refused(self: Path) -> object:
        if self.name == "target":
            raise PermissionError(13, "Permission denied")
        return real(self)

    monkeypatch.setattr(Path, "iterdir", refused)
    assert "target cannot be listed (Permission denied)" in found(folder)[0][0]


def test_a_file_that_may_not_be_read(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path).name != "p03.png" and real(path, mode))
    assert "has 1 entry that may not be read by this user: p03.png" in found(folder)[0][0]


def test_kinds_do_not_overlap() -> None:
    unread = [suffix for group in UNREAD.values() for suffix in group]
    assert len(unread) == len(set(unread))
    assert not set(unread) & {*PICTURES.suffixes, *SOUNDS.suffixes, *MASKS.suffixes}
    assert all(suffix == suffix.lower() and suffix.startswith(".") for suffix in unread)


def test_reading_goes_no_further_than_it_must(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is seen without opening pictures refuses a run before any is opened."""
    opened: list[Path] = []
    monkeypatch.setattr(
        "edgecmd.data.user_files.folder.read_halves", lambda *halves: opened.append(halves[0])
    )
    (folder / "source" / "x.heic").write_bytes(b"")
    with pytest.raises(DataError, match=r"1 \.heic"):
        load_folder(config(folder))
    assert not opened


def test_a_missing_half_is_told_as_before(tmp_path: Path) -> None:
    problems: list[str] = []
    assert files_by_id(tmp_path / "source", problems) == {}
    assert "source is missing. Pairs are source/<id>.png" in problems[0]
