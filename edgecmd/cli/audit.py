"""``edgecmd audit``: the ladder of audits, from reading the settings to attacking the exported file."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import click
import typer
from typer.core import TyperGroup

from edgecmd.cli.app import app
from edgecmd.cli.common import AsJson, ConfigFile, Settings, one_thread, print_json, print_table, say
from edgecmd.core.text import counted

if TYPE_CHECKING:
    from edgecmd.audits.finding import Finding
    from edgecmd.audits.target import Target

TargetPath = Annotated[
    Path, typer.Argument(help="Run folder, a student's .safetensors, or an exported .onnx file.")
]


class TargetOrCommand(TyperGroup):
    """A group whose first word may be a target: ``edgecmd audit runs/x`` means ``audit run runs/x``."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Put ``run`` before a first word that is neither a command nor an option."""
        if args and args[0] not in self.commands and not args[0].startswith("-"):
            args = ["run", *args]
        return super().parse_args(ctx, args)


audit_app = typer.Typer(
    cls=TargetOrCommand,
    help="Hold a run or a shipped model against its privacy claim; exit code 3 where it is contradicted.",
    no_args_is_help=True,
    rich_markup_mode=None,
)
app.add_typer(audit_app, name="audit")


def target_of(path: Path, config: Path | None, settings: Sequence[str] | None) -> "Target":
    """The target at ``path``; settings are for a file that lies in no run folder."""
    from edgecmd.cli.common import read_settings
    from edgecmd.config.targets import find_target

    given = read_settings(config, settings) if config or settings else None
    return find_target(path, config=given)


def finish(target: "Target", findings: "Sequence[Finding]", *, as_json: bool) -> None:
    """Write ``audit.json``, show what was found, and fail where the claim is contradicted.

    Raises:
        ContradictedError: One of ``findings`` contradicts the claim.
    """
    keep(target, findings)
    show(findings, as_json=as_json)
    say_record(target, as_json=as_json)
    fail_if_contradicted(findings)


def keep(target: "Target", findings: "Sequence[Finding]") -> None:
    """Write findings into ``audit.json``, and the run's report again where there is one."""
    from edgecmd.audits.audit_file import write_findings
    from edgecmd.report import refresh_report

    write_findings(target.record, findings, about=target.about())
    if target.folder is not None:
        refresh_report(target.folder)


def show(findings: "Sequence[Finding]", *, as_json: bool) -> None:
    """Print findings as a table and a sentence each, or as JSON."""
    from edgecmd.audits.audit_file import rows

    if as_json:
        print_json([one.table() for one in findings])
        return
    columns = ["level", "audit", "attacker", "quantity", "claimed", "measured", "ceiling", "verdict"]
    print_table("Audit", columns, rows(findings))
    for one in findings:
        say(f"{one.level}, {one.name} ({one.attacker}): {one.text}")


def say_record(target: "Target", *, as_json: bool) -> None:
    """Say where the findings lie."""
    if not as_json:
        say(f"Audit: {target.record}")


def fail_if_contradicted(findings: "Sequence[Finding]") -> None:
    """End with exit code 3 where a finding contradicts.

    Raises:
        ContradictedError: The first contradiction, in its words.
    """
    from edgecmd.audits.finding import CONTRADICTED, ContradictedError

    wrong = [one for one in findings if one.verdict == CONTRADICTED]
    if wrong:
        verb = "contradicts" if len(wrong) == 1 else "contradict"
        told = f"{len(wrong)} of {counted(len(findings), 'audit')} {verb}"
        raise ContradictedError(f"{told}. First: {wrong[0].text}")


Level = Callable[["Target"], "list[Finding]"]
LEVEL_MODULES = {
    "check": "edgecmd.cli.audit_check",
    "step": "edgecmd.cli.audit_step",
    "one-run": "edgecmd.cli.audit_one_run",
    "risk": "edgecmd.cli.audit_risk",
}
"""Each module has ``audit(target) -> findings`` with its usual effort."""


@audit_app.command("run")
def run_ladder(
    target: TargetPath,
    levels: Annotated[
        str, typer.Option("--levels", help="Levels, comma separated: check, step, one-run, risk.")
    ] = "check,step,one-run,risk",
    config: ConfigFile = None,
    settings: Settings = None,
    as_json: AsJson = False,
) -> None:
    """The ladder on a run folder, a student or an exported file; what is finished is kept on Ctrl-C."""
    import importlib

    from edgecmd.core.errors import choose

    one_thread()
    found = target_of(target, config, settings)
    findings: list[Finding] = []
    for name in levels.split(","):
        level: Level = importlib.import_module(choose("--levels", name.strip(), LEVEL_MODULES)).audit
        new = level(found)
        keep(found, new)
        findings += new
    show(findings, as_json=as_json)
    say_record(found, as_json=as_json)
    fail_if_contradicted(findings)
