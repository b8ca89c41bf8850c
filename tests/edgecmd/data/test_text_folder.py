"""Strings of a user: cells of pairs.csv beside source/, or rows of an .npz; on a device line by line."""

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from edgecmd.core.errors import ConfigError, PrivacyError
from edgecmd.data.modalities.utf8 import decode_strings, encode_strings
from edgecmd.data.user_files.device_pairs import DevicePairs, read_device_pairs
from edgecmd.data.user_files.folder import load_folder
from edgecmd.settings import DataConfig
from tests.device_files import SIDE, picture
from tests.user_files import check_folder, read_pairs

NUM, EACH = 12, 3
CONFIG = DataConfig(name="folder", image_size=SIDE, text_bytes=24)
WORDS = ("dog", "猫が好き", "Ça va?", "कुत्ता", "Привет", "ok")


def text_of(row: int) -> str:
    return f"{WORDS[row % len(WORDS)]} {row}"


def lines(num: int = NUM * EACH) -> list[str]:
    """Of each image three strings, with owners."""
    return [f"s{row:02d},p{row // EACH:02d}.png,{text_of(row)},o{row % 4}" for row in range(num)]


def write(
    folder: Path,
    table: list[str],
    *,
    header: str = "id,source,text,owner",
    images: int = NUM,
    encoding: str = "utf-8",
) -> Path:
    (folder / "source").mkdir(parents=True, exist_ok=True)
    for row in range(images):
        picture(row, colour=True).save(folder / "source" / f"p{row:02d}.png")
    (folder / "pairs.csv").write_bytes("\n".join([header, *table, ""]).encode(encoding))
    return folder


def on_device(path: Path, **settings: object) -> DevicePairs:
    return read_device_pairs(path, replace(CONFIG, **settings), kind="text")  # type: ignore[arg-type]


def test_a_folder_becomes_an_experiment_and_strings_of_an_image_share_a_part(tmp_path: Path) -> None:
    found = load_folder(replace(CONFIG, path=str(write(tmp_path, lines())), max_pairs=0))
    parts = (found.train, found.validation.pairs, found.test.pairs)
    assert sum(map(len, parts)) == NUM * EACH
    assert {one.target.dtype.name for one in parts} == {"uint8"}
    assert {one.target.shape[1:] for one in parts} == {(24,)}
    texts = [text for one in parts for text in decode_strings(one.target)]
    assert sorted(texts) == sorted(decode_strings(encode_strings([text_of(row) for row in range(36)], 24)))
    images = [{one.tobytes() for one in part.source} for part in parts]
    assert not images[0] & images[1] | images[0] & images[2] | images[1] & images[2]
    assert set(found.train_owner.names) == {"o0", "o1", "o2", "o3"}


def test_without_a_column_source_the_id_names_the_image(tmp_path: Path) -> None:
    table = [f"p{row:02d},{text_of(row)}" for row in range(NUM)]
    found = read_pairs(write(tmp_path, table, header="id,text"), CONFIG)
    assert decode_strings(found.target[:2]) == ["dog 0", "猫が好き 1"]
    np.testing.assert_array_equal(found.source[1], np.asarray(picture(1, colour=True)))


def test_a_store_on_the_disk_gives_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGECMD_CACHE", str(tmp_path / "cache"))
    folder = write(tmp_path / "pairs", lines())
    memory, stored = (read_pairs(folder, replace(CONFIG, store=one)) for one in ("never", "always"))
    for half in ("source", "target"):
        np.testing.assert_array_equal(np.asarray(getattr(stored, half)), getattr(memory, half))


