"""The run's own training again on a random half of its pairs, so that members and others are exchangeable.

One process, no Flower: clients, local steps, schedule, privacy and averaging are those of the run.
"""

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from jaxtyping import Bool, Int
from torch import Tensor

from edgecmd.config import RunConfig
from edgecmd.data.clients import client_rows, local_data, public_anchors, training_pairs
from edgecmd.distill import (
    LocalData,
    Place,
    distil,
    make_optimizer,
    optimizer_tensors,
    restore_optimizer,
)
from edgecmd.errors import ConfigError
from edgecmd.models.students import Student
from edgecmd.privacy.mechanisms import MECHANISMS
from edgecmd.privacy.plan import PrivacyPlan, make_plan
from edgecmd.privacy.randomness import make_source
from edgecmd.privacy.train import distil_privately
from edgecmd.runs import new_student
from edgecmd.seeding import numpy_generator

Tick = Callable[[int, int], None]
MEANS = ("fedavg", "fedprox")
State = dict[str, Tensor]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Cohort:
    """What the rounds need.

    Attributes:
        config: Settings of the run.
        plan: Its privacy; None without it.
        data: Pairs of each client that the coins kept.
        anchors: Public teacher features.
        optimizers: State of each client's optimiser, where it is kept.
    """

    config: RunConfig
    plan: PrivacyPlan | None
    data: Sequence[LocalData]
    anchors: Tensor
    optimizers: dict[int, State] = field(default_factory=dict)


def fair_coins(num: int, *, seed: int) -> Bool[np.ndarray, " num"]:
    """Which of ``num`` pairs take part: independent fair coins."""
    return np.asarray(numpy_generator(seed, "membership-coins").integers(0, 2, num) == 1)


def check_retrain(config: RunConfig) -> None:
    """Refuse what cannot be trained again in one process.

    Raises:
        ConfigError: The strategy is no mean, or whole clients are protected.
    """
    strategy, mechanism = config.federation.strategy, config.privacy.mechanism
    if strategy not in MEANS:
        raise ConfigError(
            f"--retrain averages clients ({', '.join(MEANS)}); federation.strategy={strategy!r} does not."
            " Audit the shipped model without --retrain."
        )
    if mechanism != "none" and MECHANISMS[mechanism].unit != "pair":
        raise ConfigError(
            f"--retrain asks about single pairs, and privacy.mechanism={mechanism!r} protects whole clients."
            " Audit the shipped model without --retrain."
        )


def retrain(config: RunConfig, keep: Bool[np.ndarray, " num"], *, tick: Tick) -> Student:
    """Train as the run did, on the training pairs where ``keep`` holds.

    Args:
        config: Settings of the run.
        keep: Which training pairs take part, (N,).
        tick: Told how many rounds are done.

    Raises:
        ConfigError: See `check_retrain`.
    """
    check_retrain(config)
    cohort = Cohort(
        config=config,
        plan=make_plan(config),
        data=[_holding(config, rows[keep[rows]]) for rows in client_rows(config)],
        anchors=public_anchors(config),
    )
    student, rounds = new_student(config), config.federation.num_rounds
    for index in range(1, rounds + 1):
        _round(student, cohort, index=index)
        tick(index, rounds)
    return student.eval()


def _holding(config: RunConfig, rows: Int[np.ndarray, " num"]) -> LocalData:
    return local_data(config, *training_pairs(config, rows))


def _round(student: Student, cohort: Cohort, *, index: int) -> None:
    """One round: every asked client starts at ``student``, which becomes their mean."""
    federation, seed = cohort.config.federation, cohort.config.seed
    # A client without a contrast takes no part; under privacy that would tell, so there it does.
    able = [one for one, data in enumerate(cohort.data) if cohort.plan is not None or len(data) > 1]
    asked = max(1, round(len(able) * federation.client_fraction))
    chosen = numpy_generator(seed, "audit-cohort", round_index=index).permutation(able)[:asked]
    total: dict[str, Tensor] = {}
    weight = 0.0
    for client in sorted(chosen.tolist()):
        local = copy.deepcopy(student)
        _local(local, cohort, client=client, index=index)
        share = 1.0 if cohort.plan is not None else float(len(cohort.data[client]))
        weight += share
        for name, value in local.state_dict().items():
            total[name] = total.get(name, torch.zeros_like(value, dtype=torch.float64)) + share * value
    start = student.state_dict()
    student.load_state_dict({name: (value / weight).to(start[name].dtype) for name, value in total.items()})


def _local(student: Student, cohort: Cohort, *, client: int, index: int) -> None:
    config, plan = cohort.config, cohort.plan
    optimizer, steps = make_optimizer(student, config.distill), config.federation.local_steps
    if config.distill.keep_optimizer:
        restore_optimizer(optimizer, cohort.optimizers.get(client, {}))
    here = Place(
        seed=config.seed,
        round_index=index,
        client=client,
        first_step=(index - 1) * steps,
        total_steps=config.federation.num_rounds * steps,
    )
    data, distill = cohort.data[client], config.distill
    if plan is None:
        distil(student, data, cohort.anchors, distill, num_steps=steps, place=here, optimizer=optimizer)
    else:
        source = make_source(
            deterministic=plan.deterministic, seed=config.seed, round_index=index, client=client
        )
        distil_privately(
            student,
            data,
            cohort.anchors,
            distill,
            plan=plan,
            place=here,
            optimizer=optimizer,
            source=source,
        )
    if config.distill.keep_optimizer:
        cohort.optimizers[client] = optimizer_tensors(optimizer)
