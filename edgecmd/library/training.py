"""Distillation in one place and over clients: the functions `distill`, `partition` and `federate`.

Shapes: N pairs, D embedding dimension.
"""

import copy
import math
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path

import numpy as np
from torch import nn

from edgecmd.arguments import as_float, refuse_other, refuse_outside, refuse_seed
from edgecmd.catalogue.data_sets import IN_PYTHON
from edgecmd.config.assemble import describe, device_for
from edgecmd.config.schema import RunConfig
from edgecmd.core.errors import ConfigError, PrivacyError
from edgecmd.core.files import named_path
from edgecmd.core.own_code import RAISED, told
from edgecmd.data.partition import MIN_PAIRS, Rows
from edgecmd.data.partition import partition as cut
from edgecmd.library.data import Pairs, labels_of
from edgecmd.library.results import Distilled, Federated
from edgecmd.library.task import Task
from edgecmd.losses import Loss, check_loss, loss_of, name_of
from edgecmd.models.any_student import fitted
from edgecmd.models.any_student import student as make_student
from edgecmd.models.devices import place
from edgecmd.models.digests import digest
from edgecmd.models.students import Student, refuse_dense
from edgecmd.privacy.mechanisms import default_loss
from edgecmd.privacy.plan import PrivacyPlan
from edgecmd.privacy.step.purity import require_pure
from edgecmd.run import Given, Run, check_modality
from edgecmd.settings import (
    NO_COMPRESSION,
    DataConfig,
    DistillConfig,
    EvaluateConfig,
    FederationConfig,
    PrivacyConfig,
    StudentConfig,
)
from edgecmd.training.distill import Place, distil, make_optimizer

Progress = Callable[[int, int, float], None]
# Steps between two calls of ``progress``; batches and views of each piece follow from the seed and its place.
PIECE = 50
MOST_STEPS = 10_000_000
LOSS_NUMBERS = ("temperature", "teacher_temperature", "baseline_temperature", "cmd_weight")
# Steps a client makes in a round where nothing says how many.
LOCAL_STEPS = 5


@dataclass(frozen=True, kw_only=True, eq=False)
class Partition:
    """Which client of a simulation holds which pairs.

    Attributes:
        parts: Rows of each client.
        by: What the partition follows, in words.
    """

    parts: tuple[Rows, ...]
    by: str

    def __len__(self) -> int:
        return len(self.parts)


def partition(
    pairs: Pairs, *, num_clients: int, by: str = "iid", alpha: float | int = 0.5, seed: int = 0
) -> Partition:
    """Divide pairs among the clients of a simulation.

    Args:
        pairs: The pairs.
        num_clients: Number of clients.
        by: ``iid``; ``owner`` (who made a pair); or ``module:function``, as docs/extending.md describes.
        alpha: Concentration, for partitions that have one.
        seed: Seed of the order.

    Raises:
        ConfigError: There are too few pairs, the partition is unknown, or the pairs lack what it follows.

    Guarantees:
        Each pair is with one client, each client has at least two, and equal arguments give equal parts.

    Examples:
        >>> images = np.zeros((6, 32, 32, 3), np.uint8)
        >>> pairs = Pairs(source=images, target=images, owner=["ann"] * 2 + ["bob"] * 4)
        >>> sorted(len(rows) for rows in partition(pairs, num_clients=2, by="owner").parts)
        [2, 4]
    """
    _require("pairs", pairs, Pairs)
    refuse_seed(seed)
    asked = FederationConfig(num_clients=num_clients, partition=by, alpha=as_float(alpha))
    none = labels_of([""] * len(pairs))
    owner = labels_of([str(one) for one in pairs.owner]) if pairs.owner else none
    return Partition(
        parts=cut(owner, none, none, by=by, num_clients=num_clients, seed=seed, alpha=asked.alpha), by=by
    )