def test_what_is_cut_or_not_used_is_told(tmp_path: Path) -> None:
    notes: list[str] = []
    table = [f"s{row:02d},p{row // 3:02d},{row:02d} is more than two dozen bytes,o1" for row in range(30)]
    table += lines()[30:33]
    assert check_folder(write(tmp_path, table), CONFIG, notes=notes) == []
    told = " ".join(notes)
    assert "a text of which only the beginning is kept: 30 (" in told
    assert "data.text_bytes says how much" in told
    assert "no line for images of source/, which are not used: 1 (p11)" in told


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("x,p00.png,,o1", "has a text that cannot be used: 1 (x). Of 'x': The text '' is empty"),
        ('x,p00.png,"a\nb",o1', r"has the character \n at place 2"),
        ("x,p00.png,a\x07b,o1", r"has the character \x07 at place 2"),
        ("x,p00.png,one,two,o1", "line without exactly 4 cells"),
        ("s00,p00.png,twice,o1", "names an id more than once: 1 (s00)"),
        ("x,p99.png,dog,o1", "names images that source/ does not have: 1 (p99.png)"),
        (",p00.png,dog,o1", "1 line with an empty id"),
    ],
)
def test_faults_of_a_line_are_named_and_on_a_device_cost_that_line_alone(
    line: str, message: str, tmp_path: Path
) -> None:
    folder = write(tmp_path, [*lines()[:20], line, *lines()[20:]])
    assert any(message in one for one in check_folder(folder, CONFIG)), message
    found, whole = on_device(folder), on_device(write(tmp_path / "whole", lines()))
    # Two lines of one id are both left out.
    lost = 1 if line.startswith("s00,") else 0
    assert found.digests == whole.digests[lost:]
    np.testing.assert_array_equal(found.data.target, whole.data.target[lost:])
    assert len(found.skipped) in (1, 2)


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (b"x,p00.png,caf\xe9,o1", "is not UTF-8 text: byte 0xe9"),
        (b"x,p00.png,a\0b,o1", "has a NUL character"),
        (b'x,p00.png,"dog,o1', "a double quote that opens in or after line 38 is never closed"),
    ],
)
def test_what_breaks_a_table_breaks_one_line_on_a_device(raw: bytes, message: str, tmp_path: Path) -> None:
    folder = write(tmp_path, lines())
    whole = on_device(folder)
    with (folder / "pairs.csv").open("ab") as file:
        file.write(raw + b"\n")
    assert any(message in one for one in check_folder(folder, CONFIG))
    found = on_device(folder)
    assert found.digests == whole.digests
    (why,) = found.skipped
    assert "line 38" in why or why.startswith("x:")


def test_a_line_without_end_is_one_line(tmp_path: Path) -> None:
    folder = write(tmp_path, lines())
    with (folder / "pairs.csv").open("ab") as file:
        file.write(b"x" * 200_000 + b"\nlast,p00.png,end,o1")
    found = on_device(folder)
    assert len(found) == NUM * EACH + 1
    assert found.skipped == ("pairs.csv line 38: it has 65,536 bytes or more",)


def test_a_device_reads_what_the_check_reads(tmp_path: Path) -> None:
    folder = write(tmp_path, lines())
    found, whole = on_device(folder), read_pairs(folder, CONFIG)
    np.testing.assert_array_equal(found.data.target, whole.target)
    np.testing.assert_array_equal(found.data.source, whole.source)
    assert found.skipped == ()
    assert len({*found.digests}) == NUM * EACH
    assert found.present == found.digests


def test_adding_a_pair_adds_its_row_and_changes_no_other(tmp_path: Path) -> None:
    less, more = (on_device(write(tmp_path / str(num), lines(num))) for num in (20, 21))
    assert set(more.digests) - set(less.digests) == {more.digests[20]}
    np.testing.assert_array_equal(more.data.target[:20], less.data.target)


def test_what_a_device_keeps_is_what_it_would_read_again(tmp_path: Path) -> None:
    folder, keep = write(tmp_path / "pairs", lines(9)), tmp_path / "kept.npz"
    for file in (folder / "source").iterdir():
        # Older than what may still change.
        os.utime(file, (1, 1))
    every = [read_device_pairs(folder, CONFIG, kind="text", keep=keep) for _ in range(2)]
    np.testing.assert_array_equal(every[0].data.target, every[1].data.target)
    assert every[0].digests == every[1].digests


def test_a_broken_image_costs_its_own_strings(tmp_path: Path) -> None:
    folder = write(tmp_path, lines())
    (folder / "source" / "p03.png").write_bytes(b"no picture")
    found = on_device(folder)
    assert len(found) == (NUM - 1) * EACH
    assert len(found.skipped) == EACH


@pytest.mark.parametrize("header", ["id,source,words,owner", "id,text,text,owner", "sep=,"])
def test_a_header_that_names_no_text_is_the_owners_fault(header: str, tmp_path: Path) -> None:
    with pytest.raises(PrivacyError, match="must name the columns id and text"):
        on_device(write(tmp_path, lines(), header=header))


def test_no_table_and_no_line_are_answers_like_any_other(tmp_path: Path) -> None:
    (tmp_path / "source").mkdir()
    for found in (on_device(tmp_path), on_device(write(tmp_path, []))):
        assert (found.data.target.shape, found.data.target.dtype) == ((0, 24), np.uint8)
        assert found.data.source.shape == (0, SIDE, SIDE, 3)


