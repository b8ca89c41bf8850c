"""Federations whose rounds are secure sums, through the real apps: sums, drop-outs, attacks, the ledger."""

import json
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import pytest
from dp_accounting import GaussianDpEvent, SelfComposedDpEvent
from dp_accounting.rdp import RdpAccountant
from flwr.app import Array, ArrayRecord, Message, RecordDict

from clients.app import make_app
from edgecmd.audits.static.ledger_consistency import books_findings
from edgecmd.config.schema import RunConfig
from edgecmd.core.errors import EdgecmdError, FederationError, PrivacyError
from edgecmd.core.files import read_json, write_json
from edgecmd.experiments.run_plan import plan_facts
from edgecmd.privacy.ledger import Ledger
from edgecmd.privacy.secure_sum import integers
from edgecmd.privacy.secure_sum.skellam import gaussian_multiplier
from edgecmd.privacy.step.gradients import clipped_sum
from edgecmd.privacy.step.randomness import DeterministicSource
from edgecmd.privacy.step.standardised_weights import EffectiveStudent
from edgecmd.privacy.step.units import StepSettings, make_units, unit_loss
from edgecmd.training.averaging import to_arrays
from server.local_grid import local_grid
from server.patience import GridAround
from tests.tiny_federation import (
    TESTED,
    contexts,
    federate,
    find_target,
    plan_of,
    run_of,
    simulate,
    tiny_config,
)

SUM = "privacy.aggregation=secure-sum"
PAIR = (SUM, "privacy.mechanism=anchors", "federation.local_steps=1", "privacy.sampling_rate=1")
ONE = "federation.num_rounds=1"
THREE_OF_FOUR = "privacy.min_survivors=3"
# The search for the noise that spends a budget costs more than the rounds; most tests have no need of it.
GIVEN = ("privacy.noise_multiplier=2", "privacy.epsilon=1000")
# Without privacy 4 vectors of norm 256 fit at 2^20 units. Each of 4 clients rounds by half a unit at most,
# and the mean is over 39 of 256 pairs: 4 2^-21 256 / 39; 3 clients with 29 pairs are alike. Then float32.
ROUNDED = 4 * 2.0**-21 * 256 / 39 + 1e-6
STEPS = ("query.sum_keys", "query.sum_shares", "train", "query.sum_vote", "query.sum_unmask")


class Meddling(GridAround):
    """A grid that a test may see through: it drops messages, and changes those that pass.

    Args:
        grid: The grid below.
        drops: Whether the message of this type to this node is lost.
        change: Makes another reply of one.
    """

    def __init__(
        self,
        grid: object,
        *,
        drops: Callable[[str, int], bool] = lambda *_: False,
        change: Callable[[str, Message], None] = lambda *_: None,
    ) -> None:
        super().__init__(grid)  # type: ignore[arg-type]
        self.drops, self.change, self.sent = drops, change, list[Message]()

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        kept = []
        for one in messages:
            if self.drops(one.metadata.message_type, one.metadata.dst_node_id):
                one.metadata.__dict__["_message_id"] = f"lost-{id(one)}"
            else:
                kept.append(one)
        self.sent += kept
        kinds = {one.metadata.dst_node_id: one.metadata.message_type for one in kept}
        replies = list(self._grid.send_and_receive(kept, timeout=timeout))
        for one in replies:
            self.change(kinds[one.metadata.src_node_id], one)
        return replies


def run_through(config: RunConfig, **meddling: object) -> tuple[dict[str, np.ndarray], Meddling]:
    """The federation of ``config`` over a grid that meddles."""
    with local_grid(make_app(run_of(config)), contexts(config)) as grid:
        around = Meddling(grid, **meddling)  # type: ignore[arg-type]
        return to_arrays(federate(around, config)), around


def events(config: RunConfig) -> list[dict[str, object]]:
    lines = (Path(config.out) / config.name / "events.jsonl").read_text().splitlines()
    return [one for one in map(json.loads, lines) if one["event"] == "round"]


