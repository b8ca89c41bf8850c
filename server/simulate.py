"""A federation on this machine: the two Flower apps over the in-process grid."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, cast

from flwr.app import Context, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid

from clients.app import make_app
from edgecmd.models.students import Student
from edgecmd.run import Run
from server.asynchronous.speeds import TimedGrid, answer_seconds
from server.federation import Report, federate
from server.local_grid import RUN_ID, Fault, local_grid
from server.patience import MadeUpTime, PatientGrid

if TYPE_CHECKING:
    from server.faults import Faults

FIRST_NODE = 100


def contexts(run: Run) -> dict[int, Context]:
    """One context per client: its index, how many there are, and the run config as Flower sends it."""
    num = run.federation.num_clients
    return {
        FIRST_NODE + client: Context(
            run_id=RUN_ID,
            node_id=FIRST_NODE + client,
            node_config={"partition-id": client, "num-partitions": num},
            state=RecordDict(),
            run_config=dict(run.described.flat),
        )
        for client in range(num)
    }


def simulate(
    run: Run,
    *,
    report: Report | None = None,
    fault: Fault | None = None,
    faults: "Faults | None" = None,
    others: Mapping[int, ClientApp] | None = None,
) -> Student:
    """Run or continue the federation of ``run`` in this process or its local workers.

    The result does not depend on ``federation.num_workers``. With ``federation.slowest`` above 1, or
    asynchronous rounds, time is made up: what it depends on are the seed and the speeds, not the machine.

    Args:
        run: Task, student, recipe and folder.
        report: Called after each round.
        fault: For drills, see `server.local_grid.LocalGrid`.
        faults: For drills: what goes wrong in a deployment, see `server.faults`. No time is waited for what
            does not come; clients answer one after another.
        others: For drills: apps by index of the clients that have one of their own (`clients.byzantine`).

    Raises:
        FederationError: A round missed its quorum, or the run folder is another process's or another
            runtime's.
    """
    federation = run.federation
    with local_grid(
        make_app(run),
        contexts(run),
        num_workers=federation.num_workers,
        device=run.device.type,
        fault=fault,
        others={FIRST_NODE + client: app for client, app in (others or {}).items()},
    ) as grid:
        timed = federation.slowest > 1 or federation.buffer_size > 0
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
