"""What each attacker makes of one training run: a score for every canary, higher for those it believes in.

Nobody here looks at a coin. The first-order effect of one unit on the weights is a step against its
gradient, so a canary's score is how far an update went against the canary's own gradient. A gradient
canary's gradient is its coordinate. Input canaries' gradients are not orthogonal, so that the pull of
one would be taken for the presence of another; their scores are the coefficients of a least-squares fit
of the update by all gradients, in which they no longer disturb each other. It looks at the last layer
alone, where a gradient is an outer product: a thousand gradients take no memory, and the noise of the
release reaches that layer without a map.

Shapes: M canaries.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.func import vmap

from edgecmd.audits.one_run.canaries import CHUNK_ROWS, Coins, GradientCanaries, GradientProbe, InputCanaries
from edgecmd.audits.replayed_federation import Update, Watch
from edgecmd.losses import Anchors, CMCAnchored
from edgecmd.models.students import Student
from edgecmd.privacy.mechanisms import has_unit_form
from edgecmd.privacy.plan import PrivacyPlan
from edgecmd.privacy.step.units import UnitLoss, unit_loss
from edgecmd.run import Run
from edgecmd.training.averaging import Arrays, load_arrays
from edgecmd.training.distill import LocalData, learning_rate_at

PairLosses = Callable[[Tensor, Tensor], Tensor]
"""Losses (B,) of embeddings (B, D) and teacher features (B, D), each of its pair alone."""
WEIGHT_ATTACKERS = ("server", "client", "device")
# Of the mean squared norm of the gradients; keeps the fit from making much of little where they are alike.
RIDGE = 0.1


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Evidence:
    """One attacker's scores of one kind of canary.

    Attributes:
        kind: ``gradient canaries`` or ``input canaries``.
        attacker: A key of `edgecmd.audits.finding.ATTACKERS`.
        coins: Holders and outcomes, for the one who judges.
        scores: Higher for those that are believed to be there, (M,).
    """

    kind: str
    attacker: str
    coins: Coins
    scores: Float[np.ndarray, " canaries"]


def pair_losses(run: Run, anchors: Anchors) -> PairLosses:
    """The run's loss of single pairs; the anchored contrast where its own needs a batch."""
    own = run.loss
    if not has_unit_form(own):
        own = CMCAnchored(temperature=run.distill.temperature)
    loss: UnitLoss = unit_loss(own, anchors)

    def one(student: Tensor, teacher: Tensor) -> Tensor:
        return loss(student[None], teacher[None], torch.ones(1, dtype=torch.bool, device=student.device))

    return vmap(one)


