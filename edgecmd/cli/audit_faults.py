"""``edgecmd audit faults``: planted faults, and the level of the ladder that catches each."""

from typing import TYPE_CHECKING

from edgecmd.cli.audit import audit_app
from edgecmd.cli.common import AsJson, one_thread, print_json, print_table, say
from edgecmd.experiments.bench.ticker import ticker

if TYPE_CHECKING:
    from pathlib import Path

    from edgecmd.config.schema import RunConfig
    from edgecmd.experiments.faults.planted import Fault

TRIES, DRAWS = 24, 200


@audit_app.command("faults")
def faults(as_json: AsJson = False) -> None:
    """Plant faults, each beside a sound twin, and show which audit catches them; one to three minutes.

    Exit code 7 where a fault is missed or a sound twin is contradicted: this installation's audits are
    not to be relied upon then.
    """
    import tempfile
    from pathlib import Path

    from edgecmd.experiments.faults.planted import COLUMNS, outcomes, require_all

    one_thread()
    found = []
    with tempfile.TemporaryDirectory() as folder:
        planted = all_faults(Path(folder))
        with ticker("planted faults") as tick:
            for outcome in outcomes(planted):
                found.append(outcome)
                tick(len(found), len(planted))
    if as_json:
        print_json([one.table() for one in found])
    else:
        print_table("Planted faults", COLUMNS, [one.row() for one in found])
        for one in found:
            say(f"{one.fault.name}: {one.caught.text}")
            say(f"  its sound twin: {one.sound.text}")
    require_all(found)


def all_faults(folder: "Path") -> "list[Fault]":
    """The faults of every level, in the order of the levels.

    Args:
        folder: An empty folder for the small runs.
    """
    from edgecmd.audits.static.checks import check_target
    from edgecmd.audits.static.sensitivity import Effort
    from edgecmd.cli.audit_step import audit_step
    from edgecmd.config.assemble import Assembly
    from edgecmd.experiments.faults.ledger_faults import book_faults, small_run
    from edgecmd.experiments.faults.loss_faults import loss_faults
    from edgecmd.experiments.faults.run_faults import draw_faults, run_faults
    from edgecmd.experiments.faults.step_faults import step_faults
    from server.simulate import simulate

    assembly = Assembly()

    def train(config: "RunConfig") -> object:
        return simulate(assembly.run(config))

    sound = small_run(train, folder, "sound")
    views = small_run(train, folder, "views", "privacy.num_views=4")
    return [
        *loss_faults(),
        *book_faults(sound, folder),
        *step_faults(
            sound,
            views,
            check=lambda target: check_target(target, Effort(num_tries=TRIES)),
            step=lambda target: audit_step(target, num_draws=DRAWS),
        ),
        *draw_faults(sound),
        *run_faults(folder / "runs"),
    ]
