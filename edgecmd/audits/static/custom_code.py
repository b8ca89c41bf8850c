"""A user's own loss and student in Python, tested against what clipping per pair would promise.

The protocol. A loss is a function ``loss(student, teacher, anchors)``: student embeddings (B, D) of any
norm with gradient, teacher features (B, D) and public anchors (K, D) of norm 1, both constants. As a
*batch loss* it returns (B,), one value for each pair, and is clipped as Opacus clips it; as a *unit
loss* it is asked for one pair at a time (B = 1), returns a scalar, and is clipped by the engines of
edgecmd. With a temperature it is called with the keyword ``temperature`` too. A class of
`edgecmd.losses.Loss` is made and called. A student is made by a function without arguments that returns
a ``torch.nn.Module`` from scaled images (B, C, H, W) to (B, D).

Shapes: B batch, C channels, H height, W width, K anchors, D embedding dimension.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from edgecmd.audits.audited_student import Subject, subjects
from edgecmd.audits.finding import CONTRADICTED, INDICATOR, Finding
from edgecmd.audits.static.opacus_reference import BatchLoss, naive_query
from edgecmd.audits.static.purity_findings import batch_loss_purity, student_purity, unit_loss_purity
from edgecmd.audits.static.scripted import bare_plan, loss_work, step_query
from edgecmd.audits.static.search import distance
from edgecmd.audits.static.sensitivity import (
    Effort,
    Question,
    acting_copy,
    batch_question,
    makers_of,
    search,
)
from edgecmd.audits.target import Target
from edgecmd.core.errors import ConfigError, PrivacyError, choose
from edgecmd.core.own_code import RAISED, call_factory, load_factory
from edgecmd.core.progress import Tick, ticker
from edgecmd.core.seeding import torch_generator
from edgecmd.losses import Loss, cmc_anchored, unit
from edgecmd.models.trial import embeddings_of
from edgecmd.privacy.mechanisms import MECHANISMS
from edgecmd.privacy.step.gradients import ENGINES
from edgecmd.privacy.step.units import UnitLoss
from edgecmd.run import Run

BATCH_ENGINES = {"opacus": "hooks", "opacus-ghost": "ghost"}
# A pair moves the sum in proportion to the batch: 508 C at 256. One pair of each kind shows it.
BATCH_EFFORT = Effort(num_tries=5, num_pairs=256, climb_length=1)
UNIT_EFFORT = Effort(num_tries=96, num_pairs=8)
CHECK_ROWS = 4
# D of a student that no teacher gives the width of.
NEW_DIM = 128
OwnLoss = Callable[..., Any]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class OwnCode:
    """What is checked.

    Attributes:
        name: How the user named the loss.
        loss: The user's function.
        per_unit: Whether it is a unit loss.
        engine: A key of `BATCH_ENGINES`, for a unit loss of `edgecmd.privacy.step.gradients.ENGINES`.
        clip: C.
        temperature: Handed on as a keyword where it is given.
        seed: Of the search.
    """

    name: str
    loss: OwnLoss
    per_unit: bool
    engine: str
    clip: float
    temperature: float | None = None
    seed: int = 0


def own_loss(text: str, *, temperature: float | None, per_unit: bool) -> OwnLoss:
    """The function that ``text`` names; of a class of `edgecmd.losses.Loss`, what one computes.

    Args:
        text: ``module:name`` or ``file.py:name``.
        temperature: A number of the class, where it has one.
        per_unit: Whether a scalar for one pair is asked for.

    Raises:
        ConfigError: It cannot be had.
    """
    found = load_factory("--loss", text, files=True)
    if not (isinstance(found, type) and issubclass(found, Loss)):
        return found
    offered = {} if temperature is None else {"temperature": temperature}
    made: Loss = call_factory("--loss", text, offered=offered, files=True)

    def loss(student: Tensor, teacher: Tensor, anchors: Tensor, **_: float) -> Tensor:
        value = made(student, teacher, anchors)
        return value.mean() if per_unit else value

    return loss


def own_student(name: str, *, in_channels: int, image_size: int) -> tuple[nn.Module, int]:
    """The student that the user's factory makes, tried on a few images, and the width D that it gives.

    Args:
        name: ``module:factory`` or ``file.py:factory``; called without arguments.
        in_channels: C.
        image_size: H and W.

    Raises:
        ConfigError: The factory is missing or fails, or what it makes is not an encoder of such images.
    """
    student = call_factory("--student", name, offered={}, files=True)
    if not isinstance(student, nn.Module):
        raise ConfigError(
            f"--student={name!r} made an object of type {type(student).__name__}, not a torch.nn.Module."
            " Return an encoder (B, C, H, W) -> (B, D)."
        )
    shape = (in_channels, image_size, image_size)
    wanted = "images of --channels and --set data.image_size"
    return student, embeddings_of(student, shape, what=f"--student={name!r}", wanted=wanted).shape[1]


def own_subject(name: str, run: Run, *, side: int, in_channels: int, embedding_dim: int = NEW_DIM) -> Subject:
    """A student without a data set, with random unit vectors as anchors.

    Args:
        name: Factory of the user's student; empty for a new one of ``student.architecture``.
        run: Architecture, number of anchors and seed.
        side: Side of an image in pixels.
        in_channels: C.
        embedding_dim: D of a new student; an own one has its own.

    Raises:
        ConfigError: The factory fails, or the architecture is unknown.
    """
    if not name:
        student: nn.Module = run.build(
            (in_channels, side, side), embedding_dim, generator=torch_generator(run.seed, "student-init")
        )
    else:
        student, embedding_dim = own_student(name, in_channels=in_channels, image_size=side)
    return Subject(
        name="own student" if name else "first weights",
        student=student,
        anchors=random_anchors(run.distill.num_anchors, embedding_dim, seed=run.seed),
        in_channels=in_channels,
        image_size=side,
    )


def subject_of(run: Run, target: Target | None, *, student: str, channels: int) -> Subject:
    """The student that own code is checked with: the user's own, else the target's, else a new one.

    Args:
        run: Settings of a student without a target.
        target: Gives the student and the anchors, where there is one.
        student: Factory of the user's student; empty for none.
        channels: C of a student without a target.

    Raises:
        ConfigError: The factory fails, or its embeddings are not as wide as the target's anchors.
        DataError: The target's student or data set is damaged.
    """
    known = subjects(target)[0] if target is not None else None
    if known is not None and not student:
        return known
    made = own_subject(student, run, side=int(run.described.flat["data.image_size"]), in_channels=channels)
    if known is None:
        return made
    if known.embedding_dim != made.embedding_dim:
        raise ConfigError(
            f"--student={student!r} gives embeddings of dimension {made.embedding_dim}, the run's teacher"
            f" {known.embedding_dim}. Make it return the teacher's dimension, or leave the run out."
        )
    return replace(made, anchors=known.anchors)


def own_code(
    run: Run, loss: str, *, unit_loss: bool, engine: str, clip: float | None, temperature: float | None
) -> OwnCode:
    """What is checked, with what follows from the run where nothing is given.

    Args:
        run: Clip, temperature and seed.
        loss: ``module:function`` or ``file.py:function``; empty for the contrast against public anchors.
        unit_loss: Whether the loss is asked for one pair at a time.
        engine: See `OwnCode`; empty for the usual one.
        clip: C; None for ``privacy.clip``.
        temperature: Handed to the loss as a keyword where it is given.

    Raises:
        ConfigError: The function is not found.
    """
    per_unit = unit_loss or not loss
    return OwnCode(
        name=loss or "cmc-anchored",
        loss=(
            own_loss(loss, temperature=temperature, per_unit=per_unit)
            if loss
            else anchored_unit_loss(run.distill.temperature)
        ),
        per_unit=per_unit,
        engine=engine or ("vmap" if per_unit else "opacus"),
        clip=run.privacy.clip if clip is None else clip,
        temperature=temperature if loss else None,
        seed=run.seed,
    )


def anchored_unit_loss(temperature: float) -> OwnLoss:
    """The contrast against public anchors as a unit loss: what an own student is checked with."""

    def loss(student: Tensor, teacher: Tensor, anchors: Tensor) -> Tensor:
        return cmc_anchored(student, teacher, anchors, temperature=temperature).mean()

    return loss


def random_anchors(num: int, dim: int, *, seed: int) -> Float[Tensor, "anchors dim"]:
    """Random unit vectors in the place of public features, where there is no data set, (K, D)."""
    return unit(torch.randn(num, dim, generator=torch_generator(seed, "random-anchors")))


def check_own_code(code: OwnCode, subject: Subject, effort: Effort | None = None) -> list[Finding]:
    """Purity and sensitivity of a user's loss and student, held against a sensitivity of C.

    A student that mixes pairs is contradicted at once, whatever the loss.

    Args:
        code: The loss and how it is clipped.
        subject: Student and anchors.
        effort: Of the search; None for the usual one of its kind (`usual_effort`).

    Raises:
        ConfigError: The loss does not follow the protocol.
        PrivacyError: It is not finite for ordinary embeddings.
    """
    effort = effort or usual_effort(code)
    purity = student_purity(subject, claims=True)
    if purity.verdict == CONTRADICTED:
        # Nothing that is measured for single pairs has a meaning then, and some such layers refuse one row.
        return [purity]
    with ticker("audit check") as tick:
        return [purity, *(_check_unit if code.per_unit else _check_batch)(code, subject, effort, tick)]


def usual_effort(code: OwnCode) -> Effort:
    """`UNIT_EFFORT` or `BATCH_EFFORT`."""
    return UNIT_EFFORT if code.per_unit else BATCH_EFFORT


def _check_batch(code: OwnCode, subject: Subject, effort: Effort, tick: Tick) -> list[Finding]:
    mode = choose("--engine", code.engine, BATCH_ENGINES)
    loss = batch_loss(code, subject)
    question = batch_question(
        subject, loss, clip=code.clip, claimed=1.0, num_pairs=effort.num_pairs, mode=mode
    )
    return [
        batch_loss_purity(loss, embedding_dim=subject.embedding_dim, claims=True),
        search(replace(question, seed=code.seed), effort, tick=tick),
        _poisoned_finding(code, subject, loss, mode),
    ]


def _check_unit(code: OwnCode, subject: Subject, effort: Effort, tick: Tick) -> list[Finding]:
    choose("--engine", code.engine, {name: ENGINES[name] for name in MECHANISMS["anchors"].engines})
    loss = unit_loss_of(code, subject)
    query = step_query(
        subject.student,
        loss_work(loss),
        plan=bare_plan(mechanism="anchors", clip=code.clip, engine=code.engine),
    )
    question = Question(
        name=f"sensitivity search, {subject.name}",
        query=query,
        makers=makers_of(subject, num_pairs=effort.num_pairs),
        clip=code.clip,
        claimed=1.0,
        seed=code.seed,
    )
    return [
        unit_loss_purity(loss, embedding_dim=subject.embedding_dim),
        _translated(code, lambda: search(question, effort, tick=tick)),
    ]


def _translated(code: OwnCode, work: Callable[[], Finding]) -> Finding:
    """What ``work`` finds; a user's code that `torch.func` cannot take becomes an error that says so."""
    try:
        return work()
    except RuntimeError as error:
        raise ConfigError(
            f"--loss={code.name!r} cannot be run by --engine={code.engine}: {error}. Use --engine=loop."
        ) from error


