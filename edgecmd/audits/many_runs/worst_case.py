"""A worst-case pair of neighbouring data sets, small enough to train on a thousand times.

All pairs but one are copies: one image, with the teacher feature that is farthest from where the
student puts it. The canary has the same image and a feature on the other side. An in-batch contrast
is content with the copies alone (they are all alike), and turns the gradients of all of them round
once the canary is in the batch. A loss of each pair alone just gets one more gradient.

Shapes: N pairs, K anchors, D embedding dimension, P parameters.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn

from edgecmd.audits.static.scripted import settings_work, step_query
from edgecmd.audits.static.search import pair_makers
from edgecmd.core.seeding import torch_generator
from edgecmd.losses import unit
from edgecmd.privacy.plan import PrivacyPlan
from edgecmd.privacy.step.gradients import clipped_sum
from edgecmd.privacy.step.units import Units
from edgecmd.settings import DistillConfig
from edgecmd.training.distill import LocalData

IMAGE_SIZE = 4
HIDDEN = 32
EMBEDDING_DIM = 8
NUM_ANCHORS = 64


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class WorstCase:
    """What every run of an experiment starts from.

    Attributes:
        student: Its initial weights; a run trains a copy.
        data: The larger data set; the canary is the last pair.
        anchors: Public teacher features, (K, D).
    """

    student: nn.Module
    data: LocalData
    anchors: Tensor

    def pairs(self, *, included: bool) -> LocalData:
        """The data with or without the canary."""
        last = len(self.data) if included else len(self.data) - 1
        return LocalData(target=self.data.target[:last], teacher=self.data.teacher[:last])


def make_worst_case(*, seed: int, num_pairs: int) -> WorstCase:
    """The pair, the tiny student (a perceptron of 808 parameters) and random anchors.

    Args:
        seed: Seed of all three.
        num_pairs: Pairs without the canary, at least 2.
    """
    coins = torch_generator(seed, "audit-worst-case")
    student = tiny_student(coins)
    makers = pair_makers(
        student,
        num_pairs=num_pairs + 1,
        in_channels=1,
        image_size=IMAGE_SIZE,
        embedding_dim=EMBEDDING_DIM,
    )
    found = makers["duplicates"](coins)
    order = torch.from_numpy(np.append(found.smaller(), found.added))
    return WorstCase(
        student=student,
        data=LocalData(target=found.data.target[order], teacher=found.data.teacher[order]),
        anchors=unit(torch.randn((NUM_ANCHORS, EMBEDDING_DIM), generator=coins)),
    )


def tiny_student(generator: torch.Generator) -> nn.Module:
    """A perceptron of 4 x 4 pixels, whose weights ``generator`` draws."""
    inputs = IMAGE_SIZE**2
    student = nn.Sequential(
        nn.Flatten(), nn.Linear(inputs, HIDDEN), nn.Tanh(), nn.Linear(HIDDEN, EMBEDDING_DIM)
    )
    with torch.no_grad():
        for parameter in student.parameters():
            fan_in = parameter.shape[-1] if parameter.ndim > 1 else 4 * inputs
            parameter.copy_(torch.randn(parameter.shape, generator=generator) / fan_in**0.5)
    return student


def flat(values: Mapping[str, Tensor]) -> np.ndarray:
    """Parameters or a sum over them as one float64 vector, (P,), in the mapping's order."""
    return torch.cat([value.detach().double().flatten() for value in values.values()]).numpy()


def canary_direction(case: WorstCase, config: DistillConfig, *, plan: PrivacyPlan) -> np.ndarray:
    """Where the canary moves the weights, seen against the noise: what a perfect attacker looks along.

    With ``g`` the canary's share of an expected step's sum and ``u`` that of a copy, the released sum
    has covariance ``s^2 I + n q (1 - q) u u^T``; the best linear score is along the inverse times ``-g``.

    Args:
        case: The pair.
        config: Loss and its temperatures.
        plan: Mechanism, sampling and noise.

    Returns:
        Direction in the student's parameters, (P,).
    """
    drawn, num = _expected_batch(case, plan)
    query = step_query(case.student, settings_work(config, case.anchors), plan=replace(plan, engine="vmap"))
    some, more, canary = (
        flat(one)
        for one in query(
            [
                (case.data, drawn),
                (case.data, np.append(drawn, num - 1)),
                (case.data, np.append(drawn, num)),
            ]
        )
    )
    wanted, copy = some - canary, more - some
    spread = num * plan.sampling_rate * (1.0 - plan.sampling_rate)
    shrink = spread / (plan.noise_std**2 + spread * float(copy @ copy))
    return np.asarray(wanted - copy * (copy @ wanted) * shrink)


def batch_direction(
    case: WorstCase, loss: Callable[[Tensor, Tensor], Tensor], *, plan: PrivacyPlan
) -> np.ndarray:
    """Where the canary moves the weights under a loss over the batch whose rows are clipped one by one.

    The gradient that hooks take of a row is the sum of *all* losses' gradients with respect to that row.

    Args:
        case: The pair.
        loss: Losses (B,) of student embeddings (B, D) and teacher features (B, D).
        plan: Clip and sampling.

    Returns:
        Direction in the student's parameters, (P,).
    """
    drawn, num = _expected_batch(case, plan)

    def total(rows: np.ndarray) -> np.ndarray:
        image, teacher = case.data.target[rows], case.data.teacher[rows]
        output = case.student(image).detach().requires_grad_()
        (at_output,) = torch.autograd.grad(loss(output, teacher).sum(), output)
        units = Units(
            images=image[:, None], teacher=at_output[:, None], mask=torch.ones(len(rows), 1, dtype=torch.bool)
        )
        return flat(
            clipped_sum(
                case.student, [units], lambda z, pull, _: (z * pull).sum(), clip=plan.clip, engine="vmap"
            )
        )

    return np.asarray(total(drawn) - total(np.append(drawn, num)))


def _expected_batch(case: WorstCase, plan: PrivacyPlan) -> tuple[np.ndarray, int]:
    """As many copies as a step draws on average, at most all but one; and the canary's row."""
    num = len(case.data) - 1
    return np.arange(min(num - 1, max(1, round(plan.sampling_rate * num)))), num
