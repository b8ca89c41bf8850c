"""Teacher features of a client's own pairs, computed once and kept on the client's disk.

An entry's name is a hash of the teacher and of the images' bytes, so a changed teacher or a changed picture
is never answered from an old one. A damaged entry is computed again.

Shapes: N pairs, D embedding dimension.
"""

import contextlib
import hashlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
from jaxtyping import Float
from safetensors import SafetensorError
from safetensors.numpy import load, save

from edgecmd.core.files import write_bytes_atomically
from edgecmd.data.pairs import Images, Targets, fingerprint
from edgecmd.models.place_features import Maps, Reduction, View, teacher_maps
from edgecmd.models.teachers import Teacher

Features = Float[np.ndarray, "num dim"]


def cached_features(
    teacher: Teacher, images: Targets, *, cache_dir: Path | None, rows_a_call: int = 0
) -> Features:
    """Features of ``images``, from the cache where teacher and images are the same.

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
    calls = f":{rows_a_call}" if rows_a_call else ""
    return kept(
        "features",
        lambda: f"{teacher.sha256}:{fingerprint(images)}{calls}",
        lambda: _embedded(teacher, images, rows_a_call),
        shape=(len(images), teacher.embedding_dim),
        cache_dir=cache_dir,
    )


def cached_maps(
    teacher: Teacher, images: Images, *, view: View, reduction: Reduction, cache_dir: Path | None
) -> Maps:
    """`teacher_maps` from the cache where teacher, images, view and reduction are the same.

    Args:
        teacher: The frozen teacher.
        images: RGB images, uint8, (N, H, W, 3).
        view: Grid and zoom.
        reduction: Of public images.
        cache_dir: Folder on the client; None keeps nothing.

    Guarantees:
        The same numbers, those of float16, whether or not they went through the cache.
    """
    maps = kept(
        "maps",
        lambda: f"{teacher.sha256}:{fingerprint(images, reduction.mean, reduction.weight)}:{view}",
        lambda: teacher_maps(teacher, images, view=view, reduction=reduction).astype(np.float16),
        shape=(len(images), reduction.weight.shape[1], *view.grid),
        cache_dir=cache_dir,
    )
    return np.asarray(maps, dtype=np.float32)


def kept(
    kind: str,
    key: Callable[[], str],
    compute: Callable[[], np.ndarray],
    *,
    shape: tuple[int, ...],
    cache_dir: Path | None,
) -> np.ndarray:
    """What is computed once, from the entry of that key where it is whole.

    Args:
        kind: What it is; begins the entry's name.
        key: All that it follows from, as text.
        compute: Makes it.
        shape: Its shape; an entry of another one is computed again.
        cache_dir: Folder of the entries; None keeps nothing.
    """
    if cache_dir is None:
        return compute()
    path = cache_dir / f"{kind}-{hashlib.sha256(key().encode()).hexdigest()[:32]}.safetensors"
    try:
        found = load(path.read_bytes()).get(kind) if path.is_file() else None
    except SafetensorError:
        found = None
    if found is None or found.shape != shape:
        found = compute()
        # A full disk costs the cache and not the round.
        with contextlib.suppress(OSError):
            write_bytes_atomically(path, save({kind: np.ascontiguousarray(found)}))
    return found


def _embedded(teacher: Teacher, images: Targets, rows_a_call: int) -> Features:
    if not rows_a_call or not len(images):
        return teacher.embed(images)
    missing = -len(images) % rows_a_call
    filled = np.concatenate([images, np.repeat(images[:1], missing, axis=0)])
    return teacher.embed(filled, batch_size=rows_a_call)[: len(images)]