def test_a_table_of_other_forms_is_read_alike(tmp_path: Path) -> None:
    plain = read_pairs(write(tmp_path / "plain", lines()), CONFIG)
    marked = write(tmp_path / "marked", lines(), encoding="utf-8-sig")
    semicolons = write(
        tmp_path / "semicolons", [line.replace(",", ";") for line in lines()], header="id;source;text;owner"
    )
    for folder in (marked, semicolons):
        np.testing.assert_array_equal(read_pairs(folder, CONFIG).target, plain.target)
        np.testing.assert_array_equal(on_device(folder).data.target, plain.target)


def test_a_column_text_beside_target_files_is_not_read(tmp_path: Path) -> None:
    table = [f"p{row:02d},{text_of(row)}" for row in range(24)]
    folder = write(tmp_path, table, header="id,text", images=24)
    (folder / "target").mkdir()
    for row in range(24):
        picture(row + 100, colour=False).save(folder / "target" / f"p{row:02d}.png")
    notes: list[str] = []
    assert check_folder(folder, CONFIG, notes=notes) == []
    assert any("columns that are not used: 1 (text)" in one for one in notes)
    assert read_pairs(folder, CONFIG).target.shape == (24, SIDE, SIDE, 1)


def test_without_text_or_target_both_ways_are_named(tmp_path: Path) -> None:
    folder = write(tmp_path, [f"p{row:02d},o1" for row in range(NUM)], header="id,owner")
    assert any("beside the text of each id in pairs.csv" in one for one in check_folder(folder, CONFIG))


def test_masks_of_strings_are_refused(tmp_path: Path) -> None:
    folder = write(tmp_path, lines())
    (folder / "target_mask").mkdir()
    assert any("strings have no pixels" in one for one in check_folder(folder, CONFIG))


def archive(path: Path, *, num_bytes: int = 30) -> dict[str, np.ndarray]:
    source = np.random.default_rng(0).integers(0, 256, (NUM, SIDE, SIDE, 3), dtype=np.uint8)
    arrays = {"source": source, "target": encode_strings([text_of(row) for row in range(NUM)], num_bytes)}
    np.savez(path, **arrays)
    return arrays


@pytest.mark.parametrize("num_bytes", [21, 24, 60])
@pytest.mark.parametrize("store", ["never", "always"])
def test_an_archive_of_any_length_is_read_and_cut(
    num_bytes: int, store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EDGECMD_CACHE", str(tmp_path / "cache"))
    path = tmp_path / "pairs.npz"
    archive(path, num_bytes=num_bytes)
    wanted = encode_strings([text_of(row) for row in range(NUM)], 24)
    found = read_pairs(path, replace(CONFIG, store=store))
    np.testing.assert_array_equal(np.asarray(found.target), wanted)
    np.testing.assert_array_equal(on_device(path).data.target, wanted)


def test_rows_of_an_archive_that_are_no_strings_are_named(tmp_path: Path) -> None:
    path = tmp_path / "pairs.npz"
    arrays = archive(path)
    arrays["target"][3, :] = 0
    arrays["target"][5, 1] = 0
    arrays["target"][7, 0] = 0xFF
    np.savez(path, **arrays)
    found = check_folder(path, CONFIG)
    for row, why in ((3, "is empty"), (5, "has a 0 before its last byte"), (7, "is no UTF-8 at byte 0")):
        assert any(f"target {row}" in one and why in one for one in found)
    device = on_device(path)
    assert len(device) == NUM - 3
    assert [one.partition(":")[0] for one in device.skipped] == ["row 3", "row 5", "row 7"]


def test_kinds_are_not_mixed_up(tmp_path: Path) -> None:
    folder = write(tmp_path, lines())
    # For a student of pictures the strings are not there at all, and the other way round.
    assert len(read_device_pairs(folder, CONFIG, kind="grey")) == 0
    path = tmp_path / "pairs.npz"
    archive(path)
    found = read_device_pairs(path, CONFIG, kind="grey")
    assert len(found) == 0
    assert "holds strings; data.target_kind='grey' takes images" in found.skipped[0]
    np.savez(path, source=np.zeros((2, SIDE, SIDE, 3), np.uint8), target=np.zeros((2, SIDE, SIDE), np.uint8))
    assert "holds images; data.target_kind='text' takes strings" in on_device(path).skipped[0]


@pytest.mark.parametrize("num", [0, 7, 513])
def test_lengths_that_no_setting_has_are_refused(num: int) -> None:
    with pytest.raises(ConfigError, match="text_bytes"):
        DataConfig(text_bytes=num)
