"""The page in a real browser: its headers sort, its policy holds, and nothing hangs over on a phone."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.export.browser import Browser, find_chromium, open_browser

CHROMIUM = find_chromium()
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed")
COLUMN = """
(() => [...document.querySelectorAll('#results tbody tr')].map(row => row.cells[0].textContent))()
"""


@pytest.fixture(scope="module")
def browser(reported: Path) -> Iterator[Browser]:
    assert CHROMIUM
    with open_browser(CHROMIUM) as one:
        one.open((reported / "report.html").as_uri())
        one.wait("document.readyState === 'complete'")
        yield one


def header(title: str, what: str) -> str:
    """Expression on the header of the main table that begins with ``title``."""
    headers = "[...document.querySelectorAll('#results thead th')]"
    return (
        f"(() => {{ const h = {headers}.find(h => h.textContent.startsWith('{title}')); return {what}; }})()"
    )


def test_a_header_sorts_the_largest_first_then_the_smallest(browser: Browser) -> None:
    before = browser.evaluate(COLUMN)
    browser.evaluate(header("one-shot", "h.firstChild.click()"))
    assert browser.evaluate(header("one-shot", "h.getAttribute('aria-sort')")) == "descending"
    # 0.740, 0.623, 0.551, 0.331, 0.210, chance 1 / 310; the student from scratch has none and stays last.
    order = ["l2", "student", "simclr", "teacher as it is", "untrained", "chance", "scratch"]
    assert browser.evaluate(COLUMN) == order
    browser.evaluate(header("one-shot", "h.firstChild.click()"))
    assert browser.evaluate(COLUMN) == [*order[-2::-1], "scratch"]
    browser.evaluate(header("method", "h.firstChild.click()"))
    assert browser.evaluate(COLUMN) == sorted(before)
    assert browser.evaluate(header("one-shot", "h.getAttribute('aria-sort')")) is None
    assert browser.evaluate(header("method", "h.getAttribute('aria-sort')")) == "ascending"


def test_what_has_no_order_has_no_button(browser: Browser) -> None:
    """Times in seconds and in minutes, and the confusion matrix, whose columns are its rows."""
    titles = "[...document.querySelectorAll('#costs th button')].map(one => one.textContent)"
    assert browser.evaluate(titles) == ["stage", "share"]
    assert browser.evaluate("document.querySelectorAll('.matrix button').length") == 0


def test_no_other_script_runs_and_nothing_complains(browser: Browser) -> None:
    assert browser.complaints() == []
    browser.evaluate(
        "(() => { const s = document.createElement('script'); s.textContent = 'window.ran = true';"
        " document.body.append(s); })()"
    )
    assert browser.evaluate("window.ran === undefined")
    assert any("script-src" in one for one in browser.complaints())


@pytest.mark.parametrize("width", [320, 390, 1280])
def test_nothing_hangs_over_the_side(browser: Browser, width: int) -> None:
    browser.resize(width, 800, is_phone=width < 1000)
    assert browser.evaluate("document.documentElement.scrollWidth") <= width
