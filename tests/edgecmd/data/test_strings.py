"""Strings as they are stored, varied and degraded: whole characters of UTF-8, whatever is done to them."""

import unicodedata
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import edgecmd as ec
from edgecmd.core.errors import ConfigError, DataError
from edgecmd.data.constants import constant_notes
from edgecmd.data.duplicates import near_groups
from edgecmd.data.modalities.table import (
    as_pictures,
    as_words,
    input_shape,
    kind_of,
    modality_of,
    target_input,
)
from edgecmd.data.modalities.text import TEXT, folded
from edgecmd.data.modalities.typos import (
    as_bytes,
    characters,
    erase_letters,
    shuffle_letters,
    truncate,
    varied,
)
from edgecmd.data.modalities.utf8 import MOST_BYTES, check_strings, decode_strings, encode_strings
from edgecmd.data.pairs import PairedData

MANY = ["grinning face", "猫が好き", "Ça va?", "कुत्ता", "Привет", "😀👩‍🚀 ok", "ế", "a", "é" * 24]
TEXTS = st.text(st.characters(exclude_categories=["Cc", "Cs", "Zl", "Zp"]), min_size=1).filter(str.strip)
Degrade = Callable[[np.ndarray, float, np.random.Generator], np.ndarray]


def coins(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def seen(texts: list[str], num_bytes: int = 48) -> torch.Tensor:
    return target_input(encode_strings(texts, num_bytes), offset=9.0, scale=9.0)


def raw(batch: torch.Tensor) -> list[bytes]:
    """Rows without their padding; a zero before it is left in."""
    return [row.tobytes().rstrip(b"\0") for row in batch.flatten(1).numpy().astype(np.uint8)]


def test_bytes_by_hand() -> None:
    # "é" is C3 A9; "e" with a combining accent becomes it; of "aé猫" 3 bytes hold "aé".
    stored = encode_strings(["é", " e\u0301 ", "aé猫", "ab cd"], 3)
    assert stored.tolist() == [[0xC3, 0xA9, 0], [0xC3, 0xA9, 0], [0x61, 0xC3, 0xA9], [0x61, 0x62, 0]]
    assert stored.dtype == np.uint8
    assert decode_strings(stored) == ["é", "é", "aé", "ab"]


def test_a_modality_is_told_by_its_arrays() -> None:
    stored = encode_strings(["cat", "ab"], 5)
    assert (modality_of(stored).name, kind_of(stored), input_shape(stored)) == ("text", "text", (1, 1, 5))
    # Values as they are: offset and scale are for images.
    assert seen(["cat"], 5).tolist() == [[[[99.0, 97.0, 116.0, 0.0, 0.0]]]]
    with pytest.raises(DataError, match=f"up to {MOST_BYTES} bytes"):
        modality_of(np.zeros((2, MOST_BYTES + 1), np.uint8))


@given(text=TEXTS, num_bytes=st.integers(4, 64))
def test_what_is_stored_is_a_beginning_of_the_text_and_stays_what_it_is(text: str, num_bytes: int) -> None:
    stored = encode_strings([text], num_bytes)
    (kept,) = decode_strings(stored)
    whole = unicodedata.normalize("NFC", text).strip()
    assert kept
    assert whole.startswith(kept)
    check_strings(stored, name="it")
    np.testing.assert_array_equal(encode_strings([kept], num_bytes), stored)
    # No more would have had room: the next character, or white space that would end the string.
    rest = whole[len(kept) :]
    more = kept + rest[: 1 + len(rest) - len(rest.lstrip())]
    assert not rest or len(more.encode()) > num_bytes


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty"),
        (" \u3000", "is empty"),
        ("a\0b", r"has the character \\x00 at place 2"),
        ("a\tb", r"has the character \\t at place 2"),
        ("ab\u2028c", r"has the character \\u2028 at place 3"),
        ("\ud800", r"has the character \\ud800 at place 1"),
    ],
)
def test_what_is_no_string_is_refused(text: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        encode_strings(["fine", text], 48)


def test_a_first_character_that_finds_no_room_is_refused() -> None:
    with pytest.raises(DataError, match=r"String 1 of 1: .* begins with a character of more than 3 bytes"):
        encode_strings(["😀"], 3)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ([0x61, 0, 0x62, 0], "row 1 has a 0 before its last byte"),
        ([0x61, 0xC3, 0, 0], "row 1 is no UTF-8 at byte 1"),
        ([0xFF, 0x61, 0, 0], "row 1 is no UTF-8 at byte 0"),
        ([0x65, 0xCC, 0x81, 0], "is not NFC"),
        ([0x20, 0x61, 0, 0], "begins or ends with white space"),
        ([0x61, 0x0A, 0x62, 0], r"has the character \\n at place 2"),
    ],
)
def test_rows_that_no_encoder_gives_are_found(row: list[int], message: str) -> None:
    with pytest.raises(DataError, match=message):
        check_strings(np.array([[0, 0, 0, 0], row], np.uint8), name="target")


