"""``edgecmd init`` and ``edgecmd doctor``."""

import os
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import typer

from edgecmd.cli.app import app
from edgecmd.cli.common import AsJson, print_json, print_table, say
from edgecmd.errors import ConfigError


@app.command()
def init(
    path: Annotated[Path, typer.Argument(help="File to write.")] = Path("edgecmd.toml"),
    force: Annotated[bool, typer.Option("--force", help="Overwrite the file.")] = False,
) -> None:
    """Write a TOML file with every setting, its default and its meaning."""
    from edgecmd.files import write_text_atomically
    from edgecmd.settings import template

    if path.exists() and not force:
        raise ConfigError(f"{path} exists already. Choose another name or add --force.")
    write_text_atomically(path, template())
    say(f"Wrote {path}. Run it with `edgecmd run --config {path}`.")


@app.command()
def doctor(as_json: AsJson = False) -> None:
    """Show versions, threads, devices and optional parts, and say what is wrong."""
    import torch

    from edgecmd.runs import environment

    facts = environment()
    threads = os.environ.get("OMP_NUM_THREADS", "not set")
    optional = {name: find_spec(name) is not None for name in ("ray", "resvg_py", "fontTools", "soundfile")}
    advice = [] if threads == "1" else ["Set OMP_NUM_THREADS=1: more threads slow small students down."]
    if as_json:
        print_json({**facts, "omp_num_threads": threads, "optional": optional, "advice": advice})
        return
    packages = facts["packages"]
    assert isinstance(packages, dict)
    rows = [[name, version] for name, version in packages.items()]
    rows += [["python", str(facts["python"])], ["cores", str(os.cpu_count())], ["OMP_NUM_THREADS", threads]]
    rows += [["cuda", str(torch.cuda.is_available())]]
    rows += [[f"{name} (optional)", "yes" if found else "no"] for name, found in optional.items()]
    print_table("edgecmd doctor", ["what", "found"], rows)
    for line in advice:
        say(line)
