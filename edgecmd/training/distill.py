"""Step 2, the local work of one client: a few optimiser steps of contrastive distillation.

Randomness is derived from (seed, round, client), so a round gives the same student whatever ran
before it and in whichever process.

Shapes: B batch, N pairs, K anchors, D embedding dimension, C channels, H height, W width.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import islice

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from edgecmd import losses
from edgecmd.core.errors import ConfigError, choose
from edgecmd.core.own_code import running
from edgecmd.core.seeding import numpy_generator, torch_generator
from edgecmd.core.text import counted
from edgecmd.data.augment import augment
from edgecmd.data.on_device import sent
from edgecmd.data.stored.array_files import Examples, LazyRows
from edgecmd.losses import Loss
from edgecmd.models.trial import running_student, seeded
from edgecmd.settings import DistillConfig, FederationConfig
from edgecmd.training.in_parts import through
from edgecmd.training.optimise import Schedule, mean_gradient, optimise
from edgecmd.training.places import Embedded, embed_places, per_pair, require_dense

WARMUP_SHARE = 0.05
# Steps whose batches are drawn, and their row indices sent to the device, at once.
STEPS_AHEAD = 64


class LazyTensor:
    """A tensor whose rows are made of rows on the disk as they are asked for: inputs, or teacher features.

    It has shape, device and length of the tensor that it stands for.

    Args:
        stored: Rows on the disk.
        row: Shape of a row as it is made.
        make: Stored rows to a tensor on ``device``.
        device: Where the rows live.
        more: Rows that follow them.

    Guarantees:
        Some rows are, to the bit, those rows of the tensor of all.
    """

    def __init__(
        self,
        stored: LazyRows,
        *,
        row: tuple[int, ...],
        make: Callable[[np.ndarray], Tensor],
        device: torch.device,
        more: Tensor | None = None,
    ) -> None:
        self._stored, self._make, self.device, self._more = stored, make, device, more
        self.shape = torch.Size((len(stored) + (0 if more is None else len(more)), *row))

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: Tensor | np.ndarray | slice) -> Tensor:
        picked = np.arange(len(self))[rows.cpu().numpy() if isinstance(rows, Tensor) else rows]
        if self._more is None:
            return self._make(self._stored[picked])
        behind = picked >= len(self._stored)
        found = self._more.new_empty((len(picked), *self.shape[1:]))
        found[torch.from_numpy(~behind)] = self._make(self._stored[picked[~behind]])
        found[torch.from_numpy(behind)] = self._more[torch.from_numpy(picked[behind] - len(self._stored))]
        return found

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return len(self.shape)

    def take(self, rows: np.ndarray) -> "LazyTensor":
        """The rows at ``rows``, which are none of `joined`."""
        own = self._stored.take(rows)
        return LazyTensor(own, row=tuple(self.shape[1:]), make=self._make, device=self.device)

    def joined(self, more: Tensor) -> "LazyTensor":
        """These rows and others behind them."""
        behind = more if self._more is None else torch.cat([self._more, more])
        row = tuple(self.shape[1:])
        return LazyTensor(self._stored, row=row, make=self._make, device=self.device, more=behind)


def taken(rows: Tensor | LazyTensor, picked: np.ndarray) -> Tensor | LazyTensor:
    """Some rows, in that order: of a tensor a copy, else nothing is read."""
    return rows.take(picked) if isinstance(rows, LazyTensor) else rows[torch.from_numpy(picked)]


def with_more(rows: Tensor | LazyTensor, more: Tensor) -> Tensor | LazyTensor:
    """``rows`` and others behind them, on the device of ``rows``."""
    placed = more.to(rows.device)
    return rows.joined(placed) if isinstance(rows, LazyTensor) else torch.cat([rows, placed])


def as_asked(
    stored: Examples, make: Callable[[np.ndarray], Tensor], *, row: tuple[int, ...], device: torch.device
) -> Tensor | LazyTensor:
    """What ``make`` makes of examples: at once of those in memory, of rows on the disk as they are asked for.

    Args:
        stored: The examples.
        make: To a tensor on ``device``.
        row: Shape of an example as it is made.
        device: Where the tensor lives.
    """
    if isinstance(stored, LazyRows):
        return LazyTensor(stored, row=row, make=make, device=device)
    return make(stored)


Inputs = Float[Tensor, "num channels height width"] | LazyTensor
"""Inputs of a student, (N, C, H, W): a tensor, or what makes the rows that are asked for."""
Features = Float[Tensor, "num dim *grid"] | LazyTensor
"""Teacher features, (N, D) or (N, D, rows, columns), likewise."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class LocalData:
    """What a client distils on: targets as the student sees them beside cached teacher features.

    Attributes:
        target: Inputs of the student, (N, C, H, W).
        teacher: Teacher features of the same pairs, (N, D); for a dense student (N, D, rows, columns).
        modality: A key of `edgecmd.data.modalities.table.MODALITIES`; views are made for it.
    """

    target: Inputs
    teacher: Features
    modality: str = "image"

    def __len__(self) -> int:
        return len(self.target)

    @property
    def indexed_on(self) -> torch.device:
        """Where row indices are wanted: beside the rows; on the CPU as long as these are on the disk."""
        lazy = isinstance(self.target, LazyTensor) or isinstance(self.teacher, LazyTensor)
        return torch.device("cpu") if lazy else self.target.device

    @property
    def inputs(self) -> Float[Tensor, "num channels height width"]:
        """All inputs as one tensor: for work on few pairs."""
        return self.target[:]

    @property
    def features(self) -> Float[Tensor, "num dim *grid"]:
        """All teacher features as one tensor: for work on few pairs."""
        return self.teacher[:]

    @property
    def num_bytes(self) -> int:
        """Memory of the rows, in bytes; those on the disk count for their positions alone."""
        rows = (self.target, self.teacher)
        return sum(one.nbytes if isinstance(one, Tensor) else 8 * len(one) for one in rows)

    def on_the_cpu(self) -> "LocalData":
        """The same as tensors on the CPU: for work on few pairs."""
        return replace(self, target=self.inputs.cpu(), teacher=self.features.cpu())


