"""The contact sheet and the table of counts."""

import struct
from pathlib import Path

import numpy as np
import pytest

from edgecmd.data import show
from edgecmd.data.experiment import Experiment, HeldOut, load_experiment
from edgecmd.data.labelled import UNLABELLED, LabelledTarget, Labels
from edgecmd.data.pairs import PairedData, PublicSource
from edgecmd.settings import DataConfig


@pytest.fixture(scope="module")
def emoji() -> Experiment:
    return load_experiment(DataConfig(image_size=16))


def small_experiment(channels: int = 1, *, labelled: bool = True) -> Experiment:
    """Six training pairs of two owners and three held-out ones; not square, without ids."""
    generator = np.random.default_rng(0)

    def pairs(num: int) -> PairedData:
        source = generator.integers(0, 255, (num, 8, 8, 3), dtype=np.uint8)
        target = generator.integers(0, 255, (num, 8, 4, channels), dtype=np.uint8)
        return PairedData(source=source, target=target)

    def held() -> HeldOut:
        part = pairs(3)
        labels = {"owner": Labels(values=np.array([0, 1, 1]), names=("ann", "bob"))} if labelled else {}
        return HeldOut(pairs=part, labelled=LabelledTarget(target=part.target, labels=labels))

    public = PublicSource(images=pairs(2).source, keys=("a", "b"), name="mine")
    return Experiment(
        name="small",
        kind="procedural",
        public=public,
        train=pairs(6),
        train_owner=Labels(values=np.array([0, 0, 0, 0, 1, UNLABELLED]), names=("ann", "bob")),
        train_labels=Labels(values=np.array([0, 1, 2, 0, 0, 0]), names=("x", "y", "z")),
        train_subgroup=Labels(values=np.zeros(6, np.int64), names=("s",)),
        validation=held(),
        test=held(),
        test_strict=held(),
    )


def size_of(png: bytes) -> tuple[int, int]:
    assert png[:8] == b"\x89PNG\r\n\x1a\n"
    return struct.unpack(">II", png[16:24])


def test_sheet_is_a_png_and_deterministic(emoji: Experiment, tmp_path: Path) -> None:
    paths = [tmp_path / f"{index}.png" for index in range(3)]
    for path, seed in zip(paths, (1, 1, 2), strict=True):
        show.contact_sheet(emoji, path, num=5, seed=seed)
    first, again, other = (path.read_bytes() for path in paths)
    assert first == again != other
    width = 2 * show.MARGIN_PX + 5 * (show.TILE_PX + show.GAP_PX) - show.GAP_PX
    assert size_of(first)[0] == width
    assert sorted(tmp_path.iterdir()) == paths


def test_more_pairs_than_columns_wrap(
    emoji: Experiment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(show, "MAX_COLUMNS", 4)
    heights = []
    for num in (4, 5):
        show.contact_sheet(emoji, tmp_path / "sheet.png", num=num)
        heights.append(size_of((tmp_path / "sheet.png").read_bytes())[1])
    # One more line of pictures alone and three of pairs.
    line = show.CAPTION_PX + show.GAP_PX
    assert heights[1] - heights[0] == (show.TILE_PX + line) + 3 * (2 * show.TILE_PX + line)


@pytest.mark.parametrize("channels", [1, 2, 3])
def test_sheet_of_a_small_set_without_ids(tmp_path: Path, channels: int) -> None:
    show.contact_sheet(small_experiment(channels), tmp_path / "sheet.png", num=50)
    assert size_of((tmp_path / "sheet.png").read_bytes())[0] >= 640


def test_tile_keeps_colours_and_stretches() -> None:
    image = np.zeros((2, 2, 3), np.uint8)
    image[0, 1] = (10, 20, 30)
    drawn = show.tile(image)
    half = show.TILE_PX // 2
    assert drawn.shape == (show.TILE_PX, show.TILE_PX, 3)
    assert drawn[half - 1, half].tolist() == [10, 20, 30]
    assert drawn[half, half].tolist() == [0, 0, 0]
    assert (drawn[0] == show.FRAME).all()


def test_tile_of_one_channel_is_grey() -> None:
    drawn = show.tile(np.full((4, 4, 1), 77, np.uint8))
    assert drawn[5, 5].tolist() == [77, 77, 77]


def test_captions_are_cut_and_never_formulas(tmp_path: Path) -> None:
    assert show.caption("noto/1f600", "noto") == "1f600\nnoto"
    assert len(show.caption("x" * 90, "")) == show.MAX_CAPTION + 1
    cell = show.Cell(tiles=(np.zeros((show.TILE_PX, show.TILE_PX, 3), np.uint8),), caption="$\\broken{$")
    figure = show.draw_sheet("$ title $", [show.Section(heading="", cells=(cell,))])
    figure.savefig(tmp_path / "sheet.png")
    assert size_of((tmp_path / "sheet.png").read_bytes())


def test_rows_are_drawn_without_replacement() -> None:
    rows = show.draw_rows(10, 6, seed=0, purpose="train")
    assert len(set(rows)) == 6
    assert rows == sorted(rows)
    assert show.draw_rows(3, 9, seed=0, purpose="train") == [0, 1, 2]


def test_table_counts_by_hand() -> None:
    rows = [list(row.values()) for row in show.data_table(small_experiment())]
    assert rows == [
        ["all", "", 2, 6, 3, 3, 3],
        ["owner", "ann", "", 4, 1, 1, 1],
        ["owner", "bob", "", 1, 2, 2, 2],
        ["label", "x", "", 4, "", "", ""],
        ["label", "y", "", 1, "", "", ""],
        ["label", "z", "", 1, "", "", ""],
    ]


def test_table_without_held_out_labels() -> None:
    rows = show.data_table(small_experiment(labelled=False))
    assert [row["test"] for row in rows if row["by"] == "owner"] == ["", ""]


def test_table_of_the_built_in_set(emoji: Experiment) -> None:
    rows = show.data_table(emoji)
    owners = [row for row in rows if row["by"] == "owner"]
    assert [row["name"] for row in owners] == ["fluent", "noto"]
    assert sum(int(row["test"]) for row in owners) == len(emoji.test)
    assert sum(int(row["train"]) for row in rows if row["by"] == "label") == len(emoji.train)
    assert list(rows[0]) == ["by", "name", "public", "train", "validation", "test", "strict test"]
