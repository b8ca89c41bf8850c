"""Runs one file with WebGPU in a headless Chromium; started by `export.engines.engine_check` on its own.

The job and what comes out are those of `engine_worker`, with ``browser`` (the program) beside. A server on
this machine alone hands the page what it asks for, and takes its answer.
"""

import json
import subprocess
import sys
import tempfile
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

HOST = "127.0.0.1"
PAGE = """<!doctype html><meta charset="utf-8"><script type="module">
const get = async (path) => await fetch(path);
const read = async (path) => new Uint8Array(await (await get(path)).arrayBuffer());
let result;
try {
  if (!(await navigator.gpu?.requestAdapter())) throw new Error("this browser has no WebGPU");
  const ort = await import("/ort/ort.webgpu.bundle.min.mjs"), worker = await import("/worker.mjs");
  ort.env.wasm.wasmPaths = "/ort/";
  result = await worker.runCases(ort, await (await fetch("/job")).json(), ["webgpu"], read);
} catch (error) { result = { error: String(error && error.message ? error.message : error) }; }
await fetch("/result", { method: "POST", body: JSON.stringify(result) });
</script>"""
TYPES = {".mjs": "text/javascript", ".wasm": "application/wasm"}
# Without a graphics card, Chromium computes WebGPU on the processor.
FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
    "--enable-unsafe-webgpu",
    "--use-webgpu-adapter=swiftshader",
)


def served(job: dict[str, Any]) -> dict[str, Any]:
    """What the page sees: its own files, the runtime's, the model and the cases by their number."""
    dist, here = Path(job["packages"]), Path(__file__).parent
    files: dict[str, Any] = {f"/ort/{path.name}": path for path in dist.iterdir() if path.suffix in TYPES}
    inputs = {f"/case/{place}": Path(one["file"]) for place, one in enumerate(job["cases"])}
    cases = [{**one, "file": f"/case/{place}"} for place, one in enumerate(job["cases"])]
    seen = {**job, "model": "/model", "cases": cases, "packages": "", "folder": "", "browser": ""}
    files |= {"/": PAGE.encode(), "/job": json.dumps(seen).encode(), "/model": Path(job["model"])}
    return files | inputs | {"/worker.mjs": here / "engine_worker.mjs"}


def answer(job: dict[str, Any]) -> dict[str, Any]:
    """Open the page, and wait for what it posts."""
    files, answers = served(job), list[dict[str, Any]]()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            found = files.get(self.path)
            data = found.read_bytes() if isinstance(found, Path) else found
            self.send_response(404 if data is None else 200)
            kind = TYPES.get(Path(self.path).suffix, "text/html" if self.path == "/" else "text/plain")
            self.send_header("Content-Type", kind)
            self.end_headers()
            self.wfile.write(data or b"")

        def do_POST(self) -> None:
            answers.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Nothing is logged."""

    spare = tempfile.TemporaryDirectory(prefix="edgecmd-browser-", ignore_cleanup_errors=True)
    with spare as profile, HTTPServer((HOST, 0), Handler) as server:
        url = f"http://{HOST}:{server.server_port}/"
        command = [job["browser"], *FLAGS, f"--user-data-dir={profile}", url]
        browser = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            server.timeout = 1.0
            while not answers and browser.poll() is None:
                server.handle_request()
        finally:
            browser.kill()
            browser.wait()
    return answers[0] if answers else {"error": "the browser ended without an answer"}


def main(argument: str) -> int:
    """Run the job; what the page could not do is told on standard error."""
    job = json.loads(argument)
    found = answer(job)
    if "error" in found:
        sys.stderr.write(found["error"])
        return 1
    (Path(job["folder"]) / "result.json").write_text(json.dumps(found), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
