"""Small made-up data of every kind that edgecmd reads, for `tests.golden_table`; all of it from seeds.

It stands on NumPy, Pillow and h5py alone and imports nothing of edgecmd, so that a move of modules
leaves it as it is.
"""

import hashlib
import json
import wave
from pathlib import Path

import numpy as np
from PIL import Image

SIDE = 16
NUM = 60
RATE_HZ = 8000


def write_inputs(root: Path) -> None:
    """Everything below ``root``: ``pairs.npz`` and its kin, folders, built sets, public sets as on disk."""
    root.mkdir(parents=True)
    _npz(root)
    _folders(root)
    _ready(root)
    built = root / "built"
    _digits(built / "digits")
    _emoji_full(built / "emoji-full")
    _stamps(built / "stamps")
    _sketchy(root / "sketchy")
    _tuberlin(root / "tuberlin")
    _sunrgbd(root / "sunrgbd")
    _nyu(root / "nyu")
    _vggsound(root / "vggsound")


def write_manifest(folder: Path, *, facts: dict[str, str] | None = None) -> None:
    """The manifest of a built set over what lies in ``folder``, as `edgecmd data build` writes it."""
    files = {
        path.stem: {"file": path.name, "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
        for path in sorted(folder.iterdir())
        if path.name != "built.json"
    }
    (folder / "built.json").write_text(json.dumps({"files": files, **(facts or {})}))


def _noise(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def _millimetres(seed: int, *shape: int) -> np.ndarray:
    """Depth from 0.5 to 5 m, a tenth of it missing."""
    draw = np.random.default_rng(seed)
    depth = draw.integers(500, 5001, shape).astype(np.uint16)
    depth[draw.random(shape) < 0.1] = 0
    return depth


def _tone(number: int, *, seconds: float = 0.4) -> np.ndarray:
    """A sine of a pitch of its own in faint noise, int16."""
    draw = np.random.default_rng(number)
    time = np.arange(round(seconds * RATE_HZ)) / RATE_HZ
    sound = 0.4 * np.sin(2 * np.pi * (200 + 43 * number) * time) + 0.02 * draw.standard_normal(len(time))
    return np.rint(sound * 32767).astype(np.int16)


def _write_wav(path: Path, samples: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(RATE_HZ)
        file.writeframes(samples.astype("<i2").tobytes())


def _save(path: Path, array: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)


def _npz(root: Path) -> None:
    """Pairs of pictures, grey and in colour, of depth and of recordings, with labels and owners."""
    shared = {
        "source": _noise(1, NUM, SIDE, SIDE, 3),
        "public": _noise(2, 24, SIDE, SIDE, 3),
        "id": np.array([f"p{row:03d}" for row in range(NUM)]),
        "label": np.array([f"class-{row % 5}" for row in range(NUM)]),
        "owner": np.array([f"owner-{row % 3}" for row in range(NUM)]),
    }
    np.savez(root / "pairs.npz", target=_noise(3, NUM, SIDE, SIDE), **shared)
    np.savez(root / "colour.npz", target=_noise(4, NUM, SIDE, SIDE, 3), **shared)
    np.savez(root / "depth.npz", target=_millimetres(5, NUM, SIDE, SIDE), **shared)
    waves = np.stack([_tone(row) for row in range(NUM)])
    np.savez(root / "waves.npz", target=waves, target_rate_hz=np.array(RATE_HZ), **shared)
    # Where depth teaches pictures, the public examples are of depth too, in a folder.
    private = {key: value for key, value in shared.items() if key != "public"}
    np.savez(root / "taught-by-depth.npz", target=_millimetres(5, NUM, SIDE, SIDE), **private)
    for row in range(24):
        _save(root / "public-depth" / f"q{row:02d}.png", _millimetres(8000 + row, SIDE, SIDE))
    # Three pairs each share a source: several targets of one picture.
    doubled = dict(shared, source=shared["source"][np.arange(NUM) // 3 * 3])
    np.savez(root / "copies.npz", target=_noise(6, NUM, SIDE, SIDE), **doubled)


def _folders(root: Path) -> None:
    """The same kinds as files in folders, larger than a run takes them, with tables and masks."""
    for place, kind in enumerate(("pictures", "depths", "sounds")):
        folder = root / kind
        for row in range(NUM):
            seed = 1000 * (place + 1) + row
            _save(folder / "source" / f"p{row:03d}.png", _noise(seed, 20, 24, 3))
            if kind == "pictures":
                _save(folder / "target" / f"p{row:03d}.png", _noise(seed + 500, 40, 48))
                _save(folder / "target_mask" / f"p{row:03d}.png", _noise(seed + 900, 40, 48) % 3)
            elif kind == "depths":
                _save(folder / "target" / f"p{row:03d}.png", _millimetres(seed + 500, 40, 48))
            else:
                _write_wav(folder / "target" / f"p{row:03d}.wav", _tone(row, seconds=0.3 + 0.01 * row))
        rows = [f"p{row:03d},owner-{row % 3},concept-{row // 2}" for row in range(NUM)]
        (folder / "pairs.csv").write_text("\n".join(["id,owner,concept", *rows]) + "\n")
        labels = [f"p{row:03d},class-{row % 5}" for row in range(NUM)]
        (folder / "labels.csv").write_text("\n".join(["id,label", *labels]) + "\n")
        for row in range(20):
            _save(folder / "public" / f"q{row:02d}.png", _noise(9000 + row, 16, 16, 3))


def _ready(root: Path) -> None:
    """Features of ``pairs.npz`` and of its public pictures, 48 numbers a row."""
    draw = np.random.default_rng(7)
    ids = np.array([f"p{row:03d}" for row in reversed(range(NUM))])
    np.savez(root / "ready.npz", ids=ids, features=draw.normal(size=(NUM, 48)))
    keys = np.array([f"{row:02d}" for row in range(24)])
    np.savez(root / "ready-public.npz", ids=keys, features=draw.normal(size=(24, 48)))


def _digits(folder: Path) -> None:
    folder.mkdir(parents=True)
    speakers, takes = ("ann", "bob", "cy", "dee"), 8
    every = [(digit, speaker, take) for digit in range(10) for speaker in speakers for take in range(takes)]
    np.savez(
        folder / "pairs.npz",
        wave=np.stack([_tone(row, seconds=1.0) for row in range(len(every))]),
        picture=_noise(11, len(every), 32, 32),
        digit=np.array([one[0] for one in every], np.uint8),
        take=np.array([one[2] for one in every], np.uint8),
        speaker=np.array([one[1] for one in every]),
        public_picture=_noise(12, 40, 32, 32),
    )
    write_manifest(folder)


def _emoji_full(folder: Path) -> None:
    folder.mkdir(parents=True)
    rows = np.arange(120)
    np.savez(
        folder / "pairs.npz",
        image=_noise(13, 120, 64, 64, 3),
        sketch=_noise(14, 120, 64, 64),
        split=np.array([0, 0, 0, 1, 2], np.uint8)[rows // 2 % 5],
        label=(rows // 2 % 4).astype(np.uint8),
        label_names=np.array(["one", "two", "three", "four"]),
        subgroup=np.array([f"sub-{row // 2 % 3}" for row in rows]),
        concept=np.array([f"e{row // 2:03d}" for row in rows]),
        style=(rows % 2).astype(np.uint8),
        style_names=np.array(["house-a", "house-b"]),
    )
    write_manifest(folder)


def _stamps(folder: Path) -> None:
    folder.mkdir(parents=True)
    num, languages = 60, ("fr", "ro", "ru")
    sounds = [_tone(row, seconds=0.3 + 0.001 * row) for row in range(num * len(languages))]
    names = [f"{('animals', 'food', 'toys')[row % 3]}/sub/{row:02d}" for row in range(num)]
    np.savez(
        folder / "pairs.npz",
        picture=_noise(15, num, 64, 64, 3),
        stamp=np.array(names),
        concept=np.array([f"word-{row}" for row in range(num)]),
        row=np.repeat(np.arange(num), len(languages)),
        language=np.array(languages * num),
        length=np.array([len(one) for one in sounds]),
        id=np.array([f"{name}_{language}" for name in names for language in languages]),
    )
    np.save(folder / "waves.npy", np.concatenate(sounds))
    write_manifest(folder)


def _sketchy(root: Path) -> None:
    base, tested = root / "256x256", []
    for place, name in enumerate(("airplane", "alarm_clock", "zebra")):
        for photo in range(8):
            stem, seed = f"n0{place}_{photo}", 20_000 + 100 * place + 10 * photo
            _save(base / "photo" / "tx_000000000000" / name / f"{stem}.jpg", _noise(seed, 32, 32, 3))
            for number in (1, 2):
                file = base / "sketch" / "tx_000000000000" / name / f"{stem}-{number}.png"
                _save(file, _noise(seed + number, 32, 32, 3))
            if photo % 4 == 0:
                tested.append(f"{name}/{stem}.jpg")
    (root / "info").mkdir()
    (root / "info" / "invalid-error.txt").write_text("airplane/n00_1-1\n")
    (root / "info" / "testset.txt").write_text("\n".join(tested))


def _tuberlin(root: Path) -> None:
    number = 0
    for name in ("airplane", "alarm clock", "angel"):
        for _ in range(20):
            number += 1
            _save(root / "sketches" / "png" / name / f"{number}.png", _noise(21_000 + number, 40, 40))
    for place, name in enumerate(("Airplane", "alarm_clock")):
        for photo in range(8):
            _save(root / "photos" / name / f"{photo}.jpg", _noise(22_000 + 10 * place + photo, 32, 48, 3))


def _sunrgbd(root: Path) -> None:
    names = [f"kv1/NYUdata/NYU{number:04d}" for number in range(1, 25)]
    names += [f"kv2/kinect2data/{number:06d}_2014-resize" for number in range(6)]
    names += [f"xtion/sun3ddata/hotel/hotel_{video}/{number:07d}" for video in "ab" for number in range(4)]
    for row, name in enumerate(names):
        frame = root / "SUNRGBD" / name
        _save(frame / "image" / "0001.jpg", _noise(23_000 + row, 32, 32, 3))
        depth = _millimetres(24_000 + row, 32, 32)
        for folder in ("depth", "depth_bfx"):
            # As the set's makers store it: the bits turned by three.
            _save(frame / folder / "0001.png", (depth << 3) | (depth >> 13))
        (frame / "annotation2Dfinal").mkdir()
        (frame / "scene.txt").write_text(("bedroom", "kitchen", "idk")[row % 3] + "\n")


def _nyu(root: Path) -> None:
    import h5py

    root.mkdir()
    draw, num = np.random.default_rng(25), 36
    labels = np.zeros((num, 40, 32), np.uint16)
    labels[:, :, :20], labels[:, :, 20:28], labels[:, :4, :4] = 3, 4, 1
    metres = draw.uniform(0.7, 9.5, labels.shape).astype(np.float32)
    texts = {
        "scenes": [f"kitchen_{row // 3:04d}{'abc'[row % 3]}" for row in range(num)],
        "sceneTypes": [("kitchen", "bedroom")[row // 3 % 2] for row in range(num)],
        "names": ["book", "bottle", "wall", "floor"],
    }
    with h5py.File(root / "nyu_depth_v2_labeled.mat", "w") as file:
        file["images"] = draw.integers(0, 256, (num, 3, 40, 32), dtype=np.uint8)
        file["labels"], file["depths"] = labels, metres
        file["rawDepths"] = np.where(draw.random(metres.shape) < 0.1, 0, metres).astype(np.float32)
        for key, lines in texts.items():
            references = np.empty((1, len(lines)), dtype=h5py.ref_dtype)
            for row, text in enumerate(lines):
                letters = np.array([[ord(one)] for one in text], np.uint16)
                references[0, row] = file.create_dataset(f"#refs#/{key}{row}", data=letters).ref
            file.create_dataset(key, data=references, dtype=h5py.ref_dtype)


def _vggsound(root: Path) -> None:
    lines = []
    for row in range(36):
        video, start = f"--a_{row // 2:03d}-Xy", 10 * (row % 2) + 1
        name = f"{video}_{start:06d}"
        _write_wav(root / "audio" / f"{name}.wav", _tone(row))
        _save(root / "frames" / f"{name}.jpg", _noise(26_000 + row, 32, 48, 3))
        label = ("dog barking", "waves, surf")[row // 2 % 2]
        lines.append(f'{video},{start},"{label}",{"test" if row // 2 % 3 == 0 else "train"}')
    (root / "vggsound.csv").write_text("\n".join(lines) + "\n")
