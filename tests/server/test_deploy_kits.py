"""Kits: who gets which secret, that TLS accepts one's own server alone, renewal, and the app that is sent."""

import http.server
import re
import runpy
import ssl
import stat
import tarfile
import threading
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import tomli_w
import yaml
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from flwr.common.config import parse_config_args

import edgecmd
from clients.check import check_node
from clients.node import read_node
from edgecmd.config.reader import read_flat, unflatten
from edgecmd.core.errors import ConfigError, FederationError
from edgecmd.datasets.sample import write_sample
from edgecmd.privacy.secure_sum.key_files import read_identity, read_pinned
from server.deploy import certificates, kits, texts
from server.deploy.app_bundle import PACKAGE, write_app
from server.deploy.description import example_deployment
from server.deploy.kits import make_kits, read_kit, renew_server, renew_site
from server.deploy.link import health
from tests.flower_table import PYPROJECT

PRIVATE = ("ca.key", "server.key", "node.key")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("federation") / "kits"
    make_kits(example_deployment(), made, as_tar=True)
    return made


class Well(http.server.BaseHTTPRequestHandler):
    """Says that it is well."""

    def do_GET(self) -> None:
        self.send_response(200 if self.path == "/health" else 404)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def served(kit: Path, host: str = "127.0.0.1") -> Iterator[int]:
    """A server on loopback with a kit's certificate."""
    server = http.server.HTTPServer((host, 0), Well)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(kit / "server.pem", kit / "server.key")
    server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_each_secret_is_where_it_belongs_and_nowhere_else(folder: Path) -> None:
    found = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.name in PRIVATE}
    expected = {"authority/ca.key", "server/server.key", "sites/north/node.key", "sites/south/node.key"}
    assert found == expected
    assert (folder / "sites/north/node.key").read_bytes() != (folder / "sites/south/node.key").read_bytes()


def test_nobody_else_reads_a_secret(folder: Path) -> None:
    for path in folder.rglob("*"):
        if path.name in PRIVATE or path.name.endswith(".tar.gz"):
            assert stat.S_IMODE(path.stat().st_mode) == 0o600, path
    assert stat.S_IMODE((folder / "server").stat().st_mode) == 0o700


def test_the_secrets_are_in_no_other_file(folder: Path) -> None:
    """Neither whole nor as text inside a script, a unit or a tar of somebody else."""
    keys = {path: path.read_bytes() for path in folder.rglob("*") if path.name in PRIVATE}
    for path in folder.rglob("*"):
        if path.is_file() and path not in keys and path.suffix != ".gz":
            for content in keys.values():
                assert content.splitlines()[1] not in path.read_bytes()


def test_a_tar_holds_the_kit_with_its_rights(folder: Path) -> None:
    with tarfile.open(folder / "sites/north.tar.gz") as archive:
        members = {one.name: one for one in archive.getmembers()}
        key = archive.extractfile("kit/node.key")
        assert key is not None
        assert key.read() == (folder / "sites/north/node.key").read_bytes()
    names = {str(path.relative_to(folder / "sites/north")) for path in (folder / "sites/north").iterdir()}
    assert {name.removeprefix("kit/") for name in members} == names
    assert members["kit/node.key"].mode & 0o777 == 0o600
    assert members["kit/start.sh"].mode & 0o777 == 0o755
    assert {(one.uid, one.gid, one.uname) for one in members.values()} == {(0, 0, "")}


def test_the_public_half_at_the_server_is_that_of_the_site(folder: Path) -> None:
    for site in ("north", "south"):
        private = serialization.load_ssh_private_key(
            (folder / f"sites/{site}/node.key").read_bytes(), password=None
        )
        public = serialization.load_ssh_public_key((folder / f"server/nodes/{site}.pub").read_bytes())
        assert private.public_key() == public


def test_a_site_reaches_its_own_server(folder: Path) -> None:
    with served(folder / "server") as port:
        for name in ("localhost", "127.0.0.1"):
            assert abs(health(f"{name}:{port}", folder / "sites/north/ca.crt")) < 60


