"""What one audit found: the claim, the measurement, the attacker, and a verdict in words."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from edgecmd.audits.levels import LEVELS
from edgecmd.core.errors import PrivacyError
from edgecmd.core.text import counted

CONTRADICTED = "contradicted"
NOT_CONTRADICTED = "not contradicted"
INDICATOR = "risk indicator"
VERDICTS = (CONTRADICTED, NOT_CONTRADICTED, INDICATOR)

ATTACKERS = {
    "code": "whoever reads the code and settings; nothing was attacked",
    "steps": "the accountant's: sees every noised step of a client and its coins' outcome at the end",
    "sum": "the server of a secure sum: sees the noised sum of each round",
    "server": "the server: sees each client's weights after each of its rounds",
    "client": "another client: sees the global weights of each round",
    "device": "the holder of the device: sees the final file alone",
}


class ContradictedError(PrivacyError):
    """An audit contradicts the guarantee that was claimed."""

    exit_code = 3


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """One audit's outcome.

    Attributes:
        level: A key of `edgecmd.audits.levels.LEVELS`.
        name: What was done, such as ``sensitivity search``; unique for a level and attacker.
        attacker: A key of `ATTACKERS`.
        verdict: One of `VERDICTS`; a risk indicator never contradicts.
        text: Verdict in one sentence, with its numbers.
        quantity: What the numbers below measure: ``epsilon``, ``sensitivity``, ``noise``, ``AUC``.
        claimed: The claimed value; None if nothing was claimed.
        measured: The measured value: a lower bound on epsilon or on the sensitivity, a ratio, an AUC.
        ceiling: The most that this audit could have certified; None if that has no meaning.
        confidence: Confidence of a statistical lower bound or test; None otherwise.
        counts: Numbers of canaries, draws, runs, tries.
        seeds: Seeds that the audit used; the system's noise has none.
        seconds: Wall time in seconds.
        details: Further plain values for reports.
    """

    level: str
    name: str
    attacker: str
    verdict: str
    text: str
    quantity: str
    claimed: float | None = None
    measured: float | None = None
    ceiling: float | None = None
    confidence: float | None = None
    counts: Mapping[str, int] = field(default_factory=dict)
    seeds: tuple[int, ...] = ()
    seconds: float = 0.0
    details: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for value, allowed in (
            (self.level, LEVELS),
            (self.attacker, ATTACKERS),
            (self.verdict, VERDICTS),
        ):
            if value not in allowed:
                raise PrivacyError(f"{value!r} is unknown in a finding; allowed: {', '.join(allowed)}.")
        if not LEVELS[self.level].proves and self.verdict == CONTRADICTED:
            raise PrivacyError("A risk indicator cannot contradict a guarantee.")

    @property
    def key(self) -> tuple[str, str, str]:
        """What a repeated audit replaces."""
        return self.level, self.name, self.attacker

    def table(self) -> dict[str, Any]:
        """Plain values for ``audit.json``; numbers that are not finite become None."""
        found = asdict(self)
        for name in ("claimed", "measured", "ceiling"):
            value = found[name]
            found[name] = value if value is None or math.isfinite(value) else None
        return {**found, "seeds": list(self.seeds), "seconds": round(self.seconds, 2)}


def epsilon_verdict(*, lower: float, claimed: float | None, ceiling: float) -> tuple[str, str]:
    """Verdict on a claimed epsilon, and its sentence.

    Args:
        lower: Lower bound of epsilon that was certified.
        claimed: Epsilon that was claimed; None for a run without a guarantee.
        ceiling: The most that the audit could have certified.
    """
    could = f"this audit could have certified at most epsilon = {ceiling:.3g}"
    if claimed is None:
        return INDICATOR, f"Nothing was claimed; epsilon is at least {lower:.3g} ({could})."
    if lower > claimed:
        return CONTRADICTED, f"Contradicted: epsilon is at least {lower:.3g}, claimed was {claimed:.3g}."
    return (
        NOT_CONTRADICTED,
        f"Not contradicted: at least {lower:.3g} of the claimed {claimed:.3g} ({could}).",
    )


def overall(findings: Iterable[Finding]) -> str:
    """Contradicted if any finding contradicts; not contradicted if any could have; otherwise indicator."""
    verdicts = {one.verdict for one in findings}
    return next((one for one in VERDICTS if one in verdicts), INDICATOR)


def refuse_contradicted(findings: Sequence[Finding]) -> None:
    """Raise an error if a finding contradicts the claim.

    Raises:
        ContradictedError: With the text of the first contradiction.
    """
    wrong = [one for one in findings if one.verdict == CONTRADICTED]
    if wrong:
        verb = "contradicts" if len(wrong) == 1 else "contradict"
        told = f"{len(wrong)} of {counted(len(findings), 'audit')} {verb}"
        raise ContradictedError(f"{told}. First: {wrong[0].text}")
