"""The books of real runs, sound and altered in every way that a release could be forgotten."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from edgecmd.audits.finding import CONTRADICTED, INDICATOR, NOT_CONTRADICTED, Finding
from edgecmd.audits.static.ledger_consistency import SAME_ACCOUNTANT, books_findings, second_opinion
from edgecmd.audits.target import Target
from edgecmd.core.errors import DataError, PrivacyError
from edgecmd.core.files import read_json
from edgecmd.privacy.accounting import Spending
from edgecmd.privacy.ledger import Ledger, Release
from server.loop import RoundReport
from tests.edgecmd.audit.conftest import PRIVATE
from tests.tiny_federation import find_target, plan_of, simulate, tiny_config

Copied = Callable[[str], Path]


def findings(run: Path) -> dict[str, Finding]:
    return {one.name.removeprefix("books: "): one for one in books_findings(find_target(run))}


def verdicts(run: Path) -> dict[str, str]:
    return {name: one.verdict for name, one in findings(run).items()}


def change(run: Path, **values: Any) -> None:
    table = read_json(run / "privacy.json")
    (run / "privacy.json").write_text(json.dumps({**table, **values}))


def set_config(run: Path, old: str, new: str) -> None:
    text = (run / "config.toml").read_text()
    assert old in text
    (run / "config.toml").write_text(text.replace(old, new))


def drop_last_line(path: Path, num: int = 1) -> None:
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:-num]))


@pytest.mark.parametrize(("mechanism", "ledgers"), [("anchors", 4), ("client", 1)])
def test_a_sound_run_is_not_contradicted(mechanism: str, ledgers: int, runs: Copied) -> None:
    found = findings(runs(mechanism))
    assert set(verdicts(runs(mechanism)).values()) == {NOT_CONTRADICTED}
    assert found["rounds"].counts == {"rounds": 3, "answers": 12, "ledgers": ledgers}
    claimed = read_json(runs(mechanism) / "privacy.json")["epsilon"]
    epsilon = found["epsilon"]
    assert epsilon.claimed == claimed
    assert epsilon.measured == pytest.approx(claimed)
    assert epsilon.details["by_ledgers_prv"] == pytest.approx(claimed, abs=0.02)
    assert epsilon.details["by_events_pld"] == pytest.approx(claimed)


@pytest.mark.parametrize(("num_lines", "uncounted"), [(1, 1), (2, 2)])
def test_a_ledger_that_lost_its_last_rounds_is_caught(num_lines: int, uncounted: int, copied: Copied) -> None:
    run = copied("anchors")
    drop_last_line(run / "ledger" / "client-0002.jsonl", num_lines)
    found = findings(run)["rounds"]
    assert (found.verdict, found.measured) == (CONTRADICTED, uncounted)
    assert f"{uncounted} were never counted" in found.text


def test_a_ledger_that_is_gone_is_caught(copied: Copied) -> None:
    run = copied("anchors")
    (run / "ledger" / "client-0001.jsonl").unlink()
    assert findings(run)["rounds"].measured == 3


def test_the_server_s_ledger_that_forgot_a_round_is_caught(copied: Copied) -> None:
    run = copied("client")
    drop_last_line(run / "ledger" / "clients.jsonl")
    assert verdicts(run)["rounds"] == CONTRADICTED
    assert "first in round 3" in findings(run)["rounds"].text


def test_books_that_were_made_to_fit_are_caught_by_the_event_log(copied: Copied) -> None:
    """Every ledger and the statement say one round; the server logged three."""
    run = copied("anchors")
    for path in (run / "ledger").iterdir():
        drop_last_line(path, 2)
    target = find_target(run)
    assert target.plan is not None
    one = target.plan.epsilon_after(1)
    change(run, epsilon=one, epsilon_by_client={f"client {index}": one for index in range(4)})
    found = findings(run)["epsilon"]
    assert found.verdict == CONTRADICTED
    assert found.claimed == one
    assert found.measured == target.plan.epsilon_after(3)


@pytest.mark.parametrize(
    ("factor", "verdict"),
    [(1 - 10 * SAME_ACCOUNTANT, CONTRADICTED), (1 - SAME_ACCOUNTANT / 10, NOT_CONTRADICTED)],
)
def test_an_epsilon_below_the_ledgers_is_caught(factor: float, verdict: str, copied: Copied) -> None:
    run = copied("anchors")
    change(run, epsilon=factor * read_json(run / "privacy.json")["epsilon"])
    assert verdicts(run)["epsilon"] == verdict


def test_one_client_s_epsilon_below_its_ledger_is_caught(copied: Copied) -> None:
    run = copied("anchors")
    by_client = read_json(run / "privacy.json")["epsilon_by_client"]
    change(run, epsilon_by_client={**by_client, "client 3": 1.0})
    found = findings(run)["epsilon"]
    assert found.verdict == CONTRADICTED
    assert "1.0 for client 3" in found.text
    del by_client["client 3"]
    change(run, epsilon_by_client=by_client)
    assert verdicts(run)["epsilon"] == CONTRADICTED


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("noise_multiplier", 99.0),
        ("clip", 0.5),
        ("sensitivity", 0.1),
        ("relation", "replace one pair"),
        ("delta", 1e-9),
        ("mechanism", "cosine"),
        ("sampling_rate", "0.2"),
    ],
)
def test_a_statement_of_other_settings_is_caught(name: str, value: object, copied: Copied) -> None:
    run = copied("anchors")
    change(run, **{name: value})
    found = findings(run)["settings"]
    assert (found.verdict, found.measured) == (CONTRADICTED, 1)
    assert found.details[name]["privacy.json"] == value


def test_releases_that_were_booked_under_a_cheaper_plan_are_caught(copied: Copied) -> None:
    run = copied("anchors")
    target, token = find_target(run), (run / "token").read_text()
    assert target.plan is not None
    ledger = Ledger(run / "ledger" / "client-0000.jsonl")
    ledger.path.unlink()
    for index in (1, 2, 3):
        release = Release(run=token, round_index=index, query="", reply="")
        cheap = replace(target.plan, noise_multiplier=50.0)
        ledger.spend(cheap, release, epsilon=8.0, delta=target.plan.delta)
    found = findings(run)["rounds"]
    assert (found.verdict, found.measured) == (CONTRADICTED, 3)
    assert "another plan" in found.text


def test_a_run_without_privacy_that_claims_some_is_caught(copied: Copied) -> None:
    run = copied("anchors")
    set_config(run, 'mechanism = "anchors"', 'mechanism = "none"')
    assert verdicts(run) == {"settings": CONTRADICTED}


def test_predictable_noise_claims_nothing(copied: Copied) -> None:
    run = copied("anchors")
    set_config(run, "deterministic = false", "deterministic = true")
    change(
        run, private=False, epsilon=None, epsilon_by_client={}, warning="NOT PRIVATE: noise from the seed."
    )
    found = findings(run)
    assert list(found) == ["settings"]
    assert found["settings"].verdict == INDICATOR
    assert "NOT PRIVATE" in found["settings"].text
    change(run, epsilon=8.0)
    assert verdicts(run) == {"settings": CONTRADICTED}


# Missing and broken files.


def test_all_ledgers_gone_is_an_error(copied: Copied) -> None:
    run = copied("anchors")
    shutil.rmtree(run / "ledger")
    with pytest.raises(PrivacyError, match="counts 4 ledgers, but none is in"):
        findings(run)


def test_a_damaged_ledger_is_an_error(copied: Copied) -> None:
    run = copied("anchors")
    path = run / "ledger" / "client-0000.jsonl"
    path.write_text(path.read_text().replace('"round": 1', '"round": 7'))
    with pytest.raises(PrivacyError, match="damaged at line 2"):
        findings(run)


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("privacy.json", "[1, 2]", "is not a privacy statement of edgecmd"),
        ("privacy.json", '{"private": true}', "is not a privacy statement of edgecmd"),
        ("privacy.json", '{"private": true, "epsilon": "low"', "is not valid JSON"),
        ("privacy.json", None, "but no privacy.json"),
        ("events.jsonl", None, "lacks round 1 and 2 others"),
        ("events.jsonl", '{"event": "round", "round": 1, "clients": "many"}', "clients='many'"),
        ("token", None, "token is missing"),
    ],
)
def test_broken_files_are_errors(file: str, content: str | None, message: str, copied: Copied) -> None:
    run = copied("anchors")
    if content is None:
        (run / file).unlink()
    else:
        (run / file).write_text(content)
    with pytest.raises(DataError, match=message):
        findings(run)


@pytest.mark.parametrize("value", ["low", True, [8.0]])
def test_an_epsilon_that_is_no_number_is_an_error(value: object, copied: Copied) -> None:
    run = copied("anchors")
    change(run, epsilon=value)
    with pytest.raises(DataError, match="is not an epsilon"):
        findings(run)


def test_a_log_without_a_middle_round_is_an_error(copied: Copied) -> None:
    run = copied("anchors")
    lines = (run / "events.jsonl").read_text().splitlines()
    (run / "events.jsonl").write_text("\n".join([lines[0], *lines[2:]]) + "\n")
    with pytest.raises(DataError, match="lacks round 2"):
        findings(run)


# Other ways to end a run.


class Stop(BaseException):
    """Stands for a kill between two rounds."""


def test_a_killed_run_claims_nothing_and_a_resumed_one_is_sound(pairs: Path, tmp_path: Path) -> None:
    config = tiny_config(pairs, tmp_path, *PRIVATE)

    def stop(one: RoundReport) -> None:
        if one.round_index == 2:
            raise Stop

    with pytest.raises(Stop):
        simulate(config, report=stop)
    found = findings(tmp_path / "tiny")
    assert found["epsilon"].verdict == INDICATOR
    assert found["epsilon"].claimed is None
    assert found["rounds"].verdict == NOT_CONTRADICTED
    simulate(config)
    assert set(verdicts(tmp_path / "tiny").values()) == {NOT_CONTRADICTED}


def test_a_run_that_spent_budgets_ended_is_sound(
    pairs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from clients.private import Bounds

    noise = ("privacy.noise_multiplier=2", "privacy.epsilon=1000")
    config = tiny_config(pairs, tmp_path, *PRIVATE, *noise)
    plan = find_plan(config)
    bounds = Bounds(epsilon=plan.epsilon_after(2) + 1e-6, delta=plan.delta)
    monkeypatch.setattr("clients.private.owner_bounds", lambda *_: bounds)
    simulate(config)
    found = findings(tmp_path / "tiny")
    assert found["rounds"].details["ended_by_budget"] is True
    assert found["rounds"].counts["rounds"] == 2
    assert {one.verdict for one in found.values()} == {NOT_CONTRADICTED}


def find_plan(config: Any) -> Any:

    plan = plan_of(config)
    assert plan is not None
    return plan


def test_ledgers_that_other_runs_share_may_grow(pairs: Path, tmp_path: Path) -> None:
    shared = (
        *PRIVATE,
        "privacy.noise_multiplier=2",
        "privacy.epsilon=50",
        f'privacy.ledger_dir="{tmp_path}/all"',
    )
    config = tiny_config(pairs, tmp_path, *shared)
    simulate(replace(config, name="first"))
    simulate(replace(config, name="second"))
    for name in ("first", "second"):
        assert set(verdicts(tmp_path / name).values()) == {NOT_CONTRADICTED}
    first, second = (read_json(tmp_path / name / "privacy.json")["epsilon"] for name in ("first", "second"))
    assert second > first
    change(tmp_path / "second", epsilon=first, epsilon_by_client={f"client {one}": first for one in range(4)})
    assert verdicts(tmp_path / "second")["epsilon"] == CONTRADICTED


def test_a_deployment_whose_ledgers_are_elsewhere_counts_its_rounds(copied: Copied) -> None:
    run = copied("anchors")
    shutil.rmtree(run / "ledger")
    epsilon = read_json(run / "privacy.json")["epsilon"]
    change(run, epsilon_by_client={"any client": epsilon})
    assert set(verdicts(run).values()) == {NOT_CONTRADICTED}
    assert "own devices" in findings(run)["rounds"].text
    plan = find_target(run).plan
    assert plan is not None
    change(run, rounds=1, epsilon=plan.epsilon_after(1))
    assert verdicts(run)["rounds"] == CONTRADICTED
    assert verdicts(run)["epsilon"] == CONTRADICTED


def test_a_file_outside_a_run_folder_has_no_books(runs: Copied) -> None:
    target: Target = find_target(runs("anchors"))
    assert books_findings(replace(target, folder=None)) == []


def test_the_second_accountant_is_asked_where_it_can_answer() -> None:
    """PLD and PRV of ten full-batch releases at noise 10: the Gaussian mechanism with mu = 1 / sqrt(10)."""
    spent = [Spending(sampling_rate=1.0, noise_multiplier=10.0, count=10)]
    found = second_opinion(spent, delta=1e-5, accountant="prv", first=1.2)
    assert found == pytest.approx(1.19937, abs=0.02)
    assert second_opinion(spent, delta=1e-5, accountant="prv", first=1e3) is None
    assert second_opinion(spent, delta=1e-5, accountant="prv", first=float("inf")) is None
