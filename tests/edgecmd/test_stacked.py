"""Clients that train at once: each becomes what it becomes alone, and none acts on another."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from torch import nn

from edgecmd.core.errors import ConfigError
from edgecmd.losses import L2, LOSSES, Loss, loss_of
from edgecmd.models.any_student import student
from edgecmd.models.students import build_student
from edgecmd.settings import DistillConfig
from edgecmd.training.distill import LazyTensor, LocalData, Place, distil, make_optimizer, optimizer_tensors
from edgecmd.training.stacked import (
    MOST_PLACES,
    Stack,
    Visit,
    distil_together,
    is_small,
    require_at_once,
)

CLIENTS, PAIRS, STEPS, DIM = 3, 5, 2, 8
# In double, where only the order of sums differs; a client that got another's batch, view, loss or step is
# some 1e-2 away.
SAME = 1e-9
SHAPES = {"ws-50k": (1, 16, 16), "gn-50k": (1, 16, 16), "plain-50k": (3, 16, 16), "audio-50k": (1, 1, 1024)}
CONFIG = DistillConfig(loss="cmc", batch_size=4)
ANCHORS = torch.randn(6, DIM, generator=torch.Generator().manual_seed(3)).double()


def pairs(client: int, shape: tuple[int, int, int], *, num: int = PAIRS) -> LocalData:
    coins = torch.Generator().manual_seed(10 + client)
    target, teacher = torch.rand(num, *shape, generator=coins), torch.randn(num, DIM, generator=coins)
    return LocalData(
        target=target.double(), teacher=teacher.double(), modality="wave" if shape[1] == 1 else "image"
    )


def first(name: str = "ws-50k") -> nn.Module:
    made = build_student(
        name, in_channels=SHAPES[name][0], embedding_dim=DIM, generator=torch.Generator().manual_seed(0)
    )
    return made.double()


def place(client: int) -> Place:
    return Place(seed=7, round_index=2, client=client, first_step=2, total_steps=9)


def alone(client: int, config: DistillConfig, loss: Loss, name: str) -> tuple[float, dict[str, torch.Tensor]]:
    trained = first(name)
    optimizer = make_optimizer(trained, config)
    mean = distil(
        trained,
        pairs(client, SHAPES[name]),
        ANCHORS,
        config,
        loss=loss,
        num_steps=STEPS,
        place=place(client),
        optimizer=optimizer,
    )
    return mean, {key: value.detach() for key, value in trained.named_parameters()}


def together(
    visits: list[Visit | None], config: DistillConfig = CONFIG, loss: Loss | None = None, name: str = "ws-50k"
) -> tuple[list[float | BaseException | None], Stack]:
    called = first(name)
    stack = Stack(called, len(visits))
    stack.fill(called, frozen="projector." if config.freeze_projector else "")
    told = distil_together(
        called,
        stack,
        visits,
        ANCHORS,
        config,
        loss=loss or loss_of(config),
        num_steps=STEPS,
        make=lambda one: make_optimizer(one, config),
    )
    return told, stack


def visits_of(name: str = "ws-50k") -> list[Visit | None]:
    return [Visit(data=pairs(client, SHAPES[name]), place=place(client)) for client in range(CLIENTS)]


def require_equal(config: DistillConfig, name: str = "ws-50k") -> None:
    loss = loss_of(config)
    told, stack = together(visits_of(name), config, loss, name)
    for client in range(CLIENTS):
        mean, weights = alone(client, config, loss, name)
        assert told[client] == pytest.approx(mean, rel=SAME, abs=SAME)
        for key, value in stack.arrays(client).items():
            torch.testing.assert_close(value, weights[key], rtol=SAME, atol=SAME)


@pytest.mark.parametrize("loss", LOSSES)
def test_every_loss_trains_each_client_as_alone(loss: str) -> None:
    require_equal(replace(CONFIG, loss=loss))


@pytest.mark.parametrize("name", [name for name in SHAPES if name != "ws-50k"])
def test_every_family_of_students_trains_each_client_as_alone(name: str) -> None:
    require_equal(CONFIG, name)


@pytest.mark.parametrize(
    "change", [{"optimizer": "sgd"}, {"proximal_mu": 0.3}, {"freeze_projector": True}, {"augment": 0.0}]
)
def test_every_kind_of_step_is_that_of_a_client_alone(change: dict[str, object]) -> None:
    require_equal(replace(CONFIG, **change))  # type: ignore[arg-type]


def test_optimisers_of_their_own_are_those_of_a_client_alone() -> None:
    called = first()
    stack = Stack(called, CLIENTS)
    stack.fill(called)
    optimizers = [make_optimizer(stack.of(client), CONFIG) for client in range(CLIENTS)]
    visits = [
        Visit(data=pairs(client, SHAPES["ws-50k"]), place=place(client), optimizer=optimizers[client])
        for client in range(CLIENTS)
    ]
    distil_together(
        called,
        stack,
        visits,
        ANCHORS,
        CONFIG,
        loss=loss_of(CONFIG),
        num_steps=STEPS,
        make=lambda _: pytest.fail("each client has one"),
    )
    for client in range(CLIENTS):
        _, weights = alone(client, CONFIG, loss_of(CONFIG), "ws-50k")
        for key, value in stack.arrays(client).items():
            torch.testing.assert_close(value, weights[key], rtol=SAME, atol=SAME)
        steps = [value for key, value in optimizer_tensors(optimizers[client]).items() if key == "0.step"]
        assert [int(step) for step in steps] == [STEPS]


class Unreadable(LazyTensor):
    """Inputs of which the second batch cannot be read."""

    def __init__(self, rows: torch.Tensor) -> None:
        self.rows, self.device, self.shape, self.asked = rows, rows.device, rows.shape, 0

    def __getitem__(self, rows: torch.Tensor | np.ndarray | slice) -> torch.Tensor:
        self.asked += 1
        if self.asked > 1:
            raise OSError("the disk is gone")
        return self.rows[rows]


def not_finite(data: LocalData) -> LocalData:
    return replace(data, target=torch.full_like(data.inputs, float("nan")))


def huge(data: LocalData) -> LocalData:
    return replace(data, target=1e200 * data.inputs, teacher=-1e200 * data.features)


def unreadable(data: LocalData) -> LocalData:
    return replace(data, target=Unreadable(data.inputs))


@pytest.mark.parametrize("spoil", [not_finite, huge, unreadable, None])
def test_no_client_moves_a_bit_of_another(spoil: Callable[[LocalData], LocalData] | None) -> None:
    """Whatever client 1 holds: NaN, numbers beyond belief, a disk that fails, or if it is not asked."""
    honest = visits_of()
    told, stack = together(honest)
    attacked = list(honest)
    assert honest[1] is not None
    attacked[1] = None if spoil is None else replace(honest[1], data=spoil(honest[1].data))
    found, other = together(attacked)
    for client in (0, 2):
        assert found[client] == told[client]
        for key, value in stack.arrays(client).items():
            assert torch.equal(value, other.arrays(client)[key])
    if spoil is not_finite:
        assert found[1] != found[1]
    if spoil is unreadable:
        assert isinstance(found[1], OSError)
    if spoil is None:
        assert found[1] is None


def test_a_client_becomes_the_same_in_any_company_of_its_size() -> None:
    """To the bit, what the others hold does not matter."""
    _, stack = together(visits_of())
    others = [visit if client == 0 else visits_of()[3 - client] for client, visit in enumerate(visits_of())]
    _, swapped = together(others)
    for key, value in stack.arrays(0).items():
        assert torch.equal(value, swapped.arrays(0)[key])


class Random(nn.Module):
    """Drops numbers in training."""

    def __init__(self) -> None:
        super().__init__()
        self.last, self.drop = nn.Linear(64, DIM), nn.Dropout(0.5)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.last(self.drop(image.flatten(1)))
        return found


class Counting(nn.Module):
    """Counts its steps."""

    def __init__(self) -> None:
        super().__init__()
        self.last = nn.Linear(64, DIM)
        self.register_buffer("steps", torch.zeros(()))

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        if self.training:
            self.steps += 1.0
        found: torch.Tensor = self.last(image.flatten(1))
        return found


class Normed(nn.Module):
    """Takes statistics of its batches."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.last = nn.BatchNorm1d(64), nn.Linear(64, DIM)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.last(self.norm(image.flatten(1)))
        return found


