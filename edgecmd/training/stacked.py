"""The local work of several clients at once: their weights stacked, each step one call for all of them.

With a few small pairs a step costs more in calls than in numbers. A client's batches, views, learning rates
and loss are those that it has alone; its sums round otherwise, in the last digits.

Shapes: G clients, V views, B batch, C channels, H height, W width, D embedding dimension, K anchors.
"""

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.func import functional_call, vmap

from edgecmd.core.errors import ConfigError
from edgecmd.core.own_code import RAISED, running, told
from edgecmd.data.on_device import exact_on
from edgecmd.losses import Anchors, Loss, name_of
from edgecmd.models.batch_norm import norms_of
from edgecmd.models.students import Student, student_row
from edgecmd.models.trial import made_up, running_student
from edgecmd.settings import DistillConfig
from edgecmd.training.distill import (
    LocalData,
    Place,
    add_proximal_gradient,
    by_view,
    drawn_by,
    proximal_reference,
    scheduled,
    views_of,
)
from edgecmd.training.places import per_pair

# Pixels, or samples, of a step's inputs up to which a client is trained with others: V * B * H * W. Above,
# the numbers of a step cost more than its calls, and stacked convolutions are the slower ones.
MOST_PLACES = 2**15
# Clients below which one after the other is as fast.
LEAST_AT_ONCE = 4
# Of a trial, against the same step one by one, in shares of the largest gradient.
TOLERANCE, TRIAL_ANCHORS = 1e-3, 5

Optimizers = Callable[[nn.Module], torch.optim.Optimizer]


def is_small(num_rows: int, shape: tuple[int, int, int], *, num_views: int) -> bool:
    """Whether the steps of a client are small enough for training it with others: a matter of time alone.

    Args:
        num_rows: Pairs of its batches, B.
        shape: (C, H, W) of an input.
        num_views: V.
    """
    _, height, width = shape
    return num_rows >= 2 and num_rows * num_views * height * width <= MOST_PLACES


class Stack(nn.Module):
    """Weights of several clients of one student; buffers are the student's own.

    Args:
        student: Gives names and shapes.
        num: G.

    Attributes:
        names: Of the student's parameters.
        weights: Each with an axis for the clients in front, (G, ...).
    """

    def __init__(self, student: nn.Module, num: int) -> None:
        super().__init__()
        self.num = num
        self.names = [name for name, _ in student.named_parameters()]
        # Row by row in memory: GroupNorm under vmap knows no other layout.
        self.weights = nn.ParameterList(
            value.detach().new_empty((num, *value.shape)) for value in student.parameters()
        )

    def fill(self, student: nn.Module, *, frozen: str = "") -> None:
        """Give every client the weights of ``student``; those whose name begins with ``frozen`` stay."""
        for (name, value), weight in zip(student.named_parameters(), self.weights, strict=True):
            weight.grad = None
            weight.requires_grad_(value.requires_grad and not (frozen and name.startswith(frozen)))
            weight.data.copy_(value.detach().expand_as(weight))

    def named(self) -> dict[str, Tensor]:
        """The stacked weights by name."""
        return dict(zip(self.names, self.weights, strict=True))

    def of(self, client: int) -> nn.ParameterList:
        """The weights of the client at one place, as views of these."""
        return nn.ParameterList(nn.Parameter(weight.detach()[client]) for weight in self.weights)

    def arrays(self, client: int) -> dict[str, Tensor]:
        """The same by name."""
        return {name: weight.detach()[client] for name, weight in self.named().items()}


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Visit:
    """The local work of one client of several.

    Attributes:
        data: The client's pairs.
        place: Seed, round, client and position in the schedule, which is that of the others.
        optimizer: Over `Stack.of` its place; None where one optimiser is over the whole stack.
    """

    data: LocalData
    place: Place
    optimizer: torch.optim.Optimizer | None = None


