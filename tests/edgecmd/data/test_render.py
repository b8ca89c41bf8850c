"""Rendering against geometry: distances of planes, boxes and spheres by hand; Embree against a slow loop."""

import numpy as np
import pytest

from edgecmd.datasets.build.furniture.mesh import Mesh
from edgecmd.datasets.build.furniture.ray_caster import MISSED, Caster, EmbreeCaster, MakeCaster
from edgecmd.datasets.build.furniture.render import NOTHING, Camera, Plane, Shot, Thing, render
from tests.made_up_furniture import SlowCaster, box_triangles

UP = np.array([0.0, 1.0, 0.0])


def embree(triangles: np.ndarray) -> Caster:
    pytest.importorskip("embreex")
    return EmbreeCaster(triangles)


CASTERS = pytest.mark.parametrize("make", [SlowCaster, embree], ids=["slow", "embree"])


def mesh_of(triangles: np.ndarray, size_m: tuple[float, float, float]) -> Mesh:
    across = np.cross(triangles[:, 1] - triangles[:, 0], triangles[:, 2] - triangles[:, 0])
    return Mesh(
        triangles=triangles,
        normals=(across / np.linalg.norm(across, axis=1, keepdims=True)).astype(np.float32),
        uv=np.full((len(triangles), 3, 2), np.nan, dtype=np.float32),
        material=np.zeros(len(triangles), dtype=np.int64),
        colours=np.full((1, 3), 0.5, dtype=np.float32),
        textures=(None,),
        size_m=size_m,
    )


def thing_of(triangles: np.ndarray, make: MakeCaster, **fields: object) -> Thing:
    values = {
        "turn": 0.0,
        "place": np.zeros(3),
        "tint": np.ones(3, dtype=np.float32),
        "code": 7,
        "mesh": mesh_of(triangles, (1.0, 1.0, 1.0)),
        **fields,
    }
    return Thing(caster=make(triangles), **values)  # type: ignore[arg-type]


def look(things: list[Thing], *, side: int = 33, planes: tuple[Plane, ...] = (), eye: float = 3.0) -> Shot:
    camera = Camera(eye=np.array([0.0, 0.5, eye]), target=np.array([0.0, 0.5, 0.0]), field_degrees=60.0)
    return render(
        things, camera, side=side, lamp=UP, planes=planes, background=np.full(3, 0.9), supersampling=1
    )


BOX = box_triangles((-0.5, 0.0, -0.5), (0.5, 1.0, 0.5))


@CASTERS
def test_a_box_by_hand(make: MakeCaster) -> None:
    shot = look([thing_of(BOX, make)])
    # The front is 2.5 m away, and so is all of it along the optical axis; half a frame is 2.5 tan 30.
    seen = shot.depth_m[shot.code == 7]
    np.testing.assert_allclose(seen, 2.5, rtol=1e-5)
    width = (shot.code[16] == 7).sum()
    assert abs(width - 33 * 0.5 / (2.5 * np.tan(np.radians(30)))) <= 1
    assert (shot.depth_m[shot.code == NOTHING] == 0).all()
    assert shot.cosine[16, 16] == pytest.approx(1.0, abs=1e-4)
    # Half grey, lit by 0.3 + 0.35 straight on; the lamp is above and gives nothing.
    assert shot.rgb[16, 16].tolist() == [round(255 * 0.5 * 0.65)] * 3


@CASTERS
def test_turning_moving_and_scaling_a_box(make: MakeCaster) -> None:
    turned = look([thing_of(BOX, make, turn=np.pi / 4)])
    assert turned.depth_m[16, 16] == pytest.approx(3.0 - np.sqrt(0.5), abs=1e-4)
    moved = look([thing_of(BOX, make, place=np.array([0.0, 0.0, -1.0]))])
    assert moved.depth_m[16, 16] == pytest.approx(3.5, abs=1e-5)
    grown = look([thing_of(BOX, make, scale=2.0)])
    assert grown.depth_m[16, 16] == pytest.approx(2.0, abs=1e-5)


def test_a_turn_is_to_the_left_seen_from_above() -> None:
    # A box to the right of its own foot stands behind it after a quarter turn.
    aside = box_triangles((0.3, 0.0, -0.1), (0.5, 1.0, 0.1))
    shot = look([thing_of(aside, SlowCaster, turn=np.pi / 2)])
    assert shot.depth_m[16, 16] == pytest.approx(3.0 + 0.3, abs=1e-4)


