"""Our steps on a GPU: against a bare torch loop, in bf16, under privacy, interleaved in one run."""

import statistics
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from edgecmd.core.errors import ConfigError
from edgecmd.settings import DistillConfig

if TYPE_CHECKING:
    import torch

    from edgecmd.models.students import Student
    from edgecmd.training.distill import LocalData

# Students from the largest that is wanted to one that is always there, by the library that each needs.
STUDENTS = {
    "timm": "timm:mobilenetv3_small_100",
    "torchvision": "torchvision:mobilenet_v3_small",
    "": "ws-200k",
}
DIM, NUM_ANCHORS, TEACHER = 128, 1024, "imagenet"
# Pairs that a client holds, in batches.
HELD = 4
BARE, OURS, PRIVATE, FEATURES = "bare loop", "distillation", "private step", "teacher features"
MOST_STEPS = 200
Work = Callable[[int], None]


@dataclass(frozen=True, kw_only=True, slots=True)
class Sizes:
    """What is measured.

    Attributes:
        student: Name of a student; empty: the first of `STUDENTS` whose library is installed.
        side: Of its inputs, in pixels.
        batch: Pairs per step.
        repeats: Times that each case is measured, one case after the other.
        seconds: For which a case works each time, about.
    """

    student: str = ""
    side: int
    batch: int
    repeats: int
    seconds: float


# Of a GPU, and small ones that show on a processor that all of it works.
SIZES = {
    "cuda": Sizes(side=224, batch=256, repeats=7, seconds=2.0),
    "cpu": Sizes(student="ws-50k", side=32, batch=8, repeats=2, seconds=0.0),
}


def sizes_on(device: str, **given: Any) -> Sizes:  # noqa: ANN401 - numbers and a name
    """The sizes of `SIZES` with those that were given in their place.

    Raises:
        ConfigError: There is no such device here.
    """
    import torch

    if device not in SIZES:
        raise ConfigError(f"--device {device!r} is unknown. Allowed: {', '.join(SIZES)}.")
    if device == "cuda" and not torch.cuda.is_available():
        raise ConfigError(
            "torch finds no CUDA device on this machine, so there is no GPU to measure. Run it on a machine"
            " with one, or use --device cpu, which does the same at small sizes."
        )
    sizes = replace(SIZES[device], **{name: value for name, value in given.items() if value})
    return sizes if sizes.student else replace(sizes, student=_student_at_hand())


def _student_at_hand() -> str:
    return next(name for library, name in STUDENTS.items() if not library or find_spec(library))


def measure(device: str, sizes: Sizes) -> dict[str, Any]:
    """Steps a second of each case, and each case divided by the bare loop of its repeat.

    Args:
        device: ``cuda`` or ``cpu``.
        sizes: What is measured.

    Returns:
        Facts of device and sizes; ``rows`` with median, least and most of steps (or teacher images) a
        second, and of the ratio of times to the case named in ``against``; ``waits``: how often a step of
        each waits for the GPU, None on a processor. Times are wall time on a GPU, else CPU time.
    """
    import torch

    cases = _cases(torch.device(device), sizes)
    per_step = {name: _warm(work, device) for name, work in cases.items()}
    num_steps = {
        name: max(1, min(MOST_STEPS, round(sizes.seconds / taken))) for name, taken in per_step.items()
    }
    times: dict[str, list[float]] = {name: [] for name in cases}
    for _ in range(sizes.repeats):
        for name, work in cases.items():
            times[name].append(_timed(work, num_steps[name], device) / num_steps[name])
    return {
        "device": torch.cuda.get_device_name() if device == "cuda" else "cpu",
        "torch": torch.__version__,
        "student": sizes.student,
        "side": sizes.side,
        "batch": sizes.batch,
        "repeats": sizes.repeats,
        "rows": [_row(name, times, sizes.batch) for name in cases],
        "waits": {name: _waits_a_step(work) if device == "cuda" else None for name, work in cases.items()},
    }


def _row(name: str, times: dict[str, list[float]], batch: int) -> dict[str, Any]:
    """Figures of one case; bf16 and private cases are compared with the float32 case of the same loop."""
    first = name.partition(",")[0]
    against = first if first != name else OURS if name == PRIVATE else BARE
    speeds = [(batch if name == FEATURES else 1) / one for one in times[name]]
    row = {"name": name, "unit": "pictures" if name == FEATURES else "steps", **_spread("per_s", speeds)}
    if name in (against, FEATURES):
        return row
    ratios = [own / other for own, other in zip(times[name], times[against], strict=True)]
    return {**row, "against": against, **_spread("time_ratio", ratios)}


def _spread(name: str, values: list[float]) -> dict[str, float]:
    found = {"median": statistics.median(values), "min": min(values), "max": max(values)}
    return {f"{name}_{which}": value for which, value in found.items()}


