"""Ten times the pairs take hardly more memory: what grows is a few numbers a row, never its pixels."""

import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edgecmd.config.assemble import Assembly
from edgecmd.config.reader import load_config
from edgecmd.data.labelled import Masks
from edgecmd.data.stored.array_files import LazyRows
from edgecmd.data.user_files.folder import Reading, read_own
from edgecmd.data.user_files.public_images import read_public
from edgecmd.evaluation.segmentation import draw_images
from edgecmd.evaluation.segmentation_score import rare_classes, segmentation_scores

SIDE, FEW, MANY = 64, 100, 1000
# Pairs with masks, and public images, whose files take longer to read.
MASKED = 500
# A source in colour and a grey target.
PAIR_BYTES = SIDE * SIDE * 4


def write_archive(path: Path, num: int) -> Path:
    noise = np.random.default_rng(num)
    small = noise.integers(0, 256, (num, 8, 8, 3), dtype=np.uint8)
    source = small.repeat(SIDE // 8, axis=1).repeat(SIDE // 8, axis=2)
    np.savez(path, source=source, target=source[..., 1].copy())
    return path


def peak_of(path: Path, out: Path) -> int:
    """Most bytes of numpy and Python at once: pairs are read and dealt, and each client has a batch."""
    settings = (
        *("data.name=folder", f"data.path={path}", f"data.image_size={SIDE}", "data.store=always"),
        *(f"out={out}", "device=cpu", "student.architecture=ws-50k", "federation.num_clients=5"),
    )
    run = Assembly().run(load_config(None, settings))
    tracemalloc.start()
    try:
        parts = run.parts
        for rows in parts:
            data = run.task.data.train.take(rows)
            assert len(data.target[:32]) == len(data.source[:32]) == min(32, len(rows))
            run.task.inputs(data.target)[:32]
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_memory_does_not_follow_the_pairs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    peaks = []
    # The first time modules are imported, which counts too.
    for turn, num in enumerate((FEW, FEW, MANY)):
        monkeypatch.setenv("EDGECMD_CACHE", str(tmp_path / str(turn)))
        peaks.append(peak_of(write_archive(tmp_path / f"{num}.npz", num), tmp_path))
    assert peaks[2] - peaks[1] < 0.4 * (MANY - FEW) * PAIR_BYTES, peaks


def write_folder(path: Path, num: int) -> Path:
    """Pairs with masks, and as many public images."""
    noise = np.random.default_rng(num)
    for part in ("source", "target", "target_mask", "public"):
        (path / part).mkdir(parents=True)
    for row in range(num):
        for part, levels in (("source", 256), ("target", 256), ("target_mask", 3), ("public", 256)):
            small = noise.integers(0, levels, (8, 8, 3), dtype=np.uint8)
            picture = Image.fromarray(small if part in ("source", "public") else small[..., 0])
            large = picture.resize((SIDE, SIDE), Image.Resampling.NEAREST)
            large.save(path / part / f"{row:04}.png", compress_level=1)
    return path


def peak_of_masks_and_public(path: Path, out: Path, *, store: str) -> int:
    """The same where all is read, then masks are scored and drawn, and public images are looked at.

    Checks for copies, whose tables grow up to a fixed size, are left out.
    """
    settings = (
        *("data.name=folder", f"data.path={path}", f"data.image_size={SIDE}", f"data.store={store}"),
        *(f"out={out}", "device=cpu", "student.architecture=seg-50k", "teacher.name=icons"),
        *("data.strict=false", "data.num_threads=1"),
    )
    config, problems = load_config(None, settings), list[str]()
    run, reading = Assembly().run(config), Reading(path=path, config=config.data, whole=False)
    tracemalloc.start()
    try:
        assert read_own(reading)
        assert read_public(path / "public", config.data, name="public", problems=problems)
        first = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert reading.problems == problems == []
    test, public = run.task.data.test.labelled.masks, run.task.public_inputs(use="A test")
    assert isinstance(test, Masks)
    assert isinstance(test.values, LazyRows) == (store == "always")
    tracemalloc.start()
    try:
        assert rare_classes(test) == ()
        chunks = (test.values[start : start + 16] for start in range(0, len(test.values), 16))
        assert segmentation_scores(chunks, test, rare=()).miou == 1.0
        drawn = draw_images(run, percent=100, draw=0)
        assert drawn.mask[:4].shape == (4, SIDE, SIDE)
        assert public[:16].shape == (16, 3, SIDE, SIDE)
        assert run.task.data.public.fingerprint()
        return max(first, tracemalloc.get_traced_memory()[1])
    finally:
        tracemalloc.stop()


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    path = tmp_path_factory.mktemp("masked")
    return write_folder(path / "few", FEW), write_folder(path / "many", MASKED)


@pytest.mark.parametrize("store", ["always", "never"])
def test_memory_follows_masks_and_public_images_without_a_store_alone(
    store: str, folders: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    peaks = []
    for turn, folder in enumerate((folders[0], *folders)):
        monkeypatch.setenv("EDGECMD_CACHE", str(tmp_path / str(turn)))
        peaks.append(peak_of_masks_and_public(folder, tmp_path, store=store))
    # A mask has a byte a pixel, a public image three.
    added = (MASKED - FEW) * (PAIR_BYTES + 4 * SIDE * SIDE)
    assert (peaks[2] - peaks[1] < 0.4 * added) == (store == "always"), peaks
