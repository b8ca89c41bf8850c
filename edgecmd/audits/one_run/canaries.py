"""Canaries: units whose presence is decided by fair coins, so that guessing the coins measures leakage.

Two kinds. A *gradient canary* (Dirac canary, Nasr et al. 2023, arXiv 2302.07956; Steinke et al. 2023,
arXiv 2305.08846) has no picture: where it is sampled it moves the clipped sum along a coordinate of its
own by the whole stated sensitivity. It tests sampling, noise and accounting, and takes the sensitivity
for granted. An *input canary* is a pair like any other, so it goes through augmentation, student, loss
and clip: it tests that what the code does with a pair stays within the claim.

A gradient canary moves the sum by the stated sensitivity also where a unit is a bucket of pairs
(mechanism ``groups``, 2 C): it stands for the pair that turns the clipped gradient of its bucket round,
which is the most that a pair is claimed to do. No data would let a thousand pairs do so at once, but the
claim is made for each pair whatever the others are, and so for these.

Shapes: M canaries, C channels, H height, W width, D embedding dimension.
"""

from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Bool, Int
from torch import Tensor, nn

from edgecmd.core.errors import PrivacyError
from edgecmd.core.seeding import numpy_generator, torch_generator
from edgecmd.losses import unit
from edgecmd.models.trunks.convolutions import StandardisedConv2d
from edgecmd.privacy.plan import PrivacyPlan
from edgecmd.privacy.step.gradients import MARGIN, Sum
from edgecmd.training.distill import LocalData, with_more
from edgecmd.training.task import Holding

CHUNK_ROWS = 256


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Coins:
    """Which client holds each canary, and whether it takes part.

    Attributes:
        client: Holder of each canary, (M,); as many each as can be.
        included: Outcome of each canary's own fair coin, (M,).
    """

    client: Int[np.ndarray, " canaries"]
    included: Bool[np.ndarray, " canaries"]

    def __len__(self) -> int:
        return len(self.client)

    def of(self, client: int) -> np.ndarray:
        """Indices of all canaries of ``client``."""
        return np.flatnonzero(self.client == client)


def toss(num: int, *, num_clients: int, seed: int, kind: str) -> Coins:
    """Coins of ``num`` canaries that are dealt to the clients in turn.

    Args:
        num: M.
        num_clients: Clients.
        seed: Seed of the audit; the coins of another kind or seed are independent.
        kind: Kind of the canaries.
    """
    generator = numpy_generator(seed, f"audit-coins-{kind}")
    return Coins(client=np.arange(num) % num_clients, included=generator.random(num) < 0.5)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class GradientCanaries:
    """Canaries that are coordinates of one parameter.

    Attributes:
        coins: Holders and outcomes.
        parameter: Name of the parameter; noise reaches it as it is drawn, without a map.
        place: Coordinate of each canary in the flattened parameter, all different, (M,).
        size: How far a canary moves the clipped sum: the stated sensitivity, but for the rounding margin.
    """

    coins: Coins
    parameter: str
    place: Int[np.ndarray, " canaries"]
    size: float


def plain_parameters(student: nn.Module) -> list[str]:
    """Names of parameters that act as they are: those of no weight-standardised convolution's kernel."""
    mapped = {
        f"{name}.{kind}"
        for name, layer in student.named_modules()
        if isinstance(layer, StandardisedConv2d)
        for kind in ("weight", "gain")
    }
    return [name for name, _ in student.named_parameters() if name not in mapped]


def gradient_canaries(
    student: nn.Module, plan: PrivacyPlan, *, num: int, num_clients: int, seed: int
) -> GradientCanaries:
    """Canaries on random coordinates of the largest parameter that acts as it is (the projector's weight).

    Raises:
        PrivacyError: It has fewer coordinates than canaries were asked for.
    """
    values = dict(student.named_parameters())
    name = max(plain_parameters(student), key=lambda one: values[one].numel())
    if num > values[name].numel():
        raise PrivacyError(
            f"--canaries={num} exceeds the {values[name].numel()} coordinates of {name!r}, one for each"
            " canary. Use fewer."
        )
    generator = numpy_generator(seed, "audit-coordinates")
    return GradientCanaries(
        coins=toss(num, num_clients=num_clients, seed=seed, kind="gradient"),
        parameter=name,
        place=generator.permutation(values[name].numel())[:num],
        size=plan.sensitivity * (1.0 - MARGIN),
    )