def distill(  # noqa: PLR0913 - a recipe has many numbers
    task: Task,
    student: nn.Module | str,
    *,
    steps: int,
    loss: Loss | str = "cmc",
    seed: int = 0,
    batch_size: int = 64,
    learning_rate: float | int = 1e-2,
    schedule: str = "cosine",
    optimizer: str = "adamw",
    weight_decay: float | int = 0.0,
    augment: float | int = 1.0,
    num_anchors: int = 1024,
    precision: str = "float32",
    progress: Progress | None = None,
) -> Distilled:
    """Distil the task's teacher into a student, in one place and without privacy.

    Args:
        task: Pairs, teacher and public images.
        student: From `edgecmd.student`, a name it takes, or any module (B, C, H, W) to (B, F). A copy is
            trained.
        steps: Optimiser steps.
        loss: A loss of `edgecmd.losses`, by name or as an object, or your own (a subclass of `edgecmd.Loss`).
        seed: Seed of batches, views and anchors.
        batch_size: Pairs per step.
        learning_rate: Peak learning rate.
        schedule: ``cosine`` or ``constant``.
        optimizer: ``adamw`` or ``sgd``.
        weight_decay: Weight decay of the optimiser.
        augment: Strength of the augmentation of targets; 0 for none.
        num_anchors: Number of public teacher features that anchored losses use.
        precision: Of the student's layers in training, ``float32`` or ``bf16``; all else is float32.
        progress: Called with (steps done, total steps, mean loss) every 50 steps.

    Returns:
        The trained copy, with everything needed to evaluate and export it.

    Raises:
        ConfigError: A name is unknown, a number is out of range, or loss or student are not usable.

    Guarantees:
        Equal arguments give equal weights on one machine; ``student`` itself is unchanged.

    Examples:
        >>> from edgecmd.library.data import Images
        >>> images = np.random.default_rng(0).integers(0, 256, (8, 32, 32, 3), dtype=np.uint8)
        >>> task = Task(
        ...     pairs=Pairs(source=images, target=images[..., :1]),
        ...     teacher=nn.Sequential(nn.Conv2d(3, 8, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten()),
        ...     public=Images(images=images[::-1]),
        ... )
        >>> distill(task, "ws-50k", steps=2, batch_size=4).embed(images[:3, ..., :1]).shape
        (3, 8)
    """
    _require("task", task, Task)
    refuse_seed(seed)
    refuse_outside("steps", steps, least=1, most=MOST_STEPS)
    _refuse_mute(progress)
    settings = DistillConfig(
        loss=_loss_name(loss),
        batch_size=batch_size,
        learning_rate=as_float(learning_rate),
        schedule=schedule,
        optimizer=optimizer,
        weight_decay=as_float(weight_decay),
        augment=as_float(augment),
        num_anchors=num_anchors,
        precision=precision,
    )
    objective = _loss_of(loss, settings)
    trained = _placed(task, student, settings)
    state = make_optimizer(trained, settings)
    data, anchors = task.local_data(np.arange(len(task.pairs))), task.anchors(settings, seed=seed)
    done, mean, piece = 0, float("nan"), PIECE
    while done < steps:
        num = min(piece, steps - done)
        mean = distil(
            trained,
            data,
            anchors,
            settings,
            loss=objective,
            num_steps=num,
            place=Place(
                seed=seed, round_index=done // piece + 1, client=0, first_step=done, total_steps=steps
            ),
            optimizer=state,
        )
        done += num
        if not math.isfinite(mean):
            raise ConfigError(
                f"The loss is {mean} after {done} steps, so the student is unusable. Lower"
                f" learning_rate={settings.learning_rate:g}, or check the loss and the student."
            )
        if progress is not None:
            progress(done, steps, mean)
    return Distilled(task=task, student=trained.eval(), settings=settings, loss=mean, seed=seed)


