"""Commands whose arguments are a dataclass: a YAML file, then flags, one for every field; flags win.

``${NAME}`` in a text of the file stands for an environment variable; inside ``[...]`` and ``{...}`` it needs quotes.
"""

from __future__ import annotations

import argparse
import ast
import dataclasses
import inspect
import json
import textwrap
import types
from collections.abc import Mapping, Sequence
from enum import Enum
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

import yaml

from gradtx_hf.errors import ConfigurationError, MissingFileError
from gradtx_hf.yaml_files import expand_variables, load_yaml


T = TypeVar("T")


TRUE, FALSE = ("true", "yes", "1"), ("false", "no", "0")


def parse_into(arguments_class: type[T], argv: Sequence[str], *, command: str, description: str) -> tuple[T, bool]:
    """Build a dataclass from ``--config FILE`` and flags.

    Args:
        arguments_class: The dataclass; every field becomes a flag, lists take several values, dictionaries YAML.
        argv: The command's arguments.
        command: The command's name, for usage and messages.
        description: What ``--help`` says.

    Returns:
        The dataclass, and whether ``--json`` asks for the result as JSON.

    Raises:
        ConfigurationError: If a key is unknown, a value does not fit, or a required field is missing.
        MissingFileError: If the file is not there.
    """
    fields = {field.name: field for field in dataclasses.fields(arguments_class) if field.init}  # type: ignore[arg-type]
    hints = get_type_hints(arguments_class)
    documented = _documented_fields(arguments_class)
    parser = argparse.ArgumentParser(prog=f"gradtx {command}", description=description, allow_abbrev=False)
    parser.add_argument("--config", metavar="FILE.yaml", type=Path, help="YAML file with any of the fields below")
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    for name, field in fields.items():
        _add_flag(parser, name, hints[name], help_line=_help_of(field, documented.get(name, "")))
    given = vars(parser.parse_args(list(argv)))
    is_json = given.pop("json")
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
    return arguments_class(**converted), is_json


def _read_yaml(path: Path | None) -> dict[str, Any]:
    if path is None:
        return {}
    if not path.is_file():
        raise MissingFileError(f"configuration file '{path}' is not there.")
    text = ""
    try:
        text = path.read_text(encoding="utf-8")
        values = load_yaml(text)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        first_line = str(error).splitlines()[0]
        hint = " ${NAME} inside [...] or {...} needs quotes." if "${" in text else ""
        raise ConfigurationError(f"configuration file '{path}' is not YAML ({first_line}).{hint}") from error
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise ConfigurationError(f"configuration file '{path}' holds no 'key: value' pairs.")
    return {str(key): expand_variables(value, label=f"configuration file '{path}'") for key, value in values.items()}


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def _add_flag(parser: argparse.ArgumentParser, name: str, hint: Any, *, help_line: str) -> None:  # noqa: ANN401
    options: dict[str, Any] = {"dest": name, "default": argparse.SUPPRESS, "help": help_line}
    kinds = _kinds_of(hint)
    structures = [kind for kind in kinds if _is_structure(kind)]
    if bool in kinds and str not in kinds:
        options |= {"nargs": "?", "const": True, "metavar": "true|false"}
    elif structures and all(_is_plain_list(kind) for kind in structures):
        options |= {"nargs": "+", "metavar": "VALUE"}
    else:
        options |= {"metavar": "YAML" if structures else "VALUE"}
    spellings = dict.fromkeys([_flag(name), f"--{name}"])
    parser.add_argument(*spellings, **options)


def _help_of(field: dataclasses.Field[Any], documented: str) -> str:
    text = str(field.metadata.get("help", "") or documented).strip()
    if field.default is not dataclasses.MISSING and field.default not in (None, ""):
        text = f"{text} (default: {field.default})".strip()
    return text.replace("%", "%%")


def _documented_fields(arguments_class: type[Any]) -> dict[str, str]:
    """Return what stands under the fields that have no help of their own, by name."""
    lacking = {field.name for field in dataclasses.fields(arguments_class) if not field.metadata.get("help")}
    found: dict[str, str] = {}
    for base in arguments_class.__mro__:
        if lacking - set(found) and dataclasses.is_dataclass(base):
            found = _docstrings_of_fields(base) | found
    return found


