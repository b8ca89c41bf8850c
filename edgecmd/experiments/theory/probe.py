"""Student embeddings of held-out pairs for a distance before any training: a trained file or a probe.

Shapes: N pairs, D embedding dimension.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from sklearn.linear_model import RidgeCV
from torch import Tensor, nn

from edgecmd.core.errors import choose
from edgecmd.core.seeding import numpy_generator
from edgecmd.data.experiment import HeldOut
from edgecmd.data.pairs import PairedData
from edgecmd.evaluation.evaluate import embedder
from edgecmd.evaluation.metrics import unit_rows
from edgecmd.models.student_file import load_student
from edgecmd.models.students import refuse_dense
from edgecmd.run import Run

MAX_FIT_PAIRS = 2000
RIDGE = tuple(10.0**power for power in range(-4, 3))


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Pairs:
    """Embeddings of the same held-out pairs.

    Attributes:
        student: Of the targets, (N, D).
        teacher: Of the sources, (N, D).
        text: What stood for the student, a sentence.
    """

    student: Float[Tensor, "num dim"]
    teacher: Float[Tensor, "num dim"]
    text: str


def held_out_pairs(run: Run, *, part: str, num_pairs: int = 0) -> tuple[PairedData, tuple[str, ...]]:
    """Pairs of a held-out part and their ids, or a random ``num_pairs`` of them.

    Raises:
        ConfigError: There is no such part.
    """
    whole = run.task.data
    held: HeldOut = choose("--part", part, {"validation": whole.validation, "test": whole.test})
    rows = np.arange(len(held))
    if 0 < num_pairs < len(held):
        rows = np.sort(numpy_generator(run.seed, "distance-pairs").permutation(len(held))[:num_pairs])
    return held.pairs.take(rows), tuple(held.ids[row] for row in rows) if held.ids else ()


def embed_pairs(run: Run, *, student: Path | None, probe: str, part: str, num_pairs: int) -> Pairs:
    """Both embeddings of held-out pairs.

    Args:
        run: The run.
        student: A trained student's file; None for the probe.
        probe: A key of `PROBES`.
        part: ``validation`` or ``test``.
        num_pairs: How many; 0 for all.

    Raises:
        ConfigError: A name is unknown.
        DataError: The file is not a student.
    """
    refuse_dense(run.student.architecture, what="The distance")
    pairs, ids = held_out_pairs(run, part=part, num_pairs=num_pairs)
    if student is not None:
        embedding, text = (
            embedder(load_student(student, like=run.student.architecture), run.task)(pairs.target),
            f"the student of {student.name}",
        )
    else:
        embedding, text = choose("--probe", probe, PROBES)(run, pairs)
    return Pairs(
        student=torch.from_numpy(np.ascontiguousarray(embedding)),
        teacher=run.task.pair_features(pairs, ids).cpu(),
        text=text,
    )


def untrained(run: Run, pairs: PairedData) -> tuple[np.ndarray, str]:
    """Embeddings of the student's first weights, random or those of ``student.path``."""
    text = "the student's first weights" + (f" ({run.student.path})" if run.student.path else "")
    return embedder(run.new_student(), run.task)(pairs.target), text


def linear(run: Run, pairs: PairedData) -> tuple[np.ndarray, str]:
    """A linear map from the first weights' pooled features to the teacher's features.

    Ridge regression in closed form on training pairs, its strength by leave-one-out. It serves every
    modality, because the student's own first layers see the target; no gradient step is made.
    """
    whole, student = run.task.data, run.new_student()
    student.projector = nn.Identity()
    features = embedder(student, run.task)
    rows = np.arange(len(whole.train))
    if len(rows) > MAX_FIT_PAIRS:
        rows = np.sort(numpy_generator(run.seed, "probe-pairs").permutation(len(rows))[:MAX_FIT_PAIRS])
    ids = tuple(whole.train_ids[row] for row in rows) if whole.train_ids else ()
    train = whole.train.take(rows)
    goal = unit_rows(run.task.pair_features(train, ids).cpu().numpy())
    model = RidgeCV(alphas=RIDGE).fit(features(train.target).astype(np.float64), goal)
    predicted = np.asarray(model.predict(features(pairs.target).astype(np.float64)), dtype=np.float32)
    return predicted, f"a linear probe on features of the first weights, fitted on {len(rows)} training pairs"


PROBES = {"linear": linear, "untrained": untrained}
