"""A round stays on its device: what a GPU would wait for, found without one.

The device ``meta`` stands for the GPU. Its tensors hold no numbers, so whatever would read one (``.item()``,
``bool``, ``.cpu()``, numpy, a mask that picks rows) fails there as it would wait here, and so does an
operation between it and the CPU. What travels from the CPU to it is counted.
"""

import os
import traceback
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from edgecmd.config.assemble import device_for
from edgecmd.config.reader import load_config
from edgecmd.core import seeding
from edgecmd.core.errors import ConfigError
from edgecmd.core.processes import Workers
from edgecmd.data.augment import augment, augment_source
from edgecmd.data.modalities import log_mel
from edgecmd.losses import LOSSES, loss_of
from edgecmd.models import devices
from edgecmd.models.devices import share_of_gpu
from edgecmd.models.students import build_student
from edgecmd.privacy.mechanisms import default_loss
from edgecmd.privacy.plan import PrivacyPlan
from edgecmd.privacy.step.private_step import distil_privately
from edgecmd.privacy.step.randomness import SystemSource
from edgecmd.privacy.step.units import unit_loss
from edgecmd.settings import DistillConfig
from edgecmd.training import distill, optimise
from edgecmd.training.distill import LocalData, Place, distil, make_optimizer

META = torch.device("meta")
NUM, DIM, SIDE, STEPS = 12, 8, 16, 3
DRAWS = ("rand", "randn", "uniform", "normal", "bernoulli", "randint", "randperm")


class MetaGenerator(torch.Generator):
    """A generator that draws on the device that stands for a GPU."""

    @property
    def device(self) -> torch.device:
        return META


class Traffic(TorchDispatchMode):
    """Counts what goes from the CPU to the device, and numbers that are drawn on it.

    Attributes:
        waited: Copies that a GPU would be waited for; single numbers are none, they go with the call.
        sent: Copies by `edgecmd.data.on_device.sent`.
        drawn: Calls that draw on the device.
    """

    def __init__(self) -> None:
        super().__init__()
        self.waited: list[str] = []
        self.sent = self.drawn = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        given = [one for one in tree_leaves((args, kwargs)) if isinstance(one, Tensor)]
        to_device = any(one.is_meta for one in (*given, *tree_leaves(found)) if isinstance(one, Tensor))
        if to_device and any(one.is_cpu and one.ndim for one in given):
            if any(frame.name == "sent" for frame in traceback.extract_stack()):
                self.sent += 1
            else:
                self.waited.append(str(func))
        if to_device and str(func).removeprefix("aten.").split(".")[0].rstrip("_") in DRAWS:
            self.drawn += 1
        return found