def _docstrings_of_fields(arguments_class: type[Any]) -> dict[str, str]:
    (parsed,) = ast.parse(textwrap.dedent(inspect.getsource(arguments_class))).body
    found = {}
    for statement, following in pairwise(parsed.body if isinstance(parsed, ast.ClassDef) else []):
        target = statement.target if isinstance(statement, ast.AnnAssign) else None
        value = following.value if isinstance(following, ast.Expr) else None
        if isinstance(target, ast.Name) and isinstance(value, ast.Constant) and isinstance(value.value, str):
            found[target.id] = " ".join(value.value.replace("``", "").split())
    return found


def _kinds_of(hint: Any) -> tuple[Any, ...]:  # noqa: ANN401 - a type expression
    """Return the members of a union, or the type itself."""
    return get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)


def _is_structure(kind: Any) -> bool:  # noqa: ANN401 - a type expression
    origin = get_origin(kind) or kind
    return isinstance(origin, type) and issubclass(origin, (list, tuple, Mapping))


def _is_plain_list(kind: Any) -> bool:  # noqa: ANN401 - a type expression
    return (get_origin(kind) or kind) in (list, tuple) and (get_args(kind) or (str,))[0] in (str, int, float)


def _convert(value: Any, hint: Any, name: str) -> Any:  # noqa: ANN401 - any configuration value
    """Bring a value from YAML or a flag, where it may be text, to the first kind of a field that it fits."""
    kinds = _kinds_of(hint)
    is_none = value is None or (isinstance(value, str) and value.lower() in ("none", "null") and str not in kinds)
    if is_none and (type(None) in kinds or Any in kinds):
        return None
    for kind in sorted(kinds, key=lambda kind: (kind is str, not _is_structure(kind))):
        try:
            return (
                _fit_structure(value, kind, name, is_strict=str in kinds) if _is_structure(kind) else _fit(value, kind)
            )
        except (ValueError, OverflowError, yaml.YAMLError):
            continue
    raise ConfigurationError(f"got {value!r} for '{name}', expected {_describe(hint)}.")


def _fit(value: Any, kind: Any) -> Any:  # noqa: ANN401 - any configuration value
    """Return a value as a plain kind; ValueError if it does not fit."""
    is_text = isinstance(value, str)
    if kind is bool and is_text and value.lower() in TRUE + FALSE:
        return value.lower() in TRUE
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if kind is int and (is_text or is_number):
        return value if isinstance(value, int) else _whole(value)
    if kind is float and (is_text or is_number):
        return float(value)
    if get_origin(kind) is Literal:
        fits = value in get_args(kind)
    else:
        is_of_kind = isinstance(kind, type) and isinstance(value, kind)
        fits = kind is Any or (is_of_kind and (kind is bool or not isinstance(value, bool)))
        fits = fits or (isinstance(kind, type) and issubclass(kind, Enum) and value in {m.value for m in kind})
    if not fits:
        raise ValueError(value)
    return value


def _whole(value: str | float) -> int:
    """Return a whole number; 1e3 is one."""
    try:
        return int(value) if isinstance(value, str) else int(str(value))
    except ValueError:
        number = float(value)
        if not number.is_integer():
            raise
        return int(number)


def _fit_structure(value: Any, kind: Any, name: str, *, is_strict: bool) -> Any:  # noqa: ANN401 - any configuration value
    """Return a value as a list or a dictionary; ValueError if it does not fit. One item makes a list unless strict."""
    if isinstance(value, str):
        value = load_yaml(value)
    if (get_origin(kind) or kind) in (list, tuple):
        if not isinstance(value, (list, tuple)):
            if is_strict or value is None or isinstance(value, dict):
                raise ValueError(value)
            value = [value]
        inner = (get_args(kind) or (Any,))[0]
        return [_convert(item, inner, name) for item in value]
    if not isinstance(value, dict):
        raise ValueError(value)
    return value


def _describe(hint: Any) -> str:  # noqa: ANN401 - a type expression
    names = {bool: "true or false", int: "a whole number", float: "a number", str: "text", type(None): "null"}
    described = []
    for kind in _kinds_of(hint):
        if get_origin(kind) is Literal:
            described.append("one of " + ", ".join(map(json.dumps, get_args(kind))))
        elif _is_structure(kind):
            is_list = (get_origin(kind) or kind) in (list, tuple)
            inner = f", each {_describe(get_args(kind)[0])}" if is_list and get_args(kind) else ""
            described.append(f"a list{inner}" if is_list else "keys and values")
        else:
            described.append(names.get(kind, getattr(kind, "__name__", str(kind))))
    return " or ".join(described)
