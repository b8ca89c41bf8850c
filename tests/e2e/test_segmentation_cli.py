"""Segmentation from the command line: distil, fine-tune, export, masks; and what is told without masks."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edgecmd.data.show import TILE_PX
from tests.command_line import run

TINY = (
    "student.architecture=seg-50k",
    "teacher.map_dim=8",
    "distill.batch_size=4",
    "distill.num_locations=4",
    "distill.num_anchors=8",
    "federation.num_clients=2",
    "federation.num_rounds=1",
    "federation.local_steps=2",
    "evaluate.segment_steps=4",
    "evaluate.label_percent=50,100",
    "evaluate.num_labels=1",
    "evaluate.num_draws=1",
    "evaluate.every_rounds=1",
)
SCENES = ("data.name=emoji-scenes", "data.image_size=16", "data.scenes=12,6,6,8")


def settings(*values: str) -> list[str]:
    return [word for value in values for word in ("--set", value)]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("segmentation")
    with pytest.MonkeyPatch.context() as patch:
        assert run(patch, "run", *settings(*SCENES, *TINY, f"out={out}", "name=seg")) == 0
    return out / "seg"


def test_the_pipeline_measures_miou_beside_scratch_and_the_floor(finished: Path) -> None:
    told = json.loads((finished / "evaluation.json").read_text())
    table = told["student"]["segmentation"]
    assert set(table["finetune"]) == {"50", "100"}
    assert 0.0 <= table["finetune"]["100"]["mean"] <= 1.0
    assert 0.0 < table["majority"] < 1.0
    assert set(table["finetune"]["50"]["iou"]) == set(table["classes"]) - set(table["absent"])
    assert "finetune" in told["baselines"]["scratch"]["segmentation"]
    assert "probe" in told["baselines"]["untrained"]["segmentation"]
    assert "simclr" not in told["baselines"]


def test_the_bundle_writes_masks_of_any_size(
    finished: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    picture = np.random.default_rng(0).integers(0, 256, (21, 34), dtype=np.uint8)
    Image.fromarray(picture).save(tmp_path / "one.png")
    words = [str(finished / "export"), str(tmp_path / "one.png"), "--masks", str(tmp_path), "--check"]
    assert run(monkeypatch, "infer", *words) == 0
    with Image.open(tmp_path / "one.mask.png") as mask:
        assert mask.size == (34, 21)
    assert run(monkeypatch, "verify", str(finished / "export")) == 0
    card = (finished / "export" / "MODEL_CARD.md").read_text()
    assert "the output `mask`" in card
    assert "mIoU, fine-tuned on 100% of the labelled pictures" in card


def test_evaluate_again_gives_the_same_table(
    finished: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before = json.loads((finished / "evaluation.json").read_text())["student"]["segmentation"]
    assert run(monkeypatch, "evaluate", str(finished), "--json") == 0
    assert json.loads(capsys.readouterr().out)["student"]["segmentation"] == before


def test_a_sheet_shows_the_masks_found_beside_the_truth(
    finished: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    sheets = [tmp_path / name for name in ("one.png", "again.png")]
    for sheet in sheets:
        assert run(monkeypatch, "evaluate", str(finished), "--json", "--sheet", str(sheet)) == 0
    assert sheets[0].read_bytes() == sheets[1].read_bytes()
    with Image.open(sheets[0]) as picture:
        # Six test scenes, each four tiles high.
        assert picture.size[0] >= 6 * TILE_PX
        assert picture.size[1] >= 4 * TILE_PX


@pytest.mark.parametrize(
    ("student", "sheet", "told"),
    [("ws-50k", "one.png", "predicts none"), ("seg-50k", "missing/one.png/two.png", "one.png")],
)
def test_a_sheet_that_cannot_be_is_refused_before_anything_is_measured(
    student: str,
    sheet: str,
    told: str,
    finished: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    folder = tmp_path / "run"
    shutil.copytree(finished, folder)
    settings = (folder / "config.toml").read_text()
    (folder / "config.toml").write_text(settings.replace("seg-50k", student))
    before = (folder / "evaluation.json").read_bytes()
    (tmp_path / "missing").mkdir()
    (tmp_path / "missing" / "one.png").touch()
    assert run(monkeypatch, "evaluate", str(folder), "--sheet", str(tmp_path / sheet)) != 0
    assert told in " ".join(capsys.readouterr().err.split())
    assert (folder / "evaluation.json").read_bytes() == before
    assert not list(tmp_path.glob("*.png"))


def test_compare_tells_miou_of_scratch_and_student(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    words = ["compare", "--methods", "cmc,scratch", "--seeds", "1", "--json"]
    assert run(monkeypatch, *words, *settings(*SCENES, *TINY, f"out={tmp_path}", "name=c")) == 0
    told = json.loads(capsys.readouterr().out)
    assert {"miou_50", "miou_100", "pixels_50"} <= set(told["scratch"])
    assert {"miou_50", "miou_probe_50"} <= set(told["cmc"])


@pytest.mark.usefixtures("workers")
def test_the_result_does_not_depend_on_the_number_of_workers(
    finished: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    more = (f"out={tmp_path}", "name=two", "federation.num_workers=2")
    assert run(monkeypatch, "simulate", *settings(*SCENES, *TINY, *more)) == 0
    one, two = (folder / "student.safetensors" for folder in (finished, tmp_path / "two"))
    assert one.read_bytes() == two.read_bytes()


def test_a_set_without_masks_distils_and_says_what_is_missing(
    tiny_files: tuple[Path, Path],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    pairs, teacher = tiny_files
    own = (
        "data.name=folder",
        f"data.path={pairs}",
        "data.image_size=16",
        "data.strict=false",
        f"teacher.path={teacher}",
    )
    words = ["run", "--no-baselines"]
    assert run(monkeypatch, *words, *settings(*own, *TINY, f"out={tmp_path}", "name=bare")) == 0
    assert "has no masks" in capsys.readouterr().out.replace("\n", " ")
    told = json.loads((tmp_path / "bare" / "evaluation.json").read_text())
    assert "missing" in told["student"]["segmentation"]


def test_privacy_of_single_pairs_is_refused_before_anything_runs(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    words = settings(*SCENES, *TINY, f"out={tmp_path}", "privacy.mechanism=anchors")
    assert run(monkeypatch, "run", *words) != 0
    assert "locations in an image" in " ".join(capsys.readouterr().err.split())
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("words", [("audit", "check"), ("distance",), ("warm-start",)])
def test_what_looks_at_whole_pictures_is_refused(
    finished: Path,
    words: tuple[str, ...],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    own = settings(*SCENES, *TINY, f"out={tmp_path}")
    rest = {"audit": [str(finished)], "distance": own, "warm-start": ["--out", str(tmp_path / "s"), *own]}
    assert run(monkeypatch, *words, *rest[words[0]]) != 0
    assert "one embedding per image" in " ".join(capsys.readouterr().err.split())
