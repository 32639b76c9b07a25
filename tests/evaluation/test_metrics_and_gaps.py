"""Exact match, PGR and gain recovered, by hand."""

from __future__ import annotations

import math

import pytest

from gradtx_hf.errors import DataError
from gradtx_hf.evaluation import exact_match, gain_recovered, performance_gap_recovered


def test_exact_match_ignores_white_space_at_the_ends_only() -> None:
    assert exact_match([" abc\n", "a b", "", "x"], ["abc", "ab", " ", "y"]) == 0.5


@pytest.mark.parametrize(("predictions", "references"), [([], []), (["a"], ["a", "b"])])
def test_exact_match_refuses_what_cannot_be_compared(predictions: list[str], references: list[str]) -> None:
    with pytest.raises(DataError):
        exact_match(predictions, references)


def test_pgr_is_the_papers_formula() -> None:
    # AQuA, single client, of the paper: 48.43 -> 61.02, ceiling 58.66
    share = performance_gap_recovered(61.02, source_client=48.43, ceiling=58.66)

    assert share.value == pytest.approx(1.2307, abs=1e-4)
    assert share.reason is None


def test_gain_is_measured_from_the_untouched_target() -> None:
    assert gain_recovered(0.7, target_untouched=0.1, ceiling=0.9).value == pytest.approx(0.75)


def test_shares_follow_the_direction_of_the_metric() -> None:
    lower = {"target_untouched": 3.0, "ceiling": 2.0, "higher_is_better": False}

    assert gain_recovered(2.25, **lower).value == pytest.approx(0.75)
    assert gain_recovered(3.5, **lower).value == pytest.approx(-0.5)
    assert gain_recovered(2.25, target_untouched=3.0, ceiling=2.0).value is None


@pytest.mark.parametrize(("source", "ceiling"), [(0.6, 0.6), (0.7, 0.6), (0.1 + 0.2, 0.3)])
def test_no_gap_is_null_with_its_reason(source: float, ceiling: float) -> None:
    share = performance_gap_recovered(0.5, source_client=source, ceiling=ceiling)

    assert share.value is None
    assert share.reason is not None
    assert "ceiling" in share.reason
    assert "not better than the source client" in share.reason


def test_an_uncertain_gap_is_null_with_its_reason() -> None:
    scores = {"translated": 0.5, "target_untouched": 0.4, "ceiling": 0.6}

    assert gain_recovered(**scores, gap_interval=(0.1, 0.3)).value == pytest.approx(0.5)
    share = gain_recovered(**scores, gap_interval=(-0.1, 0.5))

    assert share.value is None
    assert share.reason is not None
    assert "contains 0" in share.reason


def test_a_score_that_is_not_finite_gives_no_share() -> None:
    share = gain_recovered(math.nan, target_untouched=0.4, ceiling=0.6)

    assert (share.value, share.reason) == (None, "there is no score of the translated adapter")
