"""One reader and writer of settings: TOML, ``--set a.b=c`` and Flower's flat run config.

All three become a flat mapping from a dotted key to a raw value. Its keys and types are checked
here; ranges are checked by the dataclasses of `edgecmd.settings`.
"""

import ast
import functools
import inspect
import json
import textwrap
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, TypeAlias, get_type_hints

from pydantic import ConfigDict, TypeAdapter, ValidationError

from edgecmd.config.schema import RunConfig
from edgecmd.core.errors import ConfigError, nearest

Scalar: TypeAlias = int | float | bool | str

INTEGERS, NUMBERS = tuple[int, ...], tuple[float, ...]
# What a list holds, by the list's type.
ITEMS: dict[object, Callable[[str], int | float]] = {INTEGERS: int, NUMBERS: float}
EXPECTED: dict[object, str] = {
    str: 'UTF-8 text, such as "name"',
    bool: "true or false",
    int: "a whole number, such as 5",
    float: "a finite number, such as 0.5",
    INTEGERS: "whole numbers, such as [1, 5] or 1,5",
    NUMBERS: "finite numbers, such as [0.5, 0.25] or 0.5,0.25",
}
# strict: "64" is no number and true is no 1; an int is still accepted where a float is expected.
STRICT = ConfigDict(strict=True, allow_inf_nan=False)
ADAPTERS: dict[object, TypeAdapter[Any]] = {
    str: TypeAdapter(str, config=STRICT),
    bool: TypeAdapter(bool, config=STRICT),
    int: TypeAdapter(int, config=STRICT),
    float: TypeAdapter(float, config=STRICT),
    INTEGERS: TypeAdapter(INTEGERS, config=STRICT),
    NUMBERS: TypeAdapter(NUMBERS, config=STRICT),
}
COMMENT_WIDTH = 100


# Name and dataclass of each section, and dotted key and type of each setting, in the order of `RunConfig`.
SECTIONS: dict[str, type[Any]] = {
    name: kind
    for name, kind in get_type_hints(RunConfig).items()
    if isinstance(kind, type) and is_dataclass(kind)
}
TYPES: dict[str, object] = {
    (f"{name}.{inner}" if name in SECTIONS else name): hint
    for name, kind in get_type_hints(RunConfig).items()
    for inner, hint in (get_type_hints(kind) if name in SECTIONS else {name: kind}).items()
}


def load_config(path: Path | None = None, overrides: Sequence[str] = ()) -> RunConfig:
    """Read settings from a TOML file, then apply ``overrides``; what neither names has its default.

    Args:
        path: TOML file; None for the defaults alone.
        overrides: ``a.b=c`` each, ``c`` a TOML value or, where it is none, plain text; the last
            one for a key counts.

    Raises:
        ConfigError: The file is missing or not TOML, or a key is unknown, or a value has the wrong
            type or is outside its range.
    """
    flat = read_flat(path) if path is not None else {}
    for override in overrides:
        key, text = _split(override)
        flat[key] = _parse_value(text, kind=_type_of(key))
    return unflatten(flat)


def _split(override: str) -> tuple[str, str]:
    """Key and text of ``a.b=c``.

    Raises:
        ConfigError: There is no key, no value, or no setting of that name.
    """
    key, separator, text = (part.strip() for part in override.partition("="))
    if not key:
        raise ConfigError(
            f"--set {override!r} names no setting. Write --set section.key=value, such as"
            " --set federation.num_rounds=10; `edgecmd init` lists all settings."
        )
    if not separator:
        # A misspelt name is the greater fault: the value would have gone nowhere.
        _type_of(key)
        raise ConfigError(f"--set {override!r} has no value. Write --set {key}=value.")
    kind = _type_of(key)
    if not text and kind is not str and kind not in ITEMS:
        raise ConfigError(f"--set {override!r} has an empty value; {key} is {EXPECTED[kind]}.")
    return key, text


def read_flat(path: Path) -> dict[str, object]:
    """Content of a TOML file by dotted key; neither keys nor values are checked.

    Raises:
        ConfigError: The file is missing or not TOML.
    """
    return flatten_tables(_read_toml(path))


