"""Is a loss what it says it is? Found by behaviour: values, gradients, and what one pair does to others.

Shapes: B batch, V views, K anchors, D embedding dimension.
"""

from collections.abc import Callable, Iterator

import torch
from jaxtyping import Shaped
from torch import Tensor
from torch.nn import functional

from edgecmd.core.errors import ConfigError, PrivacyError
from edgecmd.core.own_code import RAISED, running
from edgecmd.core.text import one_line
from edgecmd.losses.loss import Loss, alike_views

PROBE_ROWS = 5
PROBE_ANCHORS = 7
PROBE_DIM = 6
PROBE_SEED = 20_053
HUGE = 1e4
FLAGS = ("needs_anchors", "couples_pairs", "dense", "uses_teacher", "aligns", "has_buckets", "may_be_private")
SIGNATURE = "Its signature is loss(student (B, D), teacher (B, D), anchors (K, D)) -> (B,)"

RowFunction = Callable[..., Shaped[Tensor, "batch *rest"]]


def impure_rows(function: RowFunction, *tensors: Shaped[Tensor, "batch *_"]) -> list[int]:
    """Rows whose change reaches the result of another row.

    Args:
        function: Maps tensors of B rows to one tensor of B rows; a deterministic one.
        tensors: Its inputs, B of at least two rows each.

    Returns:
        Rows that leaked; empty where every result depends on its own row alone.

    Raises:
        PrivacyError: Fewer than two rows, which can show nothing.

    Guarantees:
        Finds every function in which one of the poisons in row ``j`` changes a bit of another row's
        result at these inputs. It is a test, not a proof: a function that mixes rows only for inputs
        unlike these passes.
    """
    if len(tensors[0]) < 2:
        raise PrivacyError(f"rows={len(tensors[0])} cannot reveal mixing; give the purity probe at least 2.")
    with torch.no_grad():
        clean = function(*tensors)
        return [
            row
            for row in range(len(tensors[0]))
            if any(_reaches_others(clean, function(*poisoned), row) for poisoned in _poisonings(tensors, row))
        ]


def _poisonings(tensors: tuple[Tensor, ...], row: int) -> Iterator[list[Tensor]]:
    """The inputs with one row replaced by NaN, by a huge number, and by a mirrored other row.

    NaN finds most; a function that cleans NaN away is found by the others.
    """
    for poison in (float("nan"), HUGE, None):
        poisoned = [tensor.clone() for tensor in tensors]
        for tensor, original in zip(poisoned, tensors):
            tensor[row] = -original[row - 1] if poison is None else poison
        yield poisoned


def _reaches_others(clean: Tensor, found: Tensor, row: int) -> bool:
    others = torch.arange(len(clean)) != row
    same = clean.shape == found.shape and torch.equal(found[others], clean[others])
    return not same


def leaking_rows(loss: RowFunction, *, embedding_dim: int) -> dict[str, list[int]]:
    """Rows that reach the loss or the gradient of another row.

    The loss alone does not tell: ``x - x.detach() + f(x)`` has the value of one function and the
    gradient of another.

    Returns:
        Rows by ``value`` and ``gradient``; empty lists where nothing leaked.
    """
    coins = torch.Generator().manual_seed(PROBE_SEED)
    student, teacher = (
        functional.normalize(torch.randn(PROBE_ROWS, embedding_dim, generator=coins), dim=1) for _ in range(2)
    )
    gradient = _gradient_of(loss)
    return {
        "value": impure_rows(loss, student, teacher),
        "gradient": impure_rows(gradient, student, teacher),
    }


def _gradient_of(loss: RowFunction) -> Callable[[Tensor, Tensor], Tensor]:
    """Gradient of the sum of the losses at the student's rows, (B, D)."""

    def gradient(student: Tensor, teacher: Tensor) -> Tensor:
        with torch.enable_grad():
            rows = student.detach().requires_grad_()
            losses = loss(rows, teacher)
            if not losses.requires_grad:
                return torch.zeros_like(rows)
            (found,) = torch.autograd.grad(losses.sum(), rows, allow_unused=True)
        return torch.zeros_like(rows) if found is None else found

    return gradient


def check_loss(loss: object, *, called: str = "") -> Loss:
    """A loss of a user's own, tried on ordinary embeddings; what is returned is ``loss`` itself.

    Args:
        loss: What is tried.
        called: How a message names it; empty: by its class.

    Raises:
        ConfigError: It is no `Loss`, or what it says of itself has no meaning; it fails, returns another
            shape than (B,) or a number that is not finite; no gradient reaches the student; it answers
            differently the second time; or it says that it couples no pairs, and does.

    Guarantees:
        A loss that passes and has ``couples_pairs = False`` has moved neither value nor gradient of another
        pair, when one was replaced by NaN, a huge number or another pair, or left out. It is a test, not a
        proof: a loss that mixes pairs only for other embeddings passes.
    """
    called = called or f"The loss {type(loss).__name__}"
    if not isinstance(loss, Loss):
        raise ConfigError(
            f"{called} is of type {type(loss).__name__}, not an edgecmd.losses.Loss. Subclass it."
        )
    _check_flags(loss, called)
    coins = torch.Generator().manual_seed(PROBE_SEED)
    student, teacher, anchors = (
        functional.normalize(torch.randn(num, PROBE_DIM, generator=coins), dim=1)
        for num in (PROBE_ROWS, PROBE_ROWS, PROBE_ANCHORS)
    )
    rows = alike_views(loss, student).clone().requires_grad_()
    value = _tried(loss, called, rows, teacher, anchors)
    _check_gradient(value, rows, called)
    if not torch.equal(value, _tried(loss, called, rows, teacher, anchors)):
        raise ConfigError(
            f"{called} gives different values for the same pairs the second time. A loss must be a function"
            " of its arguments: remove its memory and random numbers."
        )
    if not loss.couples_pairs:
        _check_apart(loss, called, student, teacher, anchors, value)
    if loss.anneals():
        _check_annealed(loss, called, rows, teacher, anchors)
    if loss.has_buckets:
        _check_bucket(loss, called, student, teacher, anchors)
    return loss


