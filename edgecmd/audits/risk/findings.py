"""Level L4 in words: what the attacks found, as findings that indicate a risk and prove nothing."""

from collections.abc import Mapping
from dataclasses import dataclass

from edgecmd.audits.finding import INDICATOR, Finding
from edgecmd.audits.risk.inversion import InversionRecipe, Trial
from edgecmd.audits.risk.membership import ATTACKS, FPRS, Curve
from edgecmd.audits.risk.shadows import ShadowRecipe
from edgecmd.core.statistics import Interval

PROTOCOLS = {
    "concepts": (
        "Members are the run's training pairs, others its validation and test pairs. The two differ in"
        " their concepts, so this measures what a thief learns about concepts rather than about one"
        " drawing; shadow students that left out whole concepts calibrate how hard a pair is, but not what"
        " public images reveal about a concept. --retrain compares exchangeable pairs."
    ),
    "pairs": (
        "The run's training was repeated on a random half of its training pairs; the other half are"
        " exchangeable non-members."
    ),
}
NOT_ATTACKED = (
    "Not attacked: the server's view. A run folder keeps no single client's weights, so there is nothing to"
    " attack after the run; the many-runs and one-run levels observe every step."
)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Membership:
    """What a membership attack on one black box gave.

    Attributes:
        box: What was attacked: ``student`` or ``exported file``.
        protocol: A key of `PROTOCOLS`.
        curves: By attack, on the target.
        control: By attack, on a randomly initialised student.
        start: By attack, on the public warm start that the run began with; empty without one.
        num_members: Members.
        num_others: Non-members.
        seconds: Wall time.
    """

    box: str
    protocol: str
    curves: Mapping[str, Curve]
    control: Mapping[str, Curve]
    start: Mapping[str, Curve]
    num_members: int
    num_others: int
    seconds: float


def membership_finding(found: Membership, recipe: ShadowRecipe) -> Finding:
    """A finding whose measured value is the area of offline LiRA."""
    best, control = found.curves["lira"], found.control["lira"]
    retrained = ", trained again" if found.protocol == "pairs" else ""
    return Finding(
        level="risk",
        name=f"membership, {found.box}{retrained}",
        attacker="device",
        verdict=INDICATOR,
        text=" ".join(
            [
                _strength(best),
                _rates(best),
                f"RMIA: AUC {_area(found.curves['rmia'])}; raw score: {_area(found.curves['raw'])}.",
                _control(control),
                *([_start(best, found.start["lira"])] if found.start else []),
                PROTOCOLS[found.protocol],
            ]
        ),
        quantity="AUC",
        measured=best.auc,
        confidence=0.95,
        counts={
            "members": found.num_members,
            "others": found.num_others,
            "shadows": recipe.num_shadows,
            "shadow_steps": recipe.num_steps,
        },
        seeds=(recipe.seed,),
        seconds=found.seconds,
        details={
            "protocol": found.protocol,
            "attacks": {name: curve.table() for name, curve in found.curves.items()},
            "control": {name: curve.table() | {"roc": []} for name, curve in found.control.items()},
            "start": {name: curve.table() | {"roc": []} for name, curve in found.start.items()},
            "control_at_chance": all(curve.chance() for curve in found.control.values()),
            "note": NOT_ATTACKED,
        },
    )


def _strength(curve: Curve) -> str:
    told = f"AUC {_area(curve)} with {ATTACKS['lira']}"
    if curve.low > 0.5:
        return f"Members are told from others better than by chance: {told}."
    return f"Members are not told from others better than by chance: {told}."


def _rates(curve: Curve) -> str:
    rates = " and ".join(f"{rate:.1%} at {fpr:.1%}" for fpr, rate in zip(FPRS, curve.tpr))
    return f"Members found: {rates} false alarms."


def _area(curve: Curve) -> str:
    return f"{curve.auc:.3f} [{curve.low:.3f}, {curve.high:.3f}]"


def _control(curve: Curve) -> str:
    if curve.chance():
        return f"The control, a student with random weights, is at chance: {_area(curve)}."
    return (
        f"THE CONTROL FAILS: a student with random weights has AUC {_area(curve)}, which happens by chance"
        " in one audit in twenty. Repeat with another --seed; if it persists, do not trust these numbers."
    )


def _start(best: Curve, start: Curve) -> str:
    """What the warm start, which saw no pair, already gives: that much is not a leak of the run."""
    told = f"The run's public warm start, which saw no pair, already has AUC {_area(start)}"
    if best.low <= start.high:
        return (
            f"{told}: what was found here is not clearly more, so it is not a clear sign that the run leaks."
        )
    return f"{told}: only what exceeds it comes from the run."


def inversion_finding(
    trial: Trial, recipe: InversionRecipe, *, loss: str, private: bool, box: str
) -> Finding:
    """A finding whose measured value is the PSNR that the server reaches against this run.

    Args:
        trial: Outcome.
        recipe: How the attacker searched.
        loss: Loss that the steps were made with.
        private: Whether the run protects each pair, so that the noised updates are its own.
        box: Which weights the round began with, in words.
    """
    table = trial.table()
    plain, noised = (_told(table, name) for name in ("plain", "private"))
    what = "1 pair" if trial.batch_size == 1 else f"{trial.batch_size} pairs"
    own = noised if private else plain
    return Finding(
        level="risk",
        name=f"gradient inversion, {what} a step",
        attacker="server",
        verdict=INDICATOR,
        text=(
            f"From a plain gradient of {what}: {plain}."
            f" Clipped and noised for epsilon {trial.plan.epsilon:g}: {noised}."
            f" A guess without any update reaches {_interval(table, 'guess')}. Assumed: one plain"
            f" gradient step of {loss} without augmentation, {box}; several steps, AdamW and larger batches"
            " are harder to invert. A stronger attacker may exist: this bounds nothing."
        ),
        quantity="PSNR (dB)",
        measured=_parts(table, "private" if private else "plain").mean,
        confidence=0.95,
        counts={
            "drawings": len(trial.truth),
            "pairs_a_step": trial.batch_size,
            "steps": recipe.num_steps,
            "restarts": recipe.restarts,
        },
        seeds=(recipe.seed,),
        details={**table, "epsilon": trial.plan.epsilon, "loss": loss, "of_this_run": own},
    )


def _told(table: Mapping[str, object], name: str) -> str:
    """Whether a reconstruction beats a guess, and by what."""
    gain = _parts(table, f"{name}_gain")
    if gain.low is None or gain.high is None:
        return f"too few drawings to compare with a guess, {_interval(table, name)}"
    if gain.low > 0:
        return f"the drawing is recovered better than by a guess, {_interval(table, name)}"
    if gain.high > 0:
        return f"no clear gain over a guess, {_interval(table, name)}"
    return f"worse than a guess, {_interval(table, name)}"


def _interval(table: Mapping[str, object], name: str) -> str:
    value, likeness = _parts(table, name), _parts(table, name, "ssim")
    told = ""
    if value.low is not None and value.high is not None:
        told = f" ± {(value.high - value.low) / 2:.1f}"
    return f"PSNR {value.mean:.1f}{told} dB, SSIM {likeness.mean:.2f}"


def _parts(table: Mapping[str, object], name: str, key: str = "psnr") -> Interval:
    one = table[name]
    assert isinstance(one, dict)
    return Interval(**one[key])