@dataclass(frozen=True, kw_only=True, slots=True)
class Place:
    """Position of some local work in a run; all of its randomness follows from this.

    Attributes:
        seed: Seed of the run.
        round_index: Round, from 1.
        client: Index of the client.
        first_step: Optimiser steps that earlier rounds made.
        total_steps: Optimiser steps of the whole run, for the learning rate's schedule.
    """

    seed: int
    round_index: int
    client: int
    first_step: int
    total_steps: int

    @classmethod
    def of_round(
        cls, federation: FederationConfig, *, seed: int, round_index: int, client: int = 0
    ) -> "Place":
        """Place of ``client`` in round ``round_index``, from 1, of a run whose rounds are all alike."""
        steps = federation.local_steps
        return cls(
            seed=seed,
            round_index=round_index,
            client=client,
            first_step=(round_index - 1) * steps,
            total_steps=federation.num_rounds * steps,
        )

    def share_at(self, step: int) -> float:
        """Share of the run's optimiser steps before step ``step``, from 0, of this work."""
        return min(1.0, (self.first_step + step) / max(1, self.total_steps))


def _adamw(student: nn.Module, config: DistillConfig) -> torch.optim.Optimizer:
    """On the CPU as one kernel, in which each number has an update of its own, whatever the workers."""
    fused = all(parameter.is_cpu and parameter.is_floating_point() for parameter in student.parameters())
    return torch.optim.AdamW(
        student.parameters(),
        lr=config.learning_rate,
        weight_decay=config.weight_decay,
        fused=fused or None,
    )


def _sgd(student: nn.Module, config: DistillConfig) -> torch.optim.Optimizer:
    return torch.optim.SGD(
        student.parameters(), lr=config.learning_rate, momentum=0.9, weight_decay=config.weight_decay
    )


OPTIMIZERS: dict[str, Callable[[nn.Module, DistillConfig], torch.optim.Optimizer]] = {
    "adamw": _adamw,
    "sgd": _sgd,
}
SCHEDULES: dict[str, Callable[[float], float]] = {
    "cosine": lambda share: (1.0 + math.cos(math.pi * share)) / 2.0,
    "constant": lambda _: 1.0,
}


