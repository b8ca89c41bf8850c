"""Tables as spreadsheets write them: read where they have one meaning, else refused with the way out."""

from pathlib import Path

import pytest

from edgecmd.data.user_files.csv_tables import check_ids, made_of_an_id, read_table

IDS = [f"{index:03d}" for index in range(6)]
# Label of each id, by hand; one has a comma, one a quote, one letters beyond ASCII.
LABELS = ["a", "b, c", 'say "x"', "ä☃", "", "b, c"]
EXPECTED = {one: {"id": one, "label": label} for one, label in zip(IDS, LABELS, strict=True)}


def text(delimiter: str = ",", *, end: str = "\n", header: str = "id,label", ids: list[str] = IDS) -> str:
    quoted = ['"' + label.replace('"', '""') + '"' for label in LABELS]
    lines = [header.replace(",", delimiter)]
    lines += [f"{one}{delimiter}{label}" for one, label in zip(ids, quoted, strict=True)]
    return end.join(lines) + end


def read(path: Path, content: bytes) -> tuple[dict[str, dict[str, str]], list[str], list[str]]:
    """Table, problems and notes of ``labels.csv`` with this content."""
    problems: list[str] = []
    notes: list[str] = []
    file = path / "labels.csv"
    file.write_bytes(content)
    table = read_table(file, required=("id", "label"), optional=(), problems=problems, notes=notes)
    if table:
        table = check_ids(file, table, ids=IDS, complete=False, problems=problems, notes=notes)
    return table, problems, notes


@pytest.mark.parametrize(
    ("content", "note"),
    [
        (text().encode(), ""),
        (text(end="\r\n").encode(), ""),
        (text(end="\r").encode(), ""),
        (text().encode("utf-8-sig"), ""),
        (text(header="ID,Label").encode(), ""),
        (text(header='"Id", LABEL').encode(), ""),
        (text(";").encode(), "has semicolons between its cells"),
        (text("\t").encode(), "has tabs between its cells"),
        (text("|").encode(), "has bars between its cells"),
        (("sep=;\r\n" + text(";", end="\r\n")).encode("utf-8-sig"), "has semicolons between"),
        (("sep=,\n" + text()).encode(), ""),
        (('"sep=\t"\n' + text("\t")).encode(), "has tabs"),
        (("sep=;\r" + text(";", end="\r")).encode(), "has semicolons"),
        (text().encode("utf-16"), "is UTF-16 text"),
        (text("\t", end="\r\n").encode("utf-16"), "is UTF-16 text"),
        (text().encode("utf-16-le"), "is UTF-16 text"),
        (text().encode("utf-16-be"), "is UTF-16 text"),
        (text().encode("utf-32"), "is UTF-32 text"),
        (("\n \n" + text() + "\n\n,\n").encode(), ""),
        (
            text(ids=[f"{one}.png" for one in IDS]).encode(),
            "6 ids with an ending or folder, such as '000.png'",
        ),
        (text(ids=[f"target\\{one}.wav" for one in IDS]).encode(), "6 ids with an ending or folder"),
    ],
)
def test_what_has_one_meaning_is_read(tmp_path: Path, content: bytes, note: str) -> None:
    table, problems, notes = read(tmp_path, content)
    assert problems == []
    assert table == EXPECTED
    assert len(notes) >= bool(note)
    assert note in " ".join(notes)
    assert bool(notes) == bool(note)


