"""Which profile for which target: measured if this machine is one, otherwise by rule and marked as such."""

import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from edgecmd.core.errors import choose
from export.profiles.table import BASE, PROFILES

X86, ARM, WASM = "x86", "arm", "wasm"
MACHINES = {"x86_64": X86, "amd64": X86, "i686": X86, "aarch64": ARM, "arm64": ARM, "armv7l": ARM}
# A profile is as fast as fp32 up to here, in shares of its time.
SAME_SPEED = 1.05
# From here on it is worth a larger distance from the student.
WORTH = 1.2
LEAST_AGREEMENT = 0.99
MAX_METRIC_LOSS = 0.01
WASM_REASON = (
    "by rule, not measured here: in WebAssembly 8-bit arithmetic was measured to take 2.1 times as long as"
    " float32 (9.2 against 4.4 ms, onnxruntime-web 1.30, a student of 0.64 million weights at 64 px), and"
    " 8-bit weights to cost nothing"
)
OTHER_REASON = (
    "by rule, not measured here: 8-bit weights compute as float32 does and need nothing of the processor; run"
    " `edgecmd bench export` on such a machine to see whether int8 is faster there"
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Candidate:
    """What is known of a profile.

    Attributes:
        name: Such as ``int8``.
        num_bytes: Size of its file.
        min_ms: Least latency; None where it was not measured.
        agreement: Share of the inputs with the same first answer as the student's; None where there is
            nothing to compare with.
        metric_loss: What it costs of the task metric; None likewise.
        least_cosine: Smallest cosine to the student's embedding; None likewise.
        cosine_limit: Smallest cosine that its profile allows.
    """

    name: str
    num_bytes: int
    min_ms: float | None = None
    agreement: float | None = None
    metric_loss: float | None = None
    least_cosine: float | None = None
    cosine_limit: float = 0.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Advice:
    """A profile for a target.

    Attributes:
        target: ``x86``, ``arm`` or ``wasm``.
        profile: Its name; empty where none is good enough.
        measured: Whether it was measured on such a machine.
        reason: Why, in words.
    """

    target: str
    profile: str
    measured: bool
    reason: str


def this_target(machine: str = "") -> str:
    """Target that this machine is: ``x86`` or ``arm``; empty where it is another."""
    return MACHINES.get((machine or platform.machine()).lower(), "")


def faults(candidate: Candidate, *, fp32_ms: float | None) -> list[str]:
    """Why a profile may not be recommended; empty where it may.

    Args:
        candidate: The profile.
        fp32_ms: Least latency of fp32 on this machine, or None where speed does not count.
    """
    found = []
    if candidate.min_ms is not None and fp32_ms is not None and candidate.min_ms > SAME_SPEED * fp32_ms:
        found.append(f"{candidate.min_ms / fp32_ms:.2f} times the latency of fp32")
    if candidate.agreement is not None and candidate.agreement < LEAST_AGREEMENT:
        found.append(f"agreement {candidate.agreement:.3f}, allowed from {LEAST_AGREEMENT:g}")
    if candidate.metric_loss is not None and candidate.metric_loss > MAX_METRIC_LOSS:
        found.append(f"costs {candidate.metric_loss:.3f} of the metric, allowed are {MAX_METRIC_LOSS:g}")
    if candidate.least_cosine is not None and candidate.least_cosine < candidate.cosine_limit:
        found.append(f"least cosine {candidate.least_cosine:.4f}, allowed from {candidate.cosine_limit:g}")
    return found


def advise(target: str, candidates: Sequence[Candidate], *, here: str) -> Advice:
    """Profile for ``target``.

    Measured (``target`` is ``here``): of those without a fault the fastest, if it is at least 1.2 times as
    fast as fp32, else the smallest. By rule: the smallest of the exact profiles (``w8``, ``fp32``) without a
    fault in what they compute; never one with 8-bit arithmetic.

    Args:
        target: ``x86``, ``arm`` or ``wasm``.
        candidates: Profiles that were measured on this machine.
        here: What this machine is, see `this_target`.

    Guarantees:
        Never a profile that was measured slower than fp32 (by more than a twentieth), or beyond a limit of
        agreement, metric or cosine.

    Raises:
        ConfigError: The target is unknown.
    """
    choose("--target", target, {X86: 0, ARM: 0, WASM: 0})
    if target == here:
        return _measured(target, candidates)
    reason = WASM_REASON if target == WASM else OTHER_REASON
    fit = [one for one in candidates if PROFILES[one.name].exact and not faults(one, fp32_ms=None)]
    return _chosen(target, min(fit, key=_size, default=None), measured=False, reason=reason)


def _measured(target: str, candidates: Sequence[Candidate]) -> Advice:
    base = next((one.min_ms for one in candidates if one.name == BASE), None)
    if base is None:
        return Advice(
            target=target, profile="", measured=False, reason=f"{BASE} was not measured beside them"
        )
    fit = [one for one in candidates if one.min_ms is not None and not faults(one, fp32_ms=base)]
    fastest = min(fit, key=lambda one: one.min_ms or 0.0, default=None)
    if fastest is not None and fastest.min_ms is not None and base >= WORTH * fastest.min_ms:
        times = base / fastest.min_ms
        return _chosen(target, fastest, measured=True, reason=f"measured: {times:.2f} times as fast as fp32")
    smallest = min(fit, key=_size, default=None)
    reason = "measured: no profile within the limits is clearly faster than fp32, and this is the smallest"
    return _chosen(target, smallest, measured=True, reason=reason)


def _size(candidate: Candidate) -> int:
    return candidate.num_bytes


def _chosen(target: str, candidate: Candidate | None, *, measured: bool, reason: str) -> Advice:
    if candidate is None:
        return Advice(
            target=target, profile="", measured=measured, reason="none of the profiles is within the limits"
        )
    return Advice(target=target, profile=candidate.name, measured=measured, reason=reason)


def ratios(times: Mapping[str, float], *, base: str) -> dict[str, float]:
    """How many times as fast as ``base`` each is: its time divided by each one's; empty without ``base``.

    Args:
        times: Milliseconds by name, greater than 0.
        base: Name of what the others are compared with.
    """
    if base not in times:
        return {}
    return {name: times[base] / value for name, value in times.items()}