def learning_rate_at(config: DistillConfig, *, step: int, total_steps: int) -> float:
    """Learning rate of optimiser step ``step`` of ``total_steps``: a linear rise, then the schedule.

    Raises:
        ConfigError: The schedule is unknown.
    """
    schedule = choose("distill.schedule", config.schedule, SCHEDULES)
    warmup = max(1, round(WARMUP_SHARE * total_steps))
    rise = min(1.0, (step + 1) / warmup)
    return config.learning_rate * rise * schedule(step / max(1, total_steps))


def scheduled(
    optimizer: torch.optim.Optimizer, config: DistillConfig, *, total_steps: int, first_step: int = 0
) -> Schedule:
    """Learning rates by `learning_rate_at`, of ``total_steps`` of which ``first_step`` were made before."""

    def schedule(step: int) -> None:
        rate = learning_rate_at(config, step=first_step + step, total_steps=total_steps)
        for group in optimizer.param_groups:
            group["lr"] = rate

    return schedule


def make_optimizer(student: nn.Module, config: DistillConfig) -> torch.optim.Optimizer:
    """Optimiser of a client.

    Raises:
        ConfigError: The optimiser is unknown.
    """
    return choose("distill.optimizer", config.optimizer, OPTIMIZERS)(student, config)


def batches(num: int, *, batch_size: int, generator: np.random.Generator) -> Iterator[np.ndarray]:
    """Endless batches of row indices: each epoch is a new permutation cut into whole batches.

    Raises:
        ConfigError: Fewer than two rows, of which no contrast can be made.
    """
    if num < 2:
        raise ConfigError(
            f"A client holds {counted(num, 'pair')}; at least 2 are needed. Lower federation.num_clients."
        )
    size = min(batch_size, num)
    while True:
        order = generator.permutation(num)
        for start in range(0, num - size + 1, size):
            yield order[start : start + size]


def batch_indices(
    data: LocalData, *, batch_size: int, num_steps: int, generator: np.random.Generator
) -> Iterator[Int[Tensor, " batch"]]:
    """Row indices of the batches of `batches`, beside the rows; those of many steps are sent at once."""
    drawn = batches(len(data), batch_size=batch_size, generator=generator)
    for first in range(0, num_steps, STEPS_AHEAD):
        block = list(islice(drawn, min(STEPS_AHEAD, num_steps - first)))
        yield from sent(torch.from_numpy(np.stack(block)), data.indexed_on)


def drawn_by(
    place: Place, data: LocalData, config: DistillConfig, *, num_steps: int
) -> tuple[Iterator[Int[Tensor, " batch"]], torch.Generator]:
    """Row indices of the batches at a place, and what draws their views."""
    at = {"round_index": place.round_index, "client": place.client}
    rows = numpy_generator(place.seed, "batches", **at)
    views = torch_generator(place.seed, "views", **at, device=data.target.device)
    return batch_indices(data, batch_size=config.batch_size, num_steps=num_steps, generator=rows), views


def distil(
    student: nn.Module,
    data: LocalData,
    anchors: losses.Anchors,
    config: DistillConfig,
    *,
    loss: Loss,
    num_steps: int,
    place: Place,
    optimizer: torch.optim.Optimizer,
) -> float:
    """Train ``student`` in place for ``num_steps`` optimiser steps.

    Args:
        student: Encoder of the target modality; changed.
        data: The client's pairs.
        anchors: Public teacher features, (K, D).
        config: Batch, views, learning rate and what else is not a number of the loss.
        loss: What is minimised.
        num_steps: Optimiser steps.
        place: Seed, round, client and position in the schedule.
        optimizer: Over the student's parameters; its state is changed.

    Returns:
        Mean loss over the steps.

    Raises:
        ConfigError: A client of one pair; or a dense student and a loss without a meaning for places.
    """
    if data.teacher.ndim == 4:
        require_dense(loss)
    drawn, views = drawn_by(place, data, config, num_steps=num_steps)
    reference = proximal_reference(student, config)
    student.train()
    freeze_projector(student, frozen=config.freeze_projector)
    called = losses.name_of(loss)

    def gradient(step: int) -> Tensor:
        batch = next(drawn)
        embedded = embed_batch(student, data, batch, config=config, num_views=loss.num_views, views=views)
        with running(f"The loss {called}", loss):
            there = loss.at(place.share_at(step))
            values = per_pair(there(embedded.student, embedded.teacher, anchors), len(batch))
        with running_student(student), running(f"The gradient of the loss {called}", loss):
            value = mean_gradient(values)
        if reference is not None:
            add_proximal_gradient(student, reference, mu=config.proximal_mu)
        return value

    schedule = scheduled(optimizer, config, first_step=place.first_step, total_steps=place.total_steps)
    # Dropout and its like draw from torch's own generators.
    drawn_inside = torch_generator(
        place.seed, "layers", round_index=place.round_index, client=place.client
    ).initial_seed()
    with seeded(drawn_inside, data.target.device):
        mean = optimise(optimizer, num_steps, gradient=gradient, schedule=schedule)
    freeze_projector(student, frozen=False)
    return mean


