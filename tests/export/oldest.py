"""The oldest Python of this machine, with the oldest ONNX Runtime that pip finds for it."""

import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

OLDEST_PYTHON, OWN_PYTHON = (3, 8), sys.version_info[:2]
# The oldest first; the numpy beside each is the oldest that the wheels of that time go with.
RUNTIMES = ("1.14.0", "1.14.1", "1.15.1", "1.16.3", "1.17.3", "1.18.1", "1.20.1", "1.22.1")
NUMPY = {(3, 8): "1.21.6", (3, 9): "1.21.6", (3, 10): "1.21.6", (3, 11): "1.23.5", (3, 12): "1.26.4"}
PIP_S = 240


@dataclass(frozen=True)
class Oldest:
    """An interpreter, and the folder of the packages that it is given."""

    python: str
    version: tuple[int, ...]
    packages: Path
    runtime: str

    def run(self, *words: object) -> subprocess.CompletedProcess[str]:
        """Run a script; nothing of this environment is seen and nothing is written beside the script."""
        environment = {"PYTHONPATH": str(self.packages), "PATH": os.environ["PATH"], "OMP_NUM_THREADS": "1"}
        command = [self.python, "-s", "-B", *map(str, words)]
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


def interpreters() -> dict[tuple[int, ...], str]:
    """Interpreters by version, of PATH, of pyenv, and this one."""
    root = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))
    names = [shutil.which(f"python3.{minor}") for minor in range(OLDEST_PYTHON[1], OWN_PYTHON[1])]
    names += sorted(map(str, root.glob("versions/3.*/bin/python")))
    found = {OWN_PYTHON: sys.executable}
    for name in filter(None, names):
        done = subprocess.run(
            [name, "-c", "import sys; print(*sys.version_info[:2])"],
            capture_output=True,
            text=True,
            check=False,
        )
        words = done.stdout.split()
        if done.returncode == 0 and len(words) == 2:
            found.setdefault(tuple(map(int, words)), name)
    return {version: found[version] for version in sorted(found) if version >= OLDEST_PYTHON}


def prepare(python: str, version: tuple[int, ...], spare: Path) -> Oldest:
    """Install the oldest runtime for an interpreter, once for each virtual environment; skip where none is.

    Args:
        python: The interpreter.
        version: Its version.
        spare: Where packages go when this is no virtual environment.
    """
    home = Path(sys.prefix) if sys.prefix != sys.base_prefix and os.access(sys.prefix, os.W_OK) else spare
    tag = "".join(map(str, version))
    reasons = []
    for runtime in RUNTIMES:
        folder = home / f"oldest-cp{tag}-{runtime}"
        if not folder.is_dir():
            reason = _install(folder, version, runtime)
            if reason:
                reasons.append(reason)
                if re.search(r"connection|resolve|timed out|No module named pip", reason, re.IGNORECASE):
                    break
                continue
        return Oldest(python=python, version=version, packages=folder, runtime=runtime)
    pytest.skip(f"no old ONNX Runtime for Python {version} on this machine: {reasons[-1][-300:]}")


def _install(folder: Path, version: tuple[int, ...], runtime: str) -> str:
    """Empty where it worked, else what pip said; a folder is there whole or not at all."""
    partial = folder.with_name(f"{folder.name}.{os.getpid()}")
    numpy = NUMPY.get(version, "2.1.3")
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps"]
    command += ["--retries", "1", "--timeout", "15", "--only-binary=:all:", "--target", str(partial)]
    command += ["--python-version", ".".join(map(str, version)), "--implementation", "cp"]
    try:
        done = subprocess.run(
            [*command, f"onnxruntime=={runtime}", f"numpy=={numpy}"],
            capture_output=True,
            text=True,
            check=False,
            timeout=PIP_S,
        )
        if done.returncode != 0:
            return done.stderr.strip() or "pip failed"
        partial.rename(folder)
    except (subprocess.TimeoutExpired, OSError) as error:
        # Another run of the tests may have been faster.
        return "" if folder.is_dir() else f"timed out or not written: {error}"
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return ""
