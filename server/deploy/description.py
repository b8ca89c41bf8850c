"""The file that describes a federation: where its server is, which sites take part, what they run.

```toml
name = "first"

[server]
address = "fl.example.org:9092"
out = "/srv/edgecmd/runs"

[run]
data.image_size = 32
privacy.mechanism = "anchors"

[[site]]
name = "north"
data-dir = "/srv/pairs"
state-dir = "/srv/state"
max-epsilon = 4.0
```
"""

import ipaddress
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from clients.node import FLOWER, read_node
from edgecmd.config.file_settings import SERVER_SETTINGS
from edgecmd.config.reader import flatten, flatten_tables, read_flat, unflatten
from edgecmd.core.errors import ConfigError, PrivacyError, nearest

NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,39}")
HOST_NAME = re.compile(
    r"(?=.{1,253}\Z)[A-Za-z0-9]([A-Za-z0-9-]*[A-Za-z0-9])?(\.[A-Za-z0-9]([A-Za-z0-9-]*[A-Za-z0-9])?)*"
)
TOP, SERVER = ("name", "server", "run", "site"), ("address", "out", "days", "settings")
# The server's own, or said by the list of sites.
NOT_IN_RUN = SERVER_SETTINGS | {"name", "federation.num_clients"}
LONGEST_DAYS = 3650
EXAMPLE = """\
# A federation. `edgecmd deploy init` makes a kit for the server and for each site from it.
name = "first"

[server]
address = "localhost:9092"        # what the sites connect to
out = "/srv/edgecmd/runs"         # on the server
days = 365                        # how long its certificates are valid

[run]                             # settings of the run, as in a run's config.toml
data.image_size = 32
student.architecture = "ws-50k"
federation.num_rounds = 20
federation.local_steps = 5
privacy.mechanism = "anchors"
privacy.epsilon = 4.0

[[site]]                          # what this site's owner decides: docs/privacy.md
name = "north"
data-dir = "/srv/pairs"           # on that site
state-dir = "/srv/edgecmd/state"
max-epsilon = 4.0

[[site]]
name = "south"
data-dir = "/srv/pairs"
state-dir = "/srv/edgecmd/state"
max-epsilon = 4.0
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class Site:
    """A site.

    Attributes:
        name: Of the kit, and of the node in messages.
        node: Its node config, as `clients.node.read_node` takes it.
    """

    name: str
    node: Mapping[str, object]


@dataclass(frozen=True, kw_only=True, slots=True)
class Deployment:
    """A federation between machines.

    Attributes:
        name: Of the federation and its run folder.
        host: Of the server, as the sites know it.
        port: The port that the sites connect to.
        out: Folder of runs, on the server.
        days: How long certificates are valid.
        settings: Settings of the run that the description sets or gives, by dotted key.
        server_settings: What the server alone reads, by dotted key; see `SERVER_SETTINGS`.
        sites: In the order of the file.
    """

    name: str
    host: str
    port: int
    out: Path
    days: int
    settings: Mapping[str, object]
    server_settings: Mapping[str, object]
    sites: tuple[Site, ...]

    @property
    def address(self) -> str:
        """Host and port."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def shared_settings(self) -> dict[str, object]:
        """Settings that a site's owner needs too, to look at what a run would do there."""
        return {key: value for key, value in self.settings.items() if key not in ("name", "out")}


def read_deployment(path: Path) -> Deployment:
    """Read a description.

    Args:
        path: A TOML file.

    Raises:
        ConfigError: It is missing, not TOML, lacks something, holds something unknown or a wrong value. The
            message names the file and the key.
    """
    if not path.exists():
        raise ConfigError(
            f"{path} does not exist. Check the path, or begin with `edgecmd deploy example > {path.name}`."
        )
    raw = read_flat(path)
    try:
        return _deployment(raw)
    except (ConfigError, PrivacyError) as error:
        raise ConfigError(f"{path}: {error}") from error


def example_deployment() -> Deployment:
    """The one of `EXAMPLE`."""
    return _deployment(tomllib.loads(EXAMPLE))


def with_rounds(deployment: Deployment, num_rounds: int) -> Deployment:
    """The same federation for another number of rounds."""
    return replace(deployment, settings={**deployment.settings, "federation.num_rounds": num_rounds})


def _deployment(raw: Mapping[str, object]) -> Deployment:
    _require_known(raw, TOP, where="")
    server = _table(raw, "server")
    _require_known(server, SERVER, where="server.")
    sites = _sites(raw.get("site"))
    host, port = _address(_text(server, "address", where="server."))
    out = Path(_text(server, "out", where="server."))
    if not _is_place(out):
        raise ConfigError(f"server.out={str(out)!r} must be an absolute path, such as /srv/edgecmd/runs.")
    name = _text(raw, "name")
    settings = _settings(raw, name=name, out=out, num_clients=len(sites))
    return Deployment(
        name=_plain_name("name", name),
        host=host,
        port=port,
        out=out,
        days=_days(server),
        settings=settings,
        server_settings=_server_settings(server),
        sites=sites,
    )


