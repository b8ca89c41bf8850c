"""MODEL_CARD.md: what a student is, what it was measured to do, what is promised, and what is not."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from edgecmd.core.statistics import MIN_ITEMS, MIN_REPEATS, wilson
from edgecmd.core.text import counted, markdown_text, printable
from edgecmd.report.privacy import claim
from export.device.reading import LEAST_PILLOW
from export.documents.provenance import Provenance
from export.documents.requirements import requirements_text
from export.graph.front_graph import KINDS
from export.graph.frontends import FRONT_ENDS
from export.graph.spec import EXAMPLES, LINEAR, MASKS

NOT_KNOWN = "The run was not evaluated; nothing is claimed."
LIMITS = (
    "The figures are those of the data above. On pictures of another kind, drawn or taken in another way,"
    " they do not hold until they are measured again.",
    "Scores are shares among the classes that it knows. It knows no 'none of these': a picture of something"
    " else gets a class as well.",
    "The embedding was made to be near a teacher's embedding of another modality, and it takes over what the"
    " teacher confuses.",
    "Epsilon, where one is stated, is what the training recorded; this folder cannot prove it.",
)


# What the classes were made of, as `export.documents.bundle_files.classes_by` says it -> whom that tells of.
HEADS = {
    LINEAR: "The classification head was fitted on labelled examples without noise; whoever holds the file"
    " may learn about them. `--set export.head=false`, or `edgecmd export --no-head`, leaves it out.",
    MASKS: "All layers were fine-tuned on labelled masks without noise; whoever holds the file may learn"
    " about these pictures and their masks. `edgecmd export --no-head` leaves that out.",
    EXAMPLES: "Each class is the mean embedding of the example pictures that were given, without noise;"
    " whoever holds the file may learn about them.",
}
FIGURES = (
    "The figures of this folder are functions of the weights and of the test examples (some, of validation"
    " examples). Whoever deployed the student held these; nothing bounds what the figures tell of them."
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Metric:
    """One figure with its 95% interval.

    Attributes:
        name: What was measured.
        value: The figure.
        low: Lower end of the interval; None where too little is behind the figure.
        high: Upper end; None as ``low``.
        rests: What it rests on, such as ``632 test examples``.
    """

    name: str
    value: float
    low: float | None
    high: float | None
    rests: str = ""


def metrics_of(evaluation: Mapping[str, Any]) -> list[Metric]:
    """Figures of an evaluation with their 95% intervals.

    A share of the test examples gets Wilson's interval; a mean over draws of the labels that of Student's t,
    as the evaluation wrote it, cut to what a share can be. With too few examples or draws there is none
    (`edgecmd.core.statistics`).

    Args:
        evaluation: The student's table of ``evaluation.json``.
    """
    num = int(evaluation.get("num_things") or evaluation.get("num_test") or 0)
    found = [
        _share(f"retrieval R@{name.partition('@')[2]}", value, num=num)
        for name, value in evaluation.get("retrieval", {}).items()
        # Among as many things as are looked at, everything is found.
        if name.startswith("class_") or not num or int(name.partition("@")[2]) < num
    ]
    segmented = evaluation.get("segmentation", {})
    for percent, row in segmented.get("finetune", {}).items():
        labels = f"mIoU, fine-tuned on {percent}% of the labelled pictures"
        found.append(_mean(labels, row, num=int(segmented["num_test"])))
    if segmented.get("finetune"):
        return found
    for labelling, table in evaluation.get("few_labels", {}).items():
        for count, row in table.get("linear", {}).items():
            if row.get("num", 0) > 1:
                labels = f"linear probe on {labelling}, {_labels(count)}"
                found.append(_mean(labels, row, num=int(table["num_test"])))
            elif row.get("values"):
                one = "" if count == "all" else ", one draw"
                labels = f"linear probe on {labelling}, {_labels(count)}{one}"
                found.append(_share(labels, row["mean"], num=int(table["num_test"])))
    return found


def _labels(count: str) -> str:
    return "all labels" if count == "all" else f"{counted(int(count), 'label')} a class"


def _share(name: str, value: float, *, num: int) -> Metric:
    low, high = wilson(value, num_items=num) or (None, None)
    return Metric(name=name, value=value, low=low, high=high, rests=f"{num:,} test examples")


def _mean(name: str, row: Mapping[str, Any], *, num: int) -> Metric:
    low, high = row["low"], row["high"]
    if low is None or high is None or row["num"] < MIN_REPEATS or num < MIN_ITEMS or low == high:
        low, high = None, None
    else:
        low, high = max(0.0, low), min(1.0, high)
    rests = f"{row['num']} draws, {num:,} test examples"
    return Metric(name=name, value=row["mean"], low=low, high=high, rests=rests)


def model_card(report: Mapping[str, Any], provenance: Provenance) -> str:
    """Markdown of the card.

    Args:
        report: As in ``report.json``.
        provenance: Where the student comes from.
    """
    front_end = FRONT_ENDS[report["front_end"]]
    parts = [
        f"# {markdown_text(provenance.name)}: an edgecmd student",
        _what(report),
        "## How to run it",
        f"`python infer.py . {front_end.example}` needs {requirements_text(report['requires'])},"
        f" and Pillow {'.'.join(map(str, LEAST_PILLOW))} or newer for PNG and JPEG."
        " `python infer.py . --check` tells whether this machine computes what the maker's did.",
        "## Files and profiles",
        *_profiles(report),
        *_formats(report),
        "## Data",
        _table(("what", "value"), provenance.data.items()) if provenance.data else "Not recorded.",
        "## Method",
        _table(("what", "value"), provenance.method.items()) if provenance.method else "Not recorded.",
        "## Figures on the server's own set"
        if provenance.num_own
        else f"## Figures on {provenance.tested_on}",
        *_metrics(provenance),
        "## Privacy",
        *_privacy(provenance),
        *_own_costs(report),
        "## Audits",
        *_audit(provenance.audit),
        *_folding(report["folding"]),
        "## Calibration",
        _calibration(report),
        "## Limits",
        _list(LIMITS),
        "## Licence",
        f"Weights: {report['license']}. infer.py: Apache-2.0, as edgecmd.",
    ]
    return "\n\n".join(parts) + "\n"


def _what(report: Mapping[str, Any]) -> str:
    text = (
        f"It takes {FRONT_ENDS[report['front_end']].takes(report)}, and returns an embedding of length 1 in"
        f" {report['embedding_dim']} dimensions"
    )
    classes = [markdown_text(name) for name in report["classes"]]
    if not classes:
        return text + "."
    if KINDS[report["front_end"]].dense:
        return (
            f"{text} (the mean over its places), and the output `mask`: logits of {len(classes)} classes at"
            f" each pixel ({report['classes_by']}): {', '.join(classes)}. A pixel's class is the largest."
        )
    return (
        f"{text} and probabilities of {len(classes)} classes ({report['classes_by']}): {', '.join(classes)}."
    )


def _profiles(report: Mapping[str, Any]) -> Iterator[str]:
    rows = []
    for name, one in report["profiles"].items():
        parity = one["parity"]
        classes = parity["agreement_classes"]
        rows.append(
            (
                f"`{one['file']}`",
                f"{name}: {one['summary']}",
                f"{one['bytes'] / 1000:.0f}",
                f"{parity['min_cosine']:.5f}",
                f"{parity['agreement']:.3f}",
                "-" if classes is None else f"{classes:.3f}",
                f"{parity['metric_onnx']:.4f} ({parity['metric_torch']:.4f})",
            )
        )
    first = next(iter(report["profiles"].values()))["parity"]
    columns = ("file", "profile", "kB", "cosine, least", "same answer", "same class", first["metric_name"])
    yield _table(columns, rows)
    yield (
        f"Measured through ONNX Runtime against the trained student on {first['num_images']} held-out inputs,"
        f" over batches of {', '.join(map(str, first['batch_sizes']))} and inputs of"
        f" {', '.join(first['input_sizes'])}: the least cosine of the embeddings, the share of inputs with"
        " the same first answer and the same likeliest class, and the task metric (in brackets: the"
        " student's)."
    )


def _formats(report: Mapping[str, Any]) -> Iterator[str]:
    if not report.get("formats", {}):
        return
    yield "## Files for phones"
    rows = []
    for file, one in report.get("formats", {}).items():
        parity = one["parity"] or {}
        rows.append(
            (
                f"`{file}`",
                one["title"],
                one["profile"],
                f"{one['bytes'] / 1000:.0f}",
                f"{parity['min_cosine']:.5f}" if parity else one["state"],
                f"{parity['metric_onnx']:.4f} ({parity['metric_torch']:.4f})" if parity else "-",
                ", ".join(f"{name} {text}" for name, text in one["versions"].items()),
            )
        )
    metric = next(iter(report["profiles"].values()))["parity"]["metric_name"]
    yield _table(("file", "format", "made of", "kB", "cosine, least", metric, "versions"), rows)
    yield (
        "Each was run in its own engine on the maker's computer, on the same inputs and within the same"
        " limits as the profile that it is made of; none was run on a phone."
    )


def _metrics(provenance: Provenance) -> Iterator[str]:
    metrics = metrics_of(provenance.evaluation)
    if not metrics:
        yield NOT_KNOWN
        return
    fault = provenance.evaluation.get("fault")
    if fault:
        yield f"The student has collapsed: {fault}. No figure below says anything."
    rows = [(one.name, f"{one.value:.3f}", _span(one), one.rests) for one in metrics]
    yield _table(("metric", "value", "95% interval", "rests on"), rows)
    yield (
        "Intervals: Wilson's of the test examples, or Student's t over draws of the labels, cut to what a"
        f" share can be. None with fewer than {MIN_ITEMS} test examples or {MIN_REPEATS} draws."
    )


def _span(one: Metric) -> str:
    return "-" if one.low is None or one.high is None else f"{one.low:.3f} to {one.high:.3f}"


def _privacy(provenance: Provenance) -> Iterator[str]:
    told = provenance.privacy
    if not told and provenance.private:
        yield "The run's statement of privacy is missing: nothing is claimed."
        return
    if not told:
        yield "Trained without differential privacy: nothing bounds what the weights tell about a pair."
        return
    yield claim(dict(told))
    yield str(told["statement"])
    yield f"Neighbours: {told['relation']}. Against: {told['against']}."
    yield "Not covered:"
    yield _list(told["not_covered"])


def own_costs(report: Mapping[str, Any]) -> list[str]:
    """What the bundle reveals about examples other than the training pairs; no guarantee covers these."""
    costs = [HEADS[report["classes_by"]]] if report["classes_by"] else []
    return [*costs, FIGURES]


def _own_costs(report: Mapping[str, Any]) -> Iterator[str]:
    yield "## What else it tells of"
    yield "Whatever is said above is about the training pairs. Of other examples:"
    yield _list(own_costs(report))


def _audit(told: Mapping[str, Any]) -> Iterator[str]:
    if not told:
        yield "Not audited."
        return
    if told["findings"]:
        yield f"Verdict: {told['verdict']}."
        yield _list(str(one["text"]) for one in told["findings"])
    if told.get("withheld"):
        yield (
            "Further audits looked at the pairs themselves; what these found is covered by no guarantee and"
            " stays with the owner."
        )


def _folding(told: Mapping[str, Any] | None) -> Iterator[str]:
    if not told:
        return
    yield "## Normalisation"
    yield (
        f"{told['original']} was trained with GroupNorm, which is slow on a device. It was folded into the"
        f" convolutions ({told['architecture']}) and the embedding learnt back in {told['num_steps']} steps"
        f" on {told['inputs']}. Mean cosine to the trained student's embedding on such pictures:"
        f" {told['cosine_before']:.4f} before these steps, {told['cosine']:.4f} after."
        f" {told['metric_name']} on held-out data: {told['metric_original']:.4f} as trained,"
        f" {told['metric']:.4f} folded. The table above compares the files with the folded student."
    )


def _calibration(report: Mapping[str, Any]) -> str:
    if not report["calibration"]:
        return "None was needed: no profile of this folder holds ranges taken from data."
    return f"Ranges of 8-bit arithmetic come from {report['calibration']}."


def _table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join("| " + " | ".join(_cell(cell) for cell in line) + " |" for line in lines)


def _cell(text: str) -> str:
    """Text of ours with names of others in it: no end of a row or a cell, and no HTML."""
    return printable(text.replace("\n", " ")).replace("|", "\\|").replace("<", "&lt;")


def _list(items: Iterable[str]) -> str:
    return "\n".join(f"- {printable(item).replace('<', '&lt;')}" for item in items)
