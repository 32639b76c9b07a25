"""Scorers against answers labelled by hand, and against public implementations."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rouge_score.rouge_scorer import RougeScorer

from gradtx_hf.errors import DataError
from gradtx_hf.tasks.scoring import (
    final_choice,
    final_number,
    normalise_span,
    score_choice,
    score_number,
    score_rouge1,
    score_spans,
)
from tests.tasks import labelled


Scorer = Callable[[str, Sequence[str]], float]
LABELLED: list[tuple[Scorer, str, str, float]] = [
    *((score_number, *case, 1.0) for case in labelled.NUMBERS_RIGHT),
    *((score_number, *case, 0.0) for case in labelled.NUMBERS_WRONG),
    *((score_choice, *case, 1.0) for case in labelled.CHOICES_RIGHT),
    *((score_choice, *case, 0.0) for case in labelled.CHOICES_WRONG),
    *((score_spans, *case, 1.0) for case in labelled.SPANS_RIGHT),
    *((score_spans, *case, 0.0) for case in labelled.SPANS_WRONG),
]


@pytest.mark.parametrize(("score", "completion", "reference", "wanted"), LABELLED)
def test_scores_are_those_given_by_hand(score: Scorer, completion: str, reference: str, wanted: float) -> None:
    assert score(completion, [reference]) == wanted


def test_any_of_several_references_counts() -> None:
    assert score_spans("#### Akers", ["Potter", "Akers"]) == 1.0
    assert score_number("#### 3", ["4", "3"]) == 1.0
    assert score_choice("#### A", ["B", "C"]) == 0.0


@pytest.mark.parametrize("score", [score_number, score_choice, score_spans, score_rouge1])
@pytest.mark.parametrize("references", [[], "B"])
def test_references_that_are_none_or_one_text_are_refused(score: Scorer, references: Sequence[str]) -> None:
    with pytest.raises(DataError, match="expected a list of at least one answer"):
        score("#### B 3", references)


@given(st.text())
def test_any_text_is_scored(text: str) -> None:
    for score in (score_number, score_choice, score_spans):
        assert score(text, ["7"]) in (0.0, 1.0)
    final_number(text), final_choice(text)


@given(st.text())
def test_a_normalised_span_stays_as_it_is(text: str) -> None:
    once = normalise_span(text)
    assert normalise_span(once) == once


@given(st.decimals(min_value=-(10**9), max_value=10**9, places=2))
def test_a_number_written_with_commas_is_the_same_number(number: Decimal) -> None:
    assert final_number(f"#### {number:,}") == number
    assert final_number(f"so it is {number:,}.") == number


def test_rouge_is_the_mean_of_the_public_scorer_over_references() -> None:
    answer, references = "the cat sat on a mat", ["the cat sat", "a dog lay on the mat", "rain"]
    public = RougeScorer(["rouge1"], use_stemmer=False)
    each = [public.score(reference, answer)["rouge1"].fmeasure for reference in references]
    assert score_rouge1(answer, references) == pytest.approx(sum(each) / 3)
    # by hand: 3 of 6 words given, 3 of 3 wanted: F = 2/3; 4 of 6 and 4 of 6: 2/3; none
    assert score_rouge1(answer, references) == pytest.approx((2 / 3 + 2 / 3 + 0) / 3)
