"""Teacher features of a client's own pairs, computed once and kept on the client's disk.

Shapes: N pairs, D embedding dimension.
"""

import contextlib
import hashlib
from pathlib import Path

import numpy as np
from jaxtyping import Float
from safetensors import SafetensorError
from safetensors.numpy import load, save

from edgecmd.core.files import write_bytes_atomically
from edgecmd.data.pairs import Targets, fingerprint
from edgecmd.models.teachers import Teacher

Features = Float[np.ndarray, "num dim"]


def cached_features(
    teacher: Teacher, images: Targets, *, cache_dir: Path | None, rows_a_call: int = 0
) -> Features:
    """Features of ``images``, from the cache where teacher and images are the same.

    The file's name is a hash of the teacher's file and of the images' bytes, so a changed teacher
    or a changed picture is never answered from an old entry. A damaged entry is computed again.

    Args:
        teacher: The frozen teacher.
        images: What the teacher takes, most often RGB images, uint8, (N, H, W, 3).
        cache_dir: Folder on the client; None keeps nothing.
        rows_a_call: Show the teacher so many images at each call, the last one filled up, so that the
            feature of an image does not depend on how many others there are, not even in its last digit;
            0 for the fastest calls.

    Returns:
        float32, (N, D).
    """
    if cache_dir is None:
        return _embedded(teacher, images, rows_a_call)
    shape = f":{rows_a_call}" if rows_a_call else ""
    key = hashlib.sha256(f"{teacher.sha256}:{fingerprint(images)}{shape}".encode()).hexdigest()[:32]
    path = cache_dir / f"features-{key}.safetensors"
    features = _read(path, shape=(len(images), teacher.embedding_dim))
    if features is None:
        features = _embedded(teacher, images, rows_a_call)
        # A full disk costs the cache and not the round.
        with contextlib.suppress(OSError):
            write_bytes_atomically(path, save({"features": np.ascontiguousarray(features)}))
    return features


def _embedded(teacher: Teacher, images: Targets, rows_a_call: int) -> Features:
    if not rows_a_call or not len(images):
        return teacher.embed(images)
    missing = -len(images) % rows_a_call
    filled = np.concatenate([images, np.repeat(images[:1], missing, axis=0)])
    return teacher.embed(filled, batch_size=rows_a_call)[: len(images)]


def _read(path: Path, *, shape: tuple[int, int]) -> Features | None:
    if not path.is_file():
        return None
    try:
        features = load(path.read_bytes()).get("features")
    except SafetensorError:
        return None
    return features if features is not None and features.shape == shape else None
