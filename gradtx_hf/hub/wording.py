"""What messages and cards may say of the Hub: never a token, a password or a path of this machine."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from huggingface_hub import constants

from gradtx_hf.errors import SECRET_PATTERN, safe_text


ABSOLUTE_PATH_PATTERN = re.compile(
    r"(?<![\w./:~…\\-])(?:file://)?(?:(?:~[\w.-]*|[A-Za-z]:)[/\\]|/|\\\\)(?:[^\s'\"`,;:|<>(){}\[\]]*[/\\])?"
    r"(?P<name>[^\s'\"`,;:|<>(){}\[\]/\\]+)[/\\]?"
)
"""A path from the root, the home folder, a drive or a server; a relative path, a share such as 1/2, a URL or a pattern
of module names such as ``.*\\.q_proj`` is none."""


def endpoint_name() -> str:
    """Return the Hub's address without a user name or password in it."""
    return safe_text(constants.ENDPOINT).replace("…@", "")


def without_private(values: Any) -> Any:  # noqa: ANN401 - any JSON value
    """Return JSON values as they may be published: no token, no password, of an absolute path the last part alone.

    Keys are treated as values are.
    """
    if isinstance(values, Mapping):
        return {without_private(str(key)): without_private(value) for key, value in values.items()}
    if isinstance(values, list | tuple):
        return [without_private(value) for value in values]
    if isinstance(values, Path):
        return without_private(str(values))
    if isinstance(values, str):
        return ABSOLUTE_PATH_PATTERN.sub(lambda match: f"…/{match['name']}", SECRET_PATTERN.sub("…", values))
    return values
