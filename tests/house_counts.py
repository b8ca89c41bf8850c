"""Counts of the house: sizes, rooms, who sees what. `python -m tests.house_counts` prints them.

`tests/test_house_style.py` holds them to their limits. Code is read as text and never imported.
"""

import ast
import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parent.parent
PACKAGES = ("edgecmd", "clients", "server", "export")
CACHES = ("lru_cache", "cache")
PROCESSES = ("ProcessPoolExecutor", "Popen", "fork", "get_context")


def modules() -> list[Path]:
    """All modules of the four packages."""
    return sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))


@cache
def tree(path: Path) -> ast.Module:
    """A module, parsed."""
    return ast.parse(path.read_text(encoding="utf-8"))


def name_of(path: Path) -> str:
    """Path below the root, such as ``edgecmd/run.py``."""
    return path.relative_to(ROOT).as_posix()


def num_lines(package: str = "") -> int:
    """Lines of a package; without a name of all four."""
    return _lines(path for path in modules() if name_of(path).startswith(f"{package}/" if package else ""))


def num_test_lines() -> int:
    """Lines of the tests and of what they share."""
    return _lines((ROOT / "tests").rglob("*.py"))


def _lines(paths: Iterable[Path]) -> int:
    return sum(len(path.read_text(encoding="utf-8").splitlines()) for path in paths)


def folder_sizes() -> dict[str, int]:
    """Modules of each folder, the widest first; ``__init__`` counts."""
    sizes: dict[str, int] = defaultdict(int)
    for path in modules():
        sizes[name_of(path.parent)] += 1
    return dict(sorted(sizes.items(), key=lambda item: (-item[1], item[0])))


def functions(path: Path) -> Iterator[ast.FunctionDef]:
    """All functions of a module, nested ones and methods too."""
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.FunctionDef):
            yield node


def mentions(node: ast.AST | None, *words: str) -> bool:
    """Whether code has one of ``words`` as a name, or as a type in quotes."""
    names = (
        getattr(one, "id", None) or getattr(one, "attr", None) or getattr(one, "value", None)
        for one in (ast.walk(node) if node is not None else ())
        if isinstance(one, ast.Name | ast.Attribute | ast.Constant)
    )
    return any(part in words for one in names if isinstance(one, str) for part in one.split(" | "))


def takers(kind: str) -> dict[str, list[str]]:
    """Functions with a parameter of type ``kind``, and classes with such a field, by module."""
    found: dict[str, list[str]] = {}
    for path in modules():
        names = [one.name for one in functions(path) if any(mentions(a.annotation, kind) for a in _all(one))]
        for node in ast.walk(tree(path)):
            if isinstance(node, ast.ClassDef):
                fields = [one for one in node.body if isinstance(one, ast.AnnAssign)]
                names += [node.name] if any(mentions(one.annotation, kind) for one in fields) else []
        if names:
            found[name_of(path)] = names
    return found


def _all(function: ast.FunctionDef) -> list[ast.arg]:
    given = function.args
    more = [one for one in (given.vararg, given.kwarg) if one is not None]
    return [*given.posonlyargs, *given.args, *given.kwonlyargs, *more]


@cache
def imports(path: Path) -> set[str]:
    """Dotted names that a module imports, inside functions and for types too; of a name both forms."""
    found: set[str] = set()
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            found |= {one.name for one in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{one.name}" for one in node.names)}
    return found


def importers(*names: str) -> set[str]:
    """Modules that import one of ``names``, or something in it."""
    return {
        name_of(path)
        for path in modules()
        for one in imports(path)
        if any(one == name or one.startswith(f"{name}.") for name in names)
    }


def process_makers() -> set[str]:
    """Modules that can start a process."""
    by_name = {name_of(path) for path in modules() if mentions(tree(path), *PROCESSES)}
    return by_name | importers("multiprocessing", "subprocess")


def cached() -> set[str]:
    """Functions that remember what they gave for an argument, as ``path:name``."""
    return {
        f"{name_of(path)}:{function.name}"
        for path in modules()
        for function in functions(path)
        if any(mentions(one, *CACHES) for one in function.decorator_list)
    }


def same_names() -> dict[str, list[str]]:
    """Folders of each name that more than one module has."""
    found: dict[str, list[str]] = defaultdict(list)
    for path in modules():
        if not path.name.startswith("__"):
            found[path.name].append(name_of(path.parent))
    return {name: where for name, where in sorted(found.items()) if len(where) > 1}


def _room(dotted: str) -> str:
    """The room that a module is in: a folder or module below ``edgecmd``, or one of the other packages."""
    parts = dotted.split(".")
    return ".".join(parts[:2]) if parts[0] == "edgecmd" and len(parts) > 1 else parts[0]


def mutual_imports() -> set[tuple[str, str]]:
    """Rooms that see each other, with the names that the front door (`edgecmd`) offers left out."""
    arrows = {
        (_room(".".join(path.relative_to(ROOT).with_suffix("").parts)), _room(one))
        for path in modules()
        for one in imports(path)
        if one.split(".")[0] in PACKAGES and path.parent != ROOT / "edgecmd"
    }
    return {(one, other) for one, other in arrows if one < other and (other, one) in arrows}


def report() -> str:
    """The counts, a line each."""
    sizes, seen = folder_sizes(), takers("RunConfig")
    widest = next(iter(sizes))
    parts = ", ".join(f"{one} {num_lines(one):,}" for one in PACKAGES)
    lines = [
        f"lines: {num_lines():,} ({parts})",
        f"lines of tests: {num_test_lines():,}, {num_test_lines() / num_lines():.2f} of these",
        f"modules: {len(modules())}",
        f"widest folder: {widest} with {sizes[widest]} modules",
        f"takers of RunConfig: {sum(map(len, seen.values()))} in {len(seen)} modules",
        *(f"  {name}: {', '.join(names)}" for name, names in seen.items()),
        f"functions that remember: {', '.join(sorted(cached()))}",
        f"modules that import fcntl: {', '.join(sorted(importers('fcntl'))) or 'none'}",
        f"modules that make processes: {', '.join(sorted(process_makers()))}",
        f"names that occur twice: {len(same_names())}",
        *(f"  {name}: {', '.join(where)}" for name, where in same_names().items()),
        f"rooms that see each other: {sorted(mutual_imports()) or 'none'}",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.stdout.write(report() + "\n")
