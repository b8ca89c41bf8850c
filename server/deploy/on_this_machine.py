"""The whole of a federation on this machine: its kits, its server and its sites, over TLS on loopback."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from clients.check import check_node
from edgecmd.config.reader import read_flat, unflatten
from edgecmd.core.errors import ConfigError
from edgecmd.datasets.sample import write_sample
from server.deploy.description import Deployment, Site
from server.deploy.followed_run import run_federation
from server.deploy.kit_processes import free_port, running
from server.deploy.kits import SERVER, SITES, make_kits

SAMPLE_PAIRS = 60


def try_federation(deployment: Deployment, folder: Path, *, sample: bool, say: Callable[[str], None]) -> Path:
    """Run a federation from its kits on this machine.

    Args:
        deployment: Its server's address becomes a free port of loopback, its folder of runs ``folder/runs``,
            and each site's state ``folder/state/NAME``.
        folder: To make.
        sample: Give each site a folder of sample pairs; else the data-dir of each must exist here.
        say: Called with each line of progress.

    Returns:
        The run folder.

    Raises:
        ConfigError: The folder exists, or a site's data-dir does not.
        FederationError: The run failed, or a program ended early; the message has the last of its log.

    Guarantees:
        Ledgers that count the pairs of a real federation are not touched: a trial's lie in ``folder``.
        Everything listens on loopback alone, and no process is left behind.
    """
    if folder.exists():
        raise ConfigError(f"{folder} exists. Choose another folder with --out, or remove it.")
    here = _here(deployment, folder.resolve(), sample=sample)
    kits = folder / "kits"
    make_kits(here, kits, link_port=here.port)
    for site in here.sites:
        if sample:
            write_sample(Path(str(site.node["data-dir"])), num=SAMPLE_PAIRS)
        _begin_ledger(kits / SITES / site.name)
    with running(kits, [site.name for site in here.sites], logs=folder / "logs") as look:
        say(f"The server and {len(here.sites)} sites are running; their output is in {folder / 'logs'}.")
        return run_federation(kits / SERVER, say=say, look=look)


def _here(deployment: Deployment, folder: Path, *, sample: bool) -> Deployment:
    sites = []
    for site in deployment.sites:
        node = dict(site.node) | {"state-dir": str(folder / "state" / site.name)}
        if sample:
            node["data-dir"] = str(folder / "pairs" / site.name)
        elif not Path(str(node["data-dir"])).is_dir():
            raise ConfigError(
                f"Site {site.name} has data-dir={node['data-dir']!r}, which is no folder on this machine."
                " Give one that is, or use --sample for folders of sample pairs."
            )
        sites.append(Site(name=site.name, node=node))
    out = folder / "runs"
    return replace(
        deployment,
        host="localhost",
        port=free_port(),
        out=out,
        settings={**deployment.settings, "out": str(out)},
        sites=tuple(sites),
    )


def _begin_ledger(kit: Path) -> None:
    config = unflatten(read_flat(kit / "run.toml"))
    if config.privacy.mechanism != "none":
        check_node(read_flat(kit / "node.toml"), config, new_ledger=True)
