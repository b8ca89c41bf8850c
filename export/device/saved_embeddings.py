"""Files that a device keeps: classes by example, and a gallery of embeddings; numpy's own .npz.

It becomes a part of the bundle's one infer.py (`export.device.assemble`), so it imports nothing of edgecmd
but what becomes a part of it too.

Shapes: K classes, D embedding dimension, N saved embeddings.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from edgecmd.data.user_files.decode import DecodeError, npz_arrays, reason_of
from export.device.classes import Gallery, Prototypes, Rejection
from export.device.reading import InferError, out_of_memory

CLASSES_FORMAT, GALLERY_FORMAT = "edgecmd.classes 1", "edgecmd.gallery 1"
MAX_NPZ_BYTES = 2**28
# Rows of length 1 in float32, from another machine too.
UNIT_GAP = 1e-3
DIGEST_LETTERS, SHOWN_LETTERS = 64, 12


def digest_of(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    whole = hashlib.sha256()
    with path.open("rb") as stream:
        for part in iter(lambda: stream.read(2**20), b""):
            whole.update(part)
    return whole.hexdigest()


def write_beside(path: Path, data: bytes, *, hint: str) -> None:
    """Write a file beside its place and rename it, so that a full disk leaves the old one or none.

    Raises:
        InferError: It cannot be written; nothing is left behind.
    """
    beside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with beside.open("wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        beside.replace(path)
    except (OSError, ValueError) as error:
        with contextlib.suppress(OSError, ValueError):
            beside.unlink()
        raise InferError(f"{path} cannot be written: {reason_of(error)}. {hint}", exit_code=4) from error


def save_prototypes(path: Path, prototypes: Prototypes, *, model: str) -> None:
    """Save classes by example.

    Args:
        path: An .npz; the readers of older bundles read it too.
        prototypes: At least one.
        model: `digest_of` the .onnx file that embedded the examples.

    Raises:
        InferError: There is no class, or the file cannot be written; nothing is left behind.
    """
    if not prototypes.names:
        raise InferError("There is no class to save. Give examples of one.", exit_code=2)
    arrays: dict[str, Any] = {
        "format": np.array(CLASSES_FORMAT),
        "model": np.array(model),
        "names": np.array(prototypes.names),
        "vectors": prototypes.vectors.astype(np.float32),
        "scale": np.float64(prototypes.scale),
    }
    if prototypes.lengths is not None:
        arrays["lengths"] = np.asarray(prototypes.lengths, dtype=np.float64)
        arrays["counts"] = np.array(prototypes.counts, dtype=np.int64)
    if prototypes.rejection is not None:
        arrays["threshold"] = np.float64(prototypes.rejection.threshold)
        pairs = (prototypes.rejection.false_accepts, prototypes.rejection.false_rejects)
        arrays["errors"] = np.array(pairs, dtype=np.int64)
    write_beside(path, _npz(arrays), hint="Give --save-prototypes a file in a folder with room.")


def save_gallery(path: Path, gallery: Gallery, *, model: str) -> None:
    """Save embeddings to search; ``model`` is `digest_of` the .onnx file that made them.

    Raises:
        InferError: There is none, or the file cannot be written; nothing is left behind.
    """
    if not gallery.names:
        raise InferError("There is no embedding to save. Give pictures that can be read.", exit_code=4)
    arrays = {
        "format": np.array(GALLERY_FORMAT),
        "model": np.array(model),
        "names": np.array(gallery.names),
        "vectors": gallery.vectors.astype(np.float32),
    }
    write_beside(path, _npz(arrays), hint="Give --save-gallery a file in a folder with room.")


def _npz(arrays: Mapping[str, Any]) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    return buffer.getvalue()


def load_prototypes(path: Path, *, dim: int, model: str) -> Prototypes:
    """Classes by example of a file, which may hold anything.

    Args:
        path: Saved by `save_prototypes`, or a bundle's prototypes.npz.
        dim: Numbers of the student's embedding.
        model: `digest_of` the student's file. A file without a digest, as in bundles, is taken as it is.

    Raises:
        InferError: It is damaged, of another format, another dimension or another model; the message says
            which, and what to do.
    """
    found = _arrays(path, what="no prototypes.npz and no folder of pictures")
    try:
        _refuse_format(found, CLASSES_FORMAT)
        classes = _checked_prototypes(found)
        if "format" in found:
            _refuse_rows(classes.names, classes.vectors)
            _refuse_model(path, found, model)
    except DecodeError as error:
        raise _refused(error, path, "no prototypes.npz and no folder of pictures") from error
    _refuse_dim(path, classes.vectors, dim)
    return classes


def load_gallery(path: Path, *, dim: int, model: str) -> Gallery:
    """Embeddings of a file, which may hold anything; the arguments are those of `load_prototypes`.

    Raises:
        InferError: It is damaged, of another format, another dimension or another model.
    """
    found = _arrays(path, what="no gallery")
    try:
        _refuse_format(found, GALLERY_FORMAT)
        _lacking(found, "format", "model", "names", "vectors")
        names, vectors = found["names"], found["vectors"]
        _refuse_shapes(names, vectors)
        _refuse_rows(names, vectors)
        _refuse_model(path, found, model)
    except DecodeError as error:
        raise _refused(error, path, "no gallery") from error
    _refuse_dim(path, vectors, dim)
    return Gallery(tuple(names.tolist()), vectors)


def _arrays(path: Path, *, what: str) -> dict[str, np.ndarray]:
    try:
        return npz_arrays(path, most_bytes=MAX_NPZ_BYTES)
    except MemoryError as error:
        raise out_of_memory(path) from error
    except DecodeError as error:
        raise _refused(error, path, what) from error


def _refused(error: DecodeError, path: Path, what: str) -> InferError:
    return error if isinstance(error, InferError) else InferError(f"{path} is {what}: {error}", exit_code=4)


def _lacking(found: Mapping[str, np.ndarray], *names: str) -> None:
    lacking = [name for name in names if name not in found]
    if lacking:
        raise DecodeError(f"it lacks {', '.join(lacking)}")


def _refuse_format(found: Mapping[str, np.ndarray], expected: str) -> None:
    """Refuse a file that says that it is of another format; a bundle's prototypes.npz says nothing."""
    if "format" in found and _text(found["format"]) != expected:
        raise DecodeError(f"its format is {_text(found['format'])!r:.60}, and {expected!r} is read")


