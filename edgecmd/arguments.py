"""What arguments and settings may be: ranges, types, seeds and licences, each refused by name.

Imports nothing heavy.
"""

from collections.abc import Sequence
from functools import cache
from numbers import Integral, Real
from typing import Annotated, Any, get_args, get_origin, get_type_hints

from annotated_types import Interval, MultipleOf

from edgecmd.core.errors import ConfigError
from edgecmd.core.text import printable

NO_LICENCE = "unspecified"


class Section:
    """What all sections of settings share: a setting outside the range beside its type is refused by name."""

    __slots__ = ()

    def __post_init__(self) -> None:
        own: Any = type(self)
        section = own.__name__.removesuffix("Config").lower()
        for name, (kind, marks, is_many) in _marks(own).items():
            value = getattr(self, name)
            for item in value if is_many and isinstance(value, tuple | list) else (value,):
                _check(f"{section}.{name}", item, kind=kind, marks=marks)
        self._check_together()

    def _check_together(self) -> None:
        """What must hold beside ranges, and between settings."""


@cache
def _marks(section: type[Any]) -> dict[str, tuple[type, Sequence[Any], bool]]:
    """Kind of number, range and step of each setting that has them, and whether they are of each item."""
    found = {}
    for name, hint in get_type_hints(section, include_extras=True).items():
        is_many = get_origin(hint) is tuple
        item = get_args(hint)[0] if is_many else hint
        if get_origin(item) is Annotated:
            found[name] = (item.__origin__, item.__metadata__, is_many)
    return found


def _check(setting: str, value: Any, *, kind: type, marks: Sequence[Any]) -> None:  # noqa: ANN401 - of a caller
    """Refuse a value that its annotation does not allow.

    Raises:
        ConfigError: The message names setting and value, and what is allowed.
    """
    if isinstance(value, bool) or not isinstance(value, Integral if kind is int else Real):
        expected = "a whole number, such as 5" if kind is int else "a number, such as 0.5"
        raise ConfigError(f"{setting}={value!r} is of type {type(value).__name__}; expected {expected}.")
    for mark in marks:
        if isinstance(mark, MultipleOf):
            if value % mark.multiple_of:
                raise ConfigError(f"{setting}={value} must be a multiple of {mark.multiple_of}.")
        elif not mark.ge <= value <= mark.le:
            raise ConfigError(f"{setting}={value} is outside the allowed range [{mark.ge:g}, {mark.le:g}].")


def refuse_outside(name: str, value: Any, *, least: float | int, most: float | int, kind: type = int) -> None:  # noqa: ANN401 - of a caller
    """Refuse an argument that is not a number of this kind within its range, as for a setting.

    Raises:
        ConfigError: The message names argument and value, and what is allowed.
    """
    _check(name, value, kind=kind, marks=[Interval(ge=least, le=most)])


def refuse_other(name: str, value: object, *wanted: type, what: str) -> None:
    """Refuse an argument of another type.

    Raises:
        ConfigError: The message names argument and type, and what is allowed.
    """
    if not isinstance(value, wanted):
        raise ConfigError(f"{name} is of type {type(value).__name__}; allowed is {what}.")


def refuse_licence(name: str, value: str) -> None:
    """Refuse a licence that tools reading the files would not recognise.

    Args:
        name: Name of the setting or argument, for messages.
        value: `NO_LICENCE`, an SPDX name, an expression of them, or ``LicenseRef-`` with a name of your own.

    Raises:
        ConfigError: It is none of these.
    """
    from packaging.licenses import InvalidLicenseExpression, canonicalize_license_expression

    if value == NO_LICENCE:
        return
    try:
        # It would take a newline for a blank.
        canonicalize_license_expression(value if printable(value) == value else "")
    except InvalidLicenseExpression:
        raise ConfigError(
            f"{name}={value!r} is not an SPDX licence name. Use one, such as Apache-2.0 or CC-BY-4.0;"
            f" LicenseRef-<a name of yours> for any other licence; or {NO_LICENCE!r}."
        ) from None


def refuse_seed(seed: Any) -> None:  # noqa: ANN401 - of a caller
    """Refuse a value that cannot be the seed of a run.

    Raises:
        ConfigError: It is not a whole number from 0 to 2^31 - 1.
    """
    _check("seed", seed, kind=int, marks=())
    if not 0 <= seed < 2**31:
        raise ConfigError(f"seed={seed} is outside the allowed range [0, {2**31 - 1}].")


def as_float(value: object) -> Any:  # noqa: ANN401 - of a caller
    """A number as a float; anything else as it is, for a section to refuse by name."""
    if isinstance(value, bool) or not isinstance(value, Real):
        return value
    return float(value)
