"""What a client may hold: pairs without labels; and what is public: only source images.

The three sets of an experiment are told apart by type and never mixed: `PublicSource`,
`PairedData` and `edgecmd.data.labelled.LabelledTarget`.

Shapes: N examples, H height, W width.
"""

import hashlib
from dataclasses import dataclass

import numpy as np
from jaxtyping import Shaped, UInt8

from edgecmd.core.errors import ConfigError, DataError
from edgecmd.data.modalities.table import kind_of, modality_of
from edgecmd.data.stored.array_files import Examples, chosen, chunks

Images = UInt8[Examples, "_ _ _ _"]
Targets = Shaped[Examples, "_ *_"]
"""Of one of `edgecmd.data.modalities.table.MODALITIES`."""


def fingerprint(*arrays: Examples) -> str:
    """SHA-256 over shape, type and bytes of ``arrays``: equal data, equal fingerprint."""
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(f"{array.dtype}{array.shape}".encode())
        for part in chunks(array) if array.ndim else (array,):
            digest.update(np.ascontiguousarray(part).data)
    return digest.hexdigest()


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class PublicSource:
    """Public examples of the source modality: what teacher, anchors and calibration may see.

    Attributes:
        images: RGB images, uint8, (N, H, W, 3), 255 is white; of reversed pairs of any modality.
        keys: One name an image (for the built-in set the house and the code points).
        name: Name of the set, for run folders and reports.
    """

    images: Targets
    keys: tuple[str, ...]
    name: str

    def __post_init__(self) -> None:
        modality_of(self.images, name="PublicSource.images")
        if len(self.keys) != len(self.images):
            raise DataError(f"PublicSource has {len(self.images)} images but {len(self.keys)} keys.")

    def __len__(self) -> int:
        return len(self.images)

    def fingerprint(self) -> str:
        """SHA-256 of the images."""
        return fingerprint(self.images)

    def pictures(self, *, use: str) -> Images:
        """The images, where they are RGB images.

        Args:
            use: What they are for, such as ``"A warm start"``.

        Raises:
            ConfigError: They are something else, as the public set of reversed pairs is.
        """
        if kind_of(self.images) != "rgb":
            raise ConfigError(
                f"{use} needs public images in colour; the public set {self.name!r} has {self.images.dtype}"
                f" of shape {self.images.shape}, as reversed pairs do (data.reverse). Leave it out."
            )
        return self.images


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class PairedData:
    """Private, unlabelled pairs of one client. There is no field that could hold a label.

    Attributes:
        source: RGB images, uint8, (N, H, W, 3); of reversed pairs (``data.reverse``) of any modality.
        target: Of the target modality; N in the first axis.
    """

    source: Targets
    target: Targets

    def __post_init__(self) -> None:
        modality_of(self.source, name="PairedData.source")
        modality_of(self.target, name="PairedData.target")
        if len(self.source) != len(self.target):
            raise DataError(f"{len(self.source)} source images against {len(self.target)} targets.")

    def __len__(self) -> int:
        return len(self.source)

    def take(self, rows: np.ndarray) -> "PairedData":
        """Pairs at ``rows``, in that order."""
        return PairedData(source=chosen(self.source, rows), target=chosen(self.target, rows))

    def reversed(self) -> "PairedData":
        """The same pairs, what was the target shown to the teacher."""
        return PairedData(source=self.target, target=self.source)

    def fingerprint(self) -> str:
        """SHA-256 of the source and target images."""
        return fingerprint(self.source, self.target)
