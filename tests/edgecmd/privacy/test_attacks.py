"""The sensitivity that each mechanism states, attacked; and what naive clipping fails on."""

import copy
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from functools import cache

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap
from torch.nn import functional

from edgecmd import losses
from edgecmd.data.modalities.image import augment_image
from edgecmd.losses import loss_of
from edgecmd.models.students import build_student
from edgecmd.privacy.step.gradients import Gradients, clip_and_sum, clipped_sum
from edgecmd.privacy.step.randomness import DeterministicSource
from edgecmd.privacy.step.units import (
    StepSettings,
    UnitLoss,
    Units,
    bucket_units,
    make_units,
    padded,
    unit_loss,
)
from edgecmd.settings import DistillConfig
from edgecmd.training.distill import LocalData
from tests.edgecmd.privacy.neighbouring_sets import (
    KINDS,
    Found,
    flip_set,
    hub_set,
    largest_difference,
    neighbouring_sets,
    random_set,
    without_last,
)
from tests.shape_checks import shapes_unchecked

CLIP = 1.0
SHAPE = (1, 4, 4)
DIM = 6
BATCH_TRIES = 125
# Each claim is attacked by a fifth of the tries that docs/privacy.md tells of, and by all of them where there
# is time.
MANY = pytest.mark.slow


def vmap_gradients(student: nn.Module, units: Units, loss: UnitLoss) -> Gradients:
    """Gradients of all units of a chunk, whole; each unit is a function call of its own (`torch.func`).

    What `vmap_engine` computes without holding it all; for students small enough to look at.
    """
    parameters = {name: value.detach() for name, value in student.named_parameters()}

    def one(values: dict[str, Tensor], images: Tensor, teacher: Tensor, mask: Tensor) -> Tensor:
        return loss(functional_call(student, values, (images,)), teacher, mask)

    every = vmap(grad(one), in_dims=(None, 0, 0, 0), randomness="different")
    found: Gradients = every(parameters, units.images, units.teacher, units.mask)
    return found


class Tiny(nn.Module):
    """A student of a few hundred parameters, so that thousands of tries take seconds."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(16, 12), nn.Linear(12, DIM)

    def forward(self, image: Tensor) -> Tensor:
        return self.second(torch.tanh(self.first(image.flatten(1))))


def tiny_student(seed: int) -> Tiny:
    coins = torch.Generator().manual_seed(seed)
    student = Tiny()
    scale = 10.0 ** float(torch.rand((), generator=coins) * 2 - 1)
    with torch.no_grad():
        for parameter in student.parameters():
            parameter.copy_(scale * torch.randn(parameter.shape, generator=coins))
    return student


def anchors_of(seed: int, num: int = 12) -> Tensor:
    return functional.normalize(torch.randn(num, DIM, generator=torch.Generator().manual_seed(seed)), dim=1)


def flat(sums: dict[str, Tensor]) -> Tensor:
    return torch.cat([value.flatten() for value in sums.values()])


def record_query(
    student: nn.Module, loss: str, anchors: Tensor, *, num_views: int
) -> Callable[[Sequence[LocalData]], list[Tensor]]:
    """Sums of clipped gradients; every pair's views are coins of its own, the same in both neighbours."""
    of_unit = unit_loss(loss_of(DistillConfig(loss=loss)), anchors)

    def views(data: LocalData) -> Tensor:
        shifts = [torch.roll(data.target, step, dims=3) for step in range(num_views)]
        return torch.stack(shifts, dim=1)

    def query(sets: Sequence[LocalData]) -> list[Tensor]:
        every = Units(
            images=torch.cat([views(one) for one in sets]),
            teacher=torch.cat([one.teacher for one in sets])[:, None].expand(-1, num_views, -1),
            mask=torch.ones(sum(map(len, sets)), num_views, dtype=torch.bool),
        )
        gradients = vmap_gradients(student, every, of_unit)
        sums, start = [], 0
        for one in sets:
            own = {name: value[start : start + len(one)] for name, value in gradients.items()}
            sums.append(flat(clip_and_sum(own, clip=CLIP)))
            start += len(one)
        return sums

    return query


