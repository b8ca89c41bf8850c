"""The page itself: head, style, sections, and the files it is written to."""

from collections.abc import Sequence
from html import escape
from pathlib import Path

from edgecmd.core.artefacts import write_artefact
from edgecmd.report.about import environment, limits, settings
from edgecmd.report.audit import audit
from edgecmd.report.markup import Section, paragraph
from edgecmd.report.overview import steps, summary
from edgecmd.report.privacy import OWNERS_ALONE, is_asked, privacy
from edgecmd.report.process import costs, dropped, export, partition, training
from edgecmd.report.read import RunFiles, read_run
from edgecmd.report.results import few_labels, results, retrieval

SECTIONS = (
    results,
    training,
    few_labels,
    retrieval,
    privacy,
    audit,
    partition,
    costs,
    dropped,
    export,
    settings,
    environment,
    limits,
)
STYLE_FILE = Path(__file__).with_name("style.css")
# Nothing may be fetched, whatever stands in the page.
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"


def write_report(folder: Path) -> Path:
    """Write ``report.html``, and its charts as PNG files below ``figures``.

    Args:
        folder: Run folder. Every file in it may be missing; its section then says which command makes it.

    Returns:
        Path of the page.

    Raises:
        DataError: The folder does not exist, or a file in it is damaged.

    Guarantees:
        The page is one file that asks nothing of any server and runs no script. Equal inputs give
        equal bytes with the same matplotlib. Texts of the run are escaped.
    """
    folder = Path(folder)
    run = read_run(folder)
    sections = [make(run) for make in SECTIONS]
    for section in sections:
        for drawing in section.drawings:
            write_artefact(folder, f"figures/{drawing.name}.png", drawing.png, may_leave=False)
    return write_artefact(folder, "report.html", page(run, sections), may_leave=False)


def refresh_report(folder: Path) -> Path | None:
    """Write ``report.html`` again where there is one already, as after an audit of a finished run.

    Args:
        folder: Run folder.

    Returns:
        Path of the page; None where there was none.

    Raises:
        DataError: A file of the folder is damaged.
    """
    return write_report(folder) if (Path(folder) / "report.html").is_file() else None


def page(run: RunFiles, sections: Sequence[Section]) -> str:
    """The whole page as HTML."""
    name = escape(run.name)
    links = "".join(f'<li><a href="#{one.anchor}">{escape(one.title)}</a></li>' for one in sections)
    body = "\n".join(section.html() for section in sections)
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{POLICY}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light">
<title>{name} - edgecmd report</title>
<link rel="icon" href="data:,">
<style>
{STYLE_FILE.read_text(encoding="utf-8").strip()}
</style>
</head>
<body>
<a class="skip" href="#results">Skip to the results</a>
<header>
<p class="kind">edgecmd report</p>
<h1>{name}</h1>
<p class="summary">{escape(summary(run))}</p>
{paragraph(OWNERS_ALONE, kind="missing") if is_asked(run) else ""}</header>
<main>
{steps(run)}
<nav aria-label="Sections"><ul>{links}</ul></nav>
{body}
</main>
</body>
</html>
"""
