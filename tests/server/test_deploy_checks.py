"""What `edgecmd deploy check` finds in a kit: each fault is planted and named with its way out."""

import json
import socket
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest

from edgecmd.core.errors import ConfigError
from edgecmd.datasets.sample import write_sample
from server.deploy import certificates, checks, link
from server.deploy.checks import check_kit
from server.deploy.description import Deployment, Site, example_deployment
from server.deploy.kits import make_kits
from tests.flower_processes import free_port


def here(folder: Path) -> Deployment:
    """The example with sites' folders below ``folder``."""
    deployment = example_deployment()
    sites = tuple(
        Site(
            name=site.name,
            node={
                "data-dir": str(folder / "pairs"),
                "state-dir": str(folder / site.name),
                "max-epsilon": 4.0,
            },
        )
        for site in deployment.sites
    )
    settings = {**deployment.settings, "out": str(folder / "runs")}
    return replace(deployment, out=folder / "runs", settings=settings, sites=sites)


@pytest.fixture
def kits(tmp_path: Path) -> Path:
    make_kits(here(tmp_path), tmp_path / "kits", link_port=free_port())
    return tmp_path / "kits"


def fault(kit: Path, name: str) -> str:
    """What is said of a fault; empty where there is none. The other checks are not made: some take long."""
    found = checks.look(name, checks.checks_of(kit)[name])
    return "" if found.ok else found.found


def test_a_new_server_kit_lacks_its_superlink_alone(kits: Path) -> None:
    found = check_kit(kits / "server")
    assert [one.name for one in found if not one.ok] == ["SuperLink"]
    assert "start.sh" in fault(kits / "server", "SuperLink")
    sites = next(one.found for one in found if one.name == "sites")
    assert sites.count("not registered: edgecmd deploy register") == 2


