"""What many-run audits are made of: the headline comparison, and the plan of a user's own run."""

from dataclasses import dataclass
from pathlib import Path

from edgecmd.audits.audit_file import FILE, write_findings
from edgecmd.audits.finding import Finding
from edgecmd.audits.many_runs.runs import measure
from edgecmd.audits.many_runs.trainers import Arm
from edgecmd.audits.target import Target
from edgecmd.core.errors import PrivacyError
from edgecmd.privacy.plan import Sections, make_plan
from edgecmd.settings import DistillConfig, FederationConfig, PrivacyConfig

NUM_PAIRS = 128
NAIVE, NAIVE_TITLE = "naive", "Opacus, in-batch negatives"


@dataclass(frozen=True, kw_only=True, slots=True)
class ManyRunsEffort:
    """How much the level does.

    Attributes:
        num_runs: Runs with the canary, and as many without it.
        num_jobs: Processes, each with one thread.
        seed: Of the pair and of all runs.
    """

    num_runs: int = 200
    num_jobs: int = 2
    seed: int = 0


def runs_folder(target: Target, *, seed: int) -> Path:
    """Where the finished runs of a target's audit are kept."""
    return target.record.parent / "audit-runs" / f"seed-{seed}"


def audit_many_runs(target: Target, effort: ManyRunsEffort | None = None) -> list[Finding]:
    """Level L3: the worst-case pair under the target's own plan; finished runs are kept in `runs_folder`.

    Raises:
        PrivacyError: As `target_arm`; or the effort is too small.
        DataError: The folder holds runs that were made with other settings.
    """
    effort = effort or ManyRunsEffort()
    arm = target_arm(target, seed=effort.seed)
    folder = runs_folder(target, seed=effort.seed)
    return measure([arm], num_runs=effort.num_runs, folder=folder, num_jobs=effort.num_jobs)


HEADLINE_COLUMNS = ["trained by", "claimed epsilon", "lower bound", "ceiling", "AUC", "runs", "verdict"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Headline:
    """What the comparison showed.

    Attributes:
        findings: One for each of `headline_arms`.
        record: The ``audit.json`` that holds them.
    """

    findings: list[Finding]
    record: Path

    @property
    def to_hold(self) -> list[Finding]:
        """Those that must not be contradicted: of all arms but the naive one, which shows how one is."""
        return [one for one in self.findings if one.name != NAIVE_TITLE]


def audit_headline(folder: Path, effort: ManyRunsEffort) -> Headline:
    """Compare three ways to train; finished runs and ``audit.json`` are kept in ``folder``."""
    arms = headline_arms(seed=effort.seed)
    findings = measure(arms, num_runs=effort.num_runs, folder=folder, num_jobs=effort.num_jobs)
    plan = arms[0].plan
    about = {
        "target": {"kind": "demonstration", "name": "headline"},
        "claim": {"epsilon": 1.0, "delta": plan.delta, "relation": plan.relation},
    }
    write_findings(folder / FILE, findings, about=about)
    return Headline(findings=findings, record=folder / FILE)


def headline_row(one: Finding) -> list[str]:
    """A finding of the comparison as a row below `HEADLINE_COLUMNS`."""
    return [
        one.name,
        f"{one.claimed:.3f}",
        f"{one.measured:.2f}",
        f"{one.ceiling:.2f}",
        f"{one.details['auc']:.3f} ({one.details['auc_low']:.3f} to {one.details['auc_high']:.3f})",
        str(one.counts["runs_with"] + one.counts["runs_without"]),
        one.verdict,
    ]


def headline_arms(*, seed: int) -> list[Arm]:
    """The same pair, noise, clip, sampling and steps under three ways to train, at a claim of epsilon = 1.

    - naive: Opacus around the in-batch contrast, as its documentation invites;
    - opacus-anchors: Opacus around the contrast with public anchors;
    - edgecmd-anchors: edgecmd's own mechanism.

    Args:
        seed: Seed of the pair and of all runs.
    """
    config = Sections(
        distill=DistillConfig(loss="cmc-anchored", batch_size=32),
        privacy=PrivacyConfig(mechanism="anchors", epsilon=1.0, delta=1e-5, sampling_rate=0.25),
        federation=FederationConfig(num_rounds=1, local_steps=16),
    )
    plan = make_plan(config)
    assert plan is not None
    ways = (
        (NAIVE, NAIVE_TITLE, "opacus", "cmc"),
        ("opacus-anchors", "Opacus, public anchors", "opacus", plan.loss),
        ("edgecmd-anchors", "edgecmd, public anchors", "edgecmd", plan.loss),
    )
    return [
        Arm(
            key=key,
            title=title,
            trainer=trainer,
            loss=loss,
            plan=plan,
            distill=config.distill,
            seed=seed,
            num_pairs=NUM_PAIRS,
        )
        for key, title, trainer, loss in ways
    ]


def target_arm(target: Target, *, seed: int) -> Arm:
    """The worst-case pair under a target's own plan: mechanism, loss, clip, noise, sampling and steps.

    Student, data, anchors and optimiser are the experiment's own. The claim that is tested is that of
    a pair whose client takes part in every round of the plan.

    Args:
        target: A run, or a file with its settings.
        seed: Seed of the pair and of all runs.

    Raises:
        PrivacyError: The target has no privacy, or protects whole clients.
    """
    plan = target.plan
    if plan is None:
        raise PrivacyError(
            f"{target.path} was made with privacy.mechanism='none': it claims nothing that many runs could"
            " contradict. `edgecmd audit risk` says what an attacker guesses."
        )
    if plan.unit != "pair":
        raise PrivacyError(
            f"{target.path} was made with privacy.mechanism={plan.mechanism!r}, which protects whole clients;"
            " this audit trains on two data sets that differ in one pair. Allowed: anchors, cosine, groups."
        )
    return Arm(
        key="many-runs",
        title="worst-case pair",
        trainer="edgecmd",
        loss=plan.loss,
        plan=plan,
        distill=target.run.distill,
        seed=seed,
        num_pairs=NUM_PAIRS,
    )
