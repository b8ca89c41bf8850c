"""What the sets ``rooms`` and ``objects`` share: their files, and the public images of both.

Kind: rendered. Both sides of a pair were computed from furniture meshes that artists made; no sensor saw
anything. No mesh serves two of: public images, pairs, label pool, test.

Shapes: N examples, S side of an image.
"""

from pathlib import Path

import numpy as np

from edgecmd.catalogue.data_files import MANIFEST, shipped_file
from edgecmd.core.errors import ConfigError, DataError
from edgecmd.core.files import read_json, sha256_file
from edgecmd.data.modalities.row import Stored
from edgecmd.data.pairs import PairedData, PublicSource
from edgecmd.datasets.emoji import resized, shrink
from edgecmd.datasets.pinned import Arrays, read_arrays, read_pinned
from edgecmd.datasets.sensor import simulate_sensor
from edgecmd.settings import DataConfig

KIND = "rendered"
SIDE = 64
ROOMS_FILE, OBJECTS_FILE, PUBLIC_FILE = "rooms_64.npz", "objects_64.npz", "indoor_64.npz"
NOTICE_FILE = "NOTICE-furniture"
TRAIN, VALIDATION, TEST = range(3)
PARTS = {"train": TRAIN, "validation": VALIDATION, "test": TEST}
# Of the shipped files; `edgecmd data build rooms` with its default arguments makes them.
CONTENT_SHA256 = {
    ROOMS_FILE: "40938b4bfded8ca9f0694acd2960644ebcff8bac67dd6231ea346a6c73a00cbb",
    OBJECTS_FILE: "30f69bf4c10b741838b6174940c31251bd2a47df37d6105d8d74d4d26a8decf3",
    PUBLIC_FILE: "63d3b2a06b382c88cb8f934316fed1f28f78ae63d2cda1245b2d41158550b52b",
}


def check_sides(config: DataConfig) -> None:
    """Refuse image sizes that 64 pixels cannot be brought to.

    Raises:
        ConfigError: A size does not divide 64.
    """
    for setting, side in (("image_size", config.image_size), ("source_size", config.source_side)):
        if side > SIDE or SIDE % side:
            raise ConfigError(
                f"data.{setting}={side} does not suit data.name={config.name!r}. Allowed: 16, 32, 64."
            )


def read_indoor(file: str, *, path: str = "") -> dict[str, np.ndarray]:
    """Arrays of a file: the shipped one, or of a larger set under ``path``, which ``data.path`` names.

    Raises:
        DataError: It is missing, damaged, or not the one that was built.
    """
    if not path:
        return read_pinned(shipped_file(file), CONTENT_SHA256[file], way_out="Install edgecmd again.")
    folder = Path(path)
    way_out = f"Build it again with `edgecmd data build rooms --out {folder}`, or leave data.path empty."
    if not (folder / MANIFEST).is_file():
        raise DataError(f"data.path={path!r} has no {MANIFEST}. {way_out}")
    manifest = read_json(folder / MANIFEST)
    files = manifest.get("files") if isinstance(manifest, dict) else None
    entry = files.get(file) if isinstance(files, dict) else None
    expected = entry.get("sha256") if isinstance(entry, dict) else None
    found = sha256_file(folder / file) if (folder / file).is_file() else "none: it is missing"
    if found != expected:
        raise DataError(f"{folder / file} has sha256={found}; allowed is {expected}. {way_out}")
    return read_arrays(folder / file, way_out=way_out)


def load_pairs(file: str, config: DataConfig) -> tuple[Arrays, PairedData, dict[str, np.ndarray]]:
    """Arrays of a set, its pairs, and their rows in each part: ``train``, ``validation`` and ``test``.

    Raises:
        ConfigError: A size does not divide 64.
        DataError: The file is missing, damaged, or not the one that was built.
    """
    check_sides(config)
    arrays = read_indoor(file, path=config.path)
    pairs = PairedData(source=shrink(arrays["rgb"], config.source_side), target=depth_target(arrays, config))
    return arrays, pairs, {name: np.flatnonzero(arrays["split"] == part) for name, part in PARTS.items()}


def load_public(*, image_size: int, path: str = "") -> PublicSource:
    """Public images of furniture that is in no pair, no label pool and no test, alone and in rooms.

    Keys: ``<piece>/<view>``, ``room-<n>/000``; images whose keys differ after the last slash alone show
    the same thing.
    """
    arrays = read_indoor(PUBLIC_FILE, path=path)
    return PublicSource(
        images=resized(arrays["image"], image_size),
        keys=tuple(arrays["key"].tolist()),
        name="indoor-public",
    )


def depth_target(arrays: Arrays, config: DataConfig) -> Stored:
    """Depth in millimetres, (N, S, S, 1), with the simulated sensor's noise and holes where they are set."""
    step = arrays["depth_step_mm"].astype(np.uint16)
    exact = arrays["depth"].astype(np.uint16)[..., None] * step
    sensed = simulate_sensor(exact, noise=config.depth_noise, holes=config.depth_holes)
    return thin_out(sensed, config.image_size)


def thin_out(maps: Stored, side: int) -> Stored:
    """Every n-th pixel of depth maps or masks, so that no two distances or classes are mixed.

    Args:
        maps: (N, H, W) or (N, H, W, 1); ``side`` divides their sides.
        side: Side of the result.
    """
    step = maps.shape[1] // side
    return maps[:, step // 2 :: step, step // 2 :: step]
