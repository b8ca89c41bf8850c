"""A mechanism that edgecmd does not know: one row of the table, and everything follows from it.

`twice`: each sampled pair is two units, each clipped to C, so one pair more adds two vectors of norm at
most C, and the sensitivity is 2 C.
"""

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from edgecmd.audits.finding import CONTRADICTED
from edgecmd.audits.static.checks import check_target
from edgecmd.audits.static.sensitivity import Effort
from edgecmd.audits.step.checks import StepEffort, audit_steps
from edgecmd.config.schema import RunConfig
from edgecmd.config.targets import find_target
from edgecmd.core.errors import PrivacyError
from edgecmd.experiments.run_baselines import baselines_of
from edgecmd.experiments.run_plan import privacy_rows
from edgecmd.losses import loss_of
from edgecmd.privacy.ledger import Ledger
from edgecmd.privacy.mechanisms import MECHANISMS, PAIR, Mechanism
from edgecmd.privacy.plan import PrivacyPlan
from edgecmd.privacy.step.private_step import distil_privately
from edgecmd.privacy.step.randomness import DeterministicSource
from edgecmd.privacy.step.units import unit_loss
from edgecmd.training.distill import LocalData, Place
from server.simulate import simulate
from tests.tiny_federation import plan_of as plan_by
from tests.tiny_federation import run_of, tiny_config, write_pairs

EFFORT = Effort(num_tries=12, num_pairs=4)


def documented_row() -> Mechanism:
    """The row of docs/extending.md, as it stands there."""
    text = (Path(__file__).parents[3] / "docs" / "extending.md").read_text()
    (code,) = re.findall(r"```python\n(# one row\n.*?)```", text, re.DOTALL)
    names: dict[str, Any] = {}
    exec(code, names)
    found: Mechanism = names["TWICE"]
    return found


TWICE = documented_row()
STATEMENT = TWICE.statement


@pytest.fixture(autouse=True)
def twice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(MECHANISMS, "twice", TWICE)


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_pairs(tmp_path_factory.mktemp("pairs") / "pairs.npz")


def plan_of(pairs: Path, *settings: str) -> PrivacyPlan:
    plan = plan_by(tiny_config(pairs, pairs.parent, "privacy.mechanism=twice", *settings))
    assert plan is not None
    return plan


def test_the_plan_follows_the_row(pairs: Path) -> None:
    plan = plan_of(pairs, "privacy.clip=0.3")
    assert (plan.mechanism, plan.loss, plan.unit, plan.sensitivity) == ("twice", "cmd-anchored", "pair", 0.6)
    assert plan.statement == STATEMENT
    assert plan.noise_std == pytest.approx(plan.noise_multiplier * 0.6)
    with pytest.raises(PrivacyError, match="engine='opacus' does not clip .*'twice'. Allowed: vmap, loop"):
        plan_of(pairs, "privacy.engine=opacus")
    with pytest.raises(PrivacyError, match="distill.loss='cosine' belongs to privacy.mechanism='cosine'"):
        plan_of(pairs, "distill.loss=cosine")


def test_a_step_releases_twice_the_clipped_gradient(pairs: Path) -> None:
    """One pair, no noise: the weights move by the rate times 2 C (1 - 1e-4) over the divisor."""
    plan = replace(
        plan_of(pairs, "privacy.clip=0.01"), noise_multiplier=0.0, sampling_rate=1.0, steps_per_round=1
    )
    coins = torch.Generator().manual_seed(0)
    student = nn.Sequential(nn.Flatten(), nn.Linear(9, 4))
    data = LocalData(
        target=torch.randn(1, 1, 3, 3, generator=coins), teacher=torch.randn(1, 4, generator=coins)
    )
    config = tiny_config(
        pairs, pairs.parent, "distill.augment=0", "distill.learning_rate=1", "distill.schedule=constant"
    ).distill
    before = nn.utils.parameters_to_vector(student.parameters()).detach().clone()
    distil_privately(
        student,
        data,
        config,
        loss=unit_loss(loss_of(replace(config, loss=plan.loss)), torch.randn(6, 4, generator=coins)),
        plan=plan,
        place=Place(seed=0, round_index=1, client=0, first_step=0, total_steps=1),
        optimizer=torch.optim.SGD(student.parameters(), lr=1.0),
        source=DeterministicSource(0),
    )
    moved = nn.utils.parameters_to_vector(student.parameters()).detach() - before
    assert float(moved.norm()) == pytest.approx(2 * 0.01 * (1 - 1e-4) / plan.normaliser, rel=1e-3)


def test_a_run_its_ledger_its_statement_and_its_audits(
    pairs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # What many fresh sources and clients of few pairs are needed for is told by the tests of the audit.
    monkeypatch.setattr("edgecmd.audits.step.random_source.NUM_FRESH", 1000)
    monkeypatch.setattr("edgecmd.audits.step.sampling_coins.SMALL_STEPS", 32)
    config = tiny_config(pairs, tmp_path, "privacy.mechanism=twice", "privacy.clip=0.05", "name=twice")
    simulate(run_of(config))
    told = json.loads((tmp_path / "twice" / "privacy.json").read_text())
    assert (told["mechanism"], told["statement"], told["sensitivity"]) == (
        "twice",
        STATEMENT,
        2 * told["clip"],
    )
    assert told["against"] == PAIR.against
    plan = plan_by(config)
    assert plan is not None
    ledger = Ledger(tmp_path / "twice" / "ledger" / "client-0001.jsonl")
    assert ledger.num_rounds() == config.federation.num_rounds
    assert ledger.epsilon(delta=plan.delta) == pytest.approx(plan.epsilon_after(plan.num_rounds), rel=1e-6)
    target = find_target(tmp_path / "twice")
    found = {one.name: one for one in check_target(target, EFFORT)}
    assert [name for name, one in found.items() if one.verdict == CONTRADICTED] == []
    largest = max(one.measured or 0.0 for one in found.values() if one.quantity == "sensitivity")
    assert 1.5 < largest <= 2.0
    assert found["views of a pair"].measured == 2.0
    steps = audit_steps(target, StepEffort(num_draws=100))
    assert [one.text for one in steps if one.verdict == CONTRADICTED] == []


def test_a_row_that_claims_too_little_is_contradicted(
    pairs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(
        MECHANISMS, "twice", replace(TWICE, factor=1, rows_of_pair=lambda num_views: num_views)
    )
    config = tiny_config(pairs, tmp_path, "privacy.mechanism=twice", "privacy.clip=0.05", "name=wrong")
    simulate(run_of(config))
    wrong = {
        one.quantity
        for one in check_target(find_target(tmp_path / "wrong"), EFFORT)
        if one.verdict == CONTRADICTED
    }
    assert {"sensitivity", "changed rows"} <= wrong


def test_plans_and_baselines_ask_the_row(pairs: Path) -> None:
    config = tiny_config(pairs, pairs.parent, "privacy.mechanism=twice")
    assert ["mechanism", f"twice: {STATEMENT}"] in privacy_rows(run_of(config), [20, 20])
    made = baselines_of(config, run_of(config))
    others = {name: one for name, one in made.items() if isinstance(one, RunConfig)}
    assert set(others) == {"cmd-anchored without privacy", "cosine, same epsilon"}
    assert others["cosine, same epsilon"].distill.loss == "cosine"
