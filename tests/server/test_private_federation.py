"""A private federation from start to end: composition, resumes, refusals, and the server's own mechanism."""

from collections.abc import Iterable
from dataclasses import dataclass, field, fields, replace
from pathlib import Path

import numpy as np
import pytest
from flwr.app import Message, MetricRecord, RecordDict
from scipy import stats

from edgecmd.config.schema import RunConfig
from edgecmd.core.errors import FederationError, PrivacyError
from edgecmd.core.files import read_json
from edgecmd.privacy.ledger import Ledger
from edgecmd.training.averaging import to_arrays
from server.local_grid import set_identity
from server.loop import RoundReport, run_rounds
from server.privacy.client_privacy import CentralPrivacy, central_privacy
from server.screening import BY_CODE
from server.strategies import to_record
from tests.hand_made import Weights, federation, start
from tests.tiny_federation import plan_of, run_of, simulate, strategy_of, tiny_config

FALSE_ALARM = 1e-6
ANCHORS = ("privacy.mechanism=anchors", "privacy.sampling_rate=0.1", "distill.batch_size=2")
# The search for the noise that spends a budget costs more than the rounds; most tests have no need of it.
GIVEN = ("privacy.noise_multiplier=2", "privacy.epsilon=1000")
FIVE = (*ANCHORS, "federation.num_rounds=5", "federation.local_steps=10", "privacy.noise_multiplier=1.1",
        "privacy.accountant=rdp", "privacy.epsilon=6")  # fmt: skip


class Stop(BaseException):
    """Stands for a kill between two rounds."""


def stop_after(num: int):
    def report(one: RoundReport) -> None:
        if one.round_index == num:
            raise Stop

    return report


def weights(config: RunConfig, **options: object) -> dict[str, np.ndarray]:
    return to_arrays(simulate(config, **options))  # type: ignore[arg-type]


def test_five_rounds_report_what_they_compose_to_also_after_a_kill(pairs: Path, tmp_path: Path) -> None:
    """4.899 and not 2.838, the value of one round: noise 1.1, rate 0.1, 10 steps a round, RDP."""
    whole = tiny_config(pairs, tmp_path / "whole", *FIVE, "federation.num_clients=1")
    simulate(whole)
    killed = tiny_config(pairs, tmp_path / "killed", *FIVE, "federation.num_clients=1")
    with pytest.raises(Stop):
        simulate(killed, report=stop_after(3))
    simulate(killed)
    for config in (whole, killed):
        table = read_json(Path(config.out) / config.name / "privacy.json")
        assert table["epsilon"] == pytest.approx(4.899, abs=1e-3)
        assert table["rounds"] == 5
        assert table["epsilon_by_client"] == {"client 0": table["epsilon"]}
        assert table["anchors"]["kind"] == "public"
        assert len(table["anchors"]["sha256"]) == 64


def test_the_maximum_over_clients_is_stated(pairs: Path, tmp_path: Path) -> None:
    config = tiny_config(pairs, tmp_path, *ANCHORS)
    ledger = run_of(config).client_ledger(2)
    simulate(replace(config, name="before"))
    ledger.parent.mkdir(parents=True)
    ledger.write_bytes(run_of(replace(config, name="before")).client_ledger(2).read_bytes())
    events: list[RoundReport] = []
    simulate(config, report=events.append)
    refused = [sum(rejection.refused for rejection in one.rejected) for one in events]
    assert refused == [1, 1, 1], "client 2 had spent everything"
    assert [one.num_clients for one in events] == [3, 3, 3]
    table = read_json(tmp_path / "tiny" / "privacy.json")
    assert table["epsilon"] == max(table["epsilon_by_client"].values()) <= 8.0


def test_nothing_about_the_pairs_is_reported(pairs: Path, tmp_path: Path) -> None:
    events: list[RoundReport] = []
    simulate(tiny_config(pairs, tmp_path, *ANCHORS, *GIVEN), report=events.append)
    assert [(one.loss, one.num_examples) for one in events] == [(None, None)] * 3
    log = (tmp_path / "tiny" / "events.jsonl").read_text()
    assert '"loss": null' in log
    assert '"num_examples": null' in log


