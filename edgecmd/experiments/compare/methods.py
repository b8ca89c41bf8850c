"""The methods of a comparison, what each of them may see, and how much work each does.

Every method that trains starts from the same student and takes the same number of optimiser steps on as
many pairs per step. ``supervised`` has only its labels to draw a batch from, and as many steps.
"""

from dataclasses import dataclass

from edgecmd.losses import LOSSES, Loss
from edgecmd.run import Run

CENTRAL = "central:"
AT = "@"
REFERENCE = "cmc"
PRESIMCLR = "presimclr"
# The paper's two losses and what grew out of them here.
PAPER = tuple(name for name, loss in LOSSES.items() if loss.family == "paper")
# What others do with pairs, or with targets alone, and without labels.
OTHERS = (*(name for name, loss in LOSSES.items() if loss.family == "others"), PRESIMCLR)
LABEL_FREE = (*PAPER, *OTHERS)
# Trained on labels: few ones, all that exist, few ones by the recipe of ``edgecmd run``.
SUPERVISED, SUPERVISED_ALL, SCRATCH = "supervised", "supervised-all", "scratch"
# Nothing is trained: the teacher on targets, the teacher on the source pictures, first weights.
TEACHER, TEACHER_SOURCE, UNTRAINED = "teacher", "teacher-source", "untrained"
REFERENCES = (SUPERVISED, SUPERVISED_ALL, TEACHER, TEACHER_SOURCE, UNTRAINED)
# Methods in which no federation takes part.
ALONE = (*REFERENCES, SCRATCH)
EVERY = (*LABEL_FREE, *REFERENCES)
TUNED = (*LABEL_FREE, SUPERVISED, SUPERVISED_ALL)

MEANING = {
    SUPERVISED: "trained from scratch on the few labels only",
    SUPERVISED_ALL: (
        "trained from scratch on the labels of the pool and of all training targets together, which no"
        " client could: an oracle"
    ),
    TEACHER: "the teacher on the targets as they are, nothing trained",
    TEACHER_SOURCE: "the teacher on the source images of the same examples, its own modality",
    UNTRAINED: "the student with its first weights",
    PRESIMCLR: "simclr on the targets after simclr on the public source images",
    "simclr": "simclr on the targets only",
}


def plain(method: str) -> str:
    """``method`` without the mark of central training."""
    return method.removeprefix(CENTRAL)


def kind_of(method: str) -> str:
    """What sort of method it is, for a legend."""
    name = plain(method)
    if name in PAPER:
        return "the paper's losses and their anchored forms"
    if name in (*REFERENCES, SCRATCH):
        return "references: with labels, or without training on pairs"
    return "other methods without labels"


def is_tuned(method: str) -> bool:
    """Whether a learning rate is chosen for ``method``."""
    return plain(method) in TUNED or AT in method


def is_alone(method: str) -> bool:
    """Whether ``method`` gives the same under every federation."""
    return method in ALONE


@dataclass(frozen=True, kw_only=True, slots=True)
class Work:
    """What one run of a method costs, counted.

    Attributes:
        steps: Optimiser steps that the weights go through one after another.
        pairs_a_step: Examples behind each of them, over all clients.
        views: Views of each example.
    """

    steps: int
    pairs_a_step: int
    views: int = 1


def work_of(run: Run, method: str) -> Work:
    """The work that ``method`` does in the place of ``run``, for the table; nothing is trained.

    Args:
        run: Its federation and data.
        method: A name of `EVERY`, or a loss with ``central:`` before it.

    Guarantees:
        Steps and pairs per step are the same for every name of `LABEL_FREE`, federated or central, and
        for ``supervised-all``, as long as every client holds a batch of pairs. ``presimclr`` makes as many
        steps again on public images before; ``simclr`` looks at each target twice.
    """
    if plain(method) in (TEACHER, TEACHER_SOURCE, UNTRAINED):
        return Work(steps=0, pairs_a_step=0)
    federation = run.federation
    steps = federation.num_rounds * federation.local_steps
    pairs = min(run.distill.batch_size * federation.answers_a_round, len(run.task.data.train))
    if method == SUPERVISED:
        pairs = run.distill.batch_size
    loss = loss_row(method)
    return Work(steps=steps, pairs_a_step=pairs, views=1 if loss is None else loss.num_views)


def relative_cost(method: str) -> float:
    """Time of one run in units of a run of ``cmc``, roughly: for the estimate before the first minutes."""
    costs = {PRESIMCLR: 3.0, TEACHER: 0.1, TEACHER_SOURCE: 0.1, UNTRAINED: 0.15}
    loss = loss_row(method)
    return costs.get(plain(method), 1.0 if loss is None else loss.relative_cost)


def loss_row(method: str) -> type[Loss] | None:
    """The loss that ``method`` trains with; None where it is none of the table."""
    return LOSSES.get("simclr" if plain(method) == PRESIMCLR else plain(method))
