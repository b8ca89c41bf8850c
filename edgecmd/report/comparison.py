"""Runs beside each other on one page: settings that differ, scores, loss by round and privacy."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from edgecmd.core.errors import ConfigError
from edgecmd.core.files import require_writable, write_text_atomically
from edgecmd.core.statistics import interval_text, newcombe, paired_interval
from edgecmd.core.text import counted, printable
from edgecmd.report import scores
from edgecmd.report.charts import loss_curve
from edgecmd.report.drawing import LINES
from edgecmd.report.numbers import NOTHING, Cell, Row, plain, share
from edgecmd.report.page import strange_files_named, templates
from edgecmd.report.privacy import FACTS, claim, is_asked
from edgecmd.report.process import flat
from edgecmd.report.read import RunFiles, Table, read_run

MINUS = "\u2212"
# Settings that do not change what a student is tested on.
SAME_TEST = {"data.store", "data.num_threads"}
TEST = ("data", "num_test", "num_things")
Runs = Mapping[str, RunFiles]


def write_comparison(folders: Sequence[Path], out: Path) -> Path:
    """Write a page that holds runs against the first of them.

    Args:
        folders: Two run folders or more. A file may be missing; its figures are then left out.
        out: The page, such as ``runs/comparison.html``.

    Returns:
        Path of the page.

    Raises:
        ConfigError: There are too few or too many runs, one is given twice, or ``out`` is no page.
        DataError: A folder does not exist, or a file in it is damaged.

    Guarantees:
        Those of `edgecmd.report.page.write_report`.
    """
    if out.suffix.lower() not in (".html", ".htm"):
        raise ConfigError(f"--out={out} is no page. Give a file whose name ends in .html.")
    require_writable(out)
    runs = {name: read_run(folder) for name, folder in _names(folders).items()}
    with strange_files_named(" or ".join(map(str, folders))):
        page = templates(runs=runs).get_template("comparison.html").render(_content(runs))
    write_text_atomically(out, page)
    return out


def _names(folders: Sequence[Path]) -> dict[str, Path]:
    """Runs by their folder's name, or by its path where two have one name."""
    places = [folder.resolve() for folder in folders]
    if not 2 <= len(folders) <= len(LINES):
        raise ConfigError(
            f"{counted(len(folders), 'run')} cannot be compared. Give 2 to {len(LINES)} folders."
        )
    for folder, place in zip(folders, places, strict=True):
        if places.count(place) > 1:
            raise ConfigError(f"{folder} is given twice. Give each run once.")
    short = [place.name for place in places]
    return {
        printable(place.name if short.count(place.name) == 1 else str(place)): folder
        for place, folder in zip(places, folders, strict=True)
    }


def _content(runs: Runs) -> Table:
    """What the template is filled with."""
    students = {name: scores.of_student(run.evaluation) for name, run in runs.items()}
    settings = _beside([{key: plain(value) for key, value in flat(run.settings)} for run in runs.values()])
    settings = [row for row in settings if row[0] not in ("name", "out")]
    differing = [(key, cells) for key, cells in settings if len(set(cells)) > 1]
    keys = {key for key, _ in differing} - SAME_TEST
    tests = [run.evaluation.get("student") or {} for run in runs.values()]
    alike = all(one.get(key) == tests[0].get(key) for one in tests for key in TEST)
    alike = alike and not any(key.startswith("data.") for key in keys)
    first, *others = runs
    return {
        "is_asked": any(map(is_asked, runs.values())),
        "students": students,
        "differing": differing,
        "num_equal": len(settings) - len(differing),
        "alike": alike,
        "columns": ["score", *runs, *(f"{name} {MINUS} {first}" for name in others if alike)],
        "rows": _scores(list(students.values()), alike=alike, same_draws="seed" not in keys),
        "faults": {name: scores.faults(run.evaluation).get("student") for name, run in runs.items()},
        "drawing": loss_curve({name: run.rounds for name, run in runs.items()}),
        "claim": claim,
        "guarantees": _beside(
            [{text: plain(run.privacy.get(key)) for key, text in FACTS.items()} for run in runs.values()]
        ),
    }


def _beside(tables: Sequence[Mapping[str, str]]) -> list[tuple[str, list[str]]]:
    """A row for each key that any of the tables has."""
    keys = dict.fromkeys(key for one in tables for key in one)
    return [(key, [one.get(key, NOTHING) for one in tables]) for key in keys]


def _scores(students: Sequence[Mapping[str, scores.Score]], *, alike: bool, same_draws: bool) -> list[Row]:
    """A row for each score: those of the runs and, where all were tested alike, the differences."""
    rows: list[Row] = []
    for title in dict.fromkeys(title for one in students for title in one):
        first, *others = found = [one.get(title) for one in students]
        shown = [Cell(text=share(one.value), note=one.interval) if one else NOTHING for one in found]
        apart = [_difference(one, first, same_draws=same_draws) for one in others if alike]
        rows.append((title, [*shown, *apart]))
    return rows


def _difference(one: scores.Score | None, first: scores.Score | None, *, same_draws: bool) -> Cell | str:
    """With the interval over the draws of labels where there are several, else over the test items."""
    if one is None or first is None:
        return NOTHING
    ours, theirs = one.rests, first.rests
    ends: tuple[float | None, float | None] | None = None
    if ours and theirs and ours.num_items is not None and ours.num_items == theirs.num_items:
        if len(ours.values) > 1 and len(ours.values) == len(theirs.values) and same_draws:
            found = paired_interval(ours.values, theirs.values, num_items=ours.num_items)
            ends = found.low, found.high
        elif ours.is_share and len(ours.values) < 2 and len(theirs.values) < 2:
            ends = newcombe(one.value, first.value, num_items=ours.num_items)
    low, high = ends or (None, None)
    row = {"mean": one.value - first.value, "low": low, "high": high}
    value, _, note = interval_text(row, sign=True).partition(" ")
    return Cell(text=value, note=note)
