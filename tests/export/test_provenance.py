"""Where a student comes from: what is known of the data, by whom, and which teacher it was."""

import copy
import hashlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from edgecmd.audits.finding import CONTRADICTED, NOT_CONTRADICTED, Finding
from edgecmd.config.schema import RunConfig
from edgecmd.core.errors import PrivacyError
from edgecmd.core.files import write_json
from edgecmd.data.experiment import HeldOut
from edgecmd.models.teacher.teachers import TEACHERS
from edgecmd.run import Given, Run
from edgecmd.settings import PrivacyConfig, StudentConfig, TeacherConfig
from export.bundle import Options, export_bundle
from export.documents.model_card import model_card
from export.documents.provenance import Provenance, provenance_of, told_audits
from tests.export.test_card import PRIVACY
from tests.tiny_federation import run_of

UNLABELLED = "training pairs, unlabelled"


@pytest.fixture
def private(tiny: RunConfig) -> RunConfig:
    distill = replace(tiny.distill, loss="cmc-anchored")
    return replace(tiny, distill=distill, privacy=PrivacyConfig(mechanism="anchors"))


def run_in(config: RunConfig, folder: Path) -> Run:
    return replace(run_of(config), folder=folder)


def deployed(folder: Path, *, nodes: int, own: int) -> Path:
    write_json(folder / "federation.json", {"runtime": "flower", "nodes": nodes, "nodes_with_own_pairs": own})
    return folder


def finding(level: str, name: str, *, verdict: str = NOT_CONTRADICTED) -> Finding:
    text = f"{level}: {name} found 55 things."
    return Finding(level=level, name=name, attacker="code", verdict=verdict, text=text, quantity="x")


def test_without_privacy_the_number_of_pairs_is_told(tiny: RunConfig, tmp_path: Path) -> None:
    data = provenance_of(run_in(tiny, tmp_path)).data
    assert int(data[UNLABELLED]) > 40
    assert data["set"] == "pairs"


def test_under_privacy_it_is_not(private: RunConfig, tmp_path: Path) -> None:
    found = provenance_of(run_in(private, tmp_path))
    assert found.private
    assert found.data[UNLABELLED] == "not told: their number is private"
    assert found.data["validation and test examples"].endswith("of other pairs")


@pytest.mark.parametrize("is_private", [False, True])
def test_pairs_of_devices_are_not_those_of_the_server_s_set(
    is_private: bool, tiny: RunConfig, private: RunConfig, tmp_path: Path
) -> None:
    found = provenance_of(run_in(private if is_private else tiny, deployed(tmp_path, nodes=3, own=3)))
    assert found.num_own == 3
    assert found.data[UNLABELLED] == (
        "pairs of 3 devices' own; neither their number nor what they show is known here"
    )
    assert found.data["evaluated on"] == "the server's set pairs (user)"
    assert "not known here" in found.data["validation and test examples"]
    assert "set" not in found.data


def test_nodes_without_pairs_of_their_own_took_parts_of_the_set(tiny: RunConfig, tmp_path: Path) -> None:
    data = provenance_of(run_in(tiny, deployed(tmp_path, nodes=5, own=2))).data
    assert data[UNLABELLED].startswith("pairs of 2 devices' own;")
    assert data[UNLABELLED].endswith("the other 3 nodes took parts of the set pairs")


def test_a_simulation_on_flower_is_told_as_a_simulation(tiny: RunConfig, tmp_path: Path) -> None:
    plain = provenance_of(run_in(tiny, tmp_path)).data
    assert provenance_of(run_in(tiny, deployed(tmp_path, nodes=4, own=0))).data == plain


def test_the_card_of_a_deployment_claims_nothing_of_unseen_concepts(
    bundle, tiny: RunConfig, tmp_path: Path
) -> None:
    import json

    report = json.loads((bundle("ws-50k") / "report.json").read_text())
    card = model_card(report, provenance_of(run_in(tiny, deployed(tmp_path, nodes=3, own=3))))
    assert "## Figures on the server's own set" in card
    assert "unseen concepts" not in card
    assert "| set |" not in card
    from export.documents.sbom import bill_of_materials

    bill = bill_of_materials(report, provenance_of(run_in(tiny, tmp_path)))
    (data,) = bill["metadata"]["component"]["modelCard"]["modelParameters"]["datasets"]
    assert data["name"] == "pairs of the devices' own"
    assert "neither their number" in data["description"]


@pytest.mark.parametrize("source", [{"private": True}, {"privacy": PRIVACY}])
def test_a_private_bundle_that_would_tell_a_number_of_pairs_is_not_made(source, make, tmp_path: Path) -> None:
    options = Options(provenance=Provenance(data={UNLABELLED: "55"}, **source))
    with pytest.raises(
        PrivacyError, match="'MODEL_CARD.md' may leave, so under a privacy mechanism it must not"
    ):
        export_bundle(
            make.student("ws-50k"),
            tmp_path / "bundle",
            spec=make.spec("ws-50k"),
            probe_images=make.images(4),
            task=make.task,
            options=options,
        )
    assert list(tmp_path.iterdir()) == []


