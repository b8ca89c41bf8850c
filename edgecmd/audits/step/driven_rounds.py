"""Rounds of the real code under an auditor that computes the clipped sum of every step itself.

The auditor sits inside `private_step.distil_privately` as its probe, gives it its optimiser and
passes on its coins. In each step he sees the sampled rows, the units that were formed of them, their
clipped sum, the release, what the optimiser gets and how the weights move. From the units he makes the
clipped sum by plain backward passes of his own: what the release holds beside it is the noise.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor, nn

from edgecmd.audits.static.reference_sum import nearest_sum, norm
from edgecmd.audits.static.search import distance
from edgecmd.audits.step.noise import StepNoise, Test, step_noise
from edgecmd.audits.step.repeats import repeats
from edgecmd.losses import Anchors, loss_of, unit
from edgecmd.models.trunks.convolutions import StandardisedConv2d
from edgecmd.privacy.plan import PrivacyPlan
from edgecmd.privacy.step import private_step, randomness
from edgecmd.privacy.step.gradients import Sum
from edgecmd.privacy.step.moments import subject_of
from edgecmd.privacy.step.randomness import STATE_WORDS, Source
from edgecmd.privacy.step.standardised_weights import plain_copy
from edgecmd.privacy.step.units import UnitLoss, Units
from edgecmd.settings import DistillConfig
from edgecmd.training.distill import LocalData, Place

# A weight moves by the release; below this share of the weights float32 would round the move away.
RESOLVED = 1e-5
Arrays = dict[str, Tensor]


class Recorder:
    """A source that counts the words it passes on.

    Args:
        source: Where they come from.

    Attributes:
        private: As of the source.
        drawn: Words so far.
    """

    def __init__(self, source: Source) -> None:
        self._source, self.private, self.drawn = source, source.private, 0

    def words(self, count: int) -> np.ndarray:
        """``count`` words of the source."""
        self.drawn += count
        return self._source.words(count)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Step:
    """What an auditor found in one step.

    Attributes:
        noise: What the release holds beside the auditor's own sum.
        units: Units that were formed of the sampled pairs.
        sum_gap: Distance of the step's clipped sum and the auditor's, in units of C, of what flips by
            rounding cannot explain.
        gradient_gap: Share by which what the optimiser got misses the release, at its worst parameter.
        weight_gap: Share by which the weights moved otherwise than by the release.
        words: Words of the source that were drawn after the sum was formed, for each coordinate.
        coins: Words that were drawn before, but for those of the views.
        pairs: Pairs of the client, each of which has a coin.
    """

    noise: StepNoise
    units: int
    sum_gap: float
    gradient_gap: float
    weight_gap: float
    words: float
    coins: int
    pairs: int


@dataclass(kw_only=True, eq=False)
class Auditor:
    """The probe, the hooks of the optimiser, and what they noted of a round.

    Attributes:
        student: Works; the auditor reads its weights.
        loss: Loss of one unit.
        plan: Plan of the round.
        source: Coins and noise, counted.
        call: Number of the round.
        pairs: Pairs of the client.
        mu: Weight of FedProx's term.
        steps: What was found.
    """

    student: nn.Module
    loss: UnitLoss
    plan: PrivacyPlan
    source: Recorder
    call: int
    pairs: int
    mu: float = 0.0
    steps: list[Step] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._start = _weights(self.student)
        self._last = self._start
        self._mark = 0
        self._last_noise: np.ndarray | None = None
        self._squares: np.ndarray | None = None

    def __len__(self) -> int:
        return 0

    def form(self, rows: np.ndarray, chunks: Sequence[Units], total: Sum) -> None:
        """Make the sum of the units, and hold the step's against it."""
        self._coins = self.source.drawn - self._mark - STATE_WORDS * len(chunks)
        self._mark = self.source.drawn
        self._stray = _gap(_weights(self.student), self._last)
        self._rows, self._units = len(rows), sum(len(one) for one in chunks)
        self._own = nearest_sum(plain_copy(self.student), chunks, self.loss, clip=self.plan.clip, found=total)
        self._total = {name: value.clone() for name, value in total.items()}
        self._sum_gap = distance(total, self._own) / self.plan.clip

    def add(self, *_: object) -> None:
        """Add nothing."""

    def see(self, released: Sum) -> None:
        """Take the noise out of the release."""
        per_coordinate = self.source.drawn - self._mark
        self._mark = self.source.drawn
        scale = 1.0 / self.plan.noise_std
        draws = {
            name: (value.double() * self.plan.normaliser - self._own[name]) * scale
            for name, value in released.items()
        }
        self._words = per_coordinate / sum(value.numel() for value in draws.values())
        self._noise = step_noise(
            {name: value.cpu().numpy() for name, value in draws.items()},
            call=self.call,
            index=len(self.steps) + 1,
            rows=self._rows,
            along=_along(draws, self._own),
            more=self._repeats(released),
        )
        self._wanted = carried_back(self.student, released)
        if self.mu:
            now = _weights(self.student)
            self._wanted = {
                name: value + self.mu * (now[name] - self._start[name])
                for name, value in self._wanted.items()
            }

    def _repeats(self, released: Sum) -> list[Test]:
        """Tests for repeats, on the draws to their last bits: beside the sum that they were added to."""
        flat = np.concatenate(
            [
                (value.double() * self.plan.normaliser - self._total[name]).flatten().cpu().numpy()
                for name, value in released.items()
            ]
        )
        flat /= self.plan.noise_std
        found = repeats(flat, self._last_noise, name=f"call {self.call} step {len(self.steps) + 1}")
        self._squares = np.square(flat) + (0.0 if self._squares is None else self._squares)
        self._last_noise = flat
        return found

    def before(self, *_: object) -> None:
        """Compare what the optimiser got with the release; called before it steps."""
        self._before = _weights(self.student)
        self._gradient_gap = max(
            _gap({name: _gradient(value)}, {name: self._wanted[name]})
            for name, value in self.student.named_parameters()
        )

    def after(self, optimizer: torch.optim.Optimizer, *_: object) -> None:
        """Compare how the weights moved with the release; called after the optimiser stepped."""
        rate = optimizer.param_groups[0]["lr"]
        self._last = _weights(self.student)
        wanted = {name: self._before[name] - rate * value for name, value in self._wanted.items()}
        moved = norm({name: rate * value for name, value in self._wanted.items()})
        missed = distance(self._last, wanted) / (moved + RESOLVED * norm(self._before))
        self.steps.append(
            Step(
                noise=self._noise,
                units=self._units,
                sum_gap=self._sum_gap,
                gradient_gap=self._gradient_gap,
                weight_gap=max(missed, self._stray),
                words=self._words,
                coins=self._coins,
                pairs=self.pairs,
            )
        )

    def finish(self) -> list[Step]:
        """All steps; a move of the weights after the last one counts against it."""
        stray = _gap(_weights(self.student), self._last)
        if self.steps:
            last = self.steps[-1]
            noise = replace(last.noise, coordinates=self._squares)
            self.steps[-1] = replace(last, noise=noise, weight_gap=stray or last.weight_gap)
        return self.steps


