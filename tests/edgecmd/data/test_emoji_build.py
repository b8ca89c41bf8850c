"""Making the built-in set again: its parts on made-up inputs, and once in full (slow, network)."""

import base64
import hashlib
import io
import json
import subprocess
import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgecmd.core.errors import DataError
from edgecmd.datasets.build import emoji as emoji_build
from edgecmd.datasets.build import packages, raster
from edgecmd.datasets.build.emoji import public_arrays
from edgecmd.datasets.build.emoji_pairs import (
    Drawing,
    drop_useless,
    named_drawings,
    noto_drawings,
    pair_arrays,
    split_of,
)
from edgecmd.datasets.build.icons import (
    Emoji,
    IconSet,
    has_tone,
    match_names,
    normalise,
    parse_emoji,
    parse_icons,
    squash,
)
from edgecmd.datasets.build.npz_writer import npz_bytes
from edgecmd.datasets.build.packages import HOUSES, Package, fetch, gather, npm, read_members, verify
from edgecmd.datasets.emoji import FOLDER, PAIRS_FILE, PUBLIC_FILE, read_shipped
from edgecmd.datasets.pinned import content_sha256

SQUARE = '<rect x="{x}" y="2" width="4" height="4" fill="{fill}"/>'


def icons_json(bodies: Mapping[str, str], characters: Mapping[str, str]) -> dict[str, bytes]:
    """A tiny ``@iconify-json`` package: bodies by name, names by code points."""
    content = {"width": 8, "height": 8, "icons": {name: {"body": body} for name, body in bodies.items()}}
    return {"icons.json": json.dumps(content).encode(), "chars.json": json.dumps(characters).encode()}


def entry(code: str, name: str, group: str = "food-drink", version: float | str = 0.6) -> dict[str, Any]:
    return {
        "hexcode": code,
        "annotation": name,
        "group": group,
        "subgroups": "food-fruit",
        "unicode": version,
    }


def font_bytes(code_points: Mapping[int, tuple[int, int]]) -> bytes:
    """A WOFF2 font whose glyphs are boxes of (width, height); a width of 0 draws nothing."""
    builder_module = pytest.importorskip("fontTools.fontBuilder")
    pytest.importorskip("brotli")
    from fontTools.pens.ttGlyphPen import TTGlyphPen

    builder = builder_module.FontBuilder(1000, isTTF=True)
    names = {code: f"u{code:X}" for code in code_points}
    builder.setupGlyphOrder([".notdef", *names.values()])
    builder.setupCharacterMap(names)
    glyphs = {".notdef": TTGlyphPen(None).glyph()}
    for code, (width, height) in code_points.items():
        pen = TTGlyphPen(None)
        if width:
            pen.moveTo((0, 0))
            for corner in ((0, height), (width, height), (width, 0)):
                pen.lineTo(corner)
            pen.closePath()
        glyphs[names[code]] = pen.glyph()
    builder.setupGlyf(glyphs)
    widths = {names[code]: width for code, (width, _) in code_points.items()}
    builder.setupHorizontalMetrics({name: (widths.get(name, 0), 0) for name in glyphs})
    builder.setupHorizontalHeader(ascent=1000, descent=0)
    builder.setupNameTable({"familyName": "Boxes", "styleName": "Regular"})
    builder.setupOS2()
    builder.setupPost()
    builder.font.flavor = "woff2"
    buffer = io.BytesIO()
    builder.font.save(buffer)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("1F600", "1f600"),
        ("23-FE0F-20E3", "0023-20e3"),
        ("a9", "00a9"),
        ("1f468-200d-2764-fe0f-200d-1f468", "1f468-200d-2764-200d-1f468"),
    ],
)
def test_normalise(given: str, expected: str) -> None:
    assert normalise(given) == expected


def test_tones_and_squashed_names() -> None:
    assert has_tone("1f44b-1f3fd")
    assert not has_tone("1f3fd")
    assert not has_tone("1f44b")
    assert squash("Fork & Knife-2") == "forkandknife2"


def test_icons_become_svg_with_their_own_or_default_size() -> None:
    members = icons_json({"a": '<g fill="currentColor"/>', "b": "<g/>"}, {"1f34e": "a", "1F34F-FE0F": "b"})
    content = json.loads(members["icons.json"])
    content["icons"]["b"].update(width=20, left=3)
    icons = parse_icons({**members, "icons.json": json.dumps(content).encode()})
    assert 'viewBox="0 0 8 8"><g fill="#000"/></svg>' in icons.svg["a"]
    assert 'viewBox="3 0 20 8"' in icons.svg["b"]
    assert icons.concept == {"a": "1f34e", "b": "1f34f"}


