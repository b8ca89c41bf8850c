"""The formats of phones: one row each, with the file that it makes and what makes it.

Each file beside the ONNX ones holds the same student. It is written if it passes the gate of its profile
through the format's own runtime, and not otherwise.
"""

import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from edgecmd.core.errors import ConfigError, ExportError, choose
from export.device.properties import CORE
from export.trust.listing import MODEL, profile_file

ORT = "ort"


@dataclass(frozen=True, kw_only=True, slots=True)
class Format:
    """One format.

    Attributes:
        title: What a person calls it.
        suffix: Of its files; `export.trust.listing.FORMAT_FILE` knows it.
        begins: Bytes that a file of it has, with the place of the first.
        modules: What its converter needs; empty where ONNX Runtime alone makes it, of every profile. The
            others make it of the core.
        runtime: What its engine needs here.
        extra: Optional dependency of edgecmd that brings these.
        engine: What runs the file here, a key of `export.engines.engine_table.ENGINES`; empty for none.
    """

    title: str
    suffix: str
    begins: tuple[int, bytes]
    modules: tuple[str, ...] = ()
    runtime: tuple[str, ...] = ()
    extra: str = ""
    engine: str = ""

    @property
    def of_core(self) -> bool:
        """Whether it is made of the core alone."""
        return bool(self.modules)

    def file(self, model: str) -> str:
        """Its file beside a model's, such as ``student.core.ort``."""
        return model.removesuffix(".onnx") + self.suffix

    def files(self, models: Sequence[str]) -> list[str]:
        """Its files of a bundle with such models."""
        return [self.file(one) for one in models if not self.of_core or one == profile_file(CORE)]


FORMATS: dict[str, Format] = {
    ORT: Format(title="ONNX Runtime, .ort", suffix=".ort", begins=(4, b"ORTM"), engine="ort"),
    "litert": Format(
        title="LiteRT (TensorFlow Lite)",
        suffix=".tflite",
        begins=(4, b"TFL3"),
        modules=("litert_torch", "ai_edge_litert"),
        runtime=("ai_edge_litert",),
        extra="litert",
        engine="litert",
    ),
    "executorch": Format(
        title="ExecuTorch with XNNPACK",
        suffix=".pte",
        begins=(4, b"ET12"),
        modules=("executorch",),
        runtime=("executorch",),
        extra="executorch",
        engine="executorch",
    ),
    "coreml": Format(
        title="Core ML, ML Program",
        suffix=".mlpackage.zip",
        begins=(0, b"PK\x03\x04"),
        modules=("coremltools",),
        extra="coreml",
    ),
}


def choose_formats(names: str) -> tuple[str, ...]:
    """Formats of a list such as ``ort,litert``; none of an empty one.

    Raises:
        ConfigError: A name is unknown or twice.
    """
    chosen = tuple(name.strip() for name in names.split(",") if name.strip())
    for name in chosen:
        choose("export.formats", name, FORMATS)
    if len(set(chosen)) != len(chosen):
        raise ConfigError(f"export.formats={names!r} names a format twice; allowed is each once.")
    return chosen


def with_core(profiles: Sequence[str], formats: Sequence[str]) -> tuple[str, ...]:
    """The profiles, and the core behind them where a format is made of it."""
    needed = any(FORMATS[name].of_core for name in formats) and CORE not in profiles
    return (*profiles, CORE) if needed else tuple(profiles)


def format_of(file: str) -> str | None:
    """Format of a bundle's file by its name; None for another file."""
    return next((name for name, one in FORMATS.items() if file.endswith(one.suffix)), None)


def model_of(file: str) -> str:
    """The ONNX file that a format's file is made of, by its name."""
    name = format_of(file)
    return file if name is None else file.removesuffix(FORMATS[name].suffix) + Path(MODEL).suffix


def variable_of(name: str) -> str:
    """Environment variable that names the Python in which a format's packages are."""
    return f"EDGECMD_{name.upper()}_PYTHON"


def python_of(name: str) -> str:
    """The Python in which a format's packages are: this one, or that of the variable."""
    return os.environ.get(variable_of(name), "") or sys.executable


def _has(python: str, modules: tuple[str, ...]) -> bool:
    """Whether a Python has modules; only their places are looked up."""
    program = "import importlib.util as u, sys; sys.exit(not all(u.find_spec(m) for m in sys.argv[1:]))"
    try:
        done = subprocess.run(
            [python, "-I", "-c", program, *modules], capture_output=True, timeout=120, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.returncode == 0


def has_packages(name: str, *, runtime: bool = False) -> bool:
    """Whether the packages of a format's converter are installed, here or where its variable says.

    Args:
        name: A key of `FORMATS`.
        runtime: Ask for those of its engine alone.
    """
    modules = FORMATS[name].runtime if runtime else FORMATS[name].modules
    return not modules or _has(python_of(name), modules)


def refuse_missing(formats: Sequence[str]) -> None:
    """Refuse formats whose packages are not here, before anything is made.

    Raises:
        ExportError: The message says how to install them.
    """
    for name in formats:
        if not has_packages(name):
            row, variable = FORMATS[name], variable_of(name)
            named = f", which {variable} names," if os.environ.get(variable) else ""
            raise ExportError(
                f"export.formats has {name!r}, but {python_of(name)}{named} does not have"
                f" {' and '.join(row.modules)}. Install them: pip install 'edgecmd[{row.extra}]'. Or install"
                f" them in an environment of their own, and set {variable} to its Python."
            )
