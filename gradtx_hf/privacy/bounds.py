"""What shadow runs tell a translator of the public data, bounded in nats, and the generalisation gap that follows.

A translator that learns from the shadow runs' adapters alone (objective ``parameter``) knows no more of the public data
D_p than they do together: I(w; D_p) <= sum_k I(theta_k; D_k) (paper, Corollary 5.3), over all source and target runs.
An ordinary run has no bound on I(theta_k; D_k). One by DP-SGD has, through its Rényi divergence at order 1, which is
the Kullback-Leibler (KL) divergence. Derivation, for n independent rows Z_i and neighbours by adding or removing one:

    I(theta; D) <= sum_i I(theta; Z_i | all other rows)               chain rule; the rows are independent
                <= sum_i E KL(P(theta | D) || P(theta | D without i))   whatever reference we take in place of the mean
                <= n T KL((1 - q) N(0, s^2) + q N(1, s^2) || N(0, s^2))  T steps of the Poisson-subsampled Gaussian

with q the sample rate and s the noise multiplier: the chain rule of KL over steps, then joint convexity over which
other rows are drawn. Without subsampling a step gives 1 / (2 s^2). Compare Bun & Steinke (2016): I <= rho n for
independent rows and rho-zCDP; and Mironov, Talwar & Zhang (2019) for the worst pair of a step.

What this is not:

- It follows from no (epsilon, delta): with probability delta such a run may give away all, and delta > 0 bounds no
  mutual information.
- It says nothing of a translator of objective ``functional``, which reads the shadow sets' own lines in training.
- A client's own differential privacy bounds what its adapter reveals of its rows. It has no part in Theorem 5.2, whose
  term is I(w; D_p) of the public data; nor is that theorem's KL between private and public data bounded here.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gradtx_hf.errors import ConfigurationError
from gradtx_hf.finetuning.accounting import NoisySteps


REACH = 12.0
"""Standard deviations beyond both means that are integrated over; the rest is below 1e-31."""
POINTS_PER_DEVIATION = 400
LEAST_INTEGRATED_NOISE = 0.01
"""Below, a step's divergence is given by its upper bound q / (2 s^2), which is near it and says nothing anyway."""
SMALL_RATIO = 1e-4
"""Below, (1 + u) log(1 + u) - u is taken from its series."""
NEEDED = ("noise_multiplier", "sample_rate", "num_steps", "expected_batch_size")

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class GeneralisationBound:
    """A bound of the expected gap between population and empirical risk.

    Attributes:
        gap: The bound, in the loss's unit.
        is_vacuous: Whether it is no less than 2 sigma, the range of a bounded loss: then it says nothing.
    """

    gap: float
    is_vacuous: bool

    def __str__(self) -> str:
        if self.is_vacuous:
            return f"at most {self.gap:.4g}, which says nothing: no bounded loss of this sigma has a larger gap"
        return f"at most {self.gap:.4g}"


def step_divergence(*, noise_multiplier: float, sample_rate: float) -> float:
    """Return the KL divergence between one step of DP-SGD with a row and without it, in nats: the limit of Rényi's.

    Args:
        noise_multiplier: Standard deviation of the noise over the clipping norm.
        sample_rate: Probability of every row to be in a step, in (0, 1].

    Raises:
        ConfigurationError: If a value is out of its range.
    """
    steps = NoisySteps(noise_multiplier, sample_rate, 1)
    deviation, rate = steps.noise_multiplier, steps.sample_rate
    if rate == 1 or deviation < LEAST_INTEGRATED_NOISE:
        return rate / (2 * deviation**2)
    num_points = math.ceil((1 / deviation + 2 * REACH) * POINTS_PER_DEVIATION)
    places: Floats = np.linspace(-REACH * deviation, 1 + REACH * deviation, num_points)
    exponent = (2 * places - 1) / (2 * deviation**2)  # log N(1, s^2) / N(0, s^2)
    log_ratio = np.logaddexp(math.log1p(-rate), math.log(rate) + exponent)  # of the mixture to N(0, s^2)
    without = np.exp(-((places / deviation) ** 2) / 2) / (deviation * math.sqrt(2 * math.pi))
    drawn = np.exp(-(((places - 1) / deviation) ** 2) / 2) / (deviation * math.sqrt(2 * math.pi))
    mixture = (1 - rate) * without + rate * drawn
    ratio = np.expm1(np.minimum(log_ratio, 1.0))
    # the integrand (1 + u) log(1 + u) - u is nowhere negative, so that small divergences lose no digits
    large = mixture * log_ratio - rate * (drawn - without)
    small = without * (ratio**2 / 2 - ratio**3 / 6 + ratio**4 / 12)
    integrand = np.where(np.abs(ratio) < SMALL_RATIO, small, large)
    return float(np.trapezoid(integrand, places))


