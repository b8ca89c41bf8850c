"""onnxruntime-web, the runtime in the page: one pinned version, found locally or downloaded on request.

It is never part of edgecmd's own files. Two files are needed, and both are checked against pinned
checksums wherever they come from. With WebGPU it is another pair, which computes in WebAssembly too.
"""

import hashlib
import os
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

from edgecmd.core.errors import ExportError
from edgecmd.core.files import cache_folder, write_files_atomically
from edgecmd.core.machine import explain
from edgecmd.datasets.build.packages import fetch, npm, read_members

VERSION = "1.30.0"
VARIABLE = "EDGECMD_ORT_WEB"
# The entry with the WebAssembly back end alone; the package's default entry is twice as large.
SCRIPT, WASM, LICENSE = "ort.wasm.bundle.min.mjs", "ort-wasm-simd-threaded.wasm", "LICENSE.txt"
SHA256 = {
    SCRIPT: "11e64bd8ffe11bd1a2a2f0d6275fdfbbba7262f0b76b99b53d228a8a22ef3d90",
    WASM: "3398c10d07d229bd91b364548e130e0e51a8e5704b88c7c083ebbeb78842dee2",
}
WEBGPU_SCRIPT, WEBGPU_WASM = "ort.webgpu.bundle.min.mjs", "ort-wasm-simd-threaded.asyncify.wasm"
WEBGPU_SHA256 = {
    WEBGPU_SCRIPT: "0730816731ce2cdfb06f273da065d4a1c7091eb9d1756a83b2916c8a89d015e2",
    WEBGPU_WASM: "39f9f0894d478800487ed9f7dbe92618498db320cf55c8e3d89adff8dce658da",
}
PACKAGE = npm(
    "onnxruntime-web",
    VERSION,
    digest="q0y+JrrtukXSzsBWEMccVfqX25LRmosXHF+CaRJmg8pZClzcV7svNc4rKY3jL02Vb7QmRMDs1SigqR4CXAfKYQ==",
    members=tuple(f"dist/{name}" for name in SHA256),
)
# The npm package names its licence but does not contain it.
LICENSE_TEXT = f"""\
ONNX Runtime Web {VERSION}
https://github.com/microsoft/onnxruntime

MIT License

Copyright (c) Microsoft Corporation

Permission is hereby granted, free of charge, to any person obtaining a copy
of this software and associated documentation files (the "Software"), to deal
in the Software without restriction, including without limitation the rights
to use, copy, modify, merge, publish, distribute, sublicense, and/or sell
copies of the Software, and to permit persons to whom the Software is
furnished to do so, subject to the following conditions:

The above copyright notice and this permission notice shall be included in all
copies or substantial portions of the Software.

THE SOFTWARE IS PROVIDED "AS IS", WITHOUT WARRANTY OF ANY KIND, EXPRESS OR
IMPLIED, INCLUDING BUT NOT LIMITED TO THE WARRANTIES OF MERCHANTABILITY,
FITNESS FOR A PARTICULAR PURPOSE AND NONINFRINGEMENT. IN NO EVENT SHALL THE
AUTHORS OR COPYRIGHT HOLDERS BE LIABLE FOR ANY CLAIM, DAMAGES OR OTHER
LIABILITY, WHETHER IN AN ACTION OF CONTRACT, TORT OR OTHERWISE, ARISING FROM,
OUT OF OR IN CONNECTION WITH THE SOFTWARE OR THE USE OR OTHER DEALINGS IN THE
SOFTWARE.

ONNX Runtime contains the work of others under licences of their own, listed in
https://github.com/microsoft/onnxruntime/blob/v{VERSION}/ThirdPartyNotices.txt
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class OrtWeb:
    """The two files of the runtime, already checked.

    Attributes:
        script: JavaScript module.
        wasm: The WebAssembly binary that it runs.
        webgpu: Whether they compute with WebGPU too.
    """

    script: bytes
    wasm: bytes
    webgpu: bool = False


def files_of(*, webgpu: bool) -> dict[str, str]:
    """Names and SHA-256 of the two files that a page needs, the script first."""
    return WEBGPU_SHA256 if webgpu else SHA256


def find_ort_web(folder: Path | None = None, *, webgpu: bool = False) -> OrtWeb:
    """Read the runtime from this machine; nothing is fetched.

    Args:
        folder: Where to look: the package's folder, or its ``dist``. None: the folder that the environment
            variable ``EDGECMD_ORT_WEB`` names, else ``./node_modules/onnxruntime-web``, else edgecmd's cache.
        webgpu: Whether it is the pair of files that computes with WebGPU too.

    Raises:
        ExportError: It is in none of these places, or a file is not the pinned one.
    """
    names = files_of(webgpu=webgpu)
    named = folder or (Path(os.environ[VARIABLE]) if os.environ.get(VARIABLE) else None)
    places = [named] if named else [Path("node_modules/onnxruntime-web"), cached_folder()]
    for place in places:
        for candidate in (place, place / "dist"):
            if all((candidate / name).is_file() for name in names):
                return _read(candidate, webgpu=webgpu)
    raise ExportError(
        f"onnxruntime-web {VERSION} ({' and '.join(names)}) is not in {' or '.join(map(str, places))}."
        f" Download it with `edgecmd web fetch{' --webgpu' * webgpu}`, or give its folder with --ort-web or"
        f" the variable {VARIABLE}."
    )


def cached_folder() -> Path:
    """Folder of edgecmd's cache that `fetch_ort_web` fills."""
    return cache_folder() / f"onnxruntime-web-{VERSION}"


