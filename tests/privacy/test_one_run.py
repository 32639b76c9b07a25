from __future__ import annotations

import math

import pytest
import torch
from scipy.stats import beta, binom

from gradtx_hf.errors import ConfigurationError
from gradtx_hf.privacy.binomial import binomial_probabilities, share_interval
from gradtx_hf.privacy.one_run import bound_from_scores, count_correct, epsilon_lower_bound, guess_probability


def bound(m: int, r: int, v: int, *, delta: float = 0.0, confidence: float = 0.95) -> float:
    return epsilon_lower_bound(num_canaries=m, num_guesses=r, num_correct=v, delta=delta, confidence=confidence)


def chance(m: int, r: int, v: int, epsilon: float, *, delta: float = 0.0) -> float:
    return guess_probability(num_canaries=m, num_guesses=r, num_correct=v, epsilon=epsilon, delta=delta)


@pytest.mark.parametrize(("trials", "rate"), [(0, 0.3), (5, 0.0), (5, 1.0), (7, 0.25), (4000, 0.9), (2000, 0.5)])
def test_binomial_probabilities_are_scipys(trials: int, rate: float) -> None:
    expected = binom.pmf(range(trials + 1), trials, rate)

    assert binomial_probabilities(trials, rate).tolist() == pytest.approx(list(expected), rel=1e-8, abs=1e-300)


@pytest.mark.parametrize(("successes", "trials"), [(0, 10), (10, 10), (3, 10), (1, 1000), (700, 1000)])
def test_the_interval_of_a_share_is_that_of_the_beta_distribution(successes: int, trials: int) -> None:
    low, high = share_interval(successes, trials, confidence=0.95)

    assert low == pytest.approx(0 if successes == 0 else beta.ppf(0.025, successes, trials - successes + 1), abs=1e-9)
    assert high == pytest.approx(
        1 if successes == trials else beta.ppf(0.975, successes + 1, trials - successes), abs=1e-9
    )


@pytest.mark.parametrize(("r", "v", "epsilon"), [(100, 75, math.log(3)), (10, 10, 0.0), (300, 180, 0.2)])
def test_without_delta_it_is_the_tail_of_the_binomial(r: int, v: int, epsilon: float) -> None:
    rate = math.exp(epsilon) / (1 + math.exp(epsilon))

    assert chance(1000, r, v, epsilon) == pytest.approx(float(binom.sf(v - 1, r, rate)), rel=1e-9)


def test_the_paper_prints_these_numbers() -> None:
    assert chance(100, 100, 75, math.log(3)) == pytest.approx(0.553, abs=1e-3)  # section 1
    assert bound(1000, 100, 75, delta=1e-4) == pytest.approx(0.673, abs=1e-3)  # appendix D


def test_ten_right_of_ten_refute_what_gives_them_a_chance_below_five_percent() -> None:
    rate = 0.05**0.1  # ten right guesses in a row have a chance of exactly 5 %

    assert bound(10, 10, 10) == pytest.approx(math.log(rate / (1 - rate)), abs=1e-9)


def test_the_term_of_delta_is_the_largest_over_all_i() -> None:
    m, r, v, delta, epsilon = 60, 40, 33, 1e-3, 0.5
    rate = math.exp(epsilon) / (1 + math.exp(epsilon))
    terms = [
        2 / i * sum(binom.pmf(w, r, rate) for w in range(max(v - i, 0), v)) for i in range(1, m + 1)
    ]  # fmt: skip

    expected = binom.sf(v - 1, r, rate) + delta * m * max(terms)

    assert chance(m, r, v, epsilon, delta=delta) == pytest.approx(float(expected), rel=1e-9)


