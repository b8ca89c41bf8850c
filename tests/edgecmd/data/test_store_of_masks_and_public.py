"""Masks and public images of a store: what they are in memory, to the byte, wherever they are used."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from edgecmd.config.assemble import Assembly
from edgecmd.config.reader import load_config
from edgecmd.data.experiment import Experiment, load_experiment
from edgecmd.data.labelled import IGNORED
from edgecmd.data.stored.array_files import ArrayFile, LazyRows
from edgecmd.data.stored.store import listing
from edgecmd.data.user_files import mask_files, public_images
from edgecmd.evaluation import segmentation
from edgecmd.evaluation.segmentation_score import absent_classes, rare_classes, share_of_pixels
from edgecmd.experiments.resources import needs
from edgecmd.recipes.presimclr import source_start
from edgecmd.recipes.standins import public_inputs
from edgecmd.recipes.warm_start import warm_start
from edgecmd.run import Run
from edgecmd.settings import DataConfig, PretrainConfig
from edgecmd.training.pretrain import pretrain
from export.profiles.calibration import calibration_of
from tests.edgecmd.data.layouts import trees
from tests.user_files import check_folder, wav

NUM, SIDE, PUBLIC = 24, 32, 12


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("EDGECMD_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def picture(noise: np.random.Generator) -> Image.Image:
    soft = noise.integers(0, 256, (4, 4, 3), dtype=np.uint8)
    return Image.fromarray(soft).resize((SIDE, SIDE), Image.Resampling.BICUBIC)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Pairs of which one has no mask, with public images beside them."""
    noise, path = np.random.default_rng(0), tmp_path / "pairs"
    for name in ("source", "target", "target_mask", "public"):
        (path / name).mkdir(parents=True)
    for row in range(NUM):
        source = picture(noise)
        grey = source.convert("L")
        source.save(path / "source" / f"p{row:02}.png")
        grey.save(path / "target" / f"p{row:02}.png")
        classes = np.digitize(np.asarray(grey), (90, 160)).astype(np.uint8)
        classes[: row % 3] = IGNORED
        if row != 5:
            Image.fromarray(classes).save(path / "target_mask" / f"p{row:02}.png")
    for row in range(PUBLIC):
        picture(noise).save(path / "public" / f"{row:02}.png")
    (path / "masks.csv").write_text("id,name\n0,dark\n1,middle\n2,light\n")
    return path


def config(path: Path, **changes: object) -> DataConfig:
    made = DataConfig(name="folder", path=str(path), image_size=SIDE, strict=False, store="always")
    return replace(made, **changes)  # type: ignore[arg-type]


def assert_same(found: Experiment, wanted: Experiment) -> None:
    for name in ("validation", "test", "test_strict"):
        one, other = (getattr(whole, name).labelled.masks for whole in (found, wanted))
        assert one.names == other.names
        assert isinstance(one.values, LazyRows)
        assert isinstance(other.values, np.ndarray)
        np.testing.assert_array_equal(np.asarray(one.values), other.values)
        assert share_of_pixels(one).tolist() == share_of_pixels(other).tolist()
        assert (rare_classes(one), absent_classes(one)) == (rare_classes(other), absent_classes(other))
    assert_same_public(found, wanted)


def assert_same_public(found: Experiment, wanted: Experiment) -> None:
    assert isinstance(found.public.images, LazyRows)
    assert isinstance(wanted.public.images, np.ndarray)
    assert found.public.keys == wanted.public.keys
    assert found.public.name == wanted.public.name
    np.testing.assert_array_equal(np.asarray(found.public.images), wanted.public.images)
    assert found.public.fingerprint() == wanted.public.fingerprint()


def kinds() -> list[str]:
    """First words of what the stores are of."""
    return sorted(one.what.split()[0] for one in listing() if one.whole)


def write_mask(path: Path, values: np.ndarray) -> None:
    Image.fromarray(values.astype(np.uint8)).save(path)


