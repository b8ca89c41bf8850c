"""The ways to train that a many-run audit compares, each through the code that a user would run.

- ``edgecmd``: `edgecmd.privacy.step.private_step.distil_privately`, round by round;
- ``opacus``: an unmodified ``opacus.PrivacyEngine`` with hooks, its Poisson loader, optimiser and
  accountant, around whatever loss is given.

Both start from the same weights and pairs and take the same noise multiplier, clip, sampling rate and
number of steps, with plain gradient descent. Its rate is so small that the weights stay where they are,
and so is what the noise has to hide; the guarantee does not depend on the rate or the optimiser.
"""

import copy
import logging
import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from itertools import chain, repeat
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from edgecmd.audits.many_runs.worst_case import WorstCase, batch_direction, canary_direction, flat
from edgecmd.core.errors import choose
from edgecmd.core.seeding import torch_generator
from edgecmd.losses import loss_of
from edgecmd.privacy.mechanisms import has_unit_form
from edgecmd.privacy.plan import PrivacyPlan
from edgecmd.privacy.step.private_step import distil_privately
from edgecmd.privacy.step.randomness import DeterministicSource
from edgecmd.privacy.step.units import unit_loss
from edgecmd.settings import DistillConfig
from edgecmd.training.distill import LocalData, Place
from edgecmd.training.optimise import optimise

# Of a clipped sum, over all steps together: 32 pairs of norm 1 move the weights by less than 0.1.
TOTAL_RATE = 1.6e-3


@dataclass(frozen=True, kw_only=True, slots=True)
class Arm:
    """One way to train, with everything that a worker process needs to know.

    Attributes:
        key: Name of its folder.
        title: What a table calls it.
        trainer: A key of `TRAINERS`.
        loss: Name of ``cmc``, the in-batch contrast that no mechanism takes, or of a loss of the plan's.
        plan: Mechanism, clip, noise, sampling, steps of a round and rounds.
        distill: Temperatures of the loss.
        seed: Seed of the pair and of all runs.
        num_pairs: Pairs without the canary.
    """

    key: str
    title: str
    trainer: str
    loss: str
    plan: PrivacyPlan
    distill: DistillConfig
    seed: int
    num_pairs: int

    @property
    def num_steps(self) -> int:
        """Noised releases of a run."""
        return self.plan.steps_per_round * self.plan.num_rounds

    @property
    def rate(self) -> float:
        """What a step multiplies the noised sum with."""
        return TOTAL_RATE / (self.num_steps * self.plan.clip)

    def table(self) -> dict[str, Any]:
        """Plain values, all of which a resumed experiment must share."""
        return asdict(self)


def train(arm: Arm, case: WorstCase, *, included: bool, run: int) -> np.ndarray:
    """Train once; what is returned is all that the holder of a device sees.

    Args:
        arm: How.
        case: The pair that ``arm.seed`` and ``arm.num_pairs`` make.
        included: Whether the canary is in the data.
        run: Index of the run; with ``included`` and the arm's seed it fixes all coins and noise.

    Returns:
        Final minus initial weights, (P,).
    """
    student = copy.deepcopy(case.student)
    trainer = choose("trainer", arm.trainer, TRAINERS)
    trainer(arm, case, student, case.pairs(included=included), 2 * run + int(included))
    before, after = (flat(dict(one.named_parameters())) for one in (case.student, student))
    return np.asarray(after - before)


def claimed_epsilon(arm: Arm, case: WorstCase) -> float:
    """Epsilon that the arm's own accountant prints: edgecmd's plan, or Opacus' engine after a run."""
    if arm.trainer == "edgecmd":
        return arm.plan.epsilon_after(arm.plan.num_rounds)
    engine = _opacus(arm, case, copy.deepcopy(case.student), case.pairs(included=False), 0)
    with quiet():
        return float(engine.get_epsilon(arm.plan.delta))


def analytic_direction(arm: Arm, case: WorstCase) -> np.ndarray:
    """Where the canary moves the weights of this arm, (P,): what an attacker knows before any run."""
    loss = loss_of(replace(arm.distill, loss=arm.loss))
    if not has_unit_form(loss):
        return batch_direction(
            case, lambda student, teacher: loss(student, teacher, case.anchors), plan=arm.plan
        )
    return canary_direction(case, replace(arm.distill, loss=arm.loss), plan=arm.plan)


def _edgecmd(arm: Arm, case: WorstCase, student: nn.Module, data: LocalData, client: int) -> None:
    plan = arm.plan
    config = replace(
        arm.distill,
        loss=arm.loss,
        learning_rate=arm.rate * plan.normaliser,
        schedule="constant",
        augment=0.0,
        proximal_mu=0.0,
    )
    optimizer = torch.optim.SGD(student.parameters(), lr=config.learning_rate)
    for index in range(1, plan.num_rounds + 1):
        distil_privately(
            student,
            data,
            config,
            loss=unit_loss(loss_of(config), case.anchors),
            plan=plan,
            # A schedule of one step has no warm-up, so that all steps weigh the same.
            place=Place(seed=arm.seed, round_index=index, client=client, first_step=0, total_steps=1),
            optimizer=optimizer,
            source=DeterministicSource(arm.seed, round_index=index, client=client),
        )


def _opacus(arm: Arm, case: WorstCase, student: nn.Module, data: LocalData, client: int) -> Any:  # noqa: ANN401
    """Train with Opacus; returns its engine."""
    from opacus import PrivacyEngine

    coins = torch_generator(arm.seed, "audit-opacus-coins", client=client)
    noise = torch_generator(arm.seed, "audit-opacus-noise", client=client)
    # Opacus derives the rate from the loader's length, which must not depend on the canary.
    length = round(1.0 / arm.plan.sampling_rate)
    loader: DataLoader[tuple[Tensor, ...]] = DataLoader(
        TensorDataset(data.inputs, data.features), batch_size=math.ceil(len(data) / length), generator=coins
    )
    with quiet():
        engine = PrivacyEngine(accountant="prv")
        hooked, optimizer, loader = engine.make_private(
            module=student,
            optimizer=torch.optim.SGD(student.parameters(), lr=arm.rate),
            data_loader=loader,
            noise_multiplier=arm.plan.noise_multiplier,
            max_grad_norm=arm.plan.clip,
            loss_reduction="sum",
            noise_generator=noise,
        )
        loss = loss_of(replace(arm.distill, loss=arm.loss))
        batches = chain.from_iterable(repeat(loader))

        def gradient(_: int) -> None:
            image, teacher = next(batches)
            torch.autograd.backward(loss(hooked(image), teacher, case.anchors).sum())

        optimise(optimizer, arm.num_steps, gradient=gradient)
    return engine


@contextmanager
def quiet() -> Iterator[None]:
    """Drop what Opacus says of its pseudo-random noise (meant so here) and of images without gradient."""
    logger = logging.getLogger("opacus")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Secure RNG turned off")
            warnings.filterwarnings("ignore", message="Full backward hook is firing")
            yield
    finally:
        logger.setLevel(level)


TRAINERS = {"edgecmd": _edgecmd, "opacus": _opacus}
