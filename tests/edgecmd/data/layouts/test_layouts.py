"""Public sets as people have them on disk: made-up trees of the same layout, read, split and refused."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edgecmd.catalogue.data_files import status
from edgecmd.catalogue.data_sets import DATA_SETS, imported
from edgecmd.core.errors import ConfigError, DataError
from edgecmd.data.experiment import Experiment, load_experiment
from edgecmd.data.labelled import IGNORED, UNLABELLED
from edgecmd.data.modalities.table import modality_of
from edgecmd.data.user_files.downsample import median_of_measured
from edgecmd.data.user_files.user_pairs import drawn
from edgecmd.datasets.on_disk import load
from edgecmd.datasets.on_disk.load import index_of
from edgecmd.datasets.on_disk.sketchy import index_sketchy
from edgecmd.datasets.on_disk.sunrgbd import millimetres
from edgecmd.evaluation.metrics import recall, unit_rows
from edgecmd.settings import DataConfig
from export.from_run import retrieval_metric
from tests.edgecmd.data.layouts import trees
from tests.user_files import check_layout

SIDE = 16
LAYOUTS = [name for name, row in DATA_SETS.items() if row.layout]


def config(name: str, path: Path, **settings: object) -> DataConfig:
    return DataConfig(name=name, path=str(path), **{"image_size": SIDE, **settings})


def parts_of(whole: Experiment) -> list[tuple[str, ...]]:
    return [whole.train_ids, whole.validation.ids, whole.test.ids]


def disjoint(whole: Experiment, concept) -> bool:
    """Whether no concept is in two parts."""
    sets = [{concept(name) for name in ids} for ids in parts_of(whole)]
    return len(set.union(*sets)) == sum(map(len, sets))


def label_of(whole: Experiment, row: int) -> str:
    labels = whole.train_labels
    return labels.names[labels.values[row]] if labels.values[row] != UNLABELLED else ""


def problems(settings: DataConfig, notes: list[str] | None = None) -> str:
    return "\n".join(check_layout(settings, notes=notes if notes is not None else []))


class TestAll:
    def test_each_is_registered_and_described(self):
        for name in LAYOUTS:
            assert callable(imported(DATA_SETS[name].layout))
            assert status(name) == "data.path"
            assert DATA_SETS[name].kind == ("class-paired" if name == "tuberlin" else "real")

    @pytest.mark.parametrize("name", [name for name in LAYOUTS if name != "tuberlin"])
    def test_another_layout_is_refused_with_what_was_expected_and_found(self, tmp_path: Path, name: str):
        (tmp_path / "something").mkdir()
        (tmp_path / "clip.mp4").write_bytes(b"")
        with pytest.raises(DataError, match=r"Expected: .*Found in .*clip.mp4, something/") as caught:
            load_experiment(config(name, tmp_path))
        assert problems(config(name, tmp_path)) == str(caught.value)
        with pytest.raises(DataError, match="Found in"):
            load_experiment(config(name, tmp_path / "nowhere" / "below"))

    def test_no_path(self):
        with pytest.raises(ConfigError, match="data.path='' names no files"):
            load_experiment(DataConfig(name="sketchy"))

    def test_a_scale_is_stated_by_the_set(self, tmp_path: Path):
        with pytest.raises(ConfigError, match="its files state their unit"):
            load_experiment(config("nyu", tmp_path, depth_scale_mm=0.2))

    def test_limit_is_nested_and_blind_to_the_split(self):
        ids, notes = [f"{row:03d}" for row in range(200)], list[str]()
        few, more, every = (
            [ids[row] for row in drawn(ids, DataConfig(max_pairs=most), notes=notes)] for most in (50, 100, 0)
        )
        assert (len(few), len(more), len(every)) == (50, 100, 200)
        assert {*few} < {*more}
        assert few == sorted(few)
        assert notes == [
            f"{most} of 200 pairs are used, chosen by a hash of their ids; data.max_pairs=0 uses all."
            for most in (50, 100)
        ]
        with pytest.raises(ConfigError, match="Under privacy that is refused: one more pair would push"):
            drawn(ids, DataConfig(max_pairs=50, copies="leave-out"), notes=notes)
        assert drawn(ids, DataConfig(max_pairs=200, copies="leave-out"), notes=notes) == list(range(200))


def twice(files: list[Path]) -> None:
    """Make each second file a copy of the one before it, as frames of a burst are."""
    for first, second in zip(files[::2], files[1::2]):
        second.write_bytes(first.read_bytes())


def sources_of_sketchy(root: Path) -> Path:
    return trees.sketchy(root, photos=8, sketches=3, tests=False)


def sources_of_sunrgbd(root: Path) -> Path:
    trees.sunrgbd(root)
    twice(sorted(root.glob("SUNRGBD/**/image/*.jpg")))
    return root


def sources_of_vggsound(root: Path) -> Path:
    trees.vggsound(root)
    twice(sorted(root.glob("**/*.jpg")))
    return root


MADE = {
    "sketchy": ("256x256/sketch/tx_000000000000/zebra", trees.sketchy),
    "sunrgbd": ("", trees.sunrgbd),
    "vggsound": ("audio", trees.vggsound),
}


@pytest.mark.parametrize("name", MADE)
def test_files_that_are_not_used_are_named(tmp_path: Path, name: str):
    folder, make = MADE[name]
    root = make(tmp_path)
    before = not_used_notes(name, root)
    for file in ("x.bmp", "y.BMP", "z.txt", ".hidden", "Thumbs.db"):
        (root / folder / file).write_bytes(b"x")
    (root / folder / "loop").symlink_to(root, target_is_directory=True)
    after = not_used_notes(name, root)
    assert not any(".bmp" in one for one in before)
    assert len(after) == 1
    beside = f"{folder}/" if folder else ""
    assert f"2 .bmp ({beside}x.bmp, {beside}y.BMP)" in after[0]
    assert f"{beside}z.txt" in after[0]
    assert "hidden" not in after[0]


def not_used_notes(name: str, root: Path) -> list[str]:
    return [one for one in index_of(config(name, root)).notes if "files that are not used" in one]


def test_files_beside_sketches_and_photographs_are_named(tmp_path: Path):
    root, photos = trees.tuberlin(tmp_path)
    for folder in (root / "png" / "airplane", photos / "Airplane"):
        (folder / "x.bmp").write_bytes(b"x")
    notes = not_used_notes_of_tuberlin(root, photos)
    assert len(notes) == 2
    assert "1 .bmp (png/airplane/x.bmp)" in notes[0]
    assert "1 .bmp (Airplane/x.bmp)" in notes[1]
    # Sketches of a class without photographs are spoken of by the class.
    assert ".png" not in notes[0]
    assert (
        len(not_used_notes_of_tuberlin(tmp_path / "sketches", tmp_path / "sketches" / ".." / "photos")) == 2
    )


def not_used_notes_of_tuberlin(root: Path, photos: Path) -> list[str]:
    settings = config("tuberlin", root, source_path=str(photos))
    return [one for one in index_of(settings).notes if "files that are not used" in one]


class TestPerfectStudent:
    """Several targets of one source: whoever finds the source of each has found everything."""

    @pytest.mark.parametrize(
        ("name", "made"),
        [
            ("sketchy", sources_of_sketchy),
            ("sunrgbd", sources_of_sunrgbd),
            ("vggsound", sources_of_vggsound),
        ],
    )
    def test_retrieves_everything(self, tmp_path: Path, name: str, made):
        whole = load_experiment(config(name, made(tmp_path), test_fraction=0.4))
        held = whole.test
        seen = np.unique([one.tobytes() for one in held.pairs.source], return_inverse=True)[1]
        assert 2 <= len(np.unique(seen)) < len(held)
        features = np.random.default_rng(0).standard_normal((len(held), 32)).astype(np.float32)[seen]
        student = unit_rows(features)
        assert recall(student, features, ranks=(1,), shown=held.shown) == {"recall@1": 1.0}
        task = retrieval_metric(features, shown=held.shown)
        assert task.metric(student) == 1.0
        # All sources are things of which one is right, so an answer that is always the same finds one.
        constant = np.repeat(student[:1], len(held), axis=0)
        assert task.metric(constant) == pytest.approx(1 / len(np.unique(seen)))


class TestSketchy:
    def test_pairs_and_official_split(self, tmp_path: Path):
        root = trees.sketchy(tmp_path)
        whole = load_experiment(config("sketchy", root, strict=False))
        assert (whole.name, whole.kind, whole.unseen) == ("sketchy", "real", "photographs")
        # 3 classes of 8 photographs with 2 sketches each; two sketches are in lists of invalid ones.
        assert sum(map(len, parts_of(whole))) == 46
        assert {name.partition("-")[0].rpartition("_")[2] for name in whole.test.ids} == {"0", "4"}
        assert disjoint(whole, lambda name: name.rpartition("-")[0])
        assert whole.train.target.shape[1:] == (SIDE, SIDE, 1)
        everything = {name for ids in parts_of(whole) for name in ids}
        assert {"airplane/n00_1-1", "alarm_clock/n01_2-2"}.isdisjoint(everything)
        assert "airplane/n00_1-2" in everything
        for row, name in enumerate(whole.train_ids):
            kind, stem = name.split("/")
            assert label_of(whole, row) == kind
            photo = root / "256x256/photo" / trees.PLAIN / kind / f"{stem.rpartition('-')[0]}.jpg"
            small = Image.open(photo).convert("RGB").reduce(2)
            assert np.array_equal(whole.train.source[row], np.asarray(small))

    def test_without_lists_a_hash_decides(self, tmp_path: Path):
        root = trees.sketchy(tmp_path, tests=False)
        whole = load_experiment(config("sketchy", root / "256x256", strict=False))
        assert sum(map(len, parts_of(whole))) == 46
        assert disjoint(whole, lambda name: name.rpartition("-")[0])

    def test_max_pairs(self, tmp_path: Path):
        whole = load_experiment(config("sketchy", trees.sketchy(tmp_path), strict=False, max_pairs=40))
        assert sum(map(len, parts_of(whole))) == 40

    def test_the_order_that_files_are_found_in_changes_nothing(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ):
        settings = config("sketchy", trees.sketchy(tmp_path), strict=False)
        whole, index = load_experiment(settings), load.index_of(settings)
        found = replace(index, entries=index.entries[::-1])
        monkeypatch.setattr(load, "index_of", lambda _: found)
        again = load.load_layout(settings)
        for one, other in zip(parts_of(whole), parts_of(again), strict=True):
            assert list(one) == list(other)
        assert np.array_equal(whole.train.source, again.train.source)
        assert np.array_equal(whole.train.target, again.train.target)

    def test_damage_is_named_all_at_once(self, tmp_path: Path):
        root = trees.sketchy(tmp_path)
        photos, sketches = (root / "256x256" / one / trees.PLAIN for one in ("photo", "sketch"))
        (photos / "zebra" / "n02_3.jpg").unlink()
        (photos / "zebra" / "n02_5.jpg").write_bytes(b"cut")
        (sketches / "airplane" / "n00_2-1.png").write_bytes(b"cut")
        trees.picture(sketches / "airplane" / "n00_3-1.png", 1, size=(8, 8))
        trees.picture(sketches / "airplane" / "n00_3-2.png", 1, size=(64, 32))
        settings = config("sketchy", root)
        told = problems(settings)
        for text in (
            "sketches without a photograph: 2 (zebra/n02_3-1, zebra/n02_3-2)",
            "n02_5.jpg cannot be decoded",
            "n00_2-1.png cannot be decoded",
            "n00_3-1.png has 8x8 pixels",
            "n00_3-2.png: the source has 32x32 pixels, the target 64x32",
        ):
            assert text in told
        with pytest.raises(DataError, match="5 more: `edgecmd data check .* --set data.name=sketchy`"):
            load_experiment(settings)

    def test_a_list_of_another_set(self, tmp_path: Path):
        root = trees.sketchy(tmp_path)
        (root / "info" / "testset.txt").write_text("cat/n99_1.jpg\n")
        assert "testset.txt names no photograph" in problems(config("sketchy", root))

    def test_what_is_left_out_is_told(self, tmp_path: Path):
        notes: list[str] = []
        assert problems(config("sketchy", trees.sketchy(tmp_path)), notes) == ""
        assert notes == ["2 of 48 sketches are in a list of invalid ones."]

    def test_classes_may_have_photographs_of_one_name(self, tmp_path: Path):
        root = trees.sketchy(tmp_path, tests=False)
        for half, ending in (("photo", ".jpg"), ("sketch", "-1.png")):
            base = root / "256x256" / half / trees.PLAIN
            (base / "zebra" / f"n02_3{ending}").rename(base / "zebra" / f"n00_3{ending}")
        (root / "256x256" / "sketch" / trees.PLAIN / "zebra" / "n02_3-2.png").unlink()
        entries = {one.id: one for one in index_sketchy(root, config("sketchy", root)).entries}
        for name in ("airplane", "zebra"):
            one = entries[f"{name}/n00_3-1"]
            assert (one.source.parent.name, one.concept) == (name, f"{name}/n00_3")
        assert entries["airplane/n00_2-1"].concept == "n00_2"
        (root / "info" / "testset.txt").write_text("zebra/n00_3.jpg\n")
        parts = {one.id: one.part for one in index_sketchy(root, config("sketchy", root)).entries}
        assert (parts["zebra/n00_3-1"], parts["airplane/n00_3-1"]) == ("test", "train")
        (root / "info" / "testset.txt").write_text("n00_3\n")
        parts = {one.id: one.part for one in index_sketchy(root, config("sketchy", root)).entries}
        assert (parts["zebra/n00_3-1"], parts["airplane/n00_3-1"]) == ("test", "test")

    def test_two_photographs_of_one_name_in_a_class(self, tmp_path: Path):
        root = trees.sketchy(tmp_path)
        trees.picture(root / "256x256" / "photo" / trees.PLAIN / "zebra" / "n02_3.png", 1)
        assert "several photographs of one name: 1 (zebra/n02_3)" in problems(config("sketchy", root))


class TestTuberlin:
    def test_paired_by_class(self, tmp_path: Path):
        sketches, photos = trees.tuberlin(tmp_path)
        settings = config("tuberlin", sketches, source_path=str(photos), strict=False)
        whole = load_experiment(settings)
        assert (whole.kind, whole.unseen) == ("class-paired", "sketches")
        assert sum(map(len, parts_of(whole))) == 20
        assert whole.train_labels.names == ("airplane", "alarm clock")
        for row, name in enumerate(whole.train_ids):
            assert label_of(whole, row) == name.split("/")[0]
        # A photograph is in one part alone.
        sources = [part.source for part in (whole.train, whole.validation.pairs, whole.test.pairs)]
        seen = [{one.tobytes() for one in part} for part in sources]
        assert sum(map(len, seen)) == len(set.union(*seen)) == 8
        notes: list[str] = []
        assert problems(settings, notes) == ""
        assert notes == ["1 (angel) of 3 classes have no photographs and are left out."]

    def test_refusals(self, tmp_path: Path):
        sketches, photos = trees.tuberlin(tmp_path)
        with pytest.raises(ConfigError, match="sketches but no photographs"):
            load_experiment(config("tuberlin", sketches))
        with pytest.raises(DataError, match="such as airplane/<photo>.jpg"):
            load_experiment(config("tuberlin", sketches, source_path=str(tmp_path)))
        (sketches / "png" / "airplane" / "3.png").unlink()
        told = problems(config("tuberlin", sketches / "png", source_path=str(photos)))
        assert "lists files that are missing: 1 (airplane/3.png)" in told


class TestSunrgbd:
    def test_bits_are_turned_as_the_toolbox_does(self):
        """Against read3dPoints.m: bitor(bitshift(d, -3), bitshift(d, 13)) of 16 bits."""
        values = np.array([0, 8, 16000, 65535, 1, 0x8007], dtype=np.uint16)
        expected = [0, 1, 2000, 65535, 8192, (0x8007 >> 3) | (0x8007 << 13) & 0xFFFF]
        assert millimetres(values).tolist() == expected
        every = np.arange(65536, dtype=np.uint16)
        assert np.array_equal(millimetres(trees.stored(every)), every)

    @pytest.mark.parametrize("above", [True, False])
    def test_depth_labels_and_owners(self, tmp_path: Path, above: bool):
        root = trees.sunrgbd(tmp_path)
        whole = load_experiment(config("sunrgbd", root if above else root / "SUNRGBD"))
        assert modality_of(whole.train.target).name == "depth"
        assert sum(map(len, parts_of(whole))) == 32
        assert whole.train_labels.names == ("bedroom", "kitchen")
        assert (whole.train_labels.values == UNLABELLED).any()
        assert set(whole.train_owner.names) == {"kv1", "kv2", "realsense", "xtion"}
        row = next(row for row, name in enumerate(whole.train_ids) if name.startswith("kv1"))
        seed = int(whole.train_ids[row][-4:]) - 1
        expected = median_of_measured(trees.frame_depth(seed), side=SIDE, fit="squeeze")
        assert np.array_equal(whole.train.target[row, ..., 0], expected)
        assert disjoint(whole, lambda name: name.rpartition("/")[0] if "sun3ddata" in name else name)

    def test_official_split(self, tmp_path: Path):
        whole = load_experiment(config("sunrgbd", trees.sunrgbd(tmp_path, split=True)))
        assert len(whole.test) == 16
        assert "kv1/NYUdata/NYU0002" in whole.test.ids
        assert "kv1/NYUdata/NYU0001" not in whole.test.ids

    def test_by_sensor(self, tmp_path: Path):
        settings = config("sunrgbd", trees.sunrgbd(tmp_path), split="owner", held_out="kv2")
        whole = load_experiment(settings)
        assert whole.unseen == "owners"
        assert {name.partition("/")[0] for name in whole.test.ids} == {"kv2"}

    def test_damage(self, tmp_path: Path):
        frames = trees.sunrgbd(tmp_path, split=True) / "SUNRGBD" / "kv1" / "NYUdata"
        (frames / "NYU0001" / "image" / "0001.jpg").unlink()
        Image.fromarray(np.zeros((32, 32), np.uint8)).save(frames / "NYU0002" / "depth" / "0001.png")
        Image.fromarray(np.zeros((32, 32), np.uint16)).save(frames / "NYU0003" / "depth" / "0001.png")
        (frames / "NYU0004").rename(frames / "NYU9999")
        told = problems(config("sunrgbd", tmp_path))
        for text in (
            "NYU0001 lacks image/ with one picture",
            "NYU0002/depth/0001.png has mode L",
            "NYU0003/depth/0001.png has no measurement in range",
            "does not list 1 (kv1/NYUdata/NYU9999)",
        ):
            assert text in told
        (tmp_path / "SUNRGBDtoolbox/traintestSUNRGBD/allsplit.mat").write_bytes(b"MATLAB")
        assert "allsplit.mat cannot be read as the official split" in problems(config("sunrgbd", tmp_path))

    def test_filled_depth_only_where_it_is_alone(self, tmp_path: Path):
        import shutil

        frame = trees.sunrgbd(tmp_path) / "SUNRGBD/kv1/NYUdata/NYU0001"
        shutil.rmtree(frame / "depth")
        whole = load_experiment(config("sunrgbd", tmp_path))
        held = [(whole.train, whole.train_ids), (whole.test.pairs, whole.test.ids)]
        held.append((whole.validation.pairs, whole.validation.ids))
        part, ids = next(one for one in held if "kv1/NYUdata/NYU0001" in one[1])
        assert (part.target[ids.index("kv1/NYUdata/NYU0001")] == 1000).all()


class TestNyu:
    @pytest.fixture(autouse=True)
    def needs_h5py(self):
        pytest.importorskip("h5py")

    def test_arrays_are_turned_upright(self, tmp_path: Path):
        import h5py

        root = trees.nyu(tmp_path)
        whole = load_experiment(config("nyu", root, source_size=SIDE))
        assert (whole.kind, whole.unseen) == ("real", "places")
        assert sum(map(len, parts_of(whole))) == 30
        assert disjoint(whole, lambda name: int(name) // 3)
        row, name = 0, int(whole.train_ids[0])
        with h5py.File(root / "nyu_depth_v2_labeled.mat") as opened:
            metres = np.array(opened["rawDepths"][name])
            image = np.array(opened["images"][name])
        depth = np.rint(metres.T.astype(np.float64) * 1000).astype(np.uint16)
        assert np.array_equal(
            whole.train.target[row, ..., 0], median_of_measured(depth, side=SIDE, fit="squeeze")
        )
        upright = Image.fromarray(np.ascontiguousarray(image.transpose(2, 1, 0)))
        small = upright.resize((SIDE, SIDE), Image.Resampling.BILINEAR)
        assert np.array_equal(whole.train.source[row], np.asarray(small))
        assert label_of(whole, row) == ("kitchen", "bedroom")[name // 3 % 2]

    def test_masks_are_the_most_frequent_names(self, tmp_path: Path):
        masks = load_experiment(config("nyu", trees.nyu(tmp_path))).test.labelled.masks
        assert masks is not None
        # "bottle" has no pixel; "wall" covers most; below row 28 of 32 nothing is labelled.
        assert masks.names == ("wall", "floor", "book")
        assert (masks.values[:, 0, 5:] == 0).all()
        assert (masks.values[:, 11, :] == 1).all()
        assert (masks.values[:, 0, 0] == 2).all()
        assert (masks.values[:, 14:, :] == IGNORED).all()

    def test_official_split(self, tmp_path: Path):
        whole = load_experiment(config("nyu", trees.nyu(tmp_path, split=True) / "nyu_depth_v2_labeled.mat"))
        assert {int(name) // 3 % 3 for name in whole.test.ids} == {0}
        assert len(whole.test) == 12

    def test_filled_depth_where_it_is_alone(self, tmp_path: Path):
        whole = load_experiment(config("nyu", trees.nyu(tmp_path, raw=False), depth_max_m=5.0))
        assert whole.train.target.max() <= 5000
        assert (whole.train.target == 0).any()

    def test_damage(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
        import h5py

        root = trees.nyu(tmp_path)
        file = root / "nyu_depth_v2_labeled.mat"
        (root / "splits.mat").write_bytes(b"MATLAB")
        assert "splits.mat cannot be read" in problems(config("nyu", root))
        (root / "splits.mat").unlink()
        with h5py.File(file, "a") as opened:
            del opened["labels"]
        assert "lacks labels; it has" in problems(config("nyu", root))
        file.write_bytes(file.read_bytes()[:2000])
        assert "cannot be read as MATLAB 7.3" in problems(config("nyu", root))
        monkeypatch.setitem(__import__("sys").modules, "h5py", None)
        assert 'pip install "edgecmd[nyu]"' in problems(config("nyu", root))

    @pytest.mark.parametrize(
        ("name", "shape", "kind"),
        [
            ("images", (36, 3, 4, 5), "u1"),
            ("images", (36, 4), "u1"),
            ("images", (2, 3, 24, 32), "u1"),
            ("labels", (36, 2, 2), "u2"),
            ("rawDepths", (36, 24, 32), "u1"),
            ("rawDepths", (), "f4"),
        ],
    )
    def test_arrays_that_do_not_fit_each_other(self, tmp_path: Path, name, shape, kind):
        import h5py

        file = trees.nyu(tmp_path) / "nyu_depth_v2_labeled.mat"
        with h5py.File(file, "a") as opened:
            del opened[name]
            opened.create_dataset(name, shape, kind)
        assert f"{name!r} has the shape" in problems(
            config("nyu", file)
        ) or "'labels' has the shape" in problems(config("nyu", file))

    def test_damage_anywhere_gives_sentences(self, tmp_path: Path):
        file = trees.nyu(tmp_path) / "nyu_depth_v2_labeled.mat"
        whole, rng = file.read_bytes(), np.random.default_rng(0)
        for _ in range(15):
            data = bytearray(whole)
            for place in rng.integers(0, 20_000, 40):
                data[place] = rng.integers(0, 256)
            file.write_bytes(data)
            try:
                problems(config("nyu", file))
            except ValueError as error:
                pytest.fail(repr(error))


def test_numbers_too_long_for_python_and_lists_that_are_no_utf_8(tmp_path: Path):
    root = trees.vggsound(tmp_path)
    (root / "vggsound.csv").write_text("abc," + "9" * 5000 + ",dog,train\n")
    assert "line 1: 'abc,999" in problems(config("vggsound", root))
    (root / "vggsound.csv").write_bytes(b"abc,1,d\xe4g,train\n")
    assert "vggsound.csv cannot be read as CSV" in problems(config("vggsound", root))


class TestVggsound:
    def test_clips(self, tmp_path: Path):
        whole = load_experiment(config("vggsound", trees.vggsound(tmp_path), clip_s=0.5))
        assert (whole.kind, whole.unseen) == ("real", "videos")
        assert modality_of(whole.train.target).name == "wave"
        assert whole.train.target.shape[1:] == (4000,)
        assert len(whole.test) == 10
        assert sum(map(len, parts_of(whole))) == 30
        assert disjoint(whole, lambda name: name.rpartition("_")[0])
        assert whole.train_labels.names == ("dog barking", "waves, surf")
        assert "--a_000-Xy_000001" in whole.test.ids

    def test_damage(self, tmp_path: Path):
        root = trees.vggsound(tmp_path)
        (root / "frames" / "--a_001-Xy_000001.jpg").unlink()
        (root / "audio" / "--a_001-Xy_000011.wav").write_bytes(b"RIFF")
        notes: list[str] = []
        told = problems(config("vggsound", root), notes)
        assert "frames lacks 1 (--a_001-Xy_000001)" in told
        assert "--a_001-Xy_000011.wav cannot be read as WAV" in told
        assert notes[0] == "3 of 32 lines of vggsound.csv have no pair of files."
        (root / "vggsound.csv").write_text("# YouTube ID, start seconds, label, split\n")
        assert "line 1: " in problems(config("vggsound", root))

    def test_videos_are_not_read(self, tmp_path: Path):
        root = trees.vggsound(tmp_path)
        for one in (root / "audio").iterdir():
            one.rename(one.with_suffix(".mp4"))
        assert "Found in" in problems(config("vggsound", root))

    def test_a_clip_has_one_file_a_half_and_one_line(self, tmp_path: Path):
        root = trees.vggsound(tmp_path)
        name = "--a_000-Xy_000001"
        trees.picture(root / "frames" / f"{name}.png", 1, size=(48, 32))
        assert f"several pictures of one name: 1 ({name})" in problems(config("vggsound", root))
        with (root / "vggsound.csv").open("a") as file:
            file.write("--a_000-Xy,1,cat,train\n")
        assert "Keep one line for each clip" in problems(config("vggsound", root))
