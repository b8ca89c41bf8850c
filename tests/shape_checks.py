"""The checks of shapes and types that all tests run under, and turning them off where they only cost time.

The import hook of jaxtyping binds the arguments of each call, checks them twice and the result once, also
where no shape stands in the signature: ten times the cost of reading the settings. Here beartype checks
arguments and result once, and the sizes of a call are kept only where its signature has shapes.

The checks still cost more than most of what they look at: a step of a small student takes three to five
times as long. So within a test the first calls of each function are checked, and those after them are taken
to be like them; of a function within a function, which each step defines anew, the first that are defined. A
test that turns all checks off has a sister that walks the same code with the checks on.
"""

import functools
import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import CodeType
from typing import Any, TypeAlias, get_args

import jaxtyping
from beartype import BeartypeConf, beartype
from jaxtyping import AbstractArray

Check: TypeAlias = Callable[[Any], Any]

_jaxtyped = jaxtyping.jaxtyped
# What is found is raised as jaxtyping raises it: a TypeError, as Python itself would sooner or later.
_beartyped = beartype(conf=BeartypeConf(violation_type=jaxtyping.TypeCheckError))
_MADE: dict[object, Callable[..., Any]] = {}
# In which test a function within a function was defined last, and how often.
_DEFINED: dict[CodeType, list[int]] = {}
MOST_CALLS = 8
# Which test is running, as a number.
_TEST = [0]


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
    # What stands there as text may not be importable here; jaxtyping knows how to leave that out. A function
    # within a function comes again and again, and `checked` keeps what was made for it.
    if "<locals>" in function.__qualname__:
        return _inner(function, check)
    if any(isinstance(hint, str) for hint in hints):
        return _jaxtyped(function, typechecker=check)
    shapes = any(inspect.isclass(hint) and issubclass(hint, AbstractArray) for hint in hints)
    own = _jaxtyped(_beartyped(function), typechecker=None) if shapes else _beartyped(function)
    return _at_first(function, own)


def _inner(function: Any, check: Check) -> Any:
    """The first definitions in a test with their checks, and later ones as they are."""
    seen = _DEFINED.setdefault(function.__code__, [-1, 0])
    if seen[0] != _TEST[0]:
        seen[:] = _TEST[0], 0
    seen[1] += 1
    if seen[1] > MOST_CALLS:
        return function
    return _at_first(function, _jaxtyped(function, typechecker=check))


def _at_first(function: Callable[..., Any], check: Callable[..., Any]) -> Callable[..., Any]:
    """``check`` for the first calls in a test, and then ``function`` as it is."""
    test, calls = -1, 0

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        nonlocal test, calls
        if test != _TEST[0]:
            test, calls = _TEST[0], 0
        calls += 1
        return (check if calls <= MOST_CALLS else function)(*args, **kwargs)

    return call


def next_test() -> None:
    """From here on the calls of each function are counted anew."""
    _TEST[0] += 1


def _parts(hint: Any) -> Iterator[Any]:
    """A hint and all that it is made of."""
    yield hint
    for part in hint if isinstance(hint, list) else get_args(hint):
        yield from _parts(part)


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
