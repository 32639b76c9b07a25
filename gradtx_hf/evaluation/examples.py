"""Scores of single examples, as a report keeps them: one short text for each client and method.

Scores that are all 0 or 1 are one character each; others are decimals of three digits with commas between them.
Source: ours.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from gradtx_hf.errors import DataError


SEPARATOR = ","
DIGITS = 3


def encode_examples(scores: Sequence[float]) -> str:
    """Return scores in [0, 1] as text, such as ``1101`` or ``.5,.333,1``; graded ones lose digits after the third.

    Raises:
        DataError: If there is no score.
    """
    if not len(scores):
        raise DataError("got no example with a score, expected at least one.")
    if all(score in (0, 1) for score in scores):
        return "".join(str(int(score)) for score in scores)
    return SEPARATOR.join(f"{score:.{DIGITS}f}".strip("0").removesuffix(".") or "0" for score in scores)


def decode_examples(text: str) -> np.ndarray:
    """Return the scores ``[N]`` of ``encode_examples``'s text.

    Raises:
        DataError: If the text is not of that form.
    """
    is_graded = SEPARATOR in text or "." in text
    try:
        scores = np.array([float(score) for score in (text.split(SEPARATOR) if is_graded else text)])
    except ValueError as error:
        raise DataError(f"got scores of examples that are no numbers ({error}). The report is damaged.") from error
    if not len(scores):
        raise DataError("got no example with a score, expected at least one.")
    return scores
