"""Scores of one answer against its references; pure functions of text, each in [0, 1]."""

from __future__ import annotations

import re
import string
from collections.abc import Sequence
from decimal import Decimal, InvalidOperation
from functools import cache
from typing import Any

from gradtx_hf.errors import ConfigurationError, DataError
from gradtx_hf.tasks.task import ANSWER_MARK


NUMBER = re.compile(r"-?\$?-?(?:\d{1,3}(?:,\d{3})+|\d+)?(?:\.\d+)?(?<=\d)")
SEPARATOR = ";"
"""Between the spans of an answer with several."""


def score_number(completion: str, references: Sequence[str]) -> float:
    """Score a number: 1 where the final one equals a reference as a number, so that "#### 1,000" is 1000.

    The final number is the first after the last ``####``, else the last of the text.
    """
    answer = final_number(completion)
    return float(answer is not None and any(answer == final_number(reference) for reference in _some(references)))


def final_number(text: str) -> Decimal | None:
    """Return the number that a text ends with: the first after the last ``####``, else the last; None without any.

    Thousands' commas, a currency sign and a trailing point or percent sign are left out.
    """
    marked = text.rpartition(ANSWER_MARK)
    found = [match for match in NUMBER.findall(marked[2]) if match]
    if not found:
        return None
    try:
        return Decimal((found[0] if marked[1] else found[-1]).replace(",", "").replace("$", ""))
    except InvalidOperation:
        return None


def score_choice(completion: str, references: Sequence[str]) -> float:
    """Score the letter of a choice: 1 where it is the reference's, so that "(B)", "B." and "B) bank" are "B"."""
    answer = final_choice(completion)
    return float(answer is not None and answer in _some(references))


def final_choice(text: str) -> str | None:
    """Return the letter that a text decides for, from A to J; None where it decides for none.

    In this order: the letter after the last ``####``; after the last "answer is" or "answer:"; the last letter in
    brackets; the letter that the text begins with, if a bracket, a point, a colon or nothing follows.
    """
    _, mark, tail = text.rpartition(ANSWER_MARK)
    if mark:
        found = re.match(r"\W*([A-Ja-j])(?![A-Za-z])", tail)
        return found.group(1).upper() if found else None
    patterns = (
        r"(?i:answer\s*(?:is\s*:?|:)\s*(?:option\s*)?)[\s*(\[]*([A-J])(?![A-Za-z'])",
        r"\(([A-J])\)",
        r"\A\s*([A-Ja-j])\s*(?:[).:]|\Z)",
    )
    for pattern in patterns:
        letters = re.findall(pattern, tail)
        if letters:
            return str(letters[-1]).upper()
    return None


def score_spans(completion: str, references: Sequence[str]) -> float:
    """Score spans of text, numbers and dates by DROP's exact match (Dua et al. 2019, Sec. 5).

    Each reference is one answer, its spans separated by semicolons; the completion's are what follows the last
    ``####``, or all of it. Spans match in any order, after ``normalise_span``.
    """
    answer = sorted(_spans(completion.rpartition(ANSWER_MARK)[2]))
    return float(any(answer == sorted(_spans(reference)) for reference in _some(references)))


def normalise_span(text: str) -> str:
    """Bring a span to the form in which DROP compares: small letters, no articles, no punctuation, numbers as numbers.

    Words are parted at spaces and hyphens; a word that is a number as it stands becomes one, another loses its
    punctuation first.
    """
    words = (_normalise_word(word) for word in re.split(r"[ \t\r\n-]", text.lower()))
    return " ".join(word for word in words if word)


def score_rouge1(completion: str, references: Sequence[str]) -> float:
    """Score a summary by the F measure of ROUGE-1 (Lin 2004), without stemming, as the mean over its references.

    Raises:
        ConfigurationError: If the package rouge-score is not installed.
    """
    scorer = _rouge_scorer()
    found = [scorer.score(reference, completion.strip())["rouge1"].fmeasure for reference in _some(references)]
    return float(sum(found) / len(found))


@cache
def _rouge_scorer() -> Any:  # noqa: ANN401 - rouge-score has no types, and may not be installed
    try:
        from rouge_score.rouge_scorer import RougeScorer
    except ImportError as error:
        raise ConfigurationError("ROUGE needs rouge-score: pip install 'gradtx-hf[eval]'.") from error
    return RougeScorer(["rouge1"], use_stemmer=False)


def _spans(text: str) -> list[str]:
    return [span for span in map(normalise_span, text.split(SEPARATOR)) if span]


def _normalise_word(word: str) -> str:
    if not _is_number(word):
        word = "".join(character for character in word if character not in string.punctuation)
    if word in ("a", "an", "the"):
        return ""
    return str(float(word)) if _is_number(word) else word


def _is_number(word: str) -> bool:
    try:
        float(word)
    except ValueError:
        return False
    return True


def _some(references: Sequence[str]) -> Sequence[str]:
    if isinstance(references, str) or not references:
        raise DataError(f"got references {references!r}, expected a list of at least one answer.")
    return references
