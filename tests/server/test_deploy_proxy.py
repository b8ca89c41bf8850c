"""The proxy of a server's kit, in a real nginx: what reaches the SuperLink, and what does not."""

import http.server
import shutil
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from server.deploy.description import example_deployment
from server.deploy.kits import make_kits
from tests.flower_processes import free_port

NGINX = shutil.which("nginx", path="/usr/sbin:/usr/local/sbin:/usr/bin:/usr/local/bin")
pytestmark = pytest.mark.skipif(NGINX is None, reason="nginx is not installed")
AROUND = """\
daemon off; pid {folder}/pid; error_log {folder}/log; events {{}}
http {{
  access_log off; client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy;
  fastcgi_temp_path {folder}/f; uwsgi_temp_path {folder}/u; scgi_temp_path {folder}/s;
  {kit}
}}
"""


class Link(http.server.BaseHTTPRequestHandler):
    """Takes everything."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()

    do_POST = do_GET

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def proxy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[int, Path]]:
    """Port of a proxy before a server that takes everything, and its kits."""
    folder = tmp_path_factory.mktemp("proxy")
    port, kits = free_port(), folder / "kits"
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Link)
    make_kits(replace(example_deployment(), port=port), kits, link_port=server.server_port)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(kits / "server/server.pem", kits / "server/server.key")
    server.socket = context.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    text = (kits / "server/nginx.conf").read_text().replace("/opt/edgecmd/kit", str(kits / "server"))
    (folder / "nginx.conf").write_text(AROUND.format(folder=folder, kit=text))
    assert NGINX is not None
    process = subprocess.Popen([NGINX, "-c", str(folder / "nginx.conf"), "-e", str(folder / "log")])
    try:
        yield port, kits
    finally:
        process.terminate()
        process.wait(20)
        server.shutdown()
        server.server_close()


def status(port: int, kits: Path, path: str, method: str = "POST") -> int:
    """Answer to a request whose path is sent as it stands here."""
    context = ssl.create_default_context(cafile=str(kits / "sites/north/ca.crt"))
    end = time.monotonic() + 600
    while True:
        try:
            with (
                socket.create_connection(("127.0.0.1", port), timeout=20) as plain,
                context.wrap_socket(plain, server_hostname="localhost") as one,
            ):
                one.sendall(f"{method} {path} HTTP/1.0\r\nContent-Length: 0\r\n\r\n".encode())
                return int(one.recv(200).split()[1])
        except ConnectionRefusedError:
            assert time.monotonic() < end, "nginx did not start"
            time.sleep(0.05)


@pytest.mark.parametrize("path", ["/v1/fleet/pull-messages", "/v1/fleet/activate-node"])
def test_what_nodes_send_reaches_the_superlink(proxy: tuple[int, Path], path: str) -> None:
    assert status(*proxy, path) == 200


def test_its_health_can_be_asked(proxy: tuple[int, Path]) -> None:
    assert status(*proxy, "/health", "GET") == 200


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/v1/control/start-run",
        "/v1/runtime/pull-task-input",
        "/healthx",
        "/health/../v1/control/start-run",
        "/v1/fleet",
        "/v1/fleet/../control/start-run",
        "/v1/fleet/%2e%2e/control/start-run",
        # Clean once nginx has looked at it, but sent on as it is.
        "/v1/control/../fleet/pull-messages",
        "/v1/control/start-run%3f/../../fleet/pull-messages",
        "/v1/control/start-run?/../../../v1/fleet/x",
        "/v1/control/start-run;/../../fleet/x",
        "//v1/control/start-run",
        "/v1//fleet/pull-messages",
        "/V1/FLEET/pull-messages",
    ],
)
def test_nothing_else_does(proxy: tuple[int, Path], path: str) -> None:
    assert status(*proxy, path) in (400, 403)
