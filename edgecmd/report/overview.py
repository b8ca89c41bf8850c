"""The top of the page: the result in one sentence, and the four steps with their key numbers."""

import math

from edgecmd.core.text import size_of
from edgecmd.report import scores
from edgecmd.report.numbers import NOTHING, share
from edgecmd.report.privacy import short_claim
from edgecmd.report.read import RunFiles

TIMES = "\u00d7"
Fact = tuple[str, str]


def summary(run: RunFiles) -> str:
    """The result in one sentence of plain text."""
    told = [column for column in scores.columns(run.evaluation) if "student" in column.scores]
    if not told:
        return _unfinished(run)
    main = told[0]
    chance = "" if main.chance is None else f" (chance {share(main.chance)})"
    private = f" ({short_claim(run.privacy)})" if run.privacy else ""
    fault = scores.faults(run.evaluation).get("student")
    if fault:
        return f"The student has collapsed: {fault}, so no figure of it says anything{private}."
    return f"{_claim(run, main)}{chance}{_against(main)}{private}."


def _unfinished(run: RunFiles) -> str:
    if not run.rounds:
        return "No round is finished yet, so there is no result."
    last = run.rounds[-1]
    num = f"{len(run.rounds)} rounds are" if len(run.rounds) > 1 else "1 round is"
    loss = f", the last with loss {last['loss']:.3f}" if last.get("loss") is not None else ""
    return f"{num} finished{loss}; nothing is evaluated yet."


def _claim(run: RunFiles, column: scores.Column) -> str:
    value, unseen = share(column.scores["student"].value), scores.unseen_text(run.evaluation)
    num = f"{run.evaluation['student'].get('num_test', 0):,}"
    if column.title == "R@1":
        return (
            f"The student ranks the matching source image first for a share of {value} of {num} test"
            f" targets{_unseen(run)}"
        )
    if column.title == "class R@1":
        return (
            f"The student ranks a source image of the right class first for a share of {value} of {num} test"
            f" targets of unseen {scores.unseen(run.evaluation)} (the pairs were matched by class)"
        )
    where = "the server's own set" if run.on_devices else f"unseen {unseen}"
    return f"On {where}, the student reaches {value} in {column.title}"


def _unseen(run: RunFiles) -> str:
    """What test and training do not share, as far as that is known."""
    if run.on_devices:
        return " of the server's own set"
    unseen = scores.unseen(run.evaluation)
    if scores.shared(run.evaluation):
        return f", of unseen {scores.unseen_text(run.evaluation)}"
    return f", {'all ' if unseen == 'concepts' else ''}of {unseen} that no training pair shows"


def _against(column: scores.Column) -> str:
    """What the best baseline does, also where it does better."""
    others = {name: score.value for name, score in column.scores.items() if name != "student"}
    if not others:
        return "; no baseline was run"
    name = max(others, key=lambda one: others[one])
    own, best = share(column.scores["student"].value), share(others[name])
    if best == own:
        return f"; the baseline {name} has the same"
    apart = "" if any(map(column.is_best, column.scores)) else ", a difference that chance may explain"
    if others[name] > column.scores["student"].value:
        better = "is better, with" if column.is_best(name) else "has more,"
        return f"; the baseline {name} {better} {best}{apart}"
    return f"; the highest baseline, {name}, has {best}{apart}"


def steps(run: RunFiles) -> dict[str, list[Fact]]:
    """The four steps of the pipeline with their key numbers, for a row of cards."""
    columns, export = scores.columns(run.evaluation), run.export
    shown = {(one.title, name): share(score.value) for one in columns for name, score in one.scores.items()}
    model = (export.get("files") or {}).get("student.onnx")
    cosine = (export.get("parity") or {}).get("min_cosine")
    unseen = scores.unseen(run.evaluation)
    return {
        "Teacher": _facts(
            (_teacher_kind(run), "frozen teacher of the source images"),
            (export.get("embedding_dim"), "numbers a feature"),
            (shown.get(("R@1", "teacher as it is")), "R@1 of the teacher itself on target images"),
        ),
        "Federated distillation": _distillation(run),
        "Evaluation": _facts(
            (shown.get(("R@1", "student")), f"R@1 on unseen {unseen}"),
            (shown.get(("class R@1", "student")), f"R@1 by class on unseen {unseen}"),
            (shown.get(("strict R@1", "student")), "R@1, look-alikes left out"),
            (shown.get(("one-shot", "student")), "one-shot across styles"),
            instead=(NOTHING, "not evaluated"),
        ),
        "Export": _facts(
            (model and size_of(float(model["bytes"])), "student.onnx"),
            (None if cosine is None else f"{cosine:.8f}", "smallest cosine to the trained student"),
            instead=("done", "bundle written") if export else (NOTHING, "not exported"),
        ),
    }


def _facts(*known: tuple[object, str], instead: Fact | None = None) -> list[Fact]:
    """Those that have a value; where none has, what stands instead."""
    found = [(str(value), name) for value, name in known if value]
    return found or ([instead] if instead else [])


def _teacher_kind(run: RunFiles) -> str:
    """The teacher in two or three words; the section of results has all that is known of it."""
    if run.setting("teacher.pair_features"):
        return "ready features"
    if run.setting("teacher.path"):
        return "own file"
    text = str((run.evaluation.get("teacher") or {}).get("text", ""))
    return text.partition(",")[0].partition(" (")[0] or run.setting("teacher.name") or "built in"


def _distillation(run: RunFiles) -> list[Fact]:
    if not run.rounds:
        return [(NOTHING, "no round finished")]
    last, total = run.rounds[-1], math.fsum(event.get("bytes") or 0 for event in run.rounds)
    chance = run.evaluation.get("chance_loss")
    level = "" if chance is None else f" (chance {chance:.3f})"
    # Private clients do not report their loss.
    instead = (
        (short_claim(run.privacy), "differential privacy") if run.privacy else (NOTHING, "loss not reported")
    )
    return [
        (f"{last.get('clients', '?')} {TIMES} {len(run.rounds)}", f"clients {TIMES} rounds"),
        (f"{last['loss']:.3f}", f"last loss{level}") if last.get("loss") is not None else instead,
        (size_of(total), "sent both ways in all"),
    ]
