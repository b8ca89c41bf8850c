"""SUN RGB-D (Song et al. 2015): 10,335 frames of four depth sensors.

As ``SUNRGBD.zip`` unpacks, with ``SUNRGBDtoolbox.zip`` beside it where there is one::

    SUNRGBD/<sensor>/.../<frame>/image/*.jpg    sensor: kv1, kv2, realsense, xtion
                                 depth/*.png    as measured; depth_bfx/ has holes filled in
                                 scene.txt      one word, such as bedroom; "idk" is no label
    SUNRGBDtoolbox/traintestSUNRGBD/allsplit.mat   the official split, optional

A value ``d`` of 16 bits holds ``(d >> 3) | (d << 13)`` millimetres: the toolbox's read3dPoints.m turns the
bits by three. ``depth/`` is read, so that missing stays missing; ``depth_bfx/`` only where it is alone.
Frames below ``sun3ddata`` are of videos: those of one video are in one part. Elsewhere each frame stands for
itself, because the files do not say which frames show one room. The owner is the sensor. The 2D polygons of
the annotation are not read. The packed layouts of detection code (``sunrgbd_trainval``) are not this one.
"""

import os
from pathlib import Path

import numpy as np
from scipy.io import loadmat

from edgecmd.core.errors import DataError
from edgecmd.data.user_files.csv_tables import few
from edgecmd.data.user_files.halves import Halves, read_source
from edgecmd.data.user_files.images import (
    SUFFIXES,
    Sides,
    check_pair_aspect,
    check_size,
    is_depth,
    make_depth,
    open_upright,
)
from edgecmd.data.user_files.reading import reading
from edgecmd.datasets.on_disk.index import TEST, TRAIN, Entry, Index, not_used, unknown_layout, visible
from edgecmd.settings import DataConfig

SENSORS = ("kv1", "kv2", "realsense", "xtion")
VIDEOS = "sun3ddata"
SCENE, UNKNOWN = "scene.txt", "idk"
SPLIT = Path("SUNRGBDtoolbox") / "traintestSUNRGBD" / "allsplit.mat"
EXPECTED = "SUNRGBD/<kv1|kv2|realsense|xtion>/.../<frame>/ with image/, depth/ and scene.txt"


def index_sunrgbd(path: Path, _config: DataConfig) -> Index:
    """Index of SUN RGB-D; an entry is a frame.

    Args:
        path: The folder that has the sensors' folders, or the one above it.

    Raises:
        DataError: The layout is another one, or the split cannot be read.
    """
    root = path / "SUNRGBD" if (path / "SUNRGBD").is_dir() else path
    frames = [frame for sensor in SENSORS for frame in _frames(root / sensor)]
    if not frames:
        raise unknown_layout(root, expected=EXPECTED)
    parts = _official(next((one / SPLIT for one in (path, root.parent) if (one / SPLIT).is_file()), None))
    problems: list[str] = []
    entries = []
    for frame in frames:
        name = frame.relative_to(root).as_posix()
        image, depth = _only_file(frame, ("image",)), _only_file(frame, ("depth", "depth_bfx"))
        if image is None or depth is None:
            problems.append(f"{frame} lacks {'image/' if image is None else 'depth/'} with one picture.")
            continue
        entries.append(
            Entry(
                id=name,
                source=image,
                target=depth,
                owner=name.partition("/")[0],
                concept=name.rpartition("/")[0] if f"/{VIDEOS}/" in name else name,
                label=_scene(frame),
                part=parts.get(name, "") if parts else "",
            )
        )
    unlisted = [one.id for one in entries if parts and not one.part]
    if unlisted:
        problems.append(f"{SPLIT} does not list {few(unlisted)}. Unpack both archives of one version.")
    used = [file for one in entries for file in (one.source, one.target)]
    used += [*(frame / SCENE for frame in frames), path / SPLIT, root.parent / SPLIT]
    notes = not_used(path, used)
    return Index(entries=tuple(entries), unseen="scenes", read=_read, problems=problems, notes=notes)


def _frames(sensor: Path) -> list[Path]:
    """Folders with pictures and depth below a sensor's; nothing below them is searched."""
    found = []
    for folder, below, _ in os.walk(sensor):
        if "image" in below and {"depth", "depth_bfx"} & {*below}:
            found.append(Path(folder))
            below.clear()
    return sorted(found)


def _only_file(frame: Path, folders: tuple[str, ...]) -> Path | None:
    """The one picture in the first of ``folders`` that is there."""
    for name in folders:
        files = visible(frame / name, "*", SUFFIXES)
        if len(files) == 1:
            return files[0]
    return None


def _scene(frame: Path) -> str:
    """Class of the room; empty where nobody knew."""
    file = frame / SCENE
    text = file.read_text(encoding="utf-8", errors="replace").strip() if file.is_file() else ""
    return "" if text == UNKNOWN else text


def _official(file: Path | None) -> dict[str, str]:
    """Part of each frame by its name; empty where there is no split."""
    if file is None:
        return {}
    with reading(file, what="the official split", way_out="Unpack it again."):
        cells = loadmat(str(file))
        listed = {TRAIN: cells["alltrain"].ravel(), TEST: cells["alltest"].ravel()}
        return {
            str(np.ravel(one)[0]).rstrip("/").partition("SUNRGBD/")[2]: part
            for part, all_of_it in listed.items()
            for one in all_of_it
        }


def millimetres(stored: np.ndarray) -> np.ndarray:
    """Bits of a stored value turned right by three: millimetres, 0 where nothing was measured."""
    values = stored.astype(np.uint16)
    return (values >> 3) | (values << 13)


def _read(entry: Entry, sides: Sides) -> Halves:
    """Picture and depth of one frame."""
    picture, size = read_source(entry.source, side=sides.source, fit=sides.fit)
    image = open_upright(entry.target)
    if not is_depth(image):
        raise DataError(f"{entry.target} has mode {image.mode}; depth is one channel of 16 bits.")
    check_size(image.size, side=sides.target, fit=sides.fit, name=str(entry.target))
    check_pair_aspect(size, image.size, name=str(entry.target))
    units = millimetres(np.asarray(image))
    half = make_depth(units, ruler=sides.ruler, side=sides.target, fit=sides.fit, name=str(entry.target))
    return picture, half
