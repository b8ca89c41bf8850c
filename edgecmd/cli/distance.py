"""``edgecmd distance``: how far two modalities are, before any training."""

from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgecmd.cli.app import app
from edgecmd.cli.common import (
    AsJson,
    ConfigFile,
    Settings,
    one_thread,
    print_json,
    print_table,
    read_settings,
    say,
)
from edgecmd.cli.theory import PairName
from edgecmd.config.schema import RunConfig

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from edgecmd.experiments.theory.distance import Distance


@app.command()
def distance(
    *,
    student: Annotated[
        Path | None, typer.Option("--student", help="A trained student; without it a probe is used.")
    ] = None,
    probe: Annotated[
        str, typer.Option("--probe", help="linear (fitted in closed form) or untrained (first weights).")
    ] = "linear",
    part: Annotated[str, typer.Option("--part", help="Held-out part: validation or test.")] = "validation",
    pair: PairName = "",
    relations: Annotated[
        str, typer.Option("--relations", help="batch (to the other pairs) or anchors (to public pictures).")
    ] = "batch",
    pairs: Annotated[int, typer.Option("--pairs", min=0, help="Held-out pairs; 0 for all.")] = 0,
    batch_size: Annotated[
        int, typer.Option("--batch-size", min=3, help="Pairs whose relations are compared at a time.")
    ] = 32,
    bootstrap: Annotated[int, typer.Option("--bootstrap", min=20, help="Draws for the interval.")] = 200,
    fit: Annotated[
        bool,
        typer.Option(
            "--fit-temperature/--given-temperature",
            help="Student's temperature: the one of least distance, or distill.temperature.",
        ),
    ] = True,
    config: ConfigFile = None,
    settings: Settings = None,
    as_json: AsJson = False,
) -> None:
    """Total variation between teacher's and student's relations on held-out pairs, with an interval."""
    from edgecmd.config.assemble import run_folder
    from edgecmd.core.artefacts import write_artefact
    from edgecmd.core.errors import choose
    from edgecmd.experiments.presets import pair_settings
    from edgecmd.experiments.theory.distance import (
        TEMPERATURES,
        Relations,
        convergence,
        fit_temperature,
        measure,
        require_trustworthy,
    )
    from edgecmd.experiments.theory.probe import embed_pairs

    one_thread()
    resolved = read_settings(config, pair_settings(pair, run=f"distance-{pair}", settings=settings))
    form = Relations(
        batch_size=batch_size,
        temperature=resolved.distill.temperature,
        teacher_temperature=resolved.distill.teacher_temperature,
        anchors=choose("--relations", relations, FORMS)(resolved),
    )
    found = embed_pairs(resolved, student=student, probe=probe, part=part, num_pairs=pairs)
    if fit:
        form = fit_temperature(found.student, found.teacher, form)
    steps = convergence(found.student, found.teacher, form, num_resamples=bootstrap, seed=resolved.seed)
    answer = require_trustworthy(steps[-1])
    ceiling = measure(found.student, found.teacher, replace(form, temperature=TEMPERATURES[-1])).variation
    table = {"student": found.text, "part": part, **asdict(answer), "ceiling": ceiling}
    table["convergence"] = [asdict(step) for step in steps]
    path = run_folder(resolved) / "distance.json"
    write_artefact(path.parent, "distance.json", table, may_leave=False)
    if as_json:
        print_json(table)
        return
    show_distance(answer, steps, text=found.text, part=part)
    say(f"A student that tells nothing apart is at {ceiling:.3f}.")
    say(f"Written: {path}")


def _anchors(config: RunConfig) -> "Tensor":
    from edgecmd.data.problem import public_anchors

    anchors: Tensor = public_anchors(config).cpu()
    return anchors


FORMS: "dict[str, Callable[[RunConfig], Tensor | None]]" = {"batch": lambda _: None, "anchors": _anchors}


def show_distance(answer: "Distance", steps: "list[Distance]", *, text: str, part: str) -> None:
    """Print the distance, what it rests on and how it settles with more pairs."""
    rows = [[str(one.num_pairs), f"{one.variation:.3f}", _span(one), f"{one.bound:.3f}"] for one in steps]
    within = answer.form == "batch"
    where = f"in batches of {answer.batch_size}" if within else "to public anchors"
    print_table(
        f"Total variation of relations {where}, by held-out pairs",
        ["pairs", "variation", "95% interval", "bound by CMD"],
        rows,
    )
    say(
        f"Distance {answer.variation:.3f} [{answer.low:.3f}, {answer.high:.3f}] on {answer.num_pairs} {part}"
        f" pairs; 0 is the same relations, 1 is disjoint ones. Student: {text}."
    )
    say(f"Temperature of the student's relations: {answer.temperature:.3g}.")
    what = "masked diagonal" if within else "nearest anchor"
    say(f"Mass of the {what}: {answer.diagonal:.3f} (above 0.99 no distance is given).")


def _span(one: "Distance") -> str:
    """The bootstrap interval; two or three batches drawn again say nothing of how batches differ."""
    from edgecmd.experiments.theory.distance import MIN_BATCHES

    few = one.num_pairs // one.batch_size < MIN_BATCHES
    return "too few batches" if few else f"{one.low:.3f} to {one.high:.3f}"
