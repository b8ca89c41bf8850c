"""What could stop a kit from working: certificates, clock, versions, data, ledger, disk."""

import os
import shutil
import socket
import stat
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import flwr
import torch
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import serialization

from clients.check import check_node
from clients.node import read_node
from edgecmd import __version__
from edgecmd.config.reader import read_flat, unflatten
from edgecmd.core.errors import EdgecmdError, FederationError
from edgecmd.core.files import require_writable
from server.deploy.kits import SECRETS, read_kit
from server.deploy.link import health, link_of
from server.deploy.texts import LOOPBACK, NODE_PORT, NODE_PORT_VARIABLE

SOON = timedelta(days=14)
MOST_SKEW_S, PROBE_S = 60.0, 3.0
LEAST_FREE_BYTES = 1_000_000_000


@dataclass(frozen=True, kw_only=True, slots=True)
class Check:
    """Something that was looked at.

    Attributes:
        name: What.
        ok: Whether a run can do with it.
        found: What is there; of a fault, what is wrong and the way out.
    """

    name: str
    ok: bool
    found: str


class _FaultError(Exception):
    """Raised by a check with its sentence."""


def check_kit(kit: Path) -> list[Check]:
    """Look at a kit on the machine that it is for.

    Args:
        kit: Of the server, or of a site.

    Returns:
        Every check, in a fixed order. None changes anything; features of public anchors are kept in the
        site's ``state-dir``, as by a round.

    Raises:
        ConfigError: The folder is no kit.
    """
    return [look(name, check) for name, check in checks_of(kit).items()]


def checks_of(kit: Path) -> dict[str, Callable[[], str]]:
    """What `check_kit` looks at, by name; see `look`.

    Raises:
        ConfigError: The folder is no kit.
    """
    facts = read_kit(kit)
    return dict(_of_server(kit, facts) if facts["role"] == "server" else _of_site(kit, facts))


def look(name: str, check: Callable[[], str]) -> Check:
    """Make a check, whatever it finds."""
    try:
        return Check(name=name, ok=True, found=check())
    except (_FaultError, EdgecmdError) as error:
        return Check(name=name, ok=False, found=str(error))
    except OSError as error:
        return Check(name=name, ok=False, found=f"{error.filename}: {error.strerror}.")


def _of_server(kit: Path, facts: dict[str, Any]) -> Iterator[tuple[str, Callable[[], str]]]:
    yield "files", lambda: _files(kit, ("server.key", "server.pem", "ca.crt", "run.toml", "server.toml"))
    yield "versions", lambda: _versions(facts)
    yield "authority", lambda: _authority_dates(kit)
    yield "certificate", lambda: _server_certificate(kit)
    yield "settings", lambda: _settings(kit)
    yield "runs", lambda: _writable(Path(facts["out"]))
    yield "SuperLink", lambda: _link(kit, int(facts["link_port"]))
    yield "sites", lambda: _registered(kit, facts)


def _of_site(kit: Path, facts: dict[str, Any]) -> Iterator[tuple[str, Callable[[], str]]]:
    yield "files", lambda: _files(kit, ("node.key", "ca.crt", "node.toml", "run.toml"))
    yield "versions", lambda: _versions(facts)
    yield "authority", lambda: _authority_dates(kit)
    yield "key", lambda: _node_key(kit)
    yield "port", _node_port
    yield "server", lambda: _server_there(kit, str(facts["address"]))
    yield "pairs", lambda: _pairs(kit)
    yield "state", lambda: _writable(read_node(read_flat(kit / "node.toml")).state)


def _files(kit: Path, needed: tuple[str, ...]) -> str:
    missing = [name for name in needed if not (kit / name).is_file()]
    if missing:
        raise _FaultError(f"{kit} lacks {', '.join(missing)}. Unpack the kit again.")
    for name in SECRETS:
        path = kit / name
        if path.is_file() and stat.S_IMODE(path.stat().st_mode) & 0o077:
            raise _FaultError(f"{path} can be read by others. Run: chmod 600 {path}")
    if (kit / "ca.key").exists():
        raise _FaultError(f"{kit / 'ca.key'} can sign a false server. Move it off this machine.")
    return f"complete; keys are readable by their owner only ({kit})"


def _versions(facts: dict[str, Any]) -> str:
    if facts["edgecmd"] != __version__:
        raise _FaultError(
            f"The kit is for edgecmd {facts['edgecmd']}, but {__version__} is installed. Install"
            f" {facts['edgecmd']} here, or make new kits with `edgecmd deploy init` for all."
        )
    if facts.get("flwr", flwr.__version__) != flwr.__version__:
        raise _FaultError(
            f"The kit is for flwr {facts['flwr']}, but {flwr.__version__} is installed: messages may not be"
            f" understood. Run: pip install 'flwr=={facts['flwr']}'"
        )
    own = f"edgecmd {__version__}, flwr {flwr.__version__}, torch {torch.__version__}"
    made_with = facts.get("torch", torch.__version__)
    # Rounds work; weights of another release may differ in their last digits.
    return own if made_with == torch.__version__ else f"{own}; the kit was made with torch {made_with}"


def _certificate(path: Path) -> x509.Certificate:
    try:
        return x509.load_pem_x509_certificate(path.read_bytes())
    except ValueError as error:
        raise _FaultError(f"{path} is damaged. Unpack the kit again.") from error


