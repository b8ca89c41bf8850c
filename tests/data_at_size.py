"""Memory and time of many pairs, by hand: ``python -m tests.data_at_size --out FOLDER --pairs 1000,30000``.

For each number a folder of made-up JPEG files is written (kept, and used again), and child processes tell the
peak memory of each part of the work: reading, features, training in one place, a federation, evaluation. Each
number builds a store and features of its own. `docs/performance.md` has a table.
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


def write_pairs(folder: Path, num: int, side: int) -> None:
    """Pairs of a picture of a few soft colours and its brightness, as JPEG; what is there is kept."""
    for half in ("source", "target"):
        (folder / half).mkdir(parents=True, exist_ok=True)
    for row in range(num):
        target = folder / "target" / f"{row:06}.jpg"
        if target.exists():
            continue
        noise = np.random.default_rng(row).integers(0, 256, (PATCHES, PATCHES, 3), dtype=np.uint8)
        picture = Image.fromarray(noise).resize((side, side), Image.Resampling.BICUBIC)
        picture.save(folder / "source" / f"{row:06}.jpg", quality=80)
        picture.convert("L").save(target, quality=80)


def _run(folder: Path, out: Path, side: int, store: str):
    from edgecmd.config.assemble import Assembly
    from edgecmd.config.reader import load_config

    own = (f"out={out}", f"data.path={folder}", f"data.image_size={side}", f"data.store={store}")
    return Assembly().run(load_config(None, [*SETTINGS, *own]))


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


PARTS: dict[str, Callable[..., None]] = {
    "read": read,
    "open": read,
    "features": features,
    "central": central,
    "federation": federation,
    "evaluation": evaluation,
}


def child(arguments: argparse.Namespace) -> None:
    """One part of the work; prints its peak memory and time as a line of JSON."""
    import torch

    torch.set_num_threads(1)
    run = _run(arguments.folder, arguments.out, arguments.side, arguments.store)
    start = time.process_time()
    PARTS[arguments.child](run)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    say(json.dumps({"peak_mb": round(peak / 1e6), "cpu_s": round(time.process_time() - start, 1)}))


def measure(out: Path, num: int, arguments: argparse.Namespace) -> dict[str, dict[str, float]]:
    """Figures of each part for so many pairs."""
    folder, work = out / str(num), out / f"work-{num}"
    write_pairs(folder, num, arguments.side)
    found = {}
    for part in arguments.parts.split(","):
        command = [sys.executable, "-m", "tests.data_at_size", "--child", part, "--folder", str(folder)]
        command += ["--out", str(work), "--side", str(arguments.side), "--store", arguments.store]
        environment = {**os.environ, "EDGECMD_CACHE": str(work / "cache"), "OMP_NUM_THREADS": "1"}
        answer = subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE, text=True)
        found[part] = json.loads(answer.stdout.splitlines()[-1])
        say(f"{num} {part} {found[part]}")
    return found


def main() -> None:
    """Write the files, measure, and print a table of JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--pairs", default="1000,10000,30000")
    parser.add_argument("--parts", default=",".join(PARTS))
    parser.add_argument("--side", type=int, default=SIDE)
    parser.add_argument("--store", default="always")
    parser.add_argument("--child", choices=PARTS)
    parser.add_argument("--folder", type=Path)
    arguments = parser.parse_args()
    if arguments.child:
        child(arguments)
        return
    every = {num: measure(arguments.out, int(num), arguments) for num in arguments.pairs.split(",")}
    say(json.dumps(every, indent=1))


if __name__ == "__main__":
    main()
