"""Sections on what stands behind the numbers: settings, environment, limits."""

from collections.abc import Iterator, Mapping

from edgecmd.catalogue.data_sets import DATA_SETS
from edgecmd.report import scores
from edgecmd.report.markup import Row, Section, folded, listing, missing, table
from edgecmd.report.numbers import plain
from edgecmd.report.read import RunFiles, Table

CLASS_PAIRED = (
    "The pairs were matched by class: each target got some source image of the same class. The class of"
    " every pair went into making it, so the pairs are not strictly without labels, and few-label accuracy"
    " is higher than pairs found in the world would give."
)
LABELS = (
    "The labels that the probes use are held by whoever deploys the student. The clients' pairs have"
    " none, and the concepts of pairs, labels and test are all different."
)
SEEN_LABELS = (
    "The labels that the probes use are held by whoever deploys the student. The clients' pairs have"
    " none, and the {unseen} of the test are in none of the pairs."
)
DEVICES = (
    "Devices trained on pairs of their own. Neither the number of these pairs nor what they show is known"
    ' here, nor what they share with the set that was evaluated; "unseen" on this page is therefore not'
    " known to be true of them."
)
LIMITS = (
    "This is one run with one seed. Intervals are over draws of labels only; `edgecmd compare` repeats a"
    " run with several seeds.",
    "The baselines that train in a federation use the settings of this run with another loss; they were"
    " not tuned by themselves.",
    "Times are those of the machine that ran this; they are not the times of a device.",
)


NOT_PRIVATE = (
    "No differential privacy was used. Pairs stay with their client, but the weights that a client sends"
    " can tell something about them, and nothing here bounds how much."
)


def settings(run: RunFiles) -> Section:
    """Every setting but the folder that the run was written to, folded."""
    anchor, title = "settings", "Settings"
    if not run.settings:
        return Section(anchor=anchor, title=title, body=missing("config.toml", command="edgecmd run"))
    rows: list[Row] = [(key, [plain(value)]) for key, value in flat(run.settings) if key != "out"]
    numbers = table("config.toml", ["setting", "value"], rows, numeric=False)
    return Section(anchor=anchor, title=title, body=folded(f"All {len(rows)} settings", numbers))


def environment(run: RunFiles) -> Section:
    """Versions and machine."""
    anchor, title = "environment", "Environment"
    if not run.environment:
        return Section(anchor=anchor, title=title, body=missing("environment.json", command="edgecmd run"))
    rows: list[Row] = [(key, [plain(value)]) for key, value in flat(run.environment)]
    body = table("environment.json", ["what", "value"], rows, numeric=False)
    return Section(anchor=anchor, title=title, body=body)


def limits(run: RunFiles) -> Section:
    """What the numbers do not say."""
    unseen = scores.unseen(run.evaluation)
    row = DATA_SETS.get(str(run.setting("data.name")))
    items = [row.limits] if row and row.limits else []
    items += [CLASS_PAIRED] if scores.is_class_paired(run.evaluation) else []
    labels = SEEN_LABELS.format(unseen=unseen) if unseen != "concepts" else LABELS
    if scores.shared(run.evaluation):
        labels += f" But {scores.shared(run.evaluation)}."
    items += [DEVICES if run.on_devices else labels, *LIMITS]
    if not run.privacy:
        items.append(NOT_PRIVATE)
    return Section(anchor="limits", title="Limits", body=listing(items))


def flat(nested: Table, prefix: str = "") -> Iterator[tuple[str, object]]:
    """Dotted key and value of nested tables."""
    for key, value in nested.items():
        if isinstance(value, Mapping):
            yield from flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
