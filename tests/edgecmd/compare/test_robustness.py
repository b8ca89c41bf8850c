"""Strategies under attack: which runs are made, what is refused, and what the tables say."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from edgecmd.config.schema import RunConfig
from edgecmd.core.errors import ConfigError
from edgecmd.core.files import read_json
from edgecmd.core.jobs import quiet
from edgecmd.experiments.robustness import attacked_runs
from edgecmd.experiments.robustness.attack_chart import robustness_png
from edgecmd.experiments.robustness.attack_tables import markdown, tables_of
from edgecmd.experiments.robustness.attacked_runs import measure_all
from edgecmd.experiments.robustness.cases import Asked, Case, Job, read_request
from tests import command_line
from tests.tiny_federation import TESTED, tiny_config, write_pairs

OPTIONS = {"strategies": "fedavg,fedmedian", "attacks": "sign-flip", "shares": "25", "drop_outs": ""}


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_pairs(tmp_path_factory.mktemp("pairs") / "pairs.npz")


def asked(config: RunConfig, *, num_seeds: int = 1, **changes: str) -> Asked:
    return read_request(config, num_seeds=num_seeds, num_jobs=1, **{**OPTIONS, **changes})


def clients(num: int, **changes: object) -> RunConfig:
    config = RunConfig()
    return replace(config, federation=replace(config.federation, num_clients=num, **changes))  # type: ignore[arg-type]


def test_every_case_is_made_once_and_the_honest_ones_first() -> None:
    found = asked(
        clients(20), attacks="sign-flip, backdoor", shares="10,30", drop_outs="50,10", strategies="krum"
    )
    assert found.cases == [
        Case(strategy="krum"),
        Case(strategy="krum", attack="sign-flip", attackers=2),
        Case(strategy="krum", attack="sign-flip", attackers=6),
        Case(strategy="krum", attack="backdoor", attackers=2),
        Case(strategy="krum", attack="backdoor", attackers=6),
        Case(strategy="fedavg"),
        Case(strategy="fedavg", drop_out=10),
        Case(strategy="fedavg", drop_out=50),
    ]
    assert len({one.name for one in found.cases}) == len(found.cases)
    only = asked(clients(20, strategy="fedmedian"), attacks="", drop_outs="10")
    assert only.cases == [Case(strategy="fedmedian"), Case(strategy="fedmedian", drop_out=10)]


def test_seeds_begin_with_that_of_the_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []

    def stop(work: Sequence[Job], *_: object, **__: object) -> None:
        seen.extend(job.config.seed for job in work)
        raise KeyboardInterrupt

    monkeypatch.setattr(attacked_runs.jobs, "run_jobs", stop)
    wanted = asked(replace(clients(4), seed=5), strategies="fedavg", num_seeds=3)
    with pytest.raises(KeyboardInterrupt):
        measure_all(wanted, TESTED, tell=quiet)
    assert sorted(set(seen)) == [5, 6, 7]


def test_shares_that_come_to_the_same_clients_are_one() -> None:
    assert asked(clients(4), shares="20,25,30").attackers == (1,)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"attacks": "sign-flop"}, "--attacks='sign-flop' is unknown.*Did you mean 'sign-flip'"),
        ({"attacks": "backdoor:much"}, "number above 0, at most 1e.12, as in backdoor:2"),
        ({"attacks": "", "drop_outs": " , "}, "--attacks and --drop-outs are both empty"),
        ({"strategies": ","}, "--strategies is empty"),
        ({"strategies": "fedavg,median"}, "federation.strategy='median' is unknown.*fedmedian"),
        ({"strategies": "fedprox"}, "distill.proximal_mu above 0"),
        ({"shares": ""}, "--shares is empty"),
        ({"shares": "10,x"}, "--shares has 'x'; write whole percentages from 1 to 99"),
        ({"shares": "0"}, "--shares has '0'"),
        ({"shares": "12.5"}, "--shares has '12.5'"),
        ({"shares": "4"}, "of federation.num_clients=10 that is 0.4, and 1 to 9 clients can attack"),
        ({"shares": "99"}, "that is 9.9, and 1 to 9"),
        ({"drop_outs": "100"}, "--drop-outs has '100'"),
        ({"drop_outs": "1" * 5000}, "--drop-outs has"),
        ({"drop_outs": "٣"}, "--drop-outs has"),
    ],
)
def test_what_makes_no_sense_is_refused_with_the_way_out(changes: dict[str, str], sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        asked(clients(10), **changes)


def test_under_privacy_there_is_nothing_to_compare() -> None:
    config = RunConfig()
    private = replace(config, privacy=replace(config.privacy, mechanism="client"))
    with pytest.raises(ConfigError, match="privacy.mechanism='client'.*Set privacy.mechanism=none"):
        asked(private)


def test_a_study_is_made_once_and_read_then(
    pairs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The flip of one of four clients; a lie too large, which screening drops; nine of ten that drop out."""
    quick = ("federation.num_rounds=1", "evaluate.num_labels=2", "evaluate.num_draws=1")
    config = tiny_config(pairs, tmp_path, *quick)
    attacks = "sign-flip,scaled-update:1e12,backdoor"
    wanted = asked(config, strategies="fedavg", attacks=attacks, drop_outs="90")
    lines: list[str] = []
    table = measure_all(wanted, TESTED, tell=lines.append)
    assert len(lines) == len(wanted.cases) == 5
    folder = tmp_path / "tiny"
    assert read_json(folder / "robustness.json") == table
    assert (folder / "robustness.md").read_text(encoding="utf-8") == markdown(table)
    assert (folder / "robustness.png").read_bytes() == robustness_png(table)
    results = {one.name: read_json(folder / "seed-0" / f"{one.name}.json") for one in wanted.cases}
    lies = results["fedavg-scaled-update-1e+12-1"]["dropped"]["attackers"]
    assert sum(lies.values()) == 1
    assert "beyond" in next(iter(lies)) or "NaN or infinity" in next(iter(lies))
    assert results["fedavg-sign-flip-1"]["dropped"] == {"attackers": {}, "others": {}}
    assert results["fedavg-sign-flip-1"]["metrics"] != results["fedavg"]["metrics"]
    assert "usable" in results["fedavg-drop-out-90"]["ended"]
    (ended,) = [row for row in table["rows"] if row["drop_out"] == 90]
    assert (ended["ended"], ended["metrics"]) == (1, {})
    again = measure_all(wanted, TESTED, tell=quiet)
    assert again == table
    monkeypatch.setattr(attacked_runs, "measure", lambda *_: pytest.fail("made again"))
    assert measure_all(wanted, TESTED, tell=quiet) == table
    with pytest.raises(ConfigError, match="made with other settings"):
        measure_all(asked(replace(config, distill=replace(config.distill, augment=0.0))), TESTED, tell=quiet)


def test_the_tables_hold_means_and_intervals_of_the_seeds() -> None:
    """R@1 of 0.1, 0.2 and 0.3: mean 0.2, half the interval 4.303 x 0.1 / sqrt(3) = 0.248, cut at 0."""
    wanted = asked(clients(10), strategies="fedavg", attacks="backdoor", shares="20", num_seeds=3)
    work = [wanted.job(case, seed) for seed in range(3) for case in wanted.cases]
    found = [
        {
            "metrics": {"recall@1": 0.1 * (1 + job.config.seed), "attack_success": 0.5, "linear_10": 0.4},
            "ended": "",
            "dropped": {"attackers": {"late": 2}, "others": {}},
        }
        for job in work
    ]
    table = tables_of(wanted, work, found)
    assert table["shown"] == ["recall@1", "linear_10"]
    text = markdown(table)
    assert "| fedavg | 2 | 0.200 [0.000, 0.448] | 0.400 | 0.500 | 6 | 0 |" in text
    assert "| strategy | attackers | R@1 | probe k=10 | attack-success |" in text


def test_the_command_refuses_before_it_makes_anything(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert command_line.run(monkeypatch, "robustness", "--shares", "200") == ConfigError.exit_code
    assert list(tmp_path.iterdir()) == []
