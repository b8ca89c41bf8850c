"""``edgecmd fits``, and what ``edgecmd export --target`` prints: which devices a student can run on."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated

import typer

from edgecmd.cli.app import app
from edgecmd.cli.options import AsJson, one_thread
from edgecmd.cli.output import print_json, print_table, say

if TYPE_CHECKING:
    from export.targets.fitting import Fits

TargetNames = Annotated[
    str,
    typer.Option(
        "--target", help="cortex-m7, phone, browser, pi, comma-separated; exit 6 if one is too small."
    ),
]


@app.command()
def fits(
    students: Annotated[
        list[str],
        typer.Argument(help="Bundles, run folders, ONNX files, or built-in students such as ws-50k."),
    ],
    *,
    target: TargetNames = "",
    image_size: Annotated[
        int, typer.Option("--image-size", min=16, help="Side, for a built-in student.")
    ] = 64,
    profiles: Annotated[str, typer.Option("--profiles", help="For a built-in student.")] = "fp32,w8,int8",
    as_json: AsJson = False,
) -> None:
    """Which devices can it run on? Flash, RAM and operators against the limits of each target."""
    from export.targets.asked_for import files_of
    from export.targets.device_limits import TARGETS
    from export.targets.fitting import fits_of, refuse_unfit

    one_thread()
    targets = target_names(target)
    found = {
        student: {
            name: fits_of(data, targets=targets or TARGETS)
            for name, data in files_of(student, image_size=image_size, profiles=profiles).items()
        }
        for student in students
    }
    if as_json:
        print_json(
            {student: {name: one.record() for name, one in files.items()} for student, files in found.items()}
        )
    else:
        for student, files in found.items():
            show_fits(student, files)
    for files in found.values():
        refuse_unfit(files, targets=targets)


def target_names(text: str) -> tuple[str, ...]:
    """Targets of a list such as ``phone,pi``; none for an empty one.

    Raises:
        ConfigError: A name is unknown.
    """
    from edgecmd.core.errors import choose
    from export.targets.device_limits import TARGETS

    names = tuple(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))
    for name in names:
        choose("--target", name, TARGETS)
    return names


def show_fits(student: str, files: "Mapping[str, Fits]") -> None:
    """Print the table of one student, and a sentence for each profile and target."""
    rows = [
        [
            name,
            f"{one.num_bytes / 1000:,.0f}",
            *(f"{part.activations / 1000:,.0f}" for part in (one.whole, one.alone)),
            f"{one.whole.weights / 1000:,.0f}",
            f"{one.whole.expanded / 1000:,.0f}",
            *("yes" if not fit.faults else "no" for fit in one.targets),
        ]
        for name, one in files.items()
    ]
    names = [fit.target for fit in next(iter(files.values())).targets]
    print_table(
        f"{student}: one input, in kB",
        ["profile", "file", "values", "of the student alone", "weights", "of them expanded", *names],
        rows,
    )
    for name, one in files.items():
        for fit in one.targets:
            say(f"{fit.target}, {name}: {fit.verdict}.")