def unflatten(mapping: Mapping[str, object]) -> RunConfig:
    """Settings out of a flat mapping from dotted keys; keys that are absent have their default.

    Args:
        mapping: Values as `flatten` or a TOML file gives them. An int is accepted for a float; a
            tuple of numbers may be a sequence, one number or text such as ``"1,5"``.

    Raises:
        ConfigError: A key is unknown, or a value has the wrong type or is outside its range.
    """
    values: dict[str, Any] = {}
    sections: dict[str, dict[str, Any]] = {name: {} for name in SECTIONS}
    for key, raw in mapping.items():
        value = _checked(key, raw, kind=_type_of(key))
        section, dot, name = key.partition(".")
        if dot:
            sections[section][name] = value
        else:
            values[key] = value
    built = {name: kind(**sections[name]) for name, kind in SECTIONS.items()}
    return RunConfig(**values, **built).resolved()


def flatten(config: RunConfig) -> dict[str, Scalar]:
    """All settings by dotted key, as the scalars that Flower's run config can hold.

    Returns:
        A tuple becomes text such as ``"1,5,10"``; `unflatten` gives back an equal config.
    """
    return {
        key: ",".join(str(item) for item in value) if isinstance(value, tuple) else value
        for key, value in _values(config)
    }


def to_toml(config: RunConfig) -> str:
    """All settings as TOML; `load_config` of it gives an equal config."""
    lines: list[str] = []
    opened = ""
    for key, value in _values(config):
        section, dot, name = key.rpartition(".")
        if dot and section != opened:
            opened = section
            lines += ["", f"[{section}]"]
        lines.append(f"{name} = {_toml_value(value)}")
    return "\n".join(lines) + "\n"


def template() -> str:
    """All settings with their defaults and their meaning, as commented TOML."""
    lines = ["# Settings of a run. Every line shows a default, which applies if the line is left out."]
    opened, docs = "", meanings()
    for key, value in _values(RunConfig()):
        section, dot, name = key.rpartition(".")
        if dot and section != opened:
            opened = section
            lines += ["", "", *_comment(docs[section]), f"[{section}]"]
        else:
            lines.append("")
        lines += [*_comment(docs[key]), f"{name} = {_toml_value(value)}"]
    return "\n".join(lines) + "\n"


def meanings() -> dict[str, str]:
    """What each setting means, by its dotted key, and what each section is about, by its name."""
    docs = _docs(RunConfig)
    for section, owner in SECTIONS.items():
        own = _docs(owner)
        docs |= {section: own[""]} | {f"{section}.{name}": text for name, text in own.items() if name}
    return docs


def defaults() -> dict[str, str]:
    """Default of each setting as TOML writes it, by its dotted key."""
    return {key: _toml_value(value) for key, value in _values(RunConfig())}


def _values(config: RunConfig) -> Iterator[tuple[str, Any]]:
    """Dotted key and value of each setting."""
    for key in TYPES:
        yield key, functools.reduce(getattr, key.split("."), config)


def _read_toml(path: Path) -> dict[str, object]:
    """Content of a TOML file."""
    try:
        data = path.read_bytes()
        if b"\0" in data:
            raise ConfigError(
                f"{path} is not UTF-8 text, perhaps UTF-16 as some editors write it. Save it as UTF-8."
            )
        return tomllib.loads(data.decode("utf-8-sig"))
    except FileNotFoundError:
        raise ConfigError(f"{path} does not exist. Check the path, or make it with `edgecmd init`.") from None
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}. Give a TOML file.") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is not UTF-8 text. Save it as UTF-8.") from error
    except ConfigError:
        raise
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{path} is not valid TOML: {error}. {_toml_advice(str(error))}") from error


def _toml_advice(fault: str) -> str:
    if "overwrite" in fault or "twice" in fault or "mutate" in fault:
        return "A key or a section occurs twice; keep one."
    return "Put text in quotes."