def _read(folder: Path, *, webgpu: bool) -> OrtWeb:
    try:
        content = {name: (folder / name).read_bytes() for name in files_of(webgpu=webgpu)}
    except OSError as error:
        raise ExportError(f"{folder} cannot be read: {error.strerror or error}.") from error
    for name, data in content.items():
        check(f"{folder / name}", data, name=name)
    script, wasm = content.values()
    return OrtWeb(script=script, wasm=wasm, webgpu=webgpu)


def check(label: str, data: bytes, *, name: str) -> None:
    """Refuse a file of the runtime that is not the pinned one.

    Args:
        label: What the message calls the file.
        data: Its content.
        name: A key of `SHA256` or `WEBGPU_SHA256`.

    Raises:
        ExportError: The SHA-256 differs.
    """
    found, allowed = hashlib.sha256(data).hexdigest(), {**SHA256, **WEBGPU_SHA256}[name]
    if found != allowed:
        raise ExportError(
            f"{label} has sha256={found}; allowed is {allowed}, onnxruntime-web {VERSION}. Download"
            " that version with `edgecmd web fetch`."
        )


def fetch_ort_web(folder: Path | None = None, *, npm_dir: Path | None = None, webgpu: bool = False) -> Path:
    """Fetch the runtime with ``npm pack``, check it, and put its files and licence into ``folder``.

    npm asks whatever registry it is configured for; edgecmd knows none.

    Args:
        folder: Where the files go; edgecmd's cache by default.
        npm_dir: Folder that holds the tarball already, or gets it.
        webgpu: Whether the two files that compute with WebGPU too are kept as well.

    Returns:
        The folder with the files and ``LICENSE.txt``.

    Guarantees:
        Nothing of a tarball that is not the pinned one is unpacked or written.

    Raises:
        DataError: npm is not installed or did not deliver, or the tarball is not the pinned one.
        ExportError: A file in it is not the pinned one.
        MachineError: ``folder`` cannot be written.
    """
    target = folder or cached_folder()
    names = [*SHA256, *(WEBGPU_SHA256 if webgpu else ())]
    package = replace(PACKAGE, members=tuple(f"dist/{name}" for name in names))
    with tempfile.TemporaryDirectory() as temporary:
        where = npm_dir or Path(temporary)
        try:
            where.mkdir(parents=True, exist_ok=True)
            members = read_members(package, fetch(package, where))
        except OSError as error:
            raise ExportError(
                f"{where} cannot be used: {error.strerror or error}. Give another folder with --npm-dir."
            ) from error
    content = {Path(member).name: data for member, data in members.items()}
    for name, data in content.items():
        check(f"{name} in {PACKAGE.file}", data, name=name)
    try:
        files = {LICENSE: LICENSE_TEXT.encode(), **content}
        write_files_atomically({target / name: data for name, data in files.items()})
    except OSError as error:
        raise explain(error, doing=f"{target} cannot be written") from error
    return target
