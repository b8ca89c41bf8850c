"""A static web server for a page folder, for this machine only."""

import http.server
from functools import partial
from pathlib import Path

from edgecmd.core.errors import ExportError
from export.web.page import INDEX

HOST = "127.0.0.1"
TYPES = {
    "": "application/octet-stream",
    ".css": "text/css; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".mjs": "text/javascript; charset=utf-8",
    ".txt": "text/plain; charset=utf-8",
    ".wasm": "application/wasm",
    ".webp": "image/webp",
}


class _Handler(http.server.SimpleHTTPRequestHandler):
    """Files with the types that browsers insist on; no list of a folder, no log."""

    extensions_map = TYPES

    def end_headers(self) -> None:
        """Add that the type is meant, and that a page built again is loaded again."""
        self.send_header("X-Content-Type-Options", "nosniff")
        self.send_header("Cache-Control", "no-cache")
        super().end_headers()

    def list_directory(self, path: object) -> None:  # noqa: ARG002 - the name of the base class
        """Refuse: only named files are served."""
        self.send_error(404, "File not found")

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the name of the base class
        """Say nothing."""


def make_server(folder: Path, *, port: int = 0) -> http.server.ThreadingHTTPServer:
    """Server of ``folder`` on the loopback address; ``serve_forever()`` runs it.

    Args:
        folder: What ``build_web`` with mode ``folder`` wrote.
        port: 0 for any that is free.

    Raises:
        ExportError: There is no page in ``folder``, or the port is taken.
    """
    if not (folder / INDEX).is_file():
        raise ExportError(
            f"{folder} has no {INDEX}. Make the folder with `edgecmd web build RUN --mode folder`."
        )
    try:
        return http.server.ThreadingHTTPServer((HOST, port), partial(_Handler, directory=str(folder)))
    except OSError as error:
        raise ExportError(
            f"port={port} cannot be used ({error.strerror or error}). Choose another with --port."
        ) from error
