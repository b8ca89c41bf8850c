"""What a client may hold: pairs without labels; and what is public: source images alone.

The three sets of an experiment are told apart by type and never mixed: `PublicSource`,
`PairedData` and `edgecmd.data.labelled.LabelledTarget`.

Shapes: N examples, H height, W width, C channels of the target modality, T samples of a recording.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Shaped, UInt8

from edgecmd.core.errors import ConfigError, DataError

# Anonymous axes: two sets of one call may differ in every dimension.
Images = UInt8[np.ndarray, "_ _ _ _"]
Targets = Shaped[np.ndarray, "_ *_"]
"""Of one of `TARGETS`: images, depth maps or recordings."""

# Modality of the target -> type, number of axes, and what an error says is allowed.
TARGETS: dict[str, tuple[type, int, str]] = {
    "image": (np.uint8, 4, "uint8 of shape (num, height, width, channels)"),
    "depth": (
        np.uint16,
        4,
        "uint16 millimetres of shape (num, height, width, 1), 0 where nothing was measured",
    ),
    "wave": (np.int16, 2, "int16 samples of shape (num, samples)"),
}


# Kind of a set's targets, `data.target_kind` -> channels of the student's input.
TARGET_KINDS: dict[str, int] = {"grey": 1, "rgb": 3, "depth": 2, "wave": 1}


def fingerprint(*arrays: np.ndarray) -> str:
    """SHA-256 over shape, type and bytes of ``arrays``: equal data, equal fingerprint."""
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(f"{array.dtype}{array.shape}".encode())
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


def image_digests(images: "Targets") -> list[bytes]:
    """SHA-256 of each example's pixels: equal ones are the same picture."""
    return [hashlib.sha256(np.ascontiguousarray(image).data).digest() for image in images]


def target_kind(target: np.ndarray, *, name: str = "target") -> str:
    """Modality of either half's arrays, a key of `TARGETS`, told by type and number of axes.

    Raises:
        DataError: It is none of them.
    """
    for kind, (dtype, rank, _) in TARGETS.items():
        if target.dtype == dtype and target.ndim == rank and (kind != "depth" or target.shape[3] == 1):
            return kind
    allowed = "; or ".join(text for _, _, text in TARGETS.values())
    raise DataError(
        f"{name} has dtype={target.dtype} and shape={target.shape}; allowed is {allowed}."
        " Convert it with numpy first."
    )


def kind_of(target: np.ndarray) -> str:
    """Key of `TARGET_KINDS` of a set's targets.

    Raises:
        DataError: They are of no modality that is known.
    """
    kind = target_kind(target)
    if kind != "image":
        return kind
    return "rgb" if target.shape[3] == 3 else "grey"


def input_shape(target: np.ndarray) -> tuple[int, int, int]:
    """(C, H, W) of one example as a student sees it; depth brings a mask, a recording is one long line."""
    sizes: dict[str, Sequence[int]] = {
        "image": (target.shape[-1], *target.shape[1:3]),
        "depth": (2, *target.shape[1:3]),
        "wave": (1, 1, target.shape[-1]),
    }
    channels, height, width = sizes[target_kind(target)]
    return int(channels), int(height), int(width)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class PublicSource:
    """Public examples of the source modality: what teacher, anchors and calibration may see.

    Attributes:
        images: RGB images, uint8, (N, H, W, 3), 255 is white; of reversed pairs one of `TARGETS`.
        keys: One name an image (for the built-in set the house and the code points).
        name: Name of the set, for run folders and reports.
    """

    images: Targets
    keys: tuple[str, ...]
    name: str

    def __post_init__(self) -> None:
        target_kind(self.images, name="PublicSource.images")
        if len(self.keys) != len(self.images):
            raise DataError(f"PublicSource has {len(self.images)} images but {len(self.keys)} keys.")

    def __len__(self) -> int:
        return len(self.images)

    def fingerprint(self) -> str:
        """SHA-256 of the images."""
        return fingerprint(self.images)

    def pictures(self, *, use: str) -> Images:
        """The images, where they are RGB pictures.

        Args:
            use: What they are for, such as ``"A warm start"``.

        Raises:
            ConfigError: They are something else, as the public set of reversed pairs is.
        """
        if target_kind(self.images) != "image" or self.images.shape[3] != 3:
            raise ConfigError(
                f"{use} needs public pictures in colour; the public set {self.name!r} has"
                f" {self.images.dtype} of shape {self.images.shape}, as reversed pairs do (data.reverse)."
                " Leave it out."
            )
        return self.images


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class PairedData:
    """Private, unlabelled pairs of one client. There is no field that could hold a label.

    Attributes:
        source: RGB images, uint8, (N, H, W, 3); of reversed pairs (``data.reverse``) one of `TARGETS`.
        target: Of the target modality, see `TARGETS`; N in the first axis.
    """

    source: Targets
    target: Targets

    def __post_init__(self) -> None:
        target_kind(self.source, name="PairedData.source")
        target_kind(self.target, name="PairedData.target")
        if len(self.source) != len(self.target):
            raise DataError(f"{len(self.source)} source images against {len(self.target)} targets.")

    def __len__(self) -> int:
        return len(self.source)

    def take(self, rows: np.ndarray) -> "PairedData":
        """Pairs at ``rows``, in that order."""
        return PairedData(source=self.source[rows], target=self.target[rows])

    def reversed(self) -> "PairedData":
        """The same pairs, what was the target shown to the teacher."""
        return PairedData(source=self.target, target=self.source)

    def fingerprint(self) -> str:
        """SHA-256 of the source and target images."""
        return fingerprint(self.source, self.target)
