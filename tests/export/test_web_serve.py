"""The little server of a page folder."""

import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from edgecmd.core.errors import ExportError
from export.web.serve import make_server


@pytest.fixture
def address(tmp_path: Path) -> Iterator[str]:
    for name in ("index.html", "runtime.mjs", "runtime.wasm", "student.onnx"):
        (tmp_path / name).write_bytes(b"x")
    (tmp_path / "sub").mkdir()
    with make_server(tmp_path) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/", "text/html; charset=utf-8"),
        ("/runtime.mjs", "text/javascript; charset=utf-8"),
        ("/runtime.wasm", "application/wasm"),
        ("/student.onnx", "application/octet-stream"),
    ],
)
def test_types_are_those_that_browsers_insist_on(address: str, path: str, kind: str) -> None:
    with urllib.request.urlopen(address + path) as answer:
        assert answer.headers["Content-Type"] == kind
        assert answer.headers["X-Content-Type-Options"] == "nosniff"


@pytest.mark.parametrize("path", ["/sub/", "/absent", "/../../etc/passwd"])
def test_nothing_else_is_served(address: str, path: str) -> None:
    with pytest.raises(urllib.error.HTTPError) as caught:
        urllib.request.urlopen(address + path)
    assert caught.value.code == 404
    caught.value.close()


def test_a_folder_without_a_page_and_a_taken_port_are_refused(address: str, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"no index\.html"):
        make_server(tmp_path / "sub")
    port = int(address.rsplit(":", 1)[1])
    with pytest.raises(ExportError, match=rf"port={port} cannot be used"):
        make_server(tmp_path, port=port)
