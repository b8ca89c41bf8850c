"""Ten steps of local work from the formulas alone, in double: the origin of ``golden/cmc.txt``.

Nothing of edgecmd is used, nor any kernel that may take another road on another processor: numbers are
drawn by numpy, a convolution is a product of windows and weights, AdamW stands as Loshchilov and Hutter
(arXiv 1711.05101) wrote it. ``python tests/golden_steps.py`` prints the table.
"""

import math
import sys
import zlib

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

PAIRS, BATCH, SIDE, DIM, STEPS, RATE, TEMPERATURE = 24, 8, 32, 8, 10, 3e-3, 0.1
# Output and input channels and stride of each convolution of `ws-50k`.
CONVOLUTIONS = {
    "trunk.0.0": (12, 1, 2),
    "trunk.1.0": (12, 12, 2),
    "trunk.2.0": (24, 12, 2),
    "trunk.3.first.0": (24, 24, 1),
    "trunk.3.second.0": (24, 24, 1),
    "trunk.4.0": (36, 24, 2),
    "trunk.5.first.0": (36, 36, 1),
    "trunk.5.second.0": (36, 36, 1),
}
GAIN = math.sqrt(2 / (1 - 1 / math.pi))


def first_weights() -> dict[str, Tensor]:
    """Weights to start from, by their names in a student's state."""
    rng, found = np.random.default_rng(11), {}
    for name, (out, into, _) in CONVOLUTIONS.items():
        found[f"{name}.weight"] = rng.standard_normal((out, into, 3, 3))
        found[f"{name}.bias"] = 0.1 * rng.standard_normal(out)
        found[f"{name}.gain"] = 1 + 0.1 * rng.standard_normal((out, 1, 1, 1))
    found |= {"trunk.3.scale": np.array(0.5), "trunk.5.scale": np.array(0.4)}
    found |= {"projector.weight": rng.standard_normal((DIM, 72)) / 6, "projector.bias": np.zeros(DIM)}
    return {name: torch.from_numpy(value) for name, value in found.items()}


def pairs() -> tuple[Tensor, Tensor]:
    """Pictures, and teacher features that are a linear function of them, so that they can be learnt."""
    rng = np.random.default_rng(12)
    coarse = rng.standard_normal((PAIRS, 1, 4, 4))
    teacher = coarse.reshape(PAIRS, 16) @ rng.standard_normal((16, DIM))
    return torch.from_numpy(np.kron(coarse, np.ones((8, 8)))), torch.from_numpy(teacher)


def ten_losses() -> list[float]:
    """Mean loss of each of ten steps, each a round of its own."""
    weights = {name: value.requires_grad_() for name, value in first_weights().items()}
    target, teacher = pairs()
    moments = {name: (torch.zeros_like(value), torch.zeros_like(value)) for name, value in weights.items()}
    found = []
    for step in range(STEPS):
        rows = np.random.default_rng(entropy("batches", step)).permutation(PAIRS)[:BATCH]
        loss = contrast(embed(view(target[rows], step), weights), teacher[rows])
        found.append(loss.item())
        slopes = torch.autograd.grad(loss, list(weights.values()))
        for (name, weight), slope in zip(weights.items(), slopes, strict=True):
            adamw(weight.data, slope, *moments[name], step=step)
    return found


def entropy(purpose: str, step: int) -> np.random.SeedSequence:
    """Seed of one purpose: run 0, the step's round, client 0."""
    return np.random.SeedSequence([0, zlib.crc32(purpose.encode()), step + 1, 0])


def adamw(weight: Tensor, slope: Tensor, mean: Tensor, square: Tensor, *, step: int) -> None:
    """One update without decay, at the rate of a cosine over ten steps."""
    mean.mul_(0.9).add_(0.1 * slope)
    square.mul_(0.999).add_(0.001 * slope**2)
    rate = RATE * (1 + math.cos(math.pi * step / STEPS)) / 2
    root = (square / (1 - 0.999 ** (step + 1))).sqrt() + 1e-8
    weight.sub_(rate * (mean / (1 - 0.9 ** (step + 1))) / root)


