"""The page itself: which sections it has, and the files that it is written to."""

import base64
import hashlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined, UndefinedError
from markupsafe import Markup, escape

from edgecmd.core.artefacts import write_artefact
from edgecmd.core.errors import DataError
from edgecmd.report import numbers
from edgecmd.report.audit import audit
from edgecmd.report.drawing import Drawing
from edgecmd.report.overview import steps, summary
from edgecmd.report.pictures import png_file, rank_in_words, seen
from edgecmd.report.privacy import is_asked, privacy
from edgecmd.report.process import costs, dropped, environment, export, limits, partition, settings, training
from edgecmd.report.read import RunFiles, read_run
from edgecmd.report.results import classes, few_labels, results, retrieval

# Title, and what its template ``sections/<anchor>.html`` is filled with.
SECTIONS: Mapping[str, tuple[str, Callable[[RunFiles], Mapping[str, object]]]] = {
    "results": ("Student against baselines", results),
    "training": ("Distillation by round", training),
    "labels": ("Accuracy by number of labels", few_labels),
    "classes": ("Results by class", classes),
    "retrieval": ("What the student finds", retrieval),
    "privacy": ("Privacy", privacy),
    "audit": ("Audit", audit),
    "partition": ("What the clients hold", partition),
    "costs": ("Time and traffic", costs),
    "dropped": ("Dropped replies", dropped),
    "export": ("Exported bundle", export),
    "settings": ("Settings", settings),
    "environment": ("Environment", environment),
    "limits": ("Limits", limits),
}
TEMPLATES = Path(__file__).with_name("templates")
STRANGE = (UndefinedError, AttributeError, LookupError, TypeError, ValueError)


def write_report(folder: Path) -> Path:
    """Write ``report.html``, and its charts as PNG files below ``figures``.

    Args:
        folder: Run folder. Every file in it may be missing; its section then says which command makes it.

    Returns:
        Path of the page.

    Raises:
        DataError: The folder does not exist, or a file in it is damaged.

    Guarantees:
        The page is one file that asks nothing of any server. It runs one script, ``templates/sort.js``,
        which sorts tables; the page's own policy names its digest and allows no other. Nothing of the run
        enters the script. Equal inputs give equal bytes with the same matplotlib. Texts of the run are
        escaped.
    """
    folder = Path(folder)
    run = read_run(folder)
    with strange_files_named(str(folder)):
        values = {anchor: make(run) for anchor, (_, make) in SECTIONS.items()}
        html = _page(run, values)
    for section in values.values():
        for value in section.values():
            if isinstance(value, Drawing):
                write_artefact(folder, f"figures/{value.name}.png", value.png, may_leave=False)
    return write_artefact(folder, "report.html", html, may_leave=False)


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


@contextmanager
def strange_files_named(where: str) -> Iterator[None]:
    """Turn what a file of another kind in ``where`` leads to into a DataError in words."""
    try:
        yield
    except DataError:
        raise
    except STRANGE as error:
        raise DataError(
            f"A file of {where} is not as edgecmd writes it ({type(error).__name__}: {error})."
            " Find the one that was changed or comes from another version, and make it again."
        ) from error


def _page(run: RunFiles, values: Mapping[str, Mapping[str, object]]) -> str:
    """The whole page as HTML."""
    page = templates(run=run)
    sections = [
        (anchor, title, Markup(page.get_template(f"sections/{anchor}.html").render(values[anchor])))
        for anchor, (title, _) in SECTIONS.items()
    ]
    return page.get_template("page.html").render(
        title=run.name,
        kind="report",
        summary=summary(run),
        steps=steps(run),
        is_asked=is_asked(run),
        shows="test images, what each client holds, baselines and times",
        sections=sections,
    )


def templates(**everywhere: object) -> Environment:
    """The templates, which all see ``everywhere``; what is put in is escaped, and a missing name an error."""
    found = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    found.filters |= {
        "code": code,
        "share": numbers.share,
        "duration": numbers.duration,
        "plain": numbers.plain,
        "place": rank_in_words,
        "png": png_file,
        "seen": seen,
        "base64": lambda data: base64.b64encode(data).decode(),
    }
    script = (TEMPLATES / "sort.js").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    found.globals |= {"script": Markup(script), "script_digest": Markup(digest), **everywhere}
    found.globals["parts"] = found.get_template("parts.html").module
    return found


def code(text: object) -> Markup:
    """Text, escaped; what stands between back quotes becomes code."""
    pieces = str(text).split("`")
    marked = [
        Markup("<code>{}</code>").format(one) if odd % 2 else escape(one) for odd, one in enumerate(pieces)
    ]
    return Markup().join(marked)
