"""Calibration never sees a pair; prototypes are means by hand; provenance names no path."""

import copy
import hashlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from edgecmd.config.schema import RunConfig
from edgecmd.core.errors import ConfigError, DataError
from export.documents.prototypes import head_of, prototypes_of
from export.documents.provenance import provenance_of
from export.graph.deployable import Deployable
from export.profiles.calibration import calibration_of
from tests.tiny_federation import run_of, task_of


@pytest.mark.parametrize("kind", ["public", "procedural"])
def test_calibration_depends_on_no_pair(tiny: RunConfig, kind):
    task = task_of(tiny)
    whole = task.data
    before = calibration_of(task, kind, seed=tiny.seed)
    blank = np.zeros_like(whole.train.target)
    other = replace(whole, train=replace(whole.train, target=blank, source=np.zeros_like(whole.train.source)))
    blind = copy.copy(task)
    blind.data = other
    after = calibration_of(blind, kind, seed=tiny.seed)
    np.testing.assert_array_equal(before.inputs, after.inputs)
    assert before.description.endswith("no private pair")
    assert before.inputs.dtype == np.uint8
    side = tiny.data.image_size
    assert before.inputs.shape[1:] == (side, side, whole.train.target.shape[3])
    assert 0 < before.inputs.mean() < 255


def test_an_unknown_kind_of_calibration_is_refused(tiny: RunConfig):
    with pytest.raises(
        ConfigError, match=r"export.calibration='pairs' is unknown. Allowed: procedural, public"
    ):
        calibration_of(task_of(tiny), "pairs", seed=0)


@pytest.fixture
def embedder(make):
    return Deployable(make.student("ws-50k").eval(), make.spec("ws-50k")).eval()


def test_prototypes_are_unit_means_in_the_order_of_the_names(make, embedder, tmp_path):
    images = make.images(3)
    for row, name in enumerate(["b/1.npy", "b/2.npy", "a.npy"]):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        np.save(tmp_path / name, images[row])
    found = prototypes_of(tmp_path, embedder, scale=10.0)
    with torch.no_grad():
        (embedding,) = embedder(torch.from_numpy(images))
    mean = embedding[:2].mean(dim=0)
    assert found.names == ("a", "b")
    np.testing.assert_allclose(found.vectors[0], embedding[2].numpy(), atol=1e-6)
    np.testing.assert_allclose(found.vectors[1], (mean / mean.norm()).numpy(), atol=1e-6)
    head = head_of(found)
    np.testing.assert_allclose(head.weight, 10.0 * found.vectors)
    assert not head.bias.any()


def test_prototypes_that_cannot_be_made_are_refused(make, embedder, tmp_path):
    with pytest.raises(DataError, match="is not a folder"):
        prototypes_of(tmp_path / "missing", embedder, scale=1.0)
    with pytest.raises(DataError, match="has no pictures"):
        prototypes_of(tmp_path, embedder, scale=1.0)
    np.save(tmp_path / "only.npy", make.images(1)[0])
    with pytest.raises(DataError, match=r"only the class only; allowed are 2"):
        prototypes_of(tmp_path, embedder, scale=1.0)
    (tmp_path / "broken.png").write_text("no picture")
    with pytest.raises(DataError, match=r"broken\.png is not a picture"):
        prototypes_of(tmp_path, embedder, scale=1.0)


def test_provenance_names_no_path_and_no_machine(tiny: RunConfig, tmp_path):
    (tmp_path / "evaluation.json").write_text('{"student": {"num_test": 4}}')
    found = provenance_of(replace(run_of(tiny), folder=tmp_path))
    assert found.evaluation == {"num_test": 4}
    assert found.privacy == found.audit == {}
    digest = hashlib.sha256(Path(tiny.teacher.path).read_bytes()).hexdigest()
    assert found.method["teacher"] == f"file with SHA-256 {digest}"
    text = " ".join([*found.data.values(), *found.method.values()])
    assert "/" not in text.replace("pairs/public", "")  # the name of a set
    assert tiny.data.path not in text
