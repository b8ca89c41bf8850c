"""Labelled examples of the target modality, held by whoever deploys; never by a client."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int, Shaped

from edgecmd.core.errors import DataError
from edgecmd.data.modalities.table import modality_of
from edgecmd.data.pairs import Targets, fingerprint
from edgecmd.data.stored.array_files import Examples, chosen
from edgecmd.data.stored.kept_rows import of_each_row
from edgecmd.data.stored.store import Form

UNLABELLED = -1
IGNORED = 255


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Labels:
    """One labelling of N examples.

    Attributes:
        values: Class of each example, (N,), or `UNLABELLED`.
        names: Name of each class.
    """

    values: Int[np.ndarray, " num"]
    names: tuple[str, ...]

    def __post_init__(self) -> None:
        if self.values.size and not UNLABELLED <= self.values.min() <= self.values.max() < len(self.names):
            raise DataError(
                f"Labels from {self.values.min()} to {self.values.max()} do not fit {len(self.names)} names."
            )

    def take(self, rows: np.ndarray) -> "Labels":
        """Labels at ``rows``."""
        return Labels(values=self.values[rows], names=self.names)


def shown_classes(values: Examples) -> list[int]:
    """Classes that a pixel of some masks, uint8 (N, H, W), has; `IGNORED` is none."""
    every = of_each_row(values, "classes", _shown, form=Form(shape=(256,), dtype=np.dtype(bool)))
    return [one for one in np.flatnonzero(every.any(axis=0)).tolist() if one != IGNORED]


def _shown(part: np.ndarray) -> np.ndarray:
    return np.stack([np.bincount(one.ravel(), minlength=256) > 0 for one in part])


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Masks:
    """A class for each pixel of N examples.

    Attributes:
        values: Class of each pixel, uint8, (N, H, W), or `IGNORED` where it neither teaches nor counts.
        names: Name of each class.
    """

    values: Shaped[Examples, "*_"]
    names: tuple[str, ...]

    def __post_init__(self) -> None:
        if self.values.dtype != np.uint8 or self.values.ndim != 3:
            raise DataError(
                f"Masks have dtype={self.values.dtype} and shape={self.values.shape}; allowed is uint8 of"
                " shape (num, height, width)."
            )
        stray = [one for one in shown_classes(self.values) if one >= len(self.names)]
        if stray:
            raise DataError(
                f"Masks hold class {stray[0]}; allowed is 0 to {len(self.names) - 1}, one for each of"
                f" {len(self.names)} names, or {IGNORED} for ignored pixels."
            )

    def take(self, rows: np.ndarray) -> "Masks":
        """Masks at ``rows``."""
        return Masks(values=chosen(self.values, rows), names=self.names)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class LabelledTarget:
    """Examples of the target modality with one or more labellings.

    Attributes:
        target: Of any modality; N in the first axis.
        labels: Labellings by name; the built-in set has ``group``, ``subgroup``, ``concept``, ``style``.
        masks: Classes of the pixels, for segmentation; None where nobody labelled them.
    """

    target: Targets
    labels: Mapping[str, Labels]
    masks: Masks | None = None

    def __post_init__(self) -> None:
        modality_of(self.target, name="LabelledTarget.target")
        for name, labels in self.labels.items():
            if len(labels.values) != len(self.target):
                raise DataError(
                    f"Labelling {name!r} has {len(labels.values)} rows for {len(self.target)} targets."
                )
        if self.masks is not None and self.masks.values.shape != self.target.shape[:3]:
            raise DataError(
                f"Masks of shape {self.masks.values.shape} do not fit targets of shape {self.target.shape};"
                " allowed is one class for each pixel of each target."
            )

    def __len__(self) -> int:
        return len(self.target)

    def take(self, rows: np.ndarray) -> "LabelledTarget":
        """Examples at ``rows`` with all their labellings."""
        labels = {name: one.take(rows) for name, one in self.labels.items()}
        masks = None if self.masks is None else self.masks.take(rows)
        return LabelledTarget(target=chosen(self.target, rows), labels=labels, masks=masks)

    def fingerprint(self) -> str:
        """SHA-256 of the targets."""
        return fingerprint(self.target)