def test_they_are_those_in_memory_and_opened_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = load_experiment(config(folder, store="never"))
    assert kinds() == []
    assert_same(load_experiment(config(folder)), wanted)
    assert kinds() == ["folder", "masks", "public"]
    for module, name in ((mask_files, "read_mask"), (public_images, "read_source")):
        monkeypatch.setattr(module, name, lambda *_, **__: pytest.fail("a file was opened again"))
    assert_same(load_experiment(config(folder)), wanted)


def test_what_takes_little_stays_in_memory(folder: Path) -> None:
    whole = load_experiment(config(folder, store="auto"))
    assert whole.test.labelled.masks is not None
    assert isinstance(whole.test.labelled.masks.values, np.ndarray)
    assert isinstance(whole.public.images, np.ndarray)
    assert kinds() == []


def test_without_names_a_class_of_training_alone_is_ignored(folder: Path) -> None:
    (folder / "masks.csv").unlink()
    train = load_experiment(config(folder, store="never")).train_ids[0]
    file = folder / "target_mask" / f"{train}.png"
    values = np.asarray(Image.open(file)).copy()
    values[:9] = 7
    write_mask(file, values)
    found = load_experiment(config(folder))
    assert_same(found, load_experiment(config(folder, store="never")))
    assert found.test.labelled.masks is not None
    assert found.test.labelled.masks.names == ("class 0", "class 1", "class 2")
    # A held-out one keeps it, whatever numbers lie below it.
    held = found.test.ids[0]
    shutil.copy(file, folder / "target_mask" / f"{held}.png")
    found = load_experiment(config(folder))
    assert_same(found, load_experiment(config(folder, store="never")))
    assert found.test.labelled.masks is not None
    assert len(found.test.labelled.masks.names) == 8


def test_a_changed_file_makes_its_own_store_anew_and_no_other(folder: Path) -> None:
    load_experiment(config(folder))
    before = {one.what: one.name for one in listing()}
    held = load_experiment(config(folder)).test.ids[0]
    write_mask(folder / "target_mask" / f"{held}.png", np.ones((SIDE, SIDE)))
    picture(np.random.default_rng(9)).save(folder / "public" / "00.png")
    assert_same(load_experiment(config(folder)), load_experiment(config(folder, store="never")))
    after = {one.what: one.name for one in listing()}
    assert before.keys() == after.keys()
    assert [what.split()[0] for what in sorted(before) if before[what] == after[what]] == ["folder"]
    # Names are none of a mask's numbers.
    (folder / "masks.csv").write_text("id,name\n0,night\n1,middle\n2,day\n")
    assert_same(load_experiment(config(folder)), load_experiment(config(folder, store="never")))
    assert after == {one.what: one.name for one in listing()}
    (folder / "masks.csv").write_text("id,name\n0,night\n1,middle\n")
    told = check_folder(folder, config(folder))
    assert "has class 2, which" in told[0]
    assert told == check_folder(folder, config(folder, store="never"))


def damage_masks(folder: Path) -> None:
    masks = folder / "target_mask"
    Image.new("RGB", (SIDE, SIDE)).save(masks / "p00.png")
    write_mask(masks / "p01.png", np.zeros((8, 8)))
    (masks / "p02.png").write_bytes(b"\x89PNG no picture")
    shutil.copy(masks / "p03.png", masks / "other.png")
    (folder / "masks.csv").write_text("id,name\n0,dark\n1,middle\n")


def damage_public(folder: Path) -> None:
    (folder / "public" / "03.png").write_bytes(b"")
    (folder / "public" / "04.png").write_bytes(b"no picture")
    Image.new("RGB", (8, 8)).save(folder / "public" / "05.png")


def copy_into_public(folder: Path) -> None:
    shutil.copy(folder / "source" / "p04.png", folder / "public" / "mine.png")
    again = np.asarray(Image.open(folder / "source" / "p06.png")).copy()
    again[0, 0] ^= 1
    Image.fromarray(again).save(folder / "public" / "again.png")


