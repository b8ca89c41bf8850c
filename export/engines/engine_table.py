"""The engines that a bundle is tried in: one row each, with how to find it here and how to install it.

None is needed to make or to use a bundle, and none is imported here: each runs in a process of its own.
"""

import os
import shutil
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path

from edgecmd.core.errors import ExportError
from export.web.ortweb import SCRIPT, VARIABLE, WASM, cached_folder

HERE = Path(__file__).parent
OLD_ONNXRUNTIME, CHROMIUM = "EDGECMD_OLD_ONNXRUNTIME", "EDGECMD_CHROMIUM"
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
WEBGPU_SCRIPT = "ort.webgpu.bundle.min.mjs"
WHOLE, CORE_FILE = "whole", "core"
REFERENCE = "onnxruntime"
# Made from the core by another program, and laid beside the bundle's folder.
LITERT_FILE = "student.core.tflite"


@dataclass(frozen=True, kw_only=True, slots=True)
class Found:
    """How an engine is started on this machine.

    Attributes:
        command: The program; the job comes behind, see `export.engines.engine_worker`.
        job: What of the job is the engine's own.
        model: The file that it takes in place of the bundle's, or None.
    """

    command: tuple[str, ...]
    job: Mapping[str, str] = field(default_factory=dict)
    model: Path | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Engine:
    """One engine.

    Attributes:
        title: What a person calls it.
        install: How to get it.
        find: How it is started for a bundle; None where it is not here.
        files: Of a bundle's files, which it is tried on.
    """

    title: str
    install: str
    find: Callable[[Path], Found | None]
    files: tuple[str, ...] = (WHOLE, CORE_FILE)


def python_engine(module: str, *, name: str) -> Callable[[Path], Found | None]:
    """An engine that is a package of this Python; ``name`` is its key of `engine_worker.LOADERS`."""

    def find(_: Path) -> Found | None:
        return _python({"engine": name}) if find_spec(module) is not None else None

    return find


def _python(job: Mapping[str, str], *, program: str = "engine_worker.py", model: Path | None = None) -> Found:
    return Found(command=(sys.executable, "-I", str(HERE / program)), job=job, model=model)


def _old_onnxruntime(_: Path) -> Found | None:
    folder = os.environ.get(OLD_ONNXRUNTIME, "")
    if not folder:
        return None
    if not (Path(folder) / "onnxruntime").is_dir():
        raise ExportError(
            f"{OLD_ONNXRUNTIME}={folder} has no onnxruntime in it. {ENGINES['oldest'].install}."
        )
    return _python({"engine": "onnxruntime", "packages": str(Path(folder).resolve())})


def _runtime_folder(*names: str) -> Path | None:
    """Folder of onnxruntime-web with these files: of the variable, of Node's modules, of edgecmd's cache."""
    named = [Path(os.environ[VARIABLE])] if os.environ.get(VARIABLE) else []
    for place in named or (Path("node_modules/onnxruntime-web"), cached_folder()):
        for candidate in (place, place / "dist"):
            if all((candidate / name).is_file() for name in names):
                return candidate.resolve()
    return None


def _node(_: Path) -> Found | None:
    node, folder = shutil.which("node"), _runtime_folder(SCRIPT, WASM)
    if node is None or folder is None:
        return None
    return Found(command=(node, str(HERE / "engine_worker.mjs")), job={"packages": str(folder)})


def _browser(_: Path) -> Found | None:
    named = os.environ.get(CHROMIUM)
    browser = next((path for name in ((named,) if named else BROWSERS) if (path := shutil.which(name))), None)
    folder = _runtime_folder(WEBGPU_SCRIPT)
    if browser is None or folder is None:
        return None
    return _python({"packages": str(folder), "browser": browser}, program="engine_browser.py")


def _litert(bundle: Path) -> Found | None:
    model = bundle.resolve().parent / LITERT_FILE
    if find_spec("ai_edge_litert") is None or not model.is_file():
        return None
    return _python({"engine": "litert"}, model=model)


ENGINES: dict[str, Engine] = {
    REFERENCE: Engine(
        title="ONNX Runtime",
        install="pip install onnxruntime",
        find=python_engine("onnxruntime", name="onnxruntime"),
    ),
    "oldest": Engine(
        title="ONNX Runtime, an old one",
        install="pip install --no-deps --target DIR onnxruntime==1.15.1 numpy==1.24.4 (up to Python 3.10 also"
        f" 1.14.1), and {OLD_ONNXRUNTIME}=DIR",
        find=_old_onnxruntime,
    ),
    "openvino": Engine(
        title="OpenVINO",
        install="pip install 'edgecmd[engines]'",
        find=python_engine("openvino", name="openvino"),
    ),
    "mnn": Engine(
        title="MNN", install="pip install 'edgecmd[engines]'", find=python_engine("MNN", name="mnn")
    ),
    "tract": Engine(
        title="tract", install="pip install 'edgecmd[engines]'", find=python_engine("tract", name="tract")
    ),
    "web": Engine(title="ONNX Runtime Web, WASM", install="edgecmd web fetch, and Node", find=_node),
    "webgpu": Engine(
        title="ONNX Runtime Web, WebGPU",
        install=f"npm install onnxruntime-web, {VARIABLE}=its folder, and Chromium (or {CHROMIUM}=PROGRAM)",
        find=_browser,
    ),
    "litert": Engine(
        title="LiteRT",
        install=f"pip install 'edgecmd[engines]', and convert the core to {LITERT_FILE} beside the bundle",
        find=_litert,
        files=(CORE_FILE,),
    ),
}