def distil_together(
    student: nn.Module,
    stack: Stack,
    visits: Sequence[Visit | None],
    anchors: Anchors,
    config: DistillConfig,
    *,
    loss: Loss,
    num_steps: int,
    make: Optimizers,
) -> list[float | BaseException | None]:
    """Train several clients, whose batches are of one size, for ``num_steps`` optimiser steps.

    Args:
        student: What is called; neither its weights nor its buffers are changed.
        stack: Weights of the clients, `Stack.fill`-ed; changed.
        visits: Work of each place in the stack; None for a place that is empty.
        anchors: As in `edgecmd.training.distill.distil`.
        config: Likewise.
        loss: Likewise.
        num_steps: Likewise.
        make: Makes the optimiser of the whole stack, where visits have none of their own.

    Returns:
        Of each place the mean loss over the steps; what reading the client's pairs raised; None of an
        empty one.

    Raises:
        ConfigError: The student or the loss cannot be called for several clients.

    Guarantees:
        A client draws what it draws in `edgecmd.training.distill.distil`. What it becomes follows, to the
        bit, from its own pairs, its place in the stack and the number of places: neither the numbers of the
        others reach it (NaN included), nor that one of them fails or is missing, as an empty place is
        filled with a copy of another batch.
    """
    drawn = {
        slot: drawn_by(visit.place, visit.data, config, num_steps=num_steps)
        for slot, visit in enumerate(visits)
        if visit is not None
    }
    failed: dict[int, BaseException] = {}
    first = next(visit for visit in visits if visit is not None)
    own = {slot: visit.optimizer for slot, visit in enumerate(visits) if visit and visit.optimizer}
    optimizers = list(own.values()) or [make(stack)]
    schedules = [
        scheduled(one, config, first_step=first.place.first_step, total_steps=first.place.total_steps)
        for one in optimizers
    ]
    reference = proximal_reference(stack, config)
    student.train()
    total = torch.zeros(stack.num, dtype=exact_on(first.data.target.device), device=first.data.target.device)
    for step in range(num_steps):
        batches: dict[int, tuple[Tensor, Tensor]] = {}
        for slot, (rows, views) in drawn.items():
            if slot not in failed:
                visit = visits[slot]
                assert visit is not None
                try:
                    batches[slot] = _batch(visit.data, next(rows), config, loss=loss, views=views)
                except RAISED as error:
                    failed[slot] = error
        if not batches:
            break
        there = loss.at(first.place.share_at(step))
        total += _gradient(student, stack, _filled(batches, stack.num), anchors, there)
        if reference is not None:
            add_proximal_gradient(stack, reference, mu=config.proximal_mu)
        for slot, optimizer in own.items():
            _share_gradient(stack, optimizer, slot)
        for schedule, optimizer in zip(schedules, optimizers, strict=True):
            schedule(step)
            optimizer.step()
    means = (total / num_steps).tolist()
    return [None if visit is None else failed.get(slot, means[slot]) for slot, visit in enumerate(visits)]