def test_more_right_guesses_raise_the_bound_and_delta_and_confidence_lower_it() -> None:
    bounds = [bound(500, 100, v, delta=1e-5) for v in range(40, 101, 5)]

    assert bounds == sorted(bounds)
    assert bounds[0] == 0  # fewer than half are right
    assert bounds[-1] > 3
    assert bound(500, 100, 80, delta=1e-3) < bound(500, 100, 80, delta=1e-5) < bound(500, 100, 80)
    assert bound(500, 100, 80, confidence=0.999) < bound(500, 100, 80, confidence=0.9)
    assert bound(500, 100, 80, delta=0.5) == 0  # which allows anything


def test_randomised_response_is_bounded_at_its_epsilon_and_seldom_above() -> None:
    epsilon, generator = 1.0, torch.Generator().manual_seed(1)
    rate = math.exp(epsilon) / (1 + math.exp(epsilon))
    bounds = []
    for _ in range(200):
        included = torch.rand(600, generator=generator) < 0.5
        told = included ^ (torch.rand(600, generator=generator) > rate)  # exactly 1-DP for each coin
        noise = torch.rand(600, generator=generator, dtype=torch.float64)
        bounds.append(bound_from_scores(told + 0.1 * noise, included, delta=0, guess_shares=(0.5,)).epsilon)

    num_above = sum(value > epsilon for value in bounds)
    assert num_above <= binom.ppf(0.9999, 200, 0.05)
    assert num_above >= 1  # the bound is tight for this mechanism: some of 200 fail at 95 %
    assert sum(bounds) / len(bounds) > 0.7


def test_trying_several_numbers_of_guesses_keeps_the_confidence() -> None:
    generator, shares = torch.Generator().manual_seed(2), (0.1, 0.2, 0.5, 1.0)
    num_above = 0
    for _ in range(80):
        included = torch.rand(200, generator=generator) < 0.5
        scores = torch.rand(200, generator=generator, dtype=torch.float64)  # tell nothing: 0-DP
        found = bound_from_scores(scores, included, delta=0, guess_shares=shares)
        assert found.num_tries == 4
        num_above += found.epsilon > 0

    assert num_above <= binom.ppf(0.9999, 80, 0.05)


def test_each_of_several_tries_is_tested_at_its_share_of_the_error() -> None:
    included = torch.arange(200) < 100
    scores = torch.arange(200, 0, -1, dtype=torch.float64)  # all guesses are right

    found = bound_from_scores(scores, included, delta=1e-5, confidence=0.9, guess_shares=(0.2, 0.5))

    assert (found.epsilon, found.confidence) == (bound(200, 100, 100, delta=1e-5, confidence=0.95), 0.9)


def test_guesses_are_in_for_the_highest_scores_and_out_for_the_lowest() -> None:
    scores = torch.tensor([5.0, 4.0, 3.0, 2.0, 1.0, 0.0])
    included = torch.tensor([True, False, True, True, False, True])

    assert [count_correct(scores, included, num_guesses=n) for n in (2, 4, 6)] == [1, 2, 3]
    assert count_correct(included.double(), included, num_guesses=4) == 4


def test_scores_that_are_all_equal_tell_nothing() -> None:
    included = torch.arange(1000) >= 500  # in order: a stable sort without a draw would guess them all

    found = bound_from_scores(torch.zeros(1000), included, delta=0, guess_shares=(1.0,))

    assert found.epsilon < 0.1
    assert 400 < found.num_correct < 600


def test_what_makes_no_sense_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="got 11 right of 10 guesses of 20 canaries"):
        bound(20, 10, 11)
    with pytest.raises(ConfigurationError, match=r"got delta=1\.0"):
        bound(20, 10, 9, delta=1.0)
    with pytest.raises(ConfigurationError, match="expected one each"):
        bound_from_scores(torch.zeros(3), torch.zeros(4, dtype=torch.bool), delta=0)
    with pytest.raises(ConfigurationError, match="not finite"):
        bound_from_scores(torch.tensor([math.nan, 1.0]), torch.ones(2, dtype=torch.bool), delta=0)
