"""Commands whose arguments are a dataclass: a YAML file, then flags, one for every field; flags win."""

from __future__ import annotations

import argparse
import dataclasses
import json
import re
import types
from collections.abc import Mapping, Sequence
from enum import Enum
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

import yaml

from gradtx_hf.errors import ConfigurationError, MissingFileError


T = TypeVar("T")


class _Loader(yaml.SafeLoader):
    """YAML with the numbers of its version 1.2: 1e-4 is a number, not a text."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?(\d+(\.\d*)?|\.\d+)[eE][-+]?\d+"), list("-+0123456789.")
)
TRUE, FALSE = ("true", "yes", "1"), ("false", "no", "0")


def parse_into(arguments_class: type[T], argv: Sequence[str], *, command: str, description: str) -> T:
    """Build a dataclass from ``--config FILE`` and flags.

    Args:
        arguments_class: The dataclass; every field becomes a flag, lists take several values, dictionaries YAML.
        argv: The command's arguments.
        command: The command's name, for usage and messages.
        description: What ``--help`` says.

    Raises:
        ConfigurationError: If a key is unknown, a value does not fit, or a required field is missing.
        MissingFileError: If the file is not there.
    """
    fields = {field.name: field for field in dataclasses.fields(arguments_class) if field.init}  # type: ignore[arg-type]
    hints = get_type_hints(arguments_class)
    parser = argparse.ArgumentParser(prog=f"gradtx {command}", description=description)
    parser.add_argument("--config", metavar="FILE.yaml", type=Path, help="YAML file with any of the fields below")
    for name, field in fields.items():
        _add_flag(parser, name, hints[name], help_line=_help_of(field))
    given = vars(parser.parse_args(list(argv)))
    values = _read_yaml(given.pop("config", None))
    unknown = sorted(set(values) - set(fields))
    if unknown:
        raise ConfigurationError(f"unknown key '{unknown[0]}' in the configuration of 'gradtx {command}'. See --help.")
    values |= given
    converted = {name: _convert(value, hints[name], name) for name, value in values.items()}
    required = [n for n, f in fields.items() if f.default is f.default_factory is dataclasses.MISSING]
    missing = [name for name in required if name not in converted]
    if missing:
        raise ConfigurationError(f"'{missing[0]}' is missing. Give it in --config, or as {_flag(missing[0])}.")
    return arguments_class(**converted)


def _read_yaml(path: Path | None) -> dict[str, Any]:
    if path is None:
        return {}
    if not path.is_file():
        raise MissingFileError(f"configuration file '{path}' is not there.")
    try:
        values = _load_yaml(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        first_line = str(error).splitlines()[0]
        raise ConfigurationError(f"configuration file '{path}' is not YAML ({first_line}).") from error
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise ConfigurationError(f"configuration file '{path}' holds no 'key: value' pairs.")
    return {str(key): value for key, value in values.items()}


def _load_yaml(text: str) -> Any:  # noqa: ANN401 - any YAML value
    return yaml.load(text, Loader=_Loader)


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def _add_flag(parser: argparse.ArgumentParser, name: str, hint: Any, *, help_line: str) -> None:  # noqa: ANN401
    options: dict[str, Any] = {"dest": name, "default": argparse.SUPPRESS, "help": help_line}
    kind = _plain_type(hint)
    if kind is bool:
        options |= {"nargs": "?", "const": True, "metavar": "true|false"}
    elif get_origin(kind) in (list, tuple) and _plain_type((get_args(kind) or (str,))[0]) in (str, int, float):
        options |= {"nargs": "+", "metavar": "VALUE"}
    else:
        options |= {"metavar": "YAML" if _is_structure(kind) else "VALUE"}
    spellings = dict.fromkeys([_flag(name), f"--{name}"])
    parser.add_argument(*spellings, **options)


def _help_of(field: dataclasses.Field[Any]) -> str:
    text = str(field.metadata.get("help", "")).replace("%", "%%").strip()
    if field.default is not dataclasses.MISSING and field.default not in (None, ""):
        text = f"{text} (default: {field.default})".strip().replace("%%", "%").replace("%", "%%")
    return text


def _plain_type(hint: Any) -> Any:  # noqa: ANN401 - a type expression
    """Strip ``None`` from a union; what is left of a union of several types is str, or a structure."""
    if get_origin(hint) in (Union, types.UnionType):
        left = [kind for kind in get_args(hint) if kind is not type(None)]
        structured = [kind for kind in left if _is_structure(kind)]
        return left[0] if len(left) == 1 else (structured or [str])[0]
    return hint


def _is_structure(kind: Any) -> bool:  # noqa: ANN401 - a type expression
    origin = get_origin(kind) or kind
    return isinstance(origin, type) and issubclass(origin, (dict, list, tuple, Mapping))


def _convert(value: Any, hint: Any, name: str) -> Any:  # noqa: ANN401 - any configuration value
    """Bring a value from YAML or a flag, where it may be text, to the field's type."""
    kind = _plain_type(hint)
    if value is None or (isinstance(value, str) and value.lower() in ("none", "null") and kind is not str):
        return None
    if kind is bool and isinstance(value, str) and value.lower() in TRUE + FALSE:
        return value.lower() in TRUE
    try:
        if kind in (int, float) and isinstance(value, (str, int, float)) and not isinstance(value, bool):
            number = float(value)
            if kind is int and not number.is_integer():
                raise ValueError(value)
            return kind(number) if kind is int else number
        if _is_structure(kind):
            return _convert_structure(value, kind, name)
    except (ValueError, yaml.YAMLError) as error:
        raise ConfigurationError(f"got {value!r} for '{name}', expected {_describe(hint)}.") from error
    is_fitting = not isinstance(kind, type) or isinstance(value, kind) or issubclass(kind, Enum)
    if not is_fitting or (get_origin(kind) is Literal and value not in get_args(kind)):
        raise ConfigurationError(f"got {value!r} for '{name}', expected {_describe(hint)}.")
    return value


def _convert_structure(value: Any, kind: Any, name: str) -> Any:  # noqa: ANN401 - any configuration value
    origin = get_origin(kind) or kind
    if isinstance(value, str):
        value = _load_yaml(value)
    if origin in (list, tuple):
        if not isinstance(value, (list, tuple)):
            value = [value]
        inner = (get_args(kind) or (Any,))[0]
        # a list of structures given as one flag arrives as one YAML text inside a list
        return [_convert(item, inner, name) if inner is not Any else item for item in value]
    if not isinstance(value, dict):
        raise ValueError(value)
    return value


def _describe(hint: Any) -> str:  # noqa: ANN401 - a type expression
    if get_origin(hint) is Literal:
        return "one of " + ", ".join(map(json.dumps, get_args(hint)))
    return getattr(hint, "__name__", str(hint)) if not get_args(hint) else str(hint).replace("typing.", "")
