"""Shadow students: what scores a pair has under students that did, and did not, train on it.

Each is trained in one place, without privacy, on a random half of the pool, with the student and loss of
the attacked run and a short recipe. Their scores are kept, so that another audit does not train again.

Shapes: N pairs, S shadow students, G groups.
"""

import hashlib
import io
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float, Int

from edgecmd.audits.risk.candidates import Pool, make_pool, pair_scores
from edgecmd.audits.risk.membership import Shadows
from edgecmd.core.errors import ConfigError
from edgecmd.core.files import write_bytes_atomically
from edgecmd.core.kept import Kept
from edgecmd.core.processes import mapped
from edgecmd.core.progress import Tick
from edgecmd.core.seeding import numpy_generator, torch_generator
from edgecmd.data.modalities.table import input_shape
from edgecmd.data.stored.array_files import chosen
from edgecmd.data.user_files.decode import DecodeError, npy_array
from edgecmd.data.user_files.reading import most_array_bytes
from edgecmd.evaluation.evaluate import embedder
from edgecmd.losses import loss_of
from edgecmd.models.devices import place
from edgecmd.models.student_file import load_student
from edgecmd.models.students import Student
from edgecmd.run import Run
from edgecmd.settings import DistillConfig
from edgecmd.training.distill import LocalData, Place, distil, make_optimizer


@dataclass(frozen=True, kw_only=True, slots=True)
class ShadowRecipe:
    """How shadow students are trained.

    Attributes:
        num_shadows: Students; at least 2, even, so that each pair is left out by half of them.
        num_steps: Optimiser steps of each.
        batch_size: Pairs per step.
        seed: Of coins, first weights and batches.
    """

    num_shadows: int = 8
    num_steps: int = 160
    batch_size: int = 256
    seed: int = 0

    def __post_init__(self) -> None:
        if self.num_shadows < 4 or self.num_shadows % 2:
            raise ConfigError(
                f"--shadows={self.num_shadows} must be an even number of at least 4: each pair is left out"
                " by half of the shadow students, and a single score has no spread."
            )


