"""Weights of a student as arrays by name, as they are sent, averaged and put back."""

from collections.abc import Mapping, Sequence
from typing import TypeVar

import numpy as np
import torch
from torch import nn

Arrays = Mapping[str, np.ndarray]
Module = TypeVar("Module", bound=nn.Module)


def to_arrays(student: nn.Module) -> dict[str, np.ndarray]:
    """Copies of all weights in the order of their names."""
    state = student.state_dict()
    return {name: state[name].cpu().contiguous().numpy().copy() for name in sorted(state)}


def load_arrays(student: Module, arrays: Arrays) -> Module:
    """Put weights into ``student`` and return it."""
    student.load_state_dict({name: torch.from_numpy(np.array(value)) for name, value in arrays.items()})
    return student


def average(replies: Sequence[Arrays], sizes: Sequence[int]) -> dict[str, np.ndarray]:
    """Weighted mean in the weights' own dtype, added up in the order of the clients, as FedAvg does it.

    Args:
        replies: Weights of each client.
        sizes: Weight of each reply; not all zero.
    """
    factors = [size / sum(sizes) for size in sizes]
    total = {name: np.asarray(value * factors[0]) for name, value in replies[0].items()}
    for reply, factor in zip(replies[1:], factors[1:], strict=True):
        for name, value in reply.items():
            total[name] = np.asarray(total[name] + value * factor)
    return total


def part_of_step(before: Arrays, after: Arrays, *, share: float) -> dict[str, np.ndarray]:
    """Weights that went ``share`` of the way from ``before`` to ``after``, in the dtype of ``before``."""
    if share == 1.0:
        return dict(after)
    return {
        name: np.asarray(value + share * (after[name].astype(np.float64) - value), dtype=value.dtype)
        for name, value in before.items()
    }
