"""A user's own module, tested on synthetic inputs before anything is trained with it.

What would fail hours later, on another machine or without a word is found here: a wrong shape, weights that
cannot be trained, saved or sent, answers that are not finite, or that depend on what else is in the batch.

Shapes: B batch, C channels, H height, W width, F features.
"""

import copy
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager

import torch
from torch import Tensor, nn
from torch.nn.parameter import UninitializedBuffer, UninitializedParameter

from edgecmd.arguments import refuse_outside
from edgecmd.core.errors import ConfigError
from edgecmd.core.own_code import RAISED, running
from edgecmd.core.text import one_line
from edgecmd.models.devices import place

ROWS, SEED = 3, 20_057
MOST_WIDE = 65_536
MOST_TEXT = 300


def refuse_wide(**numbers: object) -> None:
    """Refuse widths and sides that no student has.

    Raises:
        ConfigError: One is not a whole number of 1 to `MOST_WIDE`.
    """
    for name, value in numbers.items():
        refuse_outside(name, value, least=1, most=MOST_WIDE)


def sides_of(size: object, *, default: tuple[int, int]) -> tuple[int, int]:
    """Height and width: one number where they are equal, or two; None for ``default``.

    Raises:
        ConfigError: It is something else.
    """
    sides = default if size is None else tuple(size) if isinstance(size, Sequence) else (size, size)
    if isinstance(size, str) or len(sides) != 2:
        raise ConfigError(f"size={size!r} is not a height and width. Give one number, or two.")
    for side in sides:
        refuse_wide(size=side)
    return sides[0], sides[1]


def channels_of(module: object) -> int:
    """Channels that the first convolution of a module takes; 1 where there is none.

    Raises:
        ConfigError: It is not a module.
    """
    if not isinstance(module, nn.Module):
        raise ConfigError(
            f"A student cannot be made from {module!r}. Give a name, 'module:factory', or an object of a"
            " torch.nn.Module: MyModule() and not MyModule."
        )
    return next((one.in_channels for one in module.modules() if isinstance(one, nn.Conv2d)), 1)


@contextmanager
def seeded(seed: int, device: torch.device | None = None) -> Iterator[None]:
    """Torch's own random numbers follow from ``seed`` inside, and go on outside as if nothing were drawn.

    Those of ``device`` too, where it is a CUDA device: it has a generator of its own.
    """
    on_cuda = [device] if device is not None and device.type == "cuda" else []
    with torch.random.fork_rng(devices=on_cuda):
        torch.default_generator.manual_seed(seed)
        for one in on_cuda:
            with torch.cuda.device(one):
                torch.cuda.manual_seed(seed)
        yield


def running_student(student: nn.Module) -> AbstractContextManager[None]:
    """A block in which a student is called; what an own one raises becomes a sentence."""
    name = getattr(student, "architecture", "") or f"<{type(student).__name__}>"
    return running(f"The student {name}", getattr(student, "backbone", student))


def try_out(
    module: nn.Module, shape: tuple[int, int, int], *, what: str, wanted: str, trained: bool = False
) -> int:
    """Width F of what a module gives for inputs of a shape.

    Args:
        module: (B, C, H, W) to (B, F).
        shape: (C, H, W) of the inputs.
        what: What the module is, at the start of a sentence.
        wanted: What its inputs are, for messages.
        trained: Whether it is to be trained: then its weights must be such that this, a file and a message
            are possible. Else its answer for a row must depend on that row alone, and be the same again.

    Raises:
        ConfigError: Something is not as it should be; the message has the way out.

    Guarantees:
        The module, its mode and torch's random state are as before: a copy is tried.
    """
    if not isinstance(module, nn.Module):
        raise ConfigError(
            f"{what} is {module!r}, which is not a module. Give an object of a torch.nn.Module, such as"
            " MyModule() and not MyModule."
        )
    _refuse_lazy(module, what)
    if trained:
        _refuse_weights(module, what)
    try:
        copied = place(copy.deepcopy(module), torch.device("cpu"))
    except RAISED as error:
        raise ConfigError(f"{what} cannot be copied: {_told(error)}.") from error
    image = made_up(shape)
    answer = _answer(copied.eval(), image, what=what, wanted=wanted)
    _refuse_other_width(answer, _answer(copied, image[1:], what=what, wanted=wanted), what)
    if trained:
        _refuse_untrainable(copied.train(), image, answer, what=what, wanted=wanted)
    else:
        other = image.flip(0)
        other[0] = image[0]
        _refuse_mixing(answer, _answer(copied, other, what=what, wanted=wanted), what)
    return answer.shape[1]


def embeddings_of(module: nn.Module, shape: tuple[int, int, int], *, what: str, wanted: str) -> Tensor:
    """What a module of any mode gives for made-up inputs, of the right rank and finite, (B, F).

    Args:
        module: (B, C, H, W) to (B, F).
        shape: (C, H, W) of the inputs.
        what: What the module is, at the start of a sentence.
        wanted: What its inputs are, for messages.

    Raises:
        ConfigError: It fails, or gives something else.
    """
    return _answer(module, made_up(shape), what=what, wanted=wanted)


def made_up(shape: tuple[int, int, int]) -> Tensor:
    """A few inputs of a shape (C, H, W), uniform in [0, 1], (B, C, H, W)."""
    return torch.rand((ROWS, *shape), generator=torch.Generator().manual_seed(SEED))


