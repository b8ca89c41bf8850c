"""The checks of shapes and types that all tests run under, and turning them off where they only cost time.

The checks cost more than most of what they look at: a step of a small student takes three to five times as
long. A test that turns them off has a sister that walks the same code with the checks on.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import jaxtyping
from beartype import beartype

_MADE: dict[object, Callable[..., Any]] = {}


def checked(function: Callable[..., Any]) -> Callable[..., Any]:
    """The checks of `beartype`, made when ``function`` is first called, and once for all of its kind.

    Jaxtyping hands over an empty function with the annotations of the real one. It does so again each time
    that a function within a function is defined, as often as a step is taken, and making the checks is a
    hundred times as dear as running them.
    """
    code = function.__code__
    defaults = len(function.__defaults__ or ()), *(function.__kwdefaults__ or ())
    named = function.__module__, function.__qualname__, code.co_varnames, code.co_flags, code.co_code
    hints = tuple((name, _same(hint)) for name, hint in function.__annotations__.items())

    def check(*args: Any, **kwargs: Any) -> Any:
        key = named, defaults, hints
        try:
            made = _MADE.get(key)
        except TypeError:  # an annotation without a hash
            return beartype(function)(*args, **kwargs)
        if made is None:
            made = _MADE[key] = beartype(function)
        return made(*args, **kwargs)

    return check


def _same(hint: object) -> object:
    """What is equal for equal hints: jaxtyping makes a new class each time that a shape is written."""
    return text if "jaxtyping." in (text := repr(hint)) else hint


@contextmanager
def shapes_unchecked() -> Iterator[None]:
    """No checks of shapes and types inside; those of `edgecmd` itself, which users see, are not meant."""
    before = jaxtyping.config.jaxtyping_disable
    jaxtyping.config.update("jaxtyping_disable", True)
    try:
        yield
    finally:
        jaxtyping.config.update("jaxtyping_disable", before)
