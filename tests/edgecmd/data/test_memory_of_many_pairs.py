"""Ten times the pairs take hardly more memory: what grows is a few numbers a pair, never its pixels."""

import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from edgecmd.config.assemble import Assembly
from edgecmd.config.reader import load_config

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
