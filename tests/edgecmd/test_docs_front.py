"""README and quick start: short, in short sentences, and every link leads somewhere."""

import re
from pathlib import Path
from urllib.parse import unquote

import pytest

ROOT = Path(__file__).parents[2]
FRONT = ("README.md", "docs/index.md", "docs/quickstart.md")
MOST_BYTES, MOST_WORDS = 8_000, 30


def prose(page: str) -> str:
    """Text of a page without code, tables, images and the addresses of links."""
    text = re.sub(r"```.*?```", "\n\n", (ROOT / page).read_text(encoding="utf-8"), flags=re.DOTALL)
    text = re.sub(r"<[^>]+>", "", text)
    lines = [line for line in text.splitlines() if not line.startswith(("|", "#", "!["))]
    text = re.sub(r"`[^`]*`", "CODE", "\n".join(lines))
    return re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", text)


def sentences(page: str) -> list[str]:
    """Sentences of a page; a bullet, and a paragraph, ends one."""
    parts = re.split(r"\n\s*\n|\n\s*[-*] |\n\s*\d+\. ", prose(page))
    return [one.strip() for part in parts for one in re.split(r"(?<=[.!?:])\s+", part) if one.strip()]


def anchors(page: Path) -> set[str]:
    """Anchors of the headings of a page, as GitHub makes them."""
    found = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", one.lower()).replace(" ", "-") for one in found}


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_bytes()) <= MOST_BYTES


@pytest.mark.parametrize("page", FRONT)
def test_no_sentence_is_long(page: str) -> None:
    long = [one for one in sentences(page) if len(one.split()) > MOST_WORDS]
    assert not long, f"{page}: {long}"


def test_what_counts_as_a_sentence() -> None:
    assert "CODE" in prose("README.md")
    assert max(len(one.split()) for one in sentences("README.md")) > 10


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md", "SECURITY.md"])
def test_each_link_of_a_front_page_leads_somewhere(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    found = re.findall(r"\]\(([^)\s]+)\)|(?:src|srcset)=\"([^\"]+)\"", text)
    for link in (one or other for one, other in found):
        if "://" in link:
            continue
        file, _, anchor = unquote(link).partition("#")
        assert (ROOT / file).exists(), f"{page}: {link}"
        assert not anchor or anchor in anchors(ROOT / file), f"{page}: {link}"
