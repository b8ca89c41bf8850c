"""A federation on this machine: the two Flower apps over the in-process grid."""

import copy
import logging
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from functools import partial
from typing import TYPE_CHECKING, cast

import numpy as np
import torch
from flwr.app import Context, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid

from clients.app import make_app
from edgecmd.models.students import Student
from edgecmd.run import Run
from edgecmd.training.averaging import to_arrays
from edgecmd.training.stacked import require_at_once
from server.asynchronous.speeds import TimedGrid, answer_seconds
from server.cohort import terms_of
from server.federation import Report, federate
from server.local_grid import RUN_ID, Fault, local_grid
from server.loop import Federation
from server.patience import MadeUpTime, PatientGrid
from server.privacy.sum_round import sum_rounds
from server.resident.rounds import may_stay, resident_rounds
from server.strategies import build_strategy

if TYPE_CHECKING:
    from server.faults import Faults

FIRST_NODE = 100


class Contexts(Mapping[int, Context]):
    """Context of each client by node id: its index, how many there are, and the run config.

    Each is made when it is asked for first, so that clients who get no message cost nothing.

    Args:
        run: The run.
    """

    def __init__(self, run: Run) -> None:
        self._num, self._settings = run.federation.num_clients, dict(run.described.flat)
        self._made: dict[int, Context] = {}

    def __getitem__(self, node: int) -> Context:
        client = node - FIRST_NODE
        if not 0 <= client < self._num:
            raise KeyError(node)
        if node not in self._made:
            self._made[node] = Context(
                run_id=RUN_ID,
                node_id=node,
                node_config={"partition-id": client, "num-partitions": self._num},
                state=RecordDict(),
                run_config=self._settings,
            )
        return self._made[node]

    def __iter__(self) -> Iterator[int]:
        return iter(range(FIRST_NODE, FIRST_NODE + self._num))

    def __len__(self) -> int:
        return self._num


def contexts(run: Run) -> dict[int, Context]:
    """The contexts of all clients."""
    return dict(Contexts(run))


def sum_alone(run: Run, student: Student, *, round_index: int) -> tuple[np.ndarray, tuple[int, ...]]:
    """One round's noised sum of a run's simulated clients, and nothing else of a run: for audits.

    Args:
        run: Its rounds are secure sums; ledgers are written into its folder.
        student: Whose weights are sent.
        round_index: Round, from 1.

    Returns:
        The sum in the units of the vectors, and the clients that are in it.
    """
    logging.getLogger("flwr").setLevel(logging.ERROR)
    torch.set_num_threads(1)
    own = copy.deepcopy(student)
    rounds = sum_rounds(run, own)
    assert rounds is not None
    nodes = contexts(run)
    with local_grid(make_app(run), nodes) as grid:
        federation = Federation(
            grid=grid,
            config=run.federation,
            terms=terms_of(run.federation, on_flower=False),
            strategy=build_strategy(run.federation, proximal_mu=run.distill.proximal_mu),
            token="0" * 16,
            seed=run.seed,
            folder=run.folder,
            evaluate=lambda *_: {},
            report=lambda _: None,
            private=run.plan is not None,
            summed=rounds,
        )
        cohort = list(nodes)[: rounds.plan.cohort]
        total, parties, _ = rounds.total(federation, to_arrays(own), cohort, round_index)
    return total, tuple(int(one.rpartition("-")[2]) for one in parties)


def simulate(
    run: Run,
    *,
    report: Report | None = None,
    fault: Fault | None = None,
    faults: "Faults | None" = None,
    others: Mapping[int, ClientApp] | None = None,
    messages: bool = False,
) -> Student:
    """Run or continue the federation of ``run`` in this process or its local workers.

    The result does not depend on ``federation.num_workers``. With ``federation.slowest`` above 1, or
    asynchronous rounds, time is made up: what it depends on are the seed and the speeds, not the machine.
    The last digits depend on ``federation.clients_at_once``; drills and ``messages`` ask clients one by one
    whatever it says.

    Args:
        run: Task, student, recipe and folder.
        report: Called after each round.
        fault: For drills, see `server.local_grid.LocalGrid`.
        faults: For drills: what goes wrong in a deployment, see `server.faults`. No time is waited for what
            does not come; clients answer one after another.
        others: For drills: apps by index of the clients that have one of their own (`clients.byzantine`).
        messages: Ask each client by a Flower message also where none is needed, as a deployment would. The
            result is the same to the bit, and takes longer.

    Raises:
        ConfigError: Student or loss cannot be trained for several clients at once, and was to be.
        FederationError: A round missed its quorum, or the run folder is another process's or another
            runtime's.
    """
    federation = run.federation
    timed = federation.slowest > 1 or federation.buffer_size > 0
    stay = not (messages or timed or faults is not None or others) and may_stay(run)
    if stay and federation.clients_at_once > 1:
        shape, num = run.task.input_shape, federation.clients_at_once
        require_at_once(run.new_student(), run.loss, shape=shape, num=num)
    with ExitStack() as ends:
        grid = ends.enter_context(
            local_grid(
                make_app(run),
                Contexts(run),
                num_workers=1 if stay else federation.num_workers,
                device=run.device.type,
                fault=fault,
                others={FIRST_NODE + client: app for client, app in (others or {}).items()},
            )
        )
        if stay:
            staying = partial(resident_rounds, run, first_node=FIRST_NODE, fault=fault)
            return federate(
                grid, run, report=report, resident=lambda token: ends.enter_context(staying(token))
            )
        if faults is None and not timed:
            return federate(grid, run, report=report)
        time, around = MadeUpTime(), cast("Grid", grid)
        if faults is not None:
            # Brings the SuperLink's own code with it, half a second that only a drill should take.
            from server.faults import FaultyGrid

            around = FaultyGrid(grid, faults)
        if timed:
            seconds = enumerate(answer_seconds(federation, seed=run.seed))
            around = TimedGrid(around, {FIRST_NODE + client: one for client, one in seconds}, time)
        clock = time.clock()
        return federate(PatientGrid(around, clock=clock), run, report=report, clock=clock)