def _text(array: np.ndarray) -> str:
    return str(array.item()) if array.size == 1 and array.dtype.kind == "U" else ""


def _refuse_model(path: Path, found: Mapping[str, np.ndarray], model: str) -> None:
    """Refuse embeddings of another model: their cosines with this one's mean nothing."""
    _lacking(found, "model")
    given = _text(found["model"])
    if len(given) != DIGEST_LETTERS or set(given) - set("0123456789abcdef"):
        raise DecodeError("its model is no SHA-256")
    if given != model:
        raise InferError(
            f"{path} was made with another model (SHA-256 {given[:SHOWN_LETTERS]}..., this is"
            f" {model[:SHOWN_LETTERS]}...): cosines between two models mean nothing. Use that file, or"
            " make it again from the pictures with this one.",
            exit_code=4,
        )


def _refuse_dim(path: Path, vectors: np.ndarray, dim: int) -> None:
    if vectors.shape[1] != dim:
        raise InferError(
            f"{path} has embeddings of {vectors.shape[1]} numbers, so it is of another model; allowed is"
            f" (K, {dim}).",
            exit_code=4,
        )


def _refuse_shapes(names: np.ndarray, vectors: np.ndarray) -> None:
    fits = names.ndim == 1 and names.dtype.kind == "U" and len(names)
    if not fits or vectors.ndim != 2 or len(vectors) != len(names) or vectors.dtype.kind != "f":
        raise DecodeError(f"its names have shape {names.shape} of {names.dtype}, its vectors {vectors.shape}")
    if not np.isfinite(vectors).all():
        raise DecodeError("its vectors have numbers that are not finite")


def _refuse_rows(names: Any, vectors: np.ndarray) -> None:  # noqa: ANN401 - names of a tuple or an array
    """Refuse what this program does not write: rows of another length than 1, and empty names."""
    if np.abs(np.linalg.norm(vectors.astype(np.float64), axis=1) - 1).max() > UNIT_GAP:
        raise DecodeError("its vectors are not of length 1")
    if not all(names):
        raise DecodeError("it has an empty name")


def _checked_prototypes(found: Mapping[str, np.ndarray]) -> Prototypes:
    """Prototypes out of the arrays of a file, which may hold anything."""
    _lacking(found, "names", "vectors", "scale")
    names, vectors, scale = found["names"], found["vectors"], found["scale"]
    _refuse_shapes(names, vectors)
    if scale.size != 1 or scale.dtype.kind not in "iuf" or not 0 < float(scale.reshape(-1)[0]) < float("inf"):
        raise DecodeError("its scale is no number above 0")
    told = tuple(names.tolist())
    if len(set(told)) < len(told):
        raise DecodeError("two of its classes have one name")
    lengths, counts = _checked_counts(found, len(told))
    factor = float(scale.reshape(-1)[0])
    return Prototypes(told, vectors, factor, lengths, counts, _checked_rejection(found))


def _checked_counts(found: Mapping[str, np.ndarray], num: int) -> tuple[np.ndarray | None, tuple[int, ...]]:
    """Lengths of the means and numbers of examples, or neither."""
    if "lengths" not in found and "counts" not in found:
        return None, ()
    _lacking(found, "lengths", "counts")
    lengths, counts = found["lengths"], found["counts"]
    fits = lengths.shape == counts.shape == (num,) and lengths.dtype.kind == "f" and counts.dtype.kind == "i"
    if not fits or not (counts >= 1).all() or not ((lengths > 0) & (lengths <= 1 + UNIT_GAP)).all():
        raise DecodeError("its counts are no whole numbers above 0 with lengths from 0 to 1, one a class")
    return lengths, tuple(counts.tolist())


def _checked_rejection(found: Mapping[str, np.ndarray]) -> Rejection | None:
    if "threshold" not in found and "errors" not in found:
        return None
    _lacking(found, "threshold", "errors")
    threshold, errors = found["threshold"], found["errors"]
    if threshold.shape != () or threshold.dtype.kind != "f" or not abs(float(threshold)) <= 1 + UNIT_GAP:
        raise DecodeError("its threshold is no cosine")
    fits = errors.shape == (2, 2) and errors.dtype.kind == "i"
    if not fits or (errors < 0).any() or (errors[:, 0] > errors[:, 1]).any() or errors[0, 1] < 1:
        raise DecodeError("its errors are no counts of false accepts and rejects")
    accepts, rejects = (tuple(row) for row in errors.tolist())
    return Rejection(float(threshold), accepts, rejects)
