"""The Flower ServerApp: ``server.app:app``.

It runs unchanged in one process through `server.local_grid`, in Flower's simulation and on a
SuperLink.
"""

import os
from pathlib import Path

os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")
os.environ.setdefault("FLWR_DISABLE_UPDATE_CHECK", "1")

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run the federation that the run config describes and write its run folder.

    ``EDGECMD_SERVER_CONFIG`` may name a TOML file of this machine with what the server alone reads and
    writes (`edgecmd.config.file_settings`); it overrides the run config and is sent to nobody.

    Raises:
        ConfigError: ``out`` is relative: it would depend on where Flower started this process; or the
            server's own file is wrong.
        FederationError: A round missed its quorum.
        MachineError: The disk is full, or memory is short; the run goes on when it is started again.
    """
    from edgecmd.core.machine import import_torch_quickly

    import_torch_quickly()
    from edgecmd.config.assemble import Assembly
    from edgecmd.config.file_settings import VARIABLE, over_run_config
    from edgecmd.config.reader import unflatten
    from edgecmd.core.errors import ConfigError
    from edgecmd.core.machine import explain
    from server.federation import federate
    from server.packed_grid import PackedGrid
    from server.patience import Clock, PatientGrid

    own = os.environ.get(VARIABLE)
    config = unflatten(over_run_config(context.run_config, Path(own) if own else None))
    if not Path(config.out).is_absolute():
        raise ConfigError(
            f"out={config.out!r} must be an absolute path under Flower:"
            " flwr run . --run-config 'out=\"/srv/edgecmd/runs\"'."
        )
    clock = Clock()
    patient = PatientGrid(PackedGrid(grid), clock=clock)
    try:
        federate(
            patient, Assembly().run(config), runtime="flower", may_grow=not is_simulated(grid), clock=clock
        )
    except (OSError, MemoryError) as error:
        raise explain(error) from error


def is_simulated(grid: Grid) -> bool:
    """Whether Flower simulates the nodes in this process tree: all are there from the start, or never."""
    from flwr.superlink.grid.inmemory_grid import InMemoryGrid

    return isinstance(grid, InMemoryGrid)
