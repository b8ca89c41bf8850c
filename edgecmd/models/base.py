"""What every student is: `edgecmd.models.students` has those that there are.

Shapes: B batch, C channels, H height, W width, D embedding dimension.
"""

from torch import nn

from edgecmd.core.errors import ConfigError
from edgecmd.models.backbones import Matched
from edgecmd.models.batch_norm import FOLD, FREEZE, KEEP, statistics_of


class Student(nn.Module):
    """What every student is: (B, C, H, W) to (B, D), of a dense one (B, D, rows, columns); not normalised.

    Args:
        in_channels: Channels of the target modality, C.
        embedding_dim: Dimension of the teacher's feature, D.

    Attributes:
        architecture: A key of `STUDENTS`, ``module:factory`` or ``timm:NAME``; of an object without a name
            ``<its class>``.
        size: Height and width that it was tried on; None for students that take every size.
        projector: Its last layer, which `DistillConfig.freeze_projector` is about; ``nn.Identity`` where the
            layer that gives the embedding is somewhere inside.
        open_seed: Seed of its first weights where it was made by name without saying for which inputs; see
            `fitted`.
        origin: What a trained one was distilled on, for `edgecmd.export` and `edgecmd.evaluate`.
        batch_norm: What its batch normalisation became, a key of `edgecmd.models.batch_norm.BATCH_NORM`.
        first_weights: What a file of first weights gave; None where there was none.
        seen: Offset and scale of the inputs that pretrained first weights are made for; None: of any.
        trainable: What of it is trained, a key of `edgecmd.models.trained_part.TRAINABLE`.
        held: Names of the weights that are not.
        largest_input: Made-up inputs, such as those of a probe, lie between 0 and this.
    """

    architecture: str = ""
    size: tuple[int, int] | None = None
    projector: nn.Module
    open_seed: int | None = None
    origin: object | None = None
    batch_norm: str = KEEP
    first_weights: Matched | None = None
    seen: tuple[float, float] | None = None
    trainable: str = "all"
    held: frozenset[str] = frozenset()
    largest_input: float = 1.0

    @property
    def fixed(self) -> frozenset[str]:
        """Names in its state of what no training may change: statistics and weights that are held."""
        return self.held | (statistics_of(self) if self.batch_norm in (FREEZE, FOLD) else frozenset())

    def __init__(self, *, in_channels: int, embedding_dim: int) -> None:
        super().__init__()
        self.in_channels, self.embedding_dim = in_channels, embedding_dim


def refuse_channels(num: int, *, what: str) -> None:
    """Refuse a student of lines for inputs of several channels."""
    if num != 1:
        raise ConfigError(
            f"A student of {what} takes 1 channel, not {num}; for images set student.architecture to one of"
            " the ws-* or gn-* students."
        )
