"""Small pieces of HTML. Every text that comes from a run is escaped here."""

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import TypeAlias

from edgecmd.report.drawing import Drawing


@dataclass(frozen=True, kw_only=True, slots=True)
class Cell:
    """One cell of a table.

    Attributes:
        text: Plain text; escaped when it is written.
        note: Plain text below it in small letters.
        best: Whether to mark it as the best of its column.
    """

    text: str
    note: str = ""
    best: bool = False


Row: TypeAlias = tuple[str, Sequence[Cell | str]]


@dataclass(frozen=True, kw_only=True, slots=True)
class Section:
    """One section of the page.

    Attributes:
        anchor: Its id.
        title: Plain text.
        body: HTML.
        drawings: The pictures in it, which are also written as PNG files.
    """

    anchor: str
    title: str
    body: str
    drawings: tuple[Drawing, ...] = ()

    def html(self) -> str:
        """The section as HTML."""
        head = f'<h2 id="{escape(self.anchor)}-title">{escape(self.title)}</h2>'
        return (
            f'<section id="{escape(self.anchor)}" aria-labelledby="{escape(self.anchor)}-title">'
            f"\n{head}\n{self.body}\n</section>"
        )


def paragraph(text: str, *, kind: str = "") -> str:
    """A paragraph of plain text, with a CSS class where ``kind`` names one; `` `x` `` becomes code."""
    return f"<p{_class(kind)}>{inline(text)}</p>"


def inline(text: str) -> str:
    """Plain text, escaped; what stands between back quotes becomes code."""
    pieces = [escape(piece) for piece in text.split("`")]
    return "".join(f"<code>{piece}</code>" if index % 2 else piece for index, piece in enumerate(pieces))


def missing(what: str, *, command: str) -> str:
    """The sentence in place of a section whose file is not there."""
    return f'<p class="missing">{escape(what)} is missing; <code>{escape(command)}</code> makes it.</p>'


def listing(items: Sequence[str]) -> str:
    """A list of plain texts, see `inline`."""
    return "<ul>" + "".join(f"<li>{inline(item)}</li>" for item in items) + "</ul>"


def table(caption: str, columns: Sequence[str], rows: Sequence[Row], *, numeric: bool = True) -> str:
    """A table that scrolls sideways on a narrow screen.

    Args:
        caption: Plain text above it.
        columns: Headers; the first stands over the row headers.
        rows: Row header and the cells behind it.
        numeric: Whether cells are numbers, set to the right.
    """
    head = "".join(f'<th scope="col">{inline(column)}</th>' for column in columns)
    body = "\n".join(
        f'<tr><th scope="row">{inline(name)}</th>{"".join(_cell(cell) for cell in cells)}</tr>'
        for name, cells in rows
    )
    return (
        f'<div class="scroll" role="region" tabindex="0" aria-label="{escape(caption)}">'
        f"<table{_class('numbers' if numeric else '')}><caption><span>{inline(caption)}</span></caption>"
        f"\n<thead><tr>{head}</tr></thead>\n<tbody>\n{body}\n</tbody></table></div>"
    )


def _cell(cell: Cell | str) -> str:
    if isinstance(cell, str):
        return f"<td>{escape(cell)}</td>"
    note = f"<small>{escape(cell.note)}</small>" if cell.note else ""
    if not cell.best:
        return f"<td>{escape(cell.text)}{note}</td>"
    mark = '<span aria-hidden="true">★\u00a0</span><span class="unseen">best: </span>'
    return f'<td class="best">{mark}{escape(cell.text)}{note}</td>'


def folded(summary: str, body: str) -> str:
    """HTML that is opened by a click on ``summary`` (plain text)."""
    return f"<details><summary>{escape(summary)}</summary>\n{body}\n</details>"


def figure(drawing: str, *, caption: str) -> str:
    """A drawing (HTML) with a caption of plain text."""
    return f"<figure>{drawing}<figcaption>{inline(caption)}</figcaption></figure>"


def side_by_side(*blocks: str) -> str:
    """HTML blocks beside each other where the screen is wide enough."""
    return '<div class="beside">' + "\n".join(blocks) + "</div>"


def _class(name: str) -> str:
    return f' class="{escape(name)}"' if name else ""