def federate(  # noqa: PLR0913 - what a federation is made of
    task: Task,
    student: nn.Module | str,
    *,
    clients: Partition | Sequence[np.ndarray],
    rounds: int | None = None,
    local_steps: int | None = None,
    loss: Loss | str = "auto",
    privacy: PrivacyPlan | None = None,
    out: str | Path | None = None,
    seed: int = 0,
    batch_size: int | None = None,
    learning_rate: float | int = 1e-2,
    strategy: str = "fedavg",
    server_learning_rate: float | int = 1.0,
    server_momentum: float | int = 0.9,
    server_tau: float | int = 1e-3,
    proximal_mu: float | int = 0.0,
    client_fraction: float | int = 1.0,
    buffer_size: int = 0,
    max_staleness: int = 100,
    slowest: float | int = 1.0,
    compression: str = NO_COMPRESSION,
    top_share: float | int = 0.1,
    augment: float | int = 1.0,
    num_anchors: int = 1024,
    precision: str = "float32",
    clients_at_once: int = 1,
    num_workers: int = 1,
    progress: Progress | None = None,
) -> Federated:
    """Distil over simulated clients, each of which sees only its own pairs.

    Args:
        task: Pairs, teacher and public images.
        student: As in `distill`; its weights are the first weights of the federation.
        clients: From `partition`, or the rows of each client.
        rounds: Number of rounds; None: the plan's.
        local_steps: Optimiser steps per client and round; None: the plan's, otherwise 5.
        loss: As in `distill`; ``auto`` is the loss of the privacy plan, or ``cmc`` without one.
        privacy: A plan for the same numbers of rounds and local steps; None for no privacy.
        out: Run folder. The same call with the same objects continues an interrupted run, and returns at once
            if it is finished. None: a temporary folder.
        seed: Seed of everything except private noise, which comes from the operating system.
        batch_size: Pairs per step; None: the plan's, otherwise 64.
        learning_rate: Peak learning rate.
        strategy: The server's: fedavg, fedprox, fedavgm, fedadam, fedyogi, fedmedian, fedtrimmedavg, krum,
            multikrum.
        server_learning_rate: Step of ``fedavgm``, ``fedadam`` and ``fedyogi``; of the two last, some 0.01.
        server_momentum: Momentum of ``fedavgm``, and the first one of ``fedadam`` and ``fedyogi``.
        server_tau: What ``fedadam`` and ``fedyogi`` add to the root of the second moment.
        proximal_mu: Weight of FedProx's proximal term, for ``strategy="fedprox"``.
        client_fraction: Share of the clients that are asked in each round.
        buffer_size: 0: a round waits for the clients that it asked. Otherwise asynchronous rounds: all
            clients are kept busy, and a round ends as soon as this many answered; older answers weigh less.
        max_staleness: Asynchronous rounds: an answer to weights more rounds old than this is dropped.
        slowest: How many times as long the slowest client takes as the fastest, in simulated time; the others
            lie between, drawn from the seed. ``events.jsonl`` in ``out`` has each round's simulated seconds.
        compression: How weights travel: none, fp16, int8 or top-k.
        top_share: For top-k: share of the numbers of its change that a client sends.
        augment: Strength of the augmentation of targets; 0 for none.
        num_anchors: Number of public teacher features that anchored losses use.
        precision: As in `distill`; must be float32 with a plan whose unit is a pair.
        clients_at_once: How many clients with small steps train in one call; faster where a batch has a few
            small pairs, and the last digits of the weights differ. 1: one by one.
        num_workers: Number of processes; objects cannot travel to others, so more than 1 is refused.
        progress: Called with (rounds done, total rounds, mean loss); the loss is NaN under privacy.

    Raises:
        ConfigError: A name is unknown, a number is out of range, or loss, student or clients are not usable;
            or the folder holds a run with other objects or settings.
        PrivacyError: The plan is for another run, or loss or student mix pairs.
        FederationError: A round missed its quorum, or another process is using the folder.

    Guarantees:
        With a private plan: those of `edgecmd.privacy.step.private_step.distil_privately` for each client.
        Otherwise: equal arguments give equal weights on one machine.
    """
    from server.simulate import simulate

    _require("task", task, Task)
    refuse_seed(seed)
    _refuse_workers(num_workers)
    _refuse_mute(progress)
    given_out = None if out is None else named_path("out", out)
    rounds, local_steps = _length(privacy, rounds=rounds, local_steps=local_steps)
    parts = _parts(clients, num_pairs=len(task.pairs))
    asked = _sections(
        loss=loss, privacy=privacy, rounds=rounds, local_steps=local_steps, batch_size=batch_size
    )
    first = _placed(task, student, asked[0])
    if privacy is not None and privacy.unit == "pair":
        require_pure(first, in_channels=task.in_channels, image_size=task.size)
    work = replace(
        asked[0],
        learning_rate=as_float(learning_rate),
        augment=as_float(augment),
        num_anchors=num_anchors,
        precision=precision,
        proximal_mu=as_float(proximal_mu),
    )
    federation = FederationConfig(
        num_clients=len(parts),
        partition=IN_PYTHON,
        num_rounds=rounds,
        local_steps=local_steps,
        client_fraction=as_float(client_fraction),
        buffer_size=buffer_size,
        max_staleness=max_staleness,
        slowest=as_float(slowest),
        compression=compression,
        top_share=as_float(top_share),
        clients_at_once=clients_at_once,
        strategy=strategy,
        server_learning_rate=as_float(server_learning_rate),
        server_momentum=as_float(server_momentum),
        server_tau=as_float(server_tau),
    )
    with tempfile.TemporaryDirectory() as thrown_away:
        folder = given_out or Path(thrown_away) / "run"
        objects = Given(parts=parts, student=first, loss=_loss_of(loss, work))
        run = _run(task, folder, objects, distill=work, privacy=asked[1], federation=federation, seed=seed)
        if privacy is not None:
            _require_same_plan(privacy, run.plan)
        history: list[float] = []

        def report(one: object) -> None:
            mean = getattr(one, "loss", None)
            history.append(float("nan") if mean is None else float(mean))
            if progress is not None:
                progress(len(history), rounds, history[-1])

        trained = simulate(run, report=report)
        return Federated.of(run, trained, task=task, kept=out is not None, history=history)


