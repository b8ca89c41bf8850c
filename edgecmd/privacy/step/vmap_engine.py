"""The ``vmap`` engine: clipped sums with one call of the student for all units of a chunk.

`torch.func` gives each unit's gradient at the *output* of every convolution and linear layer, and
hands out what went into the layer. A unit's gradient of the layer's weight is the product of the
two. Products are formed for a few units at a time, so that they stay in the cache. Where the two
factors hold far fewer numbers than their product it is never formed: its norm comes from the
factors' Gram matrices and the clipped sum from one product over all units, both in float64. All
other parameters get their gradients from `torch.func` as they are.

A unit is a function call of its own, so nothing that is made for one can depend on another. That costs a
third of a plain step. A student of nothing but modules of `ROW_WISE`, whose code is known here, treats each
row by itself in any case: there all units go through it in one plain pass, with the same convolutions of the
same tensors. A type is compared, not what it descends from: a subclass, a hook, or an object's own
``forward`` may do anything, and then units are calls of their own.

Shapes: U units, R rows of a unit, L positions of a layer's output over the rows of a unit, O output
channels, K numbers that enter one output, N images, C channels, H height, W width.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap
from torch.nn import functional

from edgecmd.models.students import ConvStudent
from edgecmd.models.trunks.convolutions import (
    Activated,
    Residual,
    ScaledReLU,
    StandardisedConv2d,
    gains_in_weights,
)
from edgecmd.models.trunks.strings import ByteTrunk, NgramTrunk, TextStudent
from edgecmd.privacy.step.gradients import STRETCH, Sum, clip_factors, counting, weighted_sum
from edgecmd.privacy.step.table_gradients import MOST_LAID_OUT, Looked
from edgecmd.privacy.step.units import UnitLoss, Units

# Units whose gradients are held at a time.
BLOCK = 16
# A product is not formed where it holds this many times the numbers of its factors.
COMPACT = 4
# Share by which a Gram norm is overstated, above what float64 can lose where the product nearly vanishes.
GRAM_GUARD = 1e-12

Layer = nn.Conv2d | nn.Linear
Tensors = dict[str, Tensor]

# Modules that treat each row by itself: without parameters, and with those whose gradients `_small` knows.
STUDENTS = frozenset({ConvStudent, TextStudent, ByteTrunk, NgramTrunk})
BARE = STUDENTS | {nn.Identity, nn.ReLU, nn.Sequential, ScaledReLU, Activated, StandardisedConv2d}
ROW_WISE = BARE | {nn.Conv2d, nn.Linear, nn.GroupNorm, nn.Embedding, Residual}
HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Trace:
    """What the units of a chunk left at one layer.

    Attributes:
        name: Name of the layer in the student.
        layer: The layer.
        entered: What went in, (U, R, ...).
        gradient: Gradient at what came out, (U, R, ...).
        gain: What weight and bias were multiplied by, and so what their gradients are.
    """

    name: str
    layer: Layer
    entered: Tensor
    gradient: Tensor
    gain: float = 1.0

    def factors(self, part: slice, room: "Room | None" = None) -> tuple[Tensor, Tensor]:
        """Factors of the weight gradients of the units of ``part`` but for the gain: (U, O, L) and (U, L, K).

        With ``room`` the second one holds until the room's next use.
        """
        entered, gradient = self.entered[part], self.gradient[part]
        num, (out, *_) = len(entered), self.layer.weight.shape
        if isinstance(self.layer, nn.Linear):
            return gradient.reshape(num, -1, out).transpose(1, 2), entered.flatten(1, -2)
        seen = windows(entered.flatten(0, 1), self.layer, room)
        return gradient.transpose(1, 2).reshape(num, out, -1), seen.reshape(num, -1, seen.shape[2])

    @property
    def is_compact(self) -> bool:
        """Whether the factors of a unit are far smaller than their product."""
        num, numel = len(self.entered), self.layer.weight.numel()
        positions = self.gradient.numel() // (num * len(self.layer.weight))
        return COMPACT * positions * (len(self.layer.weight) + self.layer.weight[0].numel()) <= numel


class Room:
    """Memory of the windows of one block of units, which the next one gets again: new pages cost time."""

    def __init__(self) -> None:
        self._padded: dict[tuple[int, ...], Tensor] = {}
        self._numbers: Tensor | None = None

    def padded(self, like: Tensor, pads: tuple[int, int]) -> Tensor:
        """Zeros around a place for an image, (N, H, W, C); the place may hold anything."""
        num, channels, height, width = like.shape
        shape = (num, height + 2 * pads[0], width + 2 * pads[1], channels)
        if (*shape, *pads) not in self._padded:
            self._padded[*shape, *pads] = like.new_zeros(shape)
        return self._padded[*shape, *pads]

    def copied(self, value: Tensor) -> Tensor:
        """``value``, row-major."""
        if self._numbers is None or len(self._numbers) < value.numel():
            self._numbers = value.new_empty(value.numel())
        return self._numbers[: value.numel()].view(value.shape).copy_(value)


def as_weight(flat: Tensor, layer: Layer) -> Tensor:
    """A vector over the O x K numbers of a product as a tensor of the layer's weight's shape."""
    out, *into = layer.weight.shape
    if isinstance(layer, nn.Linear):
        return flat.view(out, *into)
    channels, height, width = into
    return flat.view(out, height, width, channels).permute(0, 3, 1, 2)


def windows(
    image_NCHW: Float[Tensor, "num channels height width"], layer: nn.Conv2d, room: Room | None = None
) -> Float[Tensor, "num positions inputs"]:
    """What each output of a convolution sees, (N, L, K), K in the order of height, width, channel."""
    size, stride = layer.kernel_size, layer.stride
    down, right = (int(one) for one in layer.padding)
    num, channels, height, width = image_NCHW.shape
    if channels == 1:  # Of a single channel, which has the same order, rows of windows are longer to copy.
        return functional.unfold(image_NCHW, size, padding=(down, right), stride=stride).transpose(1, 2)
    room = room or Room()
    padded = room.padded(image_NCHW, (down, right))
    padded[:, down : down + height, right : right + width] = image_NCHW.permute(0, 2, 3, 1)
    seen = padded.unfold(1, size[0], stride[0]).unfold(2, size[1], stride[1]).permute(0, 1, 2, 4, 5, 3)
    return room.copied(seen).view(num, seen.shape[1] * seen.shape[2], -1)


def clipped_chunk(
    student: nn.Module,
    units: Units,
    loss: UnitLoss,
    *,
    clip: float,
    num_real: int | None = None,
    sparse: bool = False,
) -> Sum:
    """Sum of the clipped gradients of the units of a chunk.

    Args:
        student: Encoder; not changed.
        units: At least one.
        loss: Loss of one unit.
        clip: ``C``.
        num_real: Units after these are padding and count as zero; None for none.
        sparse: Whether sums of large tables are sparse tensors: adding one up is less work than the table.

    Returns:
        float64, keyed like ``student.named_parameters()``.

    Guarantees:
        Adding or removing one unit moves the result by at most ``C`` in L2 norm, rounding included:
        what is measured and what is summed are the same numbers, all sums are float64, and products
        that are not formed are measured in float64 too (`edgecmd.privacy.step.gradients`, Rounding). A unit
        with a gradient that is not finite, or whose norm float32 cannot hold, counts as zero.
    """
    traces, rest = (row_traces if is_row_wise(student) else unit_traces)(student, units, loss)
    num_real = len(units) if num_real is None else num_real
    looked = {one.name: one.sums(num_real) for one in traces if isinstance(one, Looked)}
    layers = [one for one in traces if isinstance(one, Trace)]
    compact = [(trace, *_doubled(trace, num_real)) for trace in layers if trace.is_compact]
    formed = [trace for trace in layers if not trace.is_compact]
    square_U = torch.zeros(num_real, dtype=torch.float64, device=units.images.device)
    for _, output_UOL, input_ULK in compact:
        square_U += gram_square(output_UOL, input_ULK)
    for sums in looked.values():
        square_U += sums.squares()
    total, factor_U = _formed_sum(formed, rest, square_U, clip=clip, num_units=len(units))
    for trace, output_UOL, input_ULK in compact:
        total[f"{trace.name}.weight"] = as_weight(
            _weighted_product(factor_U, output_UOL, input_ULK), trace.layer
        )
    for table, sums in looked.items():
        weighted = sums.weighted(factor_U)
        total[f"{table}.weight"] = weighted if sparse else weighted.to_dense()
    return {name: total[name] for name, _ in student.named_parameters()}


def unit_traces(
    student: nn.Module, units: Units, loss: UnitLoss
) -> tuple[list[Trace | Looked], dict[str, Tensor]]:
    """One pass of the student over a chunk.

    Returns:
        The trace of each convolution and linear layer, and for each parameter that is not the weight
        of one its gradients, (U, *shape).
    """
    layers = layers_of(student, units.images[0, :1])
    rows = units.mask.shape[1]
    zero = {name: units.images.new_zeros(rows, *shape) for name, (_, shape) in layers.items()}
    parameters = {name: value.detach() for name, value in student.named_parameters()}
    fixed = {name: parameters.pop(name) for name in [f"{layer}.weight" for layer in layers]}

    def one(
        at_outputs: Tensors, values: Tensors, images: Tensor, teacher: Tensor, mask: Tensor
    ) -> tuple[Tensor, Tensors]:
        entered: Tensors = {}

        def tap(name: str, into: Tensor, output: Tensor) -> Tensor:
            entered[name] = into
            return output + at_outputs[name]

        with hooked({name: layer for name, (layer, _) in layers.items()}, tap):
            output = functional_call(student, {**fixed, **values}, (images,))
        return loss(output, teacher, mask), entered

    every = vmap(
        grad(one, argnums=(0, 1), has_aux=True), in_dims=(None, None, 0, 0, 0), randomness="different"
    )
    (gradients, rest), entered = every(zero, parameters, units.images, units.teacher, units.mask)
    traces: list[Trace | Looked] = [
        Trace(name=name, layer=layer, entered=entered[name], gradient=gradients[name])
        for name, (layer, _) in layers.items()
    ]
    return traces, rest


def is_row_wise(student: nn.Module) -> bool:
    """Whether all modules are of `ROW_WISE` as their classes have them, in one place, with own parameters.

    A standardised convolution has no parameters where it is not trained; its copy is plain otherwise.
    """
    named = list(student.named_modules(remove_duplicate=False))
    modules = [module for _, module in named]
    owned = [value for module in modules for value in module.parameters(recurse=False)]
    own = len(set(modules)) == len(modules) and len(set(owned)) == len(owned)
    return own and all(map(_is_known, modules)) and bool(owned)


def _is_known(module: nn.Module) -> bool:
    kind = type(module)
    return (
        kind in ROW_WISE
        and "forward" not in vars(module)
        and not any(getattr(module, name) for name in HOOKS)
        and not (kind in BARE and own_parameters(module))
        and not (isinstance(module, Layer) and kind not in BARE and not _is_plain(module))
        and not (isinstance(module, nn.Embedding) and not _is_table(module))
    )


def row_traces(student: nn.Module, units: Units, loss: UnitLoss) -> tuple[list[Trace | Looked], Tensors]:
    """What `unit_traces` gives, of a student that `is_row_wise`, by one plain pass over all rows.

    Of a large table it gives what was looked up, where `unit_traces` has whole gradients.

    The loss is the only thing that sees several rows, and a unit's is a function call of its own.
    """
    num, rows = units.mask.shape
    modules = {name: one for name, one in student.named_modules() if own_parameters(one)}
    inner = {f"{name}.second": one.second for name, one in modules.items() if isinstance(one, Residual)}
    entered: Tensors = {}
    made: Tensors = {}

    def tap(name: str, into: Tensor, output: Tensor) -> Tensor:
        # The first of them is where gradients end, as nothing before it has parameters.
        entered[name], made[name] = into.detach(), output if output.requires_grad else output.requires_grad_()
        return made[name]

    with torch.enable_grad(), gains_in_weights(student) as gains, hooked({**modules, **inner}, tap):
        frozen = {
            name: value.detach() * gains.get(name.rpartition(".")[0], 1.0)
            for name, value in student.named_parameters()
        }
        output = functional_call(student, frozen, (units.images.flatten(0, 1),))
    seen = output.detach().reshape(num, rows, *output.shape[1:])
    at_output = vmap(grad(loss), randomness="different")(seen, units.teacher, units.mask)
    found = torch.autograd.grad(output, [made[name] for name in modules], at_output.flatten(0, 1))
    traces, rest = list[Trace | Looked](), Tensors()
    for (name, module), gradient in zip(modules.items(), found, strict=True):
        into = made[f"{name}.second"].detach() if isinstance(module, Residual) else entered[name]
        one, other = (value.view(num, rows, *value.shape[1:]) for value in (into, gradient))
        own, gain = own_parameters(module), gains.get(name, 1.0)
        if isinstance(module, nn.Embedding) and module.num_embeddings > MOST_LAID_OUT:
            looked = Looked(name=name, num_rows=module.num_embeddings, entered=one, gradient=other)
            traces += [looked] if own else []
            continue
        if isinstance(module, Layer) and "weight" in own:
            traces.append(Trace(name=name, layer=module, entered=one, gradient=other, gain=gain))
        found_small = _small(module, one, other)
        rest |= {f"{name}.{key}": gain * value for key, value in found_small.items() if key in own}
    return traces, rest


def own_parameters(module: nn.Module) -> list[str]:
    """Names of the parameters that are the module's own, without those of modules inside."""
    return [name for name, _ in module.named_parameters(recurse=False)]


