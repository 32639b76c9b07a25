"""Cells of one kind: those that differ in numbers and tasks alone, so that all go the same way. Source: ours."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any


NUMBER = re.compile(r"\d+(\.\d+)?")


def one_of_each_kind(cells: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Return the first cell of each kind.

    Args:
        cells: Name of a cell to its settings: what ``json`` writes.
    """
    first: dict[str, str] = {}
    for name, settings in cells.items():
        first.setdefault(json.dumps(_kind_of(settings), sort_keys=True), name)
    return list(first.values())


def _kind_of(value: Any) -> Any:  # noqa: ANN401 - any JSON value
    if isinstance(value, Mapping):
        return {str(name): "#" if name == "task" else _kind_of(entry) for name, entry in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_kind_of(entry) for entry in value]
    if isinstance(value, str):
        return NUMBER.sub("#", value)
    if isinstance(value, bool) or not value:  # None and 0 are ways of their own
        return value
    return "#"
