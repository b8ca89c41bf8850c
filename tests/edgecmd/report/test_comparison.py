"""Runs on one page: what differs, by how much, and what is refused."""

import json
import shutil
from pathlib import Path

import pytest
from scipy import stats

from edgecmd.core.errors import ConfigError, DataError
from edgecmd.core.files import read_json, write_json, write_text_atomically
from edgecmd.core.statistics import newcombe
from edgecmd.report import write_comparison
from tests.command_line import edgecmd
from tests.edgecmd.report.test_page import EVIL, Page, harmless, spelt_out
from tests.edgecmd.report.test_page import section as text_of
from tests.edgecmd.report.test_privacy_section import folder_of


@pytest.fixture
def second(finished: Path) -> Path:
    """`finished` with another temperature, twenty rounds and a worse student."""
    folder = shutil.copytree(finished, finished.parent / "cooler")
    settings = (folder / "config.toml").read_text().replace("\ntemperature = 0.1", "\ntemperature = 0.2", 1)
    write_text_atomically(folder / "config.toml", settings)
    lines = (folder / "events.jsonl").read_text().splitlines()[:20]
    write_text_atomically(folder / "events.jsonl", "\n".join(lines) + "\n")
    numbers = read_json(folder / "evaluation.json")
    numbers["student"]["retrieval"]["recall@1"] = 0.35
    write_json(folder / "evaluation.json", numbers)
    return folder


def page_of(*folders: Path) -> str:
    return write_comparison(folders, folders[0].parent / "comparison.html").read_text(encoding="utf-8")


def test_scores_stand_beside_each_other_with_their_difference(finished: Path, second: Path) -> None:
    source = page_of(finished, second)
    low, high = newcombe(0.35, 0.4123, num_items=786)
    assert f"R@1 0.412 0.350 -0.062 [{low:+.3f}, {high:+.3f}]" in text_of(source, "results")
    # The student from scratch and other baselines are no part of it.
    assert "scratch" not in source
    assert "R@1: demo 0.412, cooler 0.350. 1 setting differs." in Page(source).text


def test_where_labels_were_drawn_the_difference_is_that_of_the_draws(finished: Path, second: Path) -> None:
    """SciPy's paired test; draws that differ alike have no interval, nor have other draws and other items."""
    numbers = read_json(second / "evaluation.json")
    rows = numbers["student"]["few_labels"]["group"]["linear"]
    own, gaps = [rows[key]["values"] for key in ("5", "10")], ([0.02, 0.05, 0.01, 0.04, 0.03], [0.1] * 5)
    for key, values, gap in zip(("5", "10"), own, gaps):
        rows[key]["values"] = [one - by for one, by in zip(values, gap)]
        rows[key]["mean"] = sum(rows[key]["values"]) / 5
    write_json(second / "evaluation.json", numbers)
    text = text_of(page_of(finished, second), "results")
    half = stats.ttest_rel(rows["5"]["values"], own[0]).confidence_interval(0.95).high + 0.03
    assert f" -0.030 ± {half:.3f} probe 10 " in text
    assert " -0.100 probe 30 " in text
    settings = (second / "config.toml").read_text()
    (second / "config.toml").write_text(settings.replace("\nseed = 0", "\nseed = 1", 1))
    assert " -0.030 probe 10 " in text_of(page_of(finished, second), "results")
    (second / "config.toml").write_text(settings)
    numbers["student"]["few_labels"]["group"]["num_test"] = 700
    write_json(second / "evaluation.json", numbers)
    assert " -0.030 probe 10 " in text_of(page_of(finished, second), "results")


def test_settings_that_differ_are_listed_and_the_others_counted(finished: Path, second: Path) -> None:
    text = text_of(page_of(finished, second), "settings")
    assert "setting demo cooler" in text
    assert text.count("temperature") == 1
    assert "0.1 0.2" in text
    assert "other settings are equal." in text
    same = shutil.copytree(finished, finished.parent / "same")
    assert "settings are equal." in text_of(page_of(finished, same), "settings")


def test_both_losses_are_in_one_chart(finished: Path, second: Path) -> None:
    svg = Page(page_of(finished, second)).all("svg")
    assert [one["aria-label"][:40] for one in svg] == ["Loss by round: demo: 3.948 after round 1"]
    assert "cooler: 3.948 after round 1, 2.427 after round 20." in svg[0]["aria-label"]