def test_names_come_from_old_emoji_only() -> None:
    rows = [
        entry("1F34E", "red apple"),
        entry("1FAE0", "melting face", version=14),
        entry("1F9C3", "beverage box", version="?"),
        entry("E000", "own drawing", group="extras-openmoji"),
    ]
    emoji = parse_emoji(json.dumps(rows).encode())
    assert {code: one.names for code, one in emoji.items()} == {
        "1f34e": {"redapple"},
        "1fae0": frozenset(),
        "1f9c3": frozenset(),
        "e000": frozenset(),
    }


def test_names_of_cldr_and_of_unicode() -> None:
    emoji = parse_emoji(json.dumps([entry("1F346", "eggplant")]).encode())
    assert emoji["1f346"].names == {"eggplant", "aubergine"}


def test_only_unmistakable_names_match() -> None:
    rows = [
        entry("2B50", "star"),
        entry("1F31F", "glowing star"),
        entry("1F34B", "lemon"),
        entry("1F44B", "waving hand"),
        entry("1F44B-1F3FD", "waving hand: medium skin tone"),
        entry("1F380", "twin"),
        entry("1F381", "twin"),
    ]
    emoji = parse_emoji(json.dumps(rows).encode())
    names = ["star", "glowingstar", "lemon", "waving-hand", "twin", "unknown"]
    # "star" is a part of another name, "twin" names two emoji.
    assert match_names(names, emoji) == {"glowingstar": "1f31f", "lemon": "1f34b", "waving-hand": "1f44b"}


@pytest.mark.parametrize(
    ("group", "subgroup", "expected"),
    [
        ("objects", "tool", True),
        ("flags", "country-flag", False),
        ("component", "hair-style", False),
        ("extras-openmoji", "flags", False),
        ("extras-unicode", "regional-indicator", False),
        ("extras-unicode", "symbol-other", True),
    ],
)
def test_flags_and_parts_are_not_drawn(group: str, subgroup: str, expected: bool) -> None:
    assert Emoji(group=group, subgroup=subgroup, names=frozenset()).is_drawn is expected


def test_over_white_and_ink_by_hand() -> None:
    rgba = np.array([[[200, 0, 100, 255], [200, 0, 100, 0], [0, 0, 0, 51], [255, 0, 0, 255]]], np.uint8)
    rgb = raster.over_white(rgba)
    assert rgb.tolist() == [[[200, 0, 100], [255, 255, 255], [204, 204, 204], [255, 0, 0]]]
    # 255 - 204 = 51; 255 - 0.299 * 255 = 178.755.
    assert raster.ink(rgb)[0, 1:].tolist() == [0, 51, 179]


def test_rasterise_a_square() -> None:
    pytest.importorskip("resvg_py")
    svg = parse_icons(icons_json({"a": SQUARE.format(x=0, fill="#00f")}, {})).svg["a"]
    drawn = raster.rasterise(svg, 16)
    expected = np.full((16, 16, 3), 255, np.uint8)
    expected[4:12, :8] = (0, 0, 255)
    assert np.array_equal(drawn, expected)


def test_glyph_is_centred_and_fitted() -> None:
    font = raster.load_font(font_bytes({0x41: (800, 400), 0x42: (0, 0)}), 16)
    assert font.code_points == (0x41, 0x42)
    assert raster.draw_glyph(font, "B", 16) is None
    drawn = raster.draw_glyph(font, "A", 16)
    assert drawn is not None
    rows, columns = np.flatnonzero(drawn.max(axis=1)), np.flatnonzero(drawn.max(axis=0))
    # Twice as wide as high, over the whole width, in the middle.
    assert (columns[0], columns[-1]) == (0, 15)
    assert abs(int(rows[0]) - (15 - int(rows[-1]))) <= 1
    assert 7 <= len(rows) <= 9
    assert drawn[8, 8] == 255


def test_missing_tool_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(raster.TOOLS, "resvg-py", "no_such_module")
    with pytest.raises(DataError, match=r'resvg-py is not installed.*pip install "edgecmd\[build\]"'):
        raster.tool_versions()


