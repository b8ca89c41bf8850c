"""``edgecmd audit step``: level L1, private steps of the real code."""

import time
from typing import TYPE_CHECKING, Annotated

import typer

from edgecmd.cli.audit import TargetPath, audit_app, finish, target_of
from edgecmd.cli.common import AsJson, ConfigFile, Settings, one_thread

if TYPE_CHECKING:
    from edgecmd.audits.finding import Finding
    from edgecmd.audits.step.noise import Draws
    from edgecmd.audits.target import Target
    from edgecmd.privacy.plan import PrivacyPlan

NUM_DRAWS = 2000
FEWEST_DRAWS = 100
NUM_CENTRAL_ROUNDS = 4


def audit(target: "Target") -> "list[Finding]":
    """Level L1 with its usual effort; none for a run without privacy, whose steps claim nothing."""
    return [] if target.plan is None else audit_step(target)


def audit_step(target: "Target", *, num_draws: int = NUM_DRAWS, seed: int = 0) -> "list[Finding]":
    """Level L1 of a run that protects pairs; for mechanism ``client`` the server's noise.

    Raises:
        PrivacyError: The target has no plan.
    """
    from edgecmd.audits.step.checks import audit_steps
    from edgecmd.audits.target import plan_of

    if plan_of(target).unit == "client":
        return [audit_server_noise(target)]
    return audit_steps(target, num_draws=num_draws, seed=seed)


def audit_server_noise(target: "Target") -> "Finding":
    """Noise that the real server adds when no client answers, over some rounds, against the plan's."""
    from edgecmd.audits.step.checks import noise_finding
    from edgecmd.audits.step.noise import judge_noise
    from edgecmd.audits.target import plan_of

    started, plan = time.monotonic(), plan_of(target)
    rounds = central_noise(target, plan)
    verdict = judge_noise(rounds, rounds)
    return noise_finding(verdict, plan=plan, attacker="client", seconds=time.monotonic() - started)


def central_noise(target: "Target", plan: "PrivacyPlan") -> "list[Draws]":
    """Rounds of `server.client_privacy` without replies, from zero weights, with a ledger of its own."""
    import tempfile
    from dataclasses import replace
    from pathlib import Path

    import numpy as np

    from edgecmd.audits.step.noise import FEWEST_DRAWS
    from edgecmd.privacy.ledger import Ledger
    from server.client_privacy import central_privacy
    from server.federation import to_arrays

    zeros = {name: np.zeros_like(value) for name, value in to_arrays(target.run.new_student()).items()}
    num = NUM_CENTRAL_ROUNDS + FEWEST_DRAWS // sum(value.size for value in zeros.values())
    scale = plan.normaliser / plan.noise_std
    found: list[Draws] = []
    with tempfile.TemporaryDirectory() as folder:
        # A ledger that nothing limits: what is drawn here is drawn about no data.
        central = central_privacy(replace(plan, epsilon=float("inf")), target.run, token="0" * 16)
        assert central is not None
        central.ledger = Ledger(Path(folder) / "server.jsonl")
        for index in range(1, num + 1):
            record = central.combine([], zeros, round_index=index).content.array_records["arrays"]
            found.append({name: record[name].numpy().astype(np.float64) * scale for name in zeros})
    return found


@audit_app.command("step")
def step(
    target: TargetPath,
    draws: Annotated[
        int, typer.Option("--draws", min=FEWEST_DRAWS, help="Releases in either of two neighbouring worlds.")
    ] = NUM_DRAWS,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Of the neighbours; noise stays secret.")] = 0,
    config: ConfigFile = None,
    settings: Settings = None,
    as_json: AsJson = False,
) -> None:
    """L1: noise, release, coins and random source of real steps, and many draws against a neighbour.

    Exit code 3 where at any step of a round the noise is smaller than stated, repeats or is not
    Gaussian, where a step releases more than the clipped sum, where pairs are not sampled by fresh coins
    of their own at the stated rate, where the random source is not the system's, or where the draws prove
    more epsilon than the step claims.
    """
    one_thread()
    found = target_of(target, config, settings)
    finish(found, audit_step(found, num_draws=draws, seed=seed), as_json=as_json)
