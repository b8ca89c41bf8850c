"""Memory and time of a step of large batches: ``python -m tests.rows_at_once [--figure large-batches.png]``.

Each row is a process of its own: a step of ``cmc`` with ``ws-200k`` at 64 pixels on made-up numbers, then one
more whose CPU time counts. Memory is what the process took beyond what it had before its first step, without
the batch itself.
"""

import argparse
import json
import resource
import subprocess
import sys
import time
from pathlib import Path

import torch

from edgecmd import losses
from edgecmd.core.seeding import torch_generator
from edgecmd.losses import similarities
from edgecmd.models.students import build_student
from edgecmd.training.in_parts import through
from edgecmd.training.optimise import mean_gradient

ROWS, WHOLE = 256, 1 << 60
# Batches, rows of the student at once, numbers of the table at once.
WAYS = {
    "all at once": ((64, 256, 1024, 2048, 4096), 0, WHOLE),
    "student in parts": ((1024, 2048, 4096, 8192, 16384), ROWS, WHOLE),
    "student and table in parts": ((1024, 2048, 4096, 8192, 16384), ROWS, similarities.ENTRIES),
}


def peak_mb() -> float:
    """Most memory that this process has had, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000


def step(batch: int, rows: int, entries: int) -> dict[str, float]:
    """Memory, time and loss of a step, and the time of the loss and its gradient in it."""
    torch.set_num_threads(1)
    similarities.ENTRIES = entries
    generator = torch_generator(0, "rows-at-once")
    student = build_student("ws-200k", in_channels=1, embedding_dim=128, generator=generator).train()
    image = torch.rand(batch, 1, 64, 64, generator=generator)
    teacher = torch.randn(batch, 128, generator=generator)
    before = peak_mb()
    for _ in range(2):
        student.zero_grad()
        start = time.process_time()
        seen = through(student, image, precision="float32", rows_at_once=rows)
        value = mean_gradient(losses.cmc(seen, teacher, temperature=0.1))
    norm = torch.stack([one.grad.norm() for one in student.parameters() if one.grad is not None]).norm()
    spent, peak = time.process_time() - start, peak_mb() - before
    alone = seen.detach().requires_grad_()
    start = time.process_time()
    mean_gradient(losses.cmc(alone, teacher, temperature=0.1))
    return {
        "mb": peak,
        "cpu_s": spent,
        "loss_cpu_s": time.process_time() - start,
        "loss": float(value),
        "gradient": float(norm),
    }


def measured(*given: int) -> dict[str, float]:
    """`step` in a process of its own."""
    words = [sys.executable, "-m", "tests.rows_at_once", "--one", *map(str, given)]
    found: dict[str, float] = json.loads(
        subprocess.run(words, check=True, capture_output=True, text=True).stdout
    )
    return found


def picture(found: dict[str, list[tuple[int, float]]]) -> bytes:
    """Memory against batch, as PNG."""
    from matplotlib.axes import Axes

    from edgecmd.report.drawing import DASHES, LINES, draw

    def paint(axes: Axes) -> None:
        for place, (name, points) in enumerate(found.items()):
            batch, size_mb = zip(*points, strict=True)
            axes.plot(batch, size_mb, color=LINES[place], linestyle=DASHES[place], marker="o", label=name)
        axes.set_xscale("log", base=2)
        axes.set_yscale("log")
        axes.set(xlabel="batch", ylabel="memory of a step, MB")
        axes.set_xticks([64, 256, 1024, 4096, 16384], ["64", "256", "1,024", "4,096", "16,384"])
        axes.legend()

    return draw("large-batches", paint, alt="Memory of a step by batch").png


def main() -> None:
    """Print the table; draw the figure where one is asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--one", type=int, nargs=3, metavar=("BATCH", "ROWS", "ENTRIES"))
    parser.add_argument("--most", type=int, default=16384, help="largest batch")
    parser.add_argument("--figure", type=Path)
    asked = parser.parse_args()
    if asked.one:
        sys.stdout.write(json.dumps(step(*asked.one)))
        return
    sys.stdout.write("batch  way  MB  CPU s  of which loss  loss  norm of the gradient\n")
    points: dict[str, list[tuple[int, float]]] = {}
    for name, (batches, rows, entries) in WAYS.items():
        for batch in (one for one in batches if one <= asked.most):
            found = measured(batch, rows, entries)
            points.setdefault(name, []).append((batch, found["mb"]))
            cells = (batch, name, *(f"{found[one]:.7g}" for one in ("mb", "cpu_s", "loss_cpu_s", "loss")))
            sys.stdout.write("  ".join(map(str, (*cells, f"{found['gradient']:.7g}"))) + "\n")
            sys.stdout.flush()
    if asked.figure:
        asked.figure.write_bytes(picture(points))


if __name__ == "__main__":
    main()
