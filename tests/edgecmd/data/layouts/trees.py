"""Small made-up trees of the same layout as public sets have on disk."""

from pathlib import Path

import numpy as np
from PIL import Image

from tests.made_up_sound import tone, write_wav

PLAIN = "tx_000000000000"
CLASSES = ("airplane", "alarm_clock", "zebra")


def picture(path: Path, seed: int, *, size: tuple[int, int] = (32, 32), grey: bool = False) -> Path:
    """Noise with a bright block at a place of the seed's own."""
    draw = np.random.default_rng(seed)
    array = draw.integers(0, 120, (size[1], size[0], 3), dtype=np.uint8)
    row, column = divmod(seed % 16, 4)
    array[row * size[1] // 4 :, column * size[0] // 4 :][: size[1] // 4, : size[0] // 4] = 255
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array[..., 0] if grey else array).save(path)
    return path


def sketchy(root: Path, *, photos: int = 8, sketches: int = 2, tests: bool = True) -> Path:
    """Photographs of three classes with some sketches each, and the lists."""
    tested = []
    for place, name in enumerate(CLASSES):
        for photo in range(photos):
            stem = f"n0{place}_{photo}"
            picture(root / "256x256" / "photo" / PLAIN / name / f"{stem}.jpg", 100 * place + photo)
            for number in range(1, sketches + 1):
                file = root / "256x256" / "sketch" / PLAIN / name / f"{stem}-{number}.png"
                picture(file, 1000 * number + 100 * place + photo)
            if photo % 4 == 0:
                tested.append(f"{name}/{stem}.jpg")
    info = root / "info"
    info.mkdir(parents=True)
    (info / "invalid-error.txt").write_text("airplane/n00_1-1\n")
    (info / "invalid-pose.txt").write_text("n01_2-2\n\n")
    if tests:
        (info / "testset.txt").write_text("\n".join(tested))
    return root


def tuberlin(root: Path, *, sketches: int = 10, photos: int = 4) -> tuple[Path, Path]:
    """Sketches of three classes and photographs of two of them, under other spellings."""
    names, number = ("airplane", "alarm clock", "angel"), 0
    lines = []
    for name in names:
        for _ in range(sketches):
            number += 1
            picture(root / "sketches" / "png" / name / f"{number}.png", number, size=(40, 40), grey=True)
            lines.append(f"{name}/{number}.png")
    (root / "sketches" / "png" / "filelist.txt").write_text("\n".join(lines) + "\n")
    for place, name in enumerate(("Airplane", "alarm_clock")):
        for photo in range(photos):
            picture(root / "photos" / name / f"{photo}.jpg", 500 + 10 * place + photo, size=(48, 32))
    return root / "sketches", root / "photos"


def stored(millimetres: np.ndarray) -> np.ndarray:
    """What the toolbox's turn of the bits makes ``millimetres`` of."""
    values = millimetres.astype(np.uint16)
    return (values << 3) | (values >> 13)


def frame_depth(seed: int, *, size: tuple[int, int] = (32, 32)) -> np.ndarray:
    """Millimetres from 500 to 9,500 (above 8,191, where a shift alone would lose bits), a few missing."""
    draw = np.random.default_rng(seed)
    depth = draw.integers(500, 9501, (size[1], size[0]))
    depth[draw.random(depth.shape) < 0.1] = 0
    return depth.astype(np.uint16)


