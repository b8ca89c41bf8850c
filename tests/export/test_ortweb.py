"""Where the runtime may come from, and that only the pinned one is taken."""

import base64
import hashlib
import io
import os
import tarfile
from dataclasses import replace
from pathlib import Path

import pytest

from edgecmd.core.errors import DataError, ExportError
from export.web import ortweb
from export.web.ortweb import (
    LICENSE,
    PACKAGE,
    SCRIPT,
    WASM,
    WEBGPU_SCRIPT,
    WEBGPU_WASM,
    fetch_ort_web,
    find_ort_web,
)

CONTENT = {SCRIPT: b"export {};", WASM: b"\0asm"}
WEBGPU = {WEBGPU_SCRIPT: b"export { gpu };", WEBGPU_WASM: b"\0asm gpu"}


def tarball(content: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name, data in {**content, "other.js": b"1"}.items():
            entry = tarfile.TarInfo(f"package/dist/{name}")
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
    return buffer.getvalue()


@pytest.fixture
def pinned(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> bytes:
    """A made-up package in place of the real one; nothing of this machine is found."""
    data = tarball({**CONTENT, **WEBGPU})
    sha512 = base64.b64encode(hashlib.sha512(data).digest()).decode()
    monkeypatch.setattr(ortweb, "PACKAGE", replace(PACKAGE, digest=sha512))
    for table, content in (("SHA256", CONTENT), ("WEBGPU_SHA256", WEBGPU)):
        digests = {name: hashlib.sha256(one).hexdigest() for name, one in content.items()}
        monkeypatch.setattr(ortweb, table, digests)
    monkeypatch.setenv("EDGECMD_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HOME", str(tmp_path))
    for variable in (ortweb.VARIABLE, "npm_config_registry", "NPM_CONFIG_REGISTRY"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.chdir(tmp_path)
    return data


def put(folder: Path, content: dict[str, bytes] = CONTENT) -> Path:
    folder.mkdir(parents=True)
    for name, data in content.items():
        (folder / name).write_bytes(data)
    return folder


def test_the_pinned_checksum_is_that_of_the_registry() -> None:
    assert len(base64.b64decode(PACKAGE.digest)) == 64
    assert PACKAGE.version == "1.30.0"


def test_every_place_is_looked_at_in_order(
    pinned: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ExportError, match="edgecmd web fetch"):
        find_ort_web()
    put(ortweb.cached_folder())
    assert find_ort_web().wasm == CONTENT[WASM]
    # A nearer place is asked first, so a wrong file there is not passed over.
    put(tmp_path / "node_modules" / "onnxruntime-web" / "dist", {SCRIPT: b"other", WASM: b"other"})
    with pytest.raises(ExportError, match=r"node_modules.*sha256=.*allowed is"):
        find_ort_web()
    monkeypatch.setenv(ortweb.VARIABLE, str(put(tmp_path / "named")))
    assert find_ort_web().script == CONTENT[SCRIPT]
    with pytest.raises(ExportError, match="absent"):
        find_ort_web(tmp_path / "absent")


def test_a_tarball_that_is_at_hand_is_unpacked_with_its_licence(pinned: bytes, tmp_path: Path) -> None:
    (tmp_path / PACKAGE.file).write_bytes(pinned)
    folder = fetch_ort_web(npm_dir=tmp_path)
    assert {path.name for path in folder.iterdir()} == {SCRIPT, WASM, LICENSE}
    assert "Copyright (c) Microsoft Corporation" in (folder / LICENSE).read_text()
    assert find_ort_web().wasm == CONTENT[WASM]


def test_webgpu_is_a_pair_of_its_own_that_is_kept_when_it_is_asked_for(pinned: bytes, tmp_path: Path) -> None:
    (tmp_path / PACKAGE.file).write_bytes(pinned)
    fetch_ort_web(npm_dir=tmp_path)
    with pytest.raises(ExportError, match=r"asyncify.*edgecmd web fetch --webgpu"):
        find_ort_web(webgpu=True)
    folder = fetch_ort_web(npm_dir=tmp_path, webgpu=True)
    assert {path.name for path in folder.iterdir()} == {*CONTENT, *WEBGPU, LICENSE}
    found = find_ort_web(webgpu=True)
    assert (found.script, found.wasm, found.webgpu) == (*WEBGPU.values(), True)
    assert find_ort_web().webgpu is False
    (folder / WEBGPU_WASM).write_bytes(b"other")
    with pytest.raises(ExportError, match="sha256="):
        find_ort_web(webgpu=True)


def test_a_wrong_checksum_is_refused_and_nothing_is_written(pinned: bytes, tmp_path: Path) -> None:
    (tmp_path / PACKAGE.file).write_bytes(pinned[:-1] + b"?")
    with pytest.raises(DataError, match=r"has sha512=.*allowed is"):
        fetch_ort_web(tmp_path / "out", npm_dir=tmp_path)
    assert not (tmp_path / "out").exists()


def fake_npm(folder: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    """An npm that stands first in PATH."""
    folder.mkdir()
    (folder / "npm").write_text(f"#!/bin/sh\n{script}\n")
    (folder / "npm").chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")


def test_npm_fetches_it_and_asks_the_registry_that_it_is_configured_for(
    pinned: bytes, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "there.tgz").write_bytes(pinned)
    monkeypatch.setenv("npm_config_registry", "of-the-owner")
    log = tmp_path / "log"
    script = f"""echo "$npm_config_registry $@" > {log}
while [ "$1" != --pack-destination ]; do shift; done
cp {tmp_path / "there.tgz"} "$2/{PACKAGE.file}\""""
    fake_npm(tmp_path / "bin", monkeypatch, script)
    folder = fetch_ort_web(tmp_path / "out")
    assert (folder / WASM).read_bytes() == CONTENT[WASM]
    words = log.read_text().split()
    assert words[:3] == ["of-the-owner", "pack", f"onnxruntime-web@{PACKAGE.version}"]
    assert not [word for word in words[3:] if "registry" in word]


def test_without_npm_the_way_out_is_a_folder_with_the_tarball(
    pinned: bytes, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(DataError, match=rf"npm is not installed.*{PACKAGE.file}.*--npm-dir"):
        fetch_ort_web(tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_an_npm_that_does_not_deliver_is_quoted(
    pinned: bytes, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    fake_npm(tmp_path / "bin", monkeypatch, "echo 404 Not Found >&2; exit 1")
    with pytest.raises(DataError, match=r"npm pack onnxruntime-web@.*404 Not Found.*--npm-dir"):
        fetch_ort_web(tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_folder_that_cannot_be_made_is_named(pinned: bytes, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ExportError, match=r"file/below cannot be used: Not a directory.*--npm-dir"):
        fetch_ort_web(tmp_path / "out", npm_dir=tmp_path / "file" / "below")
