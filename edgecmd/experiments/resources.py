"""What a run needs from the machine, estimated before it starts: bytes on disk and in memory."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from edgecmd.core.text import size_of
from edgecmd.data.stored.array_files import Examples, LazyRows
from edgecmd.data.stored.store import stores_folder
from edgecmd.models.devices import device_of
from edgecmd.run import Run

# Python, torch and this package, before any data.
PROGRAM = 450_000_000
# Each number of a layer's output is kept for the gradient, and has one.
KEPT = 2

Needs = dict[str, dict[str, int]]


def needs(run: Run, student: nn.Module) -> Needs:
    """Bytes that a run needs, about: the peak of the process that trains; workers have as much each.

    Args:
        run: Its pairs are read already.
        student: One of the run; not changed.

    Returns:
        For ``disk`` and for ``memory`` the bytes of each part.
    """
    whole = run.task.data
    parts = (whole.train, whole.validation.pairs, whole.test.pairs)
    halves = [half for part in parts for half in (part.source, part.target)]
    held = [part.labelled.masks for part in (whole.validation, whole.test)]
    masks = [one.values for one in held if one is not None]
    rows = [*halves, *masks, whole.public.images]
    features = sum(map(len, parts)) * run.task.num_places(run.distill) * run.anchors.shape[1] * 4
    shown = run.distill.batch_size * run.loss.num_views
    return {
        "disk": {"store": _bytes(rows, stored=True), "features": features},
        "memory": {
            "program": PROGRAM,
            "pairs": _bytes(halves),
            "masks": _bytes(masks),
            "inputs": 0 if isinstance(whole.train.target, LazyRows) else _inputs_bytes(run),
            "public images": _bytes([whole.public.images]),
            "a batch": shown * _bytes_of_one(student, run.task.input_shape),
        },
    }


def _bytes(examples: Sequence[Examples], *, stored: bool = False) -> int:
    """Of what lies in memory, or on the disk; an array in memory that several share counts once."""
    held: dict[int, int] = {}
    total = 0
    for one in examples:
        for base, rows, _ in one.parts() if isinstance(one, LazyRows) else [(one, (), ())]:
            if isinstance(base, np.ndarray):
                held[id(base)] = base.nbytes
            else:
                total += one.nbytes * len(rows) // max(1, len(one))
    return total if stored else sum(held.values())


def _inputs_bytes(run: Run) -> int:
    """Of training pairs in memory every client's inputs are made once and kept, in single precision."""
    return 4 * len(run.task.data.train) * int(torch.Size(run.task.input_shape).numel())


@torch.no_grad()
def _bytes_of_one(student: nn.Module, shape: tuple[int, int, int]) -> int:
    """What one input keeps in memory until its gradient is there."""
    kept: list[int] = []

    def note(_module: nn.Module, _inputs: object, output: object) -> None:
        if isinstance(output, Tensor):
            kept.append(output.numel() * output.element_size())

    layers = [one for one in student.modules() if not list(one.children())]
    hooks = [one.register_forward_hook(note) for one in layers]
    try:
        student.eval()(torch.zeros(1, *shape, device=device_of(student)))
    finally:
        for one in hooks:
            one.remove()
    return KEPT * sum(kept) + 4 * int(torch.Size(shape).numel())


def needs_rows(found: Mapping[str, Mapping[str, int]]) -> list[list[str]]:
    """Rows of (what, value) of a plan for a person.

    Args:
        found: Of `needs`.
    """
    disk, memory = found["disk"], found["memory"]
    stored = f" (of these {size_of(disk['store'])} for what is decoded in {stores_folder()})"
    where = stored if disk["store"] else ""
    parts = ", ".join(f"{name} {size_of(num)}" for name, num in memory.items() if num)
    return [
        ["disk", f"about {size_of(sum(disk.values()))}{where}"],
        ["memory", f"about {size_of(sum(memory.values()))} a process: {parts}"],
    ]
