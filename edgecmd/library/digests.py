"""Digests of a user's own objects: a run folder is continued with equal ones alone."""

import hashlib
from collections.abc import Iterator, Mapping, Sequence, Set
from numbers import Number

import numpy as np
from torch import Tensor, nn

SHOWN = 16


def digest(made: object) -> str:
    """Short SHA-256 of an object: its class, and numbers, texts, arrays and weights wherever it keeps them.

    What else it holds counts by its class, so that the digest is the same in every process.
    """
    found = hashlib.sha256()
    for part in _parts(made, seen=set()):
        found.update(len(part).to_bytes(8, "big") + part)
    return found.hexdigest()[:SHOWN]


def _parts(made: object, *, seen: set[int]) -> Iterator[bytes]:
    yield f"{type(made).__module__}.{type(made).__qualname__}".encode()
    if made is None or isinstance(made, Number | str | bytes):
        yield repr(made).encode()
    elif isinstance(made, Tensor | np.ndarray):
        array = made.detach().cpu().contiguous().numpy() if isinstance(made, Tensor) else made
        yield f"{array.dtype} {array.shape}".encode()
        yield array.tobytes()
    elif id(made) not in seen:
        seen.add(id(made))
        for inner in _inside(made):
            yield from _parts(inner, seen=seen)


def _inside(made: object) -> Sequence[object]:
    """What an object is made of, in an order that does not change."""
    if isinstance(made, Mapping):
        return [one for item in made.items() for one in item]
    if isinstance(made, Set):
        return sorted(made, key=repr)
    if isinstance(made, Sequence):
        return made
    if isinstance(made, nn.Module):
        return [one for item in sorted(made.state_dict().items()) for one in item]
    return [one for item in sorted(getattr(made, "__dict__", {}).items()) for one in item]
