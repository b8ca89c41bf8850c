"""Client-level differential privacy in the server's loop, with the server trusted.

Flower's wrappers weigh by a number that clients send, draw noise from a global generator and divide
by zero on an unchanged model; here each whole update is clipped, the sum is divided by a fixed
public number, and the noise comes from the operating system.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
from flwr.app import Message, MetricRecord, RecordDict

from edgecmd.privacy.ledger import Ledger, Release
from edgecmd.privacy.plan import PrivacyPlan
from edgecmd.privacy.step.gradients import MARGIN
from edgecmd.privacy.step.randomness import make_source, normal, uniform
from edgecmd.run import Run
from edgecmd.training.averaging import Arrays
from server.strategies import to_record


@dataclass(kw_only=True)
class CentralPrivacy:
    """Clip, noise and count for each round.

    Attributes:
        plan: Unit, clip, noise and cost.
        ledger: What the rounds have cost; counted before a round's weights go anywhere.
        token: Name of the run.
        seed: Seed of the run, for the deterministic mode and nothing else.
        num_clients: Registered clients, public.
        num_answers: Usable replies of the last round.

    Guarantees:
        Under *one client's data present or absent (its update zero), the list of clients public*, the
        weights that `combine` gives are differentially private with the cost ``plan.round_spending()``:
        each client adds to the sum a vector of norm at most ``C``, whatever it sends, and nothing else of
        the result depends on it. Amplification is claimed only where each client is asked by a secret
        coin of its own (``hidden``); then neither the cohort nor its size is reported. What the server
        does with the result (momentum, Adam) is post-processing.
    """

    plan: PrivacyPlan
    ledger: Ledger
    token: str
    seed: int
    num_clients: int
    num_answers: int = field(default=0)

    @property
    def hidden(self) -> bool:
        """Whether the cohort is drawn by secret coins and must not be revealed."""
        return self.plan.sampling == "poisson" and self.plan.sampling_rate < 1.0

    @property
    def normaliser(self) -> float:
        """Public constant that the sum is divided by."""
        return self.plan.normaliser

    def require_budget(self) -> None:
        """Refuse another round that would exceed the budget.

        Raises:
            BudgetSpentError: It would.
        """
        self.ledger.require_budget(self.plan, epsilon=self.plan.epsilon, delta=self.plan.delta)

    def draw(self, nodes: Iterable[int], *, round_index: int) -> list[int]:
        """Each node with the plan's probability, by a secret coin of its own."""
        every = list(nodes)
        source = make_source(
            deterministic=self.plan.deterministic,
            seed=self.seed,
            round_index=round_index,
            client=self.num_clients + 1,
        )
        coins = uniform(source, len(every)) < self.plan.sampling_rate
        return [node for node, asked in zip(every, coins) if asked]

    def combine(self, replies: list[Message], arrays: Arrays, *, round_index: int) -> Message:
        """One reply that stands for all: ``global + (sum_k clip_C(update_k) + noise) / normaliser``.

        Args:
            replies: Screened replies: finite, with the names and shapes of ``arrays``.
            arrays: Global weights of the round.
            round_index: Round, from 1.

        Raises:
            BudgetSpentError: The ledger would exceed the budget; nothing is released.
        """
        self.num_answers = len(replies)
        total = {name: np.zeros(value.shape) for name, value in arrays.items()}
        for reply in replies:
            record = reply.content.array_records["arrays"]
            update = {name: record[name].numpy().astype(np.float64) - value for name, value in arrays.items()}
            factor = _clip_factor(update, clip=self.plan.clip)
            for name, value in update.items():
                total[name] += factor * value
        source = make_source(
            deterministic=self.plan.deterministic,
            seed=self.seed,
            round_index=round_index,
            client=self.num_clients,
        )
        updated = {}
        for name, value in arrays.items():
            noise = normal(source, value.size).reshape(value.shape) * self.plan.noise_std
            updated[name] = np.asarray(value + (total[name] + noise) / self.normaliser, dtype=value.dtype)
        release = Release(run=self.token, round_index=round_index, query="", reply="")
        self.ledger.spend(self.plan, release, epsilon=self.plan.epsilon, delta=self.plan.delta)
        content = RecordDict({"arrays": to_record(updated), "metrics": MetricRecord({"num-examples": 1})})
        return Message(content, 1, "train")


def _clip_factor(update: Arrays, *, clip: float) -> float:
    """``min(1, C (1 - 1e-4) / norm)`` of a whole update."""
    norm = float(np.sqrt(sum(float(np.square(value).sum()) for value in update.values())))
    return min(1.0, clip * (1.0 - MARGIN) / norm) if norm > 0 else 1.0


def central_privacy(plan: PrivacyPlan | None, run: Run, *, token: str) -> CentralPrivacy | None:
    """Client-level privacy that the server makes; None where clients add the noise, or there is none."""
    if plan is None or plan.unit != "client" or plan.sum_plan is not None:
        return None
    return CentralPrivacy(
        plan=plan,
        ledger=Ledger(run.server_ledger),
        token=token,
        seed=run.seed,
        num_clients=run.federation.num_clients,
    )