@settings(max_examples=60)
@given(texts=st.lists(TEXTS, min_size=1, max_size=4), seed=st.integers(0, 999), strength=st.floats(0.1, 8))
def test_no_view_breaks_a_character_or_leaves_none(texts: list[str], seed: int, strength: float) -> None:
    for row in raw(varied(seen(texts, 32), strength=strength, generator=coins(seed))):
        assert row
        assert b"\0" not in row
        row.decode()


@given(rows=st.lists(st.binary(min_size=12, max_size=12), min_size=1, max_size=3))
def test_bytes_that_are_no_text_come_back_as_they_are(rows: list[bytes]) -> None:
    stored = torch.tensor([list(row) for row in rows])
    found = as_bytes(characters(stored), 12)
    assert [bytes(row).rstrip(b"\0") for row in found.tolist()] == [row.replace(b"\0", b"") for row in rows]


def test_characters_are_those_of_python() -> None:
    stored = torch.from_numpy(encode_strings(MANY, 48)).long()
    for text, row in zip(MANY, characters(stored).tolist(), strict=True):
        found = [one.to_bytes(4, "big").rstrip(b"\0").decode() for one in row if one]
        assert found == list(text)


def test_a_view_of_strength_zero_is_the_batch_and_rows_are_independent() -> None:
    batch = seen(MANY)
    assert torch.equal(varied(batch, strength=0.0, generator=coins()), batch)
    first, again = (varied(batch, strength=1.0, generator=coins(3)) for _ in range(2))
    assert torch.equal(first, again)
    assert not torch.equal(first, batch)
    other = batch.clone()
    other[4] = seen(["something else"])[0]
    rows = [row for row in range(len(MANY)) if row != 4]
    assert torch.equal(varied(other, strength=1.0, generator=coins(3))[rows], first[rows])


def test_what_views_do_and_how_often() -> None:
    batch, num = seen(["abcdefghij"] * 4000, 16), 4000
    found = [row.decode() for row in raw(varied(batch, strength=1.0, generator=coins()))]
    # Of ten letters none is dropped, doubled or swapped, by hand: (0.96 * 0.96)^10 * 0.96^9 = 0.306; a
    # letter that is chosen twice, for dropping and doubling, is once there: a little more.
    same = sum(one.lower() == "abcdefghij" for one in found) / num
    assert 0.28 < same < 0.35
    # The first letter in the other case for a quarter, and all for an eighth; both at once leave the first.
    upper = sum(one[0].isupper() for one in found) / num
    assert abs(upper - (0.25 * 0.875 + 0.125 * 0.75)) < 0.04
    assert any(one.isupper() for one in found)
    assert {len(one) for one in found} >= {9, 10, 11}
    assert "bacdefghij" in {one.lower() for one in found}


@pytest.mark.parametrize(
    ("text", "other"), [("привет", "ПРИВЕТ"), ("ça", "ÇA"), ("ế", "Ế"), ("猫", "猫"), ("ß", "ß")]
)
def test_letters_of_any_script_have_the_other_case(text: str, other: str) -> None:
    found = {row.decode() for row in raw(varied(seen([text] * 400), strength=1.0, generator=coins()))}
    assert other in found
    if text != other:
        assert text in found


def test_a_view_keeps_type_and_shape() -> None:
    batch = seen(MANY).to(torch.bfloat16)
    found = varied(batch, strength=1.0, generator=coins())
    assert (found.dtype, found.shape) == (batch.dtype, batch.shape)
    assert torch.equal(found.float(), varied(batch.float(), strength=1.0, generator=coins()))


