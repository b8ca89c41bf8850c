"""Furniture libraries: the catalogue, the rules of kinds, OBJ and MTL files by hand, the deal, the notice."""

import zipfile
from pathlib import Path

import numpy as np
import pytest

from edgecmd.core.errors import DataError
from edgecmd.datasets.build.furniture import libraries, mesh, stock
from edgecmd.datasets.build.furniture.credits import attribution
from edgecmd.datasets.build.furniture.kinds import KINDS, OTHER, kind_of
from edgecmd.datasets.build.furniture.libraries import Piece, read_catalogue
from tests.made_up_furniture import NUM_A_KIND, PIECES, SlowCaster, write_library

# A square with a texture, one triangle counted from the end, Windows line ends and a broken line.
SQUARE = """\
mtllib some file.mtl
v 0 0 0
v 2 0 0
v 2 2 0
v 0 2 0
vt 0 0
vt 1 0
vt 1 1
vt 0 1
usemtl red
f 1/1/1 2/2/1 3/3/1 \\
 4/4/1
usemtl blue sky
f -4 -3 -2
"""


def piece(name: str, category: str = "Living room", **fields: object) -> Piece:
    values = {
        "key": "Made#x",
        "creator": "someone",
        "library": "Made",
        "licence": "Public domain",
        "archive": Path("x.sh3f"),
        "model": "m/x.obj",
        "size_m": (1.0, 1.0, 1.0),
        **fields,
    }
    return Piece(name=name, category=category, **values)  # type: ignore[arg-type]


def test_the_catalogue_is_read(tmp_path: Path) -> None:
    folder = tmp_path / "usr" / "share"
    folder.mkdir(parents=True)
    write_library(folder)
    pieces = read_catalogue(tmp_path)
    assert len(pieces) == len(PIECES) * NUM_A_KIND
    assert [one.key for one in pieces] == sorted(one.key for one in pieces)
    window = next(one for one in pieces if one.key == "Made up#opening2")
    # Centimetres in the order width, depth, height become metres in the order width, height, depth.
    assert window.size_m == (1.02, 1.12, 0.14)
    assert window.elevation_m == 0.9
    assert (window.creator, window.library, window.category) == ("René 0", "Made up", "Doors and windows")
    assert window.model == "made/opening/box.obj"


def test_a_folder_without_libraries_names_the_way_out(tmp_path: Path) -> None:
    with pytest.raises(
        DataError, match=r"no furniture library.*apt-get install sweethome3d-furniture.*--furn"
    ):
        read_catalogue(tmp_path)
    (tmp_path / "broken.sh3f").write_bytes(b"no zip")
    with pytest.raises(DataError, match=r"broken.sh3f is not a furniture library"):
        read_catalogue(tmp_path)
    with zipfile.ZipFile(tmp_path / "broken.sh3f", "w") as archive:
        archive.writestr(libraries.CATALOGUE, "id#1=x\nname#1=Chair\n")
    with pytest.raises(DataError, match=r"piece 1 of PluginFurnitureCatalog.properties cannot be read"):
        read_catalogue(tmp_path)


def test_a_member_that_unpacks_to_too_much_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_library(tmp_path)
    monkeypatch.setattr(libraries, "MAX_MEMBER_BYTES", 100)
    with pytest.raises(DataError, match=r"bytes; allowed are 100"):
        read_catalogue(tmp_path)


@pytest.mark.parametrize(
    ("name", "category", "kind"),
    [
        ("Mailbox", "Exterior", OTHER),
        ("Letters box", "Exterior", OTHER),
        ("Potty", "Bathroom", OTHER),
        ("Football table", "Miscellaneous", OTHER),
        ("Seat Leon", "Vehicles", OTHER),
        ("Stone lantern", "Exterior", OTHER),
        ("TV remote control", "Living room", OTHER),
        ("Shower head and faucet", "Bathroom", OTHER),
        ("Dog", "Characters", OTHER),
        ("Chest freezer", "Kitchen", "appliance"),
        ("Bedside table", "Bedroom", "cabinet"),
        ("Desk lamp", "Lights", "lamp"),
        ("Day bed", "Bedroom", "sofa"),
        ("Bookcase", "Office", "cabinet"),
        ("Apple iBook", "Office", "screen"),
        ("Sitting female", "Characters", "person"),
        ("Screen door", "Doors and windows", "opening"),
        ("Cafe table", "Exterior", "table"),
        ("Palm tree", "Exterior", "plant"),
        ("Bathtub", "Bathroom", "sanitary"),
    ],
)
def test_kinds_by_name(name: str, category: str, kind: str) -> None:
    assert kind_of(piece(name, category)) == kind


def test_an_obj_file_by_hand() -> None:
    drawn = mesh.parse_obj(SQUARE)
    assert drawn.vertices.tolist() == [[0, 0, 0], [2, 0, 0], [2, 2, 0], [0, 2, 0]]
    # The polygon is cut like a fan; -4 counts from the last vertex so far.
    assert drawn.corners.tolist() == [[0, 1, 2], [0, 2, 3], [0, 1, 2]]
    assert drawn.corner_uv.tolist() == [[0, 1, 2], [0, 2, 3], [-1, -1, -1]]
    assert [drawn.materials[row] for row in drawn.material] == ["red", "red", "blue sky"]
    assert drawn.library == "some file.mtl"