def test_teacher_and_first_weights_are_named_by_their_content(tiny: RunConfig, tmp_path: Path) -> None:
    digest = hashlib.sha256(Path(tiny.teacher.path).read_bytes()).hexdigest()
    first = tmp_path / "first.safetensors"
    first.write_bytes(b"weights")
    config = replace(tiny, student=replace(tiny.student, path=str(first)))
    method = provenance_of(run_in(config, tmp_path)).method
    assert method["teacher"] == f"file with SHA-256 {digest}"
    # Of b"weights", by sha256sum.
    assert method["first weights"] == f"file with SHA-256 {hashlib.sha256(b'weights').hexdigest()}"
    assert str(tmp_path) not in str(method)
    first.unlink()
    assert (
        provenance_of(run_in(config, tmp_path)).method["first weights"] == "a file that is not here any more"
    )
    assert provenance_of(run_in(tiny, tmp_path)).method["first weights"] == "random"


def test_shipped_first_weights_and_the_part_that_was_trained_are_named(
    tiny: RunConfig, tmp_path: Path
) -> None:
    """Whoever gets the file learns whose weights it began with, and what they were trained on."""
    config = replace(tiny, student=StudentConfig(architecture="lite0-s", trainable="last"))
    method = provenance_of(run_in(config, tmp_path)).method
    assert method["student"] == "lite0-s, lite0 family; trained: the last block and the projector"
    assert method["first weights"] == (
        f"of the teacher imagenet, which ships with edgecmd: file with SHA-256 {TEACHERS['imagenet'].sha256};"
        " trained on photographs of ImageNet (ILSVRC 2012), labels: ImageNet's 1,000 classes; licence"
        " Apache-2.0, Google and ML Illustrated"
    )


def test_of_a_run_of_objects_nothing_is_said_that_no_setting_told(tiny: RunConfig, tmp_path: Path) -> None:
    run = run_of(tiny)
    given = Given(parts=run.parts, student=run.new_student(), loss=run.loss)
    method = provenance_of(replace(run, folder=tmp_path, given=given)).method
    assert method["first weights"] == "those that the student came with"
    assert method["teacher"] == f"weights with SHA-256 {run.task.teacher.sha256}"
    # Nothing is held out of pairs that are given, so no row counts what is.
    test, none = run.task.data.test, np.arange(0)
    empty = HeldOut(pairs=test.pairs.take(none), labelled=test.labelled.take(none))
    task = copy.copy(run.task)
    task.data = replace(task.data, validation=empty, test=empty)
    told = provenance_of(replace(run, folder=tmp_path, make_task=lambda: task)).data
    assert "validation and test examples" not in told


def test_a_teacher_that_ships_has_its_name_and_its_pinned_digest(tiny: RunConfig, tmp_path: Path) -> None:
    method = provenance_of(run_in(replace(tiny, teacher=TeacherConfig()), tmp_path)).method
    assert method["teacher"] == (
        "icons, ships with edgecmd: file with SHA-256"
        " 8fbdd1250f5b3c17a58c51efd47d5bb298e0712c5d9cf76e7857d598c1eaa84a;"
        " trained on public pictures of emoji, labels: none"
    )
    named = replace(tiny, teacher=TeacherConfig(name="indoor"))
    assert (
        provenance_of(run_in(named, tmp_path))
        .method["teacher"]
        .startswith("indoor, ships with edgecmd: file")
    )


def test_ready_features_get_no_digest_which_would_be_one_of_the_pairs(
    tiny: RunConfig, tmp_path: Path
) -> None:
    ready = str(tmp_path / "ready.npy")
    teacher = TeacherConfig(pair_features=ready, public_features=ready)
    text = provenance_of(run_in(replace(tiny, teacher=teacher), tmp_path)).method["teacher"]
    assert text == "not known: its features were given ready-made"


def test_under_privacy_only_audits_that_look_at_no_pair_are_told() -> None:
    looks = [
        finding("check", "anchors: overlap"),
        finding("step", "noise"),
        finding("one-run", "canaries", verdict=CONTRADICTED),
        finding("risk", "membership"),
    ]
    open_ones = [finding("check", "books: epsilon"), finding("check", "purity of the loss")]
    told = told_audits([*looks, *open_ones], private=True)
    assert [one["text"] for one in told["findings"]] == [one.text for one in open_ones]
    # Not even the verdict of the others, which is one bit about the pairs.
    assert told["verdict"] == NOT_CONTRADICTED
    assert told["withheld"] is True
    assert told_audits(looks, private=True) == {"verdict": "", "findings": [], "withheld": True}
    whole = told_audits([*looks, *open_ones], private=False)
    assert (len(whole["findings"]), whole["verdict"], whole["withheld"]) == (6, CONTRADICTED, False)
    assert told_audits([], private=True) == {}
