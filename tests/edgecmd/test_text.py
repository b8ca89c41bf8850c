"""Hostile characters are shown; numbers agree with their nouns."""

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgecmd.core.text import counted, markdown_text, one_line, printable, printable_values, size_of


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b[31mred\x1b[0m", r"\x1b[31mred\x1b[0m"),
        ("\u202egnp.exe", r"\u202egnp.exe"),
        ("zero\u200bwidth\ufeff", r"zero\u200bwidth\ufeff"),
        ("two\nlines\r\tand", r"two\nlines\r\tand"),
        ("\udcff.png", r"\udcff.png"),
        ("\U000e0001tag", r"\U000e0001tag"),
        ("bell\x07 del\x7f next\x85", r"bell\x07 del\x7f next\x85"),
        ("☃ é 中 🙂", "☃ é 中 🙂"),
        (r"C:\name", r"C:\name"),
    ],
)
def test_what_is_not_seen_is_written_out(text: str, shown: str) -> None:
    assert printable(text) == shown


@given(st.text(st.characters(codec=None), max_size=40))
def test_printable_text_has_nothing_that_a_terminal_obeys(text: str) -> None:
    shown = printable(text)
    assert not {unicodedata.category(one) for one in shown} & {"Cc", "Cf", "Cs", "Zl", "Zp"}
    assert printable(shown) == shown
    shown.encode()


def test_a_newline_may_stay() -> None:
    assert printable("a\n\x1bb", keep="\n") == "a\n\\x1bb"


def test_a_message_that_a_library_laid_out_becomes_one_line() -> None:
    assert one_line("Error(s) in loading:\n\tMissing key(s)\n\n  a, b\n") == (
        "Error(s) in loading: Missing key(s)  a, b"
    )
    assert one_line("evil\nname.png is not a picture") == r"evil\nname.png is not a picture"


def test_numbers_agree_with_their_nouns() -> None:
    assert [counted(num, "pair") for num in (0, 1, 2, 12_000)] == [
        "0 pairs",
        "1 pair",
        "2 pairs",
        "12,000 pairs",
    ]
    assert counted(1, "reply", "replies") == "1 reply"
    assert counted(2, "reply", "replies") == "2 replies"


def test_sizes_as_a_person_says_them() -> None:
    sizes = (1, 999, 1000, 1_400_000, 2.5e9, 3e13)
    assert [size_of(one) for one in sizes] == ["1 byte", "999 bytes", "1.0 kB", "1.4 MB", "2.5 GB", "30.0 TB"]
    assert [size_of(one) for one in (17, 5210, 16.5e6)] == ["17 bytes", "5.2 kB", "16.5 MB"]


def test_a_name_in_markdown_means_nothing_but_itself() -> None:
    shown = r"&lt;script&gt;a\|b\`c\`\[x\](y)\*\_\\n\\u202e"
    assert markdown_text("<script>a|b`c`[x](y)*_\n\u202e") == shown
    assert markdown_text("plain name 3") == "plain name 3"


def test_values_of_any_depth_become_printable() -> None:
    assert printable_values({"a\x1b": ["b\u202e", 3, None, {"c": ("d\n",)}]}) == {
        "a\\x1b": ["b\\u202e", 3, None, {"c": ["d\\n"]}]
    }
