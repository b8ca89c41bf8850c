"""The module that is exported: bytes in, unit embedding and class probabilities out.

Shapes: B batch, H height, W width, C channels, S side of the student's input, D embedding dimension,
K classes.
"""

import copy

import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn
from torch.nn import functional

from edgecmd.core.errors import ExportError, choose
from edgecmd.models.students import Projected, Student, build_student, is_dense
from export.graph.frontends import FRONT_ENDS
from export.graph.spec import ExportSpec

WRAPPERS = ("_orig_mod", "_module")
EPSILON = 1e-12


class Deployable(nn.Module):
    """Front end, student, L2 norm and head as one module.

    Args:
        student: Encoder of scaled inputs (B, C, S, S); kept as it is.
        spec: What the front end and the head are.
    """

    head_weight: Tensor
    head_bias: Tensor

    def __init__(self, student: nn.Module, spec: ExportSpec) -> None:
        super().__init__()
        self.front_end = choose("front_end", spec.front_end, FRONT_ENDS).module(spec)
        self.student = student
        self.spec = spec
        if spec.head is not None:
            self.register_buffer("head_weight", torch.tensor(spec.head.weight, dtype=torch.float32))
            self.register_buffer("head_bias", torch.tensor(spec.head.bias, dtype=torch.float32))

    def forward(self, raw: Shaped[Tensor, "batch *size"]) -> tuple[Float[Tensor, "batch _ *grid"], ...]:
        """Embed a batch.

        Args:
            raw: As the front end takes it; images are uint8, (B, H, W, C), of any size.

        Returns:
            Unit embeddings (B, D); with a head also class probabilities (B, K). Of a dense student the
            embedding is the mean over its locations, and the second output are logits (B, K, H, W).
        """
        outputs = self.embed(self.front_end(raw))
        if not is_dense(self.spec.architecture) or self.spec.head is None:
            return outputs
        height, width = raw.shape[1:3]
        # The logits of what the front end appended are cut off again.
        return outputs[0], outputs[1].narrow(2, 0, height).narrow(3, 0, width)

    def embed(self, scaled: Float[Tensor, "batch _ _ _"]) -> tuple[Float[Tensor, "batch _ *grid"], ...]:
        """The same from what the front end gives; logits of a dense student are as large as that is."""
        if is_dense(self.spec.architecture):
            return self._dense(scaled)
        feature_BD = self.student(scaled)
        norm_B1 = torch.linalg.vector_norm(feature_BD, dim=1, keepdim=True)
        embedding_BD = feature_BD / norm_B1.clamp_min(EPSILON)
        if self.spec.head is None:
            return (embedding_BD,)
        logits_BK = functional.linear(embedding_BD, self.head_weight, self.head_bias)
        return embedding_BD, logits_BK.softmax(dim=1)

    def _dense(self, scaled: Float[Tensor, "batch _ _ _"]) -> tuple[Tensor, ...]:
        map_BDRQ = self.student(scaled)
        norm = torch.linalg.vector_norm(map_BDRQ, dim=1, keepdim=True)
        unit_BDRQ = map_BDRQ / norm.clamp_min(EPSILON)
        mean_BD = unit_BDRQ.mean(dim=(2, 3))
        length_B1 = torch.linalg.vector_norm(mean_BD, dim=1, keepdim=True)
        embedding_BD = mean_BD / length_B1.clamp_min(EPSILON)
        if self.spec.head is None:
            return (embedding_BD,)
        logits = functional.conv2d(unit_BDRQ, self.head_weight[..., None, None], self.head_bias)
        large = functional.interpolate(logits, size=scaled.shape[2:], mode="bilinear", align_corners=False)
        return embedding_BD, large


class Behind(Deployable):
    """Only what follows the front end: this is what the exporter traces."""

    def forward(self, scaled: Float[Tensor, "batch _ _ _"]) -> tuple[Float[Tensor, "batch _ *grid"], ...]:
        """Embed a batch of what the front end gives, see `Deployable.embed`."""
        return self.embed(scaled)


def unwrap(module: nn.Module) -> nn.Module:
    """Module inside what ``torch.compile`` and per-example gradient libraries put around it."""
    while True:
        inner = next((module._modules[name] for name in WRAPPERS if name in module._modules), None)
        if inner is None:
            return module
        module = inner


def rebuild(student: nn.Module, spec: ExportSpec) -> Student:
    """Fresh student on the CPU, in evaluation mode, with the weights of ``student``.

    The argument is not changed: its hooks, its mode and its device stay as they are.

    Raises:
        ExportError: The weights do not fit ``spec``, or one of them is not finite.
        ConfigError: ``spec.architecture`` is unknown.
    """
    inner = unwrap(student)
    weights = inner.state_dict()
    for name, weight in weights.items():
        num_bad = int((~torch.isfinite(weight)).sum())
        if num_bad:
            raise ExportError(
                f"The student's weight {name} has {num_bad} numbers that are not finite; allowed are none."
                " Export an earlier checkpoint, or train again with a smaller learning rate."
            )
    fresh = _empty(inner, spec)
    try:
        fresh.load_state_dict(weights)
    except RuntimeError as error:
        raise ExportError(
            f"The student's weights do not fit architecture={spec.architecture!r}, channels={spec.channels},"
            f" embedding_dim={spec.embedding_dim}. Give the settings that it was trained with. ({error})"
        ) from error
    return fresh.eval()


def _empty(student: nn.Module, spec: ExportSpec) -> Student:
    """A student of the same shape; of anyone's own a copy, as its class may not be made again from here."""
    if isinstance(student, Projected):
        if (student.in_channels, student.embedding_dim) != (spec.channels, spec.embedding_dim):
            raise ExportError(
                f"The student {student.architecture} takes {student.in_channels} channels and gives"
                f" {student.embedding_dim} numbers, but the export was given channels={spec.channels} and"
                f" embedding_dim={spec.embedding_dim}. Give the settings that it was trained with."
            )
        return copy.deepcopy(student).cpu()
    return build_student(
        spec.architecture,
        in_channels=spec.channels,
        embedding_dim=spec.embedding_dim,
        generator=torch.Generator().manual_seed(0),
    )
