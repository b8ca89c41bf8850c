"""A client's local work under record-level differential privacy; only the gradient is made differently."""

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from torch import nn

from edgecmd.data.on_device import sent
from edgecmd.models.trial import running_student
from edgecmd.privacy.plan import PrivacyPlan
from edgecmd.privacy.step.gradients import Sum, clipped_sum
from edgecmd.privacy.step.randomness import Source, normal
from edgecmd.privacy.step.sampling import step_rows
from edgecmd.privacy.step.standardised_weights import EffectiveStudent
from edgecmd.privacy.step.units import StepSettings, UnitLoss, Units, make_units
from edgecmd.settings import DistillConfig
from edgecmd.training.distill import LocalData, Place, add_proximal_gradient, scheduled
from edgecmd.training.optimise import optimise


@runtime_checkable
class StepProbe(Protocol):
    """An auditor inside the steps of one round; for `edgecmd.audits` and nothing else.

    An audit needs the very code that makes the releases: units whose gradient it chooses must be
    sampled by the same coins and drown in the same noise as the client's pairs, and the attacker that
    the accountant assumes sees each step's release, of which the weights after a round are only a
    function. A copy of the step in the audit would audit the copy. In each step it is asked in the order
    of its methods.
    """

    def __len__(self) -> int:
        """Units that take part beside the pairs, sampled as the rows after those of the pairs."""

    def form(self, rows: np.ndarray, chunks: Sequence[Units], total: Sum, /) -> None:
        """Look at the sampled rows, the units that were formed of the pairs, and their clipped sum.

        The student has the weights that the gradients were taken at; nothing may be changed.
        """

    def add(self, total: Sum, units: np.ndarray, /) -> None:
        """Add the sampled ``units`` (indices from 0) to the clipped sum, in place."""

    def see(self, released: Sum, /) -> None:
        """Look at what the step releases; it must not be changed."""


def distil_privately(  # noqa: PLR0913 - the last is for audits alone
    student: nn.Module,
    data: LocalData,
    config: DistillConfig,
    *,
    loss: UnitLoss,
    plan: PrivacyPlan,
    place: Place,
    optimizer: torch.optim.Optimizer,
    source: Source,
    probe: StepProbe | None = None,
) -> None:
    """Train ``student`` in place for the steps of one round.

    Args:
        student: Encoder of the target modality; changed.
        data: The client's pairs; any number, none included.
        config: Augmentation, schedule and FedProx.
        loss: Of one unit, whose gradient is clipped (`edgecmd.privacy.step.units.unit_loss`); whatever else
            it sees must be public.
        plan: Sampling, clip, noise and normaliser.
        place: Position in the schedule of the learning rate.
        optimizer: Over the student's parameters.
        source: Secret coins and noise.
        probe: For audits; None in every real run.

    Guarantees:
        With a private ``source``, and a loss of a unit that is a function of that unit alone, the weights
        after the call are differentially private under *add or remove one pair* with the cost
        ``plan.round_spending()``: every step releases the clipped sum plus ``N(0, plan.noise_std^2)``, and
        nothing else touches the pairs (`edgecmd.privacy.mechanisms`, Lemma 0). The map back to the parameters
        (`standardised_weights`), the optimiser, the schedule and FedProx's term are functions of what is
        released and of public constants. It holds for weights and anchors that an adversary chose. The number
        of steps, the divisor and the errors do not depend on the pairs; the time that a step takes does. A
        probe sees each step's release, which the accountant counts one by one, and it may add units of its
        own; the pairs are no less protected.
    """
    units = units_of(plan)
    reference = [parameter.detach().clone() for parameter in student.parameters()]
    student.train()
    effective = EffectiveStudent(student)
    num = len(data)
    steps = step_rows(
        num if probe is None else num + len(probe),
        sampling=plan.sampling,
        rate=plan.sampling_rate,
        num_bins=plan.num_bins,
        num_steps=plan.steps_per_round,
        source=source,
    )

    def gradient(_: int) -> None:
        rows = next(steps)
        chunks = make_units(data, rows[rows < num], config=units, augment=config.augment, source=source)
        effective.refresh()
        with running_student(student):
            total = clipped_sum(effective.module, chunks, loss, clip=plan.clip, engine=plan.engine)
        if probe is not None:
            probe.form(rows, chunks, total)
            probe.add(total, rows[rows >= num] - num)
        released = add_noise(total, plan=plan, source=source)
        if probe is not None:
            probe.see(released)
        for name, value in effective.pull_back(released).items():
            student.get_parameter(name).grad = value
        if config.proximal_mu:
            add_proximal_gradient(student, reference, mu=config.proximal_mu)

    schedule = scheduled(optimizer, config, first_step=place.first_step, total_steps=place.total_steps)
    optimise(optimizer, plan.steps_per_round, gradient=gradient, schedule=schedule)


