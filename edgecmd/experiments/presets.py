"""What ``--pair`` stands for: settings of a data set, and the forms in which methods are compared on it.

Which sets have which is in their rows (`edgecmd.catalogue.data_sets`). All of it is overrides, the same that
``--set`` takes; what the user sets comes after them.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from edgecmd.catalogue.data_sets import DATA_SETS
from edgecmd.core.errors import choose
from edgecmd.experiments.compare.methods import EVERY, PRESIMCLR, TEACHER

Overrides = tuple[str, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Form:
    """What a comparison on one kind of data is made with.

    Attributes:
        fast: Student, rounds, batch and labels of the form that takes minutes.
        full: The same of the form that takes hours.
        headline: Metric that the verdict is about: a few-label score where the set has classes.
        tuned_labels: Labels per class that all layers are fine-tuned with in the fast form; the full form
            fine-tunes with every number of labels.
        methods: Methods that suit the data.
        tune: Whether a learning rate is chosen for each method.
    """

    fast: Overrides
    full: Overrides
    headline: str
    tuned_labels: tuple[int, ...]
    methods: tuple[str, ...] = EVERY
    tune: bool = True


NO_PROGRESS = "evaluate.every_rounds=0"
FAST = (
    "student.architecture=ws-50k",
    "distill.batch_size=32",
    "federation.num_rounds=24",
    "federation.client_fraction=0.5",
    "evaluate.num_draws=3",
    NO_PROGRESS,
)
FULL = ("student.architecture=ws-200k", "federation.num_rounds=100", "evaluate.num_draws=5", NO_PROGRESS)
FEW = "evaluate.num_labels=1,3,0"
FAST_AUDIO = (
    "student.architecture=audio-50k",
    "distill.batch_size=32",
    "federation.num_rounds=16",
    "federation.client_fraction=0.5",
    "evaluate.num_draws=5",
    FEW,
    NO_PROGRESS,
)
FULL_AUDIO = (
    "student.architecture=audio-200k",
    "federation.num_rounds=60",
    "evaluate.num_draws=5",
    FEW,
    NO_PROGRESS,
)
FAST_STRINGS = (
    "student.architecture=ngram-1m",
    "distill.batch_size=64",
    "federation.num_rounds=40",
    "federation.client_fraction=0.25",
    "evaluate.num_draws=3",
    FEW,
    NO_PROGRESS,
)
FULL_STRINGS = (
    "student.architecture=ngram-4m",
    "distill.batch_size=256",
    "federation.num_rounds=200",
    "evaluate.num_draws=3",
    FEW,
    NO_PROGRESS,
)
# Segmentation: methods that look at places. No grid of rates: a score within the pool would need its masks.
PLACES = (
    *("cmc", "cmd", "cmc+cmd", "cmc-anchored", "cmd-anchored", "cmc+cmd-anchored"),
    *("l2", "socket", "seed", "crd", "dark", "clip-rd", "fd-cmkd"),
    *("scratch", "teacher-source", "untrained"),
)
FAST_PLACES = (
    "student.architecture=seg-50k",
    "distill.batch_size=16",
    "federation.num_rounds=12",
    "federation.client_fraction=0.5",
    "evaluate.label_percent=10",
    "evaluate.segment_steps=150",
    NO_PROGRESS,
)
FULL_PLACES = (
    "student.architecture=seg-200k",
    "federation.num_rounds=60",
    "evaluate.segment_draws=3",
    NO_PROGRESS,
)

# By what a set's row names.
FORMS: dict[str, Form] = {
    "pictures": Form(fast=FAST, full=FULL, headline="linear_10", tuned_labels=(10,)),
    "recordings": Form(
        fast=FAST_AUDIO,
        full=FULL_AUDIO,
        headline="linear_1",
        tuned_labels=(1,),
        methods=tuple(name for name in EVERY if name != PRESIMCLR),
    ),
    "strings": Form(
        fast=FAST_STRINGS,
        full=FULL_STRINGS,
        headline="recall@10",
        tuned_labels=(),
        methods=tuple(name for name in EVERY if name not in (PRESIMCLR, TEACHER)),
    ),
    "places": Form(
        fast=FAST_PLACES,
        full=FULL_PLACES,
        headline="miou_10",
        tuned_labels=(),
        methods=PLACES,
        tune=False,
    ),
}


def pair_settings(name: str, *, run: str, settings: Sequence[str] | None) -> list[str]:
    """Settings of ``--pair`` where a distance is measured, before those of the user, which count.

    Args:
        name: A data set with such settings; empty for the user's settings alone.
        run: Name of the run folder where the user gives none.
        settings: ``a.b=c`` each.

    Raises:
        ConfigError: There is no such pair.
    """
    own = list(settings or ())
    if not name:
        return own
    measured = {
        key: row.preset.measured for key, row in DATA_SETS.items() if row.preset and row.preset.measured
    }
    return [f"name={run}", f"data.name={name}", *choose("--pair", name, measured), *own]


def compared_pairs() -> dict[str, Overrides]:
    """Data settings of a comparison by the names that ``--pair`` takes."""
    return {key: row.preset.compared for key, row in DATA_SETS.items() if row.preset}


def form_of(pair: str) -> Form:
    """The form of the comparison that ``--pair`` names.

    Raises:
        ConfigError: There is none of that name; the message has the nearest.
    """
    choose("--pair", pair, compared_pairs())
    preset = DATA_SETS[pair].preset
    assert preset is not None
    return FORMS[preset.form]


def overrides_of(pair: str, *, fast: bool) -> list[str]:
    """Settings of ``--pair``, as ``--set`` would give them; the run is named after pair and form.

    Raises:
        ConfigError: There is no such pair.
    """
    form = form_of(pair)
    chosen = form.fast if fast else form.full
    name = f'name="{pair}-{"fast" if fast else "full"}"'
    return [f"data.name={pair}", *compared_pairs()[pair], *chosen, name]


def tuned_labels_of(form: Form, num_labels: tuple[int, ...], *, fast: bool) -> tuple[int, ...]:
    """Numbers of labels that fine-tuning is measured with, of those that the probe is measured with."""
    return tuple(count for count in num_labels if not fast or count in form.tuned_labels)