def test_a_site_refuses_the_server_of_another_federation(folder: Path, tmp_path: Path) -> None:
    make_kits(example_deployment(), tmp_path / "other")
    with (
        served(tmp_path / "other/server") as port,
        pytest.raises(FederationError, match="certificate is refused"),
    ):
        health(f"localhost:{port}", folder / "sites/north/ca.crt")


def test_a_certificate_is_for_its_host_alone(folder: Path) -> None:
    """Another address of loopback, which the certificate does not have."""
    with (
        served(folder / "server", "127.0.0.2") as port,
        pytest.raises(FederationError, match="certificate is refused"),
    ):
        health(f"127.0.0.2:{port}", folder / "sites/north/ca.crt")


def test_a_site_refuses_an_expired_certificate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Earlier(datetime):
        @classmethod
        def now(cls, tz: object = None) -> datetime:  # type: ignore[override]
            return datetime(2020, 1, 1, tzinfo=UTC)

    monkeypatch.setattr(certificates, "datetime", Earlier)
    make_kits(example_deployment(), tmp_path / "kits")
    with served(tmp_path / "kits/server") as port, pytest.raises(FederationError, match="expired"):
        health(f"localhost:{port}", tmp_path / "kits/sites/north/ca.crt")


def test_nobody_listens(folder: Path) -> None:
    with served(folder / "server") as port:
        pass
    with pytest.raises(FederationError, match="nobody listens there"):
        health(f"localhost:{port}", folder / "server/ca.crt")


def test_a_renewed_server_is_accepted_with_the_old_ca(tmp_path: Path) -> None:
    made = tmp_path / "kits"
    make_kits(example_deployment(), made)
    before = (made / "server/server.pem").read_bytes()
    renew_server(made, days=30)
    after = (made / "server/server.pem").read_bytes()
    assert before != after
    end = x509.load_pem_x509_certificate(after).not_valid_after_utc
    assert abs(end - datetime.now(UTC) - timedelta(days=30)) < timedelta(minutes=5)
    with served(made / "server") as port:
        health(f"localhost:{port}", made / "sites/north/ca.crt")


def test_a_server_never_outlives_its_authority(tmp_path: Path) -> None:
    make_kits(example_deployment(), tmp_path / "kits")
    renew_server(tmp_path / "kits", days=3650)
    server, authority = (
        x509.load_pem_x509_certificate((tmp_path / "kits" / name).read_bytes()).not_valid_after_utc
        for name in ("server/server.pem", "authority/ca.crt")
    )
    assert server <= authority


def test_renewal_without_the_authority(tmp_path: Path) -> None:
    make_kits(example_deployment(), tmp_path / "kits")
    before = (tmp_path / "kits/server/server.key").read_bytes()
    (tmp_path / "kits/authority/ca.key").unlink()
    with pytest.raises(ConfigError, match="lacks ca.key"):
        renew_server(tmp_path / "kits", days=30)
    assert (tmp_path / "kits/server/server.key").read_bytes() == before


def test_another_authority_key_signs_nothing(tmp_path: Path) -> None:
    for name in ("one", "two"):
        make_kits(example_deployment(), tmp_path / name)
    (tmp_path / "one/authority/ca.key").write_bytes((tmp_path / "two/authority/ca.key").read_bytes())
    with pytest.raises(ConfigError, match="do not belong together"):
        renew_server(tmp_path / "one", days=30)


def test_a_site_gets_a_new_key(tmp_path: Path) -> None:
    made = tmp_path / "kits"
    make_kits(example_deployment(), made)
    before = (made / "server/nodes/north.pub").read_bytes()
    renew_site(made, "north")
    assert (made / "server/nodes/north.pub").read_bytes() != before
    assert stat.S_IMODE((made / "sites/north/node.key").stat().st_mode) == 0o600
    with pytest.raises(ConfigError, match="no site 'nord'.*Did you mean 'north'"):
        renew_site(made, "nord")
    with pytest.raises(ConfigError, match=r"no site '\.\./server'"):
        renew_site(made, "../server")
    assert not (made / "server/node.key").exists()


