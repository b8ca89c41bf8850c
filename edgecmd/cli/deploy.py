"""``edgecmd deploy``: a federation between machines, from its description to the bundle."""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from edgecmd.cli.app import deploy_app
from edgecmd.cli.options import AsJson, one_thread
from edgecmd.cli.output import print_json, print_table, say
from edgecmd.cli.progress import tell
from edgecmd.core.errors import FederationError
from edgecmd.core.text import counted

ServerKit = Annotated[Path, typer.Argument(help="The server's kit, such as kits/server.")]


@deploy_app.command()
def example() -> None:
    """Print a description to begin with: edgecmd deploy example > federation.toml."""
    from server.deploy.description import EXAMPLE

    for line in EXAMPLE.splitlines():
        say(line)


@deploy_app.command("init")
def init_kits(
    description: Annotated[Path, typer.Argument(help="Its description.")] = Path("federation.toml"),
    out: Annotated[Path, typer.Option("--out", help="Folder to make.")] = Path("kits"),
    tar: Annotated[bool, typer.Option("--tar", help="Also a .tar.gz of each kit.")] = False,
) -> None:
    """Make keys, certificates and a kit for the server and for each site."""
    from server.deploy.description import read_deployment
    from server.deploy.kits import make_kits

    deployment = read_deployment(description)
    make_kits(deployment, out, as_tar=tar)
    say(f"{out / 'server'}: for {deployment.host}.")
    for site in deployment.sites:
        say(f"{out / 'sites' / site.name}: for the site {site.name}, and for nobody else.")
    say(f"{out / 'authority'}: keep it off every server; whoever has ca.key can pretend to be yours.")
    say("Next: take each kit to its machine and run `edgecmd deploy check` there; docs/deployment.md.")


@deploy_app.command("check")
def check_kit_here(
    kit: Annotated[Path, typer.Argument(help="The kit of this machine, of the server or a site.")],
    as_json: AsJson = False,
) -> None:
    """Look for what would stop a kit from working here; exit 5 where something would."""
    from server.deploy.checks import check_kit

    one_thread()
    checks = check_kit(kit)
    faults = [one for one in checks if not one.ok]
    if as_json:
        print_json({"ok": not faults, "checks": [asdict(one) for one in checks]})
    else:
        rows = [[one.name, "ok" if one.ok else "FAULT", one.found] for one in checks]
        print_table(f"Kit {kit}", ["what", "", "found"], rows)
    if faults:
        raise FederationError(f"{counted(len(faults), 'fault')}: {', '.join(one.name for one in faults)}.")


@deploy_app.command("try")
def try_here(
    description: Annotated[Path | None, typer.Argument(help="Default: the one of `deploy example`.")] = None,
    out: Annotated[Path, typer.Option("--out", help="Folder to make.")] = Path("deploy-trial"),
    sample: Annotated[
        bool, typer.Option("--sample", help="Give each site sample pairs instead of its own.")
    ] = False,
    rounds: Annotated[
        int, typer.Option("--rounds", min=0, help="Instead of the description's; 0: those.")
    ] = 0,
    finish: Annotated[
        bool, typer.Option(help="Also audit the run, export its student, write a report.")
    ] = True,
) -> None:
    """Run the whole federation on this machine over TLS: kits, server, sites, audit, bundle."""
    from server.deploy.description import example_deployment, read_deployment, with_rounds
    from server.deploy.on_this_machine import try_federation

    one_thread()
    deployment = example_deployment() if description is None else read_deployment(description)
    if rounds:
        deployment = with_rounds(deployment, rounds)
    folder = try_federation(deployment, out, sample=sample or description is None, say=tell)
    if finish:
        _finished(folder)


@deploy_app.command("register")
def register_sites(kit: ServerKit) -> None:
    """Let the sites in: register their keys at the running server. A site that starts earlier is refused."""
    from server.deploy.followed_run import register

    new = register(kit)
    say(f"Registered: {', '.join(new)}." if new else "Every site's key is registered or revoked already.")


@deploy_app.command("run")
def run_deployed(kit: ServerKit) -> None:
    """Start a run, or follow the one that is under way; exit 0 only if it ended well. Exports its student."""
    from server.deploy.followed_run import run_federation

    one_thread()
    try:
        folder = run_federation(kit, say=tell)
    except KeyboardInterrupt:
        tell(f"The run is not stopped. Follow it again: edgecmd deploy run {kit}")
        raise
    _finished(folder)


@deploy_app.command("status")
def show_status(kit: ServerKit, as_json: AsJson = False) -> None:
    """Show each site, and how far the newest run is."""
    from server.deploy.standing import status

    found = status(kit)
    run = found.run or {}
    if as_json:
        state = {"run": run.get("run-id"), "status": run.get("status"), "rounds": found.rounds}
        told = {"sites": dict(found.sites), "epsilon": dict(found.epsilon)}
        print_json({**told, **state, "folder": str(found.folder)})
        return
    rows = [[site, one, _spent(found.epsilon[site])] for site, one in found.sites.items()]
    print_table("Sites", ["site", "status", "epsilon spent, as it says"], rows)
    state, made = run.get("status", "not started"), counted(found.rounds, "round")
    say(f"Run {run.get('run-id', 'none')}: {state}, {made}.")


def _spent(told: Mapping[str, float] | None) -> str:
    return f"{told['epsilon']:.3g} at delta {told['delta']:g}" if told else "not told"


@deploy_app.command("renew")
def renew(
    kits: Annotated[Path, typer.Argument(help="Folder of all kits.")],
    site: Annotated[str, typer.Option("--site", help="A new key for this site instead.")] = "",
    days: Annotated[int, typer.Option("--days", min=1, max=3650, help="How long it is valid.")] = 365,
) -> None:
    """A new certificate for the server; or with --site a new key, which the next run registers."""
    from server.deploy.kits import renew_server, renew_site

    if site:
        renew_site(kits, site)
        say(f"Take {kits / 'sites' / site / 'node.key'} to the site, {kits / 'server/nodes'} to the server.")
    else:
        renew_server(kits, days=days)
        say(f"Take server.key and server.pem of {kits / 'server'} to the server, and start it again.")


@deploy_app.command("revoke")
def revoke(kit: ServerKit, site: Annotated[str, typer.Argument(help="Its name.")]) -> None:
    """Take a site's key back: its node is refused from now on."""
    from server.deploy.link import link_of

    link_of(kit).revoke(site)
    say(f"{site} is refused from now on. To let it in again, give it a new key: edgecmd deploy renew --site.")


def _finished(folder: Path) -> None:
    """What follows a run that ended well: an audit where it was private, the bundle, the report."""
    from edgecmd.cli import audit as audits
    from edgecmd.cli.run import config_of
    from edgecmd.config.assemble import Assembly
    from edgecmd.experiments.audit_ladder import audit
    from edgecmd.report import write_report
    from export.from_run import export_run

    config = config_of(folder)
    run = Assembly().run(config)
    if run.plan is not None:
        target = audits.target_of(folder, None, None)
        audits.tell(target, audit(target, levels=["check"], setting="--levels"), as_json=False)
    say(f"Bundle: {folder / 'export'} ({export_run(run, folder / 'export', settings=config.export)})")
    say(f"Report: {write_report(folder)}")
