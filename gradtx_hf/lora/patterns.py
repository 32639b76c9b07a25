"""Match module names against the patterns of an adapter's configuration, which may be made to take forever.

PEFT takes the keys of ``rank_pattern`` and ``alpha_pattern``, and a ``target_modules`` that is a text, for regular
expressions. One that backtracks takes longer than anyone lives for a name of forty letters, so that time is bounded.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from functools import lru_cache
from typing import Any

import regex  # type: ignore[import-untyped]  # as re, and a match can be given up after a time

from gradtx_hf.errors import AdapterError


MATCH_SECONDS = 0.02
"""Processor time for one name and one pattern; honest ones take microseconds."""
MAX_PATTERN_CHARACTERS = 10_000


def is_pattern(text: object) -> bool:
    """Return whether a value is a regular expression that can be read."""
    if not isinstance(text, str) or len(text) > MAX_PATTERN_CHARACTERS:
        return False
    try:
        _compiled(text)
    except (regex.error, ValueError, OverflowError, RecursionError):
        return False
    return True


def fits(pattern: str, name: str) -> bool:
    """Return whether the whole of a name fits a pattern.

    Raises:
        AdapterError: If that takes too long.
    """
    try:
        return _compiled(pattern).fullmatch(name, timeout=MATCH_SECONDS) is not None
    except TimeoutError as error:
        raise AdapterError(
            f"pattern {pattern[:60]!r} takes too long to match '{name[:60]}'. Name the modules in adapter_config.json "
            "one by one instead."
        ) from error


def first_fitting(patterns: Iterable[str], module: str) -> str | None:
    """Return the first pattern that a module's path, or its end after a dot, fits, as PEFT does; None without any.

    Raises:
        AdapterError: If that takes too long.
    """
    return next((pattern for pattern in patterns if fits(rf"(.*\.)?({pattern})", module)), None)


@lru_cache(maxsize=4096)
def _compiled(pattern: str) -> Any:  # noqa: ANN401 - regex has no types
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of sets that a later version may read otherwise
        return regex.compile(pattern)