def _batch(
    data: LocalData, index: Tensor, config: DistillConfig, *, loss: Loss, views: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Views (V * B, C, H, W) and teacher features (B, D) of a client's next batch."""
    images = views_of(data.modality, data.target[index], config=config, num_views=loss.num_views, views=views)
    return images, data.teacher[index]


def _filled(batches: Mapping[int, tuple[Tensor, Tensor]], num: int) -> tuple[Tensor, Tensor]:
    """One batch for each of ``num`` places, (G, V * B, C, H, W) and (G, B, D)."""
    spare = next(iter(batches.values()))
    images, features = zip(*(batches.get(slot, spare) for slot in range(num)), strict=True)
    return torch.stack(images), torch.stack(features)


def _gradient(
    student: nn.Module, stack: Stack, batch: tuple[Tensor, Tensor], anchors: Anchors, loss: Loss
) -> Float[Tensor, " clients"]:
    """Put the gradient of each client's mean loss into the stack; these losses."""

    def one(weights: Mapping[str, Tensor], images: Tensor, features: Tensor) -> Tensor:
        with running_student(student):
            seen = functional_call(student, dict(weights), (images,))
        with running(f"The loss {name_of(loss)}", loss):
            return per_pair(loss(by_view(seen, loss.num_views), features, anchors), len(features)).mean()

    for weight in stack.weights:
        weight.grad = None
    losses: Tensor = vmap(one)(stack.named(), *batch)
    with running_student(student), running(f"The gradient of the loss {name_of(loss)}", loss):
        losses.sum().backward()  # type: ignore[no-untyped-call]
    return losses.detach()


def _share_gradient(stack: Stack, optimizer: torch.optim.Optimizer, slot: int) -> None:
    """Hand the gradient of one place to the optimiser over `Stack.of` it."""
    for weight, view in zip(stack.weights, optimizer.param_groups[0]["params"], strict=True):
        view.grad = None if weight.grad is None else weight.grad[slot]


def require_at_once(student: Student, loss: Loss, *, shape: tuple[int, int, int], num: int) -> None:
    """Refuse what cannot be trained for several clients at once, by a step of two made-up ones.

    Args:
        student: Of the run; a copy is tried.
        loss: Likewise.
        shape: (C, H, W) of its inputs.
        num: ``federation.clients_at_once``.

    Raises:
        ConfigError: The student embeds places, takes statistics of a batch, draws random numbers or changes
            its buffers in training; torch cannot call student or loss for several clients; or the step is
            not that of a client alone.
    """
    refused, alone = f"federation.clients_at_once={num}", "Set federation.clients_at_once=1."
    if student_row(student.architecture).dense:
        raise ConfigError(
            f"{refused}: student.architecture={student.architecture!r} embeds places, and clients of such a"
            f" student are trained one by one. {alone}"
        )
    tried = copy.deepcopy(student).cpu().train()
    if any(norm.training for _, norm in norms_of(tried)):
        raise ConfigError(
            f"{refused}: this student's batch normalisation keeps statistics of each client's batches. Set"
            " student.batch_norm to freeze, fold or group, or federation.clients_at_once=1."
        )
    place = Place(seed=0, round_index=1, client=0, first_step=0, total_steps=2)
    buffers = {name: value.clone() for name, value in tried.named_buffers()}
    batches = {slot: _made_up(shape, student.embedding_dim, slot, loss) for slot in range(2)}
    coins = torch.Generator().manual_seed(0)
    anchors = torch.randn(TRIAL_ANCHORS, student.embedding_dim, generator=coins)
    stack, there = Stack(tried, 2), loss.at(place.share_at(1))
    stack.fill(tried)
    try:
        _gradient(tried, stack, _filled(batches, 2), anchors, there)
    except RAISED as error:
        raise ConfigError(
            f"{refused}: student and loss of this run cannot be called for several clients in one step:"
            f" {told(error)[:300]}. {alone}"
        ) from error
    changed = [name for name, value in tried.named_buffers() if not torch.equal(value, buffers[name])]
    if changed:
        raise ConfigError(f"{refused}: the student changes its buffer {changed[0]!r} in training. {alone}")
    for slot in batches:
        tried.zero_grad()
        images, features = batches[slot]
        found = there(by_view(tried(images), loss.num_views), features, anchors)
        per_pair(found, len(features)).mean().backward()  # type: ignore[no-untyped-call]
        if not _alike(stack, tried, slot):
            raise ConfigError(
                f"{refused}: a step of several clients differs from that of one alone; student or loss is"
                f" random, or mixes what it is called for. {alone}"
            )


def _made_up(shape: tuple[int, int, int], dim: int, slot: int, loss: Loss) -> tuple[Tensor, Tensor]:
    """A batch of one client of a trial."""
    coins = torch.Generator().manual_seed(1 + slot)
    shown = [made_up(shape) + 0.1 * torch.randn(shape, generator=coins) for _ in range(loss.num_views)]
    images = torch.cat(shown)
    return images, torch.randn(len(images) // loss.num_views, dim, generator=coins)


def _alike(stack: Stack, student: nn.Module, slot: int) -> bool:
    own = [value.grad for value in student.parameters()]
    other = [None if weight.grad is None else weight.grad[slot] for weight in stack.weights]
    if any((one is None) != (two is None) for one, two in zip(own, other, strict=True)):
        return False
    pairs = [(one, two) for one, two in zip(own, other, strict=True) if one is not None and two is not None]
    largest = max((float(one.abs().max()) for one, _ in pairs if one.numel()), default=0.0)
    return all(torch.allclose(one, two, rtol=0.0, atol=TOLERANCE * largest) for one, two in pairs)
