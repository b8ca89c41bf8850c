"""The app that `flwr run` sends: two modules that hand over to the edgecmd that a machine has installed.

Flower sends an app's code to every node. This one holds none of the method: what reads pairs and
trains on them is what the site's owner installed, and another version refuses by name.
"""

import json
from pathlib import Path

from edgecmd import __version__
from edgecmd.config.reader import flatten
from edgecmd.config.schema import RunConfig
from edgecmd.core.files import folder_in_one_piece, write_text_atomically

PACKAGE = "edgecmd_app"
HEADER = "[tool.flwr.app.config]"
NOTE = "# All settings with their defaults; Flower refuses others. Written by `python -m tests.flower_table`."
_PROJECT = f"""\
[build-system]
requires = ["hatchling"]
build-backend = "hatchling.build"

[project]
name = "edgecmd-app"
version = "{__version__}"
description = "Hands over to the edgecmd {__version__} that is installed."
license = "Apache-2.0"
dependencies = []

[tool.flwr.app]
publisher = "edgecmd"
fab-include = ["{PACKAGE}/*.py"]

[tool.flwr.app.components]
serverapp = "{PACKAGE}.server_app:app"
clientapp = "{PACKAGE}.client_app:app"

"""
_MODULE = '''\
"""Hands over to the edgecmd that is installed here."""

import edgecmd

if edgecmd.__version__ != "VERSION":
    raise RuntimeError(
        f"This run was started by edgecmd VERSION, but {edgecmd.__version__} is installed here."
        " Install the same version on every machine."
    )

from ROOM import app as installed  # noqa: E402 - the version comes first

app = installed.app
'''


def config_table() -> str:
    """The table of an app's settings, with a sub-table for each section, in the order of the settings."""
    lines, opened = [HEADER, NOTE], ""
    for key, value in flatten(RunConfig()).items():
        section, _, name = key.rpartition(".")
        if section != opened:
            opened = section
            lines += ["", HEADER.replace("]", f".{section}]")]
        # JSON writes numbers, truth values and plain text as TOML does.
        lines.append(f"{name} = {json.dumps(value)}")
    return "\n".join(lines) + "\n"


def write_app(folder: Path) -> None:
    """Write the app.

    Args:
        folder: To make; what is there is replaced.
    """
    with folder_in_one_piece(folder) as made:
        (made / PACKAGE).mkdir()
        write_text_atomically(made / "pyproject.toml", _PROJECT + config_table())
        write_text_atomically(made / PACKAGE / "__init__.py", '"""The app that Flower sends."""\n')
        for name, room in (("server_app", "server"), ("client_app", "clients")):
            text = _MODULE.replace("VERSION", __version__).replace("ROOM", room)
            write_text_atomically(made / PACKAGE / f"{name}.py", text)
