"""A federation in one process, made of the real local work, that an auditor may look into.

The rounds are those of the server's loop with an average of equals (of pairs, without privacy): with
``privacy.deterministic`` the weights end bit-identical to a simulation's. What an attacker may see is
handed to a `Watch`: each step's release, each client's weights after its round, each round's average.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from edgecmd.audits.target import CODED, IN_A_SUM
from edgecmd.core.errors import ConfigError, PrivacyError
from edgecmd.core.seeding import numpy_generator
from edgecmd.privacy.plan import PrivacyPlan
from edgecmd.privacy.step.private_step import StepProbe, distil_privately
from edgecmd.privacy.step.randomness import make_source
from edgecmd.privacy.step.units import unit_loss
from edgecmd.run import Run
from edgecmd.settings import FederationConfig
from edgecmd.training.averaging import Arrays, average, load_arrays, part_of_step, to_arrays
from edgecmd.training.distill import Place, optimizer_tensors, restore_optimizer
from edgecmd.training.task import Holding


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Update:
    """What one party sees of one round.

    Attributes:
        round_index: Round, from 1.
        client: Client that made it; -1 for the average of all.
        incoming: Weights before.
        outgoing: Weights after.
    """

    round_index: int
    client: int
    incoming: Arrays
    outgoing: Arrays


def _nothing(_: Update) -> None:
    """Look away."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Watch:
    """What an auditor looks at; each part is called in the order of the rounds and clients.

    Attributes:
        client: Called with each client's round: what the server sees.
        average: Called with each round's average: what every client sees.
        probe: Makes the probe of (round, client); only asked under record-level privacy.
    """

    client: Callable[[Update], None] = _nothing
    average: Callable[[Update], None] = _nothing
    probe: Callable[[int, int], StepProbe | None] = lambda *_: None


@dataclass(kw_only=True, eq=False)
class Replay:
    """A federation's state between rounds.

    Attributes:
        run: Settings; the schedule of the learning rate is that of all its rounds.
        student: Works for each client in turn.
        holdings: Pairs and anchors of each client.
        watch: The auditor.
        arrays: Global weights, by name.
        kept: State of each client's optimiser, with ``distill.keep_optimizer``.

    Raises:
        PrivacyError: Noise is the server's (mechanism ``client``): it is not a part of the local work; or the
            rounds are secure sums.
        ConfigError: The rounds of the run were asynchronous, or its weights were compressed.
    """

    run: Run
    student: nn.Module
    holdings: Sequence[Holding]
    watch: Watch = field(default_factory=Watch)
    arrays: Arrays = field(init=False)
    kept: dict[int, dict[str, Tensor]] = field(init=False, default_factory=dict)
    _plan: PrivacyPlan | None = field(init=False)

    def __post_init__(self) -> None:
        self._plan = self.run.plan
        if self.run.sum_plan is not None:
            raise PrivacyError(IN_A_SUM)
        if self._plan is not None and self._plan.unit == "client":
            raise PrivacyError(
                "privacy.mechanism='client' adds its noise on the server, which a replay of the clients' work"
                " does not reach. Use `edgecmd audit step`, which draws the server's noise."
            )
        size = self.run.federation.buffer_size
        if size:
            raise ConfigError(
                f"federation.buffer_size={size}: in a replay, all clients of a round start from the same"
                " weights; in this run they did not. Audit the student that shipped"
                " (`edgecmd audit risk` without --retrain), or the step (`edgecmd audit step`)."
            )
        if self.run.federation.compressed:
            raise ConfigError(f"{CODED} Audit the student that shipped, or the step (`edgecmd audit step`).")
        self.arrays = to_arrays(self.student)

    def round(self, round_index: int) -> None:
        """Make one round and put its average into ``arrays``.

        Raises:
            ConfigError: No client that is asked holds two pairs (without privacy).
        """
        incoming = self.arrays
        clients = self._able(cohort(self.run.federation, seed=self.run.seed, round_index=round_index))
        replies = []
        for client in clients:
            load_arrays(self.student, incoming)
            self._work(round_index, client)
            outgoing = to_arrays(self.student)
            self.watch.client(
                Update(round_index=round_index, client=client, incoming=incoming, outgoing=outgoing)
            )
            replies.append(outgoing)
        alike = self._plan is not None
        sizes = [1 if alike else len(self.holdings[client].data) for client in clients]
        share = self.run.share_of_step(round_index)
        self.arrays = part_of_step(incoming, average(replies, sizes), share=share)
        self.watch.average(
            Update(round_index=round_index, client=-1, incoming=incoming, outgoing=self.arrays)
        )

    def _able(self, clients: list[int]) -> list[int]:
        """Clients with two pairs to contrast; under privacy all, since leaving one out would reveal it."""
        if self._plan is not None:
            return clients
        able = [client for client in clients if len(self.holdings[client].data) > 1]
        if not able:
            raise ConfigError(
                f"None of the {len(clients)} clients of a round holds two pairs. Lower"
                f" federation.num_clients={self.run.federation.num_clients}."
            )
        return able

    def _work(self, round_index: int, client: int) -> None:
        run, holding = self.run, self.holdings[client]
        optimizer = run.optimizer(self.student)
        if run.distill.keep_optimizer:
            restore_optimizer(optimizer, self.kept.get(client, {}))
        place = run.place(round_index, client=client)
        if self._plan is None:
            run.train_locally(self.student, holding, place=place, optimizer=optimizer)
        else:
            self._work_privately(self._plan, holding, place, optimizer)
        if run.distill.keep_optimizer:
            self.kept[client] = optimizer_tensors(optimizer)

    def _work_privately(
        self, plan: PrivacyPlan, holding: Holding, place: Place, optimizer: torch.optim.Optimizer
    ) -> None:
        distil_privately(
            self.student,
            holding.data,
            self.run.distill,
            loss=unit_loss(self.run.loss, holding.anchors),
            plan=plan,
            place=place,
            optimizer=optimizer,
            source=make_source(
                deterministic=plan.deterministic,
                seed=place.seed,
                round_index=place.round_index,
                client=place.client,
            ),
            probe=self.watch.probe(place.round_index, place.client),
        )


def cohort(run: FederationConfig, *, seed: int, round_index: int) -> list[int]:
    """Clients that are asked in a round; the draw is public."""
    num = run.num_clients
    size = min(num, max(1, run.min_clients, round(num * run.client_fraction)))
    if size == num:
        return list(range(num))
    generator = numpy_generator(seed, "cohort", round_index=round_index)
    return sorted(generator.permutation(num)[:size].tolist())
