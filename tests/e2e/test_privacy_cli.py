"""Privacy from the command line: one line turns it on, and what is not earned is refused."""

import json
from pathlib import Path

import pytest

from tests.command_line import edgecmd
from tests.tiny_federation import settings_of


def sets(pairs: Path, folder: Path, *more: str) -> list[str]:
    return [word for one in (*settings_of(pairs, folder), *more) for word in ("--set", one)]


@pytest.fixture(scope="module")
def finished(pairs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("private")
    done = edgecmd("run", "--no-baselines", *sets(pairs, folder, "privacy.mechanism=anchors"), folder=folder)
    assert done.returncode == 0, done.stderr
    assert "epsilon" in done.stdout
    assert "loss 0" not in done.stdout
    return folder / "tiny"


def test_one_line_gives_a_statement_a_report_and_a_bundle(finished: Path) -> None:
    table = json.loads((finished / "privacy.json").read_text())
    assert 7.9 < table["epsilon"] <= 8.0
    assert set(table["epsilon_by_client"]) == {f"client {index}" for index in range(4)}
    assert any("baselines" in one and "--no-baselines" in one for one in table["not_covered"])
    assert "differentially private for each pair" in (finished / "report.html").read_text()
    assert (finished / "export" / "student.onnx").exists()


def test_a_finished_run_is_not_spent_again(finished: Path) -> None:
    before = [path.read_bytes() for path in sorted((finished / "ledger").iterdir())]
    done = edgecmd("resume", str(finished), folder=finished.parent)
    assert done.returncode == 0, done.stderr
    assert [path.read_bytes() for path in sorted((finished / "ledger").iterdir())] == before


def test_the_plan_is_shown_and_nothing_runs(pairs: Path, tmp_path: Path) -> None:
    words = sets(pairs, tmp_path, "privacy.mechanism=groups", "privacy.epsilon=3")
    done = edgecmd("run", "--dry-run", *words, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    for text in ("of 3, delta 1e-05", "1, 2", "Poisson", "pld", "public", "16 "):
        assert text in done.stdout
    assert not (tmp_path / "tiny").exists()


@pytest.mark.parametrize(
    ("setting", "code", "text"),
    [
        (["privacy.mechanism=anchors", "distill.loss=cmc"], 7, "508 times"),
        (["privacy.mechanism=anchors", "privacy.accountant=gdp"], 7, "not a bound"),
        (["privacy.mechanism=anchros"], 2, "Did you mean 'anchors'"),
        (["privacy.mechanism=anchors", "privacy.epsilon=-1"], 2, "privacy.epsilon"),
        (["privacy.mechanism=anchors", "privacy.noise_multiplier=0.5"], 7, "above privacy.epsilon=8"),
    ],
)
def test_what_is_not_earned_is_refused(
    setting: list[str], code: int, text: str, pairs: Path, tmp_path: Path
) -> None:
    done = edgecmd("run", *sets(pairs, tmp_path, *setting), folder=tmp_path)
    assert done.returncode == code
    assert text in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "tiny").exists()


def test_compare_takes_private_methods(pairs: Path, tmp_path: Path) -> None:
    words = sets(pairs, tmp_path, "federation.num_rounds=1")
    done = edgecmd("compare", "--methods", "anchors@4,cosine", "--seeds", "2", *words, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "anchors@4" in done.stdout
    wrong = edgecmd("compare", "--methods", "anchors@x", *words, folder=tmp_path)
    assert wrong.returncode == 2
    assert "anchors@8" in wrong.stderr


def test_the_bench_prints_ratios(tmp_path: Path) -> None:
    words = [
        "--set",
        "data.image_size=16",
        "--set",
        "distill.batch_size=8",
        "--set",
        "student.architecture=ws-50k",
    ]
    done = edgecmd("bench", "privacy", "--repeats", "1", "--json", *words, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["size"] == "16 x 16 pixels, 1 channel"
    assert [one["name"] for one in found["engines"]][:3] == ["vmap", "opacus", "opacus-ghost"]
    assert all(one["ratio_median"] > 0 for one in found["engines"])
