"""Level L4 in words: what the attacks found, as findings that indicate a risk and prove nothing."""

from collections.abc import Mapping
from dataclasses import dataclass

from edgecmd.audits.finding import INDICATOR, Finding
from edgecmd.audits.risk.inversion import InversionRecipe, Trial
from edgecmd.audits.risk.membership import ATTACKS, FPRS, Curve
from edgecmd.audits.risk.secrets import RANKS, Count, SecretRecipe, Told
from edgecmd.audits.risk.shadows import ShadowRecipe
from edgecmd.core.statistics import Interval
from edgecmd.privacy.plan import PrivacyPlan

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
    "targets": (
        "Members are the targets of the run's training pairs, others those of its validation and test, each"
        " asked about once. The split held them out at random, so the two are exchangeable."
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
        blind: Without any model, by the words alone; None where targets are no words.
        num_members: Members.
        num_others: Non-members.
        seconds: Wall time.
    """

    box: str
    protocol: str
    curves: Mapping[str, Curve]
    control: Mapping[str, Curve]
    start: Mapping[str, Curve]
    blind: Curve | None = None
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
                *([_blind(found.blind)] if found.blind is not None else []),
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
            **({"blind": found.blind.table() | {"roc": []}} if found.blind is not None else {}),
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
    between = [f" ({low:.1%} to {high:.1%})" for low, high in curve.tpr_between] or [""] * len(FPRS)
    rates = " and ".join(
        f"{rate:.1%}{interval} at {fpr:.1%}" for fpr, rate, interval in zip(FPRS, curve.tpr, between)
    )
    return f"Members found: {rates} false alarms."


def _blind(curve: Curve) -> str:
    """What an attacker without the model already knows."""
    told = f"Without the model, by the words alone: AUC {_area(curve)}"
    return (
        f"{told}." if curve.low <= 0.5 else f"{told}, SO THE TWO DIFFER, and what was found may be no leak."
    )


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


def secrets_finding(found: Told, recipe: SecretRecipe, plan: PrivacyPlan | None) -> Finding:
    """A finding whose measured value is the area of the calibrated score."""
    best, raw, blind = (found.curves[name] for name in ("calibrated", "raw", "blind"))
    strength = "Secrets are told from decoys" if best.low > 0.5 else "Secrets are not told from decoys"
    typed = f"{found.copies} times" if found.copies > 1 else "once"
    shown = " and ".join(
        f"{_count(one)} within the first {most} of {found.num_things} (decoys {_count(other)})"
        for most, one, other in zip(RANKS, found.shown, found.decoys, strict=True)
    )
    claim = "without privacy" if plan is None else f"epsilon {plan.epsilon:g} for each {plan.unit}"
    if plan is not None and plan.unit == "pair" and found.copies > 1:
        claim += f", so a secret of {found.copies} pairs is promised less"
    return Finding(
        level="risk",
        name=f"typed secrets, {typed}, exported file",
        attacker="device",
        verdict=INDICATOR,
        text=(
            f"{strength} better than by chance: AUC {_area(best)} against a file that never saw them;"
            f" {_rates(best)} By the file alone: AUC {_area(raw)}; {_rates(raw)} Typed into the file, a"
            f" secret shows what it was paired with: {shown}. Without the file, by one that never saw them:"
            f" AUC {_area(blind)}. The run was trained again, {claim}, with {found.num} invented secrets that"
            f" one client each holds {typed}; {found.num_decoys} decoys of the same law are held by nobody."
        ),
        quantity="AUC",
        measured=best.auc,
        confidence=0.95,
        counts={"secrets": found.num, "decoys": found.num_decoys, "copies": found.copies},
        seeds=(recipe.seed,),
        seconds=found.seconds,
        details={
            "attacks": {name: one.table() for name, one in found.curves.items()},
            "things": found.num_things,
            "shown": {f"first_{most}": one.table() for most, one in zip(RANKS, found.shown, strict=True)},
            "decoys_shown": {
                f"first_{most}": one.table() for most, one in zip(RANKS, found.decoys, strict=True)
            },
        },
    )


def _count(one: Count) -> str:
    low, high = one.interval
    return f"{one.found} of {one.num} [{low:.1%}, {high:.1%}]"


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
