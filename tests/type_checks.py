"""Types and shapes checked at the price of one check a call.

The import hook of jaxtyping binds the arguments of each call, checks them twice and the result once, also
where no shape stands in the signature: ten times the cost of reading the settings. Here beartype checks
arguments and result once, and the sizes of a call are kept only where its signature has shapes.
"""

import inspect
from collections.abc import Callable, Iterator
from typing import Any, TypeAlias, get_args

import jaxtyping
from jaxtyping import AbstractArray

Check: TypeAlias = Callable[[Any], Any]

_jaxtyped = jaxtyping.jaxtyped


def check_types_once() -> None:
    """From here on the import hook of jaxtyping checks what it imports in this way."""
    jaxtyping.jaxtyped = _checked


def _checked(*, typechecker: Check) -> Check:
    """Stands for ``jaxtyping.jaxtyped`` as the import hook calls it."""

    def decorate(given: Any) -> Any:
        if not inspect.isclass(given):
            return _once(given, typechecker)
        if "__dataclass_fields__" in vars(given):
            given.__init__ = _once(given.__init__, typechecker)
        return given

    return decorate


def _once(function: Any, check: Check) -> Any:
    hints = list(_parts(list(function.__annotations__.values())))
    # What stands there as text may not be importable here; jaxtyping knows how to leave that out.
    if any(isinstance(hint, str) for hint in hints):
        return _jaxtyped(function, typechecker=check)
    shapes = any(inspect.isclass(hint) and issubclass(hint, AbstractArray) for hint in hints)
    return _jaxtyped(check(function), typechecker=None) if shapes else check(function)


def _parts(hint: Any) -> Iterator[Any]:
    """A hint and all that it is made of."""
    yield hint
    for part in hint if isinstance(hint, list) else get_args(hint):
        yield from _parts(part)
