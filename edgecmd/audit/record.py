"""``audit.json`` of a run folder: findings that later ones of the same kind replace."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from edgecmd.audit.finding import LEVELS, Finding, overall
from edgecmd.errors import DataError
from edgecmd.files import read_json, write_json

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
        raise DataError(f"{path} is not an audit of edgecmd ({error}). Delete it and audit again.") from error


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
    write_json(
        path,
        {
            "version": VERSION,
            **about,
            "verdict": verdict,
            "findings": [one.table() for one in together],
        },
    )
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
            _number(one.claimed),
            _number(one.measured),
            _number(one.ceiling),
            one.verdict,
        ]
        for one in findings
    ]


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3g}"