def carried_back(student: nn.Module, released: Mapping[str, Tensor]) -> Arrays:
    """The gradient that the release asks for: through the map of each standardised weight, else as it is."""
    wanted = {name: value.float() for name, value in released.items()}
    for name, layer in student.named_modules():
        if isinstance(layer, StandardisedConv2d):
            key = f"{name}.weight" if name else "weight"
            acting = layer.standardised_weight()
            pulled = torch.autograd.grad(acting, [layer.weight, layer.gain], wanted[key].to(acting.dtype))
            wanted[key], wanted[f"{key.removesuffix('weight')}gain"] = pulled
    return wanted


def drive(
    student: nn.Module,
    data: LocalData,
    anchors: Anchors,
    config: DistillConfig,
    *,
    plan: PrivacyPlan,
    place: Place,
    call: int,
) -> list[Step]:
    """One round of the real code with plain gradient descent at the run's own learning rate.

    Args:
        student: Works; its weights are changed.
        data: The client's pairs.
        anchors: Public teacher features, (K, D).
        config: Loss, augmentation, schedule.
        plan: Of the round.
        place: Seed, round and client.
        call: Number of the round among those of an audit.
    """
    source = Recorder(
        randomness.make_source(
            deterministic=plan.deterministic,
            seed=place.seed,
            round_index=place.round_index,
            client=place.client,
        )
    )
    student.train()
    student, loss = subject_of(plan, student, loss_of(config), anchors)
    auditor = Auditor(
        student=student,
        loss=loss,
        plan=plan,
        source=source,
        call=call,
        pairs=len(data),
        mu=config.proximal_mu,
    )
    optimizer = torch.optim.SGD(student.parameters(), lr=config.learning_rate)
    optimizer.register_step_pre_hook(auditor.before)
    optimizer.register_step_post_hook(auditor.after)
    private_step.distil_privately(
        student,
        data,
        config,
        loss=loss,
        plan=plan,
        place=place,
        optimizer=optimizer,
        source=source,
        probe=auditor,
    )
    return auditor.finish()


def made_up_pairs(num: int, shape: Sequence[int], dim: int, *, generator: torch.Generator) -> LocalData:
    """Noise images of ``shape`` (C, H, W) with random unit features of dimension ``dim``."""
    return LocalData(
        target=torch.rand(num, *shape, generator=generator),
        teacher=unit(torch.randn(num, dim, generator=generator)),
    )


def _weights(student: nn.Module) -> Arrays:
    return {name: value.detach().clone() for name, value in student.named_parameters()}


def _gradient(parameter: Tensor) -> Tensor:
    return torch.zeros_like(parameter) if parameter.grad is None else parameter.grad


def _gap(found: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> float:
    """Distance as a share of what was wanted."""
    missed = distance(found, wanted)
    return missed / max(norm(wanted), 1e-30) if missed else 0.0


def _along(draws: Mapping[str, Tensor], own: Sum) -> float | None:
    """Noise along the known sum; None where that is zero."""
    size = norm(own)
    if not size:
        return None
    return sum(float((value * own[name]).sum()) for name, value in draws.items()) / size
