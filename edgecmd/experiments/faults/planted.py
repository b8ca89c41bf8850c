"""Planted faults: what goes wrong in practice, each with a sound twin, run through the real audits.

A list of what an audit catches is worth something only if the same audit, in the same run, lets the
sound twin pass.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from edgecmd.audits.audit_file import number
from edgecmd.audits.finding import CONTRADICTED, Finding
from edgecmd.audits.levels import LEVELS
from edgecmd.core.errors import PrivacyError

COLUMNS = ("planted fault", "level", "quantity", "claimed", "measured", "verdict", "sound twin", "verdict")


@dataclass(frozen=True, kw_only=True, slots=True)
class Fault:
    """A fault that an audit must catch.

    Attributes:
        name: What was done wrong.
        level: A key of `edgecmd.audits.levels.LEVELS`: the level of the audit that catches it.
        catch: Audits the fault.
        sound: The same audit of what is done right.
    """

    name: str
    level: str
    catch: Callable[[], Finding]
    sound: Callable[[], Finding]

    def __post_init__(self) -> None:
        if self.level not in LEVELS:
            raise PrivacyError(f"level={self.level!r} is unknown; allowed: {', '.join(LEVELS)}.")


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """What the audits said of a fault and of its sound twin."""

    fault: Fault
    caught: Finding
    sound: Finding

    @property
    def passed(self) -> bool:
        """Whether the fault was contradicted and its twin was not."""
        return self.caught.verdict == CONTRADICTED and self.sound.verdict != CONTRADICTED

    def table(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return {
            "fault": self.fault.name,
            "level": self.fault.level,
            "passed": self.passed,
            "caught": self.caught.table(),
            "sound": self.sound.table(),
        }

    def row(self) -> list[str]:
        """A row under `COLUMNS`."""
        return [
            self.fault.name,
            self.fault.level,
            self.caught.quantity,
            number(self.caught.claimed),
            number(self.caught.measured),
            self.caught.verdict,
            number(self.sound.measured),
            self.sound.verdict,
        ]


def outcomes(faults: Sequence[Fault]) -> Iterator[Outcome]:
    """Audit each fault and its sound twin, one after the other."""
    for fault in faults:
        yield Outcome(fault=fault, caught=fault.catch(), sound=fault.sound())


def require_all(found: Sequence[Outcome]) -> None:
    """Refuse an audit that misses a fault or contradicts what is sound.

    Raises:
        PrivacyError: The message names the first one.
    """
    wrong = [one for one in found if not one.passed]
    if not wrong:
        return
    first = wrong[0]
    what = "misses" if first.caught.verdict != CONTRADICTED else "contradicts the sound twin of"
    raise PrivacyError(
        f"The audit {what} {first.fault.name!r} ({len(wrong)} of {len(found)} faults failed). Do not rely on"
        f" its verdicts with these versions. It said: {first.caught.text} Of the twin: {first.sound.text}"
    )
