"""Sums that clients release once: what they are, what leaves, and the student that follows in closed form."""

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from dp_accounting import GaussianDpEvent
from dp_accounting.pld import PLDAccountant
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, RecordDict
from sklearn.linear_model import Ridge
from torch import nn

from clients.app import app, make_app
from edgecmd.audits.finding import CONTRADICTED, NOT_CONTRADICTED
from edgecmd.audits.levels import LEVELS
from edgecmd.audits.static.checks import check_target
from edgecmd.audits.static.sensitivity import Effort
from edgecmd.audits.step.checks import drive_rounds, release_finding
from edgecmd.audits.step.draws import audit_draws
from edgecmd.config.schema import RunConfig
from edgecmd.core.errors import ConfigError, PrivacyError
from edgecmd.core.files import read_json
from edgecmd.experiments.audit_ladder import audit_level
from edgecmd.losses import unit
from edgecmd.privacy.ledger import Ledger
from edgecmd.privacy.secure_sum import integers
from edgecmd.privacy.step import private_step
from edgecmd.privacy.step.gradients import clipped_sum
from edgecmd.privacy.step.moments import Moments, moment_loss, require_projector, solved
from edgecmd.privacy.step.units import Units, make_units
from edgecmd.training.averaging import to_arrays
from server.local_grid import local_grid, set_identity
from server.loop import RoundReport
from server.patience import GridAround
from server.strategies import to_record
from tests.edgecmd.audit.tiny_target import audit_noise, doubled, halved, tiny_target
from tests.tiny_federation import (
    NUM_CLIENTS,
    contexts,
    federate,
    plan_of,
    run_of,
    simulate,
    tiny_config,
    write_pairs,
)

SHOT = (
    "privacy.mechanism=statistics",
    "federation.local_steps=1",
    "privacy.sampling_rate=1",
    "distill.augment=0",
)
NOISED = (*SHOT, "federation.num_rounds=1", "privacy.aggregation=noised-sum")
SUMMED = (*SHOT, "federation.num_rounds=1", "privacy.aggregation=secure-sum")
GIVEN = ("privacy.noise_multiplier=2", "privacy.epsilon=1000")
DIM = 128
LAST = {"projector.weight", "projector.bias"}


def quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take the noise out, on clients and in secure sums."""
    monkeypatch.setattr(private_step, "normal", lambda _, count: np.zeros(count))
    monkeypatch.setattr(integers, "noise_share", lambda terms, _: np.zeros(terms.dim, dtype=np.int64))


def embedded(config: RunConfig) -> tuple[np.ndarray, np.ndarray]:
    """Unit embeddings by the first weights, and what the teacher says, of all pairs of all clients."""
    run = run_of(config)
    student, found = run.new_student().eval(), []
    anchors = run.anchors.double()
    shared = (anchors / anchors.norm(dim=1, keepdim=True)).mean(dim=0)
    with torch.no_grad():
        for client in range(NUM_CLIENTS):
            data = run.holding(client).data
            told = data.features.double()
            told = told / told.norm(dim=1, keepdim=True) - shared
            found.append((unit(student(data.inputs)), told / told.norm(dim=1, keepdim=True)))
    return tuple(torch.cat(one).double().numpy() for one in zip(*found, strict=True))  # type: ignore[return-value]


def turn_of(z: np.ndarray, t: np.ndarray, *, ridge: float) -> np.ndarray:
    """The map from ``z`` to ``t`` that scikit-learn finds, shrunk towards the identity."""
    return np.eye(z.shape[1]) + Ridge(alpha=ridge, fit_intercept=False, tol=1e-12).fit(z, t - z).coef_


def made_up(num: int, *, seed: int) -> np.ndarray:
    rows = np.random.default_rng(seed).normal(size=(num, DIM))
    return np.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True))


def student_of(config: RunConfig) -> nn.Module:
    return run_of(config).new_student()


@pytest.mark.parametrize("std", [0.05, 2.0])
def test_the_closed_form_is_a_ridge_regression_that_shrinks_to_the_first_weights(
    std: float, pairs: Path, tmp_path: Path
) -> None:
    student = run_of(tiny_config(pairs, tmp_path, *NOISED, *GIVEN)).new_student()
    z, t = made_up(300, seed=0), made_up(300, seed=1)
    upper = [z[:, i] @ z[:, j] * (1 if i == j else math.sqrt(2)) for i in range(DIM) for j in range(i, DIM)]
    found = solved(student, np.array(upper), z.T @ t, noise_std=std)
    turn = turn_of(z, t, ridge=2 * std * math.sqrt(DIM))
    weight, bias = (
        student.projector.get_parameter(one).detach().double().numpy() for one in ("weight", "bias")
    )
    np.testing.assert_allclose(found["projector.weight"], turn @ weight, atol=1e-8)
    np.testing.assert_allclose(found["projector.bias"], turn @ bias, atol=1e-8)


def test_without_pairs_or_with_endless_noise_the_first_weights_stay(pairs: Path, tmp_path: Path) -> None:
    student = run_of(tiny_config(pairs, tmp_path, *NOISED, *GIVEN)).new_student()
    before = student.projector.weight.detach().numpy()
    none = np.zeros(DIM * (DIM + 1) // 2), np.zeros((DIM, DIM))
    for features, cross, std in ((*none, 1.0), (*none, 0.0), (none[0] + 1.0, none[1] + 1.0, 1e9)):
        found = solved(student, features, cross, noise_std=std)["projector.weight"]
        np.testing.assert_allclose(found, before, atol=1e-6)


def test_the_gradient_of_a_pair_is_its_products(pairs: Path, tmp_path: Path) -> None:
    """Of norm root 2; a clip below that scales all of it, and a pair that is no number counts as nothing.

    The anchors lie opposite to each other, so their mean takes nothing from the teacher's features.
    """
    student = student_of(tiny_config(pairs, tmp_path, *NOISED, *GIVEN))
    moments = Moments(student)
    image, feature = torch.rand(3, 1, 1, 16, 16), torch.randn(3, 1, DIM)
    image[2] = math.nan
    units = Units(images=image, teacher=feature, mask=torch.ones(3, 1, dtype=torch.bool))
    with torch.no_grad():
        z, t = unit(student.eval()(image[:2, 0])).double(), unit(feature[:2, 0]).double()
    opposite = torch.zeros(2, DIM)
    opposite[:, 0] = torch.tensor([1.0, -3.0])
    for engine, clip, share in (("vmap", 10.0, 1.0), ("loop", 0.5, 0.5 * (1 - 1e-4) / math.sqrt(2))):
        found = clipped_sum(moments, [units], moment_loss(opposite), clip=clip, engine=engine)
        torch.testing.assert_close(found["cross"], -share * z.T @ t, atol=1e-5, rtol=0)
        square = -share * z.T @ z
        rows, columns = torch.triu_indices(DIM, DIM)
        above = square[rows, columns] * torch.where(rows == columns, 1.0, math.sqrt(2)).double()
        torch.testing.assert_close(found["features"], above, atol=1e-5, rtol=0)


def test_what_all_features_share_is_taken_away() -> None:
    """By hand: the unit anchors' mean lies along the first axis; a feature less that, along the third."""
    anchors = torch.tensor([[2.0, 0.0, 0.0], [0.2, 0.3, 0.0], [0.2, -0.3, 0.0]])
    along = 0.2 / math.hypot(0.2, 0.3)
    mean = (1 + 2 * along) / 3
    found = torch.tensor([[0.5, 1.0, 10.0, 100.0]])  # A's part, and one for each axis
    teacher = torch.tensor([[5 * mean, 0.0, 5 * math.sqrt(1 - mean**2)]])
    loss = moment_loss(anchors)(found, teacher, torch.ones(1, dtype=torch.bool))
    assert float(loss) == pytest.approx(-(0.5 + 100.0), rel=1e-4)


