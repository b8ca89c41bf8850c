"""Images of what a student finds: the nearest ones for the report, and a sheet of masks."""

import io
from functools import partial
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int

from edgecmd.data.experiment import HeldOut
from edgecmd.run import Run

NUM_QUERIES = 12
NUM_FOUND = 5
Rows = Float[np.ndarray, "_ dim"]


def write_gallery(run: Run, folder: Path) -> None:
    """Write ``retrieval.npz``: queries drawn by the run's seed from the strict test split.

    Queries are drawn without looking at the result, so the gallery shows failures as often as they are.
    Copies of an image are one thing, shown and ranked once. Where pairs are matched by class, the first
    image of the right class counts as found.
    """
    from edgecmd.core.artefacts import write_artefact
    from edgecmd.core.seeding import numpy_generator
    from edgecmd.data.modalities.table import as_pictures, as_words
    from edgecmd.data.user_files.images import to_rgb
    from edgecmd.evaluation.evaluate import CLASS_PAIRED, embedder
    from edgecmd.evaluation.metrics import things, unit_rows
    from edgecmd.models.student_file import load_student

    task = run.task
    whole = task.data
    held = whole.test_strict
    pairs = held.pairs
    student = load_student(folder / "student.safetensors", like=run.student.architecture)
    teacher = task.gallery_features("test_strict")
    embedded = embedder(student, task)(pairs.target)
    codes = things(teacher, shown=held.shown)
    chosen = np.sort(numpy_generator(run.seed, "gallery").permutation(len(pairs))[:NUM_QUERIES])
    nearest = np.stack([_nearest_things(one, codes) for one in embedded[chosen] @ unit_rows(teacher).T])
    truth = to_rgb(as_pictures(pairs.source[chosen]))
    among = pairs.source if held.gallery is None else held.gallery.source
    found = to_rgb(as_pictures(among[nearest.ravel()]))
    rank = _ranks(held, embedded, teacher, chosen, by_class=whole.kind == CLASS_PAIRED)
    buffer = io.BytesIO()
    words = as_words(pairs.target[chosen])
    arrays = {
        "query": as_pictures(pairs.target[chosen]),
        "truth": truth,
        "found": found.reshape(*nearest.shape, *truth.shape[1:]),
        "rank": rank,
        **({"words": np.array(words)} if words else {}),
    }
    np.savez_compressed(buffer, allow_pickle=False, **arrays)
    write_artefact(folder, "retrieval.npz", buffer.getvalue(), may_leave=False)


def require_masks(run: Run) -> None:
    """Refuse a run that has no masks to draw.

    Raises:
        ConfigError: The student finds none.
        DataError: The data set has none.
    """
    from edgecmd.core.errors import ConfigError
    from edgecmd.evaluation.segmentation import masks_of

    if run.task.places is None:
        raise ConfigError(
            f"--sheet draws masks, but student.architecture={run.student.architecture!r} predicts none."
            " Leave it out, or distil a seg-* student."
        )
    masks_of(run)


def write_mask_sheet(run: Run, folder: Path, path: Path) -> None:
    """Write a PNG of some test images, their masks, and those that the run's student finds.

    The student is fine-tuned for it on all masks of the pool, as it is for export.

    Raises:
        DataError: The data set has no masks.
    """
    from edgecmd.data.show import mask_sheet
    from edgecmd.evaluation.segmentation import masks_found
    from edgecmd.models.student_file import load_student

    student = load_student(folder / "student.safetensors", like=run.student.architecture)
    title = f"{run.task.name}: {run.student.architecture}"
    mask_sheet(run.task.data.test, partial(masks_found, student, run), path, title=title, seed=run.seed)


def _ranks(
    held: HeldOut, embedded: Rows, teacher: Rows, chosen: Int[np.ndarray, " chosen"], *, by_class: bool
) -> Int[np.ndarray, " chosen"]:
    """Rank of the first right thing of each chosen query, from 1.

    Args:
        held: The queries' part.
        embedded: Unit embeddings of its targets, (N, D).
        teacher: Features of what is found, (M, D).
        chosen: Rows of the queries.
        by_class: Whether any image of the right class counts.
    """
    from edgecmd.evaluation.metrics import first_ranks, ranks_of, right_sources, things, unit_rows

    if held.right is not None:
        return first_ranks(embedded[chosen], teacher, held.right[chosen])
    similarity, codes = embedded[chosen] @ unit_rows(teacher).T, things(teacher, shown=held.shown)
    if not by_class:
        return ranks_of(similarity, codes, own=codes[chosen])
    right = right_sources(held.labelled.labels["group"].values, codes)[chosen]
    own = np.where(right, similarity, -np.inf).max(axis=1)
    rows = zip(similarity, right, own, strict=True)
    return np.array([1 + len(np.unique(codes[~ok & (row >= at)])) for row, ok, at in rows])


def _nearest_things(similarity: np.ndarray, codes: np.ndarray) -> np.ndarray:
    """Rows of the nearest things, nearest first: of each thing its nearest image."""
    order = np.argsort(-similarity, kind="stable")
    first = np.sort(np.unique(codes[order], return_index=True)[1])
    return np.asarray(order[first[:NUM_FOUND]])
