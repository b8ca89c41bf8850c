"""What a run needs of the machine, told before it begins: bytes on the disk and in memory, about."""

from typing import Any

import torch
from torch import Tensor, nn

from edgecmd.core.array_files import Examples, LazyRows
from edgecmd.core.text import size_of
from edgecmd.data.store import stores_folder
from edgecmd.models.devices import device_of
from edgecmd.run import Run

# Python, torch and this package, before any data.
PROGRAM = 450_000_000
# Each number of a layer's output is kept for the gradient, and has one.
KEPT = 2


def needs(run: Run, student: nn.Module) -> dict[str, Any]:
    """Bytes that a run of this student needs.

    Args:
        run: Its pairs are read already.
        student: Not changed.

    Returns:
        ``disk`` and ``memory``, each with a ``total`` and its parts. The peak of a process that trains a client;
        workers have as much each.
    """
    whole, task = run.task.data, run.task
    halves = [half for part in (whole.train, whole.validation.pairs, whole.test.pairs) for half in _halves(part)]
    features = len(halves[0]) * 4 * run.anchors.shape[1]
    disk = {"store": sum(one.nbytes for one in halves if isinstance(one, LazyRows)), "features": features}
    memory = {
        "program": PROGRAM,
        "pairs": sum(_in_memory(one) for one in halves),
        "public images": whole.public.images.nbytes,
        "a batch": run.distill.batch_size * run.loss.num_views * _step_bytes(student, task.input_shape),
    }
    return {
        "disk": {"total": sum(disk.values()), **disk},
        "memory": {"total": sum(memory.values()), **memory},
    }


def _halves(pairs: Any) -> tuple[Examples, Examples]:  # noqa: ANN401
    return pairs.source, pairs.target