@pytest.mark.parametrize("degrade", [erase_letters, shuffle_letters, truncate])
@pytest.mark.parametrize("level", [0.0, 0.3, 1.0])
def test_degraded_strings_are_strings(degrade: Degrade, level: float) -> None:
    stored = encode_strings(MANY, 48)
    found = degrade(stored, level, np.random.default_rng(0))
    assert (found.shape, found.dtype) == (stored.shape, stored.dtype)
    assert all(b"\0" not in row.tobytes().rstrip(b"\0") for row in found)
    texts = [row.tobytes().rstrip(b"\0").decode() for row in found]
    if level == 0.0:
        assert texts == MANY
    by_hand = {
        erase_letters: [len(text) for text in texts] == [len(text) for text in MANY],
        shuffle_letters: [sorted(text) for text in texts] == [sorted(text) for text in MANY],
        truncate: all(text and full.startswith(text) for text, full in zip(texts, MANY, strict=True)),
    }
    assert by_hand[degrade]


def test_degradations_by_hand() -> None:
    stored, generator = encode_strings(["abcdefghij", "k lm"], 16), np.random.default_rng(0)
    erased = decode_strings(erase_letters(stored, 0.5, generator))
    assert [text.count("_") for text in erased] == [5, 2]
    assert decode_strings(erase_letters(stored, 1.0, generator)) == ["_" * 10, "____"]
    assert decode_strings(truncate(stored, 0.5, generator)) == ["abcde", "k"]
    assert decode_strings(truncate(stored, 1.0, generator)) == ["a", "k"]
    assert [len(word) for word in decode_strings(shuffle_letters(stored, 1.0, generator))[1].split()] == [
        1,
        2,
    ]


def test_strings_that_a_person_would_call_the_same_are_near() -> None:
    stored = encode_strings(["Red  Heart", "red heart", "red hearts", "ÉTÉ", "été"], 24)
    assert near_groups(stored).tolist() == [0, 0, 1, 2, 2]
    assert TEXT.looks_known(stored[1:3], stored[:1]).tolist() == [True, False]
    assert folded("STRASSE") == folded("straße")


def test_empty_strings_are_told() -> None:
    target = np.zeros((3, 8), np.uint8)
    target[0, 0] = target[1, 0] = 0x61
    pictures = np.random.default_rng(0).integers(0, 256, (3, 16, 16, 3), dtype=np.uint8)
    (note,) = constant_notes(PairedData(source=pictures, target=target))
    assert note.startswith("1 of 3 strings of target/ are empty: nothing can be learnt from them")


def test_a_list_of_texts_makes_pairs() -> None:
    source = np.random.default_rng(0).integers(0, 256, (3, 16, 16, 3), dtype=np.uint8)
    pairs = ec.Pairs(source=source, target=ec.strings(["dog", "猫", " Ça va "]), owner=["en", "ja", "fr"])
    assert decode_strings(pairs.target) == ["dog", "猫", "Ça va"]
    assert pairs.target.shape == (3, 48)
    with pytest.raises(DataError, match="String 2 of 2"):
        ec.strings(["dog", ""])
    with pytest.raises(DataError, match="allowed is a list of strings"):
        ec.strings("dog")
    with pytest.raises(ConfigError, match="num_bytes=0"):
        ec.strings(["dog"], num_bytes=0)


def test_pictures_of_strings_are_drawn_and_differ() -> None:
    stored = encode_strings(["dog", "dig", "Привет", "dog"], 48)
    found = as_pictures(stored)
    assert (found.dtype, found.shape) == (np.uint8, (4, 128, 128, 1))
    assert all(int(one.min()) == 0 and int(one.max()) == 255 for one in found)
    assert np.array_equal(found[0], found[3])
    assert not np.array_equal(found[0], found[1])
    # A picture cannot show every script, so text goes with it; of what a picture shows there is none.
    assert as_words(stored) == ["dog", "dig", "Привет", "dog"]
    assert as_words(np.zeros((1, 16, 16, 1), np.uint8)) == []


def test_the_row_in_the_documents_is_the_row() -> None:
    root = Path(__file__).parents[3]
    page = (root / "docs" / "extending.md").read_text(encoding="utf-8")
    code = page.split("## The modality text", 1)[1].split("```python\n", 1)[1].split("```", 1)[0]
    source = (root / "edgecmd" / "data" / "modalities" / "text.py").read_text(encoding="utf-8")
    assert set(code.splitlines()) <= set(source.splitlines())
