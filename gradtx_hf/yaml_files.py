"""YAML as users write it: with variables, and the numbers of its version 1.2, so that 1e-4 is one and not a text."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Any

import yaml

from gradtx_hf.errors import ConfigurationError


SECRET_NAMES = ("TOKEN", "SECRET", "PASSWORD", "KEY")


class _Loader(yaml.SafeLoader):
    """A safe loader, with more numbers."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?(\d+(\.\d*)?|\.\d+)[eE][-+]?\d+"), list("-+0123456789.")
)


def load_yaml(text: str) -> Any:  # noqa: ANN401 - any YAML value
    """Return what a text of YAML holds.

    Raises:
        yaml.YAMLError: If it is none.
    """
    return yaml.load(text, Loader=_Loader)


def expand_variables(value: Any, *, label: str, variables: Mapping[str, str] | None = None) -> Any:  # noqa: ANN401 - any YAML value
    """Put variables in place of ``${NAME}`` in texts, so that one file serves on every machine.

    Args:
        value: What a file holds.
        label: What a message calls the file.
        variables: Name to value; None: those of the environment.

    Raises:
        ConfigurationError: If a variable is not set, or looks like a secret.
    """
    known = os.environ if variables is None else variables
    if isinstance(value, dict):
        return {key: expand_variables(entry, label=label, variables=variables) for key, entry in value.items()}
    if isinstance(value, list):
        return [expand_variables(entry, label=label, variables=variables) for entry in value]
    if not isinstance(value, str):
        return value
    return re.sub(r"\$\{(\w+)\}", lambda match: _value_of_variable(match[1], label, known), value)


def _value_of_variable(name: str, label: str, known: Mapping[str, str]) -> str:
    if any(word in name.upper() for word in SECRET_NAMES):
        raise ConfigurationError(
            f"{label} names the environment variable {name}, which looks like a secret and would "
            "be written into plans and reports. Leave it out; 'hf auth login' stores a token."
        )
    if name not in known:
        raise ConfigurationError(f"{label} needs the environment variable {name}. Set it.")
    return known[name]
