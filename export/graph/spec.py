"""What an exported file records about the student: shapes, preprocessing and head.

Shapes: K classes, D embedding dimension.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from edgecmd.core.errors import ExportError
from edgecmd.models.students import is_dense
from edgecmd.settings import FITS, SQUEEZE
from export.graph.front_graph import KINDS

FORMAT_VERSION = "1"
# A mask has a byte a pixel.
MOST_MASK_CLASSES = 256
# What the classes of a bundle were made of.
LINEAR, MASKS = "linear head on labelled examples", "all layers fine-tuned on labelled masks"
EXAMPLES = "prototypes, no training"


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class LinearHead:
    """Linear classifier on the unit embedding; its softmax is the output ``scores``.

    For a dense student it classifies the unit embedding of each location; logits at the size of the input
    are the output ``mask``.

    Attributes:
        weight: (K, D).
        bias: (K,).
        names: Name of each class, K different ones.

    Raises:
        ExportError: The shapes do not fit, a number is not finite, or two classes have one name.
    """

    weight: Float[np.ndarray, "classes dim"]
    bias: Float[np.ndarray, " classes"]
    names: tuple[str, ...]

    def __post_init__(self) -> None:
        num = len(self.names)
        if num < 2 or self.weight.shape[:1] != (num,) or self.weight.ndim != 2 or self.bias.shape != (num,):
            raise ExportError(
                f"The head has weight.shape={self.weight.shape}, bias.shape={self.bias.shape}, {num} names;"
                " allowed are (K, D), (K,) and K >= 2. A binary classifier also needs one row per class."
            )
        if len(set(self.names)) != num:
            raise ExportError(f"The head's names={self.names} are not all different. Rename the classes.")
        if not (np.isfinite(self.weight).all() and np.isfinite(self.bias).all()):
            raise ExportError("The head has numbers that are not finite. Fit it again.")


@dataclass(frozen=True, kw_only=True, slots=True)
class ExportSpec:
    """All that the exported file must know beside the weights.

    Attributes:
        architecture: A key of `edgecmd.models.students.STUDENTS`.
        image_size: Side of the square that the student sees, in pixels; of recordings and strings, their
            usual length in samples or bytes.
        channels: Channels that the student sees; of depth 2, the metres and the mask.
        embedding_dim: Dimension of the embedding, D.
        offset: ``data.target_offset``: the value in [0, 1] that the student sees as zero; for images alone.
        scale: ``data.target_scale``, not 0: the student sees (value - offset) / scale; for images alone.
        license: Licence of the weights, an SPDX name; written into the file.
        head: Classifier on the embedding, or None for the embedding alone.
        front_end: A key of `export.graph.frontends.FRONT_ENDS`: what the raw input is.
        fit: ``data.fit``: what the graph does with images and depth maps that are not square; of dense
            students, recordings and strings, which it does not resize, nothing.
        rate_hz: ``data.sampling_rate_hz`` of recordings, the one rate that the file takes; 0 for others.

    Raises:
        ExportError: A number is out of range, recordings have no rate or others have one, or the head has
            another embedding dimension or more classes than a mask holds.
    """

    architecture: str
    image_size: int
    channels: int
    embedding_dim: int
    offset: float
    scale: float
    license: str
    head: LinearHead | None = None
    front_end: str = "image"
    fit: str = SQUEEZE
    rate_hz: int = 0

    def __post_init__(self) -> None:
        for name in ("image_size", "channels", "embedding_dim"):
            if getattr(self, name) < 1:
                raise ExportError(f"{name}={getattr(self, name)} must be at least 1.")
        if self.fit not in FITS:
            raise ExportError(f"fit={self.fit!r:.80} is unknown. Allowed: {', '.join(FITS)}.")
        kind = KINDS.get(self.front_end)
        if (self.rate_hz > 0) != (kind is not None and kind.has_rate):
            raise ExportError(
                f"rate_hz={self.rate_hz} does not go with front_end={self.front_end!r}. Recordings need the"
                " rate that the student was trained at (data.sampling_rate_hz; for pairs in Python"
                " Pairs(sampling_rate_hz=...)); other inputs have none."
            )
        if not (np.isfinite(self.offset) and np.isfinite(self.scale) and self.scale):
            raise ExportError(f"offset={self.offset} and scale={self.scale} must be finite, scale not 0.")
        if self.head is not None and self.head.weight.shape[1] != self.embedding_dim:
            raise ExportError(
                f"The head takes {self.head.weight.shape[1]} numbers but embedding_dim={self.embedding_dim}."
                " Fit it on the embeddings of this student."
            )
        num = 0 if self.head is None else len(self.head.names)
        if num > MOST_MASK_CLASSES and is_dense(self.architecture):
            raise ExportError(
                f"The head of a dense student has {num} classes; a mask holds at most {MOST_MASK_CLASSES}."
                " Merge classes, or export without a head."
            )

    @property
    def output_names(self) -> tuple[str, ...]:
        """Outputs of the file, in order."""
        if self.head is None:
            return ("embedding",)
        return ("embedding", "mask" if is_dense(self.architecture) else "scores")

    @property
    def raw_channels(self) -> int:
        """Channels of the raw input: of depth 1, of which the student sees metres and mask."""
        return KINDS[self.front_end].raw_channels(self.channels)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(S, S, C) of an image that the graph need not resize."""
        return (self.image_size, self.image_size, self.channels)
