"""The exported module against plain arithmetic, and getting at the student inside wrappers."""

import numpy as np
import pytest
import torch
from torch import nn

from edgecmd.core.errors import ConfigError, ExportError
from edgecmd.evaluation.metrics import embed_target
from export.graph.deployable import Deployable, rebuild, unwrap


class Wrapper(nn.Module):
    """Stands for torch.compile or a per-example gradient wrapper."""

    def __init__(self, name, inner):
        super().__init__()
        self.add_module(name, inner)


def test_outputs_are_those_of_evaluation_and_of_softmax_by_hand(make):
    spec, student, images = make.spec("ws-50k", head=True), make.student("ws-50k").eval(), make.images(3)
    with torch.no_grad():
        embedding, scores = Deployable(student, spec).eval()(torch.from_numpy(images))
    expected = embed_target(student, images, offset=spec.offset, scale=spec.scale)
    np.testing.assert_allclose(embedding.numpy(), expected, atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(embedding.numpy(), axis=1), 1.0, atol=1e-6)
    logits = expected @ spec.head.weight.T + spec.head.bias
    by_hand = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(scores.numpy(), by_hand, atol=1e-6)


def test_a_zero_feature_stays_zero(make):
    silent = nn.Sequential(nn.Flatten(), nn.Linear(32 * 32, 16))
    nn.init.zeros_(silent[1].weight)
    nn.init.zeros_(silent[1].bias)
    (embedding,) = Deployable(silent, make.spec("ws-50k"))(torch.zeros((1, 40, 32, 1), dtype=torch.uint8))
    assert torch.equal(embedding, torch.zeros((1, 16)))


# torch says so of itself when torch.compile is first used.
@pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated:DeprecationWarning")
def test_wrappers_are_taken_off_in_any_order(make):
    student = make.student("ws-50k")
    assert unwrap(Wrapper("_orig_mod", Wrapper("_module", student))) is student
    assert unwrap(Wrapper("_module", Wrapper("_orig_mod", student))) is student
    assert unwrap(torch.compile(student)) is student
    assert unwrap(student) is student


def test_rebuilding_gives_an_evaluating_copy_and_leaves_the_student_in_training(make):
    student = make.student("ws-50k").train()
    fresh = rebuild(Wrapper("_module", student), make.spec("ws-50k"))
    assert student.training
    assert not any(module.training for module in fresh.modules())
    assert all(torch.equal(a, b) for a, b in zip(student.parameters(), fresh.parameters(), strict=True))
    assert fresh.projector.weight is not student.projector.weight


def test_weights_of_another_architecture_are_refused(make):
    with pytest.raises(ExportError, match="do not fit architecture='gn-50k'"):
        rebuild(make.student("ws-50k"), make.spec("gn-50k"))


def test_an_unknown_architecture_is_refused_with_the_nearest_name(make):
    with pytest.raises(ConfigError, match="Did you mean 'ws-50k'"):
        rebuild(make.student("ws-50k"), make.spec("ws-50"))


def test_a_weight_that_is_not_finite_is_named(make):
    student = make.student("ws-50k")
    student.projector.weight.data[0, :2] = float("nan")
    with pytest.raises(ExportError, match=r"projector\.weight has 2 numbers that are not finite"):
        rebuild(student, make.spec("ws-50k"))
