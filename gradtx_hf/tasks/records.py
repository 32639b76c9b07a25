"""The original files of data sets: JSON lines, a JSON list of rows, or a JSON object of rows by id."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gradtx_hf.errors import DataError, MissingFileError


def read_records(path: str | Path) -> list[Mapping[str, Any]]:
    """Read a file's rows.

    Raises:
        MissingFileError: If it is not there.
        DataError: If it is not JSON, or its rows are not objects.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise MissingFileError(
            f"data '{path}' is not there. Give a file, a folder, or the id of a data set."
        ) from error
    except (UnicodeDecodeError, OSError) as error:
        raise DataError(f"data '{path}' cannot be read: {error}") from error
    try:
        first, _, rest = text.lstrip().partition("\n")
        is_lines = bool(rest.strip()) and _is_json(first)
        rows = [json.loads(line) for line in text.splitlines() if line.strip()] if is_lines else json.loads(text)
    except json.JSONDecodeError as error:
        raise DataError(
            f"data '{path}' is not JSON (line {error.lineno}: {error.msg}). Give JSON or JSON lines."
        ) from error
    if isinstance(rows, dict):
        # an object of rows by id (DROP), or a file of one row
        rows = list(rows.values()) if all(isinstance(value, dict) for value in rows.values()) else [rows]
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise DataError(f"data '{path}' holds no rows of keys and values. Give JSON lines, or a list of objects.")
    return rows


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except json.JSONDecodeError:
        return False
    return True
