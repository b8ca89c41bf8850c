"""Load a bundle: check it as if a stranger had made it, then run it as a device does.

Shapes: N inputs, H height, W width, C channels, T samples, D embedding dimension.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float

from edgecmd.arguments import refuse_other
from edgecmd.core.errors import ExportError
from edgecmd.core.files import named_path
from edgecmd.data.modalities.row import Stored
from export.device.reading import InferError
from export.device.student import Student as DeviceStudent
from export.trust.checks import verify_bundle


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Bundle:
    """An exported student that passed its checks, run as on a device.

    Attributes:
        folder: The bundle's folder.
        device: ONNX Runtime on one of its models.
    """

    folder: Path
    device: DeviceStudent

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names that `classify` returns; empty without a head."""
        return tuple(self.device.classes)

    def embed(self, raw: Stored) -> Float[np.ndarray, "num dim"]:
        """Unit embeddings, float32, (N, D).

        Args:
            raw: Inputs as a sensor delivers them, of any size: uint8 (N, H, W, C), uint16 millimetres
                (N, H, W, 1) or int16 (N, T) at the rate of the bundle.

        Raises:
            ExportError: The model takes inputs of another kind; the message says which.
        """
        try:
            return np.asarray(self.device(raw).embedding)
        except InferError as error:
            raise ExportError(str(error)) from error

    def classify(self, raw: Stored) -> list[str]:
        """The most likely class of each input.

        Args:
            raw: As in `embed`.

        Raises:
            ExportError: The bundle has no head, has one per pixel, or takes inputs of another kind.
        """
        if not self.device.classes or self.device.dense:
            what = "a class for each pixel" if self.device.dense else "no head"
            raise ExportError(
                f"{self.folder} has {what}, so it does not classify whole inputs. Export a student of whole"
                " inputs with labelled examples."
            )
        try:
            scores = np.asarray(self.device(raw).scores)
        except InferError as error:
            raise ExportError(str(error)) from error
        return [self.device.classes[row] for row in scores.argmax(axis=1)]


def load_bundle(folder: str | Path, *, profile: str = "", pub: Path | None = None) -> Bundle:
    """Load a bundle; it is checked before its model is loaded.

    Args:
        folder: Written by `export.bundle.export_bundle` or ``edgecmd export``.
        profile: Which of its models; empty for student.onnx.
        pub: Public key of its maker (PEM); if given, the bundle must be signed with the matching key.

    Guarantees:
        No code of the bundle is run, and no model is loaded that `export.trust.checks.verify_bundle` refuses.

    Raises:
        TrustError: It is not what it claims to be; the message names the first check that failed.
        ExportError: It has no such profile, or its model does not run here.
        ConfigError: An argument is not a path, or not a name.
    """
    path = named_path("folder", folder)
    refuse_other("profile", profile, str, what="the name of one of its profiles")
    verdict = verify_bundle(path, pub=None if pub is None else named_path("pub", pub))
    if verdict.error is not None:
        raise verdict.error
    try:
        return Bundle(folder=path, device=DeviceStudent(path, profile=profile or None))
    except InferError as error:
        raise ExportError(str(error)) from error
