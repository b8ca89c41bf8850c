"""Meshes of furniture: OBJ and MTL files with textures, as flat arrays of triangles.

Shapes: V vertices, F triangles, M materials, K hits.
"""

import io
import itertools
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

import numpy as np
from jaxtyping import Float32, Int64
from PIL import Image

from edgecmd.core.errors import DataError
from edgecmd.datasets.build.furniture.libraries import Piece, read_member

GREY = (0.7, 0.7, 0.7)
TEXTURE_PX = 128
NO_UV = -1


@dataclass(frozen=True, kw_only=True, slots=True)
class Material:
    """How a surface looks: its colour in [0, 1], or the name of the image that covers it."""

    colour: tuple[float, float, float] = GREY
    picture: str = ""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Wavefront:
    """Content of an OBJ file, polygons cut into triangles.

    Attributes:
        vertices: (V, 3).
        uv: Places on the textures, (V', 2).
        corners: Vertices of each triangle, (F, 3).
        corner_uv: Rows of ``uv`` for the corners, (F, 3), `NO_UV` where there is none.
        material: Row of ``materials`` for each triangle, (F,).
        materials: Names.
        library: Name of the MTL file; empty for none.
    """

    vertices: Float32[np.ndarray, "_ 3"]
    uv: Float32[np.ndarray, "_ 2"]
    corners: Int64[np.ndarray, "_ 3"]
    corner_uv: Int64[np.ndarray, "_ 3"]
    material: Int64[np.ndarray, " _"]
    materials: tuple[str, ...]
    library: str


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Mesh:
    """A piece in metres: y points up, it stands on y = 0, and its middle is at x = z = 0.

    Attributes:
        triangles: Corners, (F, 3, 3).
        normals: Of unit length, (F, 3).
        uv: Places of the corners on the texture, (F, 3, 2); NaN where there is none.
        material: Of each triangle, (F,).
        colours: Of each material, (M, 3).
        textures: Picture of each material in [0, 1], (H, W, 3), or None.
        size_m: Width, height, depth.
    """

    triangles: Float32[np.ndarray, "_ 3 3"]
    normals: Float32[np.ndarray, "_ 3"]
    uv: Float32[np.ndarray, "_ 3 2"]
    material: Int64[np.ndarray, " _"]
    colours: Float32[np.ndarray, "_ 3"]
    textures: tuple[np.ndarray | None, ...]
    size_m: tuple[float, float, float]

    def albedo(self, triangle: np.ndarray, u: np.ndarray, v: np.ndarray) -> Float32[np.ndarray, "_ 3"]:
        """Colours at hits, (K, 3).

        Args:
            triangle: Which was hit, (K,).
            u: Weight of the second corner, (K,).
            v: Weight of the third, (K,).
        """
        found: np.ndarray = self.colours[self.material[triangle]].copy()
        weights = np.stack([1 - u - v, u, v], axis=1)[..., None]
        place = np.nan_to_num((self.uv[triangle] * weights).sum(axis=1), nan=-1.0)
        has_uv = ~np.isnan(self.uv[triangle]).any(axis=(1, 2))
        for number, texture in enumerate(self.textures):
            rows = np.flatnonzero((self.material[triangle] == number) & has_uv)
            if texture is not None and len(rows):
                found[rows] = _sample(texture, place[rows])
        return found


def _sample(texture: np.ndarray, place: np.ndarray) -> Float32[np.ndarray, "_ 3"]:
    """Nearest pixels of an image that repeats; v points up."""
    height, width = texture.shape[:2]
    across, up = np.asarray(place % 1.0).T
    down = ((1.0 - up) * (height - 1)).astype(np.int64).clip(0, height - 1)
    return np.asarray(texture[down, (across * (width - 1)).astype(np.int64).clip(0, width - 1)])


def parse_materials(text: str) -> dict[str, Material]:
    """Materials of an MTL file by name; diffuse colour and image are read, the rest is left."""
    found: dict[str, Material] = {}
    name = ""
    for line in text.splitlines():
        words = line.split()
        keyword = words[0].lower() if words else ""
        if keyword == "newmtl":
            name = " ".join(words[1:])
            found[name] = Material()
        elif keyword == "kd" and len(words) >= 4 and name:
            red, green, blue = (float(word) for word in words[1:4])
            found[name] = Material(colour=(red, green, blue), picture=found[name].picture)
        elif keyword == "map_kd" and name:
            found[name] = Material(colour=found[name].colour, picture=words[-1])
    return found


def parse_obj(text: str) -> Wavefront:
    """Triangles of an OBJ file; indices may count from the end, and polygons are cut like a fan.

    Raises:
        ValueError: A number or an index cannot be read.
    """
    vertices: list[list[str]] = []
    uv: list[list[str]] = []
    corners: list[tuple[int, int, int]] = []
    corner_uv: list[tuple[int, int, int]] = []
    material: list[int] = []
    names: dict[str, int] = {"": 0}
    current, library = 0, ""
    for line in text.replace("\\\n", " ").split("\n"):
        if line.startswith("v "):
            vertices.append(line.split()[1:4])
        elif line.startswith("vt "):
            uv.append(line.split()[1:3])
        elif line.startswith("f "):
            polygon = [_corner(word, len(vertices), len(uv)) for word in line.split()[1:]]
            for second, third in itertools.pairwise(polygon[1:]):
                corners.append((polygon[0][0], second[0], third[0]))
                corner_uv.append((polygon[0][1], second[1], third[1]))
                material.append(current)
        elif line.startswith("usemtl"):
            current = names.setdefault(line[6:].strip(), len(names))
        elif line.startswith("mtllib"):
            library = line[6:].strip()
    return Wavefront(
        vertices=np.array(vertices, dtype=np.float32).reshape(-1, 3),
        uv=np.array(uv, dtype=np.float32).reshape(-1, 2),
        corners=np.array(corners, dtype=np.int64).reshape(-1, 3),
        corner_uv=np.array(corner_uv, dtype=np.int64).reshape(-1, 3),
        material=np.array(material, dtype=np.int64),
        materials=tuple(names),
        library=library,
    )


