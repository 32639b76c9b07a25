"""Scores of a model's outputs; pure functions."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean

from gradtx_hf.errors import DataError


def exact_match(predictions: Sequence[str], references: Sequence[str]) -> float:
    """Return the share of predictions that equal their reference, white space at both ends aside.

    Args:
        predictions: Generated answers.
        references: The answers wanted, in the same order.

    Returns:
        A share in [0, 1].

    Raises:
        DataError: If there is nothing to compare, or the numbers of answers differ.
    """
    return fmean(exact_matches(predictions, references))


def exact_matches(predictions: Sequence[str], references: Sequence[str]) -> list[float]:
    """Return for each prediction whether it equals its reference, as 0 or 1; see ``exact_match``.

    Raises:
        DataError: As ``exact_match``.
    """
    if len(predictions) != len(references):
        raise DataError(f"got {len(predictions)} predictions for {len(references)} references.")
    if not references:
        raise DataError("got no prediction to score, expected at least one.")
    return [float(p.strip() == r.strip()) for p, r in zip(predictions, references, strict=True)]
