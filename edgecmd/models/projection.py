"""Fewer dimensions that keep most of a teacher's feature: principal components, the same on every call.

Shapes: N images or rows, C channels of the network's pooled map, D embedding dimension.
"""

import numpy as np
import torch
from jaxtyping import Float

from edgecmd.core.errors import ConfigError
from edgecmd.data.modalities.table import source_input
from edgecmd.data.pairs import Images
from edgecmd.models.devices import device_of
from edgecmd.models.trunks.efficientnet import EfficientNetLite0

BATCH_SIZE = 64


def principal_components(
    rows: Float[np.ndarray, "num channels"], dim: int
) -> tuple[Float[np.ndarray, " channels"], Float[np.ndarray, "channels dim"], Float[np.ndarray, " dim"]]:
    """Mean, components in the order of falling spread, and the standard deviation along each.

    Args:
        rows: Features, (N, C).
        dim: Components that are kept, D, at most C.

    Guarantees:
        A component's largest entry is positive: an eigenvector has no sign of its own.
    """
    mean = rows.mean(axis=0)
    spread, components = np.linalg.eigh(np.cov(rows - mean, rowvar=False))
    weight = components[:, ::-1][:, :dim]
    weight = weight * np.sign(weight[np.abs(weight).argmax(axis=0), np.arange(dim)])
    return mean, weight, np.sqrt(spread[::-1][:dim].clip(min=0))


@torch.no_grad()
def fit_projector(network: EfficientNetLite0, images: Images) -> None:
    """Set the projector to the principal components of public images, centred, not scaled.

    Args:
        network: Its projector is changed, nothing else.
        images: Public RGB images, uint8, (N, H, W, 3).

    Raises:
        ConfigError: There are too few images for the projector's dimension.

    Guarantees:
        A function of the network and of public images alone; no label is used.
    """
    dim, channels = network.projector.weight.shape
    if dim > min(channels, len(images) - 1):
        raise ConfigError(
            f"pretrain.embedding_dim={dim} needs more than {dim} public images and at most {channels}"
            f" dimensions; there are {len(images)} images. Lower it."
        )
    device = device_of(network)
    pooled = [
        network.pooled(source_input(images[start : start + BATCH_SIZE]).to(device)).cpu().numpy()
        for start in range(0, len(images), BATCH_SIZE)
    ]
    mean, weight, _ = principal_components(np.concatenate(pooled).astype(np.float64), dim)
    network.projector.weight.copy_(torch.from_numpy(weight.T))
    network.projector.bias.copy_(torch.from_numpy(-mean @ weight))
