"""The bundle's infer.py: the modules of this folder as one file that imports nothing of edgecmd."""

import ast
from importlib.resources import files

PACKAGE = "export.device"
# Comes first in a file; with it annotations may be newer than the device's Python.
FUTURE = "from __future__ import annotations"
# In this order: each module uses those before it. Training reads files and strings with the first two.
MODULES = (
    ("edgecmd.data.user_files", "decode.py"),
    ("edgecmd.data.modalities", "string_bytes.py"),
    (PACKAGE, "reading.py"),
    (PACKAGE, "sensors.py"),
    (PACKAGE, "properties.py"),
    (PACKAGE, "classes.py"),
    (PACKAGE, "saved_embeddings.py"),
    (PACKAGE, "own_classes.py"),
    (PACKAGE, "masks.py"),
    (PACKAGE, "runtime.py"),
    (PACKAGE, "student.py"),
    (PACKAGE, "intake.py"),
    (PACKAGE, "answers.py"),
    (PACKAGE, "printing.py"),
    (PACKAGE, "infer.py"),
)
OWN = (PACKAGE, "edgecmd.data.user_files.decode", "edgecmd.data.modalities.string_bytes")


def program() -> str:
    """Source of infer.py: the docstring of the last module, the imports of all, and their bodies in order.

    Guarantees:
        The same text in every process and folder.
    """
    sources = [files(room).joinpath(name).read_text(encoding="utf-8") for room, name in MODULES]
    imports = sorted({line for source in sources for line in _imports(source)})
    plain = [line for line in imports if line.startswith("import ")]
    named = [line for line in imports if line.startswith("from ") and line != FUTURE]
    lines = sources[-1].splitlines()
    docstring = "\n".join(lines[: ast.parse(sources[-1]).body[0].end_lineno])
    bodies = [_body(source) for source in sources]
    head = f"{docstring}\n\n{FUTURE}\n\n" + "\n".join([*plain, *named])
    return "\n\n\n".join([head, *bodies]) + "\n"


def _imports(source: str) -> list[str]:
    """Import statements at the top level, without those of the modules that are put together."""
    nodes = [node for node in ast.parse(source).body if isinstance(node, ast.Import | ast.ImportFrom)]
    return [ast.unparse(node) for node in nodes if not _is_own(node)]


def _is_own(node: ast.Import | ast.ImportFrom) -> bool:
    return isinstance(node, ast.ImportFrom) and (node.module or "").startswith(OWN)


def _body(source: str) -> str:
    """Everything below docstring and imports, which come first, with its comments."""
    head = [node for node in ast.parse(source).body if isinstance(node, ast.Import | ast.ImportFrom)]
    return "\n".join(source.splitlines()[head[-1].end_lineno :]).strip("\n")