def group_query(
    student: nn.Module,
    anchors: Tensor,
    *,
    seed: int,
    loss: str = "cmc-groups",
    num_groups: int = 2,
    num_views: int = 1,
) -> Callable[[Sequence[LocalData]], list[Tensor]]:
    """Buckets by coins of each pair's own; the last pair's is drawn last, so the others keep theirs."""
    of_unit = unit_loss(loss_of(DistillConfig(loss=loss)), anchors)

    def query(sets: Sequence[LocalData]) -> list[Tensor]:
        buckets, owner = [], []
        for index, one in enumerate(sets):
            source = DeterministicSource(seed, client=index)
            own = bucket_units(
                one,
                np.arange(len(one)),
                num_groups=num_groups,
                num_views=num_views,
                augment=0.0,
                source=source,
            )
            buckets += own
            owner += [index] * len(own)
        gradients = vmap_gradients(student, padded(buckets), of_unit)
        rows = torch.tensor(owner)
        return [
            flat(clip_and_sum({name: value[rows == index] for name, value in gradients.items()}, clip=CLIP))
            for index in range(len(sets))
        ]

    return query


@cache
def batch_of_tries(seed: int) -> tuple[Tiny, list[tuple[str, LocalData]]]:
    """A student and sets that are aimed at it, the same for every loss."""
    student, generator = tiny_student(seed), torch.Generator().manual_seed(1000 + seed)
    return student, neighbouring_sets(student, shape=SHAPE, num_tries=BATCH_TRIES, generator=generator)


