"""Few masks: the head by hand, early stopping on held-out images alone, and views of masks."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from edgecmd.config.schema import RunConfig
from edgecmd.data.labelled import IGNORED
from edgecmd.evaluation.segmenter import (
    HEAD_SCALE,
    Drawn,
    Segmenter,
    class_weights,
    finetune,
    fit_probe,
    held_loss,
    hold_out,
    labelled_views,
    predict_masks,
)
from edgecmd.models.students import DenseStudent, build_student
from edgecmd.settings import EvaluateConfig
from tests.tiny_federation import run_of

CONFIG = RunConfig(evaluate=EvaluateConfig(segment_steps=40))


def student() -> DenseStudent:
    generator = torch.Generator().manual_seed(0)
    made = build_student("seg-50k", in_channels=1, embedding_dim=8, generator=generator)
    assert isinstance(made, DenseStudent)
    return made


def drawn(num: int = 10, held: int = 2) -> Drawn:
    """Pictures that are dark on one side; the mask says which side, and one row does not count."""
    generator = np.random.default_rng(0)
    target, mask = np.ones((num, 1, 32, 32), np.float32), np.zeros((num, 32, 32), np.int64)
    for row in range(num):
        cut = int(generator.integers(8, 24))
        target[row, :, :, cut:], mask[row, :, cut:] = -1.0, 1
    target += generator.normal(0, 0.1, target.shape).astype(np.float32)
    mask[:, 0] = IGNORED
    return Drawn(
        target=torch.from_numpy(target),
        mask=torch.from_numpy(mask),
        held=np.arange(num) < held,
        num_classes=3,
        modality="image",
    )


def predicted(model: Segmenter, shown: Drawn) -> np.ndarray:
    return np.concatenate(list(predict_masks(model, shown.target)))


def accuracy(model: Segmenter, shown: Drawn) -> float:
    mask = shown.mask.numpy()
    return float((predicted(model, shown) == mask)[mask != IGNORED].mean())


def test_scores_are_the_head_on_unit_places_by_hand() -> None:
    model = Segmenter(student(), num_classes=3).eval()
    torch.nn.init.normal_(model.head.weight, generator=torch.Generator().manual_seed(1))
    given = drawn(2).target
    with torch.no_grad():
        found = model(given)
        place = torch.nn.functional.normalize(model.student(given), dim=1)
    weight, bias = model.linear_head()
    # A place's own score stands between the four pixels in its middle: their mean is nearly it.
    expected = np.einsum("bdrq,kd->bkrq", place.numpy(), weight) + bias[:, None, None]
    middle = found.numpy().reshape(2, 3, 8, 4, 8, 4)[:, :, :, 1:3, :, 1:3].mean(axis=(3, 5))
    assert found.shape == (2, 3, 32, 32)
    assert np.corrcoef(middle.ravel(), expected.ravel())[0, 1] > 0.99
    assert weight == pytest.approx(model.head.weight.detach().numpy()[..., 0, 0] * HEAD_SCALE)


def test_the_probe_and_the_fine_tuning_learn_and_leave_the_student_alone() -> None:
    own, shown = student(), drawn()
    before = {name: value.clone() for name, value in own.state_dict().items()}
    probe = fit_probe(own, shown, generator=np.random.default_rng(0))
    first = accuracy(probe, shown)
    tuned = finetune(probe, shown, run_of(CONFIG), rate=1e-3, draw=0)
    assert first > 0.6
    assert accuracy(tuned, shown) > 0.9
    assert all(torch.equal(value, before[name]) for name, value in own.state_dict().items())
    assert (predicted(tuned, shown) < 2).all(), "a class that no label has is never named"


def test_the_best_weights_are_those_of_the_held_out_images() -> None:
    shown = drawn()
    probe = fit_probe(student(), shown, generator=np.random.default_rng(0))
    start = held_loss(probe, shown)
    # A rate that destroys what it touches: then the weights before the first step count.
    tuned = finetune(probe, shown, run_of(CONFIG), rate=10.0, draw=0)
    assert held_loss(tuned, shown) <= start


def test_a_class_weighs_one_over_the_root_of_its_share_by_hand() -> None:
    shown = drawn(num=3, held=1)
    mask = torch.zeros_like(shown.mask)
    mask[0] = 2  # held out: not looked at
    mask[1:, :4] = 1  # an eighth of 32 rows
    mask[1, 8:16] = IGNORED
    weight = class_weights(replace(shown, mask=mask))
    rare = 8 / (2 * 32 - 8)
    expected = torch.tensor([(1 - rare) ** -0.5, rare**-0.5, 0.0])
    expected /= expected[0] * (1 - rare) + expected[1] * rare
    torch.testing.assert_close(weight, expected)


def test_the_held_out_loss_is_weighted_and_leaves_out_what_nobody_could_learn() -> None:
    shown = drawn(num=3, held=1)
    mask = torch.zeros_like(shown.mask)
    mask[1:, :4], mask[0, :2], mask[0, 2:5] = 1, 1, 2
    weight = class_weights(replace(shown, mask=mask))
    even = Segmenter(student(), num_classes=3)
    expected = np.log(3) * 32 * (2 * float(weight[1]) + 27 * float(weight[0]))
    assert held_loss(even, replace(shown, mask=mask)) == pytest.approx(expected, rel=1e-5)


def test_masks_where_nothing_counts_weigh_nothing() -> None:
    shown = drawn(num=2, held=0)
    weight = class_weights(replace(shown, mask=torch.full_like(shown.mask, IGNORED)))
    assert weight.tolist() == [0.0, 0.0, 0.0]


def test_held_out_images_are_not_trained_on() -> None:
    shown = drawn()
    poisoned = replace(shown, target=shown.target.clone())
    poisoned.target[shown.held] = 1e6
    models = [fit_probe(student(), one, generator=np.random.default_rng(0)) for one in (shown, poisoned)]
    assert torch.equal(models[0].head.weight, models[1].head.weight)


def test_equal_settings_give_equal_segmenters() -> None:
    def train() -> torch.Tensor:
        model = fit_probe(student(), drawn(), generator=np.random.default_rng(0))
        return finetune(model, drawn(), run_of(CONFIG), rate=1e-3, draw=3).head.weight

    assert torch.equal(train(), train())


def test_one_class_alone_is_named_everywhere() -> None:
    shown = drawn()
    shown = replace(shown, mask=torch.full_like(shown.mask, 2))
    model = fit_probe(student(), shown, generator=np.random.default_rng(0))
    assert (predicted(model, shown) == 2).all()


@pytest.mark.parametrize(("num", "expected"), [(1, 0), (2, 1), (4, 1), (10, 2), (100, 20)])
def test_a_fifth_is_held_out(num: int, expected: int) -> None:
    assert hold_out(num, generator=np.random.default_rng(0)).sum() == expected


def test_a_mask_moves_with_its_picture_and_what_comes_from_outside_is_ignored() -> None:
    shown = drawn(64)
    shown = replace(shown, target=2.0 * (0.5 - (shown.mask == 1).float())[:, None])
    everything = torch.arange(64)
    view, mask = labelled_views(shown, everything, strength=1.0, generator=torch.Generator().manual_seed(0))
    counted = mask != IGNORED
    # Bilinear at the cut, nearest in the mask: they may differ along one column and in the row not counted.
    agree = ((view[:, 0] < 0).long() == mask)[counted].float().mean()
    assert float(agree) > 0.95
    assert float((~counted).float().mean()) > float((shown.mask == IGNORED).float().mean())
    assert sorted(mask.unique().tolist()) == [0, 1, IGNORED]
    same, own = labelled_views(shown, everything, strength=0.0, generator=torch.Generator())
    assert torch.equal(own, shown.mask)
    assert torch.equal(same, shown.target)
