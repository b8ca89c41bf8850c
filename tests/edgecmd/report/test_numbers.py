"""How numbers are written."""

import pytest

from edgecmd.report.numbers import NOTHING, duration, plain, share


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.41234, "0.412"),
        (1.0, "1.000"),
        (0.0, "0.000"),
        (0.0005, "0.001"),
        (0.000123, "0.00012"),
        (1e-6, "0.0000010"),
    ],
)
def test_share(value, text):
    assert share(value) == text


@pytest.mark.parametrize(
    ("value", "text"), [(3.46, "3.5 s"), (119.9, "119.9 s"), (210.25, "3 min 30 s"), (7265.0, "2 h 01 min")]
)
def test_duration(value, text):
    assert duration(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (True, "true"),
        (3.2e-7, "3.2e-07"),
        ([1, 5, 0], "1, 5, 0"),
        (None, NOTHING),
        ("", NOTHING),
        ("cmc", "cmc"),
    ],
)
def test_plain(value, text):
    assert plain(value) == text