def whole_sum(
    student: nn.Module,
    data: LocalData,
    config: DistillConfig,
    *,
    loss: UnitLoss,
    plan: PrivacyPlan,
    source: Source,
) -> np.ndarray:
    """The clipped sum over all of a client's pairs, without noise: what it brings to a secure sum.

    Args:
        student: Encoder of the target modality, with the weights that the gradients are taken at.
        data: The client's pairs; any number, none included.
        config: Augmentation.
        loss: Of one unit, whose gradient is clipped.
        plan: Clip and mechanism.
        source: Secret coins of views and buckets.

    Returns:
        float64, one number after the other of the parameters of `EffectiveStudent`'s copy.

    Guarantees:
        One pair more moves it by at most the mechanism's factor times ``plan.clip``.
    """
    student.train()
    effective = EffectiveStudent(student)
    chunks = make_units(
        data, np.arange(len(data)), config=units_of(plan), augment=config.augment, source=source
    )
    effective.refresh()
    with running_student(student):
        total = clipped_sum(effective.module, chunks, loss, clip=plan.clip, engine=plan.engine)
    return torch.cat([value.flatten() for value in total.values()]).cpu().numpy()


def num_summed(student: nn.Module) -> int:
    """Length of `whole_sum` for a student."""
    return sum(value.numel() for value in EffectiveStudent(student).module.parameters())


def gradient_of_sum(student: nn.Module, total: np.ndarray) -> dict[str, np.ndarray]:
    """What a sum of `whole_sum` over clients is for the student's own parameters: post-processing.

    Args:
        student: With the weights that the sum was taken at.
        total: float64 of the length of `num_summed`.

    Returns:
        For each parameter of the student, its shape.
    """
    effective = EffectiveStudent(student)
    effective.refresh()
    sums = by_parameter(effective, total)
    return {name: value.cpu().numpy() for name, value in effective.pull_back(sums).items()}


def by_parameter(effective: EffectiveStudent, total: np.ndarray) -> Sum:
    """A vector of `whole_sum` as the sum that it was made of."""
    sums, start = {}, 0
    for name, value in effective.module.named_parameters():
        part = torch.from_numpy(total[start : start + value.numel()])
        sums[name] = part.reshape(value.shape).to(value.device)
        start += value.numel()
    return sums


def units_of(plan: PrivacyPlan) -> StepSettings:
    """What `make_units` needs to know of ``plan``."""
    return StepSettings(
        mechanism=plan.mechanism,
        num_views=plan.num_views,
        num_groups=plan.num_groups,
        chunk_size=plan.chunk_size,
    )


def add_noise(total: Sum, *, plan: PrivacyPlan, source: Source) -> Sum:
    """What a step releases: ``(total + N(0, noise_std^2)) / normaliser``, in float64."""
    # A GPU works on the sums while the host draws.
    drawn = normal(source, sum(value.numel() for value in total.values()))
    drawn *= plan.noise_std
    noise = sent(torch.from_numpy(drawn), next(iter(total.values())).device)
    released, start = {}, 0
    for name, value in total.items():
        own = noise[start : start + value.numel()]
        released[name] = (value + own.reshape(value.shape)) / plan.normaliser
        start += value.numel()
    return released