def _corner(word: str, num_vertices: int, num_uv: int) -> tuple[int, int]:
    """Rows of vertex and texture place of ``7``, ``7/3``, ``7//2`` or ``-1/-1/-1``."""
    vertex, _, rest = word.partition("/")
    place = rest.partition("/")[0]
    row = int(vertex)
    row_uv = int(place) if place else 0
    return (
        row - 1 if row > 0 else num_vertices + row,
        row_uv - 1 if row_uv > 0 else num_uv + row_uv if row_uv else NO_UV,
    )


def read_meshes(pieces: Sequence[Piece], *, max_triangles: int) -> Iterator[tuple[Piece, Mesh]]:
    """Meshes of pieces, in their order; those that are empty or finer than ``max_triangles`` are left out.

    Raises:
        DataError: A file is missing or cannot be read.
    """
    opened: dict[str, zipfile.ZipFile] = {}
    try:
        for piece in pieces:
            path = str(piece.archive)
            if path not in opened:
                opened[path] = zipfile.ZipFile(path)
            try:
                mesh = read_mesh(piece, opened[path], max_triangles=max_triangles)
            except (KeyError, ValueError, IndexError, zipfile.BadZipFile) as error:
                raise DataError(
                    f"{piece.archive}: the mesh of {piece.key} cannot be read ({error!r}). Install the"
                    " package again, or leave that library out."
                ) from error
            if mesh is not None:
                yield piece, mesh
    finally:
        for archive in opened.values():
            archive.close()


def read_mesh(piece: Piece, archive: zipfile.ZipFile, *, max_triangles: int) -> Mesh | None:
    """Mesh of one piece, or None where it is empty or too fine.

    Raises:
        KeyError: The mesh is not in the archive.
        ValueError: It cannot be read.
    """
    text = read_member(archive, piece.model).decode("latin1").replace("\r", "")
    drawn = parse_obj(text)
    if not 0 < len(drawn.corners) <= max_triangles:
        return None
    folder = PurePosixPath(piece.model).parent
    materials = _materials(drawn.library, archive, folder)
    chosen = [materials.get(name, Material()) for name in drawn.materials]
    triangles = place_upright(drawn, piece)[drawn.corners]
    across = np.cross(triangles[:, 1] - triangles[:, 0], triangles[:, 2] - triangles[:, 0])
    length = np.linalg.norm(across, axis=1, keepdims=True)
    padded_uv = np.concatenate([drawn.uv, np.full((1, 2), np.nan, dtype=np.float32)])
    return Mesh(
        triangles=triangles,
        normals=across / np.maximum(length, 1e-12).astype(np.float32),
        uv=padded_uv[drawn.corner_uv],
        material=drawn.material,
        colours=np.array([one.colour for one in chosen], dtype=np.float32),
        textures=tuple(_texture(one.picture, archive, folder) for one in chosen),
        size_m=piece.size_m,
    )


def place_upright(drawn: Wavefront, piece: Piece) -> Float32[np.ndarray, "_ 3"]:
    """Vertices turned as the catalogue says and stretched to its sizes, standing on the floor."""
    vertices: np.ndarray = drawn.vertices
    if piece.rotation:
        vertices = vertices @ np.array(piece.rotation, dtype=np.float32).reshape(3, 3).T
    used = vertices[np.unique(drawn.corners)]
    low, high = used.min(axis=0), used.max(axis=0)
    wanted = np.array(piece.size_m, dtype=np.float32)
    placed: np.ndarray = (vertices - (low + high) / 2) / np.maximum(high - low, 1e-6) * wanted
    placed[:, 1] += wanted[1] / 2
    return placed.astype(np.float32)


def _materials(name: str, archive: zipfile.ZipFile, folder: PurePosixPath) -> dict[str, Material]:
    """Materials of the file ``name``; none where a library forgot it, and then the piece is grey."""
    for path in (folder / name, PurePosixPath(name)):
        if name and str(path) in archive.NameToInfo:
            return parse_materials(read_member(archive, str(path)).decode("latin1"))
    return {}


def _texture(name: str, archive: zipfile.ZipFile, folder: PurePosixPath) -> np.ndarray | None:
    """An image at most `TEXTURE_PX` wide; None where there is none that can be read."""
    path = str(folder / name)
    if not name or path not in archive.NameToInfo:
        return None
    try:
        with Image.open(io.BytesIO(read_member(archive, path))) as picture:
            small = picture.convert("RGB")
    except (OSError, Image.DecompressionBombError):
        return None
    small.thumbnail((TEXTURE_PX, TEXTURE_PX))
    return np.asarray(np.asarray(small, dtype=np.float32) / 255.0)
