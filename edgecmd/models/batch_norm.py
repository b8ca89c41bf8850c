"""What happens to batch normalisation in a student that others built, before it is trained.

In training a batch normalisation mixes the pairs of a batch and remembers them. A client of a federation has
few pairs of one kind, and a guarantee per pair allows neither, so statistics of the batch are the exception.

Shapes: B batch, C channels, H height, W width.
"""

import copy
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils.fusion import fuse_conv_bn_eval

from edgecmd.core.errors import ConfigError, choose
from edgecmd.models.backbones import is_backbone

SETTING = "student.batch_norm"
AUTO, KEEP, FREEZE, FOLD, GROUP = "auto", "keep", "freeze", "fold", "group"
STATISTICS = ("running_mean", "running_var", "num_batches_tracked")
# Of a folded network's answer, which differs by rounding alone, in shares of the largest number.
FOLD_TOLERANCE = 1e-3
# Of a GroupNorm: at most so many groups, each of at least so many channels, as `gn-*` students have them.
MOST_GROUPS, LEAST_A_GROUP = 32, 8
PLAIN = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)


def norms_of(module: nn.Module) -> Iterator[tuple[str, _BatchNorm]]:
    """Batch normalisations of a module, by name."""
    return ((name, one) for name, one in module.named_modules() if isinstance(one, _BatchNorm))


def statistics_of(module: nn.Module) -> frozenset[str]:
    """Names in a module's state of what its batch normalisations keep of the batches that they saw."""
    return frozenset(
        f"{name}.{kept}".lstrip(".")
        for name, norm in norms_of(module)
        for kept in STATISTICS
        if getattr(norm, kept) is not None
    )


def hold(module: nn.Module) -> None:
    """Put the batch normalisations of a module into evaluation mode: they use and keep their statistics."""
    for _, norm in norms_of(module):
        norm.eval()


def batch_norm_of(given: str, *, architecture: str, weights: object = None) -> str:
    """What ``auto`` stands for.

    ``freeze`` where first weights come from a file, as statistics of a large set are better than those of a
    client's few pairs; ``group`` for a network of timm or torchvision without any, as its statistics say
    nothing yet; ``keep`` for code of a user's own, which is trained as it was written.

    Args:
        given: A key of `BATCH_NORM`, or ``auto``.
        architecture: What names the student.
        weights: The file, if any.

    Raises:
        ConfigError: ``given`` is unknown.
    """
    choose(SETTING, given, {AUTO: None, **BATCH_NORM})
    if given != AUTO:
        return given
    if weights:
        return FREEZE
    return GROUP if is_backbone(architecture) else KEEP


def convert(module: nn.Module, how: str, *, image: Tensor, what: str) -> nn.Module:
    """The module with its batch normalisation as asked for.

    Args:
        module: (B, C, H, W) to (B, F); not changed.
        how: A key of `BATCH_NORM`.
        image: Inputs that it is tried on, (B, C, H, W).
        what: What it is, at the start of a sentence.

    Returns:
        The module itself where nothing is replaced, else a changed copy. With ``freeze``, and ``fold`` for
        what follows no convolution, the caller must also call `hold` whenever it is put into training mode.

    Raises:
        ConfigError: ``how`` is unknown, or folding changes what the module answers.
    """
    replace = choose(SETTING, how, BATCH_NORM)
    if not any(norms_of(module)) or replace is None:
        return module
    copied = _opened(copy.deepcopy(module))
    modes = {name: one.training for name, one in copied.named_modules()}
    with torch.no_grad():
        before = copied.eval()(image)
        replace(copied, image)
        after = copied(image)
    for name, one in copied.named_modules():
        one.training = modes.get(name, module.training)
    if how == FOLD and not torch.allclose(before, after, atol=FOLD_TOLERANCE * float(before.abs().max())):
        raise ConfigError(
            f"{what} gives different results with its batch normalisation folded: a convolution's result is"
            f" used elsewhere too. Set {SETTING}='{FREEZE}'."
        )
    return copied


def _opened(module: nn.Module) -> nn.Module:
    """The module, normalisations of timm that hold an activation as normalisation and activation."""
    for name, norm in list(norms_of(module)):
        if type(norm) in PLAIN or not hasattr(norm, "act"):
            continue
        plain = nn.BatchNorm2d(
            norm.num_features,
            eps=norm.eps,
            momentum=norm.momentum,
            affine=norm.affine,
            track_running_stats=norm.track_running_stats,
        )
        plain.load_state_dict({key: one for key, one in norm.state_dict().items() if "." not in key})
        inner = [
            getattr(norm, one) for one in ("drop", "act") if isinstance(getattr(norm, one, None), nn.Module)
        ]
        module.set_submodule(name, nn.Sequential(plain, *inner))
    return module


def num_groups(channels: int) -> int:
    """Groups of a GroupNorm: the most that divide the channels, with at least `LEAST_A_GROUP` in each.

    Opacus takes ``gcd(32, channels)``, which for up to 32 channels may be one each: the mean of a channel,
    often all that is asked of it, is then lost.
    """
    most = max(1, min(MOST_GROUPS, channels // LEAST_A_GROUP))
    return next(groups for groups in range(most, 0, -1) if channels % groups == 0)


def _group(module: nn.Module, _: Tensor) -> None:
    """Put a GroupNorm with the same scale and shift in place of each."""
    for name, norm in list(norms_of(module)):
        channels = norm.num_features
        other = nn.GroupNorm(num_groups(channels), channels, eps=norm.eps, affine=norm.affine)
        other.load_state_dict(
            {key: one for key, one in norm.state_dict().items() if key in ("weight", "bias")}
        )
        module.set_submodule(name, other)


def _fold(module: nn.Module, image: Tensor) -> None:
    """Fold each that follows a convolution into it; others stay as they are."""
    layers = dict(module.named_modules())
    for name, convolution in _preceded(module, image):
        before, norm = layers[convolution], layers[name]
        assert isinstance(before, nn.Conv2d)
        assert isinstance(norm, _BatchNorm)
        fused = fuse_conv_bn_eval(before, norm)
        # A bias that the convolution did not have is made as one that is not trained.
        module.set_submodule(convolution, fused.requires_grad_(True))
        module.set_submodule(name, nn.Identity())


def _preceded(module: nn.Module, image: Tensor) -> list[tuple[str, str]]:
    """Names of normalisations that are given what a convolution made, with that convolution's name."""
    made: dict[int, tuple[str, Tensor]] = {}
    entered: dict[str, list[str]] = {}
    calls: list[str] = []

    def leave(name: str, output: Tensor) -> None:
        # The tensor is kept, so that no other one gets its id.
        made[id(output)] = (name, output)
        calls.append(name)

    def enter(name: str, args: tuple[Tensor, ...]) -> None:
        calls.append(name)
        entered.setdefault(name, []).append(made.get(id(args[0]), ("", args[0]))[0])

    handles = [
        one.register_forward_hook(lambda _, __, output, name=name: leave(name, output))
        for name, one in module.named_modules()
        if type(one) is nn.Conv2d
    ]
    handles += [
        one.register_forward_pre_hook(lambda _, args, name=name: enter(name, args))
        for name, one in norms_of(module)
        if one.track_running_stats
    ]
    module(image)
    for handle in handles:
        handle.remove()
    pairs = [(name, found[0]) for name, found in entered.items() if found[0]]
    return [pair for pair in pairs if all(calls.count(name) == 1 for name in pair)]


BATCH_NORM: dict[str, Callable[[nn.Module, Tensor], None] | None] = {
    KEEP: None,
    FREEZE: None,
    FOLD: _fold,
    GROUP: _group,
}
