"""Sizes that keep the code readable, checked instead of promised."""

import ast
import statistics
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parent.parent
PACKAGES = ("edgecmd", "clients", "server", "export")


def modules() -> list[Path]:
    return sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))


def functions(path: Path) -> Iterator[ast.FunctionDef]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef):
            yield node


def body_lines(function: ast.FunctionDef) -> int:
    """Lines of a function without its docstring and signature."""
    body = function.body[1:] if ast.get_docstring(function) is not None else function.body
    return (function.end_lineno or 0) - body[0].lineno + 1 if body else 0


def test_no_module_is_long() -> None:
    lengths = {
        str(path.relative_to(ROOT)): len(path.read_text(encoding="utf-8").splitlines()) for path in modules()
    }
    assert {name: length for name, length in lengths.items() if length > 600} == {}
    assert statistics.median(length for length in lengths.values() if length > 3) <= 150


def test_no_function_is_long() -> None:
    lengths = {
        f"{path.relative_to(ROOT)}:{function.name}": body_lines(function)
        for path in modules()
        for function in functions(path)
    }
    assert {name: length for name, length in lengths.items() if length > 60} == {}
    assert statistics.median(lengths.values()) <= 12


def test_every_module_and_public_function_has_a_docstring() -> None:
    missing = [
        f"{path.relative_to(ROOT)}:{function.name}"
        for path in modules()
        for function in functions(path)
        if not function.name.startswith("_")
        and ast.get_docstring(function) is None
        and not _is_nested(path, function)
    ]
    missing += [
        str(p) for p in modules() if ast.get_docstring(ast.parse(p.read_text(encoding="utf-8"))) is None
    ]
    assert missing == []


def _is_nested(path: Path, function: ast.FunctionDef) -> bool:
    parents = [node for node in functions(path) if node is not function]
    return any(
        parent.lineno < function.lineno and function.end_lineno <= parent.end_lineno for parent in parents
    )


def test_folders_are_at_most_three_deep() -> None:
    deep = [path for path in modules() if len(path.relative_to(ROOT).parts) > 5]
    assert deep == []


def test_nobody_seeds_a_global_generator() -> None:
    forbidden = ("torch.manual_seed(", "np.random.seed(", "random.seed(")
    found = [
        f"{path.relative_to(ROOT)}: {word}"
        for path in modules()
        for word in forbidden
        for line in path.read_text(encoding="utf-8").splitlines()
        if word in line and ".Generator()" not in line
    ]
    assert found == []