def freeze_projector(student: nn.Module, *, frozen: bool) -> None:
    """Whether the projector's weights are left as they are; a student without one is left alone."""
    for name, parameter in student.named_parameters():
        if name.startswith("projector."):
            parameter.requires_grad_(not frozen)


def embed_batch(
    student: nn.Module,
    data: LocalData,
    index: Int[Tensor, " batch"],
    *,
    config: DistillConfig,
    num_views: int,
    views: torch.Generator,
) -> Embedded:
    """Augment and embed the pairs at ``index``, in as many views as the loss asks for.

    Of a dense student, embeddings are those of ``num_locations`` places of each pair, pair by pair.
    """
    target = data.target[index]
    if data.teacher.ndim == 4:
        return embed_places(
            student,
            target,
            data.teacher[index],
            modality=data.modality,
            config=config,
            generator=views,
        )
    images = views_of(data.modality, target, config=config, num_views=num_views, views=views)
    with running_student(student):
        seen = through(student, images, precision=config.precision, rows_at_once=config.rows_at_once)
    return Embedded(student=by_view(seen, num_views), teacher=data.teacher[index])


def views_of(
    modality: str, target: Tensor, *, config: DistillConfig, num_views: int, views: torch.Generator
) -> Float[Tensor, "rows channels height width"]:
    """Views of a batch, one behind the other, (V * B, C, H, W), so that the student is called once."""
    images = [augment(modality, target, strength=config.augment, generator=views) for _ in range(num_views)]
    return images[0] if num_views == 1 else torch.cat(images)


def by_view(seen: Tensor, num_views: int) -> Float[Tensor, "*views batch dim"]:
    """Embeddings of `views_of` as a loss takes them: (B, D), of several views (V, B, D)."""
    return seen if num_views == 1 else seen.reshape(num_views, len(seen) // num_views, *seen.shape[1:])


def proximal_reference(student: nn.Module, config: DistillConfig) -> list[Tensor] | None:
    """What the weights are held near to; None without FedProx's term."""
    if config.proximal_mu == 0:
        return None
    return [parameter.detach().clone() for parameter in student.parameters()]


@torch.no_grad()
def add_proximal_gradient(student: nn.Module, reference: list[Tensor], *, mu: float) -> None:
    """Add ``mu * (w - w_round)``, the gradient of FedProx's term (Li et al. 2020, arXiv 1812.06127)."""
    for parameter, start in zip(student.parameters(), reference, strict=True):
        if parameter.grad is not None:
            parameter.grad.add_(parameter - start, alpha=mu)


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """State of ``optimizer`` as flat named tensors, for a file; see `restore_optimizer`."""
    state = optimizer.state_dict()["state"]
    return {
        f"{index}.{name}": torch.as_tensor(value).clone().contiguous()
        for index, entries in state.items()
        for name, value in entries.items()
        if value is not None
    }


def restore_optimizer(optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Put back what `optimizer_tensors` took out; an empty mapping leaves a fresh optimiser."""
    entries: dict[int, dict[str, Tensor]] = {}
    parameters = [one for group in optimizer.param_groups for one in group["params"]]
    for key, tensor in tensors.items():
        index, name = key.split(".", 1)
        parameter = parameters[int(index)]
        if tensor.shape == parameter.shape:
            # AdamW in one kernel takes numbers as they lie in memory, whatever the strides say.
            tensor = torch.empty_like(parameter, dtype=tensor.dtype).copy_(tensor)
        entries.setdefault(int(index), {})[name] = tensor
    state = optimizer.state_dict()
    state["state"] = entries
    optimizer.load_state_dict(state)