def batch_loss(code: OwnCode, subject: Subject) -> BatchLoss:
    """The user's batch loss, tried on ordinary embeddings.

    Raises:
        ConfigError: It fails, or returns another shape than (B,).
        PrivacyError: It is not finite.
    """

    def loss(student: Tensor, teacher: Tensor) -> Tensor:
        return _called(code, student, teacher, subject.anchors, shape=(len(student),))

    _try(code, loss(*_ordinary(subject, CHECK_ROWS)))
    return loss


def unit_loss_of(code: OwnCode, subject: Subject) -> UnitLoss:
    """The user's unit loss, tried on an ordinary pair.

    Raises:
        ConfigError: It fails, or returns no scalar.
        PrivacyError: It is not finite.
    """

    def loss(student: Tensor, teacher: Tensor, _: Tensor) -> Tensor:
        return _called(code, student, teacher, subject.anchors, shape=())

    student, teacher = _ordinary(subject, 1)
    _try(code, loss(student, teacher, torch.ones(1, dtype=torch.bool)))
    return loss


def _ordinary(subject: Subject, num: int) -> tuple[Tensor, Tensor]:
    coins = torch_generator(0, "own-loss")
    student, teacher = (unit(torch.randn(num, subject.embedding_dim, generator=coins)) for _ in range(2))
    return student.requires_grad_(), teacher


