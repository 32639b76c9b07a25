"""YAML as users write it: with the numbers of its version 1.2, so that 1e-4 is one and not a text."""

from __future__ import annotations

import re
from typing import Any

import yaml


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