@pytest.fixture
def on_meta(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Generators of the device can be made, and its losses read; how many were read at once is told."""

    def make(*args: Any, **others: Any) -> torch.Generator:
        if others.get("device") == META:
            return MetaGenerator()
        return seeding.torch_generator(*args, **others)

    def added(total: float, losses: list[Tensor]) -> float:
        read.append(len(losses))
        assert all(one.is_meta and one.shape == () for one in losses)
        return total

    read = list[int]()
    monkeypatch.setattr(distill, "torch_generator", make)
    monkeypatch.setattr(optimise, "added", added)
    # It knows no such device.
    monkeypatch.setattr(log_mel.torch, "is_autocast_enabled", lambda _: False)
    return read


def student_of(architecture: str, channels: int) -> nn.Module:
    made = build_student(
        architecture, in_channels=channels, embedding_dim=DIM, generator=torch.Generator().manual_seed(0)
    )
    return made.to(META)


def data_of(modality: str, shape: tuple[int, ...], grid: tuple[int, ...] = ()) -> LocalData:
    return LocalData(
        target=torch.empty(NUM, *shape, device=META),
        teacher=torch.empty(NUM, DIM, *grid, device=META),
        modality=modality,
    )


PLACE = Place(seed=0, round_index=1, client=0, first_step=0, total_steps=10)
KINDS = {
    "image": ("ws-50k", (1, SIDE, SIDE), ()),
    "depth": ("gn-50k", (2, SIDE, SIDE), ()),
    "wave": ("audio-50k", (1, 1, 4000), ()),
    "dense": ("seg-50k", (1, SIDE, SIDE), (SIDE // 4, SIDE // 4)),
}


def traffic_of(
    steps: int, *, kind: str = "image", loss: str = "cmc", precision: str = "float32", prox: float = 0.0
) -> Traffic:
    architecture, shape, grid = KINDS[kind]
    config = DistillConfig(loss=loss, batch_size=8, precision=precision, proximal_mu=prox, num_locations=4)
    student, data = (
        student_of(architecture, shape[0]),
        data_of("image" if kind == "dense" else kind, shape, grid),
    )
    optimizer, anchors = make_optimizer(student, config), torch.empty(10, DIM, device=META)
    with Traffic() as traffic:
        distil(
            student,
            data,
            anchors,
            config,
            loss=loss_of(config),
            num_steps=steps,
            place=PLACE,
            optimizer=optimizer,
        )
    return traffic


def require_quiet(traffic: Traffic, read: list[int]) -> None:
    assert not traffic.waited
    assert traffic.sent == 1, "the row indices of a visit"
    assert traffic.drawn >= STEPS, "views are drawn on the device"
    assert read == [STEPS], "losses are read once a visit"


@pytest.mark.parametrize("loss", LOSSES)
def test_no_step_waits_for_the_device_whatever_the_loss(loss: str, on_meta: list[int]) -> None:
    require_quiet(traffic_of(STEPS, loss=loss), on_meta)


@pytest.mark.parametrize(
    "how",
    [{"kind": "depth"}, {"kind": "wave"}, {"kind": "dense"}, {"precision": "bf16"}, {"prox": 0.1}],
    ids=lambda how: "-".join(map(str, how.values())),
)
def test_no_step_waits_for_the_device_whatever_is_trained(
    how: dict[str, Any], on_meta: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(devices.torch, "autocast", lambda *_, **__: nullcontext())
    require_quiet(traffic_of(STEPS, **how), on_meta)


def test_the_device_that_stands_for_a_gpu_tells_what_waits() -> None:
    """The measure itself: each of these is a wait on a GPU."""
    value = torch.empty(4, 3, device=META)
    for wait in (lambda: value.sum().item(), lambda: bool(value.sum() > 0), lambda: value[value[:, 0] > 0]):
        with pytest.raises((RuntimeError, NotImplementedError)):
            wait()
    with Traffic() as traffic:
        value[torch.tensor([0, 2])]
    assert traffic.waited == ["aten.index.Tensor"]


def test_row_indices_are_sent_for_many_steps_at_once(
    on_meta: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(distill, "STEPS_AHEAD", 8)
    assert traffic_of(17).sent == 3
    assert on_meta == [17]


def private_traffic(mechanism: str, steps: int, *, num_views: int) -> Traffic:
    plan = PrivacyPlan.calibrate(
        mechanism=mechanism,
        epsilon=8.0,
        delta=1e-5,
        rounds=1,
        local_steps=steps,
        num_views=num_views,
        sampling_rate=1.0,
    )
    config = DistillConfig(loss=default_loss(mechanism), batch_size=8, optimizer="sgd")
    student = student_of("ws-50k", 1)
    with Traffic() as traffic:
        distil_privately(
            student,
            data_of("image", (1, SIDE, SIDE)),
            config,
            loss=unit_loss(loss_of(config), torch.empty(10, DIM, device=META)),
            plan=replace(plan, chunk_size=4),
            place=PLACE,
            optimizer=make_optimizer(student, config),
            source=SystemSource(),
        )
    return traffic


@pytest.mark.parametrize(("mechanism", "num_views"), [("cosine", 1), ("anchors", 2), ("groups", 1)])
def test_no_private_step_waits_for_the_device_or_draws_on_it(
    mechanism: str, num_views: int, on_meta: list[int]
) -> None:
    """Coins and noise of private steps come from the system's source; what it draws is sent ahead."""
    few, many = (private_traffic(mechanism, steps, num_views=num_views) for steps in (1, STEPS))
    assert not many.waited
    assert many.sent > few.sent > 0
    # First weights of a copy of the student, which its own weights replace.
    assert many.drawn == few.drawn
    assert on_meta == [0, 0]


@pytest.mark.parametrize("kind", ["image", "depth", "wave"])
def test_a_generator_of_the_cpu_makes_the_same_views_on_any_device(kind: str) -> None:
    """As the private step draws them: on the CPU, and sent."""
    image = torch.randn(3, *KINDS[kind][1], generator=torch.Generator().manual_seed(1))
    first, second = (seeding.torch_generator(5, "views") for _ in range(2))
    augment(kind, image, strength=1.0, generator=first)
    with Traffic() as traffic:
        augment(kind, image.to(META), strength=1.0, generator=second)
    assert torch.equal(first.get_state(), second.get_state())
    assert len(traffic.waited) == 1, "the images themselves"


def test_views_of_public_pictures_are_drawn_where_the_generator_is() -> None:
    image, coins = torch.empty(4, 3, SIDE, SIDE, device=META), MetaGenerator()
    with Traffic() as traffic:
        augment_source(image, line_share=0.5, ink_share=0.2, generator=coins)
    assert not traffic.waited
    assert traffic.sent == 0


def test_processes_on_one_gpu_have_equal_shares_of_its_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    kept: list[float] = []
    monkeypatch.setattr(torch.cuda, "set_per_process_memory_fraction", kept.append)
    for device in ("cpu", "mps", "cuda"):
        share_of_gpu(device, 4)
    assert kept == [0.25]


def test_workers_are_fresh_processes_that_begin_as_they_are_told() -> None:
    """A forked process could not use a GPU that its parent uses."""
    with Workers(1, begin=partial(os.umask, 0o037)) as pool:
        assert pool._mp_context.get_start_method() == "spawn"  # type: ignore[attr-defined]
        assert pool.submit(os.umask, 0).result() == 0o037


@pytest.mark.parametrize("mechanism", ["none", "client", "anchors", "cosine", "groups"])
def test_sums_in_float64_are_not_made_where_there_is_none(
    mechanism: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a Mac a run under privacy began on its GPU, and failed at the first sum."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    exact = mechanism in ("anchors", "cosine", "groups")
    config = load_config(None, [f"privacy.mechanism={mechanism}"])
    assert device_for(config).type == ("cpu" if exact else "mps")
    named = replace(config, device="mps")
    if exact:
        with pytest.raises(ConfigError, match=r"device='mps' has no float64.*Use device='cpu'"):
            device_for(named)
    else:
        assert device_for(named).type == "mps"
