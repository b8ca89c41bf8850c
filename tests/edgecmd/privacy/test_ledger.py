"""The ledger counts over everything: runs, restarts, crashes, rivals; and never forgets without a word."""

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from edgecmd.config.reader import load_config
from edgecmd.core.errors import PrivacyError
from edgecmd.privacy.accounting import Spending, total_epsilon
from edgecmd.privacy.ledger import BudgetSpentError, Ledger, Release, dearest
from edgecmd.privacy.plan import PrivacyPlan
from tests.tiny_federation import plan_of as plan_by

DELTA = 1e-5
ONE = Spending(sampling_rate=1.0, noise_multiplier=5.0, count=1)


def plan_of(*settings: str) -> PrivacyPlan:
    """Each round is one Gaussian of noise multiplier 5."""
    plan = plan_by(
        load_config(
            None,
            [
                "privacy.mechanism=anchors",
                "privacy.sampling=none",
                "privacy.sampling_rate=1",
                "privacy.noise_multiplier=5",
                "privacy.epsilon=1000",
                "federation.local_steps=1",
                *settings,
            ],
        )
    )
    assert plan is not None
    return plan


PLAN = plan_of()


def release(index: int, run: str = "a" * 16) -> Release:
    return Release(run=run, round_index=index, query=f"q{index}", reply=f"r{index}")


def spend(path: Path, index: int, *, epsilon: float = 1000.0, plan: PrivacyPlan = PLAN) -> None:
    Ledger(path).spend(plan, release(index), epsilon=epsilon, delta=DELTA)


def truth(num: int) -> float:
    return total_epsilon([ONE] * num, delta=DELTA)


