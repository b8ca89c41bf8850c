"""A small private run from end to end: every file has a row, and what may leave tells of no pair."""

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from edgecmd.config import assemble
from edgecmd.core import artefacts, events, run_lock
from edgecmd.core.artefacts import artefact_of
from edgecmd.core.events import FIELDS, read_events
from edgecmd.experiments import pipeline
from server import checkpoint
from tests.command_line import run

SIDE, NUM_PAIRS = 16, 60
# Written by the owners of their pairs, in files that are appended to or sealed; and locks.
OWN_WRITERS = ("ledger/", "clients/", "baselines/", ".lock", ".owner")
MECHANISMS = ("anchors", "client")
Edgecmd = Callable[..., None]


def write_pairs(path: Path, *, with_another: bool) -> Path:
    """Noise in 60 pairs; another training pair has nearly a test target, and a class that no other pair has.

    The part of an id follows from its hash alone, so the additional pair is looked for among names.
    """
    from edgecmd.data.user_files.user_pairs import position

    noise = np.random.default_rng(7)
    arrays = {
        "source": noise.integers(0, 256, (NUM_PAIRS, SIDE, SIDE, 3), dtype=np.uint8),
        "target": noise.integers(0, 256, (NUM_PAIRS, SIDE, SIDE, 1), dtype=np.uint8),
        "id": np.array([f"p{row:03d}" for row in range(NUM_PAIRS)]),
        "label": np.array([f"class-{row % 5}" for row in range(NUM_PAIRS)]),
    }
    public = noise.integers(0, 256, (24, SIDE, SIDE, 3), dtype=np.uint8)
    if with_another:
        test = next(row for row in range(NUM_PAIRS) if position(str(arrays["id"][row])) < 0.2)
        other = noise.integers(0, 256, (1, SIDE, SIDE, 1))
        more = {
            "source": noise.integers(0, 256, (1, SIDE, SIDE, 3), dtype=np.uint8),
            # A correlation of about 0.98, and too far for a copy, which would be left out.
            "target": (0.85 * arrays["target"][[test]] + 0.15 * other).astype(np.uint8),
            "id": np.array([next(f"a{n}" for n in range(99) if position(f"a{n}") > 0.5)]),
            "label": np.array(["a class of its own"]),
        }
        arrays = {name: np.concatenate([array, more[name]]) for name, array in arrays.items()}
    path.parent.mkdir(parents=True)
    np.savez(path, public=public, **arrays)
    return path


@pytest.fixture(scope="module")
def edgecmd() -> Iterator[Edgecmd]:
    with pytest.MonkeyPatch.context() as monkeypatch:

        def call(*words: object) -> None:
            assert run(monkeypatch, *words) == 0

        yield call


def settings(pairs: Path, mechanism: str) -> list[str]:
    values = [
        f'name="run"\nout="{pairs.parent}"\ndevice="cpu"',
        f'[data]\nname="folder"\npath="{pairs}"\nimage_size={SIDE}',
        '[student]\narchitecture="ws-50k"',
        "[distill]\nbatch_size=8\nnum_anchors=16",
        "[federation]\nnum_clients=3\nnum_rounds=1\nlocal_steps=2",
        "[evaluate]\nevery_rounds=1\nnum_labels=[0]\nnum_draws=2",
        f'[privacy]\nmechanism="{mechanism}"',
    ]
    path = pairs.with_name("run.toml")
    path.write_text("\n".join(values), encoding="utf-8")
    return ["--config", str(path)]


