"""A camera, things in front of it, and what it sees: colour, distance, and what each pixel belongs to.

Frame: metres, y up. Shapes: P pixels, S side of an image.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Float32, Int64, UInt8

from edgecmd.datasets.build.furniture.mesh import Mesh
from edgecmd.datasets.build.furniture.ray_caster import MISSED, Caster

NOTHING = -1
NEAREST_M = 1e-3
# Shares of the light: the same everywhere, from the camera, from the lamp.
AMBIENT, HEADLIGHT, LAMP = 0.3, 0.35, 0.45
SUPERSAMPLING = 2


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Camera:
    """A pinhole camera.

    Attributes:
        eye: Where it is, (3,).
        target: What it looks at, (3,); not straight above or below.
        field_degrees: Angle that the image's side spans.
    """

    eye: np.ndarray
    target: np.ndarray
    field_degrees: float

    def rays(self, side: int) -> tuple[Float32[np.ndarray, "_ 3"], Float32[np.ndarray, " _"]]:
        """Directions through the middles of the pixels, row by row, and their cosines to the optical axis."""
        forward = self.target - self.eye
        forward = forward / np.linalg.norm(forward)
        right = np.cross(forward, (0.0, 1.0, 0.0))
        right = right / np.linalg.norm(right)
        up = np.cross(right, forward)
        half = np.tan(np.radians(self.field_degrees) / 2.0)
        steps = (np.arange(side) + 0.5) / side * 2.0 - 1.0
        across, down = np.meshgrid(steps, steps)
        directions = forward + half * (across[..., None] * right - down[..., None] * up)
        length = np.linalg.norm(directions, axis=-1, keepdims=True)
        unit = (directions / length).reshape(-1, 3).astype(np.float32)
        return unit, (1.0 / length).reshape(-1).astype(np.float32)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Thing:
    """A mesh somewhere.

    Attributes:
        mesh: The mesh.
        caster: Of its triangles.
        code: What its pixels are.
        turn: Angle about the y axis in radians.
        place: Where its foot stands, (3,).
        tint: Factors of its colours, (3,).
        scale: Factor of its size.
    """

    mesh: Mesh
    caster: Caster
    code: int
    turn: float
    place: np.ndarray
    tint: np.ndarray
    scale: float = 1.0


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Plane:
    """A wall, the floor or the ceiling: all points whose coordinate ``axis`` is ``value``."""

    axis: int
    value: float
    normal: np.ndarray
    code: int
    colour: np.ndarray


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Shot:
    """What a camera saw.

    Attributes:
        rgb: (S, S, 3).
        depth_m: Distance along the optical axis, as depth sensors give it; 0 where nothing was hit.
        code: What each pixel belongs to, or `NOTHING`.
        thing: Row of the thing in each pixel, or `NOTHING`.
        cosine: Between the surface's normal and the ray, in [0, 1]; 0 at a grazing angle.
    """

    rgb: UInt8[np.ndarray, "_ _ 3"]
    depth_m: Float32[np.ndarray, "_ _"]
    code: Int64[np.ndarray, "_ _"]
    thing: Int64[np.ndarray, "_ _"]
    cosine: Float32[np.ndarray, "_ _"]


class _Film:
    """What is nearest so far in each pixel."""

    def __init__(self, num: int, background: np.ndarray) -> None:
        self.distance = np.full(num, np.inf, dtype=np.float32)
        self.code = np.full(num, NOTHING, dtype=np.int64)
        self.thing = np.full(num, NOTHING, dtype=np.int64)
        self.albedo = np.tile(background.astype(np.float32), (num, 1))
        self.normal = np.zeros((num, 3), dtype=np.float32)

    def put(
        self,
        rows: np.ndarray,
        distance: np.ndarray,
        *,
        code: int,
        thing: int,
        albedo: np.ndarray,
        normal: np.ndarray,
    ) -> None:
        """Take what is seen in the pixels ``rows``."""
        self.distance[rows], self.code[rows], self.thing[rows] = distance, code, thing
        self.albedo[rows], self.normal[rows] = albedo, normal


def render(
    things: Sequence[Thing],
    camera: Camera,
    *,
    side: int,
    lamp: Float[np.ndarray, " 3"],
    planes: Sequence[Plane] = (),
    background: Float[np.ndarray, " 3"],
    supersampling: int = SUPERSAMPLING,
) -> Shot:
    """Look at things and planes.

    Args:
        things: What is there.
        camera: Who looks.
        side: Side of the image in pixels.
        lamp: Direction towards the lamp, of unit length.
        planes: Walls; each is infinite.
        background: Colour in [0, 1] where nothing is hit.
        supersampling: Colours are the mean over a square of this many rays; distance and code are those of
            one of them, so that no two are mixed.
    """
    directions, axis_cosine = camera.rays(side * supersampling)
    film = _Film(len(directions), np.asarray(background))
    for plane in planes:
        _put_plane(film, plane, camera, directions)
    for number, thing in enumerate(things):
        _put_thing(film, thing, number, camera, directions)
    is_hit = film.code != NOTHING
    facing = -(film.normal * directions).sum(axis=1)
    normal = np.where(facing[:, None] < 0, -film.normal, film.normal)
    lit = AMBIENT + HEADLIGHT * np.abs(facing) + LAMP * np.clip(normal @ np.asarray(lamp), 0.0, 1.0)
    colour = np.where(is_hit[:, None], film.albedo * lit[:, None], film.albedo).clip(0.0, 1.0)
    depth = np.where(is_hit, film.distance * axis_cosine, 0.0).astype(np.float32)
    return Shot(
        rgb=_mean_colour(colour, side, supersampling),
        depth_m=_one_of(depth, side, supersampling),
        code=_one_of(film.code, side, supersampling),
        thing=_one_of(film.thing, side, supersampling),
        cosine=_one_of(np.abs(facing).astype(np.float32), side, supersampling),
    )


def _mean_colour(colour: np.ndarray, side: int, block: int) -> UInt8[np.ndarray, "_ _ 3"]:
    mean = colour.reshape(side, block, side, block, 3).mean(axis=(1, 3))
    return np.asarray(mean * 255.0 + 0.5).astype(np.uint8)


def _one_of(values: np.ndarray, side: int, block: int) -> np.ndarray:
    square = values.reshape(side * block, side * block)
    return np.ascontiguousarray(square[block // 2 :: block, block // 2 :: block])


def _put_plane(film: _Film, plane: Plane, camera: Camera, directions: np.ndarray) -> None:
    along = directions[:, plane.axis].astype(np.float64)
    distance = np.full(len(directions), np.inf)
    np.divide(plane.value - camera.eye[plane.axis], along, out=distance, where=np.abs(along) > 1e-9)
    rows = np.flatnonzero((distance > NEAREST_M) & (distance < film.distance))
    film.put(rows, distance[rows], code=plane.code, thing=NOTHING, albedo=plane.colour, normal=plane.normal)


def turned(angle: float) -> Float32[np.ndarray, "3 3"]:
    """Matrix that turns row vectors of the mesh's frame by ``angle`` about the y axis, to the room's."""
    cosine, sine = np.cos(angle), np.sin(angle)
    return np.array([[cosine, 0, -sine], [0, 1, 0], [sine, 0, cosine]], dtype=np.float32)


def _put_thing(film: _Film, thing: Thing, number: int, camera: Camera, directions: np.ndarray) -> None:
    matrix = turned(thing.turn)
    # Into the frame of the mesh: the inverse of a rotation is its transpose.
    eye = ((camera.eye - thing.place).astype(np.float32) @ matrix.T) / np.float32(thing.scale)
    local = directions @ matrix.T
    rows = _towards_ball(eye, local, thing.mesh)
    if not len(rows):
        return
    hits = thing.caster(np.tile(eye, (len(rows), 1)), local[rows])
    distance = np.where(hits.triangle == MISSED, np.inf, hits.distance) * thing.scale
    # A camera inside a mesh sees it from within.
    nearer = (distance > NEAREST_M) & (distance < film.distance[rows])
    found = hits.triangle[nearer]
    film.put(
        rows[nearer],
        distance[nearer],
        code=thing.code,
        thing=number,
        albedo=thing.mesh.albedo(found, hits.u[nearer], hits.v[nearer]) * thing.tint,
        normal=thing.mesh.normals[found] @ matrix,
    )


def _towards_ball(eye: np.ndarray, directions: np.ndarray, mesh: Mesh) -> np.ndarray:
    """Rays that meet the ball around a mesh; the others need not be cast."""
    radius = 0.51 * float(np.linalg.norm(mesh.size_m))
    to_centre = np.array([0.0, mesh.size_m[1] / 2.0, 0.0], dtype=np.float32) - eye
    along = directions @ to_centre
    aside = float(to_centre @ to_centre) - along**2
    return np.flatnonzero((aside < radius**2) & (along > -radius))
