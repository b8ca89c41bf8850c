"""Memory and time of many pairs, by hand: ``python -m tests.data_at_size --out FOLDER --pairs 1000,30000``.

For each number a folder of made-up JPEG files is written (kept, and used again), and child processes tell the
peak memory of each part of the work: reading, features, training in one place, a federation, evaluation. Each
number builds a store and features of its own. `docs/performance.md` has a table.

``--parts masks,scoring,public,warm-start`` measures masks of so many pairs, and so many public images
beside few pairs.

``--photos 2000`` in place of ``--pairs`` measures how photographs of 1200 x 900 pixels are decoded into a
store: by one and by two threads, whole and at a part of their sides.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

SIDE, PATCHES = 224, 8
# Pairs beside public images; bounds of brightness between the classes of a mask.
BESIDE, BOUNDS = 100, (90, 160)
# Of `decoding`: width and height of a photograph, and how many of them differ.
PHOTO, DIFFERENT = (1200, 900), 100
# What every run has: a small student and few steps. Features are those of all pairs.
SETTINGS = (
    "name=size",
    "device=cpu",
    "data.name=folder",
    "data.max_pairs=0",
    "student.architecture=ws-50k",
    "teacher.name=icons",
    "distill.batch_size=32",
    "federation.client_fraction=0.2",
    "federation.num_clients=10",
    "federation.num_rounds=2",
    "federation.local_steps=1",
    "evaluate.every_rounds=0",
    "evaluate.num_labels=[0]",
)


def say(text: str) -> None:
    """Write a line."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def _picture(seed: int, side: int) -> Image.Image:
    """A few soft colours."""
    noise = np.random.default_rng(seed).integers(0, 256, (PATCHES, PATCHES, 3), dtype=np.uint8)
    return Image.fromarray(noise).resize((side, side), Image.Resampling.BICUBIC)


def write_pairs(folder: Path, num: int, side: int, *, masks: bool = False) -> None:
    """Pairs of a picture and its brightness, as JPEG, and masks of three levels; what is there is kept."""
    for part in ("source", "target", *(["target_mask"] if masks else [])):
        (folder / part).mkdir(parents=True, exist_ok=True)
    for row in range(num):
        target = folder / "target" / f"{row:06}.jpg"
        if target.exists():
            continue
        picture = _picture(row, side)
        grey = picture.convert("L")
        picture.save(folder / "source" / f"{row:06}.jpg", quality=80)
        if masks:
            classes = np.digitize(np.asarray(grey), BOUNDS).astype(np.uint8)
            Image.fromarray(classes).save(folder / "target_mask" / f"{row:06}.png", compress_level=1)
        grey.save(target, quality=80)


def write_public(folder: Path, num: int, side: int) -> None:
    """So many public images beside few pairs, none of them alike; what is there is kept."""
    write_pairs(folder, BESIDE, side)
    (folder / "public").mkdir(exist_ok=True)
    for row in range(num):
        path = folder / "public" / f"{row:06}.jpg"
        if not path.exists():
            _picture(BESIDE + row, side).save(path, quality=80)


def _run(folder: Path, out: Path, side: int, store: str, *more: str):
    from edgecmd.config.assemble import Assembly
    from edgecmd.config.reader import load_config

    own = (f"out={out}", f"data.path={folder}", f"data.image_size={side}", f"data.store={store}")
    return Assembly().run(load_config(None, [*SETTINGS, *own, *more]))


def read(run) -> None:
    """Pairs are read, checked for copies and split."""
    assert len(run.task.data.train)


def features(run) -> None:
    """The teacher looks at all of them."""
    assert len(run.task.training_features) == len(run.task.data.train)
    for part in ("validation", "test"):
        run.task.held_out_features(part)


def central(run) -> None:
    """A few steps in one place."""
    from edgecmd.recipes.central import train_central

    train_central(run)


def federation(run) -> None:
    """Two rounds of ten clients in this process."""
    from server.simulate import simulate

    simulate(run)


def evaluation(run) -> None:
    """Retrieval on the test."""
    from edgecmd.evaluation.evaluate import embedder, retrieval

    assert retrieval(embedder(run.new_student(), run.task), run.task, "test")


def scoring(run) -> None:
    """Masks of the pool drawn and gathered as for fine-tuning, and those of the test scored as if found."""
    from edgecmd.evaluation.segmentation import draw_images
    from edgecmd.evaluation.segmentation_score import rare_classes, segmentation_scores
    from edgecmd.evaluation.segmenter import AT_ONCE, class_weights

    drawn, test = draw_images(run, percent=100, draw=0), run.task.data.test.labelled.masks
    assert len(class_weights(drawn)) == len(test.names)
    for held in (False, True):
        assert all(len(drawn.target[batch]) == len(batch) for batch in drawn.batches(held=held))
    found = (test.values[start : start + AT_ONCE] for start in range(0, len(test.values), AT_ONCE))
    assert segmentation_scores(found, test, rare=rare_classes(test)).miou == 1.0


def warm_start(run) -> None:
    """Features of the public images, anchors, and two steps of a warm start."""
    from edgecmd.recipes import warm_start as recipe

    assert len(run.anchors)
    recipe.warm_start(run, num_steps=2)


PARTS: dict[str, Callable[..., None]] = {
    "read": read,
    "open": read,
    "features": features,
    "central": central,
    "federation": federation,
    "evaluation": evaluation,
}
MORE: dict[str, Callable[..., None]] = {
    "masks": read,
    "scoring": scoring,
    "public": read,
    "warm-start": warm_start,
}


