"""Labelled examples of the target modality, held by whoever deploys; never by a client."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int

from edgecmd.data.pairs import Targets, fingerprint, target_kind
from edgecmd.errors import DataError

UNLABELLED = -1


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


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class LabelledTarget:
    """Examples of the target modality with one or more labellings.

    Attributes:
        target: See `edgecmd.data.pairs.TARGETS`; N in the first axis.
        labels: Labellings by name; the built-in set has ``group``, ``subgroup``, ``concept``, ``style``.
    """

    target: Targets
    labels: Mapping[str, Labels]

    def __post_init__(self) -> None:
        target_kind(self.target, name="LabelledTarget.target")
        for name, labels in self.labels.items():
            if len(labels.values) != len(self.target):
                raise DataError(
                    f"Labelling {name!r} has {len(labels.values)} rows for {len(self.target)} targets."
                )

    def __len__(self) -> int:
        return len(self.target)

    def take(self, rows: np.ndarray) -> "LabelledTarget":
        """Examples at ``rows`` with all their labellings."""
        labels = {name: one.take(rows) for name, one in self.labels.items()}
        return LabelledTarget(target=self.target[rows], labels=labels)

    def fingerprint(self) -> str:
        """SHA-256 of the targets."""
        return fingerprint(self.target)
