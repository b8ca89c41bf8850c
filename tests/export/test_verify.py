"""Parity: what is measured, checked by hand, and what is refused."""

import dataclasses

import numpy as np
import pytest
import torch

from edgecmd.errors import ExportError
from export.device.infer import Prediction
from export.fold import fold
from export.graph import Deployable
from export.to_onnx import to_onnx
from export.verify import ParityLimits, ParityReport, compare, refuse_mismatch, smallest_cosine, verify

GOOD = ParityReport(
    batch_sizes=(1, 2),
    num_images=3,
    max_abs=1e-6,
    min_cosine=1.0,
    max_abs_scores=1e-6,
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
    report = verify(
        path, reference, images=make.images(40), metric=make.metric, batch_sizes=(1, 2, 3, 5, 7, 32)
    )
    assert report.batch_sizes == (1, 2, 3, 5, 7, 32)
    assert report.num_images == 40
    assert report.max_abs <= 1e-5
    assert report.max_abs_scores <= 1e-5
    assert report.min_cosine >= 0.999999
    assert report.metric_torch == report.metric_onnx == make.metric(embeddings(reference, make.images(40)))


@torch.no_grad()
def embeddings(reference, images):
    return reference(torch.from_numpy(images))[0].numpy()


def test_metric_sees_each_image_once_and_in_order_also_with_fewer_than_a_batch(make, exported):
    path, reference = exported
    seen = []
    verify(path, reference, images=make.images(3), metric=lambda embedding: seen.append(embedding) or 0.0)
    assert [one.shape for one in seen] == [(3, 16), (3, 16)]
    np.testing.assert_allclose(seen[0], seen[1], atol=1e-5)


def test_another_student_is_refused_with_figure_and_limit(make, exported):
    path, reference = exported
    other = Deployable(make.student(reference.spec.architecture).eval(), reference.spec).eval()
    with torch.no_grad():
        other.student.projector.weight.mul_(-1)
    with pytest.raises(ExportError, match=r"max_abs=[0-9.]+ exceeds the limit 0.0001"):
        verify(path, other, images=make.images(2), metric=make.metric)


def test_numbers_that_are_not_finite_are_refused(make, exported):
    path, reference = exported
    broken = Deployable(make.student(reference.spec.architecture).eval(), reference.spec).eval()
    with torch.no_grad():
        broken.student.projector.bias[0] = float("nan")
    with pytest.raises(ExportError, match="embedding of torch has 32 numbers that are not finite"):
        verify(path, broken, images=make.images(2), metric=make.metric)


def test_a_metric_that_differs_or_is_not_a_number_is_refused(make, exported):
    path, reference = exported
    values = iter([0.90, 0.91])
    with pytest.raises(
        ExportError, match=r"accuracy is 0.9000 in torch but 0.9100 in ONNX Runtime.*limit 0.005"
    ):
        verify(path, reference, images=make.images(2), metric=lambda _: next(values), metric_name="accuracy")
    with pytest.raises(ExportError, match="nan in torch"):
        verify(path, reference, images=make.images(2), metric=lambda _: float("nan"))


def test_no_image_is_refused(make, exported):
    path, reference = exported
    with pytest.raises(ExportError, match="no held-out image"):
        verify(path, reference, images=make.images(0), metric=make.metric)


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
    assert smallest_cosine(zeros, row) == 1.0
    assert smallest_cosine(np.concatenate([zeros, row]), np.concatenate([row, row])) == 1.0
    assert smallest_cosine(row, zeros) == 0.0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"max_abs": 2e-4}, "max_abs=0.0002 exceeds the limit 0.0001"),
        ({"max_abs": float("nan")}, "max_abs=nan"),
        ({"max_abs_scores": 1.0}, "max_abs_scores=1 exceeds"),
        ({"min_cosine": 0.99}, "min_cosine=0.990000 is below the limit 0.9999"),
        ({"min_cosine": float("nan")}, "min_cosine=nan"),
        ({"metric_onnx": 0.8949}, "gap 0.0051 exceeds the limit 0.005"),
    ],
)
def test_each_figure_has_its_limit(change, message):
    refuse_mismatch(GOOD, ParityLimits())
    with pytest.raises(ExportError, match=message):
        refuse_mismatch(dataclasses.replace(GOOD, **change), ParityLimits())
