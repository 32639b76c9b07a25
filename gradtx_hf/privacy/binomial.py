"""The binomial distribution: its probabilities, and the interval of a share (Clopper and Pearson, 1934)."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor


NUM_HALVINGS = 45


def binomial_probabilities(num_trials: int, success_rate: float) -> Tensor:
    """Return the probabilities of 0 to ``num_trials`` successes: float64 ``[num_trials + 1]``.

    Args:
        num_trials: Independent trials, at least 0.
        success_rate: Probability of each to succeed, in [0, 1].
    """
    successes = torch.arange(num_trials + 1, dtype=torch.float64)
    if success_rate in (0.0, 1.0):
        return (successes == num_trials * success_rate).double()
    ways = math.lgamma(num_trials + 1) - torch.lgamma(successes + 1) - torch.lgamma(num_trials - successes + 1)
    return torch.exp(ways + successes * math.log(success_rate) + (num_trials - successes) * math.log1p(-success_rate))


def share_interval(num_successes: int, num_trials: int, *, confidence: float) -> tuple[float, float]:
    """Return Clopper and Pearson's interval of a success rate: it holds the rate at least so often.

    Args:
        num_successes: Trials that succeeded.
        num_trials: Independent trials, at least 1.
        confidence: In (0, 1).
    """
    tail = (1 - confidence) / 2

    def at_least(rate: float) -> float:
        return float(binomial_probabilities(num_trials, rate)[num_successes:].sum())

    def at_most(rate: float) -> float:
        return float(binomial_probabilities(num_trials, rate)[: num_successes + 1].sum())

    low = 0.0 if num_successes == 0 else last_true(lambda rate: at_least(rate) < tail, high=1.0)
    high = 1.0 if num_successes == num_trials else last_true(lambda rate: at_most(rate) > tail, high=1.0)
    return low, high


def last_true(holds: Callable[[float], bool], *, high: float) -> float:
    """Return where a statement that holds up to some value of [0, high] stops to, by halving; its lower end."""
    low = 0.0
    for _ in range(NUM_HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if holds(middle) else (low, middle)
    return low
