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
from edgecmd.evaluation.segmentation import draw_images
from edgecmd.evaluation.segmentation_score import rare_classes, segmentation_scores

SIDE, FEW, MANY = 64, 100, 1000
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


def peak_of_masks_and_public(path: Path, out: Path, *, store: str = "always") -> int:
    """The same where masks are scored, a batch of them is drawn, and public images are looked at."""
    settings = (
        *("data.name=folder", f"data.path={path}", f"data.image_size={SIDE}", f"data.store={store}"),
        *(f"out={out}", "device=cpu", "student.architecture=seg-50k", "teacher.name=icons"),
        *("data.strict=false", "data.num_threads=1"),
    )
    run = Assembly().run(load_config(None, settings))
    tracemalloc.start()
    try:
        whole = run.task.data
        test, public = whole.test.labelled.masks, run.task.public_inputs(use="A test")
        assert isinstance(test, Masks)
        assert isinstance(test.values, LazyRows) == (store == "always")
        assert rare_classes(test) == ()
        chunks = (test.values[start : start + 16] for start in range(0, len(test.values), 16))
        assert segmentation_scores(chunks, test, rare=()).miou == 1.0
        drawn = draw_images(run, percent=100, draw=0)
        assert drawn.mask[:4].shape == (4, SIDE, SIDE)
        assert public[:16].shape == (16, 3, SIDE, SIDE)
        assert whole.public.fingerprint()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_memory_follows_neither_masks_nor_public_images(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    peaks = []
    for turn, num in enumerate((FEW, FEW, MANY)):
        monkeypatch.setenv("EDGECMD_CACHE", str(tmp_path / str(turn)))
        folder = tmp_path / f"{turn}-{num}"
        peaks.append(peak_of_masks_and_public(write_folder(folder, num), tmp_path))
    # A mask has a byte a pixel, a public image three.
    assert peaks[2] - peaks[1] < 0.4 * (MANY - FEW) * (PAIR_BYTES + 4 * SIDE * SIDE), peaks