def _cases(device: "torch.device", sizes: Sizes) -> dict[str, Work]:
    """What is done for a number of steps, by name."""
    import torch

    from edgecmd.models.devices import place
    from edgecmd.models.students import build_student
    from edgecmd.training.distill import LocalData

    coins = torch.Generator().manual_seed(0)
    student = build_student(
        sizes.student, in_channels=3, embedding_dim=DIM, generator=coins, size=(sizes.side, sizes.side)
    )
    num = HELD * sizes.batch
    data = LocalData(
        target=place_like(torch.randn(num, 3, sizes.side, sizes.side, generator=coins), device),
        teacher=torch.randn(num, DIM, generator=coins).to(device),
    )
    anchors = torch.randn(NUM_ANCHORS, DIM, generator=coins).to(device)
    config = DistillConfig(loss="cmc", batch_size=sizes.batch, learning_rate=1e-4)
    made = place(student, device)
    found: dict[str, Work] = {}
    for precision in ("float32", "bf16"):
        end = "" if precision == "float32" else f", {precision}"
        own = replace(config, precision=precision)
        found[BARE + end] = _bare(made, data, own)
        found[OURS + end] = _ours(made, data, anchors, own)
    found[PRIVATE] = _private(made, data, anchors, replace(config, loss="cosine"))
    found[FEATURES] = _teacher(device, sizes)
    return found


def place_like(image: "torch.Tensor", device: "torch.device") -> "torch.Tensor":
    """Inputs as `edgecmd.data.modalities.image.to_input` lays them out, on ``device``."""
    import torch

    return image.to(device).contiguous(memory_format=torch.channels_last)


def _bare(student: "Student", data: "LocalData", config: DistillConfig) -> Work:
    """The loop that a person would write for the same steps; it asks the device for nothing."""
    import torch

    from edgecmd.data.augment import augment
    from edgecmd.losses import cmc
    from edgecmd.models.devices import forward

    device = data.inputs.device
    coins = torch.Generator(device).manual_seed(0)

    def work(num_steps: int) -> None:
        optimizer = torch.optim.AdamW(student.parameters(), lr=config.learning_rate, weight_decay=0.0)
        student.train()
        for _ in range(num_steps):
            rows = torch.randperm(len(data), generator=coins, device=device)[: config.batch_size]
            view = augment("image", data.inputs[rows], strength=config.augment, generator=coins)
            seen = forward(student, view, config.precision)
            optimizer.zero_grad()
            loss = cmc(seen, data.features[rows], temperature=config.temperature).mean()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()

    return work


def _ours(student: "Student", data: "LocalData", anchors: "torch.Tensor", config: DistillConfig) -> Work:
    from edgecmd.losses import loss_of
    from edgecmd.training.distill import Place, distil, make_optimizer

    def work(num_steps: int) -> None:
        distil(
            student,
            data,
            anchors,
            config,
            loss=loss_of(config),
            num_steps=num_steps,
            place=Place(seed=0, round_index=1, client=0, first_step=0, total_steps=num_steps),
            optimizer=make_optimizer(student, config),
        )

    return work


def _private(student: "Student", data: "LocalData", anchors: "torch.Tensor", config: DistillConfig) -> Work:
    from edgecmd.losses import loss_of
    from edgecmd.privacy.plan import PrivacyPlan
    from edgecmd.privacy.step.private_step import distil_privately
    from edgecmd.privacy.step.randomness import SystemSource
    from edgecmd.privacy.step.units import unit_loss
    from edgecmd.training.distill import Place, make_optimizer

    plan = PrivacyPlan.calibrate(
        mechanism="cosine",
        epsilon=8.0,
        delta=1e-5,
        rounds=1,
        local_steps=1,
        sampling_rate=1.0 / HELD,
        batch_size=config.batch_size,
    )

    def work(num_steps: int) -> None:
        distil_privately(
            student,
            data,
            config,
            loss=unit_loss(loss_of(config), anchors),
            plan=replace(plan, steps_per_round=num_steps),
            place=Place(seed=0, round_index=1, client=0, first_step=0, total_steps=num_steps),
            optimizer=make_optimizer(student, config),
            source=SystemSource(),
        )

    return work


def _teacher(device: "torch.device", sizes: Sizes) -> Work:
    """Batches of images through the teacher that ships, from bytes on the host to features on the host."""
    import numpy as np
    import torch

    from edgecmd.data.modalities.table import source_input
    from edgecmd.models.devices import place
    from edgecmd.models.teacher.teachers import load_teacher

    network = place(load_teacher(name=TEACHER).network, device).eval()
    shape = (sizes.batch, sizes.side, sizes.side, 3)
    pictures = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)

    def work(num_steps: int) -> None:
        with torch.no_grad():
            for _ in range(num_steps):
                network(source_input(pictures).to(device)).cpu().numpy()

    return work


def _warm(work: Work, device: str) -> float:
    """Seconds of a step, after a first one in which kernels are chosen."""
    _timed(work, 1, device)
    return _timed(work, 1, device)


def _timed(work: Work, num_steps: int, device: str) -> float:
    import torch

    if device != "cuda":
        started = time.process_time()
        work(num_steps)
        return time.process_time() - started
    torch.cuda.synchronize()
    started = time.perf_counter()
    work(num_steps)
    torch.cuda.synchronize()
    return time.perf_counter() - started


def _waits_a_step(work: Work) -> float:
    """How often torch waits for the GPU in a step, beside what it does once a call."""
    few, many = 2, 6
    return (_waits(work, many) - _waits(work, few)) / (many - few)


def _waits(work: Work, num_steps: int) -> int:
    import torch

    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            work(num_steps)
        finally:
            torch.cuda.set_sync_debug_mode("default")
    return sum("synchronizing" in str(one.message) for one in told)
