"""The engines of private gradients against the plain gradient, interleaved in one process."""

import statistics
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from edgecmd.core.errors import ConfigError
from edgecmd.run import Run

if TYPE_CHECKING:
    from edgecmd.privacy.step.gradients import Sum

CHUNK_ROWS = 128
NUM_GROUPS = 8
NUM_VIEWS = 4
AGREEMENT = 1e-3
# Name, engine, mechanism, views of a pair.
CASES = (
    ("vmap", "vmap", "anchors", 1),
    ("opacus", "opacus", "anchors", 1),
    ("opacus-ghost", "opacus-ghost", "anchors", 1),
    ("vmap, 4 views", "vmap", "anchors", NUM_VIEWS),
    ("vmap, groups", "vmap", "groups", 1),
)


def measure(run: Run, *, num_repeats: int) -> dict[str, Any]:
    """Ratios of CPU time, private gradient to plain gradient.

    Args:
        run: Student, size of the inputs, batch size and anchors; the inputs are noise.
        num_repeats: Repeats of plain, engine, plain, engine and so on.

    Raises:
        ConfigError: Two engines do not agree, so a ratio would mean nothing.
    """
    plain, cases, about = _prepare(run)
    _check_agreement({name: cases[name]() for name in ("vmap", "opacus", "opacus-ghost")})
    ratios: dict[str, list[float]] = {name: [] for name in cases}
    times: dict[str, list[float]] = {name: [] for name in cases}
    plain_times = []
    for _ in range(num_repeats):
        for name, private in cases.items():
            base, own = _cpu(plain), _cpu(private)
            plain_times.append(base)
            times[name].append(own)
            ratios[name].append(own / base)
    engines = [
        {
            "name": name,
            "ratio_median": statistics.median(ratios[name]),
            "ratio_min": min(ratios[name]),
            "ratio_max": max(ratios[name]),
            "cpu_ms": 1e3 * statistics.median(times[name]),
        }
        for name in cases
    ]
    return {**about, "plain_ms": 1e3 * statistics.median(plain_times), "engines": engines}


def _prepare(run: Run) -> tuple[Callable[[], None], dict[str, Callable[[], "Sum"]], dict[str, Any]]:
    import numpy as np
    import torch

    from edgecmd import losses
    from edgecmd.data.modalities.table import modality_of
    from edgecmd.models.base import noise_for
    from edgecmd.privacy.mechanisms import default_loss
    from edgecmd.privacy.step.gradients import clipped_sum
    from edgecmd.privacy.step.randomness import DeterministicSource
    from edgecmd.privacy.step.standardised_weights import EffectiveStudent
    from edgecmd.privacy.step.units import StepSettings, make_units, unit_loss
    from edgecmd.training.distill import LocalData

    student, shape, batch = run.new_student(), run.task.input_shape, run.distill.batch_size
    dim = student.embedding_dim
    coins = torch.Generator().manual_seed(0)
    data = LocalData(
        target=noise_for(student, (batch, *shape), generator=coins),
        teacher=torch.randn(batch, dim, generator=coins),
    )
    anchors = torch.randn(run.distill.num_anchors, dim, generator=coins)
    effective = EffectiveStudent(student)

    def plain() -> None:
        student.zero_grad()
        loss = losses.cmc_anchored(student(data.inputs), data.features, anchors, temperature=0.1)
        loss.mean().backward()  # type: ignore[no-untyped-call]

    def private(engine: str, mechanism: str, num_views: int) -> "Sum":
        settings = StepSettings(
            mechanism=mechanism, num_views=num_views, num_groups=NUM_GROUPS, chunk_size=CHUNK_ROWS * num_views
        )
        source = DeterministicSource(0)
        chunks = make_units(data, np.arange(batch), config=settings, augment=0.0, source=source)
        loss = unit_loss(losses.LOSSES[default_loss(mechanism)](), anchors)
        effective.refresh()
        total = clipped_sum(effective.module, chunks, loss, clip=1.0, engine=engine)
        effective.pull_back(total)
        return total

    def case(engine: str, mechanism: str, num_views: int) -> Callable[[], "Sum"]:
        return lambda: private(engine, mechanism, num_views)

    about = {
        "architecture": run.student.architecture,
        "size": modality_of(run.task.data.train.target).size(shape),
        "batch": batch,
        "anchors": len(anchors),
    }
    return plain, {name: case(*rest) for name, *rest in CASES}, about  # type: ignore[arg-type]


def _check_agreement(sums: "dict[str, Sum]") -> None:
    from edgecmd.privacy.step.gradients import norm

    first, *others = sums
    for other in others:
        gap = norm({name: sums[other][name] - value for name, value in sums[first].items()})
        if gap > AGREEMENT * norm(sums[first]):
            raise ConfigError(f"Engines {first!r} and {other!r} differ by {gap:.3g}; no ratio was measured.")


def _cpu(run: Callable[[], object]) -> float:
    started = time.process_time()
    run()
    return time.process_time() - started
