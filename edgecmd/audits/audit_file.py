"""``audit.json`` of a run folder: findings that later ones of the same kind replace."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from edgecmd.audits.finding import Finding, overall
from edgecmd.audits.levels import LEVELS
from edgecmd.core.artefacts import write_artefact
from edgecmd.core.errors import DataError
from edgecmd.core.files import read_json

FILE = "audit.json"
VERSION = 1


def read_findings(path: Path) -> list[Finding]:
    """Findings of an ``audit.json``; none where there is no file.

    Raises:
        DataError: The file is not one.
    """
    if not path.exists():
        return []
    table = read_json(path)
    try:
        if table["version"] != VERSION:
            raise DataError(f"{path} has version={table['version']!r}; allowed is {VERSION}. Audit again.")
        return [Finding(**{**one, "seeds": tuple(one["seeds"])}) for one in table["findings"]]
    except (KeyError, TypeError) as error:
        raise DataError(f"{path} is not an audit by edgecmd ({error}). Delete it and audit again.") from error


def write_findings(path: Path, findings: Iterable[Finding], *, about: dict[str, Any]) -> list[Finding]:
    """Write ``findings`` beside those of earlier audits, which they replace where their keys are equal.

    Args:
        path: The ``audit.json``.
        findings: New findings.
        about: Target, claim and data of the audit.

    Returns:
        All findings that the file holds now.
    """
    new = list(findings)
    kept = [one for one in read_findings(path) if one.key not in {other.key for other in new}]
    together = sorted([*kept, *new], key=_order)
    verdict = overall(together)
    table = {
        "version": VERSION,
        **about,
        "verdict": verdict,
        "findings": [one.table() for one in together],
    }
    write_artefact(path.parent, path.name, table, may_leave=False)
    return together


def _order(one: Finding) -> tuple[int, str, str]:
    return list(LEVELS).index(one.level), one.name, one.attacker


def rows(findings: Sequence[Finding]) -> list[list[str]]:
    """Findings as rows of a table for a terminal."""
    return [
        [
            one.level,
            one.name,
            one.attacker,
            one.quantity,
            number(one.claimed),
            number(one.measured),
            number(one.ceiling),
            one.verdict,
        ]
        for one in findings
    ]


def number(value: float | None) -> str:
    """Three digits of a number for a terminal; a dash for none."""
    return "-" if value is None else f"{value:.3g}"
