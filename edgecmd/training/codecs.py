"""Weights in fewer bytes: what a client sends of its move, and what a server sends of the weights.

A client answers with the difference between the weights that it trained and those that it received, coded;
the server adds what it decodes to its own weights, which stay float32. What the server sends is coded without
any state, so that whoever is asked next, or comes late, understands it.

What coding left out of a client's difference is added to its next one (error feedback: Seide et al. 2014;
Karimireddy et al. 2019, arXiv 1901.09847). So the sum of all that was sent is the sum of all that was meant,
but for the last rest. Rounding to int8 is stochastic: its mean is the number itself.

**Privacy.** Where a guarantee is kept, one of two arguments keeps it, and its cost does not change.

- Noise at the client (a mechanism for each pair). The difference ``d_t`` of round ``t`` is that of noised
  weights, which the ledger counts before they are coded. The rest ``r_t = d_t + r_{t-1} - c_t``, ``r_0 = 0``,
  is a function of ``d_1, ..., d_t`` and of draws that depend on no pair. So all that is ever sent,
  ``c_1, ..., c_t``, is a function of counted releases: post-processing. No gradient from before the noise is
  in a rest.
- Noise at the trusted server (``privacy.mechanism = "client"``). Here a rest does carry a client's data from
  round to round. The unit is the whole client, its rests with it, and the server clips what it decodes: one
  client adds a vector of norm at most C to a sum, whatever it sends. Sampling amplifies as before: given
  the releases so far, a round's secret coin does not depend on the rest; and a mixture of vectors of norm at
  most C is no easier to tell from no vector than the worst of them, because hockey-stick divergences are
  convex.

Refused, because neither holds: a secure sum, whose proof counts integers that the clients make, and sums that
are released once, which are no weights.

Shapes: N numbers of all coded tensors one after another, G groups of them with one scale each, K kept ones.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import nn

from edgecmd.catalogue.strategy_rows import STRATEGIES
from edgecmd.core.errors import ConfigError, FederationError, PrivacyError, choose
from edgecmd.core.seeding import numpy_generator
from edgecmd.settings import FP16, INT8, NO_COMPRESSION, SECURE_SUM, TOP_K, FederationConfig
from edgecmd.training.averaging import Arrays

WHOLE = "whole/"
LEVELS = 127
# A scale is four bytes: of fewer numbers it would weigh more than their codes may.
LEAST_GROUP = 64
# Finite, and beyond any move of training; more would stay in the rest and spoil what comes after.
LARGEST_MOVE = 1e9
Parts = Mapping[str, np.ndarray]


@dataclass(frozen=True, kw_only=True, eq=False)
class Layout:
    """Which numbers of a student are coded, and where.

    Attributes:
        shapes: Shape of each coded tensor, in order of the names: those that are float32 and trained.
        whole: Shape and dtype of the others, statistics and counters, which travel as they are.
    """

    shapes: Mapping[str, tuple[int, ...]]
    whole: Mapping[str, tuple[tuple[int, ...], np.dtype]]

    @classmethod
    def of(cls, student: nn.Module) -> "Layout":
        """The layout of a student's weights."""
        buffers, shapes, whole = {name for name, _ in student.named_buffers()}, {}, {}
        for name, value in sorted(student.state_dict().items()):
            if value.dtype == torch.float32 and name not in buffers:
                shapes[name] = tuple(value.shape)
            else:
                whole[name] = tuple(value.shape), value.new_empty(0, device="cpu").numpy().dtype
        return cls(shapes=shapes, whole=whole)

    @cached_property
    def num(self) -> int:
        """N."""
        return sum(map(math.prod, self.shapes.values()))

    @cached_property
    def group_sizes(self) -> np.ndarray:
        """Numbers of each group, (G,): a row of the first axis, or a tensor whose rows are short."""
        sizes = list[int]()
        for shape in self.shapes.values():
            size = math.prod(shape)
            row = size // shape[0] if shape and size else 0
            sizes += [row] * shape[0] if row >= LEAST_GROUP else [size] * (size > 0)
        return np.asarray(sizes, np.intp)

    def vector(self, arrays: Arrays) -> np.ndarray:
        """The coded tensors one after another, (N,)."""
        flat = [np.ravel(arrays[name]) for name in self.shapes]
        return np.concatenate(flat) if flat else np.zeros(0, np.float32)

    def tensors(self, vector: np.ndarray) -> dict[str, np.ndarray]:
        """The opposite of `vector`, as views."""
        found, first = {}, 0
        for name, shape in self.shapes.items():
            size = math.prod(shape)
            found[name] = vector[first : first + size].reshape(shape)
            first += size
        return found