def test_split_is_by_concept() -> None:
    concepts = np.array(["b", "a", "c", "b", "a", "d"])
    draws = dict(zip("abcd", np.random.default_rng(0).random(4), strict=True))
    expected = [0 if draws[c] < 0.7 else 1 if draws[c] < 0.8 else 2 for c in concepts.tolist()]
    assert split_of(concepts).tolist() == expected


def test_shipped_split_follows_from_the_concepts() -> None:
    arrays = read_shipped(PAIRS_FILE)
    assert np.array_equal(split_of(arrays["concept"]), arrays["split"])


def drawing(style: str, concept: str, ink: int) -> Drawing:
    sketch = np.zeros((4, 4), np.uint8)
    sketch[0, 0] = ink
    return Drawing(style=style, concept=concept, image=np.zeros((4, 4, 3), np.uint8), sketch=sketch)


def test_blank_and_double_drawings_are_dropped() -> None:
    rows = [
        drawing("fluent", "a", 255),
        drawing("fluent", "b", 39),
        drawing("fluent", "c", 255),
        drawing("noto", "a", 255),
        drawing("noto", "d", 40),
    ]
    assert [(one.style, one.concept) for one in drop_useless(rows)] == [
        ("fluent", "a"),
        ("noto", "a"),
        ("noto", "d"),
    ]


def test_archive_bytes_depend_on_the_arrays_alone(tmp_path: Path) -> None:
    arrays = {"image": np.arange(12, dtype=np.uint8).reshape(3, 4), "key": np.array(["a", "bc"])}
    first = npz_bytes(arrays)
    assert npz_bytes(dict(arrays)) == first
    (tmp_path / "x.npz").write_bytes(first)
    with np.load(tmp_path / "x.npz") as archive:
        assert content_sha256({name: archive[name] for name in archive.files}) == content_sha256(arrays)


def test_shipped_files_are_written_that_way() -> None:
    for name in (PAIRS_FILE, PUBLIC_FILE):
        content = (FOLDER / name).read_bytes()
        # The date of the first member: 1 January 1980, 00:00.
        assert content[10:14] == b"\x00\x00\x21\x00"


def packed(folder: Path, members: Mapping[str, bytes]) -> Package:
    """A package whose tarball lies in ``folder``."""
    path = folder / "scope-icons-1.0.0.tgz"
    with tarfile.open(path, "w:gz") as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(f"package/{name}")
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    sha512 = base64.b64encode(hashlib.sha512(path.read_bytes()).digest()).decode()
    return npm("@scope/icons", "1.0.0", digest=sha512)


def test_members_are_read_from_a_tarball(tmp_path: Path) -> None:
    package = packed(tmp_path, {"icons.json": b"1", "chars.json": b"2", "README.md": b"3"})
    assert package.file == "scope-icons-1.0.0.tgz"
    assert fetch(package, tmp_path) == tmp_path / package.file
    assert read_members(package, tmp_path / package.file) == {"icons.json": b"1", "chars.json": b"2"}


def test_another_tarball_is_refused(tmp_path: Path) -> None:
    package = packed(tmp_path, {"icons.json": b"1"})
    with pytest.raises(DataError, match=r"scope-icons-1\.0\.0\.tgz has sha512=.*allowed is .*again"):
        verify(package, b"something else")
    with pytest.raises(DataError, match=r"lacks chars\.json"):
        read_members(package, tmp_path / package.file)