@pytest.mark.parametrize("settings", [NOISED, SUMMED], ids=["noised-sum", "secure-sum"])
def test_a_run_gives_the_closed_form_of_all_pairs(
    settings: tuple[str, ...], pairs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the noise taken out, though the ridge still follows from what it would be."""
    quiet(monkeypatch)
    config = tiny_config(pairs, tmp_path, *settings, "privacy.clip=4", "privacy.noise_multiplier=0.1",
                         "privacy.epsilon=1000")  # fmt: skip
    z, t = embedded(config)
    plan = plan_of(config)
    assert plan is not None
    # Local noise: four clients' on the sum; a secure sum has that of one.
    parts = NUM_CLIENTS if plan.sum_plan is None else 1
    turn = turn_of(z, t, ridge=2 * plan.noise_std * math.sqrt(parts) * math.sqrt(DIM))
    before, after = to_arrays(run_of(config).new_student()), to_arrays(simulate(config))
    np.testing.assert_allclose(after["projector.weight"], turn @ before["projector.weight"], atol=2e-3)
    assert np.abs(after["projector.weight"] - before["projector.weight"]).max() > 0.05
    assert all(np.array_equal(after[name], value) for name, value in before.items() if name not in LAST)


def test_one_release_is_counted_once(pairs: Path, tmp_path: Path) -> None:
    config = tiny_config(pairs, tmp_path, *NOISED, "privacy.noise_multiplier=2", "privacy.epsilon=8")
    simulate(config)
    table = read_json(run_of(config).folder / "privacy.json")
    oracle = PLDAccountant()
    oracle.compose(GaussianDpEvent(2.0))
    assert table["epsilon"] == pytest.approx(oracle.get_epsilon(1e-5), rel=2e-3)
    assert (table["rounds"], table["sensitivity"], table["mechanism"]) == (1, 1.0, "statistics")
    assert table["released"][0] == "sums over each client's pairs, once, to the server"
    for client in range(NUM_CLIENTS):
        assert Ledger(run_of(config).client_ledger(client)).num_rounds() == 1
    simulate(config)
    assert Ledger(run_of(config).client_ledger(0)).num_rounds() == 1


@pytest.mark.parametrize("kind", ["noised-sum", "secure-sum"])
def test_rounds_go_on_from_a_release_within_one_budget(kind: str, pairs: Path, tmp_path: Path) -> None:
    """A fifth of the budget on one release, the rest on two rounds, in one ledger for each client."""
    both = (f"privacy.aggregation={kind}", f'privacy.ledger_dir="{tmp_path}/ledgers"', "privacy.epsilon=8",
            "privacy.max_pairs=64")  # fmt: skip
    first = tiny_config(pairs, tmp_path, *SHOT, *both, "federation.num_rounds=1", "privacy.budget_share=0.2")
    simulate(first)
    start = f'student.path="{run_of(first).folder}/student.safetensors"'
    rounds = ("privacy.mechanism=anchors", *both, start, "federation.num_rounds=2",
              "federation.local_steps=1", "privacy.sampling_rate=1", "name=next")  # fmt: skip
    second = tiny_config(pairs, tmp_path, *rounds, "privacy.budget_share=0.8")
    reports: list[RoundReport] = []
    simulate(second, report=reports.append)
    assert [one.num_clients for one in reports] == [NUM_CLIENTS] * 2
    ledger = Ledger(run_of(second).client_ledger(0))
    assert ledger.num_rounds() == 3
    assert ledger.epsilon(delta=1e-5, accountant="pld") <= 8.0
    # Of Gaussian noise; the bound for Skellam noise adds Renyi divergences, which asks for more of it.
    oracle = PLDAccountant()
    for config in (first, second):
        plan = plan_of(config)
        oracle.compose(GaussianDpEvent(plan.noise_multiplier), config.federation.num_rounds)
    assert 6.5 < oracle.get_epsilon(1e-5) <= 8.0
    table = read_json(run_of(second).folder / "privacy.json")
    assert table["epsilon"] == pytest.approx(ledger.epsilon(delta=1e-5, accountant="pld"))


def ask(config: RunConfig) -> Message:
    set_identity()
    sent = ConfigRecord({"server-round": 1, "run": "0123456789abcdef"})
    content = RecordDict({"arrays": to_record(to_arrays(run_of(config).new_student())), "config": sent})
    return app(message=Message(content, 101, "train"), context=contexts(config)[101])


def test_every_byte_of_a_reply_and_the_same_again(tmp_path: Path) -> None:
    """Two sums of a length that is public, and the client's index, however many pairs there are."""
    for num in (24, 60):
        made = write_pairs(tmp_path / f"{num}.npz", num_pairs=num)
        config = tiny_config(made, tmp_path / str(num), *NOISED, *GIVEN)
        reply = ask(config)
        assert sorted(reply.content) == ["arrays", "metrics"]
        assert dict(reply.content.metric_records["metrics"]) == {"client": 1}
        arrays = reply.content.array_records["arrays"]
        assert {name: (one.dtype, tuple(one.shape)) for name, one in arrays.items()} == {
            "cross": ("float32", (DIM, DIM)),
            "features": ("float32", (DIM * (DIM + 1) // 2,)),
        }
        again = ask(config).content.array_records["arrays"]
        assert {name: one.data for name, one in again.items()} == {n: one.data for n, one in arrays.items()}
        assert Ledger(run_of(config).client_ledger(1)).num_rounds() == 1


class Changing(GridAround):
    """A grid on which one client's reply becomes another."""

    def send_and_receive(self, messages, *, timeout=None):  # type: ignore[no-untyped-def]
        replies = list(self._grid.send_and_receive(messages, timeout=timeout))
        for one in replies:
            if one.metadata.src_node_id == 102:
                one.content["arrays"] = ArrayRecord({"cross": Array(np.zeros((DIM, DIM), np.float32))})
        return replies


def test_a_reply_of_another_form_is_dropped(pairs: Path, tmp_path: Path) -> None:
    config = tiny_config(pairs, tmp_path, *NOISED, *GIVEN)
    with local_grid(make_app(run_of(config)), contexts(config)) as grid:
        federate(Changing(grid), config)
    events = (run_of(config).folder / "events.jsonl").read_text()
    assert '"clients": 3' in events
    assert "not finite" in events


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        (("privacy.aggregation=plain",), "Set them to noised-sum or secure-sum, 1 and 0"),
        (("federation.num_rounds=2",), "federation.num_rounds=2"),
        (("federation.strategy=fedadam",), "in closed form, without a step. Use fedavg or fedprox"),
        (("distill.loss=cosine",), "belongs to privacy.mechanism='cosine'"),
        (("federation.local_steps=2",), "Set both to 1"),
        (("federation.buffer_size=2",), "federation.buffer_size=2"),
    ],
)
def test_what_does_not_go_together_is_refused(
    changes: tuple[str, ...], text: str, pairs: Path, tmp_path: Path
) -> None:
    with pytest.raises(PrivacyError) as caught:
        simulate(tiny_config(pairs, tmp_path, *NOISED, *GIVEN, *changes))
    assert text in str(caught.value)


def test_a_student_without_a_linear_last_layer_is_refused(pairs: Path, tmp_path: Path) -> None:
    student = run_of(tiny_config(pairs, tmp_path, *NOISED, *GIVEN)).new_student()
    assert require_projector(student) is student.projector
    student.projector = nn.Identity()
    with pytest.raises(PrivacyError, match="this student has none of its own"):
        require_projector(student)


@pytest.mark.usefixtures("unchecked_shapes")
def test_audits_know_the_release(monkeypatch: pytest.MonkeyPatch) -> None:
    target = tiny_target(*NOISED, *GIVEN)
    assert release_finding(drive_rounds(target), target.plan).verdict == NOT_CONTRADICTED  # type: ignore[arg-type]
    assert audit_draws(target, num_draws=200).verdict == NOT_CONTRADICTED
    assert [name for name, level in LEVELS.items() if level.asks(target)] == ["check", "step"]
    for level in ("one-run", "many-runs", "risk"):
        with pytest.raises(ConfigError, match="privacy.mechanism='statistics' trains nothing"):
            audit_level(target, level)
    monkeypatch.setattr(private_step, "normal", halved)
    assert audit_noise(target).verdict == CONTRADICTED


@pytest.mark.usefixtures("unchecked_shapes")
@pytest.mark.parametrize(("planted", "verdict"), [(make_units, NOT_CONTRADICTED), (doubled, CONTRADICTED)])
def test_a_pair_that_counts_twice_is_contradicted(
    planted: Callable[..., list[Units]], verdict: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every pair is scaled down to the clip, so the search comes within its margin of what is claimed."""
    monkeypatch.setattr(private_step, "make_units", planted)
    found = check_target(tiny_target(*NOISED, *GIVEN), Effort(num_tries=6))
    (one,) = (one for one in found if one.quantity == "sensitivity")
    assert one.verdict == verdict
    assert one.measured == pytest.approx(2.0 if planted is doubled else 1.0, rel=2e-4)