def test_runs_on_other_data_have_no_difference(finished: Path, second: Path) -> None:
    settings = (second / "config.toml").read_text().replace("test_fraction = 0.2", "test_fraction = 0.3")
    write_text_atomically(second / "config.toml", settings)
    source = page_of(finished, second)
    assert "not tested on the same data, so no difference is shown" in text_of(source, "results")
    assert "R@1 0.412 0.350 R@5" in text_of(source, "results")


def test_privacy_of_each_run(finished: Path, tmp_path: Path) -> None:
    (tmp_path / "private").mkdir()
    private = folder_of(tmp_path / "private")
    source = page_of(finished, private)
    text = text_of(source, "privacy")
    assert "demo: No differential privacy was used." in text
    assert "private: What was released is differentially private for each pair with epsilon 3.75" in text
    assert "budget (epsilon) \u2013 8" in text
    assert "This page is for its owner only." in source
    (private / "privacy.json").unlink()
    assert "private: The run has not ended, and nothing is claimed." in text_of(
        page_of(finished, private), "privacy"
    )


def test_runs_that_nobody_evaluated(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        folder_of(tmp_path / name)
    source = page_of(tmp_path / "a", tmp_path / "b")
    assert "No run is evaluated yet. 0 settings differ." in Page(source).text
    assert "No run reports a loss" in text_of(source, "training")


def test_three_runs_and_one_name_in_two_folders(finished: Path, second: Path, tmp_path: Path) -> None:
    twin = shutil.copytree(finished, tmp_path / "elsewhere" / "demo")
    source = page_of(finished, second, twin)
    headers = [f"cooler \u2212 {finished}", f"{twin} \u2212 {finished}"]
    assert all(one in Page(source).text for one in headers)


@pytest.mark.parametrize("evil", EVIL)
def test_texts_of_the_runs_are_escaped(finished: Path, second: Path, evil: str) -> None:
    folder = second.rename(second.parent / evil.replace("/", "_"))
    numbers = read_json(folder / "evaluation.json")
    numbers["student"]["fault"] = evil
    write_json(folder / "evaluation.json", numbers)
    settings = (folder / "config.toml").read_text().replace('loss = "auto"', f"loss = {json.dumps(evil)}")
    write_text_atomically(folder / "config.toml", settings)
    source = page_of(finished, folder)
    assert source.count("<script") == source.count("</script") == 1
    page = Page(source)
    assert page.open == []
    assert harmless(page)
    assert spelt_out(folder.name) in source
    assert page.text.count(" ".join(evil.replace("`", "").split())) >= 2


def test_equal_runs_give_equal_bytes(finished: Path, second: Path) -> None:
    assert page_of(finished, second) == page_of(finished, second)


def test_what_cannot_be_compared_is_named_and_writes_nothing(finished: Path, second: Path) -> None:
    out = finished.parent / "comparison.html"
    out.write_text("as it was")
    with pytest.raises(ConfigError, match="demo is given twice"):
        write_comparison([finished, second, finished], out)
    with pytest.raises(ConfigError, match="1 run cannot be compared. Give 2 to 8 folders."):
        write_comparison([finished], out)
    with pytest.raises(ConfigError, match="9 runs cannot be compared"):
        write_comparison([finished] * 9, out)
    with pytest.raises(ConfigError, match=r"config\.toml is no page.*ends in \.html"):
        write_comparison([finished, second], finished / "config.toml")
    (second / "evaluation.json").write_text("[1")
    with pytest.raises(DataError, match=r"cooler/evaluation\.json"):
        write_comparison([finished, second], out)
    (second / "evaluation.json").write_text('{"student": {"retrieval": 3}}')
    with pytest.raises(DataError, match="not as edgecmd writes it"):
        write_comparison([finished, second], out)
    assert out.read_text() == "as it was"


def test_the_command(finished: Path, second: Path) -> None:
    folder = finished.parent
    done = edgecmd("report", finished, second, folder=folder)
    assert done.stdout == f"Comparison: {folder / 'comparison.html'}\n"
    assert edgecmd("report", "demo", "cooler", "--out", "new/a.html", folder=folder).returncode == 0
    assert (folder / "new" / "a.html").read_bytes() == (folder / "comparison.html").read_bytes()
    for words, code, told in (
        (("demo", "--out", "a.html"), 2, "1 run cannot be compared. Give 2 to 8 folders."),
        (("demo", "nowhere"), 5, "nowhere is not a run folder"),
        (("demo", "cooler", "--out", "new"), 2, "is no page"),
        (("demo", "cooler", "--out", "demo/config.toml/a.html"), 8, "config.toml"),
    ):
        done = edgecmd("report", *words, folder=folder)
        assert (done.returncode, done.stderr.count("\n")) == (code, 1), done.stderr
        assert told in done.stderr
