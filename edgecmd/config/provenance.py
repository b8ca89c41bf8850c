"""How the federation of a run folder was made, ``federation.json``: where its clients and pairs are.

A run whose clients are nodes of Flower cannot be continued in one process: the pairs are not there, and
clients simulated in their place would end with other weights without a word.
"""

import json
import re
import shlex
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Literal

from edgecmd.config.file_settings import SERVER_SETTINGS
from edgecmd.core.artefacts import write_artefact
from edgecmd.core.errors import DataError, FederationError
from edgecmd.core.files import read_json
from edgecmd.run import Description, Scalar

Runtime = Literal["in-process", "flower"]
FILE = "federation.json"
RUNTIMES: tuple[Runtime, ...] = ("in-process", "flower")


@dataclass(frozen=True, kw_only=True, slots=True)
class Provenance:
    """Where the clients of a run are.

    Attributes:
        runtime: ``in-process`` (simulated by edgecmd) or ``flower`` (nodes of Flower, simulated or real).
        nodes: Most clients that were there when a process of the run started.
        nodes_with_own_pairs: Those among them whose pairs are their own and not a part of the run's set.
    """

    runtime: Runtime
    nodes: int
    nodes_with_own_pairs: int


def read_provenance(folder: Path) -> Provenance | None:
    """How the run in ``folder`` was made; None before its first start, or if an older edgecmd made it.

    Raises:
        DataError: The file is damaged.
    """
    path = folder / FILE
    if not path.exists():
        return None
    found = read_json(path)
    trouble = _trouble(found)
    if trouble:
        raise DataError(f"{path} is damaged: {trouble}. {_REPAIR}")
    return Provenance(**found)


def _trouble(found: object) -> str:
    """What is wrong with the content of the file; empty where nothing is."""
    names = [one.name for one in fields(Provenance)]
    if not isinstance(found, dict):
        return f"it holds {_KINDS.get(type(found), 'another value')}, where a table of settings is required"
    if set(found) != set(names):
        return f"it has {', '.join(map(repr, found)) or 'nothing'}; required are {', '.join(names)}"
    if found["runtime"] not in RUNTIMES:
        return f"runtime={found['runtime']!r:.80}; allowed are {', '.join(RUNTIMES)}"
    for name in ("nodes", "nodes_with_own_pairs"):
        if type(found[name]) is not int or found[name] < 0:
            return f"{name}={found[name]!r:.80}; allowed are whole numbers from 0"
    if found["nodes_with_own_pairs"] > found["nodes"]:
        return f"nodes_with_own_pairs={found['nodes_with_own_pairs']} is more than nodes={found['nodes']}"
    return ""


_KINDS: dict[type, str] = {list: "a list", str: "a text", type(None): "nothing", int: "a number"}


_REPAIR = "Restore it, or start the run again under another name with --set name=..."


def write_provenance(folder: Path, provenance: Provenance) -> None:
    """Write how the run is made; numbers of an earlier start stay where they are larger."""
    before = read_provenance(folder)
    if before is not None:
        provenance = Provenance(
            runtime=provenance.runtime,
            nodes=max(before.nodes, provenance.nodes),
            nodes_with_own_pairs=max(before.nodes_with_own_pairs, provenance.nodes_with_own_pairs),
        )
    if provenance != before:
        write_artefact(folder, FILE, asdict(provenance), may_leave=True)


def require_runtime(folder: Path, runtime: Runtime, *, described: Description) -> None:
    """Refuse to continue the run in ``folder`` elsewhere than where it was made.

    Args:
        folder: Run folder; nothing is refused where no run was started in it.
        runtime: Where it is to be continued.
        described: Settings, for the command that the message has.

    Raises:
        FederationError: It was made elsewhere; the message has the command that continues it.
        DataError: ``federation.json`` is damaged.
    """
    found = read_provenance(folder)
    if found is None or found.runtime == runtime:
        return
    if found.runtime == "in-process":
        raise FederationError(
            f"{folder} holds a run that was simulated in one process; its clients are not Flower nodes."
            f" Continue it with `edgecmd resume {shlex.quote(str(folder))}`, or choose another name for the"
            " run on Flower."
        )
    where = (
        f"the pairs of {found.nodes_with_own_pairs} of its {found.nodes} clients are stored on their nodes"
        if found.nodes_with_own_pairs
        else f"its {found.nodes} clients are nodes of Flower"
    )
    command = flower_command(folder, described, own_pairs=bool(found.nodes_with_own_pairs))
    raise FederationError(
        f"{folder} holds a run that was made on Flower: {where}, and clients simulated here would end with"
        f" different weights. Continue it on Flower: `{command}` in a checkout of edgecmd, replacing"
        " <federation> by the federation of the first start."
    )


def flower_command(folder: Path, described: Description, *, own_pairs: bool) -> str:
    """Command that starts or continues the run of ``folder`` on Flower.

    Args:
        folder: Run folder.
        described: Settings; those that differ from the defaults are in the command.
        own_pairs: Leave out what is in the server's own file, which nodes with pairs of their own would
            refuse (`edgecmd.config.file_settings`).
    """
    left_out = {"out", "name", *(SERVER_SETTINGS if own_pairs else ())}
    given: dict[str, Scalar] = {"out": str(folder.parent.resolve()), "name": folder.name}
    given |= {
        key: value
        for key, value in described.flat.items()
        if key not in left_out and value != described.defaults[key]
    }
    words = " ".join(f"{key}={_flower_value(value)}" for key, value in given.items())
    return f"flwr run . <federation> --run-config {shlex.quote(words)}"


def _flower_value(value: Scalar) -> str:
    """``value`` as TOML without an inner quote, at which Flower's reader of the command would cut it."""
    text = json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    if not isinstance(value, str):
        return text
    inner = re.sub(r"\\(.)", lambda one: r"\u0022" if one[1] == '"' else one[0], text[1:-1])
    return f'"{inner}"'