def test_when_all_budgets_are_spent_the_run_ends_with_what_it_has(pairs: Path, tmp_path: Path) -> None:
    config = tiny_config(pairs, tmp_path, *ANCHORS, f'privacy.ledger_dir="{tmp_path}/ledgers"')
    simulate(replace(config, federation=replace(config.federation, num_rounds=2), name="first"))
    # The first run was calibrated to spend everything in two rounds.
    with pytest.raises(PrivacyError, match="4 clients have spent their privacy budgets. Round 1: 0 usable"):
        simulate(replace(config, name="second"))


@pytest.mark.parametrize("change", ["seed=7", "federation.num_clients=3"])
def test_pairs_dealt_anew_do_not_escape_their_ledger(change: str, pairs: Path, tmp_path: Path) -> None:
    """A pair that spent its budget with client 0 would be with client 1, whose ledger is not that pair's."""
    shared = (*GIVEN, f'privacy.ledger_dir="{tmp_path}/ledgers"')
    simulate(tiny_config(pairs, tmp_path / "a", *ANCHORS, *shared))
    with pytest.raises(PrivacyError, match=r"were divided among clients\s+differently"):
        simulate(tiny_config(pairs, tmp_path / "b", *ANCHORS, *shared, change))
    assert {Ledger(path).num_rounds() for path in (tmp_path / "ledgers").glob("client-*.jsonl")} == {3}