def sunrgbd(root: Path, *, split: bool = False) -> Path:
    """Frames of all sensors; two videos, of which the frames lie beside each other."""
    names = [f"kv1/NYUdata/NYU{number:04d}" for number in range(1, 13)]
    names += [f"kv2/kinect2data/{number:06d}_2014-resize" for number in range(6)]
    names += [f"realsense/lg/2014_{number}" for number in range(6)]
    names += [f"xtion/sun3ddata/hotel/hotel_{video}/{number:07d}" for video in "ab" for number in range(4)]
    for seed, name in enumerate(names):
        frame = root / "SUNRGBD" / name
        picture(frame / "image" / "0001.jpg", seed)
        for folder in ("depth", "depth_bfx"):
            (frame / folder).mkdir()
            depth = frame_depth(seed) if folder == "depth" else np.full((32, 32), 1000, np.uint16)
            Image.fromarray(stored(depth)).save(frame / folder / "0001.png")
        (frame / "annotation2Dfinal").mkdir()
        (frame / "scene.txt").write_text(("bedroom", "kitchen", "idk")[seed % 3] + "\n")
    if split:
        from scipy.io import savemat

        file = root / "SUNRGBDtoolbox" / "traintestSUNRGBD" / "allsplit.mat"
        file.parent.mkdir(parents=True)
        cells = {}
        for key, chosen in (("alltrain", names[::2]), ("alltest", names[1::2])):
            cells[key] = np.empty((1, len(chosen)), dtype=object)
            cells[key][0] = [f"/n/fs/sun3d/data/SUNRGBD/{name}/" for name in chosen]
        savemat(file, cells)
    return root


def nyu(root: Path, *, num: int = 30, raw: bool = True, split: bool = False) -> Path:
    """A file with the arrays, axes and references of the labelled set."""
    import h5py

    root.mkdir(parents=True, exist_ok=True)
    file = root / "nyu_depth_v2_labeled.mat"
    draw = np.random.default_rng(0)
    width, height = 40, 32
    names = ["book", "bottle", "wall", "floor"]
    labels = np.zeros((num, width, height), dtype=np.uint16)
    labels[:, :, :20], labels[:, :, 20:28] = 3, 4
    labels[:, :4, :4] = 1
    with h5py.File(file, "w") as opened:
        opened["images"] = draw.integers(0, 256, (num, 3, width, height), dtype=np.uint8)
        opened["labels"] = labels
        metres = draw.uniform(0.7, 9.5, (num, width, height)).astype(np.float32)
        opened["depths"] = metres
        if raw:
            opened["rawDepths"] = np.where(draw.random(metres.shape) < 0.1, 0, metres).astype(np.float32)
        for key, texts in (
            ("scenes", [f"kitchen_{row // 3:04d}{'abc'[row % 3]}" for row in range(num)]),
            ("sceneTypes", [("kitchen", "bedroom")[row // 3 % 2] for row in range(num)]),
            ("names", names),
        ):
            references = np.empty((1, len(texts)), dtype=h5py.ref_dtype)
            for row, text in enumerate(texts):
                letters = opened.create_dataset(
                    f"#refs#/{key}{row}", data=np.array([[ord(one)] for one in text], dtype=np.uint16)
                )
                references[0, row] = letters.ref
            opened.create_dataset(key, data=references, dtype=h5py.ref_dtype)
    if split:
        from scipy.io import savemat

        rows = np.arange(1, num + 1)
        is_test = (rows - 1) // 3 % 3 == 0
        savemat(
            root / "splits.mat", {"trainNdxs": rows[~is_test][:, None], "testNdxs": rows[is_test][:, None]}
        )
    return root


def vggsound(root: Path, *, num: int = 30) -> Path:
    """Clips of videos, two clips a video, and lines whose videos have vanished."""
    lines = []
    for number in range(num):
        video, start = f"--a_{number // 2:03d}-Xy", 10 * (number % 2) + 1
        name = f"{video}_{start:06d}"
        write_wav(root / "audio" / f"{name}.wav", tone(200.0 + 40.0 * number), rate_hz=8000)
        picture(root / "frames" / f"{name}.jpg", number, size=(48, 32))
        label = ("dog barking", "waves, surf")[number // 2 % 2]
        lines.append(f'{video},{start},"{label}",{"test" if number // 2 % 3 == 0 else "train"}')
    lines += ["gone_gone_g,30,dog barking,train", "GONE_gone_g,30,dog barking,test"]
    (root / "vggsound.csv").write_text("\n".join(lines) + "\n")
    return root