def test_no_npm(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(packages.shutil, "which", lambda name: None)
    with pytest.raises(DataError, match=r"npm is not installed.*openmoji-17\.0\.0\.tgz.*--npm-dir"):
        fetch(HOUSES["openmoji"], tmp_path)


def test_fetch_asks_npm_for_the_exact_version(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    asked: list[list[str]] = []

    def run(command: list[str], **options: object) -> None:
        asked.append(command)
        (tmp_path / HOUSES["twemoji"].file).write_bytes(b"x")

    monkeypatch.setattr(packages.shutil, "which", lambda name: "/bin/npm")
    monkeypatch.setattr(packages.subprocess, "run", run)
    assert fetch(HOUSES["twemoji"], tmp_path).name == "iconify-json-twemoji-1.2.5.tgz"
    assert asked[0][:3] == ["/bin/npm", "pack", "@iconify-json/twemoji@1.2.5"]


def test_npm_that_fails_or_writes_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def fail(command: list[str], **options: object) -> None:
        raise subprocess.CalledProcessError(1, command, stderr="offline\n")

    monkeypatch.setattr(packages.shutil, "which", lambda name: "npm")
    monkeypatch.setattr(packages.subprocess, "run", fail)
    with pytest.raises(DataError, match=r"npm pack openmoji@17\.0\.0 .*failed: offline\. Try again"):
        fetch(HOUSES["openmoji"], tmp_path)
    monkeypatch.setattr(packages.subprocess, "run", lambda command, **options: None)
    with pytest.raises(DataError, match=r"did not write"):
        fetch(HOUSES["openmoji"], tmp_path)


def tiny_members() -> dict[str, dict[str, bytes]]:
    """Five fruit in each house; FxEmoji by name only."""
    fruit = {
        "1f34e": "red apple",
        "1f34f": "green apple",
        "1f34a": "tangerine",
        "1f34b": "lemon",
        "1f34c": "banana",
    }
    rows = [entry(code.upper(), name) for code, name in fruit.items()]
    rows += [entry("1F1E6", "letter A", group="flags"), entry("1F34B-1F3FD", "lemon: medium skin tone")]
    colours = ["#f00", "#0f0", "#fa0", "#ff0", "#cc0"]

    def house(shift: float, *, tone: bool = False, fill: str = "") -> dict[str, bytes]:
        bodies = {
            name.replace(" ", ""): SQUARE.format(x=shift + index / 2, fill=fill or colours[index])
            for index, name in enumerate(fruit.values())
        }
        codes = {code: name.replace(" ", "") for code, name in fruit.items()}
        if tone:
            bodies |= {"tonedlemon": bodies["lemon"], "lettera": bodies["banana"]}
            codes |= {"1f34b-1f3fd": "tonedlemon", "1f1e6": "lettera"}
        return icons_json(bodies, codes)

    line = {index: (400 + 100 * index, 500) for index in range(5)}
    boxes = {int(code, 16): line[index] for index, code in enumerate(fruit)}
    fxemoji = house(0.75)
    fxemoji["chars.json"] = b"{}"
    return {
        "openmoji": {packages.OPENMOJI_MEMBER: json.dumps(rows).encode()},
        "fluent-colour": house(0, tone=True),
        "fluent-line": house(0, tone=True, fill="#000"),
        "noto-colour": house(0.25),
        "noto-line": {packages.FONT_MEMBER: font_bytes(boxes)},
        "twemoji": house(0.5, tone=True),
        "fxemoji": fxemoji,
    }


@pytest.fixture(scope="module")
def tiny() -> dict[str, dict[str, np.ndarray]]:
    pytest.importorskip("resvg_py")
    return emoji_build.make_arrays(tiny_members(), side=16, say=emoji_build.keep_quiet)


def test_tiny_pairs(tiny: dict[str, dict[str, np.ndarray]]) -> None:
    pairs = tiny[PAIRS_FILE]
    assert set(pairs) == set(read_shipped(PAIRS_FILE))
    assert pairs["image"].shape == (10, 16, 16, 3)
    assert pairs["style_names"][pairs["style"]].tolist() == ["fluent"] * 5 + ["noto"] * 5
    assert sorted(pairs["concept"][:5]) == sorted(pairs["concept"][5:])
    assert set(pairs["label_names"][pairs["label"]]) == {"food-drink"}
    assert set(pairs["subgroup"]) == {"food-fruit"}
    # Draws of five concepts, in the order of their code points.
    draws = np.random.default_rng(0).random(5)
    order = sorted(set(pairs["concept"].tolist()))
    held = {code for code, draw in zip(order, draws, strict=True) if draw >= 0.7}
    assert {c for c, s in zip(pairs["concept"].tolist(), pairs["split"], strict=True) if s} == held


def test_tiny_public_set_has_no_held_out_concept(tiny: dict[str, dict[str, np.ndarray]]) -> None:
    pairs, public = tiny[PAIRS_FILE], tiny[PUBLIC_FILE]
    train = set(pairs["concept"][pairs["split"] == 0].tolist())
    keys = public["key"].tolist()
    assert {key for key in keys if key.startswith("twemoji")} == {f"twemoji/{code}" for code in train}
    assert {key for key in keys if key.startswith("fxemoji")} == {f"fxemoji/{code}" for code in train}
    assert len({image.tobytes() for image in public["image"]}) == len(keys)


def test_public_set_drops_blank_double_and_pair_pictures() -> None:
    pytest.importorskip("resvg_py")
    emoji = parse_emoji(json.dumps([entry(f"1F34{i}", f"fruit{i}x") for i in range(5)]).encode())
    bodies = {
        "a": SQUARE.format(x=0, fill="#f00"),
        "b": SQUARE.format(x=0, fill="#f00"),
        "c": SQUARE.format(x=0, fill="#fff"),
        "d": SQUARE.format(x=1, fill="#00f"),
        "e": SQUARE.format(x=3, fill="#00f"),
    }
    twemoji = parse_icons(icons_json(bodies, {f"1f34{i}": name for i, name in enumerate("abcde")}))
    pair = raster.rasterise(twemoji.svg["d"], 16)
    pairs = {"image": pair[None], "concept": np.array(["1f999"]), "split": np.array([0], np.uint8)}
    made = public_arrays(twemoji, IconSet(svg={}, concept={}), emoji, pairs=pairs)
    assert made["key"].tolist() == ["twemoji/1f340", "twemoji/1f344"]


def test_drawings_of_a_house_need_both_parts() -> None:
    pytest.importorskip("resvg_py")
    emoji = parse_emoji(json.dumps([entry("1F34E", "red apple"), entry("1F34B", "lemon")]).encode())
    body = SQUARE.format(x=0, fill="#f00")
    colour = parse_icons(icons_json({"apple": body}, {"1f34e": "apple"}))
    line = parse_icons(icons_json({"apple": body, "lemon": body}, {"1f34b": "lemon"}))
    assert [one.concept for one in named_drawings("fluent", colour, line, emoji, side=8)] == ["1f34e"]
    font = raster.load_font(font_bytes({0x1F34B: (500, 500), 0x1F34E: (500, 500)}), 8)
    drawn = list(noto_drawings(colour, font, emoji, side=8))
    assert [one.concept for one in drawn] == ["1f34e"]
    assert pair_arrays(drawn, emoji)["style"].tolist() == [1]


@pytest.fixture
def fake_build(monkeypatch: pytest.MonkeyPatch, tiny: dict[str, dict[str, np.ndarray]]) -> None:
    monkeypatch.setattr(emoji_build, "gather", lambda packages, folder, *, say: {})
    monkeypatch.setattr(emoji_build, "make_arrays", lambda members, *, side, say: tiny)


@pytest.mark.usefixtures("fake_build")
def test_another_result_is_written_elsewhere_and_reported(tmp_path: Path) -> None:
    report = emoji_build.build_emoji(tmp_path / "out")
    assert not report.is_identical
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [PAIRS_FILE, PUBLIC_FILE]
    assert "DIFFERS from the pinned content" in str(report)
    assert "resvg-py" in str(report)


@pytest.mark.usefixtures("fake_build")
def test_another_result_never_replaces_the_shipped_files() -> None:
    before = [(FOLDER / name).read_bytes() for name in (PAIRS_FILE, PUBLIC_FILE)]
    with pytest.raises(DataError, match=r"differs from the pinned content.*left unchanged.*--out"):
        emoji_build.build_emoji()
    assert [(FOLDER / name).read_bytes() for name in (PAIRS_FILE, PUBLIC_FILE)] == before


@pytest.mark.usefixtures("tiny")
def test_identical_result_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    shipped = {name: read_shipped(name) for name in (PAIRS_FILE, PUBLIC_FILE)}
    monkeypatch.setattr(emoji_build, "gather", lambda packages, folder, *, say: {})
    monkeypatch.setattr(emoji_build, "make_arrays", lambda members, *, side, say: shipped)
    monkeypatch.setattr(emoji_build, "npz_bytes", lambda arrays: b"")
    report = emoji_build.build_emoji(tmp_path)
    assert report.is_identical
    assert [one.num_rows for one in report.files] == [2951, 1447]
    assert str(report).count("identical to the pinned content") == 2


def test_packages_are_read_in_turn(tmp_path: Path) -> None:
    package = packed(tmp_path, {"icons.json": b"1", "chars.json": b"2"})
    said: list[str] = []
    found = gather({"one": package}, tmp_path, say=said.append)
    assert found == {"one": {"icons.json": b"1", "chars.json": b"2"}}
    assert said == ["reading @scope/icons@1.0.0"]


@pytest.mark.slow
@pytest.mark.network
def test_full_rebuild_is_identical(tmp_path: Path) -> None:
    report = emoji_build.build_emoji(tmp_path)
    assert report.is_identical, str(report)
