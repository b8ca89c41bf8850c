"""Named comparisons, one a modality pair: the settings that a table was made with.

A preset is a list of overrides, the same that ``--set`` takes; what the user sets comes after it.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from edgecmd.errors import choose

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
        without: Methods that do not suit the pair.
    """

    data: Overrides
    fast: Overrides
    full: Overrides
    headline: str
    tuned_labels: tuple[int, ...]
    without: frozenset[str] = frozenset()


ICONS = ("data.image_size=32", "data.source_size=64")
NO_PROGRESS = "evaluate.every_rounds=0"
FAST = (
    "student.architecture=ws-50k",
    "distill.batch_size=32",
    "federation.num_rounds=24",
    "evaluate.num_draws=3",
    NO_PROGRESS,
)
FULL = ("student.architecture=ws-200k", "federation.num_rounds=100", "evaluate.num_draws=5", NO_PROGRESS)
# The digits' label pool holds 15 recordings a class, or 5 of one speaker.
FEW = "evaluate.num_labels=1,5,0"
FAST_AUDIO = (
    "student.architecture=audio-50k",
    "distill.batch_size=32",
    "federation.num_rounds=16",
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

PAIRS: dict[str, Preset] = {
    "emoji": Preset(
        data=("data.name=emoji", *ICONS), fast=FAST, full=FULL, headline="linear_10", tuned_labels=(10,)
    ),
    "digits": Preset(
        data=("data.name=digits",),
        fast=FAST_AUDIO,
        full=FULL_AUDIO,
        headline="linear_1",
        tuned_labels=(1,),
        without=frozenset({"presimclr"}),
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


def titles() -> Mapping[str, str]:
    """Data set by pair, for messages."""
    return {name: preset.data[0].partition("=")[2] for name, preset in PAIRS.items()}
