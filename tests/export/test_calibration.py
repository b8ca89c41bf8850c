"""Calibration never sees a pair; prototypes are means by hand; provenance names no path."""

import copy
import hashlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from edgecmd.config.schema import RunConfig
from edgecmd.core.errors import ConfigError, DataError
from export.documents.prototypes import head_of, prototypes_of
from export.documents.provenance import provenance_of
from export.graph.deployable import Deployable, rebuild
from export.graph.fold_standardised import fold
from export.graph.to_onnx import to_onnx
from export.profiles.calibration import calibration_of
from export.profiles.made_up import made_depth, made_sounds
from export.profiles.quantise import layers_in_8_bits
from export.profiles.table import Calibration, make_profile
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


@pytest.mark.parametrize("kind", ["public", "procedural"])
@pytest.mark.parametrize(
    ("target", "dtype", "words"),
    [
        (np.ones((60, 24, 24, 1), np.uint16), np.uint16, "made-up depth maps of things; no private pair"),
        (np.ones((60, 1000), np.int16), np.float32, "made-up tones, chirps and noise; no private pair"),
    ],
)
def test_depth_and_sound_have_ranges_of_made_up_inputs_of_their_kind(tiny, kind, target, dtype, words):
    task = copy.copy(task_of(tiny))
    task.target_side, task.sampling_rate_hz = 24, 4000
    found = []
    for one in (target, np.zeros_like(target)):
        task.data = replace(task.data, train=replace(task.data.train, target=one))
        found.append(calibration_of(task, kind, seed=3))
    np.testing.assert_array_equal(found[0].inputs, found[1].inputs)
    assert found[0].inputs.dtype == dtype
    assert found[0].inputs.shape == (128, *target.shape[1:])
    assert found[0].description == f"128 {words}"


def test_made_up_sounds_are_within_full_scale_and_of_many_pitches():
    sounds = made_sounds(64, samples=4000, rate_hz=8000, generator=np.random.default_rng(0))
    peaks = np.abs(sounds).max(axis=1)
    assert peaks.max() <= 1 + 1e-6
    assert peaks.min() >= 0.03 - 1e-6
    assert np.isfinite(sounds).all()
    loudest_hz = np.abs(np.fft.rfft(sounds, axis=1)).argmax(axis=1) * 2
    assert loudest_hz.min() < 300
    assert loudest_hz.max() > 1500


def test_made_up_depth_has_distances_of_a_room_and_holes():
    maps = made_depth(32, side=40, generator=np.random.default_rng(0))
    assert maps.any(axis=(1, 2, 3)).all()
    assert (maps == 0).any()
    assert maps[maps > 0].min() > 150
    # A wall is at most 5 m away, and noise there has 25 mm.
    assert maps.max() < 5000 + 6 * 25


@pytest.mark.parametrize("kind", ["depth16", "wave"])
def test_int8_of_made_up_ranges_is_close_on_others(make, kind):
    spec = make.kind(kind)
    student = make.student(spec.architecture, channels=spec.channels)
    data = to_onnx(Deployable(fold(rebuild(student, spec)), spec).eval())

    def inputs(seed):
        generator = np.random.default_rng(seed)
        if kind == "wave":
            return made_sounds(16, samples=4000, rate_hz=8000, generator=generator)
        return made_depth(16, side=32, generator=generator)

    made = make_profile(data, "int8", calibration=Calibration(inputs=inputs(0), description="made up"))
    name = "wave" if kind == "wave" else "depth"
    rows = []
    for one in (data, made):
        session = onnxruntime.InferenceSession(one, providers=["CPUExecutionProvider"])
        rows.append(session.run(["embedding"], {name: inputs(1)})[0])
    # The limit of the profile; noise as input comes out above 0.999 where it was measured.
    assert (rows[0] * rows[1]).sum(axis=1).min() >= 0.9
    assert len(layers_in_8_bits(onnx.load_from_string(made))) >= 3


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