def mutual_information_bound(*, noise_multiplier: float, sample_rate: float, num_steps: int, num_rows: int) -> float:
    """Bound what one DP-SGD run's adapter tells of its rows, I(theta; D), in nats; for independent rows.

    Args:
        noise_multiplier: Standard deviation of the noise over the clipping norm.
        sample_rate: Probability of every row to be in a step, in (0, 1].
        num_steps: Optimizer steps.
        num_rows: Rows that the run could draw.

    Raises:
        ConfigurationError: If a value is out of its range.
    """
    steps = NoisySteps(noise_multiplier, sample_rate, num_steps)
    _require_rows(num_rows)
    divergence = step_divergence(noise_multiplier=steps.noise_multiplier, sample_rate=steps.sample_rate)
    return num_rows * steps.num_steps * divergence


def information_of_runs(statements: Sequence[Mapping[str, Any] | None]) -> float:
    """Bound I(w; D_p) of a translator that learned from these shadow runs' adapters alone, in nats (Corollary 5.3).

    Shadow sets may share rows: given the public data, runs depend on each other through nothing.

    Args:
        statements: What ``privacy.json`` states of every run, source and target alike; None of a run that was not
            private.

    Raises:
        ConfigurationError: If there is no run, one was not private, or states epsilon and delta alone.
    """
    if not statements:
        raise ConfigurationError("got no shadow run, expected what privacy.json states of every one.")
    return math.fsum(_information(number, statement) for number, statement in enumerate(statements))


def generalisation_bound(information: float, *, num_rows: int, subgaussian: float) -> GeneralisationBound:
    """Return sqrt(2 sigma^2 / n I), which the expected generalisation gap does not exceed (paper, Lemma 5.1).

    Args:
        information: I(w; D_p), or a bound of it, in nats, at least 0.
        num_rows: Rows n of the data.
        subgaussian: Sigma of the loss, in its unit; half the range of a bounded loss (Hoeffding).

    Raises:
        ConfigurationError: If a value is out of its range.
    """
    _require_rows(num_rows)
    if not _is_number(information) or not 0 <= information < math.inf:
        raise ConfigurationError(f"got information={information!r}, expected nats of 0 or more, and not infinite.")
    if not _is_number(subgaussian) or not 0 < subgaussian < math.inf:
        raise ConfigurationError(f"got subgaussian={subgaussian!r}, expected a positive number.")
    gap = math.sqrt(2 * subgaussian**2 / num_rows * information)
    return GeneralisationBound(gap, is_vacuous=gap >= 2 * subgaussian)


def _information(number: int, statement: Mapping[str, Any] | None) -> float:
    if statement is None:
        raise ConfigurationError(
            f"shadow run {number} was not differentially private, so that nothing bounds what its adapter tells of its "
            "rows. Curate with DP-SGD, or claim no bound."
        )
    lacking = [name for name in NEEDED if name not in statement]
    if lacking:
        raise ConfigurationError(
            f"shadow run {number} states no {lacking[0]}: epsilon and delta alone bound no mutual information. Give "
            "the noise, sample rate, steps and batch size of its DP-SGD."
        )
    steps = NoisySteps(*(statement[name] for name in NEEDED[:3]))
    num_rows = round(statement["expected_batch_size"] / steps.sample_rate)
    return mutual_information_bound(
        noise_multiplier=steps.noise_multiplier,
        sample_rate=steps.sample_rate,
        num_steps=steps.num_steps,
        num_rows=num_rows,
    )


def _require_rows(num_rows: int) -> None:
    if isinstance(num_rows, bool) or not isinstance(num_rows, int) or num_rows < 1:
        raise ConfigurationError(f"got num_rows={num_rows!r}, expected a whole number of rows, at least 1.")


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
