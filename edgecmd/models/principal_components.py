"""Principal components of features, the same on every call.

Shapes: N rows, C dimensions of a feature, D components.
"""

import numpy as np
from jaxtyping import Float


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