def child(arguments: argparse.Namespace) -> None:
    """One part of the work; prints its peak memory and time as a line of JSON."""
    import torch

    torch.set_num_threads(1)
    more = ("student.architecture=seg-50k",) if arguments.child == "scoring" else ()
    run = _run(arguments.folder, arguments.out, arguments.side, arguments.store, *more)
    start = time.process_time()
    (PARTS | MORE)[arguments.child](run)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    say(json.dumps({"peak_mb": round(peak / 1e6), "cpu_s": round(time.process_time() - start, 1)}))


def measure(out: Path, num: int, arguments: argparse.Namespace) -> dict[str, dict[str, float]]:
    """Figures of each part for so many pairs."""
    found = {}
    for part in arguments.parts.split(","):
        kind = {"scoring": "masks", "warm-start": "public"}.get(part, part if part in MORE else "")
        folder, work = out / f"{kind}{num}", out / f"work-{kind}{num}"
        if kind == "public":
            write_public(folder, num, arguments.side)
        else:
            write_pairs(folder, num, arguments.side, masks=kind == "masks")
        command = [sys.executable, "-m", "tests.data_at_size", "--child", part, "--folder", str(folder)]
        command += ["--out", str(work), "--side", str(arguments.side), "--store", arguments.store]
        environment = {**os.environ, "EDGECMD_CACHE": str(work / "cache"), "OMP_NUM_THREADS": "1"}
        answer = subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE, text=True)
        found[part] = json.loads(answer.stdout.splitlines()[-1])
        say(f"{num} {part} {found[part]}")
    return found


def write_photos(folder: Path, num: int) -> None:
    """Pairs of a photograph-like picture and its brightness, 100 different ones under ``num`` names."""
    for half in ("source", "target"):
        (folder / half).mkdir(parents=True, exist_ok=True)
    for row in range(num):
        paths = [folder / half / f"{row:06}.jpg" for half in ("source", "target")]
        if paths[1].exists():
            continue
        if row >= DIFFERENT:
            for path in paths:
                os.link(path.with_stem(f"{row % DIFFERENT:06}"), path)
            continue
        noise, levels = np.random.default_rng(row), np.full((PHOTO[1], PHOTO[0], 3), 128, np.float32)
        # Half as strong at three times the detail, about as photographs are; edges beside it.
        for side, strength in ((6, 60), (24, 30), (96, 18), (300, 10), (900, 5)):
            grain = noise.normal(0, strength, (side, side * 4 // 3, 3)).astype(np.float32)
            layers = [
                Image.fromarray(one).resize(PHOTO, Image.Resampling.BICUBIC)
                for one in grain.transpose(2, 0, 1)
            ]
            levels += np.stack([np.asarray(one) for one in layers], axis=2)
        picture = Image.fromarray(levels.clip(0, 255).astype(np.uint8))
        for left, top, side in noise.integers(0, (PHOTO[0], PHOTO[1], 200), (20, 3)).tolist():
            picture.paste(tuple(noise.integers(0, 256, 3).tolist()), (left, top, left + side, top + side))
        picture.save(paths[0], quality=85)
        picture.convert("L").save(paths[1], quality=85)


def decoding(out: Path, num: int) -> None:
    """Time of a store by threads and by how JPEG is decoded, in turns; and how far the pixels differ."""
    from edgecmd.data.user_files import decode
    from edgecmd.data.user_files.folder import Reading, read_own
    from edgecmd.settings import DataConfig

    folder, shrink, found = out / f"photos-{num}", decode._shrink, {}
    write_photos(folder, num)
    for way in ("whole", "part"):
        for threads in (1, 2):
            decode._shrink = shrink if way == "part" else lambda *_: None
            os.environ["EDGECMD_CACHE"] = str(out / f"cache-{way}-{threads}")
            config = DataConfig(
                name="folder", path=str(folder), image_size=SIDE, store="always", num_threads=threads
            )
            wall, cpu = time.perf_counter(), time.process_time()
            own = read_own(Reading(path=folder, config=config, whole=True))
            wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
            say(f"{way}, {threads} threads: {wall:.1f} s, {cpu:.1f} s of CPU")
            found[way, threads] = own.data
    rows = np.arange(min(num, DIFFERENT))
    for half in ("source", "target"):
        first, second = (np.asarray(getattr(found[way, 1], half)[rows]) for way in ("whole", "part"))
        difference = np.abs(first.astype(int) - second)
        say(f"{half}: mean {difference.mean():.3f}, 99.9% {np.quantile(difference, 0.999):.0f}")
        for way in ("whole", "part"):
            one, two = (np.asarray(getattr(found[way, threads], half)[rows]) for threads in (1, 2))
            assert one.tobytes() == two.tobytes()


def main() -> None:
    """Write the files, measure, and print a table of JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--pairs", default="1000,10000,30000")
    parser.add_argument("--parts", default=",".join(PARTS))
    parser.add_argument("--side", type=int, default=SIDE)
    parser.add_argument("--store", default="always")
    parser.add_argument("--photos", type=int, default=0)
    parser.add_argument("--child", choices=PARTS | MORE)
    parser.add_argument("--folder", type=Path)
    arguments = parser.parse_args()
    if arguments.child:
        child(arguments)
        return
    if arguments.photos:
        decoding(arguments.out, arguments.photos)
        return
    every = {num: measure(arguments.out, int(num), arguments) for num in arguments.pairs.split(",")}
    say(json.dumps(every, indent=1))


if __name__ == "__main__":
    main()