def _settings(raw: Mapping[str, object], *, name: str, out: Path, num_clients: int) -> dict[str, object]:
    given = flatten_tables(_table(raw, "run") if "run" in raw else {})
    for key in given:
        if key in NOT_IN_RUN:
            raise ConfigError(
                f"run.{key} cannot be set here: `name` and the number of sites give some settings, and what"
                " the server alone reads is set in [server.settings]."
            )
    whole = given | {"name": name, "out": str(out), "federation.num_clients": num_clients}
    # As Flower's run config can hold them.
    flat = flatten(unflatten(whole))
    return {key: flat[key] for key in whole}


def _server_settings(server: Mapping[str, object]) -> dict[str, object]:
    given = flatten_tables(_table(server, "settings") if "settings" in server else {})
    for key in given:
        if key == "out" or key not in SERVER_SETTINGS:
            raise ConfigError(
                f"server.settings.{key} is no setting of the server alone; what the sites see too is set in"
                f" [run]. {nearest(key, SERVER_SETTINGS - {'out'})}"
            )
    unflatten(given)
    return given


def _sites(raw: object) -> tuple[Site, ...]:
    if not isinstance(raw, list) or not raw or not all(isinstance(one, dict) for one in raw):
        raise ConfigError("It has no [[site]]. Add one for each site, with its name, data-dir and state-dir.")
    found: list[Site] = []
    for place, one in enumerate(raw, start=1):
        name = _plain_name(f"name of site {place}", _text(one, "name", where=f"site {place}: "))
        if name in {site.name for site in found}:
            raise ConfigError(f"Two sites have the name {name!r}; each needs its own.")
        found.append(
            Site(name=name, node=_node(name, {key: value for key, value in one.items() if key != "name"}))
        )
    return tuple(found)


def _node(name: str, node: dict[str, object]) -> dict[str, object]:
    for key in FLOWER:
        if key in node:
            raise ConfigError(f"Site {name} has {key}, which is for simulations. Leave it out.")
    for key in ("data-dir", "state-dir"):
        if not _is_place(Path(str(node.get(key, "")))):
            raise ConfigError(
                f"Site {name} has {key}={node.get(key, '')!r}; it needs an absolute path on that site, such"
                f" as /srv/{key.removesuffix('-dir')}."
            )
    try:
        # Whatever the owner could give on the site; `edgecmd-version` and digests may be of another machine.
        read_node({key: value for key, value in node.items() if key != "edgecmd-version"})
    except PrivacyError as error:
        raise ConfigError(f"Site {name}: {error}") from error
    return node


def _is_place(path: Path) -> bool:
    """Whether it is an absolute path that a line of a service file can hold."""
    return path.is_absolute() and str(path).isprintable()


def _address(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not (port.isdecimal() and 0 < int(port) < 1 << 16 and (HOST_NAME.fullmatch(host) or _is_ip(host))):
        raise ConfigError(
            f"server.address={text!r}; allowed is a host name or an IP address, a colon and a port, such as"
            " fl.example.org:9092."
        )
    return host, int(port)


def _is_ip(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _days(server: Mapping[str, object]) -> int:
    days = server.get("days", 365)
    if type(days) is not int or not 1 <= days <= LONGEST_DAYS:
        raise ConfigError(f"server.days={days!r}; allowed are whole numbers from 1 to {LONGEST_DAYS}.")
    return days


def _plain_name(what: str, text: str) -> str:
    if not NAME.fullmatch(text):
        raise ConfigError(
            f"{what}={text!r}; allowed are at most 40 of a-z, 0-9 and -, with a letter or digit first."
        )
    return text


def _text(table: Mapping[str, object], key: str, *, where: str = "") -> str:
    value = table.get(key)
    if not isinstance(value, str) or not value.strip():
        raise ConfigError(f"{where}{key} is {'missing' if value is None else repr(value)}; it needs a text.")
    return value


def _table(raw: Mapping[str, object], key: str) -> dict[str, object]:
    value = raw.get(key)
    if not isinstance(value, dict):
        raise ConfigError(f"The table [{key}] is missing. `edgecmd deploy example` shows what it holds.")
    return value


def _require_known(table: Mapping[str, object], known: tuple[str, ...], *, where: str) -> None:
    for key in table:
        if key not in known:
            raise ConfigError(f"{where}{key} is unknown. {nearest(key, known)}")