@pytest.mark.parametrize(("damage", "num"), [(damage_masks, 5), (damage_public, 3), (copy_into_public, 1)])
def test_mistakes_are_told_as_in_memory_and_leave_no_half(damage, num: int, folder: Path) -> None:
    damage(folder)
    told = check_folder(folder, config(folder))
    assert told == check_folder(folder, config(folder, store="never"))
    assert len(told) == num
    assert all(one.whole for one in listing())


class KilledError(Exception):
    """A process that ends in the middle."""


@pytest.mark.parametrize(("module", "name"), [(mask_files, "read_mask"), (public_images, "read_source")])
def test_a_killed_build_goes_on(module, name: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real, opened = getattr(module, name), list[Path]()

    def read(path: Path, **others: object) -> object:
        opened.append(path)
        if len(opened) == 7:
            raise KilledError
        return real(path, **others)

    monkeypatch.setattr(module, name, read)
    with pytest.raises(KilledError):
        load_experiment(config(folder, num_threads=1))
    found = load_experiment(config(folder, num_threads=1))
    files = len(list((folder / ("target_mask" if module is mask_files else "public")).iterdir()))
    # The seventh is opened twice.
    assert len(opened) == files + 1
    monkeypatch.undo()
    assert_same(found, load_experiment(config(folder, store="never")))


def test_reversed_public_examples_are_the_same(folder: Path, tmp_path: Path) -> None:
    changes = {"reverse": True, "source_size": SIDE}
    for row in range(PUBLIC):
        path = folder / "public" / f"{row:02}.png"
        Image.open(path).convert("L").save(path)
    assert_same_public(
        load_experiment(config(folder, **changes)), load_experiment(config(folder, store="never", **changes))
    )
    noise = np.random.default_rng(3)
    for name, num in (("target", NUM), ("public", PUBLIC)):
        shutil.rmtree(folder / name)
        (folder / name).mkdir()
        for row in range(num):
            shares = np.round(noise.uniform(-100, 100, (8000, 1))) / 128
            path = folder / name / (f"p{row:02}.wav" if name == "target" else f"{row:02}.wav")
            path.write_bytes(wav(shares.astype(np.float32)))
    shutil.rmtree(folder / "target_mask")
    found = load_experiment(config(folder, **changes))
    assert found.public.images.dtype == np.int16
    assert_same_public(found, load_experiment(config(folder, store="never", **changes)))


def test_masks_of_a_public_set_are_the_same(tmp_path: Path) -> None:
    pytest.importorskip("h5py")
    made = DataConfig(name="nyu", path=str(trees.nyu(tmp_path)), image_size=16, strict=False, store="always")
    found, wanted = load_experiment(made), load_experiment(replace(made, store="never"))
    for name in ("validation", "test"):
        one, other = (getattr(whole, name).labelled.masks for whole in (found, wanted))
        assert isinstance(one.values, LazyRows)
        assert one.names == other.names
        np.testing.assert_array_equal(np.asarray(one.values), other.values)
    assert kinds() == ["labels", "nyu"]


def run_on(folder: Path, out: Path, store: str, *more: str) -> Run:
    """A run; each its own cache, so that none answers for the other."""
    own = (
        *("data.name=folder", f"data.path={folder}", f"data.image_size={SIDE}", f"data.store={store}"),
        *("data.strict=false", f"out={out / store}", "device=cpu", "teacher.name=icons", "seed=3"),
        *("teacher.map_dim=8", "distill.batch_size=8", "student.architecture=seg-50k"),
        *("distill.loss=cmc-anchored", "distill.num_anchors=20", "evaluate.label_percent=[50,100]"),
        *("evaluate.segment_draws=1", "evaluate.segment_steps=3"),
    )
    return Assembly().run(load_config(None, [*own, *more]))


def both(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *more: str) -> list[Run]:
    runs = []
    for store in ("never", "always"):
        monkeypatch.setenv("EDGECMD_CACHE", str(tmp_path / f"cache-{store}"))
        run = run_on(folder, tmp_path, store, *more)
        assert isinstance(run.task.data.public.images, LazyRows) == (store == "always")
        _ = run.anchors
        runs.append(run)
    return runs


def test_segmentation_gives_the_same_figures(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = both(folder, tmp_path, monkeypatch)
    np.testing.assert_array_equal(*(run.anchors.numpy() for run in runs))
    assert len(runs[0].anchors) == 20
    tables = [segmentation.student_table(run.new_student(), run) for run in runs]
    assert tables[0] == tables[1]
    assert {*tables[0]["probe"]} == {"50", "100"}  # type: ignore[misc]
    first, second = (segmentation.scratch_table(run) for run in runs)
    assert first == second
    first, second = (segmentation.ceiling_table(run) for run in runs)
    assert first == second
    assert first.keys() >= {"probe", "classes"}
    rows = [0, len(runs[0].task.data.test) - 1]
    found = [segmentation.masks_found(run.new_student(), run, rows) for run in runs]
    assert found[0].shape == (2, SIDE, SIDE)
    np.testing.assert_array_equal(*found)


def test_what_is_made_of_public_images_is_the_same(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = both(folder, tmp_path, monkeypatch, "student.architecture=ws-50k")
    np.testing.assert_array_equal(*(np.asarray(run.task.public_features) for run in runs))
    np.testing.assert_array_equal(*(run.anchors.numpy() for run in runs))
    for make in (
        lambda run: warm_start(run, num_steps=2),
        lambda run: source_start(run, num_steps=2, learning_rate=1e-2),
        lambda run: pretrain(
            run.task.data.public, PretrainConfig(num_steps=2, batch_size=8, embedding_dim=8)
        ),
    ):
        first, second = (make(run).state_dict() for run in runs)
        assert first.keys() == second.keys()
        assert all(torch.equal(value, second[name]) for name, value in first.items())
    assert torch.equal(*(public_inputs(run, purpose="test")(5) for run in runs))
    inputs = [calibration_of(run.task, "public", seed=0).inputs for run in runs]
    np.testing.assert_array_equal(*inputs)


def test_the_plan_counts_them(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    memory, stored = (
        needs(run, run.new_student())
        for run in both(folder, tmp_path, monkeypatch, "student.architecture=ws-50k")
    )
    held = run_on(folder, tmp_path, "never").task.data
    pairs, pixels = NUM * SIDE * SIDE * 4, SIDE * SIDE
    masks = (len(held.validation) + len(held.test)) * pixels
    public = PUBLIC * pixels * 3
    assert memory["disk"]["store"] == 0
    assert (memory["memory"]["masks"], memory["memory"]["public images"]) == (masks, public)
    assert stored["disk"]["store"] == pairs + masks + public
    assert stored["memory"]["masks"] == stored["memory"]["public images"] == 0


def test_nothing_is_read_as_a_whole(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (run,) = both(folder, tmp_path, monkeypatch, "student.architecture=ws-50k")[1:]
    whole, most = run.task.data, 8
    assert whole.test.labelled.masks is not None
    real = ArrayFile.read

    def read(file: ArrayFile, rows: np.ndarray) -> np.ndarray:
        assert len(rows) <= most, f"{len(rows)} rows of {file.path.name} at once"
        return real(file, rows)

    monkeypatch.setattr(ArrayFile, "read", read)
    images = run.task.public_inputs(use="A test")
    assert images[np.arange(most)].shape == (most, 3, SIDE, SIDE)
    drawn = segmentation.draw_images(run, percent=100, draw=0)
    assert len(drawn.mask) == len(drawn.target) == len(whole.validation)
    with pytest.raises(AssertionError, match="rows of public"):
        np.asarray(whole.public.images)
