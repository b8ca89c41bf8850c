"""Pictures for the report: drawings, their own pictures and the nearest ones found."""

import io
from pathlib import Path

import numpy as np

from edgecmd.config import RunConfig

NUM_QUERIES = 12
NUM_FOUND = 5


def write_gallery(config: RunConfig, folder: Path) -> None:
    """Write ``retrieval.npz``: queries drawn by the run's seed from the strict test split.

    Queries are drawn without looking at the result, so the gallery shows failures as often as they are.
    Where pairs are matched by class, the first picture of the right class counts as found.
    """
    from edgecmd.artefacts import write_artefact
    from edgecmd.assess import CLASS_PAIRED, embedder, teacher_embedding
    from edgecmd.data.clients import experiment
    from edgecmd.data.images import to_rgb
    from edgecmd.data.look import as_pictures
    from edgecmd.evaluate import unit_rows
    from edgecmd.runs import load_student
    from edgecmd.seeding import numpy_generator

    whole = experiment(config.data)
    held = whole.test_strict
    pairs = held.pairs
    student = load_student(folder / "student.safetensors")
    similarity = (
        embedder(student, config)(pairs.target) @ unit_rows(teacher_embedding(config, "test_strict")).T
    )
    chosen = np.sort(numpy_generator(config.seed, "gallery").permutation(len(pairs))[:NUM_QUERIES])
    nearest = np.argsort(-similarity[chosen], axis=1, kind="stable")[:, :NUM_FOUND]
    truth = to_rgb(as_pictures(pairs.source[chosen]))
    own = similarity[chosen, chosen]
    if whole.kind == CLASS_PAIRED:
        classes = held.labelled.labels["group"].values
        own = np.where(classes[chosen][:, None] == classes, similarity[chosen], -np.inf).max(axis=1)
    buffer = io.BytesIO()
    np.savez_compressed(
        buffer,
        query=as_pictures(pairs.target[chosen]),
        truth=truth,
        found=to_rgb(as_pictures(pairs.source[nearest.ravel()])).reshape(*nearest.shape, *truth.shape[1:]),
        rank=(similarity[chosen] >= own[:, None]).sum(axis=1),
    )
    write_artefact(folder, "retrieval.npz", buffer.getvalue(), may_leave=False)