def _run(
    task: Task,
    folder: Path,
    objects: Given,
    *,
    distill: DistillConfig,
    privacy: PrivacyConfig,
    federation: FederationConfig,
    seed: int,
) -> Run:
    """The run of the given objects, described by settings where possible and otherwise by digests."""
    digests = " ".join(
        f"{name} {digest(one)}"
        for name, one in (
            ("clients", [part.tolist() for part in objects.parts]),
            ("student", objects.student),
            ("loss", objects.loss),
        )
    )
    config = RunConfig(
        name=folder.name,
        out=str(folder.parent),
        seed=seed,
        device=str(task.device.type),
        data=DataConfig(name=IN_PYTHON, path=f"{task.fingerprint()} {digests}"),
        student=StudentConfig(architecture=objects.student.architecture),
        distill=distill,
        privacy=privacy,
        federation=federation,
        evaluate=EvaluateConfig(every_rounds=0),
    ).resolved()
    return Run(
        folder=folder,
        seed=seed,
        device=device_for(config),
        make_task=lambda: task,
        student=config.student,
        distill=config.distill,
        federation=federation,
        evaluate=config.evaluate,
        privacy=config.privacy,
        described=describe(config),
        given=objects,
    )


def _loss_name(loss: Loss | str) -> str:
    return loss if isinstance(loss, str) else name_of(loss)


def _loss_of(loss: Loss | str, settings: DistillConfig) -> Loss:
    """The loss as an object, tested first if it is the user's own."""
    if isinstance(loss, str):
        return loss_of(settings)
    checked = check_loss(loss)
    # Numbers that settings have too are in the ranges of those.
    known = {name: as_float(getattr(checked, name)) for name in LOSS_NUMBERS if hasattr(checked, name)}
    replace(settings, **known)
    return checked


def _placed(task: Task, student: nn.Module | str, settings: DistillConfig) -> Student:
    """A copy of the student on the task's device, for the task's inputs and the teacher's dimension."""
    try:
        own = copy.deepcopy(student)
    except RAISED as error:
        raise ConfigError(f"The student {type(student).__name__} cannot be copied: {told(error)}.") from error
    if isinstance(own, Student):
        made = fitted(own, dim=task.teacher_dim, in_channels=task.in_channels, size=task.size, seen=task.seen)
    else:
        made = make_student(own, dim=task.teacher_dim, in_channels=task.in_channels, size=task.size)
    if not made.architecture.startswith("<"):
        refuse_dense(made.architecture, what="The library")
        check_modality(made.architecture, settings, task.data)
    return place(made, task.device)


def _length(privacy: PrivacyPlan | None, *, rounds: int | None, local_steps: int | None) -> tuple[int, int]:
    """Rounds, and local steps in each: as given, otherwise the plan's."""
    if privacy is not None:
        _require("privacy", privacy, PrivacyPlan)
        rounds = privacy.num_rounds if rounds is None else rounds
        if privacy.unit == "pair" and local_steps is None:
            local_steps = privacy.steps_per_round
    if rounds is None:
        raise ConfigError("rounds is missing. Give a number, federate(..., rounds=60), or a plan.")
    return rounds, LOCAL_STEPS if local_steps is None else local_steps


