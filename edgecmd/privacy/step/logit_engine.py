"""The engine ``logits``: a contrast over the sample whose similarities are clipped one by one (Logit-DP).

After Kong, Munoz Medina and Ribero (ICLR 2025, arXiv 2310.03104), for a frozen teacher and with a
constant of our own. Of a sample of ``n`` pairs the step takes ``f = sum_ij r_ij clip_C(G_ij)``:
``Z_ij = z_i.t_j / T`` with unit ``z`` and ``t``, ``G_ij`` the gradient of ``Z_ij``, and
``r_ij = p_ij - [i = j]`` with ``p_i`` the softmax of row ``i``: without the clips, the gradient of the
contrast from the student's side.

**Lemma.** One more pair moves ``f`` by ``C (2 + 2 e^{2/T})`` at most, for any ``n``. *Proof.* Let the pair
be the last of ``n``. Clipped gradients depend on ``i`` and ``j`` alone, so those of other pairs stay. Its
row adds vectors of norm ``C`` with weights ``sum_j |r_nj| = 2 (1 - p_nn) <= 2``. Its column adds ``p_in``
to each row ``i < n``, whose other shares shrink by the factor ``1 - p_in``, so that
``sum_{j<n} |r_ij - r'_ij| = p_in``: the row moves by ``2 p_in C`` at most. As ``|Z| <= 1/T``,
``p_in <= k = e^{2/T} / (e^{2/T} + n - 1)``, and ``(n - 1) k < e^{2/T}``. Together
``C (2 + 2 (n - 1) k)``, which is below ``C (2 + 2 e^{2/T})``.

The largest ``n`` counts, since the size of a sample is random. `tests/edgecmd/privacy/test_logits.py`
comes within 3% of the bound with 256 pairs, which is more than the authors' released code allows for.

**Trap.** All other pairs must stay in the softmax. If those of the same source were left out, as `cmc`
does, ``n - 1`` pairs of one source would leave each row with its own column and the new one: ``p_in`` of up
to 0.88 in every row, and a change that grows with ``n``.

**How it is computed.** A row needs its own ``z`` and the teacher's features, so pairs go through the
student in small chunks. Gradients of the ``F`` numbers that enter the last, linear layer are taken once;
the norm of every ``G_ij`` follows from their F x F products, and the sum from the same numbers, in float64.
It costs ``F`` backward passes a pair: a baseline for research.

**Rounding.** Each ``G_ij`` is clipped to ``C (1 - 1e-4)``, which leaves 1.7e-3 C of the bound: enough for
kernels that round otherwise for one pair more (4.7e-7 of each gradient, weights of 2 a row) up to some 1,700
pairs in a sample.

Shapes: N pairs of a chunk, M pairs of the sample, F inputs of the last layer, D embedding dimension, O
output channels, L positions, K inputs of a position.
"""

from collections.abc import Iterator

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.func import functional_call, vjp, vmap

from edgecmd.core.errors import PrivacyError
from edgecmd.losses import LOGIT_TEMPERATURE, unit
from edgecmd.privacy.step.gradients import Sum, clip_factors
from edgecmd.privacy.step.units import Units
from edgecmd.privacy.step.vmap_engine import Layer, as_weight, hooked, layers_of, windows

# Pairs whose F gradients are held at a time.
CHUNK = 8

Tensors = dict[str, Tensor]
Layers = dict[str, tuple[Layer, torch.Size]]


