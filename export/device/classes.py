"""Classes by example on the device, and a search of saved embeddings; numpy alone.

Add, extend and remove classes, join them with the trained head, reject what is none of them.

It becomes a part of the bundle's one infer.py (`export.device.assemble`), so it imports nothing of edgecmd
but what becomes a part of it too.

Shapes: K classes, D embedding dimension, N inputs, M images of the classes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from export.device.reading import InferError

SCALE = 10.0
FALSE_ACCEPTS = 0.05
# A mean of unit embeddings that is shorter points nowhere: its examples cancel each other out.
LEAST_LENGTH = 1e-6


class Rejection(NamedTuple):
    """When an input is none of the classes, and how often that was wrong where it was measured.

    Attributes:
        threshold: Accepted is a cosine with the nearest class above it.
        false_accepts: How many inputs of no class were accepted, and of how many.
        false_rejects: How many inputs of the classes were rejected, and of how many; of 0 where not measured.
    """

    threshold: float
    false_accepts: tuple[int, int]
    false_rejects: tuple[int, int]


class Prototypes(NamedTuple):
    """Classes by example.

    Attributes:
        names: Of the classes.
        vectors: Unit embeddings, (K, D).
        scale: The factor on cosines before softmax.
        lengths: Of each mean before it was scaled to length 1, (K,); None where it is not known.
        counts: Examples behind each mean; empty where not known.
        rejection: When an input is none of them; None where that was not measured.
    """

    names: tuple[str, ...]
    vectors: np.ndarray
    scale: float
    lengths: np.ndarray | None = None
    counts: tuple[int, ...] = ()
    rejection: Rejection | None = None


class Nearest(NamedTuple):
    """The class that an input is nearest to, their cosine, and whether it is accepted; None: no threshold."""

    name: str
    cosine: float
    accepted: bool | None


class Gallery(NamedTuple):
    """Saved embeddings: names (N), and unit rows (N, D)."""

    names: tuple[str, ...]
    vectors: np.ndarray


def mean_of(embeddings: np.ndarray | Sequence[np.ndarray], *, name: str) -> tuple[np.ndarray, float]:
    """The mean of unit embeddings (N, D), scaled to length 1, float32 (D,); and its length before.

    Raises:
        InferError: There is none, they are not finite rows, or they cancel each other out.
    """
    rows = np.asarray(embeddings, dtype=np.float64)
    if rows.ndim != 2 or not rows.size or not np.isfinite(rows).all():
        raise InferError(
            f"The examples of the class {name!r} have shape {rows.shape}; allowed are finite embeddings"
            " (N, D), N >= 1.",
            exit_code=4,
        )
    return _unit(rows.mean(axis=0), name)


def _unit(mean: np.ndarray, name: str) -> tuple[np.ndarray, float]:
    length = float(np.linalg.norm(mean))
    if not length > LEAST_LENGTH:
        raise InferError(
            f"The examples of the class {name!r} have no common direction. Give others.", exit_code=4
        )
    return np.asarray(mean / length, dtype=np.float32), length


def from_examples(
    examples: Mapping[str, np.ndarray | Sequence[np.ndarray]], *, dim: int, scale: float = SCALE
) -> Prototypes:
    """Each class with the unit embeddings (N, D) of its examples; see `with_examples`."""
    classes = Prototypes((), np.zeros((0, dim), np.float32), scale, np.zeros(0), ())
    for name, rows in examples.items():
        classes = with_examples(classes, name, rows)
    return classes


def with_examples(
    prototypes: Prototypes, name: str, embeddings: np.ndarray | Sequence[np.ndarray]
) -> Prototypes:
    """A class more; or, of a class that is there, the mean over the examples so far and these.

    Args:
        prototypes: They stay as they are.
        name: Of the class.
        embeddings: Unit rows, (N, D).

    Raises:
        InferError: The class is there and nobody knows of how many examples, the name is empty, or the
            embeddings do not fit.

    Guarantees:
        The same classes, up to rounding, in whichever order and portions the examples of a class come.
        What was measured of rejection is dropped: it held for other classes.
    """
    refuse_name(name)
    dim = prototypes.vectors.shape[1]
    rows = np.asarray(embeddings, dtype=np.float64)
    if rows.ndim == 2 and rows.shape[1] != dim:
        raise InferError(
            f"The examples of the class {name!r} have {rows.shape[1]} numbers each; allowed are {dim}.",
            exit_code=4,
        )
    is_new = name not in prototypes.names
    if prototypes.lengths is None and not is_new:
        raise InferError(
            f"The class {name!r} cannot be extended: its file does not say of how many examples it is. Make"
            " it again from all of its examples.",
            exit_code=4,
        )
    vector, length = mean_of(rows, name=name)
    count = len(rows)
    if not is_new and prototypes.lengths is not None:
        at = prototypes.names.index(name)
        before = prototypes.counts[at]
        total = before * _mean_at(prototypes, at) + count * length * vector.astype(np.float64)
        count += before
        vector, length = _unit(total / count, name)
    others = without_class(prototypes, name) if not is_new else prototypes
    place = prototypes.names.index(name) if not is_new else len(prototypes.names)
    known = others.lengths is not None
    return Prototypes(
        (*others.names[:place], name, *others.names[place:]),
        np.insert(others.vectors, place, vector, axis=0),
        prototypes.scale,
        np.insert(others.lengths, place, length) if others.lengths is not None else None,
        (*others.counts[:place], count, *others.counts[place:]) if known else (),
    )


def _mean_at(prototypes: Prototypes, at: int) -> np.ndarray:
    """The mean before it was scaled to length 1."""
    lengths = prototypes.lengths if prototypes.lengths is not None else np.ones(len(prototypes.names))
    return np.asarray(prototypes.vectors[at].astype(np.float64) * lengths[at])


def refuse_name(name: str) -> None:
    """Refuse a name that a file would not give back.

    Raises:
        InferError: It is empty, or ends with the letter 0, which numpy cuts off.
    """
    if not name or name.endswith("\0"):
        raise InferError(f"A class cannot have the name {name!r}. Give it one of letters.", exit_code=4)


def without_class(prototypes: Prototypes, name: str) -> Prototypes:
    """All classes but one; what was measured of rejection is dropped, since it held for other classes.

    Raises:
        InferError: There is no such class.
    """
    if name not in prototypes.names:
        raise InferError(
            f"There is no class {name!r}; there are: {', '.join(prototypes.names) or 'none'}.", exit_code=2
        )
    at = prototypes.names.index(name)
    return Prototypes(
        prototypes.names[:at] + prototypes.names[at + 1 :],
        np.delete(prototypes.vectors, at, axis=0),
        prototypes.scale,
        None if prototypes.lengths is None else np.delete(prototypes.lengths, at),
        prototypes.counts[:at] + prototypes.counts[at + 1 :],
    )


def merged(parts: Sequence[Prototypes]) -> Prototypes:
    """Classes of several files; of two with one name the later is used. The scale is that of the first.

    Guarantees:
        What was measured of rejection is kept where there is one part, and dropped otherwise.
    """
    if len(parts) == 1:
        return parts[0]
    last = {name: (part, at) for part in parts for at, name in enumerate(part.names)}
    lengths: np.ndarray | None = None
    counts: tuple[int, ...] = ()
    if all(part.lengths is not None for part, _ in last.values()):
        lengths = np.array([part.lengths[at] for part, at in last.values() if part.lengths is not None])
        counts = tuple(part.counts[at] for part, at in last.values())
    vectors = np.stack([part.vectors[at] for part, at in last.values()])
    return Prototypes(tuple(last), vectors, parts[0].scale, lengths, counts)


def prototype_scores(embedding: np.ndarray, prototypes: Prototypes) -> np.ndarray:
    """Softmax of the scaled cosines, (N, K)."""
    logits = prototypes.scale * (embedding @ prototypes.vectors.T)
    power = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(power / power.sum(axis=1, keepdims=True))


def threshold_of(prototypes: Prototypes) -> float:
    """The threshold, which a join needs.

    Raises:
        InferError: There is none.
    """
    if prototypes.rejection is None:
        raise InferError(
            "The classes have no threshold, so nothing tells which part is theirs beside the trained classes."
            " Calibrate them first (--calibrate).",
            exit_code=2,
        )
    return prototypes.rejection.threshold


def joined_scores(embedding: np.ndarray, trained: np.ndarray, prototypes: Prototypes) -> np.ndarray:
    """Scores of the trained classes, and behind them those of the classes by example; each row adds up to 1.

    The trained head does not know how near an input is to other classes, so the threshold decides how much
    of the whole is theirs: ``1 / (1 + exp(-scale * (cosine - threshold)))``, half of it at the threshold.
    Within each part the scores keep their ratios.

    Args:
        embedding: Unit rows, (N, D).
        trained: Scores of the trained classes, each row adding up to 1.
        prototypes: With a threshold.

    Raises:
        InferError: They have none.
    """
    threshold = threshold_of(prototypes)
    own = prototype_scores(embedding, prototypes)
    cosine = (embedding @ prototypes.vectors.T).max(axis=1, keepdims=True)
    # As a tangent, which cannot overflow.
    share = 0.5 + 0.5 * np.tanh(0.5 * prototypes.scale * (cosine - threshold))
    return np.asarray(np.concatenate([(1 - share) * trained, share * own], axis=1), dtype=np.float32)


def nearest(embedding: np.ndarray, prototypes: Prototypes) -> list[Nearest]:
    """The nearest class of each unit row (N, D)."""
    cosines = embedding.astype(np.float64) @ prototypes.vectors.T.astype(np.float64)
    limit = None if prototypes.rejection is None else prototypes.rejection.threshold
    best = cosines.argmax(axis=1)
    return [
        Nearest(prototypes.names[at], float(row[at]), None if limit is None else bool(row[at] > limit))
        for at, row in zip(best, cosines)
    ]


def left_out(prototypes: Prototypes, name: str, embeddings: np.ndarray) -> np.ndarray:
    """Cosine of each example with its nearest class, had it not been an example itself; float64, (M,).

    Args:
        prototypes: That were made of these examples, and perhaps more.
        name: The class of the examples.
        embeddings: Unit rows, (M, D), each an example of it.

    Returns:
        Nothing where the class has one example only, or nobody knows how many.
    """
    at = prototypes.names.index(name)
    if prototypes.lengths is None or prototypes.counts[at] < 2:
        return np.zeros(0)
    rows = np.asarray(embeddings, dtype=np.float64)
    rest = prototypes.counts[at] * _mean_at(prototypes, at) - rows
    own = (rows * rest).sum(axis=1) / np.maximum(np.linalg.norm(rest, axis=1), LEAST_LENGTH)
    others = rows @ np.delete(prototypes.vectors, at, axis=0).T.astype(np.float64)
    return np.asarray(np.concatenate([own[:, None], others], axis=1).max(axis=1))


def calibrated(
    prototypes: Prototypes,
    strangers: np.ndarray,
    *,
    known: np.ndarray | Sequence[float] = (),
    false_accepts: float = FALSE_ACCEPTS,
) -> Prototypes:
    """The classes with a threshold for inputs of none of them, and with how often it was wrong.

    The first, third, ... stranger set the threshold: their ``floor((n + 1) * false_accepts)``-th largest
    cosine with the nearest class. The others measure the false accepts.

    Args:
        prototypes: At least one class.
        strangers: Unit embeddings of inputs of no class, such as public images, (N, D), in any order that
            has nothing to do with what they show.
        known: Cosine of inputs of the classes with the nearest: those of `nearest` for inputs that are not
            examples, or of `left_out` for examples. They measure the false rejects.
        false_accepts: Allowed share of inputs of no class that are accepted.

    Raises:
        InferError: The share is not between 0 and 1, or there are too few inputs for it.

    Guarantees:
        An input that is drawn as the strangers were, independently, is accepted with a probability of at most
        ``false_accepts``, over their draw and its own (a rank among n + 1 exchangeable cosines).
    """
    if not 0 < false_accepts < 1:
        raise InferError(f"false_accepts={false_accepts}; allowed is above 0 and below 1.", exit_code=2)
    rows = np.asarray(strangers, dtype=np.float64)
    cosines = (rows @ prototypes.vectors.T.astype(np.float64)).max(axis=1)
    setting, measuring = cosines[::2], cosines[1::2]
    rank = min(int((len(setting) + 1) * false_accepts + 1e-9), len(setting))
    if rank < 1 or not len(measuring):
        least = max(2, 2 * int(np.ceil(1 / false_accepts - 1 - 1e-9)) - 1)
        raise InferError(
            f"{len(cosines)} inputs of no class are too few for false_accepts={false_accepts:g}; at least"
            f" {least} are needed. Give more, or allow more.",
            exit_code=4,
        )
    threshold = float(np.sort(setting)[-rank])
    found = np.asarray(known, dtype=np.float64)
    accepts = (int((measuring > threshold).sum()), len(measuring))
    rejects = (int((found <= threshold).sum()), len(found))
    return prototypes._replace(rejection=Rejection(threshold, accepts, rejects))


def search(gallery: Gallery, embedding: np.ndarray, *, top: int) -> list[tuple[str, float]]:
    """The ``top`` saved embeddings nearest to a unit embedding (D,): names and cosines, the nearest first.

    Raises:
        InferError: ``top`` is below 1.

    Guarantees:
        Of equally near ones that which was saved first comes first.
    """
    if top < 1:
        raise InferError(f"top={top}; allowed is 1 or more.", exit_code=2)
    cosines = gallery.vectors.astype(np.float64) @ embedding.astype(np.float64)
    order = np.argsort(-cosines, kind="stable")[:top]
    return [(gallery.names[at], float(cosines[at])) for at in order]