def attack(make: Callable[[nn.Module, Tensor, int], Callable], *, num_tries: int) -> Found:
    """Search over many students and anchors."""
    best, tried = Found(largest=0.0, kind="", num_tries=0), 0
    for seed in range(num_tries // BATCH_TRIES):
        # The shapes of the first batch are those of all.
        with shapes_unchecked() if seed else nullcontext():
            student, tries = batch_of_tries(seed)
            found = largest_difference(make(student, anchors_of(seed), seed), tries)
        tried += found.num_tries
        if found.largest > best.largest:
            best = found
    return Found(largest=best.largest, kind=best.kind, num_tries=tried)


@pytest.mark.parametrize("num_tries", [2_000, pytest.param(10_000, marks=MANY)])
@pytest.mark.parametrize(
    ("loss", "num_views"),
    [
        ("cmc-anchored", 1),
        ("cmd-anchored", 1),
        ("cmc+cmd-anchored", 1),
        ("cmc-anchored", 2),
        ("cosine", 1),
    ],
)
def test_thousands_of_attacks_on_a_pair_s_own_gradient(loss: str, num_views: int, num_tries: int) -> None:
    found = attack(
        lambda student, anchors, _: record_query(student, loss, anchors, num_views=num_views),
        num_tries=num_tries,
    )
    assert found.num_tries == num_tries
    assert found.largest <= CLIP
    assert found.largest > 0.99 * CLIP


@pytest.mark.parametrize("num_tries", [2_000, pytest.param(10_000, marks=MANY)])
def test_thousands_of_attacks_on_groups(num_tries: int) -> None:
    found = attack(
        lambda student, anchors, seed: group_query(student, anchors, seed=seed), num_tries=num_tries
    )
    assert found.largest <= 2 * CLIP
    assert found.largest > 1.2 * CLIP, "one bucket must turn by more than a single record could"


@pytest.mark.parametrize("num_tries", [1_000, pytest.param(5_000, marks=MANY)])
@pytest.mark.parametrize(("num_groups", "num_views"), [(2, 1), (2, 3), (1, 1)])
def test_attacks_on_buckets_without_anchors(num_groups: int, num_views: int, num_tries: int) -> None:
    """DP-GCL, its views of a pair in its bucket, and batch clipping: 2 C, and near to it."""
    found = attack(
        lambda student, anchors, seed: group_query(
            student, anchors, seed=seed, loss="gcl", num_groups=num_groups, num_views=num_views
        ),
        num_tries=num_tries,
    )
    assert found.largest <= 2 * CLIP
    assert found.largest > 1.9 * CLIP


@pytest.mark.usefixtures("unchecked_shapes")
@pytest.mark.parametrize(
    ("mechanism", "loss", "factor"), [("anchors", "cmc-anchored", 1), ("groups", "cmc-groups", 2)]
)
def test_attacks_on_a_real_student_through_the_whole_path(mechanism: str, loss: str, factor: int) -> None:
    student = build_student(
        "ws-50k", in_channels=1, embedding_dim=DIM, generator=torch.Generator().manual_seed(0)
    )
    of_unit = unit_loss(loss_of(DistillConfig(loss=loss)), anchors_of(0))
    settings = StepSettings(mechanism=mechanism, num_groups=2)

    def query(sets: Sequence[LocalData]) -> list[Tensor]:
        sums = []
        for index, one in enumerate(sets):
            chunks = make_units(
                one,
                np.arange(len(one)),
                config=settings,
                augment=0.0,
                source=DeterministicSource(1, client=index),
            )
            sums.append(flat(clipped_sum(student, chunks, of_unit, clip=CLIP, engine="vmap")))
        return sums

    tries = neighbouring_sets(
        student, shape=(1, 16, 16), num_tries=60, generator=torch.Generator().manual_seed(3)
    )
    found = largest_difference(query, tries)
    assert 0.5 * CLIP < found.largest <= factor * CLIP


def bad_anchors(kind: str, teacher: Tensor) -> Tensor:
    made = {
        "nan": torch.full((5, DIM), float("nan")),
        "infinite": torch.full((5, DIM), float("inf")),
        "zero": torch.zeros(5, DIM),
        "huge": torch.full((5, DIM), 1e30),
        "a private feature": teacher[-1:].repeat(5, 1),
        "its opposite": -teacher[-1:].repeat(5, 1),
    }
    return made[kind]


@pytest.mark.parametrize("kind", ["nan", "infinite", "zero", "huge", "a private feature", "its opposite"])
@pytest.mark.parametrize("loss", ["cmc-anchored", "cmd-anchored"])
def test_a_malicious_server_s_anchors_do_not_raise_the_sensitivity(kind: str, loss: str) -> None:
    student = tiny_student(5)
    for shape_of_set in KINDS.values():
        data = shape_of_set(student, 6, SHAPE, torch.Generator().manual_seed(9))
        query = record_query(student, loss, bad_anchors(kind, data.teacher), num_views=1)
        larger, smaller = query([data])[0], query([without_last(data)])[0]
        assert torch.isfinite(larger).all()
        assert float((larger - smaller).norm()) <= CLIP


@pytest.mark.parametrize("scale", [float("nan"), float("inf"), 1e20, 0.0])
def test_a_malicious_server_s_weights_do_not_raise_the_sensitivity(scale: float) -> None:
    student = tiny_student(5)
    data = random_set(student, 6, SHAPE, torch.Generator().manual_seed(9))
    with torch.no_grad():
        for parameter in student.parameters():
            parameter.mul_(scale)
    query = record_query(student, "cmc-anchored", anchors_of(0), num_views=1)
    larger, smaller = query([data])[0], query([without_last(data)])[0]
    assert torch.isfinite(larger).all()
    assert float((larger - smaller).norm()) <= CLIP


def trap() -> nn.Module:
    """Weights that overflow on a blank image alone: private pictures have white (2) in their corner."""
    student = nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.Linear(8, DIM))
    with torch.no_grad():
        student[1].weight[:, 0] = -1.5e38
        student[1].bias.fill_(3e38)
    return student


