"""What the page says of privacy: the guarantee where there is one, and plainly that there is none."""

from html import unescape
from pathlib import Path

import pytest

from edgecmd.config.reader import load_config, to_toml
from edgecmd.core.files import read_json, write_json, write_text_atomically
from edgecmd.privacy.statement import privacy_table
from edgecmd.report import write_report
from tests.edgecmd.report.test_page import Page, harmless
from tests.tiny_federation import plan_of


def folder_of(tmp_path: Path, *settings: str) -> Path:
    config = load_config(None, ["privacy.mechanism=anchors", *settings])
    write_text_atomically(tmp_path / "config.toml", to_toml(config))
    plan = plan_of(config)
    if plan is not None:
        spent = {f"client {index}": 1.25 * (index + 1) for index in range(3)}
        anchors = {"kind": "public", "num": 7, "sha256": "ab" * 32}
        table = privacy_table(plan, spent, rounds_done=40, anchors=anchors, ledger="this run")
        write_json(tmp_path / "privacy.json", table)
    line = '{"event": "round", "time": 1.0, "round": 1, "clients": 3, "loss": null, "num_examples": null}\n'
    write_text_atomically(tmp_path / "events.jsonl", line)
    return tmp_path


def test_the_guarantee_is_stated_with_all_that_belongs_to_it(tmp_path: Path) -> None:
    page = write_report(folder_of(tmp_path)).read_text(encoding="utf-8")
    assert "differentially private for each pair with epsilon 3.75 and delta 1e-05" in page
    assert "add or remove one pair of one client" in page
    assert "the largest" in page
    assert "pld (dp-accounting" in page
    assert "Not covered" in page
    assert "7 public, sha256 abababababababab" in page
    assert "No differential privacy" not in page
    assert (tmp_path / "figures" / "privacy.png").exists()


def test_deterministic_noise_is_called_not_private(tmp_path: Path) -> None:
    page = write_report(folder_of(tmp_path, "privacy.deterministic=true")).read_text(encoding="utf-8")
    assert "NOT PRIVATE" in page
    assert "differentially private for each" not in page
    assert "3.75" not in page


def test_without_a_mechanism_nothing_is_claimed(tmp_path: Path) -> None:
    page = write_report(folder_of(tmp_path, "privacy.mechanism=none")).read_text(encoding="utf-8")
    assert "No differential privacy was used" in page


def test_a_private_run_that_has_not_ended_claims_nothing(tmp_path: Path) -> None:
    folder = folder_of(tmp_path)
    (folder / "privacy.json").unlink()
    page = write_report(folder).read_text(encoding="utf-8")
    assert "nothing is claimed" in page
    assert "differentially private for each" not in page


@pytest.mark.parametrize("kind", ["", "privacy.deterministic=true"])
def test_the_page_stands_without_a_loss(kind: str, tmp_path: Path) -> None:
    page = write_report(folder_of(tmp_path, *([kind] if kind else []))).read_text(encoding="utf-8")
    assert "the loss is not known" in page


def test_under_privacy_the_page_says_at_its_top_whose_it_is(tmp_path: Path) -> None:
    page = unescape(write_report(folder_of(tmp_path)).read_text(encoding="utf-8"))
    top = page[: page.index("</header>")]
    assert "This page is for its owner only." in top
    assert "What may leave is the bundle in <code>export</code>" in top
    for text in ("Files that may leave", "Files for the owner only", "partition.json"):
        assert text in page
    assert "fitted on the labelled examples of the validation set, without noise" in page
    (tmp_path / "privacy.json").unlink()
    unfinished = unescape(write_report(tmp_path).read_text(encoding="utf-8"))
    assert "for its owner only" in unfinished[: unfinished.index("</header>")]


def test_without_privacy_nothing_is_said_of_leaving(tmp_path: Path) -> None:
    page = write_report(folder_of(tmp_path, "privacy.mechanism=none")).read_text(encoding="utf-8")
    assert "for its owner only" not in unescape(page)


def test_a_statement_of_an_older_edgecmd_is_shown_without_the_files(tmp_path: Path) -> None:
    folder = folder_of(tmp_path)
    table = read_json(folder / "privacy.json")
    for name in ("may_leave", "owner_only", "own_costs"):
        del table[name]
    write_json(folder / "privacy.json", table)
    assert "Files that may leave" not in write_report(folder).read_text(encoding="utf-8")


def test_devices_with_pairs_of_their_own_are_named_among_the_limits(tmp_path: Path) -> None:
    folder = folder_of(tmp_path)
    write_json(folder / "federation.json", {"runtime": "flower", "nodes": 3, "nodes_with_own_pairs": 3})
    page = write_report(folder).read_text(encoding="utf-8")
    assert "Devices trained on pairs of their own." in page
    assert "the concepts of pairs, labels and test are all different" not in page


def test_texts_of_a_statement_are_escaped(tmp_path: Path) -> None:
    folder = folder_of(tmp_path)
    table = read_json(folder / "privacy.json")
    evil = "<img src=x onerror=y> {{ run.name }} ' \" javascript:z"
    table |= dict.fromkeys(("statement", "unit", "relation", "against", "mechanism"), evil)
    table |= {name: [evil] for name in ("released", "not_covered", "own_costs")}
    table["owner_only"] = [{"file": evil, "holds": evil, "why": evil}]
    table["epsilon_by_client"] = {evil: 1.0}
    write_json(folder / "privacy.json", table)
    page = Page(write_report(folder).read_text(encoding="utf-8"))
    assert not page.all("img")
    assert harmless(page)
    assert page.text.count(evil) == 15