def test_cells_that_spreadsheets_add_at_the_end(tmp_path: Path) -> None:
    lines = text().splitlines()
    table, problems, _ = read(tmp_path, "\n".join(f"{line},," for line in lines).encode())
    assert (table, problems) == (EXPECTED, [])


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", "is empty. Its first line must name id,label"),
        (b"\n\n", "is empty"),
        (b"id,label\n", "has no line below the header. Add one for each id, or remove the file."),
        (b"id,Class\n000,a\n", "lacks the column label; its first line is 'id,class'"),
        (b"000,a\n001,b\n", "lacks the columns id and label; its first line is '000,a'"),
        (b"id,label,label\n000,a,b\n", "has columns of one name: 1 (label)"),
        (b"id,label\n000\n001,b\n", "1 line without exactly 2 cells, the first is '000' in line 2"),
        (
            b"id,label\n000,a\n001,b,c\n002,d,e\n",
            "2 lines without exactly 2 cells, the first is '001,b,c' in",
        ),
        (b"id,label\n000,a\n000,b\n", "names an id more than once: 1 (000)"),
        (b"id,label\n,a\n001,b\n", "1 line with an empty id"),
        (b"id,label\n000,\xe4\n", "line 2 is not UTF-8 text: byte 0xe4 belongs to some other code page"),
        (b"id,label\n000,\x00\n", "line 2 has a NUL character"),
        (
            b"id,label\n000," + b"x" * 200_000 + b"\n",
            "cannot be read as CSV: line 2 has a cell of more than 131,072 characters. Shorten it.",
        ),
        (
            b'id,label\n000,a\n001,"b\n' + b"002,c\n" * 30_000,
            "a double quote that opens in or after line 3 is never closed",
        ),
        (b'id,label\n"000,a\n', "a double quote that opens in or after line 2 is never closed"),
        (b'sep=,\nid,label\n"000,a\n', "a double quote that opens in or after line 3 is never closed"),
        (b'id,label\n"000"x,a\n', "line 2 has text behind a closing double quote"),
        (
            b'id,label\n000,"a\n001,"b"\n',
            "the row of the lines 2 to 3 has text behind a closing double quote",
        ),
        (b"id,label\n1E+00,a\n", "1 id that a spreadsheet turned into a number, such as '1E+00'"),
        (b'id,label\n"1,23457E+12",a\n', "a spreadsheet turned into a number, such as '1,23457E+12'"),
        (b"id,label\n0.0,a\n1.0,b\n", "2 ids that a spreadsheet turned into a number, such as '0.0'"),
        (b"id,label\n0,a\n1,b\n", "2 ids without leading zeros, such as '0' for '000': a spreadsheet"),
        (b"id,label\nzz,a\n", "names ids without a pair: 1 (zz). An id is a file name without its suffix."),
        (b"\xff\xfei", "is not UTF-16 text"),
        (b"PK\x03\x04\x00\x00\x08", "has a NUL character"),
    ],
)
def test_what_would_be_a_guess_is_refused_with_the_way_out(
    tmp_path: Path, content: bytes, expected: str
) -> None:
    _, problems, _ = read(tmp_path, content)
    assert expected in " ".join(problems)
    assert all(str(tmp_path) in one for one in problems)


def test_lost_zeros_name_what_to_do(tmp_path: Path) -> None:
    (sentence,) = read(tmp_path, b"id,label\n1,a\n")[1]
    assert "Format Cells, Text" in sentence
    assert "(001.png)" in sentence


@pytest.mark.parametrize(
    ("name", "absent", "kind"),
    [
        ("1E+00", (), "a number"),
        ("1e5", ("100000",), "a number"),
        ("1.0", ("1",), "a number"),
        ("1,00", ("001",), "a number"),
        ("123456789012345000", ("123456789012345678",), "a number"),
        ("01.Feb", ("1-2",), "a date"),
        ("2-Jan", ("1-2",), "a date"),
        ("01. M\u00e4r", ("mar1",), "a date"),
        ("03/01/2026", ("MAR1",), "a date"),
        ("2026-03-01 00:00:00", ("3-1",), "a date"),
        ("2-Jan", ("chair",), ""),
        ("1.5", ("1",), ""),
        ("1.0", ("chair",), ""),
        ("1E5x", ("100000",), ""),
        ("12345678901234567890", ("12345678901234567891",), ""),
        ("chair", ("1-2",), ""),
    ],
)
def test_what_a_spreadsheet_makes_of_ids_is_known(name: str, absent: tuple[str, ...], kind: str) -> None:
    assert made_of_an_id(name, absent) == kind


def test_what_no_other_format_repairs_is_not_answered_with_one(tmp_path: Path) -> None:
    for content in (b'id,label\n"000,a\n', b"id,label\n000," + b"x" * 200_000 + b"\n"):
        assert "Save it as" not in " ".join(read(tmp_path, content)[1])


def test_two_names_of_one_pair_are_not_merged(tmp_path: Path) -> None:
    """``001`` has a line of its own, so ``001.png`` is not taken for it."""
    _, problems, _ = read(tmp_path, b"id,label\n001,a\n001.png,b\n")
    assert "names ids without a pair: 1 (001.png)" in problems[0]


def test_columns_that_are_not_used_are_noted(tmp_path: Path) -> None:
    table, problems, notes = read(tmp_path, b"id,label,when,who\n000,a,1,2\n")
    assert problems == []
    assert table == {"000": {"id": "000", "label": "a"}}
    assert notes == [f"{tmp_path / 'labels.csv'} has columns that are not used: 2 (when, who)."]


def test_what_is_no_file(tmp_path: Path) -> None:
    (tmp_path / "labels.csv").mkdir()
    problems: list[str] = []
    assert read_table(tmp_path / "labels.csv", required=("id",), optional=(), problems=problems) == {}
    assert "it is not a regular file" in problems[0]
