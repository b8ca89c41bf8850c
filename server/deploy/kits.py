"""Kits: what each machine of a federation gets, in a folder or a tar file of its own.

FOLDER/authority/   ca.key, ca.crt: kept by whoever runs the federation, on no server
FOLDER/server/      certificate and key, the sites' public keys, start script, unit, Compose file, proxy
FOLDER/sites/NAME/  the site's key, ca.crt, node config, start script, unit, Compose file; for secure sums
                    all sites' public keys
"""

import io
import tarfile
from collections.abc import Iterator, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import tomli_w

from clients.identity import TELL
from edgecmd import __version__
from edgecmd.core.errors import ConfigError, nearest
from edgecmd.core.files import folder_in_one_piece, json_bytes, read_json, write_bytes_atomically
from edgecmd.settings import SECURE_SUM
from server.deploy import texts
from server.deploy.certificates import Signed, make_authority, make_node_key, make_server_certificate
from server.deploy.description import Deployment, Site
from server.deploy.pins import pins_of

AUTHORITY, SERVER, SITES, KIT, PEERS = "authority", "server", "sites", "kit.json", "peers.pub"
_TEXTS = dict.fromkeys(("name", "address", "edgecmd"), str)
# What a kit of each role says of itself.
FACTS: dict[str, dict[str, type]] = {
    "server": {**_TEXTS, "host": str, "out": str, "link_port": int, "sites": list},
    "site": {**_TEXTS, "site": str},
}
SECRETS = ("ca.key", "server.key", "node.key")
LINK_PORT = 18001
Files = dict[str, bytes]


def make_kits(
    deployment: Deployment, folder: Path, *, link_port: int = LINK_PORT, as_tar: bool = False
) -> None:
    """Write all kits of a federation, with new keys.

    Args:
        deployment: What is deployed.
        folder: To make; it must not exist.
        link_port: On which the SuperLink listens on the server's loopback.
        as_tar: Also a .tar.gz of each kit beside its folder.

    Raises:
        ConfigError: The folder exists: its keys would be lost.

    Guarantees:
        A private key is in the kit of its owner alone, readable by the owner alone. Either all is written,
        or nothing.
    """
    if folder.exists():
        raise ConfigError(
            f"{folder} exists. Its keys are in use, perhaps: choose another folder, or remove it. To renew"
            " the server's certificate or a site's key: `edgecmd deploy renew`."
        )
    authority = make_authority(deployment.name, days=deployment.days)
    signed = make_server_certificate(authority, deployment.host, days=deployment.days)
    keys = {site.name: make_node_key() for site in deployment.sites}
    pins = pins_of(deployment)
    publics = {f"nodes/{name}.pub": public + b"\n" for name, (_, public) in keys.items()}
    with folder_in_one_piece(folder) as made:
        _write(made / AUTHORITY, _signed_files(authority, "ca.key", "ca.crt"))
        server = (
            _signed_files(signed, "server.key", "server.pem") | publics | {"ca.crt": authority.certificate}
        )
        _write(made / SERVER, server | _server_files(deployment, link_port))
        peers = {PEERS: _joined(publics)} if _is_summed(deployment) else {}
        for site in deployment.sites:
            own = {"node.key": keys[site.name][0], "ca.crt": authority.certificate} | peers
            _write(made / SITES / site.name, own | _site_files(deployment, site, pins[site.name]))
        if as_tar:
            for kit in (made / SERVER, *(made / SITES / site.name for site in deployment.sites)):
                write_bytes_atomically(kit.with_name(f"{kit.name}.tar.gz"), _tar(kit))
                kit.with_name(f"{kit.name}.tar.gz").chmod(0o600)


def renew_server(folder: Path, *, days: int) -> None:
    """Give the server a new key and certificate from the federation's authority; sites keep theirs.

    Args:
        folder: Of the kits, with ``authority`` and ``server``.
        days: How long it is valid.

    Raises:
        ConfigError: The authority's files are missing, damaged or out of date.
    """
    parts = [folder / AUTHORITY / name for name in ("ca.key", "ca.crt")]
    if not all(one.is_file() for one in parts):
        raise ConfigError(f"{folder / AUTHORITY} lacks ca.key or ca.crt; only who has both can renew.")
    key, certificate = (one.read_bytes() for one in parts)
    host = str(read_kit(folder / SERVER)["host"])
    signed = make_server_certificate(Signed(key=key, certificate=certificate), host, days=days)
    _write(folder / SERVER, _signed_files(signed, "server.key", "server.pem"))


def renew_site(folder: Path, site: str) -> None:
    """Give a site a new key pair; the next `edgecmd deploy run` registers it in the place of the old one.

    Where kits pin all sites' public keys, for secure sums, each kit here gets the new list; all need it.

    Args:
        folder: Of the kits.
        site: Its name.

    Raises:
        ConfigError: There is no such site.
    """
    kits = folder / SITES
    names = [path.parent.name for path in kits.glob(f"*/{KIT}")]
    if site not in names:
        raise ConfigError(f"{folder} has no site {site!r}. {nearest(site, names)}")
    private, public = make_node_key()
    _write(folder / SERVER, {f"nodes/{site}.pub": public + b"\n"})
    _write(kits / site, {"node.key": private})
    publics = {one.name: one.read_bytes() for one in (folder / SERVER / "nodes").glob("*.pub")}
    for peers in kits.glob(f"*/{PEERS}"):
        _write(peers.parent, {PEERS: _joined(publics)})


