"""Teacher features of a client's own pairs, computed once and kept on the client's disk.

An entry's name is a hash of the teacher and of the images' bytes, so a changed teacher or a changed image
is never answered from an old one. A damaged entry is computed again.

Features of images that are in a store (`edgecmd.data.stored.store`) are beside them, a row an image, whatever
part of the set is asked for. They are computed a few at a time, so a killed process goes on where it was.
Where pairs in memory share their images (several names of one), each image is looked at once.

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
from edgecmd.data.stored.array_files import CHUNK, ArrayFile, Examples, LazyRows, all_rows
from edgecmd.data.stored.kept_rows import beside
from edgecmd.data.stored.store import Form
from edgecmd.models.teacher.place_features import Reduction, View, teacher_maps
from edgecmd.models.teacher.teachers import Teacher

Features = Float[Examples, "num dim"]


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
        float32, (N, D); on the disk where the images are.
    """
    calls = f":{rows_a_call}" if rows_a_call else ""
    return _of_images(
        "features",
        images,
        f"{teacher.sha256}{{images}}{calls}",
        lambda part: _embedded(teacher, part, rows_a_call),
        form=Form(shape=(teacher.embedding_dim,), dtype=np.dtype(np.float32)),
        cache_dir=cache_dir,
    )


def cached_maps(
    teacher: Teacher, images: Images, *, view: View, reduction: Reduction, cache_dir: Path | None
) -> Examples:
    """`teacher_maps` from the cache where teacher, images, view and reduction are the same.

    Args:
        teacher: The frozen teacher.
        images: RGB images, uint8, (N, H, W, 3).
        view: Grid and zoom.
        reduction: Of public images.
        cache_dir: Folder on the client; None keeps nothing.

    Returns:
        (N, D, R, Q): float32, or where the images are on the disk there, as float16.

    Guarantees:
        The same numbers, those of float16, whether or not they went through the cache.
    """
    maps = _of_images(
        "maps",
        images,
        f"{teacher.sha256}{{images}}:{fingerprint(reduction.mean, reduction.weight)}:{view}",
        lambda part: teacher_maps(teacher, part, view=view, reduction=reduction).astype(np.float16),
        form=Form(shape=(reduction.weight.shape[1], *view.grid), dtype=np.dtype(np.float16)),
        cache_dir=cache_dir,
    )
    return maps if isinstance(maps, LazyRows) else maps.astype(np.float32)


def _of_images(
    kind: str,
    images: Targets,
    key: str,
    compute: Callable[[Targets], np.ndarray],
    *,
    form: Form,
    cache_dir: Path | None,
) -> Examples:
    """What ``compute`` makes of images, a row an image: beside them where they are a store's, else `kept`.

    Args:
        kind: What it is.
        images: What it is computed of.
        key: All else that it follows from, as text, with ``{images}`` where their digest is.
        compute: Makes it of some images.
        form: Of a row.
        cache_dir: Folder of the entries; None keeps nothing.
    """
    if isinstance(images, LazyRows):
        ((base, _, rows), *others) = images.parts()
        if isinstance(base, np.ndarray) and not others:
            # Of images that many pairs share, the teacher looks at each once.
            once = _of_images(kind, base, key, compute, form=form, cache_dir=cache_dir)
            return all_rows(once).take(rows)
    if cache_dir is not None and isinstance(images, LazyRows):
        if isinstance(base, ArrayFile) and not others:
            told, name = "teacher features", f"{kind}-{_digest(key)}"
            found = beside(base, rows, name, compute, form=form, num=CHUNK, told=told)
            if found is not None:
                return found
        return compute(images)
    return kept(
        kind,
        lambda: key.format(images=f":{fingerprint(images)}"),
        lambda: compute(images),
        shape=(len(images), *form.shape),
        cache_dir=cache_dir,
    )


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
    path = cache_dir / f"{kind}-{_digest(key())}.safetensors"
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


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def _embedded(teacher: Teacher, images: Targets, rows_a_call: int) -> np.ndarray:
    if not rows_a_call or not len(images):
        return teacher.embed(images)
    missing = -len(images) % rows_a_call
    filled = np.concatenate([np.asarray(images), np.repeat(images[:1], missing, axis=0)])
    return teacher.embed(filled, batch_size=rows_a_call)[: len(images)]
