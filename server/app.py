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

    Raises:
        ConfigError: ``out`` is relative: it would lie wherever Flower started this process.
        FederationError: A round missed its quorum.
    """
    from edgecmd.errors import ConfigError
    from edgecmd.settings import unflatten
    from server.federation import federate

    config = unflatten(context.run_config)
    if not Path(config.out).is_absolute():
        raise ConfigError(
            f"out={config.out!r} must be an absolute path under Flower:"
            " flwr run . --run-config 'out=\"/srv/edgecmd/runs\"'."
        )
    federate(grid, config)
