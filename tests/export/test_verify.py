"""Parity: what is measured, checked by hand, and what is refused."""

import dataclasses

import numpy as np
import pytest
import torch

from edgecmd.core.errors import ExportError
from export.device.student import Prediction
from export.graph.deployable import Deployable
from export.graph.fold_standardised import fold
from export.graph.to_onnx import to_onnx
from export.trust.verify import (
    ParityLimits,
    ParityReport,
    TaskMetric,
    agreement,
    class_agreement,
    compare,
    cosines,
    refuse_below,
    refuse_mismatch,
    verify,
)

GOOD = ParityReport(
    batch_sizes=(1, 2),
    input_sizes=("32x32", "64x64"),
    num_images=1000,
    max_abs=1e-6,
    max_abs_own_size=1e-6,
    min_cosine=1.0,
    mean_cosine=1.0,
    max_abs_scores=1e-6,
    agreement=1.0,
    agreement_classes=1.0,
    metric_name="accuracy",
    metric_torch=0.9,
    metric_onnx=0.9,
)


@pytest.fixture(scope="module", params=["ws-50k", "gn-50k"])
def exported(request, make, tmp_path_factory):
    """(Path of the file, reference in torch)."""
    student, spec = make.student(request.param).eval(), make.spec(request.param, head=True)
    path = tmp_path_factory.mktemp("verify") / "student.onnx"
    path.write_bytes(to_onnx(Deployable(fold(student), spec).eval()))
    return path, Deployable(student, spec).eval()


def test_file_agrees_at_every_batch_size_also_those_not_in_the_example(make, exported):
    path, reference = exported
    report = verify(path, reference, images=make.images(40), task=make.task, batch_sizes=(1, 2, 3, 5, 7, 32))
    assert report.batch_sizes == (1, 2, 3, 5, 7, 32)
    assert report.num_images == 40
    assert report.max_abs_own_size <= report.max_abs <= 1e-5
    assert report.max_abs_scores <= 1e-5
    assert report.min_cosine >= 0.999999
    assert report.input_sizes == ("32x32", "64x64", "81x17")
    assert report.agreement >= 0.9  # embeddings of random weights are much alike, some equally near
    assert report.agreement_classes == 1.0
    expected = make.task.metric(embeddings(reference, make.images(40)))
    assert report.metric_torch == pytest.approx(expected, abs=1e-6)
    assert report.metric_onnx == pytest.approx(expected, abs=1e-6)


@torch.no_grad()
def embeddings(reference, images):
    return reference(torch.from_numpy(images))[0].numpy()


def test_metric_sees_each_image_once_and_in_order_also_with_fewer_than_a_batch(make, exported):
    path, reference = exported
    seen = []
    task = TaskMetric(name="seen", metric=lambda embedding: seen.append(embedding) or 0.0)
    verify(path, reference, images=make.images(3), task=task)
    assert [one.shape for one in seen] == [(3, 16), (3, 16)]
    np.testing.assert_allclose(seen[0], seen[1], atol=1e-5)


def test_another_student_is_refused_with_figure_and_limit(make, exported):
    path, reference = exported
    other = Deployable(make.student(reference.spec.architecture).eval(), reference.spec).eval()
    with torch.no_grad():
        other.student.projector.weight.mul_(-1)
    report = verify(path, other, images=make.images(2), task=make.task)
    with pytest.raises(ExportError, match=r"max_abs_own_size=[0-9.]+ exceeds the limit 0.0001"):
        refuse_mismatch(report, ParityLimits())


def test_numbers_that_are_not_finite_are_refused(make, exported):
    path, reference = exported
    broken = Deployable(make.student(reference.spec.architecture).eval(), reference.spec).eval()
    with torch.no_grad():
        broken.student.projector.bias[0] = float("nan")
    with pytest.raises(ExportError, match="embedding of torch has 32 numbers that are not finite"):
        verify(path, broken, images=make.images(2), task=make.task)


def test_no_image_is_refused(make, exported):
    path, reference = exported
    with pytest.raises(ExportError, match="no held-out image"):
        verify(path, reference, images=make.images(0), task=make.task)


def test_comparison_by_hand():
    expected = Prediction(np.array([[1.0, 0.0], [0.0, 1.0]]), np.array([[0.5, 0.5], [0.2, 0.8]]))
    found = Prediction(np.array([[1.0, 0.0], [0.6, 0.8]]), np.array([[0.5, 0.5], [0.3, 0.7]]))
    difference = compare(expected, found)
    assert difference.max_abs == pytest.approx(0.6)
    assert difference.min_cosine == pytest.approx(0.8)
    assert difference.max_abs_scores == pytest.approx(0.1)