@pytest.mark.parametrize("engine", ["vmap", "opacus", "loop"])
def test_a_pair_that_lengthens_the_padding_changes_its_own_bucket_alone(engine: str) -> None:
    """Seven buckets of one pair each must not vanish because an eighth grows, whatever the weights."""
    generator = torch.Generator().manual_seed(5)
    images = torch.randn(1, 1, 1, 8, 8, generator=generator)
    images[..., 0, 0] = 2.0
    teacher = torch.randn(1, 1, DIM, generator=generator)
    one = Units(images=images, teacher=teacher, mask=torch.ones(1, 1, dtype=torch.bool))
    grown = Units(
        images=images.expand(-1, 2, -1, -1, -1),
        teacher=teacher.expand(-1, 2, -1),
        mask=torch.ones(1, 2, dtype=torch.bool),
    )
    loss, student = unit_loss(loss_of(DistillConfig(loss="cmc-groups")), anchors_of(0)), trap()
    larger, smaller = (
        flat(clipped_sum(student, [padded([first] + [one] * 7)], loss, clip=CLIP, engine=engine))
        for first in (grown, one)
    )
    assert smaller.norm() > 7 * CLIP
    assert float((larger - smaller).norm()) <= 2 * CLIP


# Counter-examples: what other tools accept without a word, and by how much it is wrong.


@pytest.fixture
def convolutional() -> nn.Module:
    return build_student(
        "gn-50k", in_channels=1, embedding_dim=64, generator=torch.Generator().manual_seed(0)
    )


