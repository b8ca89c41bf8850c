"""Whether a file fits a target, by how much, and what is missing, in figures and in words."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import onnx

from edgecmd.core.errors import ExportError, choose
from export.targets.activation_memory import Memory, memory_of
from export.targets.device_limits import TARGETS, Target

SIZE_KEY = "edgecmd.image_size"


class DoesNotFitError(ExportError):
    """A target that was asked for does not take the file; the file itself is sound."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Fit:
    """One file on one target.

    Attributes:
        target: Key of `TARGETS`.
        flash_bytes: Of the file.
        ram_bytes: Of values, and of weights where they are held in RAM.
        missing: Operators that the target has not.
    """

    target: str
    flash_bytes: int
    ram_bytes: int
    missing: tuple[str, ...]

    @property
    def faults(self) -> list[str]:
        """What is too much or missing, in words; empty where the file fits."""
        limits, found = TARGETS[self.target], []
        for what, needed, room in (
            ("flash", self.flash_bytes, limits.flash_bytes),
            ("RAM", self.ram_bytes, limits.ram_bytes),
        ):
            if needed > room:
                more = needed - room
                found.append(
                    f"needs {_kb(needed)} of {what}, {_kb(more)} more than the {_kb(room)} there are"
                )
        if self.missing:
            found.append(f"has no operator {', '.join(self.missing)}")
        return found

    @property
    def verdict(self) -> str:
        """One line for a person."""
        limits = TARGETS[self.target]
        if self.faults:
            return "does not fit: " + "; ".join(self.faults)
        flash, ram = limits.flash_bytes - self.flash_bytes, limits.ram_bytes - self.ram_bytes
        return f"fits: {_kb(flash)} of flash and {_kb(ram)} of RAM to spare"

    def record(self) -> dict[str, Any]:
        """The figures as a table."""
        return {
            "fits": not self.faults,
            "flash_bytes": self.flash_bytes,
            "ram_bytes": self.ram_bytes,
            "missing": list(self.missing),
        }


@dataclass(frozen=True, kw_only=True, slots=True)
class Fits:
    """One file on all targets that were asked for.

    Attributes:
        num_bytes: Of the file.
        whole: Memory of the whole graph, one input of the student's own size.
        alone: Memory of the student without the front end.
        targets: One for each target.
    """

    num_bytes: int
    whole: Memory
    alone: Memory
    targets: tuple[Fit, ...]

    def record(self) -> dict[str, Any]:
        """What ``report.json`` holds of a profile."""
        return {
            "memory": {"whole": self.whole.record(), "student_alone": self.alone.record()},
            "targets": {fit.target: fit.record() for fit in self.targets},
        }


def fits_of(data: bytes, *, targets: Iterable[str] = tuple(TARGETS)) -> Fits:
    """Whether an exported file fits targets, for one input of the student's own size.

    Args:
        data: Of an ONNX file that the exporter made, or that passed the gate.
        targets: Keys of `TARGETS`.

    Raises:
        ConfigError: A target is unknown.
        ExportError: The file does not say how large its input is, or its memory cannot be counted.
    """
    rows = {name: choose("--target", name, TARGETS) for name in targets}
    model = onnx.load_from_string(data)
    shape = own_shape(model)
    whole, alone = (memory_of(model, shape, student_alone=alone) for alone in (False, True))
    found = [
        _fit(name, row, alone if row.student_alone else whole, num_bytes=len(data))
        for name, row in rows.items()
    ]
    return Fits(num_bytes=len(data), whole=whole, alone=alone, targets=tuple(found))


def record_of(data: bytes) -> dict[str, Any]:
    """What ``report.json`` holds of a file on all targets; of one that cannot be counted, why."""
    try:
        return fits_of(data).record()
    except ExportError as error:
        return {"memory": None, "targets": {}, "not_counted": str(error)}


def _fit(name: str, row: Target, memory: Memory, *, num_bytes: int) -> Fit:
    weights = memory.expanded if row.weights_in_flash else memory.weights
    missing = () if row.operators is None else sorted(set(memory.operators) - row.operators)
    return Fit(
        target=name, flash_bytes=num_bytes, ram_bytes=memory.activations + weights, missing=tuple(missing)
    )


def own_shape(model: onnx.ModelProto) -> tuple[int, ...]:
    """Shape of one input of the size that the student sees, from what the file says of itself.

    Raises:
        ExportError: It does not say.
    """
    said = {entry.key: entry.value for entry in model.metadata_props}.get(SIZE_KEY, "")
    axes = model.graph.input[0].type.tensor_type.shape.dim
    if not said.isdecimal() or not 2 <= len(axes) <= 4:
        raise ExportError("The file does not say how large the student's input is. Export it again.")
    side = int(said)
    return (1, *(axis.dim_value or side for axis in axes[1:]))


def refuse_unfit(files: Mapping[str, Fits], *, targets: Sequence[str]) -> None:
    """Raise where no file fits a target.

    Args:
        files: By profile.
        targets: Those that were asked for.

    Raises:
        DoesNotFitError: The message has the target and what is too much or missing for each profile.
    """
    for position, target in enumerate(targets):
        fits = {name: found.targets[position] for name, found in files.items()}
        if all(fit.faults for fit in fits.values()):
            reasons = ". ".join(f"{name} {'; '.join(fit.faults)}" for name, fit in fits.items())
            raise DoesNotFitError(f"No profile fits {target}: {reasons}.")


def _kb(num_bytes: int) -> str:
    return f"{num_bytes / 1000:,.0f} kB"