def _small(module: nn.Module, entered: Tensor, gradient: Tensor) -> Tensors:
    """Gradients of each unit, (U, *shape), of what `row_traces` does not keep as factors.

    Args:
        module: Of `ROW_WISE`, with parameters.
        entered: What went in, (U, R, ...); into a `Residual` what it scales.
        gradient: At what came out, (U, R, ...).
    """
    if isinstance(module, Residual):
        return {"scale": (entered * gradient).flatten(1).sum(dim=1)}
    if isinstance(module, nn.Embedding):
        # Which row each place looked up, as zeros and ones: the sum is a product, in each unit's own order.
        looked = gradient.new_zeros(len(entered), entered[0].numel(), module.num_embeddings)
        looked.scatter_(2, entered.flatten(1)[..., None], 1.0)
        return {"weight": looked.transpose(1, 2) @ gradient.flatten(1, -2)}
    channels = gradient.ndim - 1 if isinstance(module, nn.Linear) else 2
    others = [dim for dim in range(1, gradient.ndim) if dim != channels]
    found = {"bias": gradient.sum(dim=others)}
    if isinstance(module, nn.GroupNorm):
        normed = functional.group_norm(entered.flatten(0, 1), module.num_groups, eps=module.eps)
        found["weight"] = (normed.view_as(entered) * gradient).sum(dim=others)
    return found


