"""``edgecmd verify`` and ``edgecmd sign``: bundles from elsewhere, and bundles for elsewhere."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgecmd.cli.app import app
from edgecmd.cli.common import AsJson, print_json, print_table, say

if TYPE_CHECKING:
    from export.trust.checks import Verdict

Bundle = Annotated[Path, typer.Argument(help="Bundle folder, such as runs/demo/export.")]


@app.command()
def verify(
    bundle: Bundle,
    pub: Annotated[
        Path | None, typer.Option("--pub", help="Public key of the maker; then a signature is required.")
    ] = None,
    timeout: Annotated[float, typer.Option("--timeout", help="Seconds for one model.")] = 60.0,
    memory: Annotated[int, typer.Option("--memory", help="MiB of address space for one model.")] = 1024,
    any_program: Annotated[
        bool, typer.Option("--any-program", help="Accept an infer.py that is not this edgecmd's own.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Check a bundle before anything in it is loaded or run; exit code 6 names the fault."""
    from export.trust.checks import SandboxLimits, verify_bundle

    sandbox = SandboxLimits(timeout_s=timeout, memory_mb=memory)
    verdict = verify_bundle(bundle, pub=pub, sandbox=sandbox, any_program=any_program)
    if as_json:
        print_json(verdict.record())
    else:
        show(verdict)
    if verdict.error is not None:
        raise verdict.error


@app.command()
def sign(
    bundle: Bundle,
    key: Annotated[Path, typer.Option("--key", help="Private elliptic-curve key, a PEM file.")],
) -> None:
    """Sign a bundle that passes `edgecmd verify` with a key of your own, offline."""
    from export.documents.sign import sign_bundle
    from export.trust.checks import verify_bundle

    verdict = verify_bundle(bundle, any_program=True, older_signature=True)
    if verdict.error is not None:
        raise verdict.error
    say(f"Signed: {sign_bundle(bundle, key)}")


def show(verdict: "Verdict") -> None:
    """Print one line a check, and the verdict."""
    rows = [
        [check.name, check.state, "named below" if check.state == "fault" else check.detail]
        for check in verdict.checks
    ]
    print_table(f"edgecmd verify {verdict.folder}", ["check", "state", "found"], rows)
    say("Verdict: " + ("no fault found." if verdict.passed else "refused."))