def _called(code: OwnCode, *tensors: Tensor, shape: tuple[int, ...]) -> Tensor:
    options = {} if code.temperature is None else {"temperature": code.temperature}
    try:
        found = code.loss(*tensors, **options)
    except RAISED as error:
        shapes = ", ".join(str(tuple(one.shape)) for one in tensors)
        tracing = code.per_unit and code.engine != "loop"
        hint = " Code that torch.func cannot take runs with --engine=loop." if tracing else ""
        raise ConfigError(
            f"--loss={code.name!r} fails on tensors of shape {shapes}: {type(error).__name__}: {error}."
            " Its signature is loss(student (B, D), teacher (B, D), anchors (K, D))"
            f"{', temperature=' if options else ''}.{hint}"
        ) from error
    if not isinstance(found, Tensor) or tuple(found.shape) != shape:
        got = tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__
        other = "" if code.per_unit else " A loss of one pair at a time is checked with --unit-loss."
        raise ConfigError(
            f"--loss={code.name!r} returned {got}; allowed is a tensor of shape {shape}.{other}"
        )
    return found


def _try(code: OwnCode, found: Tensor) -> None:
    if not bool(torch.isfinite(found.detach()).all()):
        raise PrivacyError(
            f"--loss={code.name!r} is not finite for ordinary unit vectors, so nothing can be clipped. Look"
            " for a logarithm of zero or a division by zero."
        )
    if not found.requires_grad:
        raise ConfigError(
            f"--loss={code.name!r} has no gradient at the student's embeddings. Remove detach() and"
            " no_grad()."
        )


def _poisoned_finding(code: OwnCode, subject: Subject, loss: BatchLoss, mode: str) -> Finding:
    """What one pair of NaN does to the sum; told, not held against the loss."""
    pair = makers_of(subject, num_pairs=3)["random"](torch_generator(code.seed, "poisoned"))
    pair.data.inputs[pair.added] = float("nan")
    query = naive_query(acting_copy(subject.student), loss, clip=code.clip, mode=mode)
    larger, smaller = query([(pair.data, pair.larger()), (pair.data, pair.smaller())])
    moved = distance(larger, smaller)
    broken = moved == float("inf")
    text = (
        "One pair whose input is NaN makes the whole released sum NaN under Opacus: the release then shows"
        " whether the pair was present. edgecmd's engines count such a pair as zero."
        if broken
        else f"One pair whose input is NaN moves the sum by {moved / code.clip:.3g} C."
    )
    return Finding(
        level="check",
        name="a pair of NaN",
        attacker="code",
        verdict=INDICATOR,
        text=text,
        quantity="sensitivity",
        measured=moved / code.clip,
        counts={"tries": 1},
        seeds=(code.seed,),
    )