def test_an_mtl_file_by_hand() -> None:
    text = "# c\nnewmtl red\nKd 1 0 0\nmap_Kd -s 1 1 1 red.png\nnewmtl blue sky\n\tKd 0.1 0.2 0.9\nd 0.5\n"
    assert mesh.parse_materials(text) == {
        "red": mesh.Material(colour=(1.0, 0.0, 0.0), picture="red.png"),
        "blue sky": mesh.Material(colour=(0.1, 0.2, 0.9)),
    }


def test_a_piece_is_turned_stretched_and_stood_on_the_floor() -> None:
    drawn = mesh.parse_obj("v 0 0 0\nv 0 0 4\nv 2 0 0\nv 0 8 0\nf 1 2 3\nf 1 3 4\nf 1 2 4\n")
    # Turned so that y becomes z, z becomes y: 4 high and 8 deep before it is stretched.
    turned = piece("x", size_m=(1.0, 3.0, 2.0), rotation=(1.0, 0.0, 0.0, 0.0, 0.0, 1.0, 0.0, 1.0, 0.0))
    placed = mesh.place_upright(drawn, turned)
    np.testing.assert_allclose(placed.min(axis=0), [-0.5, 0.0, -1.0], atol=1e-6)
    np.testing.assert_allclose(placed.max(axis=0), [0.5, 3.0, 1.0], atol=1e-6)
    np.testing.assert_allclose(placed[1], [-0.5, 3.0, -1.0], atol=1e-6)


def test_colours_come_from_materials_and_textures(tmp_path: Path) -> None:
    textured = SQUARE.replace("some file.mtl", "box.mtl")
    path = write_library(tmp_path, kinds=("chair",), num=1, obj=textured)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("made/chair/more/none.txt", "")
    (found, read) = next(mesh.read_meshes(read_catalogue(tmp_path), max_triangles=9))
    assert found.key == "Made up#chair0"
    # box.mtl names neither material: both are grey.
    colours = read.albedo(np.array([0, 2]), np.array([0.2, 0.2]), np.array([0.2, 0.2]))
    np.testing.assert_allclose(colours, [[0.7, 0.7, 0.7]] * 2)
    picture = np.zeros((2, 2, 3), dtype=np.float32)
    picture[0, 0] = [0.0, 1.0, 0.0]
    painted = mesh.Mesh(
        **{name: getattr(read, name) for name in mesh.Mesh.__slots__ if name not in ("textures", "colours")},
        colours=np.array([[0, 0, 0], [1, 0, 0], [0, 0, 1]], dtype=np.float32),
        textures=(None, picture, picture),
    )
    # u = 0, v = 1 of triangle 1 is vertex 4, texture place (0, 1): the upper left pixel. Triangle 2 has no
    # places, so it keeps its colour.
    seen = painted.albedo(np.array([1, 2]), np.array([0.0, 0.0]), np.array([0.999, 0.999]))
    assert seen.tolist() == [[0.0, 1.0, 0.0], [0.0, 0.0, 1.0]]


def test_meshes_that_are_empty_or_too_fine_are_left_out(tmp_path: Path) -> None:
    write_library(tmp_path, kinds=("chair",), num=2)
    pieces = read_catalogue(tmp_path)
    assert len(list(mesh.read_meshes(pieces, max_triangles=12))) == 2
    assert list(mesh.read_meshes(pieces, max_triangles=11)) == []
    write_library(tmp_path, kinds=("chair",), num=2, obj="v 0 0 0\n")
    assert list(mesh.read_meshes(pieces, max_triangles=12)) == []
    write_library(tmp_path, kinds=("chair",), num=2, obj="v 0 0 0\nf 1 2 x\n")
    with pytest.raises(DataError, match=r"the mesh of Made up#chair0 cannot be read"):
        list(mesh.read_meshes(pieces, max_triangles=12))


def test_no_piece_serves_two_parts(tmp_path: Path) -> None:
    write_library(tmp_path)
    stocks = stock.stock_up(read_catalogue(tmp_path), SlowCaster)
    counts = stock.count_pieces(stocks)
    # 7 pieces cut at 1.05, 3.85, 5.25 and 7, rounded.
    assert counts["bed"] == {"public": 1, "pairs": 3, "pool": 1, "test": 2}
    assert counts[OTHER] == {"public": 4, "pairs": 1, "pool": 1, "test": 1}
    keys = [item.piece.key for one in stocks.values() for items in one.values() for item in items]
    assert len(keys) == len(set(keys)) == len(PIECES) * NUM_A_KIND


def test_the_deal_does_not_depend_on_the_order() -> None:
    kinds = {f"piece{row}": KINDS[row % len(KINDS)] for row in range(240)}
    assert stock.deal(dict(reversed(kinds.items()))) == stock.deal(kinds)
    parts = list(stock.deal(kinds).values())
    assert [parts.count(part) for part in stock.PARTS] == [36, 96, 48, 60]


def test_the_notice_names_every_piece_and_creator(tmp_path: Path) -> None:
    write_library(tmp_path)
    pieces = read_catalogue(tmp_path)
    text = " ".join(attribution(pieces).split())
    for one in pieces:
        assert f"{one.name} ({one.key.rpartition('#')[2]})" in text
    assert "René 0: " in text
    assert "René 1: " in text
    assert "CC-BY-3.0, https://creativecommons.org/licenses/by/3.0/legalcode" in text
