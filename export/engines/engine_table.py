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
from export.device.properties import CORE
from export.formats.format_table import FORMATS, ORT, has_packages, python_of
from export.trust.listing import MODEL, profile_file
from export.web.ortweb import SCRIPT, VARIABLE, WASM, cached_folder

HERE = Path(__file__).parent
OLD_ONNXRUNTIME, CHROMIUM = "EDGECMD_OLD_ONNXRUNTIME", "EDGECMD_CHROMIUM"
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
WEBGPU_SCRIPT = "ort.webgpu.bundle.min.mjs"
WHOLE, CORE_FILE = "whole", "core"
REFERENCE = "onnxruntime"


@dataclass(frozen=True, kw_only=True, slots=True)
class Found:
    """How an engine is started on this machine.

    Attributes:
        command: The program; the job comes behind, see `export.engines.engine_worker`.
        job: What of the job is the engine's own.
        models: The files that it takes in place of the bundle's ONNX ones, `WHOLE` and `CORE_FILE`; without
            an entry it is not tried on that. Empty: it takes the bundle's.
    """

    command: tuple[str, ...]
    job: Mapping[str, str] = field(default_factory=dict)
    models: Mapping[str, Path] = field(default_factory=dict)

    def model_of(self, file: str, copy: Path) -> Path | None:
        """The file that it takes in place of ``file``; of what is in the bundle, that of our copy."""
        path = self.models.get(file)
        own = None if path is None else copy / path.name
        return own if own is not None and own.is_file() else path


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


def _python(
    job: Mapping[str, str],
    *,
    program: str = "engine_worker.py",
    python: str = sys.executable,
    models: Mapping[str, Path] | None = None,
) -> Found:
    return Found(command=(python, "-I", str(HERE / program)), job=job, models=models or {})


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


def _ort(bundle: Path) -> Found | None:
    """ONNX Runtime on the files of its own format."""
    names = {WHOLE: FORMATS[ORT].file(MODEL), CORE_FILE: FORMATS[ORT].file(profile_file(CORE))}
    models = {file: bundle / name for file, name in names.items() if (bundle / name).is_file()}
    return _python({"engine": "onnxruntime"}, models=models) if models else None


def _phone_engine(name: str, *, beside: bool = False) -> Callable[[Path], Found | None]:
    """An engine on the bundle's file of its format, else ``beside`` the bundle's folder."""

    def find(bundle: Path) -> Found | None:
        file = FORMATS[name].file(profile_file(CORE))
        places = [bundle / file, *([bundle.resolve().parent / file] if beside else [])]
        model = next((path for path in places if path.is_file()), None)
        if model is None or not has_packages(name, runtime=True):
            return None
        return _python({"engine": name}, python=python_of(name), models={CORE_FILE: model})

    return find


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
        install="pip install 'edgecmd[engines]', and edgecmd export --formats litert (or another converter's"
        " student.core.tflite beside the bundle)",
        find=_phone_engine("litert", beside=True),
        files=(CORE_FILE,),
    ),
    "executorch": Engine(
        title="ExecuTorch, XNNPACK",
        install="pip install 'edgecmd[executorch]', and edgecmd export --formats executorch",
        find=_phone_engine("executorch"),
        files=(CORE_FILE,),
    ),
    "ort": Engine(
        title="ONNX Runtime, .ort",
        install="edgecmd export --formats ort",
        find=_ort,
    ),
}