@dataclass(frozen=True, kw_only=True, slots=True)
class Codec:
    """A way to write N numbers in fewer bytes.

    Attributes:
        sizes: Shape and dtype of each part, for a layout and a share: they depend on nothing else.
        encode: The parts of a vector; it is rounded by a generator's draws, without one to the nearest.
        decode: The vector of parts.
        fault: What is wrong with parts of the right shapes and dtypes, or None. Whether numbers are finite
            and small enough is asked of the weights that come of them.
        most: Largest magnitude that it takes.
    """

    sizes: Callable[[Layout, float], Mapping[str, tuple[int, type]]]
    encode: Callable[[np.ndarray, Layout, float, np.random.Generator | None], Parts]
    decode: Callable[[Parts, Layout], np.ndarray]
    fault: Callable[[Parts, Layout], str | None] = lambda *_: None
    most: float = LARGEST_MOVE


def _int8(vector: np.ndarray, layout: Layout, _: float, generator: np.random.Generator | None) -> Parts:
    """``floor(x / s + u)``: with u uniform in [0, 1) its mean is x / s, with u = 1/2 it is the nearest."""
    sizes = layout.group_sizes
    starts = np.cumsum(sizes) - sizes
    most = np.maximum.reduceat(np.abs(vector), starts) if len(sizes) else np.zeros(0, np.float32)
    scales = most / np.float32(LEVELS)
    spread = np.repeat(scales, sizes)
    steps = np.divide(vector, spread, out=np.zeros_like(vector), where=spread > 0)
    draws = np.float32(0.5) if generator is None else generator.random(len(vector), dtype=np.float32)
    codes = np.clip(np.floor(steps + draws), -LEVELS, LEVELS).astype(np.int8)
    return {"codes": codes, "scales": scales}


def _of_int8(parts: Parts, layout: Layout) -> np.ndarray:
    codes = parts["codes"].astype(np.float32)
    codes *= np.repeat(parts["scales"], layout.group_sizes)
    return codes


def _int8_fault(parts: Parts, _: Layout) -> str | None:
    if (parts["codes"] < -LEVELS).any():
        return f"codes below {-LEVELS}"
    return "scales below 0" if (parts["scales"] < 0).any() else None


def _num_kept(layout: Layout, share: float) -> int:
    return min(layout.num, math.ceil(share * layout.num))


def _top_k(vector: np.ndarray, layout: Layout, share: float, _: object) -> Parts:
    """The K largest by magnitude; of equal ones the first, so that no machine chooses otherwise."""
    num = _num_kept(layout, share)
    sizes = np.abs(vector)
    least = np.partition(sizes, len(sizes) - num)[len(sizes) - num] if num else np.float32(0)
    above = np.flatnonzero(sizes > least)
    equal = np.flatnonzero(sizes == least)[: num - len(above)]
    kept = np.sort(np.concatenate([above, equal]))
    return {"indices": kept.astype(np.uint32), "values": vector[kept]}


def _of_top_k(parts: Parts, layout: Layout) -> np.ndarray:
    vector = np.zeros(layout.num, np.float32)
    vector[parts["indices"]] = parts["values"]
    return vector


def _top_k_fault(parts: Parts, layout: Layout) -> str | None:
    indices = parts["indices"]
    if (indices[1:] <= indices[:-1]).any():
        return "indices that do not rise"
    return f"an index beyond {layout.num - 1}" if len(indices) and indices[-1] >= layout.num else None