def test_sites_of_secure_sums_pin_the_keys_of_all_and_others_pin_none(folder: Path, tmp_path: Path) -> None:
    assert not list(folder.rglob("peers.pub"))
    plain = (folder / "sites/north/node.toml").read_text() + (folder / "sites/north/start.sh").read_text()
    assert "own-key" not in plain
    assert 'cd "$KIT"' not in plain
    example, made = example_deployment(), tmp_path / "kits"
    asked = {**example.settings, "privacy.aggregation": "secure-sum"}
    make_kits(replace(example, settings=asked), made)
    for turn in range(2):
        names = set()
        for site in ("north", "south"):
            kit = made / "sites" / site
            node = read_node(tomllib.loads((kit / "node.toml").read_text()))
            assert node.own_key is not None
            assert node.peer_keys is not None
            identity, pinned = read_identity(kit / node.own_key), read_pinned(kit / node.peer_keys)
            assert identity.name in pinned.keys
            assert len(pinned.keys) == 2
            names.add(identity.name)
            # Relative names hold where the script starts the node.
            assert 'cd "$KIT"\nexec' in (kit / "start.sh").read_text()
        assert names == set(pinned.keys)
        if not turn:
            renew_site(made, "north")


def test_keys_that_are_in_use_are_not_overwritten(folder: Path) -> None:
    before = (folder / "authority/ca.key").read_bytes()
    with pytest.raises(ConfigError, match="exists"):
        make_kits(example_deployment(), folder)
    assert (folder / "authority/ca.key").read_bytes() == before


def test_nothing_is_left_where_a_kit_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> str:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(texts, "node_start", broken)
    with pytest.raises(OSError, match="No space"):
        make_kits(example_deployment(), tmp_path / "kits")
    assert list(tmp_path.iterdir()) == []


def test_a_node_config_is_read_by_flower_as_it_was_written(folder: Path) -> None:
    raw = parse_config_args([str(folder / "sites/north/node.toml")])
    assert raw == tomllib.loads((folder / "sites/north/node.toml").read_text())
    assert raw.items() >= example_deployment().sites[0].node.items()
    assert read_node(raw).budgets == {"max-epsilon": 4.0}


def test_a_unit_writes_to_a_folder_with_a_space(tmp_path: Path) -> None:
    assert 'ReadWritePaths=/opt/edgecmd/kit "/srv/my state"\n' in texts.unit("x", writes=("/srv/my state",))


def test_a_kit_tells_no_epsilon_unless_the_description_says_so(folder: Path, tmp_path: Path) -> None:
    text = (folder / "sites/north/node.toml").read_text()
    assert "\n# With true, the server is told" in text
    assert read_node(tomllib.loads(text)).tells_epsilon is False
    example = example_deployment()
    north, south = example.sites
    telling = replace(north, node={**north.node, "tell-epsilon": True})
    make_kits(replace(example, sites=(telling, south)), tmp_path / "kits")
    raw = parse_config_args([str(tmp_path / "kits/sites/north/node.toml")])
    assert read_node(raw).tells_epsilon is True


def test_what_a_kit_is(folder: Path, tmp_path: Path) -> None:
    assert read_kit(folder / "sites/south")["site"] == "south"
    assert read_kit(folder / "server")["sites"] == ["north", "south"]
    with pytest.raises(ConfigError, match="is no kit"):
        read_kit(tmp_path)


def test_services_read_and_write_what_they_need(folder: Path) -> None:
    compose = yaml.safe_load((folder / "sites/north/compose.yaml").read_text())
    volumes = compose["services"]["node"]["volumes"]
    assert volumes == ["./:/kit", "/srv/pairs:/srv/pairs:ro", "/srv/edgecmd/state:/srv/edgecmd/state"]
    unit = (folder / "sites/north/edgecmd-node.service").read_text()
    assert "ReadWritePaths=/opt/edgecmd/kit /srv/edgecmd/state\n" in unit
    assert int(re.findall(r"RestartSec=(\d+)", unit)[0]) >= 60
    assert re.search(r"proxy_pass https://127\.0\.0\.1:18001;", (folder / "server/nginx.conf").read_text())


def test_a_server_listens_on_loopback_alone(folder: Path) -> None:
    script = (folder / "server/start.sh").read_text()
    assert re.findall(r"--host (\S+)", script) == ["127.0.0.1"]
    assert "--insecure" not in script
    assert "--enable-supernode-auth" in script
    for name in ("server", "sites/north"):
        text = (folder / name / "start.sh").read_text()
        assert "FLWR_TELEMETRY_ENABLED=0" in text
        assert "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION=1" in text