def _told(error: BaseException) -> str:
    text = one_line(str(error)).rstrip(".")
    return f"{type(error).__name__}: {text[:MOST_TEXT]}"


def _refuse_lazy(module: nn.Module, what: str) -> None:
    for name, value in [*module.named_parameters(), *module.named_buffers()]:
        if isinstance(value, UninitializedParameter | UninitializedBuffer):
            raise ConfigError(
                f"{what} has a lazy layer: {name!r} has no shape yet. Give the layer its sizes (nn.Linear"
                " instead of nn.LazyLinear), or first call the module once on one of your inputs."
            )


def _refuse_weights(module: nn.Module, what: str) -> None:
    """Refuse weights that cannot be trained, saved or sent."""
    named = list(module.named_parameters())
    frozen = [name for name, value in named if not value.requires_grad]
    if frozen:
        raise ConfigError(
            f"{what} has frozen weights, {frozen[0]!r} among {len(frozen)}: clients would train and send"
            " them anyway. Call requires_grad_(True), or make them buffers (register_buffer)."
        )
    if not named:
        raise ConfigError(f"{what} has no weights, so there is nothing to train.")
    places: dict[int, str] = {}
    for name, value in module.state_dict().items():
        if not isinstance(value, Tensor):
            raise ConfigError(
                f"{what} keeps {name!r} of type {type(value).__name__} in its state, but files of weights"
                " hold only tensors. Remove get_extra_state."
            )
        if value.is_floating_point() and value.dtype != torch.float32:
            raise ConfigError(f"{what} has {name!r} in {value.dtype}; allowed is float32. Call .float().")
        if not bool(torch.isfinite(value).all()):
            raise ConfigError(f"{what} has numbers in {name!r} that are not finite. Load its weights again.")
        first = places.setdefault(value.data_ptr() if value.numel() else id(value), name)
        if first != name:
            raise ConfigError(
                f"{what} has one tensor under two names, {first!r} and {name!r}; files of weights hold each"
                " once. Untie the weights, or use the layer itself twice under one name."
            )


def _answer(module: nn.Module, image: Tensor, *, what: str, wanted: str) -> Tensor:
    """What the module gives, of the right rank and finite."""
    try:
        with seeded(SEED), torch.no_grad():
            found = module(image)
    except RAISED as error:
        raise ConfigError(
            f"{what} fails on inputs of shape {tuple(image.shape)}: {_told(error)}. It must take {wanted} as"
            " (batch, channels, height, width)."
        ) from error
    _refuse_shape(found, what, rows=len(image))
    if not bool(torch.isfinite(found).all()):
        raise ConfigError(f"{what} gives numbers that are not finite for ordinary inputs. Check its weights.")
    answer: Tensor = found
    return answer


def _refuse_other_width(answer: Tensor, fewer: Tensor, what: str) -> None:
    """Refuse a module whose number of features hangs on the number of inputs."""
    if answer.shape[1] != fewer.shape[1]:
        raise ConfigError(
            f"{what} gives {answer.shape[1]} features in a batch of {len(answer)} and {fewer.shape[1]} in one"
            f" of {len(fewer)}. Return the same number for every batch: flatten from dimension 1, not 0."
        )


def _refuse_shape(found: object, what: str, *, rows: int) -> None:
    if not isinstance(found, Tensor) or not found.is_floating_point():
        kind = found.dtype if isinstance(found, Tensor) else type(found).__name__
        raise ConfigError(
            f"{what} gives {kind}; allowed is one float tensor of shape (batch, features). Return only the"
            " embedding."
        )
    if found.ndim != 2 or len(found) != rows or not found.shape[1]:
        way = "pool its map (nn.AdaptiveAvgPool2d(1), nn.Flatten())" if found.ndim == 4 else "flatten it"
        raise ConfigError(
            f"{what} gives {tuple(found.shape)} for {rows} inputs; allowed is (batch, features), here"
            f" ({rows}, F). To get there, {way}."
        )


def _refuse_untrainable(module: nn.Module, image: Tensor, answer: Tensor, *, what: str, wanted: str) -> None:
    """Refuse a module that answers otherwise, or reaches no weight, when it is trained."""
    try:
        with seeded(SEED):
            found = module(image)
            _refuse_shape(found, what, rows=len(image))
            found.square().sum().backward()
    except ConfigError:
        raise
    except RAISED as error:
        raise ConfigError(
            f"{what} fails when it is trained on inputs of shape {tuple(image.shape)}: {_told(error)}. It"
            f" must take {wanted} as (batch, channels, height, width), and let gradients through."
        ) from error
    if found.dtype != torch.float32:
        raise ConfigError(
            f"{what} gives {found.dtype}; allowed is float32. Call .float() on what it returns."
        )
    if found.shape != answer.shape:
        raise ConfigError(
            f"{what} gives {tuple(found.shape)} in training and {tuple(answer.shape)} in evaluation. Return"
            " the same in both."
        )
    if all(value.grad is None for value in module.parameters()):
        raise ConfigError(f"{what} lets no gradient reach its weights. Remove torch.no_grad and detach.")


def _refuse_mixing(first: Tensor, other: Tensor, what: str) -> None:
    """Refuse an answer for the first row that other rows changed, or that is another the second time."""
    if not torch.allclose(first[0], other[0], rtol=1e-4, atol=1e-5 * float(first.abs().max())):
        raise ConfigError(
            f"{what} answers an input differently when other inputs are in the batch, or when it is asked"
            " again. Remove what mixes a batch (batch statistics in evaluation) or is random (dropout)."
        )
