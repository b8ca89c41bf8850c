"""The packages that come with `edgecmd`, and whether Python finds these and not others of the same names."""

import importlib.util
import sys
from pathlib import Path

from edgecmd.core.errors import MachineError

ROOMS = ("clients", "server", "export")


def strange_rooms() -> list[str]:
    """A sentence for each package of edgecmd that is missing or stands behind another of its name.

    Nothing is imported.
    """
    home = Path(__file__).resolve().parents[2]
    return [text for name in ROOMS if (text := _wrong(name, home / name))]


def require_own_rooms() -> None:
    """Refuse to work with code of others that only has the name.

    Raises:
        MachineError: With the path that was found, and the way out.
    """
    found = strange_rooms()
    if found:
        raise MachineError(" ".join(found))


def _wrong(name: str, own: Path) -> str:
    found = _found(name)
    if found is None:
        return f"The package {name!r}, which comes with edgecmd, is missing at {own}. Install edgecmd again."
    if found.resolve() == own:
        return ""
    return (
        f"Python finds another {name!r} at {found} in place of edgecmd's own at {own}. Rename it, take its"
        " folder off PYTHONPATH, or start edgecmd in another folder or an environment of its own."
    )


def _found(name: str) -> Path | None:
    """Folder of the package that an import would give, or the file of a module; None where there is none."""
    try:
        spec = importlib.util.find_spec(name)
    except ValueError:  # it is imported already, and does not say from where
        file = getattr(sys.modules.get(name), "__file__", None)
        return Path(file) if file else Path(name)
    if spec is None:
        return None
    if spec.submodule_search_locations:
        return Path(next(iter(spec.submodule_search_locations)))
    return Path(spec.origin or name)