def _check_flags(loss: Loss, called: str) -> None:
    for name in FLAGS:
        if not isinstance(getattr(loss, name), bool):
            raise ConfigError(f"{called} has {name}={getattr(loss, name)!r}. Allowed: True, False.")
    num = loss.num_views
    if not isinstance(num, int) or isinstance(num, bool) or num < 1:
        raise ConfigError(f"{called} has num_views={num!r}. Allowed: whole numbers from 1 on.")


def _tried(loss: Loss, called: str, student: Tensor, teacher: Tensor, anchors: Tensor) -> Tensor:
    """Values for ordinary embeddings, or a sentence on what is wrong with them."""
    try:
        value = loss(student, teacher, anchors)
    except RAISED as error:
        shapes = ", ".join(str(tuple(one.shape)) for one in (student, teacher, anchors))
        raise ConfigError(
            f"{called} fails on tensors of shape {shapes}: {type(error).__name__}: {one_line(str(error))}."
            f" {SIGNATURE}{'' if loss.num_views == 1 else ', student (V, B, D)'}."
        ) from error
    if not isinstance(value, Tensor) or tuple(value.shape) != (len(teacher),):
        got = tuple(value.shape) if isinstance(value, Tensor) else f"of type {type(value).__name__}"
        raise ConfigError(
            f"{called} returned a value {got} for {len(teacher)} pairs; allowed is a tensor of shape"
            f" ({len(teacher)},), one value for each pair. {SIGNATURE}."
        )
    if not bool(torch.isfinite(value.detach()).all()):
        raise ConfigError(
            f"{called} is not finite for ordinary unit vectors. Look for a logarithm of zero or a division by"
            " zero."
        )
    return value


def _check_gradient(value: Tensor, rows: Tensor, called: str) -> None:
    with running(f"The gradient of {called[:1].lower()}{called[1:]}"):
        found = torch.autograd.grad(value.sum(), rows, allow_unused=True)[0] if value.requires_grad else None
    if found is None or not bool(found.any()):
        raise ConfigError(
            f"{called} has no gradient at the student's embeddings, so nothing would be learnt. Remove"
            " detach() and no_grad() there."
        )
    if not bool(torch.isfinite(found).all()):
        raise ConfigError(
            f"{called} has a gradient that is not finite for ordinary unit vectors. Look for a square root or"
            " a norm of zero."
        )


def _check_annealed(loss: Loss, called: str, student: Tensor, teacher: Tensor, anchors: Tensor) -> None:
    """Refuse a loss that is another one, or none, somewhere in a run."""
    for share in (0.0, 0.5, 1.0):
        with running(f"{called}: at({share:g})", loss):
            there = loss.at(share)
        if type(there) is not type(loss):
            raise ConfigError(
                f"{called} has at({share:g}) of type {type(there).__name__}; allowed is a"
                f" {type(loss).__name__}. Return the loss itself with other numbers, as"
                " dataclasses.replace(self, ...) gives it."
            )
        _tried(there, called, student, teacher, anchors)


def _check_apart(
    loss: Loss, called: str, student: Tensor, teacher: Tensor, anchors: Tensor, value: Tensor
) -> None:
    """Refuse a loss that says it couples no pairs, and does."""

    def each(rows: Tensor, others: Tensor) -> Tensor:
        return loss(alike_views(loss, rows), others, anchors)

    try:
        leaking = leaking_rows(each, embedding_dim=PROBE_DIM)
        fewer = each(student[1:], teacher[1:])
    except RAISED as error:
        raise ConfigError(
            f"{called} fails where one pair is NaN or huge, or left out: {type(error).__name__}:"
            f" {one_line(str(error))}. One pair would then decide for all others. Return a number, or NaN,"
            " for every value."
        ) from error
    moved = [what for what, rows in leaking.items() if rows]
    if not torch.allclose(fewer, value[1:], rtol=1e-3, atol=1e-5):
        moved.append("value in a batch of another size")
    if moved:
        raise ConfigError(
            f"{called} says couples_pairs=False, but changing one pair changes the {' and the '.join(moved)}"
            " of others. Compare with public anchors instead of other pairs, or set couples_pairs = True;"
            " then it cannot be private for each pair."
        )


def _check_bucket(loss: Loss, called: str, student: Tensor, teacher: Tensor, anchors: Tensor) -> None:
    """Refuse a loss of buckets that looks at rows outside of its mask."""
    mask = torch.arange(PROBE_ROWS) < 2
    found = [
        loss.of_unit(rows, others, mask, anchors)
        for rows, others in ((student, teacher), (student.roll(1, 0), teacher.roll(1, 0)))
        for rows, others in ((torch.cat([student[:2], rows[2:]]), torch.cat([teacher[:2], others[2:]])),)
    ]
    if found[0].ndim or not torch.equal(*found):
        raise ConfigError(
            f"{called} has a loss of buckets that is not a scalar, or that changes with rows outside its"
            " mask. How many such rows there are depends on other buckets."
        )
