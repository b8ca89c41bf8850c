"""A user's own network behind the preprocessing it was trained with: crop, size and scale.

Shapes: B batch, H height, W width, D embedding dimension.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from edgecmd.core.errors import ConfigError
from edgecmd.data.modalities.image import SOURCE_OFFSET, SOURCE_SCALE
from edgecmd.models.digests import whole_digest

# Of pictures on the scale of 0 to 1 that are left as they are.
PLAIN_MEAN, PLAIN_STD = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
# How many pictures a network is shown at a time.
FEW = 32


@dataclass(frozen=True, kw_only=True, slots=True)
class Preparation:
    """What is done with RGB images before a network sees them; None where it is left to the network.

    Attributes:
        size: Side in pixels to which images are brought (bilinear, antialiased).
        mean: Of each colour, on the scale of 0 to 1.
        std: The same for the standard deviation.
        crop: Share of height and width, about the middle, that is kept before that.

    Raises:
        ConfigError: A number is out of range.
    """

    size: int | None = None
    mean: Sequence[float] | None = None
    std: Sequence[float] | None = None
    crop: float | None = None

    def __post_init__(self) -> None:
        size, crop = self.size, self.crop
        if size is not None and not (_is_number(size, int) and 1 <= size <= 4096):
            raise ConfigError(f"size={size!r} of a teacher's images is not a whole number in 1..4096 pixels.")
        if crop is not None and not (_is_number(crop, int, float) and 0 < crop <= 1):
            raise ConfigError(
                f"crop={crop!r} of a teacher's images is not a share above 0, up to 1. Give 1 to crop"
                " nothing."
            )
        for name, values, least in (("mean", self.mean, -np.inf), ("std", self.std, 0.0)):
            if values is not None:
                _refuse_colours(name, values, least=least)

    @property
    def given(self) -> tuple[str, ...]:
        """Names of what is not left to the network."""
        return tuple(name for name in ("size", "mean", "std", "crop") if getattr(self, name) is not None)

    def over(self, own: "Preparation") -> "Preparation":
        """This, and what it leaves open as ``own`` has it."""
        return Preparation(
            size=own.size if self.size is None else self.size,
            mean=own.mean if self.mean is None else self.mean,
            std=own.std if self.std is None else self.std,
            crop=own.crop if self.crop is None else self.crop,
        )


def _is_number(value: object, *kinds: type) -> bool:
    return isinstance(value, kinds) and not isinstance(value, bool)


def _refuse_colours(name: str, values: Sequence[float], *, least: float) -> None:
    numbers = np.asarray(values)
    fits = numbers.shape == (3,) and numbers.dtype.kind in "iuf"
    if not (fits and np.isfinite(numbers).all() and (numbers > least).all()):
        more = " above 0" if name == "std" else ""
        raise ConfigError(
            f"{name}={values!r} of a teacher is not three finite numbers{more}. Give one for each of red,"
            " green and blue, on a scale of 0 to 1."
        )


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Opened:
    """A network that a name stands for.

    Attributes:
        module: (B, 3, H, W) to (B, D), of images as ``own`` makes them.
        about: What reports call it.
        identity: What tells it from others beside its class and its tensors; empty where these say all.
        own: How its images are made where nobody says otherwise.
    """

    module: nn.Module
    about: str
    identity: str = ""
    own: Preparation = field(default_factory=Preparation)


class Prepared(nn.Module):
    """A network behind the cut, side and scale that it was trained with.

    Args:
        module: (B, 3, H, W) to (B, D).
        seen: What it is shown; what is open there is left as it is.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, module: nn.Module, seen: Preparation) -> None:
        super().__init__()
        self.module, self.size, self.crop = module, seen.size, 1.0 if seen.crop is None else seen.crop
        mean, std = (
            PLAIN_MEAN if seen.mean is None else seen.mean,
            PLAIN_STD if seen.std is None else seen.std,
        )
        for name, values in (("mean", mean), ("std", std)):
            self.register_buffer(name, torch.tensor(values, dtype=torch.float32).view(1, 3, 1, 1))

    def forward(self, image: Float[Tensor, "batch 3 height width"]) -> Tensor:
        """Embed a batch of inputs, see `edgecmd.data.student_input.source_input`; a few at a time, (B, D)."""
        return torch.cat([self._embedded(few) for few in torch.split(image, FEW)])

    def _embedded(self, image: Tensor) -> Tensor:
        if self.crop < 1:
            image = _middle(image, self.crop)
        if self.size is not None and image.shape[2:] != (self.size, self.size):
            sides = (self.size, self.size)
            image = functional.interpolate(
                image, size=sides, mode="bilinear", align_corners=False, antialias=True
            )
        found: Tensor = self.module((image * SOURCE_SCALE + SOURCE_OFFSET - self.mean) / self.std)
        return found.float() if isinstance(found, Tensor) else found

    def fingerprint(self, identity: str = "") -> str:
        """SHA-256 of the network and of what it is shown.

        Args:
            identity: What tells it from others beside its class and its tensors; empty where it has to be
                found out, from every number and text that the module keeps.
        """
        if not identity:
            return whole_digest(self)
        kind, crop = type(self.module), "" if self.crop == 1 else f":{self.crop!r}"
        text = f"{kind.__module__}.{kind.__qualname__}:{self.size}{crop}:{identity}"
        digest = hashlib.sha256(text.encode())
        for name, value in sorted(self.state_dict().items()):
            plain = value.detach().cpu().contiguous()
            digest.update(f"{name}:{plain.dtype}:{tuple(plain.shape)}".encode())
            digest.update(plain.flatten().view(torch.uint8).numpy().data)
        return digest.hexdigest()


def _middle(image: Tensor, share: float) -> Tensor:
    """The middle of images, a share of each side, one pixel at least."""
    kept = [max(1, round(side * share)) for side in image.shape[2:]]
    top, left = ((side - one) // 2 for side, one in zip(image.shape[2:], kept, strict=True))
    return image[:, :, top : top + kept[0], left : left + kept[1]]