def test_a_site_with_pairs_lacks_server_and_ledger(
    kits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_sample(tmp_path / "pairs", num=20)
    assert "nobody listens there" in fault(kits / "sites/north", "server")
    monkeypatch.setattr(checks, "health", lambda *_: 0.5)
    found = check_kit(kits / "sites/north")
    assert [one.name for one in found if not one.ok] == ["pairs"]
    assert "--new-ledger" in fault(kits / "sites/north", "pairs")


def test_pairs_that_are_not_there(kits: Path, tmp_path: Path) -> None:
    assert str(tmp_path / "pairs") in fault(kits / "sites/north", "pairs")


def test_nothing_is_changed(kits: Path, tmp_path: Path) -> None:
    """But for the features of public anchors, which a round would keep in the same place."""

    def files() -> dict[Path, bytes]:
        kept = tmp_path / "north" / "features"
        return {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file() and kept not in p.parents}

    before = files()
    for kit in ("server", "sites/north"):
        check_kit(kits / kit)
    assert files() == before
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(("kit", "name"), [("server", "server.key"), ("sites/north", "node.key")])
def test_a_key_that_others_can_read(kits: Path, kit: str, name: str) -> None:
    (kits / kit / name).chmod(0o640)
    assert f"chmod 600 {kits / kit / name}" in fault(kits / kit, "files")


@pytest.mark.parametrize(("kit", "name"), [("server", "server.pem"), ("sites/north", "ca.crt")])
def test_a_file_that_is_missing(kits: Path, kit: str, name: str) -> None:
    (kits / kit / name).unlink()
    assert f"lacks {name}" in fault(kits / kit, "files")


def test_the_authoritys_key_on_the_server(kits: Path) -> None:
    target = kits / "server/ca.key"
    target.write_bytes((kits / "authority/ca.key").read_bytes())
    target.chmod(0o600)
    assert "can sign a false server" in fault(kits / "server", "files")


def test_another_version(kits: Path) -> None:
    path = kits / "sites/north/kit.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"edgecmd": "0.0.1"}))
    said = fault(kits / "sites/north", "versions")
    assert said.startswith("The kit is for edgecmd 0.0.1, but ")


def test_another_flower(kits: Path) -> None:
    path = kits / "server/kit.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"flwr": "1.2.3"}))
    assert "pip install 'flwr==1.2.3'" in fault(kits / "server", "versions")


def test_another_torch_is_told_and_is_no_fault(kits: Path) -> None:
    path = kits / "server/kit.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"torch": "2.1.0"}))
    found = checks.look("versions", checks.checks_of(kits / "server")["versions"])
    assert found.ok
    assert found.found.endswith("the kit was made with torch 2.1.0")


@pytest.mark.parametrize(("named", "said"), [("0", "no port"), ("70000", "no port"), ("x", "'x' is no port")])
def test_a_port_that_is_none(kits: Path, monkeypatch: pytest.MonkeyPatch, named: str, said: str) -> None:
    monkeypatch.setenv("EDGECMD_NODE_PORT", named)
    assert said in fault(kits / "sites/north", "port")


def test_a_port_that_another_program_has(kits: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks, "PROBE_S", 0.2)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        monkeypatch.setenv("EDGECMD_NODE_PORT", str(taken.getsockname()[1]))
        assert "in use by another program" in fault(kits / "sites/north", "port")
    assert fault(kits / "sites/north", "port") == ""


def test_a_node_that_runs_has_its_port(kits: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Flower's answers to a page that it does not have; what matters is that it speaks HTTP."""
    with ThreadingHTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler) as server:
        Thread(target=server.handle_request).start()
        monkeypatch.setenv("EDGECMD_NODE_PORT", str(server.server_port))
        assert fault(kits / "sites/north", "port") == ""


def test_a_certificate_of_another_federation(kits: Path, tmp_path: Path) -> None:
    make_kits(here(tmp_path), tmp_path / "other")
    for name in ("server.pem", "server.key"):
        (kits / "server" / name).write_bytes((tmp_path / "other/server" / name).read_bytes())
    assert "not of one federation" in fault(kits / "server", "certificate")


def test_a_key_of_another_certificate(kits: Path, tmp_path: Path) -> None:
    make_kits(here(tmp_path), tmp_path / "other")
    (kits / "server/server.key").write_bytes((tmp_path / "other/server/server.key").read_bytes())
    assert "not the key of server.pem" in fault(kits / "server", "certificate")


@pytest.mark.parametrize("name", ["server.pem", "ca.crt"])
def test_a_damaged_certificate(kits: Path, name: str) -> None:
    path = kits / "server" / name
    path.write_bytes(path.read_bytes()[:100])
    check = "certificate" if name == "server.pem" else "authority"
    assert f"{path} is damaged" in fault(kits / "server", check)


def test_a_damaged_node_key(kits: Path) -> None:
    path = kits / "sites/north/node.key"
    path.write_bytes(b"no key")
    assert f"{path} is no key" in fault(kits / "sites/north", "key")


@pytest.mark.parametrize(
    ("moved", "said"),
    [
        (timedelta(days=364), "in less than 14 days"),
        (timedelta(days=366), "ended on"),
        (timedelta(days=-1), "Set the clock"),
        (timedelta(days=340), ""),
    ],
)
def test_dates(kits: Path, monkeypatch: pytest.MonkeyPatch, moved: timedelta, said: str) -> None:
    """The example's certificates are valid for 365 days; the clock of the check is moved instead."""

    class Moved(datetime):
        @classmethod
        def now(cls, tz: object = None) -> datetime:  # type: ignore[override]
            return datetime.now(UTC) + moved

    monkeypatch.setattr(checks, "datetime", Moved)
    for check in ("authority", "certificate"):
        found = fault(kits / "server", check)
        assert said in found
        assert bool(found) == bool(said)


@pytest.mark.parametrize(
    ("skew", "said"), [(59.0, ""), (-59.0, ""), (61.0, "61 s behind"), (-90.0, "90 s ahead of")]
)
def test_a_clock_that_is_off(kits: Path, monkeypatch: pytest.MonkeyPatch, skew: float, said: str) -> None:
    monkeypatch.setattr(checks, "health", lambda *_: skew)
    found = fault(kits / "sites/north", "server")
    assert said in found
    assert bool(found) == bool(said)


def test_a_disk_that_is_nearly_full(kits: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Usage:
        free = 999_000_000

    monkeypatch.setattr(checks.shutil, "disk_usage", lambda _: Usage)
    assert "999 MB free" in fault(kits / "server", "runs")
    assert "999 MB free" in fault(kits / "sites/north", "state")


def test_a_port_that_somebody_else_has(kits: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Whoever listens there accepts and says nothing.
    monkeypatch.setattr(link, "CONNECT_S", 0.2)
    port = json.loads((kits / "server/kit.json").read_text())["link_port"]
    with socket.socket() as one:
        one.bind(("127.0.0.1", port))
        one.listen(8)
        one.settimeout(0.1)
        said = fault(kits / "server", "SuperLink")
    assert f"Port {port} is in use, but not by this SuperLink" in said


def test_settings_that_were_edited_wrongly(kits: Path) -> None:
    (kits / "server/run.toml").write_text('"federation.rounds" = 3\n')
    assert "federation.rounds" in fault(kits / "server", "settings")
    (kits / "sites/north/node.toml").write_text(
        'data-dir = "/srv/pairs"\nmax-epsilom = 3\nstate-dir = "/tmp"\n'
    )
    assert "max-epsilom" in fault(kits / "sites/north", "pairs")


def test_no_kit(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is no kit"):
        check_kit(tmp_path)


def test_certificates_begin_early_enough_for_a_slow_clock() -> None:
    assert timedelta(minutes=10) <= certificates.EARLIER