def test_a_projection_into_the_ledger_of_private_runs_is_refused(
    pairs: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Each client says a word; the reason, with its own ledger's path, stays in the client's log."""
    shared = (*GIVEN, f'privacy.ledger_dir="{tmp_path}/ledgers"')
    simulate(tiny_config(pairs, tmp_path / "a", *ANCHORS, *shared, "privacy.projected_pairs=9"))
    with pytest.raises(FederationError, match="4 x refused: ") as refused:
        simulate(tiny_config(pairs, tmp_path / "b", *ANCHORS, *shared, "federation.num_rounds=1"))
    assert "client-0000.jsonl" not in str(refused.value)
    told = [one.getMessage() for one in caplog.records if one.name == "edgecmd.client"]
    assert len(told) == 4
    assert all("were NOT PRIVATE, and this run is private" in one for one in told)


def test_what_a_client_says_of_a_failure_is_not_written_down(pairs: Path, tmp_path: Path) -> None:
    """A client's text under privacy could hold anything; without privacy it helps."""
    secret = "/home/ann/pair-17.png is broken"
    for name, settings in (("private", (*ANCHORS, *GIVEN)), ("open", ())):
        config = tiny_config(pairs, tmp_path, *settings, f'name="{name}"', "federation.num_rounds=1")
        reports: list[RoundReport] = []
        simulate(
            config, fault=lambda _, node: OSError(secret) if node == 101 else None, report=reports.append
        )
        log = (tmp_path / name / "events.jsonl").read_text()
        assert (secret in log) == (name == "open")
        ((rejected,),) = [one.rejected for one in reports]
        expected = BY_CODE[2] if name == "private" else f"OSError: {secret}"
        assert (rejected.node_id, rejected.reason) == (101, expected)


def test_a_run_that_outlives_its_budgets_keeps_its_rounds(
    pairs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tiny_config(pairs, tmp_path, *ANCHORS, *GIVEN)
    plan = plan_of(config)
    assert plan is not None
    monkeypatch.setattr(
        "clients.private.owner_bounds",
        lambda *_: __import__("clients.private", fromlist=["Bounds"]).Bounds(
            epsilon=plan.epsilon_after(2) + 1e-6, delta=plan.delta
        ),
    )
    simulate(config)
    table = read_json(tmp_path / "tiny" / "privacy.json")
    assert (table["rounds"], table["epsilon"]) == (2, pytest.approx(plan.epsilon_after(2)))
    assert '"event": "budget"' in (tmp_path / "tiny" / "events.jsonl").read_text()
    assert (tmp_path / "tiny" / "student.safetensors").exists()


@pytest.mark.parametrize("mechanism", ["anchors", "groups", "client"])
def test_deterministic_runs_repeat_after_a_kill(mechanism: str, pairs: Path, tmp_path: Path) -> None:
    """`tests/server/test_federation.py` has the same for two workers."""

    def config(name: str) -> RunConfig:
        settings = (f"privacy.mechanism={mechanism}", "privacy.deterministic=true", f"name={name}")
        return tiny_config(pairs, tmp_path, *settings, *GIVEN)

    one = weights(config("one"))
    with pytest.raises(Stop):
        simulate(config("killed"), report=stop_after(2))
    other = weights(config("killed"))
    for name, value in one.items():
        np.testing.assert_array_equal(other[name], value)
    assert read_json(tmp_path / "one" / "privacy.json")["epsilon"] is None


def test_clients_weigh_the_same_whatever_they_hold(pairs: Path, tmp_path: Path) -> None:
    """Two clients, 45 pairs against 15: the mean of their weights, not the weighted mean."""
    from server.loop import weigh_equally

    set_identity()
    replies = []
    for client in (0, 1):
        record = to_record({"w": np.full(3, float(client), dtype=np.float32)})
        content = RecordDict({"arrays": record, "metrics": MetricRecord({"client": client})})
        replies.append(Message(content, 100 + client, "train"))
    weigh_equally(replies)
    strategy = strategy_of(tiny_config(pairs, tmp_path))
    merged, _ = strategy.aggregate_train(1, replies)
    assert merged is not None
    np.testing.assert_array_equal(merged["w"].numpy(), np.full(3, 0.5, dtype=np.float32))


# The server's own mechanism.


def client_config(pairs: Path, out: Path, *settings: str) -> RunConfig:
    return tiny_config(pairs, out, "privacy.mechanism=client", *settings)


def reply_of(value: dict[str, np.ndarray]) -> Message:
    set_identity()
    content = RecordDict(
        {"arrays": to_record(value), "metrics": MetricRecord({"client": 0, "num-examples": 1})}
    )
    return Message(content, 100, "train")


def central_of(config: RunConfig, **changes: object):
    plan = plan_of(config)
    assert plan is not None
    central = central_privacy(replace(plan, **changes), run_of(config), token="a" * 16)  # type: ignore[arg-type]
    assert central is not None
    return central


def combined(central, replies: list[Message], arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    record = central.combine(replies, arrays, round_index=1).content.array_records["arrays"]
    return {name: record[name].numpy() for name in record}


def test_updates_are_clipped_whole_and_divided_by_a_public_number(pairs: Path, tmp_path: Path) -> None:
    """Updates (3, 4) of norm 5 and (0.3, 0) of norm 0.3, clip 1, four clients: sum (0.9, 0.8) / 4."""
    config = client_config(pairs, tmp_path, "privacy.epsilon=900")
    central = central_of(config, noise_multiplier=1e-15, epsilon=float("inf"))
    arrays = {"a": np.zeros(1, np.float32), "b": np.ones(1, np.float32)}
    replies = [
        reply_of({"a": np.array([3.0], np.float32), "b": np.array([5.0], np.float32)}),
        reply_of({"a": np.array([0.3], np.float32), "b": np.array([1.0], np.float32)}),
    ]
    found = combined(central, replies, arrays)
    np.testing.assert_allclose(found["a"], [0.9 / 4], rtol=2e-4)
    np.testing.assert_allclose(found["b"], [1 + 0.8 / 4], rtol=2e-4)
    assert found["a"].dtype == np.float32


@pytest.mark.parametrize("size", [1e-3, 1.0, 1e9])
def test_one_client_moves_the_result_by_the_clip_at_most(size: float, pairs: Path, tmp_path: Path) -> None:
    central = central_of(
        client_config(pairs, tmp_path), noise_multiplier=1e-15, epsilon=float("inf"), clip=0.5
    )
    arrays = {"a": np.zeros(100, np.float32)}
    noise = np.random.default_rng(0)
    others = [reply_of({"a": noise.normal(size=100).astype(np.float32)}) for _ in range(3)]
    attack = reply_of({"a": (size * noise.normal(size=100)).astype(np.float32)})
    with_it, without = (combined(central, one, arrays)["a"] for one in ([*others, attack], others))
    assert np.linalg.norm(with_it - without) <= 0.5 / 4


def test_the_server_s_noise_is_what_the_plan_says_also_with_nobody_there(pairs: Path, tmp_path: Path) -> None:
    central = central_of(client_config(pairs, tmp_path, "privacy.clip=2"))
    found = combined(central, [], {"a": np.zeros(10_000, np.float32)})["a"]
    std = central.plan.noise_multiplier * 2 / 4
    assert stats.kstest(found / std, "norm").pvalue > FALSE_ALARM
    half = stats.kstest(found / (2 * std), "norm").pvalue
    assert half < FALSE_ALARM, "the test would see half the noise"


@pytest.mark.parametrize("strategy", ["fedavg", "fedavgm", "fedadam"])
def test_a_client_level_run_ends_within_its_budget(strategy: str, pairs: Path, tmp_path: Path) -> None:
    config = client_config(
        pairs, tmp_path, f"federation.strategy={strategy}", "federation.server_learning_rate=0.01"
    )
    simulate(config)
    table = read_json(tmp_path / "tiny" / "privacy.json")
    assert table["unit"] == "client"
    assert 7.9 < table["epsilon"] <= 8.0
    assert Ledger(run_of(config).server_ledger).num_rounds() == 3
    assert not run_of(config).client_ledger(0).exists()


def test_a_hidden_cohort_is_drawn_by_secret_coins_and_not_told(pairs: Path, tmp_path: Path) -> None:
    config = client_config(pairs, tmp_path, "federation.client_fraction=0.5")
    central = central_of(config)
    assert central.hidden
    cohorts = {tuple(central.draw(range(40), round_index=1)) for _ in range(4)}
    assert len(cohorts) == 4, "the run's seed does not draw it"
    events: list[RoundReport] = []
    simulate(config, report=events.append)
    assert {(one.num_clients, one.rejected) for one in events} == {(2, ())}
    assert len({one.bytes_exchanged for one in events}) == 1


@dataclass
class OneStep(CentralPrivacy):
    """A server's mechanism whose result is the same whoever was asked: 0.1 times the round more."""

    asked: set[int] = field(default_factory=set)

    def draw(self, nodes: Iterable[int], *, round_index: int) -> list[int]:
        return list(nodes) if round_index in self.asked else []

    def combine(self, replies: list[Message], arrays: Weights, *, round_index: int) -> Message:
        step = np.float32(0.1 * round_index)
        return reply_of({name: np.asarray(value + step) for name, value in arrays.items()})


@pytest.mark.parametrize("strategy", ["fedavg", "fedavgm", "fedadam", "fedyogi"])
def test_weights_do_not_tell_whether_anybody_was_asked(strategy: str, pairs: Path, tmp_path: Path) -> None:
    """All that a server does with its mechanism's result is post-processing."""
    private = central_of(client_config(pairs, tmp_path, "federation.client_fraction=0.5"))
    found = []
    for number, asked in enumerate([{1, 2, 3}, {2}, set[int]()]):
        changes = ("num_clients=2", "num_rounds=3", f"strategy={strategy}", "server_momentum=0.5")
        given = {one.name: getattr(private, one.name) for one in fields(private) if one.init}
        central = OneStep(**given, asked=asked)
        with federation(tmp_path / str(number), *changes) as one:
            found.append(run_rounds(replace(one, central=central, private=True), start()))
    for other in found[1:]:
        for name, value in found[0].items():
            np.testing.assert_array_equal(other[name], value)


def test_a_client_level_run_counts_on_after_a_kill(pairs: Path, tmp_path: Path) -> None:
    config = client_config(pairs, tmp_path)
    with pytest.raises(Stop):
        simulate(config, report=stop_after(2))
    simulate(config)
    assert Ledger(run_of(config).server_ledger).num_rounds() == 3
    assert run_of(config).new_student() is not None