def test_scores_on_one_side_only_are_refused():
    row = np.array([[1.0, 0.0]])
    with pytest.raises(ExportError, match="Only one"):
        compare(Prediction(row, row), Prediction(row, None))


def test_rows_of_zeros_have_no_cosine():
    zeros, row = np.zeros((1, 2)), np.array([[0.0, 1.0]])
    assert cosines(zeros, row).tolist() == [1.0]
    assert cosines(np.concatenate([zeros, row]), np.concatenate([row, row])).tolist() == [1.0]
    assert cosines(row, zeros).tolist() == [0.0]


def test_agreement_by_hand():
    expected = Prediction(np.eye(3), np.array([[0.6, 0.4], [0.3, 0.7], [0.9, 0.1]]))
    found = Prediction(np.eye(3)[[0, 1, 1]], np.array([[0.4, 0.6], [0.3, 0.7], [0.8, 0.2]]))
    task = TaskMetric(name="m", metric=lambda _: 0.0, answers=lambda embedding: embedding.argmax(axis=1))
    assert agreement(expected, found, task) == pytest.approx(2 / 3)
    assert class_agreement(expected, found) == pytest.approx(2 / 3)
    assert class_agreement(Prediction(np.eye(3), None), found) is None


def test_without_answers_the_nearest_other_input_is_the_answer():
    task = TaskMetric(name="m", metric=lambda _: 0.0)
    line = np.array([[1.0, 0.0], [0.8, 0.6], [0.0, 1.0]])
    moved = np.array([[1.0, 0.0], [0.6, 0.8], [0.0, 1.0]])  # the middle one is now nearer to the last
    assert agreement(Prediction(line, None), Prediction(line, None), task) == 1.0
    assert agreement(Prediction(line, None), Prediction(moved, None), task) == pytest.approx(2 / 3)


def test_a_metric_below_the_floor_is_refused():
    refuse_below(GOOD, floor=None, profile="w8")
    refuse_below(GOOD, floor=0.9, profile="w8")
    with pytest.raises(ExportError, match=r"accuracy is 0.9000 .* profile w8; the floor is 0.95"):
        refuse_below(GOOD, floor=0.95, profile="w8")
    with pytest.raises(ExportError, match="nan"):
        refuse_below(dataclasses.replace(GOOD, metric_onnx=float("nan")), floor=0.5, profile="w8")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"max_abs_own_size": 2e-4}, "max_abs_own_size=0.0002 exceeds the limit 0.0001"),
        ({"max_abs_own_size": float("nan")}, "max_abs_own_size=nan"),
        # What the resize rounds may be ten times that.
        ({"max_abs": 2e-3}, "max_abs=0.002 exceeds the limit 0.001"),
        ({"max_abs": float("nan")}, "max_abs=nan"),
        ({"max_abs_scores": 1.0}, "max_abs_scores=1 exceeds"),
        ({"min_cosine": 0.99}, "min_cosine=0.990000 is below the limit 0.9999"),
        ({"min_cosine": float("nan")}, "min_cosine=nan"),
        ({"metric_onnx": 0.8949}, "gap 0.0051 exceeds the limit 0.005"),
        ({"metric_torch": float("nan")}, "accuracy is nan in torch"),
    ],
)
def test_each_figure_has_its_limit(change, message):
    refuse_mismatch(GOOD, ParityLimits())
    with pytest.raises(ExportError, match=message):
        refuse_mismatch(dataclasses.replace(GOOD, **change), ParityLimits())


def test_one_changed_answer_is_allowed_on_few_inputs():
    few = dataclasses.replace(GOOD, num_images=20)
    refuse_mismatch(dataclasses.replace(few, metric_onnx=0.85), ParityLimits())
    with pytest.raises(ExportError, match=r"gap 0.1000 exceeds the limit 0.05"):
        refuse_mismatch(dataclasses.replace(few, metric_onnx=0.80), ParityLimits())


def test_a_profile_that_rounds_has_no_limit_on_single_numbers():
    refuse_mismatch(
        dataclasses.replace(GOOD, max_abs=0.1, max_abs_own_size=0.1, max_abs_scores=0.1),
        ParityLimits(max_abs=None),
    )


def test_the_limit_is_that_of_the_own_size_where_a_resize_rounds(make, exported):
    """The resize of torch and that of the file may round a pixel to neighbouring levels, and no more."""
    sensitive = dataclasses.replace(GOOD, max_abs=3e-4, max_abs_own_size=1e-5)
    refuse_mismatch(sensitive, ParityLimits())
    with pytest.raises(ExportError, match="max_abs_own_size"):
        refuse_mismatch(dataclasses.replace(sensitive, max_abs_own_size=3e-4), ParityLimits())
    path, reference = exported
    report = verify(path, reference, images=make.images(3), task=make.task)
    assert 0 < report.max_abs_own_size <= 1e-5
