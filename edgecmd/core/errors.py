"""Errors that a user can act on, each with its exit code.

Every message says what was given, what is allowed and what to do next.
"""

import difflib
from collections.abc import Iterable, Mapping
from typing import ClassVar, TypeVar

Option = TypeVar("Option")


class EdgecmdError(ValueError):
    """Base of all errors that edgecmd raises on purpose.

    Attributes:
        exit_code: Exit code of the command line.
    """

    exit_code: ClassVar[int] = 1


class ConfigError(EdgecmdError):
    """A setting is unknown, misspelt or outside its range."""

    exit_code = 2


class DataError(EdgecmdError):
    """A file of the user's data is missing, broken or does not fit the others."""

    exit_code = 4


class FederationError(EdgecmdError):
    """A round could not be completed, or a run folder cannot be continued."""

    exit_code = 5


class ExportError(EdgecmdError):
    """An exported file does not reproduce the student; no file is left behind."""

    exit_code = 6


class PrivacyError(EdgecmdError):
    """A guarantee cannot be given: the settings do not support it, or the budget is spent.

    Args:
        text: For whoever runs the process: it may name files and what was spent, and never leaves a device.
        code: A key of `edgecmd.privacy.refusals.REFUSALS`: all that a server receives.
        detail: A public word sent with the code, such as the name of a run's setting.
    """

    exit_code = 7

    def __init__(self, text: str, *, code: str = "no-guarantee", detail: str = "") -> None:
        super().__init__(text)
        self.code, self.detail = code, detail


class MachineError(EdgecmdError):
    """The machine refused: disk, permissions, memory or processes; see `edgecmd.core.machine`."""

    exit_code = 8


def nearest(name: str, allowed: Iterable[str]) -> str:
    """Sentence that lists ``allowed`` and, if one is close, the name that was probably meant."""
    names = sorted(allowed)
    close = difflib.get_close_matches(name, names, n=1)
    hint = f" Did you mean {close[0]!r}?" if close else ""
    return f"Allowed: {', '.join(names)}.{hint}"


def choose(setting: str, name: str, options: Mapping[str, Option]) -> Option:
    """Look ``name`` up in ``options``.

    Raises:
        ConfigError: It is missing; the message names the setting, all options and the nearest.
    """
    if not isinstance(name, str) or name not in options:
        raise ConfigError(f"{setting}={name!r} is unknown. {nearest(str(name), options)}")
    return options[name]
