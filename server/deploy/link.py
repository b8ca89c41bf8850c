"""A SuperLink as its owner sees it: its health, its nodes and its runs, by Flower's own program."""

import json
import os
import shutil
import ssl
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any

from edgecmd.core.errors import FederationError, MachineError
from edgecmd.core.files import read_json, sha256_file, write_json, write_text_atomically
from server.deploy.kits import read_kit
from server.deploy.texts import ENVIRONMENT, LOOPBACK

PATIENCE_S, CONNECT_S = 120.0, 10.0
NODES = "nodes.json"


@dataclass(frozen=True, kw_only=True, slots=True)
class Registered:
    """A site's key at the SuperLink.

    Attributes:
        node: Flower's id of the node.
        key: SHA-256 of the public key's file.
        revoked: Whether it was taken back; this key never comes in again.
    """

    node: str
    key: str
    revoked: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Link:
    """The SuperLink of a server's kit.

    Attributes:
        kit: The kit's folder.
        port: On loopback.
    """

    kit: Path
    port: int

    @property
    def state(self) -> Path:
        """What the kit's programs write."""
        return self.kit / "state"

    def registered(self) -> dict[str, Registered]:
        """Each site's key as far as it was registered or revoked, by the site's name.

        Raises:
            FederationError: The file that says it is damaged.
        """
        path = self.state / NODES
        found = read_json(path) if path.is_file() else {}
        try:
            return {site: Registered(**one) for site, one in found.items()}
        except (AttributeError, TypeError) as error:
            raise FederationError(
                f"{path} is damaged, which says whose keys are registered. Restore it from a backup."
            ) from error

    def nodes(self) -> list[dict[str, str]]:
        """Flower's list of nodes."""
        return list(self.flwr("supernode", "ls", "own")["nodes"])

    def runs(self) -> list[dict[str, Any]]:
        """Flower's list of runs, the newest first."""
        return list(self.flwr("ls", "own")["runs"])

    def register(self) -> list[str]:
        """Register sites' keys that are new; a key in the place of an older one replaces it.

        Returns:
            Names of sites that were registered now.
        """
        known, new = self.registered(), []
        for site in read_kit(self.kit)["sites"]:
            path = self.kit / "nodes" / f"{site}.pub"
            key, old = sha256_file(path), known.get(site)
            if old is not None and old.key == key:
                continue
            if old is not None and not old.revoked:
                self.flwr("supernode", "unregister", old.node, "own")
            found = self.flwr("supernode", "register", str(path), "own", "--name", site)
            known[site] = Registered(node=str(found["node-id"]), key=key)
            self._write(known)
            new.append(site)
        return new

    def revoke(self, site: str) -> None:
        """Take a site's key back: its node is refused from now on, and no later run registers that key.

        Raises:
            FederationError: No key of that name is registered.
        """
        known = self.registered()
        if site not in known or known[site].revoked:
            active = sorted(name for name, one in known.items() if not one.revoked)
            raise FederationError(
                f"No key of {site!r} is registered. Registered: {', '.join(active) or 'none'}."
            )
        self.flwr("supernode", "unregister", known[site].node, "own")
        self._write(known | {site: replace(known[site], revoked=True)})

    def _write(self, known: Mapping[str, Registered]) -> None:
        write_json(self.state / NODES, {site: asdict(one) for site, one in known.items()})

    def flwr(self, *words: str) -> dict[str, Any]:
        """Run Flower's program and read what it prints.

        Raises:
            FederationError: The SuperLink is gone, or the program failed; the message then has its own words.
        """
        home = self.state / "flower"
        home.mkdir(parents=True, exist_ok=True)
        text = (
            f'[superlink]\ndefault = "own"\n\n[superlink.own]\naddress = "{LOOPBACK}:{self.port}"\n'
            f'root-certificates = "{(self.kit / "ca.crt").resolve()}"\n'
        )
        write_text_atomically(home / "config.toml", text)
        try:
            done = subprocess.run(
                [program("flwr"), *words, "--format", "json"],
                env=environment(home),
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=PATIENCE_S,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise FederationError(
                f"`flwr {words[0]}` gave no answer in {PATIENCE_S:.0f} s. Look at the SuperLink's own output."
            ) from error
        found = _last_json(done.stdout)
        if done.returncode or not found.get("success", False):
            # Where nobody listens any more, that says it with the way out.
            live_link(self.kit)
            said = found.get("error-message") or done.stderr.strip() or done.stdout.strip() or "nothing"
            raise FederationError(f"`flwr {' '.join(words[:2])}` failed and said: {str(said)[:600]}")
        return found


def link_of(kit: Path) -> Link:
    """The SuperLink of a server's kit.

    Raises:
        ConfigError: The folder is no kit.
        FederationError: It is the kit of a site.
    """
    facts = read_kit(kit)
    if facts["role"] != "server":
        raise FederationError(f"{kit} is the kit of the site {facts['site']}; give the server's.")
    return Link(kit=kit, port=int(facts["link_port"]))


def live_link(kit: Path) -> Link:
    """The SuperLink of a server's kit, which answers.

    Raises:
        ConfigError: The folder is no kit.
        FederationError: It is the kit of a site, or its SuperLink is not there.
    """
    link = link_of(kit)
    health(f"localhost:{link.port}", kit / "ca.crt")
    return link


def health(address: str, authority: Path) -> float:
    """Ask a SuperLink whether it is well.

    Args:
        address: Host and port.
        authority: ``ca.crt`` of the federation.

    Returns:
        By how many seconds its clock is ahead of this machine's; 0.0 where it does not say.

    Raises:
        FederationError: It cannot be reached, is another server, or its certificate is not valid.
    """
    try:
        context = ssl.create_default_context(cafile=str(authority))
        with urllib.request.urlopen(
            f"https://{address}/health", timeout=CONNECT_S, context=context
        ) as answer:
            said = answer.headers.get("Date")
    except urllib.error.HTTPError as error:
        raise FederationError(
            f"{address} answers, but with HTTP {error.code}: it is no SuperLink."
        ) from error
    except (OSError, ssl.SSLError) as error:
        reason = error.reason if isinstance(error, urllib.error.URLError) else error
        raise FederationError(f"{address}: {_plain(reason)}") from error
    return 0.0 if said is None else parsedate_to_datetime(said).timestamp() - time.time()


def _plain(reason: object) -> str:
    if isinstance(reason, ssl.SSLCertVerificationError):
        return (
            f"its certificate is refused ({reason.verify_message}). Its kit and this one must be of the same"
            " federation and in date: `edgecmd deploy check` on the server shows its dates."
        )
    if isinstance(reason, ConnectionRefusedError):
        return (
            "nobody listens there. Start the server (start.sh in its kit), and its proxy where there is one."
        )
    return f"{reason}. Check the address, the network and the firewall."


def program(name: str) -> str:
    """Path of one of Flower's programs: beside this interpreter, else on the path.

    Raises:
        MachineError: There is none.
    """
    beside = Path(sys.executable).parent / name
    found = str(beside) if beside.is_file() else shutil.which(name)
    if found is None:
        raise MachineError(f"The program {name} is not installed. Install edgecmd again: it brings flwr.")
    return found


def environment(home: Path) -> dict[str, str]:
    """Environment of Flower's programs: telemetry off, nothing installed at run time, files in ``home``."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}"
    return {**os.environ, **ENVIRONMENT, "FLWR_HOME": str(home), "PATH": path}


def _last_json(text: str) -> dict[str, Any]:
    """Flower may print a line before what was asked for."""
    start = text.find("{")
    try:
        found = json.loads(text[start:]) if start >= 0 else {}
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}
