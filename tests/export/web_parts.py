"""Made-up pictures to find, a stand-in for the runtime, and the real one where it is to be had."""

import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from edgecmd.core.seeding import numpy_generator
from edgecmd.evaluation.metrics import unit_rows
from export.web.gallery import Gallery
from export.web.ortweb import PACKAGE, SHA256, VARIABLE, OrtWeb, fetch_ort_web

FAKE = OrtWeb(script=b"export const fake = 1;", wasm=b"\0asm" + bytes(range(256)))
HOSTILE = '</script><script>alert("1")</script>&amp;\u2028'
NPM_S = 25
REAL_CACHE = Path.home() / ".cache" / "edgecmd" / f"onnxruntime-web-{PACKAGE.version}"


def make_gallery(num: int = 20, *, dim: int = 16, side: int = 32, names: tuple[str, ...] = ()) -> Gallery:
    generator = numpy_generator(0, "test-gallery")
    pictures = np.broadcast_to(
        generator.integers(0, 256, (num, 1, 1, 3), dtype=np.uint8), (num, side, side, 3)
    ).copy()
    return Gallery(
        names=names or tuple(f"thing {row // 2}" for row in range(num)),
        pictures=pictures,
        embedding=unit_rows(generator.normal(size=(num, dim)).astype(np.float32)),
        credit="Pictures: nobody <&>.",
        notice="Notice of nobody.",
        examples=generator.integers(0, 256, (3, side, side, 1), dtype=np.uint8),
        example_names=("one", "two", "three"),
    )


def real_runtime(folder: Path) -> Path:
    """Folder with onnxruntime-web: on this machine, else fetched with npm into ``folder``, else a skip."""
    named = [Path(os.environ[VARIABLE])] if os.environ.get(VARIABLE) else []
    for place in (*named, Path("node_modules/onnxruntime-web"), REAL_CACHE):
        for candidate in (place, place / "dist"):
            if all((candidate / name).is_file() for name in SHA256):
                return candidate.resolve()
    npm = shutil.which("npm")
    if npm is None:
        pytest.skip("onnxruntime-web is not on this machine, and there is no npm to fetch it with")
    command = [npm, "pack", f"{PACKAGE.name}@{PACKAGE.version}", "--silent", "--ignore-scripts"]
    try:
        subprocess.run(
            [*command, "--fetch-retries=0", "--pack-destination", str(folder)],
            check=True,
            capture_output=True,
            timeout=NPM_S,
        )
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired):
        pytest.skip("onnxruntime-web is not on this machine, and the npm registry is not to be reached")
    return fetch_ort_web(folder / "runtime", npm_dir=folder)