class GradientProbe:
    """Puts a client's included gradient canaries into its steps, and scores all of them by the releases.

    The score is the log-likelihood ratio of the claimed mechanism, canary present against absent, summed
    over steps: ``log(1 - q + q exp(m x - m^2 / 2))`` with ``x`` the released coordinate and ``m`` the
    canary's size, both in units of the noise. For ``q = 1`` it orders canaries like the sum of ``x``.

    Args:
        canaries: All canaries.
        plan: Plan of the run.
        client: The client.
        scores: Score of each canary, (M,); added to.
    """

    def __init__(
        self, canaries: GradientCanaries, plan: PrivacyPlan, *, client: int, scores: np.ndarray
    ) -> None:
        self._canaries, self._plan, self._scores = canaries, plan, scores
        self._own = canaries.coins.of(client)
        self._present = self._own[canaries.coins.included[self._own]]
        self._rate = plan.sampling_rate if plan.sampling == "poisson" else 1.0 / plan.num_bins

    def __len__(self) -> int:
        return len(self._present)

    def form(self, *_: object) -> None:
        """Look away: a canary knows nothing of the pairs."""

    def add(self, total: Sum, units: np.ndarray) -> None:
        """Move the sum along the coordinates of the sampled canaries."""
        chosen = torch.from_numpy(self._canaries.place[self._present[units]])
        total[self._canaries.parameter].view(-1)[chosen] += self._canaries.size

    def see(self, released: Sum) -> None:
        """Score all of the client's canaries, absent ones included."""
        flat = released[self._canaries.parameter].reshape(-1).cpu().numpy()
        seen = flat[self._canaries.place[self._own]] * (self._plan.normaliser / self._plan.noise_std)
        mean = self._canaries.size / self._plan.noise_std
        with np.errstate(divide="ignore"):
            absent, present = np.log1p(-self._rate), np.log(self._rate)
        self._scores[self._own] += np.logaddexp(absent, present + mean * seen - mean**2 / 2)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class InputCanaries:
    """Canaries that are pairs.

    Attributes:
        coins: Holders and outcomes.
        data: Images (M, C, H, W) and teacher features (M, D).
    """

    coins: Coins
    data: LocalData

    def joined(self, holding: Holding, client: int) -> Holding:
        """The holding of ``client`` with its included canaries behind its pairs."""
        own = self.coins.of(client)
        chosen = torch.from_numpy(own[self.coins.included[own]])
        target, teacher = holding.data.target, holding.data.teacher
        data = replace(
            holding.data,
            target=with_more(target, self.data.inputs[chosen]),
            teacher=with_more(teacher, self.data.features[chosen]),
        )
        return Holding(data=data, anchors=holding.anchors)


@torch.no_grad()
def input_canaries(
    student: nn.Module, like: LocalData, *, num: int, num_clients: int, seed: int
) -> InputCanaries:
    """Noise images whose teacher features know the student.

    An untrained student maps everything near one point, the hub. A canary's feature is a direction
    across the hub, and within a client the directions are orthogonal as far as the dimension allows: so
    each canary pulls the student its own way, as hard as it can. Canaries at the hub itself would pull
    as one, and the presence of one would drown in the pull of the others (AUC of the server without
    privacy, 25 canaries per client: 0.87 across the hub, 0.60 at a cosine of 0.7 with it).

    Args:
        student: The initial student.
        like: Pairs of any client, for shapes and device.
        num: M.
        num_clients: Clients.
        seed: Seed of the audit.
    """
    coins = toss(num, num_clients=num_clients, seed=seed, kind="input")
    generator = torch_generator(seed, "audit-inputs")
    image = torch.randn((num, *like.target.shape[1:]), generator=generator).to(like.target.device)
    feature = unit(torch.cat([student(part).float() for part in torch.split(image, CHUNK_ROWS)]))
    hub = unit(feature.mean(dim=0))
    teacher = torch.empty_like(feature)
    for client in range(num_clients):
        own = torch.from_numpy(coins.of(client))
        teacher[own] = _directions(len(own), hub, generator=generator)
    return InputCanaries(coins=coins, data=LocalData(target=image, teacher=teacher.to(like.teacher.device)))


def _directions(num: int, hub: Tensor, *, generator: torch.Generator) -> Tensor:
    """``num`` unit vectors across ``hub``, in orthogonal sets of at most D - 1, (num, D)."""
    dim, found = len(hub), []
    for start in range(0, num, dim - 1):
        drawn = torch.randn(dim, min(dim - 1, num - start), generator=generator).to(hub)
        basis, _ = torch.linalg.qr(torch.cat([hub[:, None], drawn], dim=1))
        found.append(basis[:, 1:].T)
    return torch.cat(found) if found else hub.new_empty(0, dim)
