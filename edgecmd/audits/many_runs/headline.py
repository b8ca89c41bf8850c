"""What many-run audits are made of: the headline comparison, and the plan of a user's own run."""

from edgecmd.audits.many_runs.trainers import Arm
from edgecmd.audits.target import Target
from edgecmd.core.errors import PrivacyError
from edgecmd.privacy.plan import Sections, make_plan
from edgecmd.settings import DistillConfig, FederationConfig, PrivacyConfig

NUM_PAIRS = 128
NAIVE = "naive"


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
        (NAIVE, "Opacus, in-batch negatives", "opacus", "cmc"),
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
