"""``edgecmd compare`` as a user types it: presets, federations, tuning, an interruption, bad input."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from test_cli import run, settings_file  # noqa: F401 - a fixture

from edgecmd.catalogue.data_sets import DATA_SETS, Preset
from edgecmd.config.assemble import Assembly
from edgecmd.config.schema import RunConfig
from edgecmd.core.jobs import quiet
from edgecmd.experiments.compare import jobs as compare_jobs
from edgecmd.experiments.compare.jobs import Job
from edgecmd.experiments.presets import FORMS, Form


@pytest.fixture
def tiny_pair(monkeypatch: pytest.MonkeyPatch, tiny: RunConfig) -> list[str]:
    """The tiny data as a preset, and what a user adds to write it elsewhere."""
    data = (f'data.path="{tiny.data.path}"', "data.image_size=16", "data.strict=false")
    steps = ("federation.num_clients=2", "federation.num_rounds=1", "federation.local_steps=2")
    form = (
        *("student.architecture=ws-50k", "distill.batch_size=8", "distill.num_anchors=16"),
        *(*steps, "evaluate.num_labels=1,0", "evaluate.num_draws=2", "evaluate.every_rounds=0"),
        f'teacher.path="{tiny.teacher.path}"',
    )
    tiny_form = Form(fast=form, full=form, headline="linear_1", tuned_labels=(1,))
    row = replace(DATA_SETS["folder"], preset=Preset(compared=data, form="tiny"))
    monkeypatch.setitem(FORMS, "tiny", tiny_form)
    monkeypatch.setitem(DATA_SETS, "tiny", row)
    monkeypatch.setattr("edgecmd.evaluation.finetune.NUM_STEPS", 3)
    return ["compare", "--pair", "tiny", "--fast", "--set", f'out="{tiny.out}"']


def test_a_preset_tunes_each_method_alike_and_writes_a_table_a_federation(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tiny_pair: list[str],
    tiny: RunConfig,
) -> None:
    words = [*tiny_pair, "--methods", "cmc,l2,supervised,teacher", "--seeds", "2"]
    assert run(monkeypatch, *words, "--federation", "iid:2,central") == 0
    out = capsys.readouterr().out
    assert "Time for the remaining" in out
    assert "Highest mean of a label-free method at probe k=1" in out
    assert "too few to rank methods" in out
    folder = Path(tiny.out) / "tiny-fast"
    for name in ("iid-2", "central"):
        found = json.loads((folder / name / "compare.json").read_text())
        assert set(found["about"]["rates"]) == {"cmc", "l2", "supervised"}
        grid = sorted(path.name for path in (folder / name / "seed-0").glob("l2-lr*.json"))
        assert grid == ["l2-lr0.003.json", "l2-lr0.01.json", "l2-lr0.03.json"]
        assert len(list((folder / name / "seed-1").glob("l2-lr*.json"))) == 1
        assert (folder / name / "compare.png").read_bytes()[:4] == b"\x89PNG"
        assert set(found["verdict"]["ours"]) == {"cmc"}
        assert "finetune_1" in found["summary"]["l2"]
    # Methods that no federation takes part in are measured once.
    assert len(list((folder / "seed-0").glob("supervised-lr*.json"))) == 3
    assert not list((folder / "central" / "seed-0").glob("supervised*"))
    text = (folder / "compare.md").read_text()
    assert text.count("| supervised |") == 2
    assert text.index("### 2 clients, iid") < text.index("### trained in one place")
    job = json.loads((folder / "iid-2" / "seed-0" / "cmc-lr0.01.json").read_text())
    assert job["bytes"] > 0
    assert job["validation"] is not None


def test_temperatures_are_chosen_for_every_method_alike_and_told(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tiny_pair: list[str],
    tiny: RunConfig,
) -> None:
    words = [*tiny_pair, "--methods", "dark,l2", "--seeds", "1", "--temperatures", "0.05,0.2"]
    words += ["--set", "seed=3"]
    assert run(monkeypatch, *words) == 0, capsys.readouterr().err
    folder = Path(tiny.out) / "tiny-fast"
    for method, temperatures in (("dark", {0.05, 0.2}), ("l2", {0.0})):
        tries = [json.loads(path.read_text()) for path in (folder / "seed-3").glob(f"{method}-*.json")]
        assert len(tries) == 6
        facts = json.loads((folder / "compare.json").read_text())["about"]
        rows = facts["trials"][method]
        assert {row["temperature"] for row in rows} == temperatures
        assert sorted(row["validation"] for row in rows) == sorted(one["validation"] for one in tries)
        best = max(row["validation"] for row in rows)
        chosen = facts["rates"][method], facts["temperatures"].get(method, 0.0)
        assert {"rate": chosen[0], "temperature": chosen[1], "validation": best} in rows
    text = (folder / "compare.md").read_text()
    assert "| rate | T |" in text
    assert "together with T, the temperature of the loss, of 0.05, 0.2 for every method alike" in text
    assert "Each method made 6 trials; one without a temperature tried 6 rates." in text


def test_private_methods_are_tuned_too_and_may_name_their_loss(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tiny_pair: list[str],
    tiny: RunConfig,
) -> None:
    words = [*tiny_pair, "--methods", "anchors:cmd-anchored@8,l2", "--seeds", "1"]
    assert run(monkeypatch, *words, "--rates", "0.3,0.1", "--choose-by", "recall@1") == 0, (
        capsys.readouterr().err
    )
    folder = Path(tiny.out) / "tiny-fast"
    for method in ("anchors-cmd-anchored@8", "l2"):
        grid = {
            path.name: json.loads(path.read_text()) for path in (folder / "seed-0").glob(f"{method}*.json")
        }
        assert set(grid) == {f"{method}-lr0.1.json", f"{method}-lr0.3.json"}
        for one in grid.values():
            assert one["validation"] == one["table"]["retrieval_validation"]["recall@1"]
    told = json.loads((folder / "seed-0" / "anchors-cmd-anchored@8-lr0.1" / "privacy.json").read_text())
    assert (told["mechanism"], told["loss"], told["private"]) == ("anchors", "cmd-anchored", True)
    facts = json.loads((folder / "compare.json").read_text())["about"]
    assert facts["grid"] == [0.1, 0.3]
    assert set(facts["rates"]) == {"anchors:cmd-anchored@8", "l2"}
    assert "(R@1 within the split)" in (folder / "compare.md").read_text()


def test_after_an_interruption_the_same_command_goes_on(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tiny_pair: list[str],
    tiny: RunConfig,
) -> None:
    words = [*tiny_pair, "--methods", "l2,untrained,teacher", "--seeds", "1", "--no-tune"]
    whole = compare_jobs.measure

    def stop_at_the_second(job: Job, assembly: Assembly) -> object:
        if job.method == "untrained":
            raise KeyboardInterrupt
        return whole(job, assembly)

    monkeypatch.setattr(compare_jobs, "measure", stop_at_the_second)
    assert run(monkeypatch, *words) == 130
    assert "the same command continues" in capsys.readouterr().out
    kept = Path(tiny.out) / "tiny-fast" / "seed-0" / "l2.json"
    before = kept.stat().st_mtime_ns
    monkeypatch.setattr(compare_jobs, "measure", whole)
    assert run(monkeypatch, *words) == 0
    assert "1 of 3 jobs are already finished" in capsys.readouterr().out
    assert kept.stat().st_mtime_ns == before


def test_local_steps_against_rounds_make_as_many_steps(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    settings_file: Path,  # noqa: F811
    tiny: RunConfig,
) -> None:
    words = ["compare", "--config", str(settings_file), "--methods", "l2", "--seeds", "1"]
    assert run(monkeypatch, *words, "--work", "4", "--local-steps", "1,4", "--federation", "iid:2") == 0
    assert "megabytes" in capsys.readouterr().out
    found = json.loads((Path(tiny.out) / "tiny" / "iid-2-work" / "compare.json").read_text())
    sent = {label: row["megabytes"]["mean"] for label, row in found["summary"].items()}
    assert sent["l2 1 local"] == pytest.approx(4 * sent["l2 4 local"], rel=1e-6)


def test_the_estimate_counts_what_is_left(tiny: RunConfig, tmp_path: Path) -> None:
    """One job of ten seconds is done, one and a simclr (1.9) are left, and two processes: 14.5 s."""
    jobs = [
        compare_jobs.make_job(tiny, method, seed=0, folder=tmp_path) for method in ("cmc", "l2", "simclr")
    ]
    progress = compare_jobs.Progress(jobs, num_jobs=2, tell=quiet)
    progress.done(jobs[0], {"seconds": 10.0, "headline": {}})
    assert progress.estimate(jobs[0], {"seconds": 10.0}) == "about 0.2 minutes"
    assert progress.estimate(jobs[0], {"seconds": 36000.0}) == "about 14.5 hours"
    later = compare_jobs.Progress(jobs[:1], num_jobs=1, tell=quiet, later=["cmc"] * 5)
    later.done(jobs[0], {"seconds": 60.0, "headline": {}})
    assert later.estimate(jobs[0], {"seconds": 60.0}) == "about 5.0 minutes"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--pair", "emojis"], "--pair='emojis' is unknown"),
        (["--pair", "emoji", "--methods", "cmc,crdd"], "--methods has 'crdd'"),
        (["--fast"], "--fast belongs to a preset"),
        (["--federation", "iid"], "--federation has 'iid'"),
        (["--federation", "iid:10", "--methods", "central:cmc"], "add central to the federations"),
        (["--temperatures", "0.1,x"], "--temperatures='0.1,x' must be numbers"),
        (["--temperatures", ","], "--temperatures=',' must be numbers"),
        (["--temperatures", "0.1,nan"], "distill.temperature=nan is outside"),
        (["--temperatures", "0"], "distill.temperature=0.0 is outside"),
        (["--temperatures", "0.1", "--no-tune"], "--temperatures needs tuning"),
        (["--work", "500", "--temperatures", "0.1"], "--work trains each row once"),
        (["--rates", "0.1,x"], "--rates='0.1,x' must be numbers"),
        (["--rates", "0.1,0"], "--rates='0.1,0' must be numbers above 0"),
        (["--rates", "-1"], "distill.learning_rate=-1.0 is outside"),
        (["--rates", "0.1", "--no-tune"], "--rates needs tuning"),
        (["--rates", "0.1", "--choose-by", "recall@11"], "--choose-by='recall@11'"),
        (["--methods", "anchors:cmd-anchred@8"], "--methods='cmd-anchred' is unknown"),
        (["--methods", "anchor:cmd-anchored@8"], "--methods='anchor' is unknown"),
        (["--work", "500", "--local-steps", "3"], "must divide --work 500"),
        (["--work", "500", "--local-steps", "a"], "must be whole numbers"),
        (["--work", "500", "--methods", "teacher"], "does not send weights"),
        (["--work", "500", "--methods", "cmc", "--federation", "central"], "does not send weights"),
    ],
)
def test_bad_input_is_told_in_one_line(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    words: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(monkeypatch, "compare", *words) == 2
    err = capsys.readouterr().err
    assert message in err
    assert "Traceback" not in err
    assert not list(tmp_path.iterdir())


def test_a_preset_beside_a_file_is_refused(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    settings_file: Path,  # noqa: F811
) -> None:
    assert run(monkeypatch, "compare", "--pair", "emoji", "--config", str(settings_file)) == 2
    assert "--pair has its own settings" in capsys.readouterr().err