def _parts(clients: Partition | Sequence[np.ndarray], *, num_pairs: int) -> tuple[Rows, ...]:
    """Rows of each client; wrong clients or rows are refused."""
    if not isinstance(clients, Partition | Sequence | np.ndarray) or isinstance(clients, str):
        raise ConfigError(
            f"clients is of type {type(clients).__name__}. Give what edgecmd.partition returns, or the rows"
            " of each client."
        )
    given = clients.parts if isinstance(clients, Partition) else tuple(np.asarray(one) for one in clients)
    if any(one.ndim != 1 for one in given):
        raise ConfigError(
            "clients contains something other than rows. Give one list of row numbers per client."
        )
    rows = np.concatenate(given) if given else np.zeros(0, np.int64)
    if not given or min(len(one) for one in given) < MIN_PAIRS:
        raise ConfigError(
            f"clients has {len(given)} parts, and each needs at least {MIN_PAIRS} pairs. Use fewer clients."
        )
    if rows.dtype.kind not in "iu" or rows.min() < 0 or rows.max() >= num_pairs:
        raise ConfigError(f"clients contains rows outside 0..{num_pairs - 1}, the rows of the task's pairs.")
    if len(np.unique(rows)) != len(rows):
        raise ConfigError(
            "clients gives a pair to two clients, or twice to one, so its privacy losses would not be added"
            " up. Give each pair to one client."
        )
    return given


def _sections(
    *, loss: Loss | str, privacy: PrivacyPlan | None, rounds: int, local_steps: int, batch_size: int | None
) -> tuple[DistillConfig, PrivacyConfig]:
    """Training and privacy settings, the plan's if there is one."""
    name = _loss_name(loss)
    if name == "auto":
        name = default_loss("none" if privacy is None else privacy.mechanism)
    if privacy is None:
        return DistillConfig(loss=name, batch_size=64 if batch_size is None else batch_size), PrivacyConfig()
    if (privacy.num_rounds, privacy.unit == "client" or privacy.steps_per_round) != (
        rounds,
        privacy.unit == "client" or local_steps,
    ):
        raise PrivacyError(
            f"The plan is for {privacy.num_rounds} rounds of {privacy.steps_per_round} steps, but the call"
            f" has rounds={rounds}, local_steps={local_steps}. Calibrate a plan for these:"
            " PrivacyPlan.calibrate(..., rounds=..., local_steps=...)."
        )
    size = privacy.batch_size if privacy.unit == "pair" else 64 if batch_size is None else batch_size
    if batch_size not in (None, size):
        raise PrivacyError(
            f"batch_size={batch_size}, but the plan divides its sums by {size}. Leave it out, or calibrate a"
            " plan with that batch_size."
        )
    return DistillConfig(loss=name, batch_size=size), privacy.settings()


def _require_same_plan(asked: PrivacyPlan, made: PrivacyPlan | None) -> None:
    if made is None or replace(made, loss="") != replace(asked, loss=""):
        differ = (
            []
            if made is None
            else [
                f"{one.name}={getattr(made, one.name)!r} where the plan has {getattr(asked, one.name)!r}"
                for one in fields(asked)
                if one.name != "loss" and getattr(made, one.name) != getattr(asked, one.name)
            ]
        )
        raise PrivacyError(
            f"The run would not follow the plan that was given: {'; '.join(differ) or 'it has none'}."
            " Calibrate a plan for this run: PrivacyPlan.calibrate(..., num_clients=...,"
            " client_fraction=...) with the numbers of this run."
        )


def _require(name: str, made: object, wanted: type) -> None:
    refuse_other(name, made, wanted, what=f"an edgecmd.{wanted.__name__}")


def _refuse_mute(progress: object) -> None:
    if progress is not None and not callable(progress):
        raise ConfigError(
            f"progress={progress!r} cannot be called. Give a function of (done, total, mean loss), or leave"
            " it out."
        )


def _refuse_workers(num_workers: int) -> None:
    if not isinstance(num_workers, int) or num_workers != 1:
        raise ConfigError(
            f"num_workers={num_workers!r}: objects in memory cannot travel to other processes. Leave it at 1,"
            " or name student, loss and data as 'module:factory' in settings and use `edgecmd simulate`."
        )
