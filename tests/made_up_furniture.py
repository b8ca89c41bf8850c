"""A made-up furniture library of boxes, and a caster of rays in plain numpy: no package and no Embree.

It has seven pieces of each kind, so that every part of the data gets at least one.
"""

import io
import zipfile
from pathlib import Path

import numpy as np
from PIL import Image

from edgecmd.datasets.build.furniture.ray_caster import MISSED, Hits

# Kind -> name that the rules know, category, size in cm, elevation.
PIECES = {
    "bed": ("Bed", "Bedroom", (140, 190, 55), 0),
    "chair": ("Chair", "Living room", (50, 50, 90), 0),
    "sofa": ("Sofa", "Living room", (170, 80, 80), 0),
    "table": ("Table", "Office", (120, 70, 75), 0),
    "cabinet": ("Cupboard", "Kitchen", (80, 50, 180), 0),
    "lamp": ("Lamp", "Lights", (40, 40, 150), 0),
    "appliance": ("Fridge", "Kitchen", (60, 60, 150), 0),
    "sanitary": ("Washbasin", "Bathroom", (60, 50, 85), 0),
    "plant": ("Plant", "Living room", (50, 50, 110), 0),
    "person": ("Female", "Characters", (45, 40, 165), 0),
    "screen": ("TV", "Living room", (90, 30, 80), 0),
    "opening": ("Window", "Doors and windows", (100, 12, 110), 90),
    "other": ("Suitcase", "Miscellaneous", (60, 30, 80), 0),
}
NUM_A_KIND = 7
BOX = """\
# a box
mtllib box.mtl
v -1 -1 -1
v 1 -1 -1
v 1 1 -1
v -1 1 -1
v -1 -1 1
v 1 -1 1
v 1 1 1
v -1 1 1
usemtl paint
f 1 2 3 4
f 5 8 7 6
f 1 5 6 2
f 4 3 7 8
f 1 4 8 5
f 2 6 7 3
"""


def box_triangles(low: tuple[float, float, float], high: tuple[float, float, float]) -> np.ndarray:
    """Twelve triangles of a box between two corners."""
    corners = np.array(
        [[(low, high)[bit][axis] for axis, bit in enumerate(bits)] for bits in np.ndindex(2, 2, 2)]
    )
    faces = [(0, 1, 3, 2), (4, 6, 7, 5), (0, 4, 5, 1), (2, 3, 7, 6), (0, 2, 6, 4), (1, 5, 7, 3)]
    triangles = [corners[list(rows)] for a, b, c, d in faces for rows in ((a, b, c), (a, c, d))]
    return np.array(triangles, dtype=np.float32)


class SlowCaster:
    """First hits by testing every ray against every triangle (Moeller and Trumbore 1997)."""

    def __init__(self, triangles: np.ndarray) -> None:
        self._first = triangles[:, 0].astype(np.float64)
        self._one = triangles[:, 1] - self._first
        self._two = triangles[:, 2] - self._first

    def __call__(self, origins: np.ndarray, directions: np.ndarray) -> Hits:
        across = np.cross(directions[:, None].astype(np.float64), self._two)
        determinant = (across * self._one).sum(axis=2)
        with np.errstate(divide="ignore", invalid="ignore"):
            inverse = 1.0 / determinant
            start = origins[:, None] - self._first
            u = (start * across).sum(axis=2) * inverse
            turned = np.cross(start, self._one)
            v = (directions[:, None] * turned).sum(axis=2) * inverse
            distance = (self._two * turned).sum(axis=2) * inverse
            is_hit = (np.abs(determinant) > 1e-12) & (u >= 0) & (v >= 0) & (u + v <= 1) & (distance > 1e-6)
        distance = np.where(is_hit, distance, np.inf)
        nearest = distance.argmin(axis=1)
        rows = np.arange(len(origins))
        found = is_hit[rows, nearest]
        return Hits(
            triangle=np.where(found, nearest, MISSED).astype(np.int64),
            distance=np.where(found, distance[rows, nearest], 0.0).astype(np.float32),
            u=np.where(found, u[rows, nearest], 0.0).astype(np.float32),
            v=np.where(found, v[rows, nearest], 0.0).astype(np.float32),
        )


def catalogue(kinds: tuple[str, ...] = tuple(PIECES), num: int = NUM_A_KIND) -> str:
    """Text of a library's catalogue."""
    lines = [
        "# made up",
        "id=Made#Up",
        "name=Made up",
        "license=Creative Commons Attribution 3.0 license",
        "",
    ]
    number = 0
    for kind in kinds:
        name, category, (width, depth, height), elevation = PIECES[kind]
        for copy in range(num):
            number += 1
            entry = {
                "id": f"Made up#{kind}{copy}",
                "name": name,
                "category": category,
                "model": f"/made/{kind}/box.obj",
                "width": width + copy,
                "depth": depth + copy,
                "height": height + copy,
                "elevation": elevation,
                "creator": f"Ren\\u00e9 {copy % 2}",
            }
            lines += [f"{key}#{number}={value}" for key, value in entry.items()]
    return "\n".join(lines)


def write_library(
    folder: Path, *, kinds: tuple[str, ...] = tuple(PIECES), num: int = NUM_A_KIND, obj: str = BOX
) -> Path:
    """A library of boxes in ``folder``; each kind has a colour of its own."""
    path = folder / "MadeUp.sh3f"
    picture = io.BytesIO()
    Image.new("RGB", (4, 4), (255, 0, 0)).save(picture, format="PNG")
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("PluginFurnitureCatalog.properties", catalogue(kinds, num))
        for row, kind in enumerate(kinds):
            archive.writestr(f"made/{kind}/box.obj", obj)
            archive.writestr(f"made/{kind}/box.mtl", f"newmtl paint\nKd {row / 20 + 0.2} 0.5 0.25\n")
            archive.writestr(f"made/{kind}/red.png", picture.getvalue())
    return path
