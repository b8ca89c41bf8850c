"""Golden values: made-up inputs with the outputs that the model must reproduce on any machine.

Keys of the file: an input (``image``), ``embedding``, with a head ``scores`` or ``mask``, and ``tolerance``.
The name of a profile or of a further input may follow in any order: ``image/resized``,
``scores/int8/resized``. Values without a profile are those of all profiles that have none of their own.

Shapes: N inputs, D embedding dimension, K classes.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from export.profiles.table import computes_in_integers
from export.trust.contents import Card
from export.trust.errors import AGAIN, TrustError
from export.trust.gate import RAW_INPUTS
from export.trust.listing import GOLDEN
from export.trust.npz import NUMBERS, read_npz

# A wrong weight moves a unit embedding by more than this; profiles with whole numbers inside round
# differently on other processors.
MAX_TOLERANCE, MAX_TOLERANCE_INTEGER = 1e-3, 0.05
MIN_COSINE, MIN_COSINE_INTEGER = 0.9999, 0.98
NORM_GAP = 1e-2
# Weights of the head may be stored in 8 bits.
PROTOTYPE_GAP = 0.02
# Of vectors of length 1 and a factor before a softmax: far beyond both.
LARGEST = 1e6
MAX_INPUTS = 64


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Golden:
    """Golden values of one profile and one input array.

    Attributes:
        inputs: As the model takes them, N at least 2.
        outputs: Expected ``embedding`` (N, D) and, with a head, ``scores`` (N, K) or ``mask`` (N, K, H, W).
        tolerance: Largest difference of any number.
    """

    inputs: np.ndarray
    outputs: Mapping[str, np.ndarray]
    tolerance: float


def read_golden(path: Path, cards: Iterable[Card]) -> dict[str, list[Golden]]:
    """Golden values of each model.

    Args:
        path: ``golden.npz``.
        cards: What the models say about themselves.

    Returns:
        By the model's file name.

    Raises:
        TrustError: A key is missing or superfluous, a shape does not fit, or values or a tolerance could not
            tell a right model from a wrong one.
    """
    arrays, used = read_npz(path), set[str]()
    found = {card.file: _of_model(arrays, card, used) for card in cards}
    superfluous = sorted(set(arrays) - used)
    if superfluous:
        raise TrustError(
            f"{GOLDEN} has the array {superfluous[0][:80]!r}, which belongs to no model. {AGAIN}"
        )
    return found


def _of_model(arrays: Mapping[str, np.ndarray], card: Card, used: set[str]) -> list[Golden]:
    variants = {key: rest for key in arrays for base, rest in [_parts(key)] if base in RAW_INPUTS}
    if not variants:
        raise TrustError(f"{GOLDEN} has none of the inputs {sorted(RAW_INPUTS)}. {AGAIN}")
    values = []
    for key, variant in sorted(variants.items()):
        outputs = {}
        for name in card.outputs:
            place = _find(arrays, name, card.profile, variant)
            used.add(place)
            outputs[name] = arrays[place]
        place = _find(arrays, "tolerance", card.profile, variant)
        used.update((key, place))
        tolerance = arrays[place]
        if tolerance.shape != () or tolerance.dtype.kind != "f":
            raise TrustError(
                f"{GOLDEN}: {place} has shape {tolerance.shape} and dtype={tolerance.dtype}; allowed is one"
                f" number, with a point. {AGAIN}"
            )
        golden = Golden(inputs=arrays[key], outputs=outputs, tolerance=float(tolerance))
        refuse_weak(golden, card, key=key)
        values.append(golden)
    return values


def _find(arrays: Mapping[str, np.ndarray], name: str, profile: str, variant: frozenset[str]) -> str:
    """The key for this profile and input, else the one for all profiles, else (tolerance) for all inputs."""
    wanted = [variant | {profile}, variant]
    if name == "tolerance":
        wanted += [frozenset({profile}), frozenset()]
    for parts in wanted:
        for key in arrays:
            if _parts(key) == (name, parts):
                return key
    raise TrustError(f"{GOLDEN} has no {name} for profile {profile!r} and input {sorted(variant)}. {AGAIN}")


def _parts(key: str) -> tuple[str, frozenset[str]]:
    """What an array is, and the names of its input and its profile that follow."""
    base, *rest = key.split("/")
    return base, frozenset(rest)


def refuse_weak(golden: Golden, card: Card, *, key: str) -> None:
    """Refuse values that a wrong model would reproduce as well, and shapes that are not the model's.

    Args:
        golden: As they were read.
        card: What the model says about itself.
        key: What messages call the inputs.

    Raises:
        TrustError: The message names what is wrong and what is allowed.
    """
    num = len(golden.inputs) if golden.inputs.ndim else 0
    if golden.inputs.dtype != card.input_dtype or golden.inputs.ndim != card.input_rank:
        raise TrustError(
            f"{GOLDEN}: {key} has dtype={golden.inputs.dtype} and {golden.inputs.ndim} dimensions, but"
            f" {card.file} takes {card.input_dtype} of {card.input_rank} dimensions. {AGAIN}"
        )
    if not 2 <= num <= MAX_INPUTS:
        raise TrustError(f"{GOLDEN}: {key} has {num} inputs; allowed are 2 to {MAX_INPUTS}. {AGAIN}")
    if 0 in golden.inputs.shape:
        raise TrustError(
            f"{GOLDEN}: {key} has shape={golden.inputs.shape}; allowed are sizes of 1 and more. {AGAIN}"
        )
    for name, values in golden.outputs.items():
        size = golden.inputs.shape[1:3] if name == "mask" else ()
        shape = (num, card.widths[name], *size)
        if values.shape != shape or values.dtype.kind != "f" or not np.isfinite(values).all():
            raise TrustError(
                f"{GOLDEN}: {name} has dtype={values.dtype} and shape={values.shape}; allowed are"
                f" {shape} finite numbers. {AGAIN}"
            )
    limit = MAX_TOLERANCE_INTEGER if computes_in_integers(card.profile) else MAX_TOLERANCE
    if not 0 < golden.tolerance <= limit:
        raise TrustError(
            f"{GOLDEN}: tolerance={golden.tolerance:g} for {card.file}; allowed are above 0 to {limit:g}:"
            f" with a larger tolerance a wrong model would pass. {AGAIN}"
        )
    embedding = golden.outputs["embedding"].astype(np.float64)
    if np.abs(np.linalg.norm(embedding, axis=1) - 1).max() > NORM_GAP:
        raise TrustError(f"{GOLDEN}: embedding has rows that are not of length 1. {AGAIN}")
    if np.abs(embedding - embedding[:1]).max() <= golden.tolerance:
        raise TrustError(f"{GOLDEN}: all embeddings are equal, so any model would pass. {AGAIN}")


def refuse_other_prototypes(path: Path, card: Card, golden: Iterable[Golden]) -> None:
    """Classes by example must give the expected scores: softmax(scale * embedding @ vectors.T).

    Args:
        path: ``prototypes.npz``: ``names`` (K), ``vectors`` (K, D), ``scale``.
        card: Of the model.
        golden: Its golden values.

    Raises:
        TrustError: The model has no scores, or names, shapes or scores differ; the message says which.
    """
    if not card.classes or card.second != "scores":
        raise TrustError(
            f"{path.name} is there, but {card.file} gives {', '.join(card.outputs)}; allowed is the file"
            f" beside a model that gives scores. {AGAIN}"
        )
    arrays = read_npz(path, kinds=NUMBERS + "U")
    names, vectors, scale = (arrays.get(key, np.empty(0)) for key in ("names", "vectors", "scale"))
    if names.dtype.kind != "U" or tuple(map(str, names.ravel())) != card.classes:
        raise TrustError(
            f"{path.name} has other names than {card.file}, which has {list(card.classes)!r:.200}. {AGAIN}"
        )
    shape = (len(card.classes), card.embedding_dim)
    if vectors.shape != shape or vectors.dtype.kind != "f" or scale.shape != () or scale.dtype.kind != "f":
        raise TrustError(f"{path.name} has no vectors of shape {shape} and one scale. {AGAIN}")
    if not (np.abs(vectors) <= LARGEST).all() or not abs(float(scale)) <= LARGEST:
        raise TrustError(f"{path.name} has numbers beyond {LARGEST:g}; allowed are smaller ones. {AGAIN}")
    for one in golden:
        logits = float(scale) * one.outputs["embedding"].astype(np.float64) @ vectors.T.astype(np.float64)
        weights = np.exp(logits - logits.max(axis=1, keepdims=True))
        gap = np.abs(weights / weights.sum(axis=1, keepdims=True) - one.outputs["scores"]).max()
        if not gap <= PROTOTYPE_GAP:
            raise TrustError(
                f"{path.name} gives scores that differ by {gap:.3g} from those of {card.file}; allowed are"
                f" {PROTOTYPE_GAP:g}. {AGAIN}"
            )


def compare(card: Card, golden: Golden, found: Mapping[str, np.ndarray]) -> float:
    """Largest difference between expected and found outputs.

    Raises:
        TrustError: It exceeds the tolerance, or the cosine or a shape is wrong; the message names the figure.
    """
    largest = 0.0
    for name, expected in golden.outputs.items():
        output = found[name]
        if output.shape != expected.shape or not np.isfinite(output).all():
            raise TrustError(
                f"{card.file} gives {name} of shape {output.shape}; expected are {expected.shape} finite"
                f" numbers. {AGAIN}"
            )
        gap = float(np.abs(output.astype(np.float64) - expected).max())
        if not gap <= golden.tolerance:
            raise TrustError(
                f"{card.file} does not reproduce {GOLDEN}: {name} differs by {gap:.3g}; allowed are"
                f" {golden.tolerance:g}. The model or the golden values were changed. {AGAIN}"
            )
        largest = max(largest, gap)
    left, right = golden.outputs["embedding"].astype(np.float64), found["embedding"].astype(np.float64)
    lengths = np.linalg.norm(left, axis=1) * np.linalg.norm(right, axis=1)
    cosine = float(((left * right).sum(axis=1) / np.maximum(lengths, np.finfo(np.float64).tiny)).min())
    limit = MIN_COSINE_INTEGER if computes_in_integers(card.profile) else MIN_COSINE
    if cosine < limit:
        raise TrustError(
            f"{card.file} does not reproduce {GOLDEN}: smallest cosine {cosine:.5f}; allowed are {limit} and"
            f" more. {AGAIN}"
        )
    return largest