def naive_opacus(student: nn.Module, data: LocalData, loss: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """The sum to which Opacus adds its noise: its own GradSampleModule and its own DPOptimizer."""
    from opacus.grad_sample import GradSampleModule
    from opacus.optimizers import DPOptimizer

    own = copy.deepcopy(student).train()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Full backward hook is firing")
        hooked = GradSampleModule(own, batch_first=True, loss_reduction="sum", strict=False)
        optimizer = DPOptimizer(
            torch.optim.SGD(own.parameters(), lr=1.0),
            noise_multiplier=0.0,
            max_grad_norm=CLIP,
            expected_batch_size=None,
            loss_reduction="sum",
        )
        loss(hooked(data.target), data.teacher).sum().backward()
        optimizer.clip_and_accumulate()
    return torch.cat([parameter.summed_grad.flatten() for parameter in own.parameters()]).detach()


def in_batch(student: Tensor, teacher: Tensor) -> Tensor:
    return losses.cmc(student, teacher, temperature=0.1)


def gap(query: Callable[[LocalData], Tensor], data: LocalData) -> float:
    return float((query(data) - query(without_last(data))).norm())


def test_counter_example_opacus_with_in_batch_negatives_is_not_private(convolutional: nn.Module) -> None:
    """One pair moves the sum by hundreds of C where Opacus accounts for C; random data does not show it."""

    def sets(make: Callable) -> LocalData:
        return make(convolutional, 256, (1, 16, 16), torch.Generator().manual_seed(0))

    def query(data: LocalData) -> Tensor:
        return naive_opacus(convolutional, data, in_batch)

    assert gap(query, sets(random_set)) < 2 * CLIP
    assert gap(query, sets(hub_set)) > 2 * CLIP
    flipped = gap(query, sets(flip_set))
    # The bound of the construction is (2n - 1) C; see docs/privacy.md.
    assert 100 * CLIP <= flipped <= 511 * CLIP


def test_the_same_pair_against_public_anchors_stays_within_the_clip(convolutional: nn.Module) -> None:
    data = flip_set(convolutional, 256, (1, 16, 16), torch.Generator().manual_seed(0))
    anchors = functional.normalize(torch.randn(64, 64, generator=torch.Generator().manual_seed(1)), dim=1)

    def query(one: LocalData) -> Tensor:
        return naive_opacus(
            convolutional, one, lambda z, t: losses.cmc_anchored(z, t, anchors, temperature=0.1)
        )

    assert gap(query, data) <= CLIP * (1 + 1e-4)


def test_counter_example_anchors_with_gradient() -> None:
    """Anchors embedded by the student with gradient carry every private pair in their own rows."""
    student = tiny_student(3)
    public = torch.rand(16, *SHAPE, generator=torch.Generator().manual_seed(2))

    def query(data: LocalData) -> Tensor:
        joined = LocalData(
            target=torch.cat([data.target, public]), teacher=torch.cat([data.teacher, torch.zeros(16, DIM)])
        )

        def loss(z: Tensor, t: Tensor) -> Tensor:
            num = len(data)
            z = losses.unit(z)
            own, anchors = z[:num], z[num:]
            logits = torch.cat([(own * t[:num]).sum(1, keepdim=True), own @ anchors.T], dim=1) / 0.1
            return -functional.log_softmax(logits, dim=1)[:, 0]

        return naive_opacus(student, joined, loss)

    gaps = [
        gap(query, make(student, 8, SHAPE, torch.Generator().manual_seed(seed)))
        for make in KINDS.values()
        for seed in range(5)
    ]
    assert max(gaps) > 1.5 * CLIP


def test_counter_example_sequential_chunks_are_not_groups() -> None:
    """Inserting one pair at the front shifts every later chunk: more than 2 C."""
    loss_anchors = anchors_of(0)
    loss = unit_loss(loss_of(DistillConfig(loss="cmc-groups")), loss_anchors)

    def chunked(student: nn.Module, data: LocalData) -> Tensor:
        chunks = [
            Units(
                images=data.target[start : start + 2][None],
                teacher=data.teacher[start : start + 2][None],
                mask=torch.ones(1, len(data.target[start : start + 2]), dtype=torch.bool),
            )
            for start in range(0, len(data), 2)
        ]
        return flat(clipped_sum(student, chunks, loss, clip=CLIP, engine="vmap"))

    student = tiny_student(0)
    image = torch.rand(SHAPE, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        feature = functional.normalize(student(image[None])[0], dim=0)
    other = torch.roll(feature, 1) - (torch.roll(feature, 1) @ feature) * feature
    one_way = 0.5 * feature + 0.866 * functional.normalize(other, dim=0)
    # Chunks of two: alike before, mixed once a pair is missing at the front.
    pattern = [one_way, one_way, -one_way, -one_way] * 6
    data = LocalData(target=image[None].repeat(24, 1, 1, 1), teacher=torch.stack(pattern))
    shorter = LocalData(target=data.target[1:], teacher=data.teacher[1:])
    assert float((chunked(student, data) - chunked(student, shorter)).norm()) > 4 * CLIP


def test_counter_example_views_from_one_public_stream() -> None:
    """A pair that is inserted first shifts the views of all the others when they come from a known stream."""
    student = build_student(
        "gn-50k", in_channels=1, embedding_dim=DIM, generator=torch.Generator().manual_seed(0)
    )
    data = random_set(student, 24, (1, 16, 16), torch.Generator().manual_seed(0))
    loss = unit_loss(loss_of(DistillConfig(loss="cmc-anchored")), anchors_of(0))

    def query(rows: slice) -> Tensor:
        target = data.target[rows]
        views = augment_image(target, strength=1.0, generator=torch.Generator().manual_seed(7))
        units = Units(
            images=views[:, None],
            teacher=data.teacher[rows][:, None],
            mask=torch.ones(len(target), 1, dtype=torch.bool),
        )
        return flat(clipped_sum(student, [units], loss, clip=CLIP, engine="vmap"))

    assert float((query(slice(0, None)) - query(slice(1, None))).norm()) > 2 * CLIP


def test_buckets_of_the_others_stay_when_a_pair_is_added() -> None:
    student = tiny_student(0)
    data = random_set(student, 30, SHAPE, torch.Generator().manual_seed(0))
    fewer = without_last(data)

    def members(one: LocalData) -> Iterator[set[float]]:
        for chunk in bucket_units(
            one, np.arange(len(one)), num_groups=5, augment=0.0, source=DeterministicSource(4)
        ):
            yield {float(image.sum()) for image in chunk.images[0]}

    added = float(data.target[-1].sum())
    assert [group - {added} for group in members(data) if group != {added}] == list(members(fewer))
