"""Where rays first meet a mesh. Embree does the work (``pip install "edgecmd[build]"``).

Shapes: K rays, F triangles.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32, Int64

from edgecmd.core.errors import DataError

MISSED = -1


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Hits:
    """What each ray met first.

    Attributes:
        triangle: Its number, (K,), or `MISSED`.
        distance: Along the ray in lengths of its direction, (K,); whatever it says where it missed.
        u: Weight of the triangle's second corner, (K,).
        v: Weight of its third, (K,).
    """

    triangle: Int64[np.ndarray, " _"]
    distance: Float32[np.ndarray, " _"]
    u: Float32[np.ndarray, " _"]
    v: Float32[np.ndarray, " _"]


Caster = Callable[[Float32[np.ndarray, "_ 3"], Float32[np.ndarray, "_ 3"]], Hits]
"""First hits of rays, given by their origins and directions in the frame of the mesh."""

MakeCaster = Callable[[Float32[np.ndarray, "_ 3 3"]], Caster]


class EmbreeCaster:
    """A mesh in Embree's tree of boxes, built once."""

    def __init__(self, triangles: Float32[np.ndarray, "_ 3 3"]) -> None:
        try:
            from embreex.mesh_construction import TriangleMesh
            from embreex.rtcore_scene import EmbreeScene
        except ImportError:
            raise DataError(
                'Rendering needs embreex. Install it with `pip install "edgecmd[build]"`.'
            ) from None
        self._scene = EmbreeScene()
        TriangleMesh(self._scene, np.ascontiguousarray(triangles, dtype=np.float32))

    def __call__(self, origins: Float32[np.ndarray, "_ 3"], directions: Float32[np.ndarray, "_ 3"]) -> Hits:
        """First hits of rays, in the frame of the mesh."""
        found = self._scene.run(
            np.ascontiguousarray(origins, dtype=np.float32),
            np.ascontiguousarray(directions, dtype=np.float32),
            output=1,
        )
        return Hits(
            triangle=found["primID"].astype(np.int64),
            distance=found["tfar"],
            u=found["u"],
            v=found["v"],
        )