def test_it_is_cumulative_over_reopening_and_runs(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "ledger.jsonl"
    assert Ledger(path).epsilon(delta=DELTA) == 0.0
    for index in (1, 2):
        spend(path, index)
    Ledger(path).spend(PLAN, release(1, run="b" * 16), epsilon=1000.0, delta=DELTA)
    assert Ledger(path).epsilon(delta=DELTA) == truth(3)
    assert Ledger(path).num_rounds() == 3
    assert path.stat().st_mode & 0o077 == 0, "nobody else reads it"


def test_it_knows_its_releases(tmp_path: Path) -> None:
    spend(tmp_path / "l", 4)
    ledger = Ledger(tmp_path / "l")
    assert ledger.find(run="a" * 16, round_index=4, query="q4") == "r4"
    assert ledger.find(run="a" * 16, round_index=4, query="other") is None
    assert ledger.find(run="b" * 16, round_index=4, query="q4") is None


def test_the_projected_epsilon_is_checked_and_nothing_is_written(tmp_path: Path) -> None:
    path, budget = tmp_path / "l", truth(3) + 1e-6
    for index in (1, 2, 3):
        spend(path, index, epsilon=budget)
    before = path.read_bytes()
    for act in (
        lambda: Ledger(path).require_budget(PLAN, epsilon=budget, delta=DELTA),
        lambda: spend(path, 4, epsilon=budget),
    ):
        with pytest.raises(BudgetSpentError, match=r"after 3 rounds, one more makes .* allowed is"):
            act()
    assert path.read_bytes() == before


def test_a_line_torn_at_any_byte_counts(tmp_path: Path) -> None:
    """Whatever part of the third line reached the disk, three rounds are counted, and the next makes four."""
    path = tmp_path / "l"
    for index in (1, 2):
        spend(path, index)
    kept = path.stat().st_size
    spend(path, 3)
    whole = path.read_bytes()
    for end in range(kept + 1, len(whole) + 1):
        path.write_bytes(whole[:end])
        assert Ledger(path).num_rounds() == 3
        assert Ledger(path).epsilon(delta=DELTA) == truth(3)
        spend(path, 4)
        assert Ledger(path).num_rounds() == 4
        assert Ledger(path).epsilon(delta=DELTA) == truth(4)
    path.write_bytes(whole[:kept])
    assert Ledger(path).num_rounds() == 2


def test_a_file_torn_in_its_first_write_counts_as_one_round(tmp_path: Path) -> None:
    path = tmp_path / "l"
    spend(path, 1)
    whole = path.read_bytes()
    first_line = whole.index(b"\n") + 1
    path.write_bytes(whole[: first_line - 20])
    spend(path, 2)
    assert Ledger(path).epsilon(delta=DELTA) == truth(2)


def test_a_torn_line_costs_the_dearest_plan(tmp_path: Path) -> None:
    path, dear = tmp_path / "l", plan_of("privacy.noise_multiplier=2", "privacy.epsilon=1000")
    spend(path, 1)
    spend(path, 2, plan=dear)
    with path.open("ab") as file:
        file.write(b'{"kind": "spend", "pl')
    expected = total_epsilon([ONE, dear.round_spending(), dear.round_spending()], delta=DELTA)
    assert Ledger(path).epsilon(delta=DELTA) == expected
    spend(path, 3)
    assert Ledger(path).epsilon(delta=DELTA) == total_epsilon(
        [ONE, ONE, dear.round_spending(), dear.round_spending()], delta=DELTA
    )


@pytest.mark.parametrize("damage", [b"0", b"\x00", b"\xff", b"\n"])
def test_a_damaged_line_in_the_middle_is_never_forgotten(tmp_path: Path, damage: bytes) -> None:
    path = tmp_path / "l"
    for index in (1, 2, 3):
        spend(path, index)
    lines = path.read_bytes().splitlines(keepends=True)
    content = lines[0] + lines[1][:30] + damage + lines[1][31:] + b"".join(lines[2:])
    path.write_bytes(content)
    with pytest.raises(PrivacyError, match="damaged at line 2"):
        Ledger(path).num_rounds()


def test_a_removed_line_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "l"
    for index in (1, 2, 3):
        spend(path, index)
    lines = path.read_bytes().splitlines(keepends=True)
    changed = lines[1].replace(b'"round": 1', b'"round": 9')
    for content in ([*lines[:1], *lines[2:]], [lines[0], changed, *lines[2:]], lines[1:]):
        path.write_bytes(b"".join(content))
        with pytest.raises(PrivacyError, match="damaged at line"):
            Ledger(path).num_rounds()


def test_what_cannot_be_opened_refuses(tmp_path: Path) -> None:
    with pytest.raises(PrivacyError, match="cannot be read"):
        Ledger(tmp_path).read()
    with pytest.raises(PrivacyError, match="cannot be opened"):
        spend(tmp_path, 1)


def test_another_relation_does_not_add_up(tmp_path: Path) -> None:
    spend(tmp_path / "l", 1)
    other = plan_by(load_config(None, ["privacy.mechanism=client", "privacy.epsilon=900"]))
    assert other is not None
    with pytest.raises(PrivacyError, match="relation"):
        spend(tmp_path / "l", 2, plan=other)


@pytest.mark.parametrize("setting", ["privacy.deterministic=true", "privacy.projected_pairs=64"])
def test_rounds_without_true_noise_are_no_part_of_an_epsilon(setting: str, tmp_path: Path) -> None:
    """Their noise could be subtracted or was divided; counted as private they would make epsilon untrue."""
    path = tmp_path / "l"
    spend(path, 1, plan=plan_of(setting))
    for ask in (
        lambda: spend(path, 2),
        lambda: Ledger(path).require_budget(PLAN, epsilon=1000.0, delta=DELTA),
    ):
        with pytest.raises(PrivacyError, match="rounds that were NOT PRIVATE, and this run is private"):
            ask()
    spend(tmp_path / "m", 1)
    with pytest.raises(PrivacyError, match="rounds that were private, and this run is NOT PRIVATE"):
        spend(tmp_path / "m", 2, plan=plan_of(setting))


def test_the_dearest_of_plans_that_cost_nothing_by_themselves(tmp_path: Path) -> None:
    """At delta 1e-5 one round of either has epsilon 0; composed, the one with less noise costs more."""
    far, near = (Spending(sampling_rate=1e-3, noise_multiplier=noise, count=1) for noise in (900.0, 300.0))
    assert total_epsilon([far], delta=DELTA) == total_epsilon([near], delta=DELTA) == 0.0
    assert dearest([far, near], delta=DELTA) == dearest([near, far], delta=DELTA) == near


def hammer(path: Path, process: int, budget: float, counts: "multiprocessing.Queue[int]") -> None:
    done = 0
    for index in range(10):
        try:
            spend(path, 100 * process + index, epsilon=budget)
            done += 1
        except BudgetSpentError:
            break
    counts.put(done)


def test_processes_together_stay_within_the_budget(tmp_path: Path) -> None:
    path, budget = tmp_path / "l", truth(17) + 1e-6
    spawn = multiprocessing.get_context("fork")
    counts: multiprocessing.Queue[int] = spawn.Queue()
    workers = [spawn.Process(target=hammer, args=(path, index, budget, counts)) for index in range(3)]
    for one in workers:
        one.start()
    done = sum(counts.get(timeout=1200) for _ in workers)
    for one in workers:
        one.join()
    assert done == 17
    assert Ledger(path).num_rounds() == 17
    assert Ledger(path).epsilon(delta=DELTA) <= budget


KILLED = """
import sys
sys.path.insert(0, sys.argv[2])
from pathlib import Path
from tests.edgecmd.privacy.test_ledger import spend
index = 0
while True:
    index += 1
    spend(Path(sys.argv[1]), index)
    print(index, flush=True)
"""


def test_a_killed_process_has_counted_everything_that_it_released(tmp_path: Path) -> None:
    root = Path(__file__).parents[3]
    path = tmp_path / "l"
    process = subprocess.Popen(
        [sys.executable, "-c", KILLED, str(path), str(root)],
        stdout=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": str(root)},
    )
    assert process.stdout is not None
    told = [int(process.stdout.readline()) for _ in range(5)][-1]
    time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    told = max([told, *map(int, process.stdout.read().split())])
    process.stdout.close()
    process.wait()
    assert Ledger(path).num_rounds() in (told, told + 1)
    spend(path, 999)
    assert Ledger(path).num_rounds() in (told + 1, told + 2)