def logit_sum(student: nn.Module, units: Units, *, clip: float, num_real: int | None = None) -> Sum:
    """Sum over each unit, which is a whole sample, of its weighted and clipped gradients of similarities.

    Args:
        student: Encoder that ends in a linear layer ``projector``; not changed.
        units: The pairs of a sample, each in one row.
        clip: ``C``, the largest norm of the gradient of one similarity.
        num_real: Units after these are padding and count as zero; None for none.

    Returns:
        float64, keyed like ``student.named_parameters()``.

    Raises:
        PrivacyError: The student does not end in a linear layer.

    Guarantees:
        One more pair moves it by at most ``C (2 + 2 e^{2/T})``. A pair whose teacher feature is not finite
        takes no part; one whose gradients are not finite has an empty row.
    """
    total = {name: torch.zeros_like(value, dtype=torch.float64) for name, value in student.named_parameters()}
    for images, teacher, mask in zip(*(one[:num_real] for one in (units.images, units.teacher, units.mask))):
        feature = unit(teacher[mask].double())
        known = torch.isfinite(feature).all(dim=1)
        image, feature = images[mask][known], feature[known]
        layers = layers_of(student, image[:1]) if len(image) else {}
        layers.pop("projector", None)
        for first in range(0, len(image), CHUNK):
            part = image[first : first + CHUNK]
            for name, value in _rows(student, layers, part, feature, first, clip=clip):
                total[name] += value
    return total


def _rows(
    student: nn.Module, layers: Layers, image: Tensor, teacher_MD: Tensor, first: int, *, clip: float
) -> Iterator[tuple[str, Tensor]]:
    """What a chunk of rows adds to the sum, parameter by parameter."""
    projector = _ends_in(student)
    input_NF, at_outputs, rest, entered = _basis(student, layers, image)
    factors = {name: _factors(layer, at_outputs[name], entered[name]) for name, (layer, _) in layers.items()}
    gram_NFF = sum((_products(*pair) for pair in factors.values()), start=_flat_products(rest))
    weight, input_NF = projector.weight.detach().double(), input_NF.double()
    output_ND = input_NF @ weight.T + (0.0 if projector.bias is None else projector.bias.detach().double())
    at_output_NMD = _cotangents(output_ND, teacher_MD)
    at_input_NMF = at_output_NMD @ weight
    size_N1 = input_NF.square().sum(dim=1, keepdim=True) + float(projector.bias is not None)
    square_NM = (at_input_NMF @ gram_NFF * at_input_NMF).sum(dim=2)
    square_NM = square_NM.clamp(min=0.0) + size_N1 * at_output_NMD.square().sum(dim=2)
    share_NM = _shares(output_ND, teacher_MD, first) * clip_factors(square_NM.sqrt(), clip=clip)
    sound_N = torch.isfinite(square_NM).all(dim=1) & torch.isfinite(share_NM).all(dim=1)
    # Most often all rows are sound, and a copy of the gradients is saved.
    sound = slice(None) if bool(sound_N.all()) else sound_N
    out_ND = torch.einsum("nm,nmd->nd", share_NM[sound], at_output_NMD[sound])
    in_NF = out_ND @ weight
    yield "projector.weight", out_ND.T @ input_NF[sound]
    if projector.bias is not None:
        yield "projector.bias", out_ND.sum(dim=0)
    for name, value in rest.items():
        yield name, torch.einsum("nf,nf...->...", in_NF, value[sound].double())
    for name, (output_NFOL, input_NLK) in factors.items():
        of_pair_NOL = torch.einsum("nf,nfol->nol", in_NF, output_NFOL[sound])
        by_pair_NOK = of_pair_NOL if input_NLK is None else of_pair_NOL @ input_NLK[sound]
        flat = by_pair_NOK.sum(dim=0)
        yield f"{name}.weight", as_weight(flat, layers[name][0])


def _cotangents(
    output_ND: Float[Tensor, "pairs dim"], teacher_MD: Float[Tensor, "others dim"]
) -> Float[Tensor, "pairs others dim"]:
    """Gradient of each similarity at what the student puts out, through its division by the norm."""
    length_N1 = output_ND.norm(dim=1, keepdim=True)
    own_ND = output_ND / length_N1
    along_NM = own_ND @ teacher_MD.T
    across: Tensor = teacher_MD[None] - along_NM[:, :, None] * own_ND[:, None]
    found: Tensor = across / (LOGIT_TEMPERATURE * length_N1[:, :, None])
    return found


