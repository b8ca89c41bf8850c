"""What a step costs, each way in turn in one process: ``python -m tests.step_cost [--side 64] [--batch 64]``.

The ways of before stand here, so that both are measured in the same minute. CPU time of one thread; of each
repeat the ratio to the step of before.
"""

import argparse
import copy
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from unittest.mock import patch

import torch
from torch import Tensor, nn

from edgecmd.data.modalities.image import augment_image
from edgecmd.experiments.bench import gpu
from edgecmd.models.devices import place
from edgecmd.models.students import build_student
from edgecmd.models.trunks.convolutions import Activated, StandardisedConv2d
from edgecmd.privacy.step import standardised_weights, vmap_engine
from edgecmd.settings import DistillConfig
from edgecmd.training import distill
from edgecmd.training.distill import LocalData

BEFORE = "before"
plain_before = standardised_weights._plain


def weight_before(layer: StandardisedConv2d, *, scale: float = 1.0) -> Tensor:
    """The standardisation kernel by kernel."""
    mean = layer.weight.mean(dim=(1, 2, 3), keepdim=True)
    variance = (layer.weight - mean).square().mean(dim=(1, 2, 3), keepdim=True)
    root = torch.rsqrt(variance * layer.weight[0].numel() + 1e-8)
    found = layer.gain * (layer.weight - mean) * root
    return found if scale == 1.0 else found * scale


def adamw_before(student: nn.Module, config: DistillConfig) -> torch.optim.Optimizer:
    """AdamW operation by operation."""
    return torch.optim.AdamW(student.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay)


def row_major(module: nn.Module) -> nn.Module:
    """A plain copy in the layout that it had."""
    return plain_before(module).to(memory_format=torch.contiguous_format)


@contextmanager
def as_before(
    *, weight: bool = True, fold: bool = True, adamw: bool = True, private: bool = True
) -> Iterator[None]:
    """With what is asked for as it was."""
    parts = [
        (weight, patch.object(StandardisedConv2d, "standardised_weight", weight_before)),
        (fold, patch.object(Activated, "forward", nn.Sequential.forward)),
        (adamw, patch.dict(distill.OPTIMIZERS, adamw=adamw_before)),
        (private, patch.object(vmap_engine, "is_row_wise", lambda _: False)),
        (private, patch.object(vmap_engine, "COMPACT", 8)),
        (private, patch.object(standardised_weights, "_plain", row_major)),
    ]
    used = [one for wanted, one in parts if wanted]
    for one in used:
        one.start()
    try:
        yield
    finally:
        for one in reversed(used):
            one.stop()


def supervised(student: nn.Module, data: LocalData, config: DistillConfig) -> gpu.Work:
    """Training with labels: the same student, views, batch and optimiser, a linear head for ten classes."""
    coins = torch.Generator().manual_seed(0)
    classes = torch.randint(10, (len(data.target),), generator=coins)
    network = nn.Sequential(student, nn.Linear(data.teacher.shape[1], 10)).train()
    optimizer = distill.make_optimizer(network, config)

    def work(num_steps: int) -> None:
        for _ in range(num_steps):
            row = torch.randint(len(classes), (config.batch_size,), generator=coins)
            view = augment_image(data.target[row], strength=config.augment, generator=coins)
            optimizer.zero_grad()
            nn.functional.cross_entropy(network(view), classes[row]).backward()
            optimizer.step()

    return work


def cases(student_name: str, side: int, batch: int, loss: str) -> dict[str, Callable[[], None]]:
    """A step of each kind, by name."""
    coins, cpu = torch.Generator().manual_seed(0), torch.device("cpu")
    student = place(build_student(student_name, in_channels=1, embedding_dim=128, generator=coins), cpu)
    target = gpu.place_like(torch.randn(4 * batch, 1, side, side, generator=coins), cpu)
    data = LocalData(target=target, teacher=torch.randn(4 * batch, 128, generator=coins))
    anchors = torch.randn(1024, 128, generator=coins)
    config = DistillConfig(loss=loss, batch_size=batch, learning_rate=1e-4)
    plain = gpu._ours(student, data, anchors, config)
    bf16 = gpu._ours(student, data, anchors, replace(config, precision="bf16"))
    private = gpu._private(student, data, anchors, replace(config, loss="cosine"))

    def case(work: gpu.Work, **old: bool) -> Callable[[], None]:
        def run() -> None:
            with as_before(**{name: old.get(name, False) for name in ("weight", "fold", "adamw", "private")}):
                work(STEPS)

        return run

    every = {"weight": True, "fold": True, "adamw": True}
    return {
        BEFORE: case(plain, **every),
        "AdamW in one kernel": case(plain, weight=True, fold=True),
        "standardised weight in one kernel": case(plain, fold=True, adamw=True),
        "gain folded": case(plain, weight=True, adamw=True),
        "all three": case(plain),
        "bf16 before": case(bf16, **every),
        "all three and bf16": case(bf16),
        "with labels instead": case(supervised(copy.deepcopy(student), data, config)),
        "private before": case(private, **every, private=True),
        "private": case(private),
    }


STEPS = 4


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--student", default="ws-200k")
    parser.add_argument("--side", type=int, default=64)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--loss", default="cmc")
    parser.add_argument("--repeats", type=int, default=9)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    ways = cases(asked.student, asked.side, asked.batch, asked.loss)
    times: dict[str, list[float]] = {name: [] for name in ways}
    for repeat in range(asked.repeats + 1):
        for name, run in ways.items():
            started = time.process_time()
            run()
            if repeat:  # The first one chooses kernels.
                times[name].append((time.process_time() - started) / STEPS)
    sys.stdout.write("| step | ms | ÷ before | ÷ all three |\n|---|---|---|---|\n")
    for name, own in times.items():
        cells = [_spread(own, times[other]) for other in (BEFORE, "all three")]
        sys.stdout.write(f"| {name} | {1e3 * statistics.median(own):.1f} | {' | '.join(cells)} |\n")


def _spread(own: list[float], other: list[float]) -> str:
    ratios = [one / against for one, against in zip(own, other, strict=True)]
    return f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"


if __name__ == "__main__":
    main()
