"""Settings that name something to read: which of them a device obeys (none), and where a server sets its own.

A run config travels to every node. What a server reads from its own disk is therefore in a file of
that machine, which `over_run_config` lays over the run config there and nowhere else.
"""

from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path

from edgecmd.catalogue.teacher_rows import teacher_files
from edgecmd.config.reader import read_flat
from edgecmd.core.errors import ConfigError, nearest
from edgecmd.settings import TeacherConfig

VARIABLE = "EDGECMD_SERVER_CONFIG"

# Of how a dense student's teacher looks at places; all else in the section says which teacher it is.
_TEACHER_NUMBERS = frozenset({"teacher.map_dim", "teacher.map_zoom"})
_TEACHER = frozenset(f"teacher.{one.name}" for one in fields(TeacherConfig)) - _TEACHER_NUMBERS
FILE_SETTINGS = frozenset({"data.path", "data.source_path", "data.public_path"}) | _TEACHER
"""What a client would read something by; on a device with pairs of its own its owner alone sets that."""

CODE_SETTINGS = frozenset({"distill.loss"})
"""What may be ``module:factory``; a device with pairs of its own imports what its owner allows."""

NODE_CODE_SETTINGS = CODE_SETTINGS | {
    "data.name",
    "federation.partition",
    "student.architecture",
    "teacher.name",
}
"""The same of a node without pairs of its own, which also makes data, partition, teacher and student."""

_SERVER_PATHS = frozenset(
    {"out", "student.path", "student.weights", "privacy.ledger_dir", "export.prototypes"}
)
_SERVER_SETS = frozenset(
    {
        "data.name",
        "data.max_pairs",
        "data.split",
        "data.held_out",
        "data.labels_from",
        "data.val_fraction",
        "data.test_fraction",
        "data.scenes",
        "data.scene_seed",
        "data.strict",
    }
)
SERVER_SETTINGS = FILE_SETTINGS | _SERVER_PATHS | _SERVER_SETS
"""What the server's own file may hold: where it writes, what it reads, and what it evaluates on."""

PATHS = frozenset(
    {
        *("data.path", "data.source_path", "data.public_path", "teacher.path", "teacher.weights"),
        *("teacher.pair_features", "teacher.public_features", *_SERVER_PATHS),
    }
)


def read_server_settings(path: Path) -> dict[str, object]:
    """Settings of the server's own file by dotted key.

    Args:
        path: TOML file of the server's machine.

    Raises:
        ConfigError: It is missing or not TOML, holds a setting that is not the server's alone, or names
            what can be no path, or a relative one, which would depend on where Flower started the process.
    """
    flat = read_flat(path)
    for key, value in flat.items():
        if key not in SERVER_SETTINGS:
            raise ConfigError(
                f"{path} holds {key}, which is not a server-only setting. Set it with `flwr run ."
                f" --run-config '{key}=...'`, where the nodes see it too. {nearest(key, SERVER_SETTINGS)}"
            )
        _require_file_name(key, value, where=f"{path}: ")
        for one in _files(key, value):
            if not Path(one).is_absolute():
                raise ConfigError(f"{path}: {key}={value!r} must be an absolute path.")
    return flat


def _files(key: str, value: object) -> tuple[str, ...]:
    """Files and folders that a setting names."""
    if not isinstance(value, str) or not value:
        return ()
    if key in ("teacher.name", "teacher.weights"):
        return teacher_files(**{"name": "", "weights": "", key.rpartition(".")[2]: value})
    return (value,) if key in PATHS else ()


def _require_file_name(key: str, value: object, *, where: str) -> None:
    """Refuse a path that no system takes, before something deep inside fails without naming it."""
    if any("\0" in one for one in _files(key, value)):
        raise ConfigError(f"{where}{key}={value!r} contains a NUL character, which no path can. Remove it.")


def over_run_config(run_config: Mapping[str, object], path: Path | None) -> dict[str, object]:
    """The run config with the server's own settings in place of what was sent to everybody.

    Raises:
        ConfigError: See `read_server_settings`; or a path of the run config can be none.
    """
    for key, value in run_config.items():
        _require_file_name(key, value, where="the run config: ")
    return {**run_config, **(read_server_settings(path) if path is not None else {})}