class Attackers:
    """Watches a replay and scores canaries; `watch` is what the replay needs.

    Args:
        student: A student of its own; its weights are changed.
        run: Settings of the run.
        losses: Losses of single pairs.
        plan: Plan of the run; None without privacy.
        gradient: Gradient canaries; None where there are no noised steps to put them into.
        inputs: Input canaries.
        tick: Called after each client's round.
    """

    def __init__(
        self,
        student: Student,
        run: Run,
        losses: PairLosses,
        *,
        plan: PrivacyPlan | None,
        gradient: GradientCanaries | None,
        inputs: InputCanaries,
        tick: Callable[[], None] = lambda: None,
    ) -> None:
        self._student, self._run, self._losses = student, run, losses
        self._plan, self._gradient, self._inputs, self._tick = plan, gradient, inputs, tick
        num = 0 if gradient is None else len(gradient.coins)
        self._by_gradient = {name: np.zeros(num) for name in ("steps", *WEIGHT_ATTACKERS)}
        self._by_input = {name: np.zeros(len(inputs.coins)) for name in WEIGHT_ATTACKERS}

    @property
    def watch(self) -> Watch:
        """The eyes of the attackers."""
        return Watch(client=self._see_client, average=self._see_average, probe=self._probe)

    def evidence(self, first: Arrays, last: Arrays) -> list[Evidence]:
        """All scores, once the run is over.

        Args:
            first: Weights before the first round, which are public.
            last: Weights after the last.
        """
        whole = Update(round_index=0, client=-1, incoming=first, outgoing=last)
        self._by_input["device"] = self._loss(first) - self._loss(last)
        found = [
            Evidence(kind="input canaries", attacker=name, coins=self._inputs.coins, scores=scores)
            for name, scores in self._by_input.items()
        ]
        if self._gradient is None:
            return found
        self._by_gradient["device"] = self._moved(whole, self._gradient)
        return [
            *(
                Evidence(kind="gradient canaries", attacker=name, coins=self._gradient.coins, scores=scores)
                for name, scores in self._by_gradient.items()
            ),
            *found,
        ]

    def _probe(self, _: int, client: int) -> GradientProbe | None:
        if self._gradient is None or self._plan is None:
            return None
        return GradientProbe(self._gradient, self._plan, client=client, scores=self._by_gradient["steps"])

    def _see_client(self, update: Update) -> None:
        self._see(update, "server")
        self._tick()

    def _see_average(self, update: Update) -> None:
        self._see(update, "client")

    def _see(self, update: Update, attacker: str) -> None:
        """Add an update's scores, with later rounds' smaller steps made as large as the first's."""
        scale = self._step_size(update.round_index)
        if self._gradient is not None:
            rows = _rows(self._gradient.coins, update.client)
            self._by_gradient[attacker][rows] += self._moved(update, self._gradient)[rows] / scale
        rows = _rows(self._inputs.coins, update.client)
        self._by_input[attacker][rows] += self._against(update, rows) / scale

    def _step_size(self, round_index: int) -> float:
        steps = self._run.federation.local_steps
        total, first = steps * self._run.federation.num_rounds, steps * (round_index - 1)
        rates = (
            learning_rate_at(self._run.distill, step=first + step, total_steps=total) for step in range(steps)
        )
        return max(sum(rates), 1e-30)

    @staticmethod
    def _moved(update: Update, canaries: GradientCanaries) -> Float[np.ndarray, " canaries"]:
        name = canaries.parameter
        moved = update.incoming[name].astype(np.float64) - update.outgoing[name]
        return np.asarray(moved.reshape(-1)[canaries.place])

    def _against(self, update: Update, rows: np.ndarray) -> Float[np.ndarray, " rows"]:
        """Share of each canary's gradient in the update: least squares over all of them, with a ridge.

        A student without a linear projector shows by how much its loss of each canary fell.
        """
        if not isinstance(self._student.projector, nn.Linear):
            return np.asarray(self._loss(update.incoming)[rows] - self._loss(update.outgoing)[rows])
        load_arrays(self._student, update.incoming)
        parts = [self._last_layer(part) for part in self._chunks(rows)]
        if not parts:
            return np.zeros(0)
        error, input_ = (torch.cat(side).double() for side in zip(*parts))
        error = error / (error.norm(dim=1) * input_.norm(dim=1)).clamp(min=1e-30)[:, None]
        moved = [
            torch.from_numpy(update.incoming[name].astype(np.float64) - update.outgoing[name])
            for name in ("projector.weight", "projector.bias")
        ]
        along = (error * (input_ @ torch.cat([moved[0], moved[1][:, None]], dim=1).T)).sum(dim=1)
        alike = (error @ error.T) * (input_ @ input_.T)
        eye = torch.eye(len(alike), dtype=alike.dtype)
        return np.asarray(torch.linalg.solve(alike + RIDGE * eye, along).numpy())

    def _last_layer(self, part: LocalData) -> tuple[Tensor, Tensor]:
        """The canaries' gradients at the projector as outer products: of its output, and its input and 1."""
        seen: list[Tensor] = []
        hook = self._student.projector.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
        with torch.no_grad():
            embedding = self._student(part.target)
        hook.remove()
        embedding.requires_grad_()
        (error,) = torch.autograd.grad(self._losses(embedding, part.features).sum(), embedding)
        return error.cpu(), torch.cat([seen[0], torch.ones_like(seen[0][:, :1])], dim=1).cpu()

    @torch.no_grad()
    def _loss(self, arrays: Arrays) -> Float[np.ndarray, " canaries"]:
        load_arrays(self._student, arrays)
        parts = self._chunks(np.arange(len(self._inputs.coins)))
        found = [self._losses(self._student(part.inputs), part.features) for part in parts]
        return np.asarray(torch.cat(found).double().cpu().numpy())

    def _chunks(self, rows: np.ndarray) -> list[LocalData]:
        data = self._inputs.data
        parts = torch.split(torch.from_numpy(rows), CHUNK_ROWS) if len(rows) else []
        return [LocalData(target=data.target[part], teacher=data.teacher[part]) for part in parts]


def _rows(coins: Coins, client: int) -> np.ndarray:
    return np.arange(len(coins)) if client < 0 else coins.of(client)
