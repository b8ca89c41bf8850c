"""Many runs, in parallel and in pieces: finished runs are kept, and a second call continues from there.

The runs of an arm are cut into chunks of fixed size; each finished chunk is one file, complete or
absent. All coins and noise of a run follow from its index, so neither the number of processes nor an
interruption changes a result. Arms are a user's own plan, or the headline comparison.

Shapes: N runs of each kind, P parameters.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from io import BytesIO
from pathlib import Path
from time import monotonic

import numpy as np

from edgecmd.audits.audit_file import FILE, write_findings
from edgecmd.audits.finding import Finding, epsilon_verdict
from edgecmd.audits.many_runs.certify import LEAST_RUNS, Certified, certify
from edgecmd.audits.many_runs.trainers import Arm, analytic_direction, claimed_epsilon, train
from edgecmd.audits.many_runs.worst_case import make_worst_case
from edgecmd.audits.target import IN_A_SUM, Target
from edgecmd.core.errors import DataError, PrivacyError
from edgecmd.core.files import read_json, write_bytes_atomically, write_json
from edgecmd.core.processes import mapped
from edgecmd.core.progress import Tick, silent, ticker
from edgecmd.data.user_files.decode import DecodeError, npy_array
from edgecmd.data.user_files.reading import most_array_bytes
from edgecmd.privacy.plan import Sections, make_plan
from edgecmd.settings import DistillConfig, FederationConfig, PrivacyConfig

CHUNK = 5
NUM_PAIRS = 128
NAIVE, NAIVE_TITLE = "naive", "Opacus, in-batch negatives"
STUDENT = "a tiny stand-in, a perceptron of 808 parameters"
Job = tuple[Arm, int, Path]


def run_arms(
    arms: Sequence[Arm], *, num_runs: int, folder: Path, num_jobs: int = 1, tick: Tick = silent
) -> None:
    """Make the runs that ``folder`` lacks.

    Args:
        arms: Ways to train, with different keys.
        num_runs: Runs with the canary, and as many without, of each arm; whole chunks are made.
        folder: Holds a folder for each arm.
        num_jobs: Processes, each with one thread; 1 runs here.
        tick: Told how many chunks are finished, of how many.

    Raises:
        DataError: ``folder`` holds runs that were made with other settings.
        PrivacyError: Too few runs or jobs are asked for.

    Guarantees:
        The files do not depend on ``num_jobs`` or on interruptions. A run that was finished is not
        made again, also when more runs are asked for later.
    """
    if num_runs < LEAST_RUNS or num_jobs < 1:
        raise PrivacyError(
            f"--runs={num_runs} must be at least {LEAST_RUNS} and --jobs={num_jobs} at least 1."
        )
    for arm in arms:
        _claim_folder(arm, folder)
    jobs = [(arm, first, _file(folder, arm, first)) for first in range(0, num_runs, CHUNK) for arm in arms]
    missing = [job for job in jobs if not job[2].exists()]
    done = len(jobs) - len(missing)
    tick(done, len(jobs))
    # A chunk is a file or none, so that the workers can be ended at any time.
    for finished, _ in enumerate(mapped(_chunk, missing, jobs=num_jobs), start=done + 1):
        tick(finished, len(jobs))


def measure(arms: Sequence[Arm], *, num_runs: int, folder: Path, num_jobs: int = 1) -> list[Finding]:
    """Make the runs that ``folder`` lacks, and judge each arm; arguments and errors as in `run_arms`."""
    started = monotonic()
    with ticker("runs") as tick:
        run_arms(arms, num_runs=num_runs, folder=folder, num_jobs=num_jobs, tick=tick)
    each = (monotonic() - started) / len(arms)
    return [judge(arm, num_runs=num_runs, folder=folder, seconds=each) for arm in arms]


def released(arm: Arm, *, num_runs: int, folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """Weights that the first ``num_runs`` runs released, with the canary and without, each (N, P).

    Raises:
        DataError: A file is missing or broken.
    """
    chunks = [_read(_file(folder, arm, first)) for first in range(0, num_runs, CHUNK)]
    together = np.concatenate(chunks)[:num_runs]
    return together[:, 1], together[:, 0]


def judge(arm: Arm, *, num_runs: int, folder: Path, seconds: float = 0.0) -> Finding:
    """Certify what the runs of an arm show and hold it against what was claimed.

    Args:
        arm: How the runs were made; an arm whose plan is not private claims nothing.
        num_runs: Runs of each kind, all of them in ``folder``.
        folder: As given to `run_arms`.
        seconds: Wall time that the runs took.
    """
    started = monotonic()
    case = make_worst_case(seed=arm.seed, num_pairs=arm.num_pairs)
    found = certify(
        *released(arm, num_runs=num_runs, folder=folder),
        delta=arm.plan.delta,
        directions={"analytic": analytic_direction(arm, case)},
    )
    claimed = claimed_epsilon(arm, case) if arm.plan.private else None
    return _finding(arm, found, claimed=claimed, num_runs=num_runs, seconds=seconds + monotonic() - started)


def _finding(arm: Arm, found: Certified, *, claimed: float | None, num_runs: int, seconds: float) -> Finding:
    verdict, text = epsilon_verdict(lower=found.epsilon, claimed=claimed, ceiling=found.ceiling)
    return Finding(
        level="many-runs",
        name=arm.title,
        attacker="device",
        verdict=verdict,
        text=f"{text} AUC {found.auc:.3f} ({found.auc_low:.3f} to {found.auc_high:.3f}); student: {STUDENT}.",
        quantity="epsilon",
        claimed=claimed,
        measured=found.epsilon,
        ceiling=found.ceiling,
        confidence=found.confidence,
        counts={"runs_with": num_runs, "runs_without": num_runs, "held_out": found.num_held_out},
        seeds=(arm.seed,),
        seconds=seconds,
        details={
            **asdict(found),
            "trainer": arm.trainer,
            "loss": arm.loss,
            "delta": arm.plan.delta,
            "noise_multiplier": arm.plan.noise_multiplier,
            "sampling_rate": arm.plan.sampling_rate,
            "clip": arm.plan.clip,
            "num_steps": arm.num_steps,
            "num_pairs": arm.num_pairs,
            "student": STUDENT,
        },
    )


def _chunk(job: Job) -> None:
    """Make one chunk and write it: float32 (CHUNK, 2, P), without the canary before with it."""
    arm, first, path = job
    case = make_worst_case(seed=arm.seed, num_pairs=arm.num_pairs)
    runs = [
        [train(arm, case, included=included, run=run) for included in (False, True)]
        for run in range(first, first + CHUNK)
    ]
    buffer = BytesIO()
    np.save(buffer, np.array(runs, dtype=np.float32))
    write_bytes_atomically(path, buffer.getvalue())


def _claim_folder(arm: Arm, folder: Path) -> None:
    path = folder / arm.key / "arm.json"
    settings = {"chunk": CHUNK, **arm.table()}
    if not path.exists():
        write_json(path, settings)
    elif read_json(path) != settings:
        raise DataError(
            f"{path.parent} holds runs that were made with other settings; they cannot be mixed. Delete it,"
            " or choose another folder (--out, where the command has it)."
        )


def _file(folder: Path, arm: Arm, first: int) -> Path:
    return folder / arm.key / f"runs-{first:06d}.npy"


def _read(path: Path) -> np.ndarray:
    try:
        found = npy_array(path, most_bytes=most_array_bytes())
    except DecodeError as error:
        raise DataError(f"{path} cannot be read ({error}). Delete it and audit again.") from error
    if found.ndim != 3 or found.shape[:2] != (CHUNK, 2):
        raise DataError(f"{path} has shape {found.shape}, not ({CHUNK}, 2, P). Delete it and audit again.")
    return found.astype(np.float64)


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
    if target.run.sum_plan is not None:
        raise PrivacyError(IN_A_SUM)
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
            " contradict. `edgecmd audit risk` measures what an attacker can guess."
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
