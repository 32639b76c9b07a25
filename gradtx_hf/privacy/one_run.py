"""A lower bound of epsilon from one training run with canaries (Steinke, Nasr and Jagielski, 2023: arXiv 2305.08846).

Each of m canaries is in the training by a fair coin of its own. Whoever sees the outcome gives every canary a score,
guesses "in" for the highest scores, "out" for the lowest, and abstains from the rest. Under (epsilon, delta)-DP the
number of right guesses out of r is, but for a term of delta, at most a binomial variable of r trials with success rate
e^epsilon / (1 + e^epsilon): more right guesses than that allows refute epsilon.

What the bound needs: coins, and nothing else that depends on the canaries, decide what is in; the scores read the
coins through the outcome alone; the number of guesses is fixed before. Where several numbers are tried, each is tested
at a share of the error (Bonferroni), and the largest bound is taken.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from gradtx_hf.errors import ConfigurationError
from gradtx_hf.privacy.binomial import binomial_probabilities, last_true


GUESS_SHARES = (0.2,)
"""Guesses over canaries (ours): near the best for Gaussian noise at epsilon 2 with 500 to 4,000 canaries."""
ROW_GUESS_SHARES = (0.2, 0.5)
"""Of rows, which an adapter may have learned all by heart: two tries, corrected for."""
LARGEST_EPSILON = 40.0
"""Above, e^epsilon / (1 + e^epsilon) is 1 in floating point."""


@dataclass(frozen=True)
class EpsilonBound:
    """What an audit of one run found.

    Attributes:
        epsilon: The lower bound; 0 where nothing is refuted.
        confidence: Probability of a bound that holds, at least.
        delta: At which epsilon is bounded.
        num_canaries: Canaries, in and out.
        num_guesses: Guesses, half of them "in".
        num_correct: Right ones.
        num_tries: Numbers of guesses that were tried, for which the confidence is corrected.
    """

    epsilon: float
    confidence: float
    delta: float
    num_canaries: int
    num_guesses: int
    num_correct: int
    num_tries: int


def guess_probability(*, num_canaries: int, num_guesses: int, num_correct: int, epsilon: float, delta: float) -> float:
    """Return the most that the probability of so many right guesses can be under (epsilon, delta)-DP.

    With W binomial of r = ``num_guesses`` trials at rate e^epsilon / (1 + e^epsilon) and v = ``num_correct`` it is
    P[W >= v] + delta m max over i in 1…m of (2 / i) P[v > W >= v - i]  (Theorem 5.2, Corollary 5.4).

    Args:
        num_canaries: m, each in by a fair coin of its own.
        num_guesses: r, at most m, fixed before the coins were seen.
        num_correct: v, at most r.
        epsilon: At least 0.
        delta: In [0, 1].
    """
    rate = 1 / (1 + math.exp(-epsilon))
    probabilities = binomial_probabilities(num_guesses, rate)
    tail = float(probabilities[num_correct:].sum())
    if delta == 0 or num_correct == 0:
        return min(tail, 1.0)
    below = probabilities[:num_correct].flip(0).cumsum(0)  # P[v > W >= v - i] for i = 1 … v; no more beyond
    largest = float((2 * below / torch.arange(1, num_correct + 1)).max())
    return min(tail + delta * num_canaries * largest, 1.0)


def epsilon_lower_bound(
    *, num_canaries: int, num_guesses: int, num_correct: int, delta: float, confidence: float
) -> float:
    """Return the largest epsilon that so many right guesses refute; 0 if they refute none.

    Args:
        num_canaries: Canaries, each in by a fair coin of its own.
        num_guesses: Guesses, fixed before the coins were seen.
        num_correct: Right ones.
        delta: At which epsilon is bounded, in [0, 1).
        confidence: Probability of a bound that holds, at least; in (0, 1).

    Raises:
        ConfigurationError: If a value is out of its range.
    """
    if not 0 <= num_correct <= num_guesses <= num_canaries:
        raise ConfigurationError(
            f"got {num_correct} right of {num_guesses} guesses of {num_canaries} canaries, expected no more of each "
            "than of the next."
        )
    if not 0 <= delta < 1 or not 0 < confidence < 1:
        raise ConfigurationError(
            f"got delta={delta!r} and confidence={confidence!r}, expected numbers in [0, 1) and (0, 1)."
        )

    def is_refuted(epsilon: float) -> bool:
        probability = guess_probability(
            num_canaries=num_canaries, num_guesses=num_guesses, num_correct=num_correct, epsilon=epsilon, delta=delta
        )
        return probability < 1 - confidence

    return last_true(is_refuted, high=LARGEST_EPSILON)


def count_correct(scores: Tensor, included: Tensor, *, num_guesses: int) -> int:
    """Return how many guesses are right: "in" for the highest scores, "out" for the lowest, half each.

    Args:
        scores: ``[m]``, higher for what seems to be in; ties are broken by a draw that does not read the coins.
        included: Whether each canary was in, ``[m]``.
        num_guesses: An even number, at most m.
    """
    shuffled = torch.randperm(len(scores), generator=torch.Generator().manual_seed(0))
    order = shuffled[scores[shuffled].argsort(stable=True)]
    half = num_guesses // 2
    lowest, highest = order[:half], order[len(order) - half :]
    return int(included[highest].sum() + (~included[lowest]).sum())


def bound_from_scores(
    scores: Tensor,
    included: Tensor,
    *,
    delta: float,
    confidence: float = 0.95,
    guess_shares: Sequence[float] = GUESS_SHARES,
) -> EpsilonBound:
    """Guess which canaries were in, and bound epsilon from below.

    Args:
        scores: ``[m]``, higher for what seems to be in.
        included: Whether each canary was in, ``[m]``: m independent fair coins.
        delta: At which epsilon is bounded.
        confidence: Probability of a bound that holds, at least, over all tries together.
        guess_shares: Guesses over canaries, each in (0, 1], chosen before the scores are seen. Of several the largest
            bound is taken, each at its share of the error.

    Raises:
        ConfigurationError: If there are fewer than two canaries, or a value is out of its range.
    """
    if scores.shape != included.shape or scores.ndim != 1 or len(scores) < 2 or not guess_shares:
        raise ConfigurationError(
            f"got {list(scores.shape)} scores for {list(included.shape)} canaries, expected one each, of two or more."
        )
    if not torch.isfinite(scores).all() or not all(0 < share <= 1 for share in guess_shares):
        raise ConfigurationError("a score is not finite, or a share of guesses is not in (0, 1].")
    num_canaries, bounds = len(scores), []
    for share in guess_shares:
        num_guesses = 2 * max(int(share * num_canaries / 2), 1)
        num_correct = count_correct(scores, included.bool(), num_guesses=num_guesses)
        epsilon = epsilon_lower_bound(
            num_canaries=num_canaries,
            num_guesses=num_guesses,
            num_correct=num_correct,
            delta=delta,
            confidence=1 - (1 - confidence) / len(guess_shares),
        )
        bounds.append(
            EpsilonBound(epsilon, confidence, delta, num_canaries, num_guesses, num_correct, len(guess_shares))
        )
    return max(bounds, key=lambda bound: bound.epsilon)