def test_the_proxy_lets_two_paths_through(folder: Path) -> None:
    """The pattern itself, on paths of the SuperLink's three interfaces."""
    text = (folder / "server/nginx.conf").read_text()
    (pattern,) = re.findall(r"location ~ (\S+) \{", text)
    let = [
        path
        for path in (
            *("/v1/fleet/pull-messages", "/health", "/v1/control/start-run", "/v1/control/register-node"),
            *("/v1/runtime/push-task-output", "/health/x", "/healthy", "/", "/x/v1/fleet/y"),
        )
        if re.match(pattern, path)
    ]
    assert let == ["/v1/fleet/pull-messages", "/health"]
    assert "location / { return 403; }" in text


def test_the_app_holds_none_of_the_method(tmp_path: Path) -> None:
    write_app(tmp_path / "app")
    files = {
        str(path.relative_to(tmp_path / "app")) for path in (tmp_path / "app").rglob("*") if path.is_file()
    }
    assert files == {
        "pyproject.toml",
        *(f"{PACKAGE}/{name}.py" for name in ("__init__", "client_app", "server_app")),
    }
    assert sum(path.stat().st_size for path in (tmp_path / "app").rglob("*.py")) < 2000


def test_the_app_hands_over_to_what_is_installed(tmp_path: Path) -> None:
    from clients.app import app as client
    from server.app import app as server

    write_app(tmp_path / "app")
    for name, installed in (("client_app", client), ("server_app", server)):
        assert runpy.run_path(str(tmp_path / "app" / PACKAGE / f"{name}.py"))["app"] is installed


def test_the_app_refuses_another_version(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_app(tmp_path / "app")
    written = edgecmd.__version__
    monkeypatch.setattr(edgecmd, "__version__", "9.9.9")
    with pytest.raises(RuntimeError, match=rf"{re.escape(written)}, but 9\.9\.9 is installed"):
        runpy.run_path(str(tmp_path / "app" / PACKAGE / "client_app.py"))


def test_the_app_has_the_settings_of_the_checkout(tmp_path: Path) -> None:
    import tomllib

    write_app(tmp_path / "app")
    sent, own = (
        tomllib.loads(path.read_text())["tool"]["flwr"]["app"]["config"]
        for path in (tmp_path / "app/pyproject.toml", PYPROJECT)
    )
    assert sent == own


def test_a_run_config_is_read_by_flower_as_it_was_written(folder: Path) -> None:
    raw = parse_config_args([str(folder / "server/run.toml")])
    assert raw == dict(example_deployment().settings)
    assert (folder / "server/run.toml").read_text() == tomli_w.dumps(raw)
    assert read_kit(folder / "server")["link_port"] == kits.LINK_PORT


def test_a_kit_pins_what_comes_with_edgecmd(folder: Path, tmp_path: Path) -> None:
    """The digests that `edgecmd node` shows on the site, from its own files."""
    node = tomllib.loads((folder / "sites/north/node.toml").read_text())
    write_sample(tmp_path / "pairs", num=8)
    raw = {"data-dir": str(tmp_path / "pairs"), "state-dir": str(tmp_path / "state")}
    shown = check_node(raw, unflatten(read_flat(folder / "sites/north/run.toml"))).pins
    pins = ("teacher-sha256", "public-sha256", "edgecmd-version")
    assert {key: node[key] for key in pins} == {key: shown[key] for key in pins}


@pytest.mark.parametrize("own", [{"teacher": "/srv/teacher.safetensors"}, {"public-dir": "/srv/public"}])
def test_what_only_the_site_has_is_not_pinned(own: dict[str, str], tmp_path: Path) -> None:
    deployment = example_deployment()
    node = {**deployment.sites[0].node, **own, "edgecmd-version": "9.9"}
    sites = (replace(deployment.sites[0], node=node),)
    make_kits(replace(deployment, sites=sites), tmp_path / "kits")
    made = tomllib.loads((tmp_path / "kits/sites/north/node.toml").read_text())
    assert made == {"tell-epsilon": False, **node}
