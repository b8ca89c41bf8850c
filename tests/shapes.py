"""A tiny experiment of rectangles and their outlines, and a run on it that takes a second."""

from pathlib import Path

import numpy as np

from edgecmd.config.schema import RunConfig
from edgecmd.settings import (
    DataConfig,
    DistillConfig,
    EvaluateConfig,
    FederationConfig,
    PretrainConfig,
    StudentConfig,
    TeacherConfig,
)


def shapes(num: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Coloured rectangles beside their outlines, and whether each is wide."""
    rng = np.random.default_rng(seed)
    source = np.full((num, 16, 16, 3), 255, np.uint8)
    target = np.full((num, 16, 16), 255, np.uint8)
    wide = rng.integers(0, 2, num)
    for row in range(num):
        width, height = (9, 4) if wide[row] else (4, 9)
        left, top = rng.integers(1, 15 - width), rng.integers(1, 15 - height)
        source[row, top : top + height, left : left + width] = rng.integers(0, 200, 3)
        target[row, top : top + height, left : left + width] = 0
        target[row, top + 1 : top + height - 1, left + 1 : left + width - 1] = 255
        # The row in binary below, so that no outline is there twice: copies would stand in one part.
        target[row, 15, :8] = np.where(row >> np.arange(8) & 1, 0, 255)
    return source, target, wide


def write_pairs(path: Path) -> Path:
    """An .npz of eighty pairs with labels, owners and a public set."""
    source, target, wide = shapes(80, seed=0)
    np.savez(
        path,
        source=source,
        target=target,
        id=np.asarray([f"shape-{row:03d}" for row in range(80)]),
        label=np.asarray(["wide" if one else "tall" for one in wide]),
        owner=np.asarray([f"artist-{row % 2}" for row in range(80)]),
        public=shapes(40, seed=1)[0],
    )
    return path


def shapes_config(pairs: Path, teacher: Path, out: Path) -> RunConfig:
    """A run that takes a second."""
    return RunConfig(
        name="tiny",
        out=str(out),
        teacher=TeacherConfig(path=str(teacher)),
        data=DataConfig(name="folder", path=str(pairs), image_size=16, strict=False),
        student=StudentConfig(architecture="ws-50k"),
        pretrain=PretrainConfig(num_steps=2, batch_size=8, embedding_dim=16),
        distill=DistillConfig(loss="cmc", batch_size=8, num_anchors=16),
        federation=FederationConfig(num_clients=4, num_rounds=2, local_steps=2),
        evaluate=EvaluateConfig(every_rounds=1, num_labels=(1, 0), num_draws=2),
    )