def walk(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


Declared = dict[tuple[str, str], bool]


@pytest.fixture(scope="module")
def finished(edgecmd: Edgecmd, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Declared]:
    """A private run with baselines, audited, exported again, and what its writers said of each file."""
    pairs = write_pairs(tmp_path_factory.mktemp("walk") / "data" / "pairs.npz", with_another=False)
    said: Declared = {}
    real = artefacts.declare

    def record(name: str, *, may_leave: bool, place: str = "run") -> artefacts.Artefact:
        said[place, name] = may_leave
        return real(name, may_leave=may_leave, place=place)

    with pytest.MonkeyPatch.context() as monkeypatch:
        for module in (artefacts, events, checkpoint, run_lock, assemble):
            monkeypatch.setattr(module, "declare", record)
        edgecmd("run", *settings(pairs, "anchors"))
        folder = pairs.parent / "run"
        edgecmd("audit", "check", folder, "--tries", "1")
        edgecmd("export", folder, "--profiles", "w8,int8")
    return folder, said


def test_every_file_of_a_run_has_a_row_and_a_flag(finished: tuple[Path, Declared]) -> None:
    folder, said = finished
    names = walk(folder)
    assert {"export/MODEL_CARD.md", "audit.json", "report.html", "ledger/client-0000.jsonl"} <= {*names}
    for name in names:
        row = artefact_of(name)
        if not name.startswith(OWN_WRITERS):
            key = (row.place, name.removeprefix("export/") if row.place == "bundle" else name)
            assert said[key] is row.may_leave, name


def test_the_statement_names_every_file_on_its_side(finished: tuple[Path, Declared]) -> None:
    from fnmatch import fnmatchcase

    folder, _ = finished
    told = json.loads((folder / "privacy.json").read_text())
    for name in walk(folder):
        sides = {
            side
            for side in ("may_leave", "owner_only")
            if any(fnmatchcase(name, one["file"]) for one in told[side])
        }
        assert sides == {"may_leave" if artefact_of(name).may_leave else "owner_only"}, name


def test_the_head_and_the_figures_are_costs_of_their_own(finished: tuple[Path, Declared]) -> None:
    folder, _ = finished
    told = json.loads((folder / "privacy.json").read_text())
    costs = " ".join(told["own_costs"])
    assert "classification head" in costs
    assert "export.head=false" in costs
    assert "validation and test examples" in costs
    assert not any("everything made of it" in one for one in told["released"])
    card = (folder / "export" / "MODEL_CARD.md").read_text()
    assert "fitted on labelled examples without noise; whoever holds the file may learn about them" in card
    bill = json.loads((folder / "export" / "ml-bom.cdx.json").read_text())
    considered = bill["metadata"]["component"]["modelCard"]["considerations"]["ethicalConsiderations"]
    assert any("labelled examples without noise" in one["mitigationStrategy"] for one in considered)


def test_events_hold_known_fields_and_neither_loss_nor_counts(finished: tuple[Path, Declared]) -> None:
    folder, _ = finished
    logged = list(read_events(folder / "events.jsonl"))
    assert {one["event"] for one in logged} >= {"round", "stage"}
    fields = {name for one in logged for name in one if not name.startswith("val_")}
    assert fields <= set(FIELDS)
    assert {(one["loss"], one["num_examples"]) for one in logged if one["event"] == "round"} == {(None, None)}


def test_the_report_says_that_it_is_its_owner_s_alone(finished: tuple[Path, Declared]) -> None:
    folder, _ = finished
    page = (folder / "report.html").read_text()
    top = page[page.index("<header>") : page.index("</header>")]
    assert "This page is for its owner only." in top
    assert "Files that may leave" in page


def test_a_bundle_without_a_head_has_no_such_cost(
    finished: tuple[Path, Declared], edgecmd: Edgecmd, tmp_path: Path
) -> None:
    folder, _ = finished
    edgecmd("export", folder, "--out", tmp_path / "plain", "--no-head")
    assert not (tmp_path / "plain" / "labels.json").exists()
    card = (tmp_path / "plain" / "MODEL_CARD.md").read_text()
    assert "head" not in card[card.index("## What else it tells of") : card.index("## Audits")]


@pytest.mark.parametrize("mechanism", MECHANISMS)
def test_one_more_training_pair_changes_nothing_that_leaves_but_the_weights(
    mechanism: str, edgecmd: Edgecmd, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two runs that differ in one training pair, and then in nothing: the second gets the first's weights.

    What leaves must then be equal byte for byte: weights are the one way by which a pair may be felt. The
    pair is chosen to be felt: the first of a class, and the twin of a test target, which the strict test
    leaves out.
    """
    folders = []
    for name in ("without", "with"):
        pairs = write_pairs(tmp_path / name / "pairs.npz", with_another=name == "with")
        edgecmd("simulate", *settings(pairs, mechanism))
        folders.append(pairs.parent / "run")
    one, other = folders
    shutil.copyfile(one / "student.safetensors", other / "student.safetensors")
    # All other stages of a run follow, on the weights that lie there; training would write its own again.
    monkeypatch.setattr(pipeline, "train", lambda *_: None)
    for folder in folders:
        if mechanism == "anchors":
            edgecmd("audit", "check", folder, "--tries", "1")
        edgecmd("run", "--no-baselines", "--config", folder.with_name("run.toml"))
    assert (one / "student.safetensors").read_bytes() == (other / "student.safetensors").read_bytes()
    assert walk_leaving(one) == walk_leaving(other)
    for name in walk_leaving(one):
        # Weights of earlier rounds: released under the guarantee, with noise of their own.
        if not name.startswith("checkpoints/"):
            assert (one / name).read_bytes() == (other / name).read_bytes(), name
    # The pair is felt: the files that stay with the owner tell of it.
    for name in ("partition.json", "evaluation.json", "report.html"):
        assert (one / name).read_bytes() != (other / name).read_bytes(), name


def walk_leaving(folder: Path) -> list[str]:
    return [name for name in walk(folder) if artefact_of(name).may_leave]