def flatten_tables(tables: Mapping[str, object]) -> dict[str, object]:
    """Content of a TOML file by dotted key; keys are not checked below the level of sections."""
    flat: dict[str, object] = {}
    for name, value in tables.items():
        if isinstance(value, dict) and name in SECTIONS:
            flat.update({f"{name}.{inner}": one for inner, one in value.items()})
        else:
            flat[name] = value
    return flat


def _type_of(key: str) -> object:
    """Type of the setting ``key``.

    Raises:
        ConfigError: There is no such setting; the message has the allowed ones and the nearest.
    """
    if key in TYPES:
        return TYPES[key]
    section, dot, name = key.partition(".")
    if key in SECTIONS:
        inside = ", ".join(field.name for field in fields(SECTIONS[key]))
        raise ConfigError(f"{key} is a section, not a setting. Set one of {key}.<name>: {inside}.")
    if dot and section not in SECTIONS:
        raise ConfigError(f"{key} is unknown: no section {section!r}. {nearest(section, SECTIONS)}")
    siblings = [one for one in TYPES if one.rpartition(".")[0] == (section if dot else "")]
    candidates = siblings if dot else [*siblings, *SECTIONS]
    namesakes = [one for one in TYPES if one.rpartition(".")[2] == (name or key)]
    hint = f" There is {' and '.join(namesakes)}." if namesakes else ""
    raise ConfigError(f"{key} is unknown. {nearest(key, candidates)}{hint}")


def _parse_value(text: str, *, kind: object) -> object:
    """Value of an override: a TOML value, or ``text`` itself where that is none."""
    try:
        parsed = tomllib.loads(f"value = {text}")
    except (ValueError, RecursionError):
        return text
    if parsed.keys() != {"value"} or (kind is str and not isinstance(parsed["value"], str)):
        return text
    return parsed["value"]


def _checked(key: str, raw: object, *, kind: object) -> object:
    """Value of setting ``key`` in its own type.

    Raises:
        ConfigError: ``raw`` has another type.
    """
    try:
        value = ADAPTERS[kind].validate_python(_as_tuple(raw, ITEMS[kind]) if kind in ITEMS else raw)
        if isinstance(value, str):
            value.encode()  # a file name that is not UTF-8 could not be written into the run folder
        return value
    except (ValidationError, UnicodeEncodeError):
        raise ConfigError(f"{key}={raw!r} is {_kind_name(raw)}; expected {EXPECTED[kind]}.") from None


def _as_tuple(raw: object, item: Callable[[str], int | float]) -> object:
    """A tuple where ``raw`` is a list, one number or text such as ``"1,5"``; otherwise ``raw``."""
    if isinstance(raw, list):
        return tuple(raw)
    if isinstance(raw, int | float):
        return (raw,)
    if isinstance(raw, str):
        try:
            return tuple(item(part) for part in raw.split(",")) if raw else ()
        except ValueError:
            return raw
    return raw


def _kind_name(raw: object) -> str:
    """What a user would call the type of ``raw``."""
    names = {str: "text", bool: "a truth value", int: "a whole number", float: "a number"}
    names |= {list: "a list", tuple: "a list", dict: "a table"}
    return names.get(type(raw), f"of type {type(raw).__name__}")


def _toml_value(value: Scalar | tuple[int | float, ...]) -> str:
    """``value`` in TOML."""
    if isinstance(value, str):
        # JSON text is TOML text, but for DEL, which TOML wants escaped.
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    if isinstance(value, bool):
        return str(value).lower()
    return str(list(value)) if isinstance(value, tuple) else repr(value)


def _docs(owner: type[Any]) -> dict[str, str]:
    """Text below each field of a section, and under the empty name the section's own."""
    (body,) = ast.parse(textwrap.dedent(inspect.getsource(owner))).body
    assert isinstance(body, ast.ClassDef)
    docs = {"": ast.get_docstring(body) or ""}
    field = ""
    for node in body.body:
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            field = node.target.id
        elif field and isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            docs[field] = inspect.cleandoc(str(node.value.value))
            field = ""
    return docs


def _comment(text: str) -> list[str]:
    """``text`` as lines of a TOML comment."""
    return [f"# {line}" for line in textwrap.wrap(text.replace("``", ""), COMMENT_WIDTH)]