def view(pictures: Tensor, step: int) -> Tensor:
    """Each picture turned, enlarged, shifted and mirrored; linear between pixels, borders repeated.

    Coins and maps are float32 numbers, which the computation in between keeps the same everywhere.
    """
    seed = int(entropy("views", step).generate_state(1, np.uint64)[0])
    coins = torch.Generator().manual_seed(seed)
    turn, zoom = (torch.rand(BATCH, generator=coins).numpy() for _ in range(2))
    shift, mirror = torch.rand(BATCH, 2, generator=coins).numpy(), torch.rand(BATCH, generator=coins).numpy()
    angle = np.float32(turn * np.float32(20) - np.float32(10)).astype(float) * math.pi / 180
    low, high = math.log(0.85), math.log(1.2)
    zoom = np.exp(np.float32(zoom * np.float32(high - low) + np.float32(low)).astype(float))
    shift = np.float32(shift * np.float32(0.24) - np.float32(0.12)).astype(float)
    sign = np.where(mirror < 0.5, -1.0, 1.0)
    maps = np.array(
        [
            [np.cos(angle) / zoom * sign, -np.sin(angle) / zoom, shift[:, 0]],
            [np.sin(angle) / zoom * sign, np.cos(angle) / zoom, shift[:, 1]],
        ]
    )
    maps = maps.astype(np.float32).astype(float)
    seen = [bilinear(one[0].numpy(), maps[..., row]) for row, one in enumerate(pictures)]
    return torch.from_numpy(np.array(seen)[:, None])


def bilinear(picture: np.ndarray, theta_23: np.ndarray) -> np.ndarray:
    """The picture at the places that ``theta`` gives, in shares of half a side from the middle."""
    along = (2 * np.arange(SIDE) + 1) / SIDE - 1
    grid = np.stack([*np.meshgrid(along, along), np.ones((SIDE, SIDE))])
    x, y = ((np.tensordot(theta_23, grid, 1) + 1) * SIDE - 1).clip(0, 2 * SIDE - 2) / 2
    left, top = np.minimum(x.astype(int), SIDE - 2), np.minimum(y.astype(int), SIDE - 2)
    right_share, low_share = x - left, y - top
    upper = picture[top, left] * (1 - right_share) + picture[top, left + 1] * right_share
    lower = picture[top + 1, left] * (1 - right_share) + picture[top + 1, left + 1] * right_share
    return upper * (1 - low_share) + lower * low_share


def embed(picture: Tensor, weights: dict[str, Tensor]) -> Tensor:
    """The student: four halvings, a residual block after the third and after the fourth."""
    x = picture
    for name in ("trunk.0.0", "trunk.1.0", "trunk.2.0"):
        x = convolved(x, weights, name)
    x = residual(x, weights, "trunk.3")
    x = residual(convolved(x, weights, "trunk.4.0"), weights, "trunk.5")
    pooled = torch.cat([x.mean(dim=(2, 3)), x.amax(dim=(2, 3))], dim=1)
    return pooled @ weights["projector.weight"].T + weights["projector.bias"]


def residual(x: Tensor, weights: dict[str, Tensor], name: str) -> Tensor:
    """``x + scale * f(x)`` with two convolutions in ``f``."""
    inner = convolved(convolved(x, weights, f"{name}.first.0"), weights, f"{name}.second.0")
    return x + weights[f"{name}.scale"] * inner


def convolved(x: Tensor, weights: dict[str, Tensor], name: str) -> Tensor:
    """Standardised weights over windows of nine pixels, then the scaled ReLU."""
    out, into, stride = CONVOLUTIONS[name]
    flat = weights[f"{name}.weight"].reshape(out, -1)
    centred = flat - flat.mean(dim=1, keepdim=True)
    spread = ((centred**2).mean(dim=1, keepdim=True) * into * 9 + 1e-8) ** 0.5
    flat = weights[f"{name}.gain"].reshape(out, 1) * centred / spread
    windows = functional.unfold(x, 3, padding=1, stride=stride)
    y = flat @ windows + weights[f"{name}.bias"][:, None]
    return GAIN * y.clamp(min=0).reshape(len(x), out, x.shape[2] // stride, x.shape[3] // stride)


def contrast(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean of ``-log softmax`` of the pairs' similarities, half from each side."""
    s = student / (student**2).sum(dim=1, keepdim=True) ** 0.5
    t = teacher / (teacher**2).sum(dim=1, keepdim=True) ** 0.5
    heat = torch.exp(s @ t.T / TEMPERATURE)
    share = heat.diagonal() ** 2 / heat.sum(dim=0) / heat.sum(dim=1)
    return -share.log().mean() / 2


if __name__ == "__main__":
    table = enumerate(ten_losses(), start=1)
    sys.stdout.writelines(f"{step} {loss:.12f}\n" for step, loss in table)
