"""Digests of a user's own objects: equal objects have equal digests, in every process."""

import hashlib
from collections.abc import Iterator, Mapping, Sequence, Set
from numbers import Number

import numpy as np
from torch import Tensor, nn

SHOWN = 16
# What every module keeps for torch (its mode among it), and what a trained student remembers of its making.
_OF_TORCH = {*vars(nn.Module()), "origin"}


def whole_digest(made: object) -> str:
    """SHA-256 of an object: its class, and numbers, texts, arrays and weights wherever it keeps them.

    Of a module that is weights, buffers, inner modules and plain attributes, whatever its mode. What else it
    holds counts by its class, and what the code of a class does is not part of it, so that the digest is the
    same in every process.
    """
    found = hashlib.sha256()
    for part in _parts(made, seen=set()):
        found.update(len(part).to_bytes(8, "big") + part)
    return found.hexdigest()


def digest(made: object) -> str:
    """The first 16 digits of `whole_digest`: a run folder is continued with equal objects alone."""
    return whole_digest(made)[:SHOWN]


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
        plain = {name: value for name, value in vars(made).items() if name not in _OF_TORCH}
        named = (*made._parameters.items(), *made._buffers.items(), *made._modules.items())
        return [one for item in (*named, *sorted(plain.items())) for one in item]
    if type(made).__module__.partition(".")[0] == "torch":
        return []
    return [one for item in sorted(getattr(made, "__dict__", {}).items()) for one in item]
