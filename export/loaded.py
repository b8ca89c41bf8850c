"""A bundle read again: checked as a stranger's, then run as a device runs it.

Shapes: N inputs, H height, W width, C channels, T samples, D embedding dimension.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float

from edgecmd.core.errors import ExportError
from edgecmd.core.files import named_path
from edgecmd.data.modalities.row import Stored
from edgecmd.settings import refuse_other
from export.device.infer import Student as DeviceStudent
from export.device.reading import InferError
from export.trust.checks import verify_bundle


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Bundle:
    """An exported student that was checked, as a device runs it.

    Attributes:
        folder: Where it lies.
        device: ONNX Runtime on one of its models.
    """

    folder: Path
    device: DeviceStudent

    @property
    def classes(self) -> tuple[str, ...]:
        """Names that `classify` answers with; empty without a head."""
        return tuple(self.device.classes)

    def embed(self, raw: Stored) -> Float[np.ndarray, "num dim"]:
        """Unit embeddings, float32, (N, D).

        Args:
            raw: Inputs as a sensor gives them, of any size: uint8 (N, H, W, C), uint16 millimetres
                (N, H, W, 1) or int16 (N, T) at the rate of the bundle.

        Raises:
            ExportError: The model takes inputs of another kind; the message has what it takes.
        """
        try:
            return np.asarray(self.device(raw).embedding)
        except InferError as error:
            raise ExportError(str(error)) from error

    def classify(self, raw: Stored) -> list[str]:
        """The likeliest class of each input.

        Args:
            raw: As of `embed`.

        Raises:
            ExportError: The bundle has no head, has one for each pixel, or takes inputs of another kind.
        """
        if not self.device.classes or self.device.dense:
            what = "a class for each pixel" if self.device.dense else "no head"
            raise ExportError(
                f"{self.folder} has {what}, so it tells no class of a whole input. Export a student of whole"
                " inputs with labelled examples."
            )
        try:
            scores = np.asarray(self.device(raw).scores)
        except InferError as error:
            raise ExportError(str(error)) from error
        return [self.device.classes[row] for row in scores.argmax(axis=1)]


def load_bundle(folder: str | Path, *, profile: str = "", pub: Path | None = None) -> Bundle:
    """A bundle, checked before its model is loaded.

    Args:
        folder: What `export.bundle.export_bundle` or ``edgecmd export`` wrote.
        profile: Which of its models; empty for student.onnx.
        pub: Public key of its maker (PEM); with it the bundle must be signed by its owner.

    Guarantees:
        No code of the bundle is run, and no model is loaded that `export.trust.checks.verify_bundle` refuses.

    Raises:
        TrustError: It is not what it claims to be; the message has the first check that failed.
        ExportError: It has no such profile, or its model does not run here.
        ConfigError: An argument is no path, or no name.
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