def read_kit(folder: Path) -> dict[str, Any]:
    """What a kit says of itself.

    Raises:
        ConfigError: It is none, or what it says is damaged.
        DataError: That is not JSON.
    """
    if not (folder / KIT).is_file():
        raise ConfigError(
            f"{folder} is no kit: it has no {KIT}. Give a folder that `edgecmd deploy init` made, such as"
            " FOLDER/server or FOLDER/sites/NAME."
        )
    found = read_json(folder / KIT)
    needed = FACTS.get(str(found.get("role"))) if isinstance(found, dict) else None
    if needed is None or any(type(found.get(key)) is not kind for key, kind in needed.items()):
        raise ConfigError(
            f"{folder / KIT} is damaged: it is not what `edgecmd deploy init` wrote. Unpack the kit again."
        )
    return dict(found)


def _signed_files(signed: Signed, key: str, certificate: str) -> Files:
    return {key: signed.key, certificate: signed.certificate}


def _server_files(deployment: Deployment, link_port: int) -> Files:
    facts = {
        "role": "server",
        "name": deployment.name,
        "host": deployment.host,
        "address": deployment.address,
        "link_port": link_port,
        "sites": [site.name for site in deployment.sites],
        "out": str(deployment.out),
        **_versions(),
    }
    own = dict(deployment.server_settings) | {"out": str(deployment.out)}
    return {
        KIT: json_bytes(facts, path=Path(KIT)),
        "run.toml": tomli_w.dumps(dict(deployment.settings)).encode(),
        "server.toml": tomli_w.dumps(own).encode(),
        "start.sh": texts.server_start(deployment.name, port=link_port).encode(),
        "edgecmd-server.service": texts.unit(
            f"edgecmd server of {deployment.name}", writes=(str(deployment.out),)
        ).encode(),
        "nginx.conf": texts.nginx(deployment.host, port=deployment.port, link_port=link_port).encode(),
        **_container("server", reads=(), writes=(str(deployment.out),)),
    }


def _site_files(deployment: Deployment, site: Site, pins: Mapping[str, str]) -> Files:
    facts = {
        "role": "site",
        "name": deployment.name,
        "site": site.name,
        "address": deployment.address,
        **_versions(),
    }
    state, data = str(site.node["state-dir"]), str(site.node["data-dir"])
    summed = _is_summed(deployment)
    start = texts.node_start(deployment.name, site=site.name, address=deployment.address, in_kit=summed)
    in_kit = {"own-key": "node.key", "peer-keys": PEERS} if summed else {}
    # What the owner set stays.
    node = {**pins, **in_kit, **site.node}
    return {
        KIT: json_bytes(facts, path=Path(KIT)),
        "node.toml": (tomli_w.dumps(node) + ("" if TELL in node else texts.TELL_EPSILON)).encode(),
        # For `edgecmd node` and `deploy check`: what the pairs would be read for.
        "run.toml": tomli_w.dumps(dict(deployment.shared_settings)).encode(),
        "start.sh": start.encode(),
        "edgecmd-node.service": texts.unit(
            f"edgecmd site {site.name} of {deployment.name}", writes=(state,)
        ).encode(),
        **_container("node", reads=(data,), writes=(state,)),
    }


def _versions() -> dict[str, str]:
    return {"edgecmd": __version__, "flwr": version("flwr"), "torch": version("torch")}


def _is_summed(deployment: Deployment) -> bool:
    """Whether the sites add up in secure sums, so that each must know the others' keys."""
    return deployment.settings.get("privacy.aggregation") == SECURE_SUM


def _joined(publics: Mapping[str, bytes]) -> bytes:
    return b"".join(publics[name] for name in sorted(publics))


def _container(service: str, *, reads: tuple[str, ...], writes: tuple[str, ...]) -> Files:
    text = texts.compose(service, version=__version__, reads=reads, writes=writes)
    return {"compose.yaml": text.encode(), "Dockerfile": texts.DOCKERFILE.encode()}


def _write(folder: Path, files: Mapping[str, bytes]) -> None:
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(mode=0o700, exist_ok=True)
        if name in SECRETS:
            _write_secret(path, content)
        else:
            write_bytes_atomically(path, content)
            path.chmod(0o755 if name.endswith(".sh") else 0o644)


def _write_secret(path: Path, content: bytes) -> None:
    """At no time does the file have other rights than its last ones."""
    beside = path.with_name(f".{path.name}.new")
    beside.unlink(missing_ok=True)
    beside.touch(mode=0o600)
    beside.write_bytes(content)
    beside.replace(path)


def _tar(folder: Path) -> bytes:
    """A kit with the rights of its files, owned by whoever unpacks it."""
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w:gz") as archive:
        for path in _files(folder):
            info = archive.gettarinfo(str(path), arcname=f"kit/{path.relative_to(folder)}")
            info.uid = info.gid = 0
            info.uname = info.gname = ""
            with path.open("rb") as file:
                archive.addfile(info, file)
    return data.getvalue()


def _files(folder: Path) -> Iterator[Path]:
    return (path for path in sorted(folder.rglob("*")) if path.is_file())