CODECS = {
    FP16: Codec(
        sizes=lambda layout, _: {"halves": (layout.num, np.float16)},
        encode=lambda vector, *_: {"halves": vector.astype(np.float16)},
        decode=lambda parts, _: parts["halves"].astype(np.float32),
        most=float(np.finfo(np.float16).max),
    ),
    INT8: Codec(
        sizes=lambda layout, _: {
            "codes": (layout.num, np.int8),
            "scales": (len(layout.group_sizes), np.float32),
        },
        encode=_int8,
        decode=_of_int8,
        fault=_int8_fault,
    ),
    TOP_K: Codec(
        sizes=lambda layout, share: {
            "indices": (_num_kept(layout, share), np.uint32),
            "values": (_num_kept(layout, share), np.float32),
        },
        encode=_top_k,
        decode=_of_top_k,
        fault=_top_k_fault,
    ),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Compression:
    """One value of ``federation.compression``.

    Attributes:
        up: Codec of what clients send, a key of `CODECS`.
        down: Codec of the weights that the server sends.
        feedback: Whether a client keeps what coding left out and adds it to its next difference.
        sparse: Whether most of what arrives is zero, so that a strategy cannot compare clients by it.
    """

    up: str
    down: str
    feedback: bool = True
    sparse: bool = False


COMPRESSIONS: dict[str, Compression | None] = {
    NO_COMPRESSION: None,
    FP16: Compression(up=FP16, down=FP16, feedback=False),
    INT8: Compression(up=INT8, down=INT8),
    # Of weights themselves, a tenth would be no student.
    TOP_K: Compression(up=TOP_K, down=INT8, sparse=True),
}


@dataclass(frozen=True, kw_only=True, eq=False)
class Wire:
    """How weights of one student travel in a run.

    Attributes:
        row: What is done to them.
        layout: Of the student.
        share: Of top-k.
        seed: Of the run; draws follow from it, the round and the client.

    Guarantees:
        What is sent depends on weights, the client's rest, seed, round and client alone: it is
        the same to the byte in every runtime and with any number of workers. The sizes of all parts follow
        from the settings and the student: a receiver allocates nothing because a sender says so.
    """

    row: Compression
    layout: Layout
    share: float
    seed: int

    @cached_property
    def up_like(self) -> dict[str, np.ndarray]:
        """Names, shapes and dtypes of what a client sends; the numbers take no memory."""
        return self._like(CODECS[self.row.up])

    @cached_property
    def down_like(self) -> dict[str, np.ndarray]:
        """The same of what the server sends."""
        return self._like(CODECS[self.row.down])

    @property
    def num_bytes(self) -> tuple[int, int]:
        """Bytes that a client is sent, and that it sends, in a round."""
        down, up = self.down_like.values(), self.up_like.values()
        return sum(one.nbytes for one in down), sum(one.nbytes for one in up)

    def sent(self, arrays: Arrays) -> dict[str, np.ndarray]:
        """What the server sends of its weights, rounded to the nearest.

        Raises:
            FederationError: A weight is too large for the codec.
        """
        vector, codec = self.layout.vector(arrays), CODECS[self.row.down]
        large = _too_large(vector, codec.most)
        if large:
            raise FederationError(large)
        return {**codec.encode(vector, self.layout, 1.0, None), **self._whole(arrays)}

    def received(self, parts: Parts) -> dict[str, np.ndarray]:
        """The weights that a client takes from what was sent.

        Raises:
            ValueError: That is not what a server of this run sends.
        """
        found = {name: (value.shape, value.dtype) for name, value in parts.items()}
        codec = CODECS[self.row.down]
        if found != {name: (value.shape, value.dtype) for name, value in self.down_like.items()}:
            raise ValueError("the server sent other parts than its compression makes of this student")
        fault = codec.fault(parts, self.layout)
        if fault is not None:
            raise ValueError(f"the server sent {fault}")
        return self._joined(codec.decode(parts, self.layout), parts)

    def answer(
        self, before: Arrays, after: Arrays, rest: np.ndarray | None, *, round_index: int, client: int
    ) -> tuple[dict[str, np.ndarray], np.ndarray | None]:
        """What a client sends of its move, and the rest that it keeps.

        Args:
            before: The weights that it received.
            after: Those that it trained, or releases.
            rest: What coding left out so far, (N,); None for nothing.
            round_index: Round, from 1.
            client: Index of the client.

        Returns:
            The parts; and the new rest, None where none is kept.

        Raises:
            FloatingPointError: The move is not finite, or too large for the codec; a rest of it would spoil
                the rounds to come.
        """
        codec = CODECS[self.row.up]
        move = self.layout.vector(after) - self.layout.vector(before)
        if rest is not None:
            move += rest
        large = _too_large(move, codec.most)
        if large:
            raise FloatingPointError(large)
        generator = numpy_generator(self.seed, "compression", round_index=round_index, client=client)
        coded = codec.encode(move, self.layout, self.share, generator)
        left = move - codec.decode(coded, self.layout) if self.row.feedback else None
        return {**coded, **self._whole(after)}, left

    def fault(self, parts: Parts) -> str | None:
        """What is wrong with a client's parts, whose names, shapes and dtypes are right; None for nothing."""
        return CODECS[self.row.up].fault(parts, self.layout)

    def moves(self, parts: Parts) -> dict[str, np.ndarray]:
        """The move in a client's parts; tensors that travel whole are what they became."""
        with np.errstate(over="ignore", invalid="ignore"):
            return self._joined(CODECS[self.row.up].decode(parts, self.layout), parts)

    def onto(self, arrays: Arrays, moves: Arrays) -> dict[str, np.ndarray]:
        """A client's weights: the server's, moved."""
        with np.errstate(over="ignore", invalid="ignore"):
            return {
                name: np.asarray(value + moves[name]) if name in self.layout.shapes else moves[name]
                for name, value in arrays.items()
            }

    def _joined(self, vector: np.ndarray, parts: Parts) -> dict[str, np.ndarray]:
        found = self.layout.tensors(vector) | {name: parts[WHOLE + name] for name in self.layout.whole}
        return {name: found[name] for name in sorted(found)}

    def _whole(self, arrays: Arrays) -> dict[str, np.ndarray]:
        return {WHOLE + name: np.asarray(arrays[name]) for name in self.layout.whole}

    def _like(self, codec: Codec) -> dict[str, np.ndarray]:
        parts: dict[str, tuple[tuple[int, ...], np.dtype]] = {}
        for name, (num, kind) in codec.sizes(self.layout, self.share).items():
            parts[name] = (num,), np.dtype(kind)
        for name, one in self.layout.whole.items():
            parts[WHOLE + name] = one
        return {name: np.broadcast_to(np.zeros((), dtype), shape) for name, (shape, dtype) in parts.items()}


def _too_large(vector: np.ndarray, most: float) -> str:
    """What to say of numbers that are not finite, or larger than ``most``; empty for others."""
    largest = np.abs(vector).max(initial=0.0)
    if largest <= most:
        return ""
    return (
        f"federation.compression takes numbers up to {most:g}, and the largest is {largest:g}. Lower"
        " distill.learning_rate or federation.server_learning_rate."
    )


def wire_of(federation: FederationConfig, student: nn.Module, *, seed: int) -> Wire | None:
    """How weights of ``student`` travel; None where they do as they are.

    Args:
        federation: Names the compression.
        student: Any of the run: shapes are taken, no weights.
        seed: Of the run.
    """
    row = choose("federation.compression", federation.compression, COMPRESSIONS)
    if row is None:
        return None
    return Wire(row=row, layout=Layout.of(student), share=federation.top_share, seed=seed)


def check_compression(federation: FederationConfig, *, aggregation: str, one_shot: bool) -> None:
    """Refuse a compression that breaks a proof, or makes no sense.

    Args:
        federation: Names the compression and the strategy.
        aggregation: ``privacy.aggregation``.
        one_shot: Whether clients release sums once, and no weights.

    Raises:
        PrivacyError: The clients' replies are sums.
        ConfigError: The strategy compares clients number by number, and most numbers do not arrive.
    """
    row = choose("federation.compression", federation.compression, COMPRESSIONS)
    named = f"federation.compression={federation.compression!r}"
    if row is None:
        return
    if aggregation == SECURE_SUM:
        raise PrivacyError(
            f"{named} with privacy.aggregation={SECURE_SUM!r}: the clients' vectors are integers already,"
            " whose rounding and noise the proof counts, behind masks that cannot be shortened. Set"
            f" federation.compression={NO_COMPRESSION!r}, or privacy.aggregation to plain or noised-sum."
        )
    if one_shot:
        raise PrivacyError(
            f"{named}: this mechanism releases sums once, from which the student follows, and no weights. Set"
            f" federation.compression={NO_COMPRESSION!r}."
        )
    strategy = STRATEGIES.get(federation.strategy)
    if row.sparse and strategy is not None and not strategy.linear:
        linear = ", ".join(name for name, one in STRATEGIES.items() if one.linear)
        raise ConfigError(
            f"{named} with federation.strategy={federation.strategy!r}: each client sends other weights, so"
            " most of what this strategy would compare is zero. Use"
            f" federation.compression={INT8!r}, or one of {linear}."
        )
