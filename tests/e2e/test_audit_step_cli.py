"""``edgecmd audit step`` and ``edgecmd audit one-run`` from the command line, on a finished tiny run."""

import json
from pathlib import Path

import pytest

from edgecmd.config.reader import load_config
from edgecmd.core.errors import ConfigError, PrivacyError
from tests.command_line import edgecmd
from tests.quick import brief_checks
from tests.tiny_federation import settings_of, simulate, tiny_config


@pytest.fixture(scope="module")
def finished(pairs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("audited")
    simulate(tiny_config(pairs, folder, "privacy.mechanism=anchors", "federation.num_rounds=2"))
    return folder / "tiny"


def test_both_levels_are_kept_in_the_run_folder(finished: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # How many it takes to see a short seed is told by the tests of the audit itself.
    monkeypatch.setattr("edgecmd.audits.step.random_source.NUM_FRESH", 1000)
    monkeypatch.setattr("edgecmd.audits.step.sampling_coins.SMALL_STEPS", 32)
    before = sorted(path.name for path in finished.iterdir() if path.name != "audit.json")
    done = edgecmd("audit", "step", str(finished), "--draws", "200", folder=finished.parent)
    assert done.returncode == 0, done.stderr
    assert "The stated noise has" in done.stdout
    words = ("--canaries", "60", "--rounds", "1", "--repeats", "2", "--seed", "5", "--json")
    done = edgecmd("audit", "one-run", str(finished), *words, folder=finished.parent)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert {one["attacker"] for one in found} == {"steps", "server", "client", "device"}
    assert all(one["counts"]["repeats"] == 2 and one["seeds"] == [5, 6] for one in found)
    table = json.loads((finished / "audit.json").read_text())
    assert {one["level"] for one in table["findings"]} == {"step", "one-run"}
    assert table["verdict"] == "not contradicted"
    assert sorted(path.name for path in finished.iterdir() if path.name != "audit.json") == before


def test_mistakes_are_told_in_a_sentence(finished: Path) -> None:
    for words, told in (
        (("audit", "one-run", str(finished), "--rounds", "9"), "--rounds=9 is outside 1..2"),
        (("audit", "one-run", str(finished), "--canaries", "3"), "--canaries=3 is too few"),
    ):
        done = edgecmd(*words, folder=finished.parent)
        assert done.returncode != 0
        assert told in done.stderr.replace("\n", " ")
        assert "Traceback" not in done.stderr


def test_the_server_s_noise_is_audited_with_a_ledger_of_its_own(
    pairs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from edgecmd.audits.finding import CONTRADICTED, NOT_CONTRADICTED
    from edgecmd.experiments.audit_ladder import audit_level
    from server.privacy import client_privacy
    from tests.tiny_federation import find_target

    config = load_config(None, [*settings_of(pairs, tmp_path), "privacy.mechanism=client"])
    simulate(config)
    ledgers = [path.read_bytes() for path in sorted((tmp_path / "tiny" / "ledger").iterdir())]
    target = find_target(tmp_path / "tiny")
    (sound,) = audit_level(target, "step")
    assert (sound.verdict, sound.attacker) == (NOT_CONTRADICTED, "client"), sound.text
    assert [path.read_bytes() for path in sorted((tmp_path / "tiny" / "ledger").iterdir())] == ledgers
    real = client_privacy.normal
    monkeypatch.setattr(client_privacy, "normal", lambda source, count: 0.5 * real(source, count))
    (half,) = audit_level(target, "step")
    assert half.verdict == CONTRADICTED
    assert [one.name for one in audit_level(target, "one-run")] == ["not audited"]


def test_a_run_without_privacy_has_no_step_to_audit(pairs: Path, tmp_path: Path) -> None:
    from edgecmd.experiments.audit_ladder import audit, audit_level
    from tests.tiny_federation import find_target

    simulate(tiny_config(pairs, tmp_path, "federation.num_rounds=1"))
    target = find_target(tmp_path / "tiny")
    with pytest.raises(ConfigError, match="levels names .step., which needs a run with a privacy"):
        audit(target, levels=["step"])
    with pytest.raises(ConfigError, match="levels names 'step'"):
        audit(target, levels=["check", "step"], pass_over=False)
    assert not (tmp_path / "tiny" / "audit.json").exists()
    with brief_checks():
        assert {one.level for one in audit(target, levels=["step", "check"])} == {"check"}
    with pytest.raises(PrivacyError, match=r"privacy\.mechanism='none'"):
        audit_level(target, "step")