@CASTERS
def test_a_sphere_by_hand(make: MakeCaster) -> None:
    num = 60
    up, round_ = np.meshgrid(np.linspace(0, np.pi, num), np.linspace(0, 2 * np.pi, num), indexing="ij")
    points = np.stack([np.sin(up) * np.cos(round_), np.cos(up), np.sin(up) * np.sin(round_)], axis=-1)
    points = 0.5 * points + 0.5 * UP
    one = np.stack([points[:-1, :-1], points[1:, :-1], points[1:, 1:]], axis=2).reshape(-1, 3, 3)
    two = np.stack([points[:-1, :-1], points[1:, 1:], points[:-1, 1:]], axis=2).reshape(-1, 3, 3)
    triangles = np.concatenate([one, two]).astype(np.float32)
    area = np.linalg.norm(
        np.cross(triangles[:, 1] - triangles[:, 0], triangles[:, 2] - triangles[:, 0]), axis=1
    )
    shot = look([thing_of(triangles[area > 1e-9], make)])
    camera = Camera(eye=np.array([0.0, 0.5, 3.0]), target=np.array([0.0, 0.5, 0.0]), field_degrees=60.0)
    directions, cosine = camera.rays(33)
    along = 3.0 * cosine
    inside = 0.25 - (9.0 - along**2)
    expected = np.where(inside > 0, (along - np.sqrt(np.maximum(inside, 0))) * cosine, 0.0).reshape(33, 33)
    both = (shot.depth_m > 0) & (expected > 0)
    # The outermost pixels differ: the mesh lies inside the sphere.
    assert both.sum() >= 0.9 * (expected > 0).sum()
    inner = both & (inside.reshape(33, 33) > 0.02)
    np.testing.assert_allclose(shot.depth_m[inner], expected[inner], atol=0.01)
    assert directions.shape == (33 * 33, 3)


def test_the_nearer_of_two_things_is_seen() -> None:
    far = thing_of(BOX, SlowCaster, place=np.array([0.0, 0.0, -2.0]), code=1)
    near = thing_of(BOX, SlowCaster, code=2)
    wall = Plane(axis=2, value=-4.0, normal=np.array([0, 0, 1.0]), code=0, colour=np.full(3, 0.8))
    for things in ([far, near], [near, far]):
        shot = look(things, planes=(wall,))
        assert shot.code[16, 16] == 2
        assert things[shot.thing[16, 16]] is near
        assert shot.code[0, 0] == 0
        assert shot.thing[0, 0] == NOTHING
        assert shot.depth_m[0, 0] == pytest.approx(7.0, rel=1e-5)


def test_the_floor_by_hand() -> None:
    floor = Plane(axis=1, value=0.0, normal=UP, code=1, colour=np.full(3, 0.5))
    shot = look([], planes=(floor,), side=32)
    # A ray down by the angle a from 0.5 m meets it after 0.5 / tan a along the axis.
    slope = np.tan(np.radians(30)) * (np.arange(32) + 0.5 - 16) / 16
    np.testing.assert_allclose(shot.depth_m[20, 7], 0.5 / slope[20], rtol=1e-5)
    assert (shot.code[:16] == NOTHING).all()


def test_supersampling_mixes_colours_and_no_distances() -> None:
    camera = Camera(eye=np.array([0.0, 0.5, 3.0]), target=np.array([0.0, 0.5, 0.0]), field_degrees=60.0)
    things = [thing_of(BOX, SlowCaster)]
    shot = render(things, camera, side=16, lamp=UP, background=np.full(3, 1.0))
    assert set(np.unique(shot.depth_m).round(3)) == {0.0, 2.5}
    assert len(np.unique(shot.rgb)) > 2


def test_embree_agrees_with_the_slow_loop() -> None:
    pytest.importorskip("embreex")
    generator = np.random.default_rng(0)
    triangles = generator.normal(size=(60, 3, 3)).astype(np.float32)
    origins = generator.normal(size=(500, 3)).astype(np.float32) * 4
    directions = (generator.normal(size=(500, 3)) - origins).astype(np.float32)
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    slow, fast = SlowCaster(triangles)(origins, directions), EmbreeCaster(triangles)(origins, directions)
    same = slow.triangle == fast.triangle
    assert same.mean() > 0.99
    rows = same & (slow.triangle != MISSED)
    assert rows.sum() > 50
    np.testing.assert_allclose(fast.distance[rows], slow.distance[rows], rtol=1e-3)
    np.testing.assert_allclose(fast.u[rows], slow.u[rows], atol=1e-3)
    np.testing.assert_allclose(fast.v[rows], slow.v[rows], atol=1e-3)
