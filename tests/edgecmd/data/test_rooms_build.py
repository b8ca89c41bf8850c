"""Building rooms and objects from a made-up library of boxes, without Debian's furniture and Embree."""

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from edgecmd.core.errors import DataError
from edgecmd.data.experiment import load_experiment
from edgecmd.datasets.build.furniture import interiors, views
from edgecmd.datasets.build.furniture import rooms as rooms_build
from edgecmd.datasets.build.furniture.interiors import room_view
from edgecmd.datasets.build.furniture.layout import ROOMS, furnish, indoor, make_home
from edgecmd.datasets.build.furniture.libraries import read_catalogue
from edgecmd.datasets.build.furniture.rooms import Plan, build_rooms, in_steps
from edgecmd.datasets.build.furniture.stock import Stock, stock_up
from edgecmd.datasets.indoor import NOTICE_FILE, OBJECTS_FILE, PUBLIC_FILE, ROOMS_FILE
from edgecmd.settings import DataConfig
from tests.made_up_furniture import SlowCaster, write_library

PLAN = Plan(rooms=5, views=2, pool_views=2, test_views=2)


@pytest.fixture(scope="module", autouse=True)
def small() -> Iterator[None]:
    """Pictures of 16 pixels: the slow caster looks at every triangle."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rooms_build, "SIDE", 16)
        yield


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("furniture")
    write_library(folder)
    return folder


@pytest.fixture(scope="module")
def stock(library: Path) -> Stock:
    return indoor(stock_up(read_catalogue(library), SlowCaster)["pairs"])


@pytest.fixture(scope="module")
def built(library: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("built")
    said: list[str] = []
    report = build_rooms(out, library, plan=PLAN, make_caster=SlowCaster, say=said.append)
    assert "not the shipped content" in report
    assert said[0] == "reading 91 pieces of furniture"
    return out


def arrays(built: Path, name: str) -> dict[str, np.ndarray]:
    with np.load(built / name) as archive:
        return {key: archive[key] for key in archive.files}


def test_equal_arguments_give_equal_bytes(built: Path, library: Path, tmp_path: Path) -> None:
    build_rooms(tmp_path, library, plan=PLAN, make_caster=SlowCaster)
    for name in (ROOMS_FILE, OBJECTS_FILE, PUBLIC_FILE, NOTICE_FILE):
        assert (tmp_path / name).read_bytes() == (built / name).read_bytes()


def test_another_seed_keeps_the_pieces_of_the_test(built: Path, library: Path, tmp_path: Path) -> None:
    plan = Plan(rooms=5, views=1, pool_views=2, test_views=2, seed=1)
    build_rooms(tmp_path, library, plan=plan, make_caster=SlowCaster)
    first, second = arrays(built, OBJECTS_FILE), arrays(tmp_path, OBJECTS_FILE)
    tested = [{str(one["pieces"][row]) for row in one["piece"][one["split"] == 2]} for one in (first, second)]
    assert tested[0] == tested[1]
    assert not np.array_equal(first["rgb"][-1], second["rgb"][-1])


def test_no_piece_is_in_two_parts(built: Path) -> None:
    objects = arrays(built, OBJECTS_FILE)
    parts = [set(objects["piece"][objects["split"] == part].tolist()) for part in range(3)]
    names = [{str(objects["pieces"][row]) for row in part} for part in parts]
    public = {key.rpartition("/")[0] for key in arrays(built, PUBLIC_FILE)["key"]}
    sets = [*names, public]
    assert sum(map(len, sets)) == len(set().union(*sets))
    assert [len(one) for one in names] == [36, 12, 24]


def test_the_manifest_says_how_it_was_made(built: Path) -> None:
    manifest = json.loads((built / "built.json").read_text())
    assert manifest["plan"] == {"rooms": 5, "views": 2, "pool_views": 2, "test_views": 2, "seed": 0}
    assert manifest["pieces_by_kind"]["bed"] == {"public": 1, "pairs": 3, "pool": 1, "test": 2}
    assert "René 0" in (built / NOTICE_FILE).read_text(encoding="utf-8")


def test_a_built_set_is_read_from_its_folder(built: Path) -> None:
    rooms = load_experiment(DataConfig(name="rooms", path=str(built), image_size=16, source_size=16))
    assert [len(rooms.train), len(rooms.validation), len(rooms.test)] == [5, 5, 5]
    objects = load_experiment(DataConfig(name="objects", path=str(built), image_size=16, source_size=16))
    assert [len(objects.train), len(objects.validation), len(objects.test)] == [72, 24, 24]
    assert len(rooms.public) == len(objects.public) == 12 + 4 + 5
    # A quarter of the way through its box, a piece of radius 0.75 is between one and three metres away.
    seen = objects.train.target[objects.train.target > 0]
    assert 700 < seen.min() < seen.max() < 3060


def test_a_changed_built_set_is_refused(built: Path, tmp_path: Path) -> None:
    for name in ("built.json", ROOMS_FILE, PUBLIC_FILE):
        (tmp_path / name).write_bytes((built / name).read_bytes())
    config = DataConfig(name="rooms", path=str(tmp_path), image_size=16, source_size=16)
    load_experiment(config)
    (tmp_path / ROOMS_FILE).write_bytes((built / OBJECTS_FILE).read_bytes())
    with pytest.raises(DataError, match=r"rooms_64.npz has sha256=.*edgecmd data build rooms --out"):
        load_experiment(config)
    (tmp_path / ROOMS_FILE).unlink()
    with pytest.raises(DataError, match="it is missing"):
        load_experiment(config)
    (tmp_path / "built.json").unlink()
    with pytest.raises(DataError, match=r"has no built.json"):
        load_experiment(config)


def test_every_view_covers_enough(built: Path) -> None:
    objects = arrays(built, OBJECTS_FILE)
    assert ((objects["depth"] > 0).mean(axis=(1, 2)) >= views.MIN_COVER).all()


def test_a_piece_too_thin_to_see_is_left_out_and_said(
    built: Path, library: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = rooms_build.object_view
    monkeypatch.setattr(
        rooms_build,
        "object_view",
        lambda item, **rest: None if item.piece.key == "Made up#bed0" else real(item, **rest),
    )
    said: list[str] = []
    build_rooms(tmp_path, library, plan=PLAN, make_caster=SlowCaster, say=said.append)
    assert [line for line in said if "bed0" in line] == [
        "note: Bed (Made up#bed0) is hardly visible: views of it are left out"
    ]


def test_furniture_stands_apart_and_inside(stock: Stock) -> None:
    generator = np.random.default_rng(0)
    for row in range(30):
        home = make_home(stock, generator=generator)
        layout = furnish(home, ROOMS[row % 5], generator=generator)
        width, _, depth = layout.size_m
        assert len(layout.things) <= 8
        for one, (left, right, back, front) in enumerate(layout.footprints):
            assert left >= -width / 2 - 1e-9
            assert right <= width / 2 + 1e-9
            assert back >= -depth / 2 - 1e-9
            assert front <= depth / 2 + 1e-9
            for other in layout.footprints[one + 1 :]:
                assert right <= other[0] or other[1] <= left or front <= other[2] or other[3] <= back


def test_a_room_that_cannot_be_furnished_ends_after_a_known_number_of_tries(
    stock: Stock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(interiors, "MAX_LAYOUTS", 2)
    bare = {kind: items if kind == "plant" else [] for kind, items in stock.items()}
    home = make_home(bare, generator=np.random.default_rng(0))
    with pytest.raises(
        DataError, match=r"No view of a bedroom shows enough in 2 layouts.*needs a bed that fits"
    ):
        room_view(home, "bedroom", side=16, generator=np.random.default_rng(0))


def test_too_little_furniture_is_refused(tmp_path: Path) -> None:
    write_library(tmp_path, num=2)
    with pytest.raises(DataError, match=r"too few pieces of furniture for four parts .*: appliance, bed,"):
        build_rooms(tmp_path / "out", tmp_path, plan=PLAN, make_caster=SlowCaster)


def test_distances_in_steps() -> None:
    depth = np.array([0.0, 0.001, 0.02, 0.031, 5.1, 9.0])
    assert in_steps(depth, 20).tolist() == [0, 1, 1, 2, 255, 255]
