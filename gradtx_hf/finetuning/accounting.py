"""Accounting of DP-SGD: noise to epsilon, epsilon to noise, and several runs on the same rows together. Needs [dp].

A step draws every row by itself with probability q, clips its gradient to norm C, sums, and adds Gaussian noise of
standard deviation sigma C. Neighbouring data differ by one row, added or removed; how many rows there are is public.
Source: numerical composition of privacy loss variables (Gopi et al., 2021), through Opacus' PRV accountant. It returns
upper bounds. Rényi bounds are 5 to 17 % looser, and the central limit ("GDP") can report too little: neither is used.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib.util import find_spec

import numpy as np

from gradtx_hf.errors import ConfigurationError, MissingExtraError


ACCOUNTANT = "prv"
SMALLEST_DELTA = 1e-9
"""Below, rounding in the Fourier transforms is no longer small against delta."""
LARGEST_EPSILON = 500.0
SMALLEST_EPSILON = 0.01
LARGEST_NOISE = 1e4
SMALLEST_NOISE = 0.01
SHARE_OF_EPSILON = 0.002
SMALLEST_ERROR = 0.001
LARGEST_ERROR = 0.02
MOST_POINTS = 8_000_000
SPENT_SHARE = 0.99
"""Least share of a given epsilon that the noise found for it spends."""
LARGEST_LEAP = 8.0
ORDERS = [*range(2, 64), 128, 256, 512, 1024]
"""Rényi orders of the rough bound that the grid is chosen by; whole ones are fast."""
NOISE_TOLERANCE = 1e-4
LARGEST_BUDGET = 100.0


@dataclass(frozen=True)
class NoisySteps:
    """Steps of one DP-SGD run.

    Attributes:
        noise_multiplier: Standard deviation of the noise over the clipping norm.
        sample_rate: Probability of every row to be in a step, in (0, 1].
        num_steps: Optimizer steps.
    """

    noise_multiplier: float
    sample_rate: float
    num_steps: int

    def __post_init__(self) -> None:
        """Check every value.

        Raises:
            ConfigurationError: If one is out of its range.
        """
        _require("noise_multiplier", self.noise_multiplier, low=0, high=LARGEST_NOISE)
        _require_steps(self.sample_rate, self.num_steps)


def epsilon(*, noise_multiplier: float, sample_rate: float, num_steps: int, delta: float) -> float:
    """Return the epsilon of a DP-SGD run: an upper bound, at most 0.001 or 1 % above the least.

    Args:
        noise_multiplier: Standard deviation of the noise over the clipping norm.
        sample_rate: Probability of every row to be in a step, in (0, 1].
        num_steps: Optimizer steps.
        delta: Probability that epsilon may not hold, in [1e-9, 1).

    Raises:
        ConfigurationError: If a value is out of its range, or epsilon is above 500.
        MissingExtraError: If Opacus is not installed.
    """
    return compose([NoisySteps(noise_multiplier, sample_rate, num_steps)], delta=delta)


def compose(runs: Sequence[NoisySteps], *, delta: float) -> float:
    """Return the epsilon of several runs on the same rows: of their composition, which is less than their sum.

    Args:
        runs: The runs.
        delta: Probability that epsilon may not hold for all of them together, in [1e-9, 1).

    Raises:
        ConfigurationError: If there are no runs, delta is out of its range, or epsilon is above 500.
        MissingExtraError: If Opacus is not installed.
    """
    if not runs:
        raise ConfigurationError("got no runs to account for, expected at least one.")
    _require("delta", delta, low=SMALLEST_DELTA, high=1, includes_low=True)
    spent = _epsilon(tuple(runs), delta)
    if math.isinf(spent):
        raise ConfigurationError(
            f"epsilon is above {LARGEST_EPSILON:g}, which says nothing any more. Raise the noise, or train fewer steps "
            "on fewer rows at a time."
        )
    return spent


def noise_multiplier(*, epsilon: float, sample_rate: float, num_steps: int, delta: float) -> float:
    """Return the noise with which a DP-SGD run keeps within an epsilon, and spends 99 % of it.

    Args:
        epsilon: What the run may spend, in [0.01, 100].
        sample_rate: Probability of every row to be in a step, in (0, 1].
        num_steps: Optimizer steps.
        delta: Probability that epsilon may not hold, in [1e-9, 1).

    Raises:
        ConfigurationError: If a value is out of its range, or no noise serves.
        MissingExtraError: If Opacus is not installed.
    """
    _require("epsilon", epsilon, low=SMALLEST_EPSILON, high=LARGEST_BUDGET, includes_low=True, includes_high=True)
    _require("delta", delta, low=SMALLEST_DELTA, high=1, includes_low=True)
    _require_steps(sample_rate, num_steps)

    noise, too_little, enough = 1.0, None, None
    while SMALLEST_NOISE <= noise <= LARGEST_NOISE:
        spent = _epsilon((NoisySteps(noise, sample_rate, num_steps),), delta)
        if spent > epsilon:
            too_little = (noise, spent)
        elif spent >= SPENT_SHARE * epsilon:
            return noise
        else:
            enough = (noise, spent)
        if too_little is not None and enough is not None:
            if enough[0] / too_little[0] < 1 + NOISE_TOLERANCE:
                return enough[0]
            noise = _between(too_little, enough, target=epsilon * (1 + SPENT_SHARE) / 2)
        else:
            noise *= min(max(spent / epsilon, 1 / LARGEST_LEAP), LARGEST_LEAP) * (1.05 if enough is None else 0.95)
    if enough is not None:
        return enough[0]
    raise ConfigurationError(
        f"no noise keeps {num_steps} steps at sample rate {sample_rate:g} within epsilon={epsilon:g}. Train fewer "
        "steps on fewer rows at a time, or allow more."
    )


def _between(first: tuple[float, float], second: tuple[float, float], *, target: float) -> float:
    """Return the noise that comes to a target by the line through two points (noise, epsilon), in logarithms."""
    share = 0.5
    if math.isfinite(first[1]) and second[1] > 0:
        share = math.log(first[1] / target) / math.log(first[1] / second[1])
    share = min(max(share, 0.02), 0.98)
    return math.exp((1 - share) * math.log(first[0]) + share * math.log(second[0]))


@lru_cache(maxsize=256)
def _epsilon(runs: tuple[NoisySteps, ...], delta: float) -> float:
    """Return the upper bound of epsilon, or infinity if it is above the largest."""
    if find_spec("opacus") is None:
        raise MissingExtraError('differential privacy needs opacus. Install it with: pip install "gradtx-hf[dp]"')
    from opacus.accountants import PRVAccountant  # an extra, and slow to import
    from opacus.accountants.analysis.rdp import compute_rdp, get_privacy_spent

    history = [(run.noise_multiplier, run.sample_rate, run.num_steps) for run in runs]
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")  # of Rényi orders at their limits, and of logarithms at sample rate 1
        bounds = sum(
            compute_rdp(q=run.sample_rate, noise_multiplier=run.noise_multiplier, steps=run.num_steps, orders=ORDERS)
            for run in runs
        )
        estimate, reach = (
            float(get_privacy_spent(orders=ORDERS, rdp=bounds, delta=share)[0]) for share in (delta, delta / 4000)
        )
        if not reach <= LARGEST_EPSILON * 1.2:  # how far the grid would go
            return math.inf
        exact = PRVAccountant()
        exact.history = history
        error = _grid_error(estimate, reach, num_steps=sum(run.num_steps for run in runs), delta=delta)
        try:
            spent = float(exact.get_epsilon(delta, eps_error=error))
        except (RuntimeError, ValueError, MemoryError) as failure:
            reason = " ".join(str(failure).split())[:120] or type(failure).__name__
            raise ConfigurationError(
                f"epsilon cannot be computed for noise, rate and steps {history} at delta={delta:g} ({reason}). Choose "
                "a larger delta, or fewer steps."
            ) from failure
    if not math.isfinite(spent) or spent > LARGEST_EPSILON:
        return math.inf
    return max(spent, 0.0)


def _grid_error(estimate: float, reach: float, *, num_steps: int, delta: float) -> float:
    """Return the error in epsilon to compute with: small, but such that the grid is not too large.

    Raises:
        ConfigurationError: If no error that can be borne gives such a grid.
    """
    points_times_error = 2 * (reach + 3) * math.sqrt(num_steps * math.log(12000 / delta) / 2)  # as Opacus lays it
    error = max(SHARE_OF_EPSILON * estimate, SMALLEST_ERROR, points_times_error / MOST_POINTS)
    if error > max(LARGEST_ERROR, 0.01 * estimate):
        raise ConfigurationError(f"epsilon of {num_steps} steps cannot be computed closely enough. Train fewer steps.")
    return min(error, 0.5)


def _require_steps(sample_rate: float, num_steps: int) -> None:
    _require("sample_rate", sample_rate, low=0, high=1, includes_high=True)
    if isinstance(num_steps, bool) or not isinstance(num_steps, int) or num_steps < 1:
        raise ConfigurationError(f"got num_steps={num_steps!r}, expected a whole number of steps, at least 1.")


def _require(
    name: str, value: float, *, low: float, high: float, includes_low: bool = False, includes_high: bool = False
) -> None:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if is_number and (low < value < high or (includes_low and value == low) or (includes_high and value == high)):
        return
    interval = f"{'[' if includes_low else '('}{low:g}, {high:g}{']' if includes_high else ')'}"
    raise ConfigurationError(f"got {name}={value!r}, expected a number in {interval}.")
