"""The Flower ServerApp: ``server.app:app``.

It runs unchanged in one process through `server.local_grid`, in Flower's simulation and on a
SuperLink.
"""

import os

os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")
os.environ.setdefault("FLWR_DISABLE_UPDATE_CHECK", "1")

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run the federation that the run config describes and write its run folder."""
    from edgecmd.settings import unflatten
    from server.federation import federate

    federate(grid, unflatten(context.run_config))
