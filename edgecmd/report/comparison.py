"""Runs beside each other on one page: settings that differ, scores, loss by round and privacy."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from edgecmd.core.errors import ConfigError
from edgecmd.core.files import require_writable, write_text_atomically
from edgecmd.core.statistics import Measured, interval_text
from edgecmd.core.text import counted, printable
from edgecmd.report import scores
from edgecmd.report.charts import loss_curves
from edgecmd.report.drawing import LINES
from edgecmd.report.numbers import NOTHING, Cell, Row, plain, share
from edgecmd.report.page import strange_files_named, templates
from edgecmd.report.privacy import FACTS, claim, is_asked, short_claim
from edgecmd.report.process import flat
from edgecmd.report.read import RunFiles, Table, read_run

MINUS = "\u2212"
# Settings that do not change what a student is tested on.
SAME_TEST = ("data.store", "data.num_threads")
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
        Those of `edgecmd.report.page.write_report`. The page appears whole or not at all.
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
    """What each run is called: its folder, with the path where two folders have one name.

    Raises:
        ConfigError: There are too few or too many, or one is given twice.
    """
    if not 2 <= len(folders) <= len(LINES):
        raise ConfigError(f"{counted(len(folders), 'run')} cannot be compared. Give 2 to {len(LINES)}.")
    places = [folder.resolve() for folder in folders]
    for folder, place in zip(folders, places, strict=True):
        if places.count(place) > 1:
            raise ConfigError(f"{folder} is given twice. Give each run once.")
    short = [place.name for place in places]
    named = [place.name if short.count(place.name) == 1 else str(place) for place in places]
    return {printable(name): folder for name, folder in zip(named, folders, strict=True)}


def _content(runs: Runs) -> Table:
    """What the template is filled with."""
    differing, num_equal = _settings(runs)
    rows, alike = _scores(runs), _are_tested_alike(runs)
    first, *others = runs
    return {
        "title": " and ".join(runs),
        "kind": "comparison",
        "summary": _summary(runs, num_differing=len(differing)),
        "is_asked": any(is_asked(run) for run in runs.values()),
        "shows": "scores of the test set, losses and settings",
        "names": list(runs),
        "differing": differing,
        "num_equal": num_equal,
        "rows": rows,
        "columns": ["score", *runs, *(f"{name} {MINUS} {first}" for name in others if alike)],
        "alike": alike,
        "faults": {
            name: why for name, run in runs.items() if (why := scores.faults(run.evaluation).get("student"))
        },
        "drawing": loss_curves({name: run.rounds for name, run in runs.items()}),
        "losses": {name: run.setting("distill.loss", "?") for name, run in runs.items()},
        "claims": {name: _claim(run) for name, run in runs.items()},
        "guarantees": _guarantees(runs),
    }


def _settings(runs: Runs) -> tuple[list[Row], int]:
    """Settings that differ, a column per run, and how many are equal."""
    tables = [{key: plain(value) for key, value in flat(run.settings)} for run in runs.values()]
    keys = [key for key in dict.fromkeys(key for one in tables for key in one) if key not in ("name", "out")]
    rows: list[Row] = [(key, [one.get(key, NOTHING) for one in tables]) for key in keys]
    differing = [(key, cells) for key, cells in rows if len(set(cells)) > 1]
    return differing, len(rows) - len(differing)


def _are_tested_alike(runs: Runs) -> bool:
    """Whether the students answered the same questions, so that a difference says something."""
    asked = set()
    for run in runs.values():
        student = run.evaluation.get("student") or {}
        data = [
            (key, plain(value))
            for key, value in flat(run.settings)
            if key.startswith("data.") and key not in SAME_TEST
        ]
        asked.add((tuple(data), *(student.get(key) for key in ("data", "num_test", "num_things"))))
    return len(asked) == 1


def _scores(runs: Runs) -> list[Row]:
    """The student of each run by metric, and its difference from that of the first run."""
    tables = [_student(run) for run in runs.values()]
    alike, rows = _are_tested_alike(runs), []
    for title in dict.fromkeys(title for one in tables for title in one):
        found = [one.get(title) for one in tables]
        cells: list[Cell | str] = [
            Cell(text=share(one.value), note=one.interval) if one else NOTHING for one in found
        ]
        rows.append((title, [*cells, *(_difference(one, found[0]) for one in found[1:] if alike)]))
    return rows


def _student(run: RunFiles) -> dict[str, scores.Score]:
    columns = scores.columns(run.evaluation)
    return {one.title: one.scores["student"] for one in columns if "student" in one.scores}


def _difference(one: scores.Score | None, first: scores.Score | None) -> Cell | str:
    if one is None or first is None:
        return NOTHING
    measured = [score.rests or Measured(value=score.value, is_share=False) for score in (one, first)]
    value, _, note = interval_text(asdict(measured[0].minus(measured[1])), sign=True).partition(" ")
    return Cell(text=value, note=note)


def _claim(run: RunFiles) -> str:
    """The guarantee of a run in one sentence, or that there is none."""
    if run.privacy:
        return claim(run.privacy)
    if is_asked(run):
        return "The run has not ended, and nothing is claimed."
    return "No differential privacy was used."


def _guarantees(runs: Runs) -> list[Row]:
    """What the guarantees rest on, a column per run; nothing where no run has one."""
    if not any(run.privacy for run in runs.values()):
        return []
    rows: list[Row] = [
        ("guarantee", [short_claim(run.privacy) if run.privacy else NOTHING for run in runs.values()])
    ]
    facts = [(text, [plain(run.privacy.get(key)) for run in runs.values()]) for key, text in FACTS.items()]
    return [*rows, *facts]


def _summary(runs: Runs, *, num_differing: int) -> str:
    """The first score of each run in one sentence, and how many settings differ."""
    differ = f"{counted(num_differing, 'setting')} {'differs' if num_differing == 1 else 'differ'}."
    students = {name: _student(run) for name, run in runs.items()}
    title = next((title for one in students.values() for title in one), None)
    if title is None:
        return f"No run is evaluated yet. {differ}"
    told = ", ".join(
        f"{name} {share(one[title].value) if title in one else 'not measured'}"
        for name, one in students.items()
    )
    return f"{title}: {told}. {differ}"
