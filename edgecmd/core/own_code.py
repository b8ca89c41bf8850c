"""A user's own code, named in settings as ``module:factory``: found, called, or refused in plain English.

An object cannot travel to another process or node; its name can. Every process that needs it imports it
there, so the module must be installed, or be in the folder that edgecmd is started in, wherever it runs.
"""

import importlib
import importlib.util
import inspect
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from edgecmd.core.errors import ConfigError, EdgecmdError, nearest
from edgecmd.core.machine import explain, is_of_machine
from edgecmd.core.text import one_line

Factory = Callable[..., Any]
# What a user's own code may raise; whoever stops the process by hand is obeyed.
RAISED = (Exception, SystemExit)


def is_own(text: str) -> bool:
    """Whether a setting names a user's own code (``module:factory``) and not a row of a table."""
    return isinstance(text, str) and ":" in text


def module_of(text: str) -> str:
    """The module that ``module:factory`` names; what a device's owner allows or does not."""
    return text.rpartition(":")[0]


def load_factory(setting: str, text: str, *, files: bool = False) -> Factory:
    """The class or function that ``module:factory`` names.

    Modules of the working folder are found too, after all that are installed.

    Args:
        setting: Name of the setting or option, for messages.
        text: Its value.
        files: Whether ``file.py:factory`` is allowed too: for what is used in this process alone.

    Returns:
        What the name stands for; nothing was called yet.

    Raises:
        ConfigError: The text has another form, the module is missing or fails, it has no such name, or what
            it has cannot be called.
    """
    module_name, _, name = text.rpartition(":")
    is_file = module_name.endswith(".py")
    dotted = all(part.isidentifier() for part in module_name.split("."))
    if not name.isidentifier() or not (files if is_file else dotted):
        form = (
            "module:factory or file.py:factory" if files else "module:factory, such as my_package.losses:Mine"
        )
        raise ConfigError(f"{setting}={text!r} does not name code of your own. Write {form}.")
    module, found = _imported(setting, text, is_file=is_file)
    if found is None:
        names = [one for one, value in vars(module).items() if callable(value) and not one.startswith("_")]
        raise ConfigError(f"{setting}={text!r}: {module_name} has no {name!r}. {nearest(name, names)}")
    if not callable(found):
        raise ConfigError(
            f"{setting}={text!r} is of type {type(found).__name__}, which cannot be called. Name a class or"
            " function that makes the object."
        )
    factory: Factory = found
    return factory


def call_factory(setting: str, text: str, *, offered: Mapping[str, Any], files: bool = False) -> Any:  # noqa: ANN401 - the user's object
    """The object that the factory at ``text`` makes.

    Args:
        setting: Name of the setting or option, for messages.
        text: ``module:factory``.
        offered: What the factory may ask for; it gets those that it names as parameters, as keywords.
        files: As in `load_factory`.

    Raises:
        ConfigError: As in `load_factory`; the factory asks for something else; or it raises.
    """
    factory = load_factory(setting, text, files=files)
    named = _parameters(factory)
    missing = [name for name, required in named.items() if required and name not in offered]
    if missing:
        raise ConfigError(
            f"{setting}={text!r} asks for {', '.join(map(repr, missing))}, which edgecmd cannot give. It"
            f" offers, as keywords: {', '.join(offered) or 'nothing'}. Give other parameters a default."
        )
    try:
        return factory(**{name: offered[name] for name in named if name in offered})
    except RAISED as error:
        raise ConfigError(f"{setting}={text!r} was called and raised {told(error)}.") from error


@contextmanager
def running(what: str, *made: object) -> Iterator[None]:
    """A user's own objects are called in this block: what they raise becomes one sentence that names them.

    Args:
        what: What they are, at the start of a sentence, such as ``The loss Margin``.
        made: The objects. Where all are edgecmd's own, an error passes as it is: it is a fault of edgecmd.

    Raises:
        ConfigError: They raised something, or asked the process to end.
        MachineError: Memory is short, or the machine has no thread or process left.
    """
    try:
        yield
    except EdgecmdError:
        raise
    except RAISED as error:
        if all(type(one).__module__.partition(".")[0] == "edgecmd" for one in made):
            raise
        if is_of_machine(error) and not isinstance(error, OSError):
            raise explain(error) from error
        raise ConfigError(f"{what} raised {told(error)}. Fix that code, then start again.") from error


def _parameters(factory: Factory) -> dict[str, bool]:
    """Parameters by name, and whether each must be given; a positional-only one can only be missing."""
    try:
        found = inspect.signature(factory).parameters.values()
    except (TypeError, ValueError):
        return {}
    variable = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return {one.name: one.default is one.empty for one in found if one.kind not in variable}


def _imported(setting: str, text: str, *, is_file: bool) -> tuple[object, object]:
    """The module that ``text`` names and what it has of that name, or None."""
    module_name, _, name = text.rpartition(":")
    if (here := str(Path.cwd())) not in sys.path:
        sys.path.append(here)  # last, so that none of its files stands in for an installed module
    try:
        module = _import_file(Path(module_name)) if is_file else importlib.import_module(module_name)
        return module, getattr(module, name, None)
    except RAISED as error:
        raise ConfigError(
            f"{setting}={text!r} cannot be imported: {told(error)}. Every process that uses it must be able"
            f" to import {module_name!r}: install it, or start edgecmd in the folder that contains it."
        ) from error


def _import_file(path: Path) -> object:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None or not path.is_file():
        raise FileNotFoundError(f"there is no file {path}")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def told(error: BaseException) -> str:
    """Type and text of a user's error on one line, without a full stop of its own."""
    text = one_line(str(error)).rstrip(".")
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
