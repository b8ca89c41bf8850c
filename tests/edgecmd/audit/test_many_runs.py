"""The worst-case pair under real training: planted leaks show, sound training does not, runs are kept."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from edgecmd.audits.finding import CONTRADICTED, INDICATOR, NOT_CONTRADICTED, Finding
from edgecmd.audits.many_runs.runs import CHUNK, headline_arms, judge, released, run_arms, target_arm
from edgecmd.audits.many_runs.trainers import Arm, analytic_direction, claimed_epsilon, train
from edgecmd.audits.many_runs.worst_case import WorstCase, make_worst_case
from edgecmd.config.reader import load_config
from edgecmd.core.errors import DataError, PrivacyError
from tests.tiny_federation import find_target

NAIVE, OPACUS, OURS = headline_arms(seed=0)


@pytest.fixture(scope="module")
def case() -> WorstCase:
    return make_worst_case(seed=0, num_pairs=128)


def quiet_step(arm: Arm) -> Arm:
    """One step on all pairs with next to no noise: what it releases is the clipped sum."""
    plan = replace(arm.plan, noise_multiplier=1e-6, sampling_rate=1.0, steps_per_round=1)
    return replace(arm, plan=plan)


def moved(arm: Arm, case: WorstCase, *, included: bool) -> np.ndarray:
    return train(arm, case, included=included, run=0) / arm.rate


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))


def test_the_pair_is_copies_and_a_canary(case: WorstCase) -> None:
    small, large = case.pairs(included=False), case.pairs(included=True)
    assert (len(small), len(large)) == (128, 129)
    assert (small.target == small.target[0]).all()
    assert (small.teacher == small.teacher[0]).all()
    assert torch.equal(large.target[128], small.target[0])
    assert float(large.teacher[128] @ small.teacher[0]) == pytest.approx(-0.95 / (0.95**2 + 0.3**2) ** 0.5)
    assert sum(parameter.numel() for parameter in case.student.parameters()) == 808


def test_both_trainers_release_the_same_sum(case: WorstCase) -> None:
    for included in (False, True):
        theirs = moved(quiet_step(OPACUS), case, included=included)
        ours = moved(quiet_step(OURS), case, included=included)
        # float32 weights of size 0.3 that move by 1e-3 times the sum
        np.testing.assert_allclose(ours, theirs, rtol=2e-3, atol=2e-4)


def test_analytic_directions_are_where_the_canary_moves_real_training(case: WorstCase) -> None:
    for arm in (NAIVE, OPACUS, OURS):
        one = quiet_step(arm)
        difference = moved(one, case, included=True) - moved(one, case, included=False)
        assert cosine(difference, analytic_direction(one, case)) > 0.999, arm.key


def test_one_pair_moves_the_naive_sum_by_many_times_the_clip(case: WorstCase) -> None:
    naive, ours = (
        np.linalg.norm(moved(arm, case, included=True) - moved(arm, case, included=False))
        for arm in (quiet_step(NAIVE), quiet_step(OURS))
    )
    assert ours == pytest.approx(1.0, abs=1e-2)
    assert naive > 50


def test_arms_share_all_but_the_trainer_and_the_loss() -> None:
    assert NAIVE.plan == OPACUS.plan == OURS.plan
    assert replace(NAIVE, key="", title="", loss=OPACUS.loss) == replace(OPACUS, key="", title="")
    assert replace(OPACUS, key="", title="", trainer="edgecmd") == replace(OURS, key="", title="")


def test_both_accountants_claim_about_one(case: WorstCase) -> None:
    assert claimed_epsilon(OURS, case) <= 1.0
    # Opacus' PRV accountant adds its own error to its bound.
    assert claimed_epsilon(NAIVE, case) == pytest.approx(1.0, abs=0.02)


def audited(arm: Arm, folder: Path, *, num_runs: int) -> Finding:
    run_arms([arm], num_runs=num_runs, folder=folder)
    return judge(arm, num_runs=num_runs, folder=folder)


@pytest.mark.usefixtures("unchecked_shapes")
def test_in_batch_negatives_under_opacus_are_contradicted(tmp_path: Path) -> None:
    found = audited(NAIVE, tmp_path, num_runs=60)
    assert found.verdict == CONTRADICTED
    assert found.claimed is not None
    assert found.measured is not None
    assert found.ceiling is not None
    assert found.claimed < found.measured <= found.ceiling
    assert found.details["auc"] > 0.95


@pytest.mark.usefixtures("unchecked_shapes")
def test_public_anchors_are_not(tmp_path: Path) -> None:
    found = audited(OURS, tmp_path, num_runs=28)
    assert found.verdict == NOT_CONTRADICTED
    assert found.ceiling is not None
    assert found.claimed is not None
    assert found.ceiling > found.claimed
    assert found.counts == {"runs_with": 28, "runs_without": 28, "held_out": 14}
    assert (found.level, found.attacker, found.seeds) == ("many-runs", "device", (0,))


@pytest.mark.usefixtures("unchecked_shapes")
def test_noise_that_is_too_small_shows(tmp_path: Path) -> None:
    """A projection divides the noise by what it pretends; such a plan claims nothing of its own."""
    one_step = replace(OURS.plan, sampling_rate=1.0, steps_per_round=1)
    found = audited(replace(OURS, plan=replace(one_step, projected_pairs=32.0)), tmp_path, num_runs=32)
    assert found.measured is not None
    assert found.measured > one_step.epsilon_after(1)
    assert (found.verdict, found.claimed) == (INDICATOR, None)


SHORT = replace(OURS, plan=replace(OURS.plan, steps_per_round=2), num_pairs=16)


class StoppedError(Exception):
    """Stands for Ctrl-C."""


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.usefixtures("workers", "unchecked_shapes")
def test_number_of_jobs_and_interruptions_change_nothing(tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []

    def stop(done: int, total: int) -> None:
        told.append((done, total))
        if done == 2:
            raise StoppedError

    with pytest.raises(StoppedError):
        run_arms([SHORT], num_runs=3 * CHUNK, folder=tmp_path / "one", tick=stop)
    assert told == [(0, 3), (1, 3), (2, 3)]
    kept = contents(tmp_path / "one")
    assert len(kept) == 3
    run_arms([SHORT], num_runs=3 * CHUNK, folder=tmp_path / "one", tick=lambda *at: told.append(at))
    assert told[3:] == [(2, 3), (3, 3)]
    run_arms([SHORT], num_runs=3 * CHUNK, folder=tmp_path / "two", num_jobs=2)
    assert contents(tmp_path / "one") == contents(tmp_path / "two")
    assert contents(tmp_path / "one").items() >= kept.items()


@pytest.mark.usefixtures("unchecked_shapes")
def test_more_runs_go_on_from_fewer_and_fewer_are_their_beginning(tmp_path: Path) -> None:
    run_arms([SHORT], num_runs=8, folder=tmp_path)
    before = contents(tmp_path)
    few = released(SHORT, num_runs=8, folder=tmp_path)
    run_arms([SHORT], num_runs=12, folder=tmp_path)
    assert contents(tmp_path).items() >= before.items()
    many = released(SHORT, num_runs=12, folder=tmp_path)
    for short, long in zip(few, many):
        assert short.shape == (8, 808)
        np.testing.assert_array_equal(short, long[:8])


def test_runs_with_and_without_have_noise_of_their_own(tmp_path: Path) -> None:
    run_arms([SHORT], num_runs=8, folder=tmp_path)
    together = np.concatenate(released(SHORT, num_runs=8, folder=tmp_path))
    assert len(np.unique(together, axis=0)) == 16


def test_other_settings_do_not_mix(tmp_path: Path) -> None:
    run_arms([SHORT], num_runs=8, folder=tmp_path)
    with pytest.raises(DataError, match="other settings"):
        run_arms([replace(SHORT, seed=1)], num_runs=8, folder=tmp_path)


def test_broken_files_are_named(tmp_path: Path) -> None:
    run_arms([SHORT], num_runs=8, folder=tmp_path)
    path = tmp_path / SHORT.key / "runs-000000.npy"
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(DataError, match=r"runs-000000\.npy cannot be read"):
        released(SHORT, num_runs=8, folder=tmp_path)
    np.save(path, np.zeros(3))
    with pytest.raises(DataError, match="has shape"):
        released(SHORT, num_runs=8, folder=tmp_path)


def test_too_few_runs_are_refused(tmp_path: Path) -> None:
    with pytest.raises(PrivacyError, match="--runs=4"):
        run_arms([SHORT], num_runs=4, folder=tmp_path)
    assert not contents(tmp_path)


def target_with(tmp_path: Path, *settings: str) -> Arm:
    file = tmp_path / "student.safetensors"
    file.touch()
    return target_arm(find_target(file, config=load_config(None, settings)), seed=3)


@pytest.mark.usefixtures("unchecked_shapes")
@pytest.mark.parametrize(
    ("mechanism", "sampling"), [("anchors", "poisson"), ("cosine", "none"), ("groups", "poisson")]
)
def test_a_target_brings_its_own_plan(tmp_path: Path, mechanism: str, sampling: str) -> None:
    arm = target_with(
        tmp_path,
        f"privacy.mechanism={mechanism}",
        f"privacy.sampling={sampling}",
        "privacy.clip=0.5",
        "federation.num_rounds=2",
        "federation.local_steps=3",
        "privacy.num_views=2" if mechanism == "cosine" else "privacy.num_groups=4",
    )
    assert (arm.plan.mechanism, arm.plan.sampling, arm.num_steps) == (mechanism, sampling, 6)
    found = audited(arm, tmp_path, num_runs=10)
    assert found.claimed == arm.plan.epsilon_after(2)
    assert found.verdict == NOT_CONTRADICTED


@pytest.mark.parametrize("mechanism", ["none", "client"])
def test_a_target_without_privacy_of_pairs_is_refused(tmp_path: Path, mechanism: str) -> None:
    with pytest.raises(PrivacyError, match=f"privacy.mechanism='{mechanism}'"):
        target_with(tmp_path, f"privacy.mechanism={mechanism}")