def left_out(group: Int[np.ndarray, " num"], recipe: ShadowRecipe) -> Bool[np.ndarray, "shadows num"]:
    """Which pairs each shadow student does not see: every group is left out by exactly half of them.

    Args:
        group: Group of each pair, (N,).
        recipe: Number of students and seed.
    """
    generator = numpy_generator(recipe.seed, "shadow-coins")
    order_GS = generator.permuted(np.tile(np.arange(recipe.num_shadows), (int(group.max()) + 1, 1)), axis=1)
    return np.asarray((order_GS < recipe.num_shadows // 2)[group].T)


def train_shadow(run: Run, pool: Pool, recipe: ShadowRecipe, *, index: int) -> Student:
    """Shadow student ``index``, trained on the half of ``pool`` that it sees.

    Args:
        run: Settings of the attacked run: student, loss, temperatures, augmentation, warm start.
        pool: Pairs.
        recipe: Steps, batch and seed.
        index: Which student; all of its randomness follows from this and the recipe's seed.
    """
    rows = np.flatnonzero(~left_out(pool.group, recipe)[index])
    device = run.device
    target = run.task.inputs(chosen(pool.target, rows))
    data = LocalData(target=target, teacher=torch.from_numpy(pool.teacher[rows]).to(device))
    # The run's public warm start, random where its file is not there.
    student = warm_start_of(run) or random_student(run, pool, seed=recipe.seed, index=index)
    distill = shadow_settings(run.distill, recipe)
    distil(
        student,
        data,
        torch.from_numpy(pool.anchors).to(device),
        distill,
        loss=loss_of(distill),
        num_steps=recipe.num_steps,
        place=Place(
            seed=recipe.seed, round_index=1, client=index, first_step=0, total_steps=recipe.num_steps
        ),
        optimizer=make_optimizer(student, distill),
    )
    return student.eval()


def warm_start_of(run: Run) -> Student | None:
    """The public warm start of the run; None where it had none, or its file is not there any more."""
    path = Path(run.student.path)
    if not run.student.path or not path.is_file():
        return None
    return place(load_student(path, like=run.student.architecture), run.device)


def random_student(run: Run, pool: Pool, *, seed: int, index: int) -> Student:
    """A student that has seen no pair: shadow students start here, and a control is one of them.

    Weights of ``student.weights`` are public, and it has them where their file is still there.
    """
    public = Path(run.student.weights)
    return run.build(
        input_shape(pool.target),
        pool.anchors.shape[1],
        generator=torch_generator(seed, "shadow-init", client=index),
        weights=public if public.is_file() else None,
        seen=run.task.seen,
    )


def shadow_settings(distill: DistillConfig, recipe: ShadowRecipe) -> DistillConfig:
    """The run's loss, temperatures and augmentation with a recipe that learns fast in one place."""
    fast = DistillConfig()
    return replace(
        distill,
        batch_size=recipe.batch_size,
        learning_rate=fast.central_learning_rate,
        optimizer=fast.optimizer,
        schedule=fast.schedule,
        weight_decay=fast.weight_decay,
        keep_optimizer=False,
        proximal_mu=0.0,
    )


def shadow_scores(
    run: Run, protocol: str, recipe: ShadowRecipe, *, jobs: int, folder: Path, tick: Tick
) -> Shadows:
    """Scores of all pairs under every shadow student; those that ``folder`` has are read.

    Args:
        run: Settings of the attacked run.
        protocol: A key of `edgecmd.audits.risk.candidates.POOLS`.
        recipe: Number of students, steps, seed.
        jobs: Processes at a time; 1 trains in this one.
        folder: Where scores are kept, one file a student.
        tick: Told how many are done.

    Guarantees:
        The result does not depend on ``jobs``, nor on what was interrupted before.
    """
    pool = pool_of(run, protocol)
    kept = folder / f"shadows-{cache_key(run, pool, recipe)}"
    paths = [kept / f"{index:04d}.npy" for index in range(recipe.num_shadows)]
    todo = [index for index, path in enumerate(paths) if read_scores(path, num=len(pool)) is None]
    tick(recipe.num_shadows - len(todo), recipe.num_shadows)
    jobs = jobs if run.remake and len(todo) > 1 else 1
    make = run.remake if jobs > 1 and run.remake else lambda: run
    work: list[Work] = [(make, protocol, recipe, index, paths[index]) for index in todo]
    for done, _ in enumerate(mapped(_shadow_job, work, jobs=jobs), start=recipe.num_shadows - len(todo) + 1):
        tick(done, recipe.num_shadows)
    scores = [read_scores(path, num=len(pool)) for path in paths]
    return Shadows(
        scores=np.stack([one for one in scores if one is not None]), out=left_out(pool.group, recipe)
    )


Work = tuple[Callable[[], Run], str, ShadowRecipe, int, Path]


def _shadow_job(work: Work) -> None:
    """Train one shadow student, in whatever process, and write its scores."""
    make, protocol, recipe, index, path = work
    torch.set_num_threads(1)
    run = make()
    pool = pool_of(run, protocol)
    student = train_shadow(run, pool, recipe, index=index)
    buffer = io.BytesIO()
    np.save(buffer, pair_scores(embedder(student, run.task), pool))
    write_bytes_atomically(path, buffer.getvalue())


# The students of a process are scored on one pool.
POOLS = Kept[tuple[str, Run], Pool](2)


def pool_of(run: Run, protocol: str) -> Pool:
    """The pool of a run, made once a process."""
    return POOLS.get((protocol, run), lambda: make_pool(protocol, run))


def cache_key(run: Run, pool: Pool, recipe: ShadowRecipe) -> str:
    """Sixteen hexadecimal digits of everything that the scores depend on."""
    start = Path(run.student.path or run.student.weights)
    first = hashlib.sha256(start.read_bytes()).hexdigest() if start.is_file() else ""
    distill = shadow_settings(run.distill, recipe)
    text = f"{run.student}\n{distill}\n{recipe}\n{pool.fingerprint()}\n{first}\n{pool.mirrored}"
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def read_scores(path: Path, *, num: int) -> Float[np.ndarray, " num"] | None:
    """Scores that an earlier audit kept; None where there are none, or they are torn."""
    try:
        scores = npy_array(path, most_bytes=most_array_bytes())
    except DecodeError:
        return None
    whole = scores.shape == (num,) and scores.dtype == np.float64 and bool(np.isfinite(scores).all())
    return scores if whole else None
