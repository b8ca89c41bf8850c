"""Findings, their file, and what is recognised as a target."""

import json
from pathlib import Path

import pytest

from edgecmd.audits.audit_file import read_findings, rows, write_findings
from edgecmd.audits.finding import (
    CONTRADICTED,
    INDICATOR,
    NOT_CONTRADICTED,
    ContradictedError,
    Finding,
    epsilon_verdict,
    overall,
)
from edgecmd.audits.target import trained_student
from edgecmd.config.reader import load_config, to_toml
from edgecmd.config.schema import RunConfig
from edgecmd.core.errors import DataError, PrivacyError
from edgecmd.core.files import write_json, write_text_atomically
from tests.tiny_federation import find_target


def finding(**changes: object) -> Finding:
    values: dict[str, object] = {
        "level": "one-run",
        "name": "hub canaries",
        "attacker": "server",
        "verdict": NOT_CONTRADICTED,
        "text": "Not contradicted.",
        "quantity": "epsilon",
        "claimed": 8.0,
        "measured": 0.5,
        "ceiling": 4.5,
    }
    return Finding(**{**values, **changes})


@pytest.mark.parametrize("change", [{"level": "l9"}, {"attacker": "nobody"}, {"verdict": "fine"}])
def test_words_outside_the_tables_are_refused(change: dict[str, str]) -> None:
    with pytest.raises(PrivacyError, match="allowed"):
        finding(**change)


def test_a_risk_indicator_never_contradicts() -> None:
    with pytest.raises(PrivacyError, match="cannot contradict"):
        finding(level="risk", verdict=CONTRADICTED)


@pytest.mark.parametrize(
    ("lower", "claimed", "verdict", "words"),
    [
        (3.89, 0.993, CONTRADICTED, ("3.89", "0.993")),
        (0.0, 0.993, NOT_CONTRADICTED, ("Not contradicted", "at most epsilon = 4.39")),
        (1.0, 1.0, NOT_CONTRADICTED, ("Not contradicted",)),
        (2.0, None, INDICATOR, ("Nothing was claimed",)),
    ],
)
def test_a_verdict_says_its_numbers(
    lower: float, claimed: float | None, verdict: str, words: tuple[str, ...]
) -> None:
    found, text = epsilon_verdict(lower=lower, claimed=claimed, ceiling=4.39)
    assert found == verdict
    assert all(word in text for word in words)


def test_one_contradiction_decides() -> None:
    sound, wrong, guess = (finding(verdict=one) for one in (NOT_CONTRADICTED, CONTRADICTED, INDICATOR))
    assert overall([sound, wrong, guess]) == CONTRADICTED
    assert overall([guess, sound]) == NOT_CONTRADICTED
    assert overall([]) == INDICATOR
    assert ContradictedError("x").exit_code == 3


def test_a_repeated_audit_replaces_its_finding_and_no_other(tmp_path: Path) -> None:
    path = tmp_path / "audit.json"
    write_findings(path, [finding(measured=0.5), finding(attacker="device")], about={"target": {"name": "x"}})
    together = write_findings(path, [finding(measured=0.7), finding(level="check", name="purity")], about={})
    assert [(one.level, one.attacker, one.measured) for one in together] == [
        ("check", "server", 0.5),
        ("one-run", "device", 0.5),
        ("one-run", "server", 0.7),
    ]
    assert read_findings(path) == together
    assert json.loads(path.read_text())["verdict"] == NOT_CONTRADICTED


def test_numbers_that_json_cannot_hold_become_none(tmp_path: Path) -> None:
    path = tmp_path / "audit.json"
    write_findings(path, [finding(measured=float("inf"), claimed=None)], about={})
    assert read_findings(path)[0].measured is None
    assert rows(read_findings(path))[0][4:6] == ["-", "-"]


@pytest.mark.parametrize("content", ["{}", '{"version": 7}', '{"version": 1, "findings": [{"a": 1}]}', "no"])
def test_another_file_is_refused(tmp_path: Path, content: str) -> None:
    path = tmp_path / "audit.json"
    path.write_text(content)
    with pytest.raises(DataError, match=r"audit\.json"):
        read_findings(path)


def run_folder(path: Path, **privacy: object) -> Path:
    write_text_atomically(path / "config.toml", to_toml(load_config(None, ["privacy.mechanism=anchors"])))
    if privacy:
        write_json(path / "privacy.json", privacy)
    return path


def test_a_run_folder_is_found_from_what_lies_in_it(tmp_path: Path) -> None:
    folder = run_folder(tmp_path / "one", private=True, epsilon=7.9, delta=1e-6)
    student, bundle = folder / "student.safetensors", folder / "export"
    bundle.mkdir()
    student.touch()
    (bundle / "student.onnx").touch()
    whole = find_target(folder)
    assert (whole.kind, whole.student_file, whole.onnx_file) == (
        "run folder",
        student,
        bundle / "student.onnx",
    )
    assert (whole.claimed_epsilon, whole.delta) == (7.9, 1e-6)
    for path, kind in (
        (student, "student"),
        (bundle, "exported file"),
        (bundle / "student.onnx", "exported file"),
    ):
        found = find_target(path)
        assert (found.kind, found.claimed_epsilon, found.record) == (kind, 7.9, found.folder / "audit.json")
        assert str(tmp_path) not in json.dumps(found.about())


def test_a_checkpoint_is_found_as_a_folder_and_as_its_weights(tmp_path: Path) -> None:
    folder = run_folder(tmp_path / "one", private=True, epsilon=7.9)
    weights = folder / "checkpoints" / "round-000003" / "student.safetensors"
    weights.parent.mkdir(parents=True)
    weights.write_bytes(b"no weights")
    (weights.parent / "state.json").write_text("{}")
    for path in (weights, weights.parent):
        found = find_target(path)
        assert (found.kind, found.student_file, found.onnx_file) == ("checkpoint", weights, None)
        assert found.claimed_epsilon == 7.9
        with pytest.raises(DataError, match=r"ws-200k.*another file"):
            trained_student(found)


def test_a_run_that_is_not_private_claims_nothing(tmp_path: Path) -> None:
    assert find_target(run_folder(tmp_path / "a", private=False, epsilon=None)).claimed_epsilon is None
    assert find_target(run_folder(tmp_path / "b")).claimed_epsilon is None


def test_a_lonely_file_needs_settings(tmp_path: Path) -> None:
    path = tmp_path / "student.onnx"
    path.touch()
    with pytest.raises(DataError, match="--config or --set"):
        find_target(path)
    assert find_target(path, config=RunConfig()).record == tmp_path / "audit.json"


@pytest.mark.parametrize("name", ["nothing", "text.txt"])
def test_what_is_no_target_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "text.txt").touch()
    with pytest.raises(DataError, match=name):
        find_target(tmp_path / name)
