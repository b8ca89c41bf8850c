"""``edgecmd distance`` as a whole: how far two modalities are before any training, and what that rests on."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from edgecmd.core.artefacts import write_artefact
from edgecmd.core.errors import choose
from edgecmd.experiments.theory.distance import (
    MIN_BATCHES,
    TEMPERATURES,
    Distance,
    Relations,
    convergence,
    fit_temperature,
    measure,
    require_trustworthy,
)
from edgecmd.experiments.theory.probe import embed_pairs
from edgecmd.run import Run


@dataclass(frozen=True, kw_only=True, slots=True)
class Asked:
    """What is measured.

    Attributes:
        student: A trained student's file; None for a probe.
        probe: A key of `edgecmd.experiments.theory.probe.PROBES`.
        part: ``validation`` or ``test``.
        relations: A key of `FORMS`.
        num_pairs: Held-out pairs; 0 for all.
        batch_size: Pairs whose relations are compared at a time.
        num_resamples: Draws for the interval.
        fit: Whether the student's temperature is the one of least distance.
    """

    student: Path | None = None
    probe: str = "linear"
    part: str = "validation"
    relations: str = "batch"
    num_pairs: int = 0
    batch_size: int = 32
    num_resamples: int = 200
    fit: bool = True


@dataclass(frozen=True, kw_only=True, slots=True)
class Measured:
    """A distance that can be answered for.

    Attributes:
        text: What stood for the student, a sentence.
        part: Held-out part.
        steps: The distance of more and more pairs; the last one is the answer.
        ceiling: Distance of a student that cannot tell anything apart.
        path: File that it was written into.
    """

    text: str
    part: str
    steps: tuple[Distance, ...]
    ceiling: float
    path: Path

    def table(self) -> dict[str, Any]:
        """All of it as plain values."""
        answer = {"student": self.text, "part": self.part, **asdict(self.steps[-1]), "ceiling": self.ceiling}
        return answer | {"convergence": [asdict(step) for step in self.steps]}


FORMS: dict[str, Callable[[Run], Tensor | None]] = {
    "batch": lambda _: None,
    "anchors": lambda run: run.anchors.cpu(),
}


def measure_distance(run: Run, asked: Asked) -> Measured:
    """Total variation between teacher's and student's relations on held-out pairs; writes ``distance.json``.

    Args:
        run: Data, teacher, and first weights of the student.
        asked: What is measured.

    Raises:
        ConfigError: A name is unknown.
        DataError: There are too few pairs, or the distance cannot be answered for.
    """
    form = Relations(
        batch_size=asked.batch_size,
        temperature=run.distill.temperature,
        teacher_temperature=run.distill.teacher_temperature,
        anchors=choose("--relations", asked.relations, FORMS)(run),
    )
    found = embed_pairs(
        run, student=asked.student, probe=asked.probe, part=asked.part, num_pairs=asked.num_pairs
    )
    if asked.fit:
        form = fit_temperature(found.student, found.teacher, form)
    steps = convergence(found.student, found.teacher, form, num_resamples=asked.num_resamples, seed=run.seed)
    require_trustworthy(steps[-1])
    ceiling = measure(found.student, found.teacher, replace(form, temperature=TEMPERATURES[-1])).variation
    answer = Measured(
        text=found.text,
        part=asked.part,
        steps=tuple(steps),
        ceiling=ceiling,
        path=run.folder / "distance.json",
    )
    write_artefact(run.folder, "distance.json", answer.table(), may_leave=False)
    return answer


def step_rows(steps: Sequence[Distance]) -> list[list[str]]:
    """A row for each number of pairs: the distance, its interval, and its bound."""
    return [[str(one.num_pairs), f"{one.variation:.3f}", _span(one), f"{one.bound:.3f}"] for one in steps]


def _span(one: Distance) -> str:
    """The bootstrap interval; two or three batches drawn again say nothing of how batches differ."""
    few = one.num_pairs // one.batch_size < MIN_BATCHES
    return "too few batches" if few else f"{one.low:.3f} to {one.high:.3f}"
