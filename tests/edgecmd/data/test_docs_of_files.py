"""docs/data.md says of every ending what the code does with it."""

import re
from pathlib import Path

from edgecmd.data.user_files.csv_tables import MAX_BYTES
from edgecmd.data.user_files.pair_files import MASKS, PICTURES, SOUNDS, SYSTEM_NAMES, UNREAD
from edgecmd.data.user_files.sound_files import MAX_RATE_HZ, MIN_RATE_HZ
from edgecmd.data.user_files.user_pairs import MIN_PAIRS

TEXT = Path(__file__).parents[3].joinpath("docs/data.md").read_text(encoding="utf-8")
SECTION = TEXT.split("### What is read, what is skipped and why")[1].split("\n## ")[0]
ROWS = {
    "images:": PICTURES.suffixes,
    "audio clips, in `target/`:": SOUNDS.suffixes,
    "masks, in `target_mask/`:": MASKS.suffixes,
    "other images:": UNREAD["picture"],
    "other audio and video:": UNREAD["recording"],
    "arrays:": UNREAD["array"],
}


def test_endings_are_those_of_the_code() -> None:
    for start, suffixes in ROWS.items():
        (row,) = [line for line in SECTION.splitlines() if line.startswith(f"| {start}")]
        told = row.removeprefix(f"| {start}").split("|")[0]
        found = re.findall(r"`(\.[a-z0-9]+)`", told)
        assert sorted(found) == sorted(suffixes)


def test_names_and_limits_are_those_of_the_code() -> None:
    told = {name.casefold() for name in re.findall(r"`([^`]+)`", SECTION)}
    assert {name.strip() for name in SYSTEM_NAMES} <= told
    assert f"at most {MAX_BYTES // 10**6} MB" in SECTION
    assert f"At least {MIN_PAIRS} pairs" in SECTION
    assert f"outside {MIN_RATE_HZ // 1000} to {MAX_RATE_HZ // 1000} kHz" in SECTION