def _shares(output_ND: Tensor, teacher_MD: Tensor, first: int) -> Float[Tensor, "pairs others"]:
    """``r``: what each similarity weighs, the softmax of its row less the pair itself."""
    share_NM = torch.softmax(unit(output_ND) @ teacher_MD.T / LOGIT_TEMPERATURE, dim=1)
    row = torch.arange(len(output_ND), device=share_NM.device)
    share_NM[row, first + row] -= 1.0
    return share_NM


def _basis(student: nn.Module, layers: Layers, image: Tensor) -> tuple[Tensor, Tensors, Tensors, Tensors]:
    """Gradients of each input of the last layer, for each pair.

    Returns:
        These inputs, (N, F); the gradients at the outputs of the other layers, (N, F, 1, ...), and of the
        parameters that are no layer's weight, (N, F, *shape); what went into the layers, (N, 1, ...).
    """
    zero = {name: image.new_zeros(1, *shape) for name, (_, shape) in layers.items()}
    parameters = {name: value.detach() for name, value in student.named_parameters()}
    fixed = {
        name: parameters.pop(name)
        for name in list(parameters)
        if name.startswith("projector.") or name.removesuffix(".weight") in layers
    }
    projector = _ends_in(student)
    basis_FF = torch.eye(projector.in_features, dtype=image.dtype, device=image.device)
    watched = {name: layer for name, (layer, _) in layers.items()} | {"projector": projector}

    def one(own: Tensor) -> tuple[Tensor, Tensors, Tensors, Tensors]:
        def forward(at_outputs: Tensors, values: Tensors) -> tuple[Tensor, Tensors]:
            entered: Tensors = {}

            def tap(name: str, into: Tensor, output: Tensor) -> Tensor:
                entered[name] = into
                return output if name == "projector" else output + at_outputs[name]

            with hooked(watched, tap):
                functional_call(student, {**fixed, **values}, (own[None],))
            return entered.pop("projector")[0], entered

        feature, pull, entered = vjp(forward, zero, parameters, has_aux=True)  # type: ignore[misc]
        at_outputs, rest = vmap(pull)(basis_FF)
        return feature, at_outputs, rest, entered

    found: tuple[Tensor, Tensors, Tensors, Tensors] = vmap(one, randomness="different")(image)
    return found


def _factors(layer: Layer, gradient: Tensor, entered: Tensor) -> tuple[Tensor, Tensor | None]:
    """Of the gradients of a layer's weight, (N, F, O, L) and (N, L, K), or their product where it is smaller.

    In float64, so that what is measured is what is summed.
    """
    output_NFOL = gradient.reshape(*gradient.shape[:2], len(layer.weight), -1)
    if isinstance(layer, nn.Linear):
        input_NLK = entered.flatten(1)[:, None]
    else:
        input_NLK = windows(entered.flatten(0, 1), layer)
    positions, into = input_NLK.shape[1:]
    if positions > into:
        return (output_NFOL @ input_NLK[:, None]).double(), None
    return output_NFOL.double(), input_NLK.double()


def _products(output_NFOL: Tensor, input_NLK: Tensor | None) -> Float[Tensor, "pairs wide wide"]:
    """Products of the weight's gradients with each other."""
    if input_NLK is None:
        return output_NFOL.flatten(2) @ output_NFOL.flatten(2).transpose(1, 2)
    other = output_NFOL @ (input_NLK @ input_NLK.transpose(1, 2))[:, None]
    return output_NFOL.flatten(2) @ other.flatten(2).transpose(1, 2)


def _flat_products(rest: Tensors) -> Tensor:
    flat = torch.cat([value.double().reshape(*value.shape[:2], -1) for value in rest.values()], dim=2)
    return flat @ flat.transpose(1, 2)


def _ends_in(student: nn.Module) -> nn.Linear:
    projector = getattr(student, "projector", None)
    if type(projector) is nn.Linear:
        return projector
    raise PrivacyError(
        f"privacy.engine='logits' reads the last layer of {type(student).__name__}, which has no linear"
        " layer 'projector'. Use a ws-* or gn-* student, or privacy.mechanism=anchors."
    )