def _in_date(certificate: x509.Certificate, what: str, way_out: str) -> str:
    now, end = datetime.now(UTC), certificate.not_valid_after_utc
    if now < certificate.not_valid_before_utc:
        raise _FaultError(
            f"The {what} begins on {certificate.not_valid_before_utc:%Y-%m-%d %H:%M} UTC, but the clock here"
            f" says {now:%Y-%m-%d %H:%M}. Set the clock."
        )
    if now >= end:
        raise _FaultError(f"The {what} ended on {end:%Y-%m-%d}. {way_out}")
    if end - now < SOON:
        raise _FaultError(f"The {what} ends on {end:%Y-%m-%d}, in less than {SOON.days} days. {way_out}")
    return f"valid until {end:%Y-%m-%d}"


def _authority_dates(kit: Path) -> str:
    return _in_date(
        _certificate(kit / "ca.crt"),
        "authority's certificate",
        "Make new kits for all: `edgecmd deploy init`.",
    )


def _server_certificate(kit: Path) -> str:
    certificate, authority = _certificate(kit / "server.pem"), _certificate(kit / "ca.crt")
    try:
        certificate.verify_directly_issued_by(authority)
        key = serialization.load_pem_private_key((kit / "server.key").read_bytes(), password=None)
    except (ValueError, TypeError, InvalidSignature) as error:
        raise _FaultError(
            "server.pem, server.key and ca.crt are not of one federation, or damaged. Unpack the kit again."
        ) from error
    if key.public_key() != certificate.public_key():
        raise _FaultError("server.key is not the key of server.pem. Take both from one kit.")
    return _in_date(certificate, "server's certificate", "Run: edgecmd deploy renew FOLDER")


def _node_key(kit: Path) -> str:
    try:
        serialization.load_ssh_private_key((kit / "node.key").read_bytes(), password=None)
    except (ValueError, TypeError) as error:
        raise _FaultError(f"{kit / 'node.key'} is no key, or damaged. Unpack the kit again.") from error
    return "readable"


def _node_port() -> str:
    named = os.environ.get(NODE_PORT_VARIABLE, str(NODE_PORT))
    if not (named.isdecimal() and 0 < int(named) < 1 << 16):
        raise _FaultError(f"{NODE_PORT_VARIABLE}={named!r} is no port; allowed are 1 to 65535.")
    with socket.socket() as one:
        one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            one.bind((LOOPBACK, int(named)))
            return f"{named} of loopback is free"
        except PermissionError as error:
            raise _FaultError(f"Port {named} may not be used by you. Set {NODE_PORT_VARIABLE}.") from error
        except OSError:
            pass
    try:
        urllib.request.urlopen(f"http://{LOOPBACK}:{named}/", timeout=PROBE_S).close()
    except urllib.error.HTTPError:
        pass
    except OSError as error:
        raise _FaultError(
            f"Port {named} of loopback is in use by another program. Start the node with"
            f" {NODE_PORT_VARIABLE} set to a free port."
        ) from error
    return f"{named} of loopback is in use, as by a node that runs"


def _settings(kit: Path) -> str:
    config = unflatten(read_flat(kit / "run.toml") | read_flat(kit / "server.toml"))
    return f"{config.federation.num_rounds} rounds, mechanism {config.privacy.mechanism}"


def _writable(folder: Path) -> str:
    require_writable(folder / "probe")
    free = shutil.disk_usage(next(one for one in (folder, *folder.parents) if one.exists())).free
    if free < LEAST_FREE_BYTES:
        raise _FaultError(
            f"{folder} has {free / 1e6:.0f} MB free; a run needs {LEAST_FREE_BYTES / 1e9:.0f} GB."
        )
    return f"{folder}, {free / 1e9:.0f} GB free"


def _link(kit: Path, port: int) -> str:
    try:
        health(f"localhost:{port}", kit / "ca.crt")
    except FederationError as error:
        with socket.socket() as one:
            if one.connect_ex((LOOPBACK, port)) == 0:
                raise _FaultError(f"Port {port} is in use, but not by this SuperLink: {error}") from error
        raise _FaultError(f"It is not running. Start {kit / 'start.sh'}, or its service.") from error
    return f"answers on port {port}"


def _registered(kit: Path, facts: dict[str, Any]) -> str:
    known = link_of(kit).registered()
    parts = [
        f"{site}: {'revoked' if known[site].revoked else 'registered'}"
        if site in known
        else f"{site}: not registered: edgecmd deploy register"
        for site in facts["sites"]
    ]
    return "; ".join(parts)


def _server_there(kit: Path, address: str) -> str:
    skew = health(address, kit / "ca.crt")
    if abs(skew) > MOST_SKEW_S:
        raise _FaultError(
            f"The clock here is {abs(skew):.0f} s {'behind' if skew > 0 else 'ahead of'} the server's; at"
            f" most {MOST_SKEW_S:.0f} s are allowed. Set the clock, as by NTP."
        )
    return f"{address} answers, its certificate is of this federation"


def _pairs(kit: Path) -> str:
    config = unflatten(read_flat(kit / "run.toml"))
    report = check_node(read_flat(kit / "node.toml"), config)
    private = config.privacy.mechanism != "none"
    problems = [one for one in report.problems() if private or not one.startswith("No ledger")]
    if problems:
        raise _FaultError(" ".join(problems))
    spent = f", epsilon {report.epsilon:.3g} spent at delta {report.delta:g}" if private else ""
    return f"{report.num_pairs} as {report.target_kind}{spent}"
