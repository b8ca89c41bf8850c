"""Memory and time of a step by batch and ``distill.rows_at_once``: ``python -m tests.rows_at_once``.

Each row is a process of its own: a step of ``cmc`` with ``ws-200k`` at 64 pixels on made-up numbers, then one
more whose CPU time counts. Memory is what the process took beyond what it had before its first step.
"""

import json
import resource
import subprocess
import sys
import time

import torch

from edgecmd import losses
from edgecmd.core.seeding import torch_generator
from edgecmd.models.students import build_student
from edgecmd.training.in_parts import through
from edgecmd.training.optimise import mean_gradient

BATCHES = (64, 256, 1024, 4096)
ROWS = 256


def peak_mb() -> float:
    """Most memory that this process has had, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000


def step(batch: int, rows: int) -> dict[str, float]:
    """Memory, time and loss of a step."""
    torch.set_num_threads(1)
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
    spent = time.process_time() - start
    return {"mb": peak_mb() - before, "cpu_s": spent, "loss": float(value), "gradient": float(norm)}


if __name__ == "__main__":
    if len(sys.argv) == 3:
        sys.stdout.write(json.dumps(step(int(sys.argv[1]), int(sys.argv[2]))))
        raise SystemExit
    sys.stdout.write("batch  rows  MB  CPU s  loss  norm of the gradient\n")
    for batch in BATCHES:
        for rows in (0, ROWS)[: 1 + (batch > ROWS)]:
            words = [sys.executable, "-m", "tests.rows_at_once", str(batch), str(rows)]
            found = json.loads(subprocess.run(words, check=True, capture_output=True, text=True).stdout)
            told = (found["mb"], found["cpu_s"], found["loss"], found["gradient"])
            cells = (batch, rows or "all", *(f"{one:.7g}" for one in told))
            sys.stdout.write("  ".join(map(str, cells)) + "\n")
