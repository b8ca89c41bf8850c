"""Neighbouring sets built to hurt, and the largest difference over them.

Random sets do not reveal a coupled loss; these kinds do (hub, duplicates and flip were found by hand
against in-batch negatives, see docs/privacy.md).

Shapes: N pairs, D embedding dimension.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from edgecmd.training.distill import LocalData

Query = Callable[[Sequence[LocalData]], Sequence[Tensor]]


@dataclass(frozen=True, kw_only=True, slots=True)
class Found:
    """The largest difference between neighbours.

    Attributes:
        largest: L2 norm.
        kind: Kind of the pair that gave it.
        num_tries: Pairs that were tried.
    """

    largest: float
    kind: str
    num_tries: int


def _directions(student: nn.Module, image: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """The student's unit feature of ``image`` and a unit vector orthogonal to it, (D,) each."""
    with torch.no_grad():
        feature = functional.normalize(student(image[None])[0], dim=0)
    other = torch.randn(len(feature), generator=generator).to(feature)
    other = other - (other @ feature) * feature
    return feature, functional.normalize(other, dim=0)


def _noise(student: nn.Module, num: int, shape: Sequence[int], generator: torch.Generator) -> LocalData:
    first = next(student.parameters())
    target = torch.rand(num, *shape, generator=generator).to(first)
    scale = 10.0 ** float(torch.rand((), generator=generator) * 2 - 1)
    with torch.no_grad():
        dim = student(target[:1]).shape[1]
    teacher = functional.normalize(torch.randn(num, dim, generator=generator).to(first), dim=1)
    return LocalData(target=target * scale, teacher=teacher)


def random_set(student: nn.Module, num: int, shape: Sequence[int], generator: torch.Generator) -> LocalData:
    """Noise images and random teacher features; the last pair is the one that is added."""
    return _noise(student, num, shape, generator)


def hub_set(student: nn.Module, num: int, shape: Sequence[int], generator: torch.Generator) -> LocalData:
    """Noise, and a last pair whose teacher feature is the student's mean feature."""
    data = _noise(student, num, shape, generator)
    with torch.no_grad():
        mean = functional.normalize(student(data.target).mean(dim=0), dim=0)
    return LocalData(target=data.target, teacher=torch.cat([data.teacher[:-1], mean[None]]))


def duplicates_set(
    student: nn.Module, num: int, shape: Sequence[int], generator: torch.Generator
) -> LocalData:
    """One pair many times, as badly aligned as can be, and a last pair that is nearly right."""
    data = _noise(student, num, shape, generator)
    feature, other = _directions(student, data.target[0], generator)
    last = functional.normalize(0.954 * feature - 0.3 * other, dim=0)
    return LocalData(
        target=data.target[:1].repeat(num, *([1] * len(shape))),
        teacher=torch.cat([(-feature)[None].repeat(num - 1, 1), last[None]]),
    )


def flip_set(student: nn.Module, num: int, shape: Sequence[int], generator: torch.Generator) -> LocalData:
    """Duplicates pulled one way by one pair, and a last pair that turns all of them the other way."""
    data = duplicates_set(student, num, shape, generator)
    feature, other = _directions(student, data.target[0], generator)
    pull = functional.normalize(0.3 * feature + 0.954 * other, dim=0)
    last = functional.normalize(0.954 * feature - 0.3 * other, dim=0)
    return LocalData(target=data.target, teacher=torch.cat([data.teacher[:-2], pull[None], last[None]]))


KINDS: dict[str, Callable[[nn.Module, int, Sequence[int], torch.Generator], LocalData]] = {
    "random": random_set,
    "hub": hub_set,
    "duplicates": duplicates_set,
    "flip": flip_set,
}


def without_last(data: LocalData) -> LocalData:
    """The neighbouring set: the last pair removed."""
    return LocalData(target=data.target[:-1], teacher=data.teacher[:-1])


def neighbouring_sets(
    student: nn.Module, *, shape: Sequence[int], num_tries: int, generator: torch.Generator
) -> list[tuple[str, LocalData]]:
    """``num_tries`` sets of every kind in turn, each with its kind; the last pair is the one that is added.

    Args:
        student: Its features aim the sets.
        shape: Channels, height and width of an image.
        num_tries: Pairs of neighbours.
        generator: Source of the sets.
    """
    sets = []
    for index in range(num_tries):
        kind = list(KINDS)[index % len(KINDS)]
        num = int(torch.randint(3, 7, (), generator=generator))
        sets.append((kind, KINDS[kind](student, num, shape, generator)))
    return sets


def largest_difference(query: Query, tries: Sequence[tuple[str, LocalData]]) -> Found:
    """Largest ``|query(S + x) - query(S)|`` over sets of `neighbouring_sets`.

    Args:
        query: Maps sets to flat vectors, one each, with all coins but those of ``x`` fixed.
        tries: Kinds and sets.
    """
    sets = [one for _, one in tries]
    larger, smaller = query(sets), query([without_last(one) for one in sets])
    differences = [float((a - b).double().norm()) for a, b in zip(larger, smaller, strict=True)]
    best = max(range(len(tries)), key=lambda index: differences[index])
    return Found(largest=differences[best], kind=tries[best][0], num_tries=len(tries))
