"""The JSON files of an update store: read one, read off a plan what the shards are, say where two plans differ."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from gradtx_hf.errors import StoreError


FORMAT = "gradtx update store 1"
MAX_SHADOW_SETS = 10**6
DTYPE_KEY = "store_dtype"
STORE_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
"""What the numbers of a shard may be stored as; float32 where a plan does not say."""


def read_json(path: Path) -> Any:  # noqa: ANN401 - any JSON value
    """Read a file of a store.

    Raises:
        StoreError: If it is missing or damaged.
    """
    try:
        return json.loads(path.read_bytes())
    except FileNotFoundError as error:
        raise StoreError(f"'{path}' is missing. The same gradtx curate command completes the store.") from error
    except (OSError, ValueError, RecursionError) as error:
        raise StoreError(f"'{path}' is damaged: it is not JSON. Run the same curation again.") from error


def read_plan(path: Path) -> dict[str, Any]:
    """Read a store's plan and layouts.

    Raises:
        StoreError: If the file is missing, damaged, or of another version.
    """
    values = read_json(path)
    if not isinstance(values, dict) or values.get("format") != FORMAT:
        raise StoreError(f"'{path}' is no plan of an update store of this version. Name a new folder.")
    plan = values.get("plan")
    num_shadow_sets = plan.get("num_shadow_sets") if isinstance(plan, dict) else None
    is_whole = {"source_layout", "target_layout"} <= values.keys() and type(num_shadow_sets) is int
    if not is_whole or not 0 <= num_shadow_sets <= MAX_SHADOW_SETS:  # type: ignore[operator]
        raise StoreError(
            f"'{path}' is damaged: it lacks a layout, or num_shadow_sets up to {MAX_SHADOW_SETS}. Name a new folder."
        )
    return values


def planned_target_sets(plan: Mapping[str, Any]) -> list[int]:
    """Return the shadow sets that have a target run, ascending; all where the plan does not name them.

    Args:
        plan: A store's plan, with ``num_shadow_sets``.

    Raises:
        StoreError: If it names anything but different shadow sets of its own.
    """
    every = range(plan["num_shadow_sets"])
    named: list[int] = plan.get("target_shadow_sets", list(every))
    are_numbers = isinstance(named, list) and all(type(number) is int for number in named)
    if not are_numbers or sorted(set(every).intersection(named)) != named:
        raise StoreError(
            f"got target_shadow_sets={_shorten(named)} in the plan of an update store, expected different numbers "
            f"from 0 to {len(every) - 1}, ascending."
        )
    return named


def planned_dtype(plan: Mapping[str, Any]) -> torch.dtype:
    """Return what the numbers of a store are stored as.

    Args:
        plan: A store's plan.

    Raises:
        StoreError: If it names none of ``STORE_DTYPES``.
    """
    named = plan.get(DTYPE_KEY, "float32")
    if not isinstance(named, str) or named not in STORE_DTYPES:
        raise StoreError(
            f"got {DTYPE_KEY}={_shorten(named)} in the plan of an update store, expected one of "
            f"{', '.join(STORE_DTYPES)}."
        )
    return STORE_DTYPES[named]


def require_same_plan(got: Mapping[str, Any], expected: Mapping[str, Any], folder: Path) -> None:
    """Check that a curation continues the store that a folder holds.

    Args:
        got: What is to be curated, as JSON values.
        expected: What the folder's plan says.
        folder: The folder, for the message.

    Raises:
        StoreError: If they differ; the message names the first key that does.
    """
    difference = _first_difference(got, expected, "")
    if difference:
        raise StoreError(
            f"folder '{folder}' holds the store of another plan: {difference}. Name a new folder, or curate with the "
            "store's own plan."
        )


def _first_difference(got: Any, expected: Any, path: str) -> str | None:  # noqa: ANN401 - any JSON value
    if isinstance(got, dict) and isinstance(expected, dict):
        keys = [(key, f"{path}.{key}".removeprefix(".").removeprefix("plan.")) for key in sorted({*got, *expected})]
        found = (_first_difference(got.get(key), expected.get(key), place) for key, place in keys)
        return next((difference for difference in found if difference), None)
    if isinstance(got, list) and isinstance(expected, list) and len(got) == len(expected):
        found = (_first_difference(a, b, f"{path}[{i}]") for i, (a, b) in enumerate(zip(got, expected, strict=True)))
        return next((difference for difference in found if difference), None)
    return None if got == expected else f"{path} is {_shorten(got)}, the store has {_shorten(expected)}"


def _shorten(value: Any) -> str:  # noqa: ANN401 - any JSON value
    text = json.dumps(value)
    return text if len(text) <= 80 else f"{text[:77]}…"