def lost(steps: dict[str, int]) -> Callable[[str, int], bool]:
    """Drops the first so many clients of each step."""
    return lambda kind, node: node < 100 + steps.get(kind, 0)


def test_without_privacy_a_sum_is_the_mean_that_a_plain_round_has(pairs: Path, tmp_path: Path) -> None:
    """To the rounding of integers."""
    plain = tiny_config(pairs, tmp_path / "plain", ONE)
    summed = tiny_config(pairs, tmp_path / "summed", ONE, SUM)
    expected, found = to_arrays(simulate(plain)), to_arrays(simulate(summed))
    assert max(float(np.abs(expected[name] - found[name]).max()) for name in expected) < ROUNDED
    (one,), (other,) = events(plain), events(summed)
    assert one["num_examples"] == other["num_examples"]
    assert one["loss"] == pytest.approx(other["loss"], abs=1e-4)
    assert one["clients"] == other["clients"] == 4


def test_one_step_on_the_sum_of_all_clipped_gradients(
    pairs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Against plain backward passes, one pair after the other, with the noise taken out."""
    monkeypatch.setattr(integers, "noise_share", lambda terms, _: np.zeros(terms.dim, dtype=np.int64))
    config = tiny_config(pairs, tmp_path, *PAIR, *GIVEN, ONE, "distill.augment=0", "privacy.clip=0.5")
    run = run_of(config)
    student = run.new_student()
    before, effective = to_arrays(student), EffectiveStudent(student)
    effective.refresh()
    settings = StepSettings(mechanism="anchors", num_views=1, num_groups=8, chunk_size=8)
    total: dict[str, object] = {}
    for client in range(4):
        holding = run.holding(client)
        rows = np.arange(len(holding.data))
        chunks = make_units(holding.data, rows, config=settings, augment=0.0, source=DeterministicSource(0))
        loss = unit_loss(run.loss, holding.anchors)
        for name, value in clipped_sum(effective.module, chunks, loss, clip=0.5, engine="loop").items():
            total[name] = value + total.get(name, 0)  # type: ignore[operator]
    gradient = effective.pull_back(total)  # type: ignore[arg-type]
    after = to_arrays(simulate(config))
    # The first round of a cosine: its warm-up has one step, so the whole rate.
    rate, divisor = config.distill.learning_rate, 4 * config.distill.batch_size
    for name, value in gradient.items():
        assert np.allclose(after[name], before[name] - rate * value.numpy() / divisor, atol=2e-6), name
    assert any(not np.array_equal(after[name], before[name]) for name in gradient)


@pytest.mark.parametrize("step", STEPS)
def test_one_of_four_may_drop_out_at_any_step(pairs: Path, tmp_path: Path, step: str) -> None:
    """What is summed is what those who sent a vector would give by themselves."""
    config = tiny_config(pairs, tmp_path, ONE, SUM, THREE_OF_FOUR, f"name={step.replace('.', '-')}")
    found, _ = run_through(config, drops=lost({step: 1}))
    in_sum = step in STEPS[3:]
    (told,) = events(config)
    assert told["clients"] == (4 if in_sum else 3)
    assert [one["node"] for one in told["rejected"]] == [100]  # type: ignore[attr-defined]
    plain = tiny_config(pairs, tmp_path, ONE, f"name=plain-{step.replace('.', '-')}")
    expected, _ = run_through(plain, drops=(lambda *_: False) if in_sum else lost({"train": 1}))
    assert max(float(np.abs(expected[name] - found[name]).max()) for name in expected) < ROUNDED


@pytest.mark.parametrize("step", STEPS)
def test_below_the_threshold_nothing_is_released(pairs: Path, tmp_path: Path, step: str) -> None:
    config = tiny_config(pairs, tmp_path, ONE, SUM, THREE_OF_FOUR)
    with pytest.raises(FederationError, match="privacy.min_survivors=3|Nothing is released") as caught:
        run_through(config, drops=lost({step: 2}))
    assert "Finished rounds are saved" in str(caught.value) or "Nothing is released" in str(caught.value)
    assert not (Path(config.out) / config.name / "student.safetensors").exists()


def test_a_client_that_sends_garbage_spoils_the_sum_and_the_loop_says_so(pairs: Path, tmp_path: Path) -> None:
    def change(kind: str, reply: Message) -> None:
        if kind == "train" and reply.metadata.src_node_id == 101:
            size = reply.content.array_records["arrays"]["masked"].numpy().size
            noise = np.random.default_rng(0).integers(0, 2**32, size, dtype=np.uint32)
            reply.content["arrays"] = ArrayRecord({"masked": Array(noise)})

    config = tiny_config(pairs, tmp_path, *PAIR, *GIVEN, ONE)
    with pytest.raises(FederationError, match="the sum is spoilt: its norm is more than"):
        run_through(config, change=change)


@pytest.mark.parametrize(
    "bad",
    [
        lambda one: one.content.pop("arrays"),
        lambda one: one.content.__setitem__("arrays", ArrayRecord({"masked": Array(np.zeros(3))})),
        lambda one: one.content.__setitem__("arrays", ArrayRecord({"other": Array(np.zeros(3))})),
    ],
)
def test_an_answer_that_is_no_step_counts_as_a_drop_out(
    pairs: Path, tmp_path: Path, bad: Callable[[Message], object]
) -> None:
    def change(kind: str, reply: Message) -> None:
        if kind == "train" and reply.metadata.src_node_id == 101:
            bad(reply)

    config = tiny_config(pairs, tmp_path, ONE, SUM, THREE_OF_FOUR)
    run_through(config, change=change)
    (told,) = events(config)
    assert told["rejected"] == [{"node": 101, "reason": "an answer that is not a step of the secure sum"}]


def test_clients_refuse_what_is_replayed_and_forget_their_secrets(pairs: Path, tmp_path: Path) -> None:
    """Each message that the server sent is sent again after the round; nothing is answered but new keys."""
    config = tiny_config(pairs, tmp_path, *PAIR, *GIVEN, ONE)
    held = contexts(config)
    with local_grid(make_app(run_of(config)), held) as grid:
        around = Meddling(grid)
        federate(around, config)
        assert all(not one.state for one in held.values())
        for message in around.sent:
            again = Message(
                RecordDict(dict(message.content)), message.metadata.dst_node_id, message.metadata.message_type
            )
            (reply,) = grid.send_and_receive([again])
            if message.metadata.message_type == "query.sum_keys":
                assert not reply.has_error()
            else:
                assert "refused: secure-sum" in str(reply.error.reason)
            for one in held.values():
                one.state.clear()


def test_a_restarted_node_is_a_drop_out_of_that_round(pairs: Path, tmp_path: Path) -> None:
    config = tiny_config(pairs, tmp_path, ONE, SUM, THREE_OF_FOUR)
    held = contexts(config)

    def forget(kind: str, node: int) -> bool:
        if kind == "train":
            held[102].state.clear()
        return False

    with local_grid(make_app(run_of(config)), held) as grid:
        federate(Meddling(grid, drops=forget), config)
    (told,) = events(config)
    assert told["clients"] == 3
    assert "refused: secure-sum" in told["rejected"][0]["reason"]  # type: ignore[index]


def test_what_the_server_receives_of_a_client_is_uniform(pairs: Path, tmp_path: Path) -> None:
    """Top four bits of some 55,000 masked numbers: chi-square with 15 degrees; above 60 once in 10^6."""
    seen = []

    def change(kind: str, reply: Message) -> None:
        if kind == "train":
            seen.append(reply.content.array_records["arrays"]["masked"].numpy())

    config = tiny_config(pairs, tmp_path, ONE, SUM)
    run_through(config, change=change)
    assert len(seen) == 4
    for one in seen:
        counts = np.bincount(one >> np.uint32(28), minlength=16)
        expected = len(one) / 16
        assert float(((counts - expected) ** 2 / expected).sum()) < 60.0


def test_the_ledger_counts_each_vector_that_leaves_and_the_statement_says_what_it_rests_on(
    pairs: Path, tmp_path: Path
) -> None:
    changes = (*PAIR, "privacy.noise_multiplier=2.5", "privacy.epsilon=20", THREE_OF_FOUR)
    config = tiny_config(pairs, tmp_path, *changes, "privacy.num_colluding=1", "federation.strategy=fedadam")
    # In the second round the third client is lost after its vector left, the fourth before.
    rounds = {"train": 0}

    def drops(kind: str, node: int) -> bool:
        rounds["train"] += kind == "train" and node == 100
        return rounds["train"] == 2 and (kind, node) == ("query.sum_unmask", 102)

    run_through(config, drops=drops)
    table = read_json(Path(config.out) / config.name / "privacy.json")
    oracle = RdpAccountant(range(2, 64))
    oracle.compose(SelfComposedDpEvent(GaussianDpEvent(gaussian_multiplier(2.5)), 3))
    assert table["epsilon"] == pytest.approx(oracle.get_epsilon(1e-5), rel=1e-3)
    assert set(table["epsilon_by_client"]) == {f"client {one}" for one in range(4)}
    assert len(set(table["epsilon_by_client"].values())) == 1
    for client in range(4):
        assert Ledger(run_of(config).client_ledger(client)).num_rounds() == 3
    assert table["sampler"] == "none: everything is in every round"
    assert (table["survivors"], table["colluding"]) == (3, 1)
    # Two honest clients share the noise; with one of them gone half of its variance is left.
    alone = RdpAccountant(range(2, 64))
    alone.compose(SelfComposedDpEvent(GaussianDpEvent(gaussian_multiplier(2.5 / 2**0.5)), 3))
    assert list(table["epsilon_by_trust"].values()) == [
        table["epsilon"],
        pytest.approx(alone.get_epsilon(1e-5), rel=1e-3),
        pytest.approx(alone.get_epsilon(1e-5), rel=1e-3),
    ]
    assert "if 1 client at most work together with the server" in table["against"]
    assert table["released"][0].startswith("the sum over 3 clients or more")
    assert any("proves nothing about keys" in one for one in table["not_covered"])


def test_a_budget_ends_the_run_before_anything_more_leaves(pairs: Path, tmp_path: Path) -> None:
    config = tiny_config(pairs, tmp_path, *PAIR, "privacy.noise_multiplier=2", "privacy.epsilon=8", ONE)
    simulate(config)
    ledgers = run_of(config).ledger_folder
    again = tiny_config(
        pairs, tmp_path / "again", *PAIR, "privacy.noise_multiplier=2", "privacy.epsilon=3",
        ONE, f'privacy.ledger_dir="{ledgers}"',
    )  # fmt: skip
    with pytest.raises(PrivacyError, match="budget-spent|No round can be run"):
        simulate(again)


def test_noise_that_is_shared_has_the_variance_that_is_counted(pairs: Path, tmp_path: Path) -> None:
    """The step of a round without signal: 55,000 numbers with 4 shares of 4; within 3% is five deviations."""
    config = tiny_config(
        pairs, tmp_path, *PAIR, "privacy.noise_multiplier=50", "privacy.epsilon=1000", ONE,
        "privacy.min_survivors=4", "student.architecture=\"gn-50k\"",
    )  # fmt: skip
    plan = plan_of(config)
    assert plan is not None
    run = run_of(config)
    before, after = to_arrays(run.new_student()), to_arrays(simulate(config))
    moves = np.concatenate([(before[name] - after[name]).ravel().astype(np.float64) for name in before])
    assert plan.noise_multiplier == 50.0
    stated = config.distill.learning_rate * 50.0 * (1 + 1 / 64) / (4 * config.distill.batch_size)
    assert float(np.sqrt(np.mean(moves**2))) == pytest.approx(stated, rel=0.03)


def test_a_whole_client_is_protected_in_a_sum_without_trusting_the_server(
    pairs: Path, tmp_path: Path
) -> None:
    """Updates are clipped before they leave; the step is little else than the noise of one."""
    config = tiny_config(
        pairs, tmp_path, ONE, SUM, "privacy.mechanism=client", "privacy.clip=0.01",
        "privacy.noise_multiplier=2", "privacy.epsilon=1000",
    )  # fmt: skip
    run = run_of(config)
    before, after = to_arrays(run.new_student()), to_arrays(simulate(config))
    table = read_json(run.folder / "privacy.json")
    assert table["unit"] == "client"
    assert "trusted server" not in table["statement"]
    assert Ledger(run.server_ledger).num_rounds() == 1
    moves = np.concatenate([(before[name] - after[name]).ravel().astype(np.float64) for name in before])
    noise = 2 * 0.01 * (1 + 1 / 64) / 4
    # Four clipped updates move it by at most the clip; the noise is that of one.
    assert float(np.linalg.norm(moves)) == pytest.approx(noise * len(moves) ** 0.5, rel=0.05)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        (("federation.strategy=krum",), "looks at single updates"),
        (("federation.strategy=fedmedian",), "looks at single updates"),
        (("federation.num_clients=1",), "privacy.min_survivors=1 with 1 clients"),
        (("privacy.min_survivors=2",), "Allowed: from 3 to 4"),
        (("privacy.min_survivors=3", "privacy.num_colluding=2"), "Allowed: from 4 to 4"),
        (("privacy.mechanism=anchors", "privacy.sampling_rate=1"), "federation.local_steps=2"),
        (("privacy.mechanism=anchors", "federation.local_steps=1"), "privacy.sampling_rate=0.25"),
        (
            ("privacy.mechanism=client", "federation.client_fraction=0.75", "privacy.min_survivors=3"),
            "keeps secret who takes part",
        ),
        ((*PAIR, *GIVEN, "privacy.max_pairs=1000000"), "does not fit into 32 bits"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(
    pairs: Path, tmp_path: Path, changes: tuple[str, ...], told: str
) -> None:
    config = tiny_config(pairs, tmp_path, SUM, *changes)
    with pytest.raises(PrivacyError, match=told):
        simulate(config)
    # The plan says it too, before anything is run.
    with pytest.raises(PrivacyError, match=told):
        plan_facts(config, TESTED)


def test_an_unknown_way_to_add_up_is_refused(pairs: Path, tmp_path: Path) -> None:
    with pytest.raises(
        EdgecmdError, match="privacy.aggregation='secret' is unknown. Allowed: plain, noised-sum, secure-sum"
    ):
        tiny_config(pairs, tmp_path, "privacy.aggregation=secret")


def test_books_of_a_finished_run_agree_and_a_statement_of_other_shares_does_not(
    pairs: Path, tmp_path: Path
) -> None:
    config = tiny_config(pairs, tmp_path, *PAIR, *GIVEN, THREE_OF_FOUR)
    simulate(config)
    folder = Path(config.out) / config.name
    assert {one.verdict for one in books_findings(find_target(folder))} == {"not contradicted"}
    table = read_json(folder / "privacy.json")
    write_json(folder / "privacy.json", table | {"survivors": 4})
    settings, *_ = books_findings(find_target(folder))
    assert settings.verdict == "contradicted"
    assert "survivors is 4 there, 3 by the settings" in settings.text


@pytest.mark.slow
def test_worker_processes_carry_the_state_back(pairs: Path, tmp_path: Path) -> None:
    changes = (*PAIR, *GIVEN, "privacy.deterministic=true", "federation.num_rounds=2")
    one = to_arrays(simulate(tiny_config(pairs, tmp_path / "one", *changes)))
    two = to_arrays(simulate(tiny_config(pairs, tmp_path / "two", *changes, "federation.num_workers=2")))
    assert all(np.array_equal(one[name], two[name]) for name in one)
