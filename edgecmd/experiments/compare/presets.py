"""Named comparisons, one a modality pair: the settings that a table was made with.

A preset is a list of overrides, the same that ``--set`` takes; what the user sets comes after it.
"""

from dataclasses import dataclass

from edgecmd.core.errors import choose
from edgecmd.experiments.compare.methods import EVERY, PRESIMCLR

Overrides = tuple[str, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Preset:
    """What a comparison on one modality pair is made with.

    Attributes:
        data: Data set and image sizes.
        fast: Student, rounds, batch and labels of the form that takes minutes.
        full: The same of the form that takes hours.
        headline: Metric that the verdict is about: a few-label score where the set has classes.
        tuned_labels: Labels a class that all layers are fine-tuned with in the fast form; the full form
            fine-tunes with every number of labels.
        methods: Methods that suit the pair.
        tune: Whether a learning rate is chosen for each method.
    """

    data: Overrides
    fast: Overrides
    full: Overrides
    headline: str
    tuned_labels: tuple[int, ...]
    methods: tuple[str, ...] = EVERY
    tune: bool = True


SMALL = ("data.image_size=32", "data.source_size=64")
# Teacher of photographs; `objects` and `rooms` have it anyway.
PHOTOGRAPHS = 'teacher.name="imagenet"'
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
# A new person says each digit once, three times or five times; the others' recordings are in the pairs.
NEW_SPEAKER = ('data.held_out="jackson"', 'data.labels_from="jackson"')
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
# Segmentation: methods that look at places. No grid of rates: a score within the pool would need its masks.
PLACES = (
    *("cmc", "cmd", "cmc+cmd", "cmc-anchored", "cmd-anchored", "cmc+cmd-anchored"),
    *("l2", "socket", "seed", "crd", "scratch", "teacher-source", "untrained"),
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

PAIRS: dict[str, Preset] = {
    "emoji": Preset(
        data=("data.name=emoji", *SMALL, PHOTOGRAPHS),
        fast=FAST,
        full=FULL,
        headline="linear_10",
        tuned_labels=(10,),
    ),
    "objects": Preset(
        data=("data.name=objects", *SMALL), fast=FAST, full=FULL, headline="linear_10", tuned_labels=(10,)
    ),
    "rooms": Preset(
        data=("data.name=rooms", "data.image_size=64", "data.source_size=64"),
        fast=FAST_PLACES,
        full=FULL_PLACES,
        headline="miou_10",
        tuned_labels=(),
        methods=PLACES,
        tune=False,
    ),
    "emoji-scenes": Preset(
        data=("data.name=emoji-scenes", PHOTOGRAPHS),
        fast=FAST_PLACES,
        full=FULL_PLACES,
        headline="miou_10",
        tuned_labels=(),
        methods=PLACES,
        tune=False,
    ),
    "digits": Preset(
        data=("data.name=digits", *NEW_SPEAKER),
        fast=FAST_AUDIO,
        full=FULL_AUDIO,
        headline="linear_1",
        tuned_labels=(1,),
        methods=tuple(name for name in EVERY if name != PRESIMCLR),
    ),
}


def preset_of(pair: str) -> Preset:
    """The preset that ``--pair`` names.

    Raises:
        ConfigError: There is none of that name; the message has the nearest.
    """
    return choose("--pair", pair, PAIRS)


def overrides_of(pair: str, *, fast: bool) -> list[str]:
    """Settings of ``--pair``, as ``--set`` would give them; the run is named after pair and form.

    Raises:
        ConfigError: There is no such pair.
    """
    preset = preset_of(pair)
    form = preset.fast if fast else preset.full
    return [*preset.data, *form, f'name="{pair}-{"fast" if fast else "full"}"']


def tuned_labels_of(preset: Preset, num_labels: tuple[int, ...], *, fast: bool) -> tuple[int, ...]:
    """Numbers of labels that fine-tuning is measured with, of those that the probe is measured with."""
    return tuple(count for count in num_labels if not fast or count in preset.tuned_labels)