@dataclass(frozen=True, kw_only=True)
class Reading(L2):
    """A loss that reads a number."""

    def __call__(self, student: torch.Tensor, teacher: torch.Tensor, anchors: torch.Tensor) -> torch.Tensor:
        values = super().__call__(student, teacher, anchors)
        return values if float(values.sum()) > 0 else -values


@pytest.mark.parametrize(
    ("module", "loss", "told"),
    [
        (Random, L2(), "cannot be called for several clients"),
        (Counting, L2(), "changes its buffer 'backbone.steps'"),
        (Normed, L2(), "batch normalisation.*student.batch_norm to freeze"),
        (lambda: nn.Sequential(nn.Flatten(), nn.Linear(64, DIM)), Reading(), "cannot be called for several"),
    ],
)
def test_what_cannot_train_at_once_is_refused_before(
    module: Callable[[], nn.Module], loss: Loss, told: str
) -> None:
    own = student(module(), in_channels=1, dim=DIM, size=8)
    with pytest.raises(ConfigError, match=f"federation.clients_at_once=16: .*{told}") as caught:
        require_at_once(own, loss, shape=(1, 8, 8), num=16)
    assert "federation.clients_at_once=1" in str(caught.value)


def test_places_are_refused_and_other_students_pass() -> None:
    dense = build_student("seg-50k", in_channels=1, embedding_dim=DIM, generator=torch.Generator())
    with pytest.raises(ConfigError, match="'seg-50k' embeds places.*Set federation.clients_at_once=1"):
        require_at_once(dense, L2(), shape=(1, 32, 32), num=4)
    plain = student(nn.Sequential(nn.Flatten(), nn.Linear(64, DIM)), in_channels=1, dim=DIM, size=8)
    for loss in LOSSES.values():
        require_at_once(plain, loss(), shape=(1, 8, 8), num=4)


def test_a_step_is_small_by_its_pixels_in_all_views() -> None:
    assert is_small(2, (3, 128, 128), num_views=1)
    assert not is_small(2, (3, 128, 128), num_views=2)
    assert not is_small(3, (1, 128, 128), num_views=1)
    assert not is_small(1, (1, 8, 8), num_views=1)
    assert MOST_PLACES == 2 * 128 * 128