@contextmanager
def hooked(layers: Mapping[str, nn.Module], hook: Callable[[str, Tensor, Tensor], Tensor]) -> Iterator[None]:
    """Let ``hook(name, what went in, what came out)`` replace what the layers put out."""
    handles = [
        layer.register_forward_hook(lambda _, args, output, name=name: hook(name, args[0], output))
        for name, layer in layers.items()
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def layers_of(student: nn.Module, image: Tensor) -> dict[str, tuple[Layer, torch.Size]]:
    """Layers whose weight gradient is a product of factors, each with the shape of a row's output.

    They are found by one call on a blank image. A layer that is called twice, or shares its weight,
    is left out: its gradient would be a sum of products.
    """
    owners = Counter(id(value) for module in student.modules() for value in module.parameters(recurse=False))
    candidates = {
        name: layer
        for name, layer in student.named_modules()
        if isinstance(layer, Layer) and _is_plain(layer) and owners[id(layer.weight)] == 1
    }
    calls: dict[str, list[torch.Size]] = {name: [] for name in candidates}

    def note(name: str, _: Tensor, output: Tensor) -> Tensor:
        calls[name].append(output.shape[1:])
        return output

    with torch.no_grad(), hooked(candidates, note):
        student(torch.zeros_like(image))
    return {name: (layer, calls[name][0]) for name, layer in candidates.items() if len(calls[name]) == 1}


def _is_plain(layer: nn.Module) -> bool:
    """Whether `Trace` knows the layer; subclasses may do anything with their weight and are left out."""
    if type(layer) is nn.Linear:
        return True
    return (
        type(layer) is nn.Conv2d
        and layer.groups == 1
        and layer.padding_mode == "zeros"
        and not isinstance(layer.padding, str)
        and set(layer.dilation) == {1}
    )


def _is_table(layer: nn.Embedding) -> bool:
    """Whether an embedding does nothing but look rows up."""
    return (
        layer.padding_idx is None
        and layer.max_norm is None
        and not layer.scale_grad_by_freq
        and not layer.sparse
    )


def _doubled(trace: Trace, num_real: int) -> tuple[Tensor, Tensor]:
    """The factors in float64, with the gain."""
    gradient = trace.gradient[:num_real].double() * trace.gain
    own = replace(trace, entered=trace.entered[:num_real].double(), gradient=gradient)
    return own.factors(slice(None))


def gram_square(
    output_UOL: Float[Tensor, "units out positions"], input_ULK: Float[Tensor, "units positions into"]
) -> Float[Tensor, " units"]:
    """Squared norm of each unit's product, from L x L matrices; overstated by 1e-12 of the factors' norms."""
    of_output = output_UOL.transpose(1, 2) @ output_UOL
    of_input = input_ULK @ input_ULK.transpose(1, 2)
    traces = of_output.diagonal(dim1=1, dim2=2).sum(dim=1) * of_input.diagonal(dim1=1, dim2=2).sum(dim=1)
    return (of_output * of_input).sum(dim=(1, 2)) + GRAM_GUARD * traces


def _weighted_product(factor_U: Tensor, output_UOL: Tensor, input_ULK: Tensor) -> Tensor:
    """Sum over the units of factor times product, (O, K), as one product."""
    factor_U, output_UOL, input_ULK = counting(factor_U, output_UOL, input_ULK)
    weighted = output_UOL * factor_U[:, None, None]
    return weighted.transpose(0, 1).flatten(1) @ input_ULK.flatten(0, 1)


def _formed_sum(
    traces: list[Trace], rest: Mapping[str, Tensor], square_U: Tensor, *, clip: float, num_units: int
) -> tuple[Sum, Tensor]:
    """Form the products of a block of units after another, finish the norms, clip and sum.

    Args:
        traces: Layers whose products are formed, of all units.
        rest: Gradients of the other parameters.
        square_U: Squared norms of what is not formed, of the units that are real: the first ones.
        clip: ``C``.
        num_units: Units with the padding, which is formed too: how many products there are in a call is then
            what it would be with other units.

    Returns:
        The sums, and the clip factor of each real unit.
    """
    num, like = len(square_U), next(iter([*(trace.entered for trace in traces), *rest.values()]), square_U)
    numels = [trace.layer.weight.numel() for trace in traces] + [value[0].numel() for value in rest.values()]
    width = -(-sum(numels) // STRETCH) * STRETCH
    buffer = like.new_zeros(min(BLOCK, num_units), width)
    total = torch.zeros(width, dtype=torch.float64, device=like.device)
    factors, room = [], Room()
    for first in range(0, num, BLOCK):
        part = slice(first, min(first + BLOCK, num_units))
        _fill(buffer[: part.stop - part.start], traces, rest, part, room)
        part = slice(first, min(first + BLOCK, num))
        block = buffer[: part.stop - part.start]
        stretches = torch.linalg.vector_norm(block.view(len(block), -1, STRETCH), dim=2)
        norm = (square_U[part] + stretches.double().square().sum(dim=1)).sqrt()
        factor = clip_factors(norm, clip=clip)
        # To ask a GPU whether there is anything to do would take longer than to do it.
        if not factor.is_cpu or not bool((factor > 0).all()):
            block.masked_fill_((factor == 0)[:, None], 0.0)
        total += weighted_sum(factor, block)
        factors.append(factor)
    parts = torch.split(total[: sum(numels)], numels)
    sums = {f"{trace.name}.weight": as_weight(flat, trace.layer) for trace, flat in zip(traces, parts)}
    sums |= {
        name: flat.view(value.shape[1:])
        for (name, value), flat in zip(rest.items(), parts[len(traces) :], strict=True)
    }
    return sums, torch.cat(factors)


def _fill(block: Tensor, traces: list[Trace], rest: Mapping[str, Tensor], part: slice, room: Room) -> None:
    """Write the gradients of the units of ``part`` side by side into the rows of ``block``."""
    start, num = 0, len(block)
    for trace in traces:
        output_UOL, input_ULK = trace.factors(part, room)
        shape = (num, output_UOL.shape[1], input_ULK.shape[2])
        end = start + shape[1] * shape[2]
        block[:, start:end].view(shape).baddbmm_(output_UOL, input_ULK, beta=0, alpha=trace.gain)
        start = end
    for value in rest.values():
        end = start + value[0].numel()
        block[:, start:end] = value[part].reshape(num, -1)
        start = end
