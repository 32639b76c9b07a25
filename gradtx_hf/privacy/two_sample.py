"""Do two samples come from one distribution? A classifier is asked to tell them apart, on rows it was not fitted on.

Logistic regression with an L2 penalty, both samples weighing the same, cross-validated. Its held-out log-odds f(x) that
x is of the first sample give

- the AUC: the chance that a row of the first has larger log-odds than one of the second; 0.5: not told apart;
- a lower bound of the Jensen-Shannon divergence: log 2 minus the held-out cross-entropy, in nats, at most log 2;
- a lower bound of KL(first || second): E_first[f] + 1 - E_second[exp f], in nats (Nguyen, Wainwright & Jordan, 2010).

Both bounds hold for any function f, on average over samples; a better classifier could only raise them. f is clipped at
half the logarithm of the rows, as no sample can show a KL far above that of its size (McAllester & Stratos, 2020). The
p-value is that of a permutation test (after Lopez-Paz & Oquab, 2017).

Axes: N rows of both samples, D features. Source: ours, but for what is named.
"""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid
from tqdm import tqdm


NUM_FOLDS = 5
MAX_DIRECTIONS = 64
"""Principal directions of both samples together that the classifier sees; chosen without knowing which row is whose."""
PENALTY = 1.0
"""Half of it times the squared weights is added to the summed loss; features have variances of 1 on average."""
MAX_NEWTON_STEPS = 30
TWO_SIDED, ONE_SIDED = 1.959964, 1.644854
"""Standard deviations of a normal distribution's 95 % interval, and of its 95 % bound."""


@dataclass(frozen=True)
class Bound:
    """A lower bound of a divergence, in nats.

    Attributes:
        estimate: The bound as estimated, at least 0.
        low: What the bound itself is above with 95 % confidence (normal approximation), at least 0.
    """

    estimate: float
    low: float


@dataclass(frozen=True)
class TwoSampleResult:
    """What the classifier found.

    Attributes:
        auc: Area under the ROC curve on held-out rows.
        auc_low: Lower end of its 95 % interval (DeLong), rows taken as independent.
        auc_high: Upper end.
        p_value: Share of relabelled samples that are told apart as well, in (0, 1].
        num_permutations: Relabelled samples.
        jensen_shannon: Lower bound of the Jensen-Shannon divergence.
        kl: Lower bound of KL(first || second).
    """

    auc: float
    auc_low: float
    auc_high: float
    p_value: float
    num_permutations: int
    jensen_shannon: Bound
    kl: Bound


def compare_samples(
    first: Tensor,
    second: Tensor,
    *,
    folds: Tensor,
    num_permutations: int,
    generator: torch.Generator,
    show_progress: bool = False,
) -> TwoSampleResult:
    """Tell two samples apart, and say how well it went.

    Args:
        first: ``[N_1, D]``.
        second: ``[N_2, D]``.
        folds: Fold of every row, of the first sample, then of the second, in 0…4, ``[N_1 + N_2]``; it may depend on a
            row's content but not on whose it is.
        num_permutations: Relabelled samples of the permutation test.
        generator: For the relabelling.
        show_progress: Show a bar of the permutations on stderr.
    """
    features = principal_scores(torch.cat([first, second]).double())
    is_first = torch.arange(len(features)) < len(first)
    log_odds = held_out_log_odds(features, is_first, folds)
    area, low, high = auc_interval(log_odds[is_first], log_odds[~is_first])
    num_as_good = 0
    bar = tqdm(range(num_permutations), desc="permutations", file=sys.stderr, disable=not show_progress)
    for _ in bar:
        relabelled = is_first[torch.randperm(len(is_first), generator=generator)]
        scores = held_out_log_odds(features, relabelled, folds)
        num_as_good += auc(scores[relabelled], scores[~relabelled]) >= area
    return TwoSampleResult(
        auc=area,
        auc_low=low,
        auc_high=high,
        p_value=(1 + num_as_good) / (1 + num_permutations),
        num_permutations=num_permutations,
        jensen_shannon=jensen_shannon_bound(log_odds[is_first], log_odds[~is_first]),
        kl=kl_bound(log_odds[is_first], log_odds[~is_first]),
    )


def principal_scores(features: Tensor) -> Tensor:
    """Standardise features and return their leading principal scores, variances 1 on average; ``[N, D]`` float64."""
    centred = features - features.mean(0)
    scaled = centred / centred.std(0).clamp_min(1e-8 * float(centred.std()) + 1e-30)
    _, directions = torch.linalg.eigh(scaled.T @ scaled)  # ascending
    scores: Tensor = scaled @ directions[:, -MAX_DIRECTIONS:]
    return scores / scores.square().mean().sqrt().clamp_min(1e-30)


def held_out_log_odds(features: Tensor, is_first: Tensor, folds: Tensor) -> Tensor:
    """Return each row's log-odds of being of the first sample, by a classifier that was fitted on the other folds.

    Args:
        features: ``[N, D]``.
        is_first: Whose each row is, ``[N]``.
        folds: Fold of every row, ``[N]``.

    Returns:
        ``[N]``; 0 where the other folds hold rows of one sample only.
    """
    inputs = torch.cat([features, torch.ones(len(features), 1, dtype=features.dtype)], dim=1)
    log_odds = torch.zeros(len(features), dtype=features.dtype)
    for fold in folds.unique():
        is_held_out = folds == fold
        seen = is_first[~is_held_out]
        if seen.any() and not seen.all():
            log_odds[is_held_out] = inputs[is_held_out] @ _fit(inputs[~is_held_out], seen)
    return log_odds


def auc(higher: Tensor, lower: Tensor) -> float:
    """Return the chance that a value of the first lies above one of the second, ties as half."""
    return float(_placements(higher, lower).mean())


def auc_interval(higher: Tensor, lower: Tensor) -> tuple[float, float, float]:
    """Return the AUC and its 95 % interval (DeLong, DeLong & Clarke-Pearson, 1988), within [0, 1].

    Samples that do not overlap at all give 1 with an interval of no width, which is too sure of itself.
    """
    above, below = _placements(higher, lower), 1 - _placements(lower, higher)
    area = float(above.mean())
    spread = TWO_SIDED * math.sqrt(float(above.var()) / len(higher) + float(below.var()) / len(lower))
    return area, max(0.0, area - spread), min(1.0, area + spread)


def jensen_shannon_bound(first: Tensor, second: Tensor) -> Bound:
    """Return a lower bound of the Jensen-Shannon divergence from held-out log-odds of both samples' rows."""
    gains = math.log(2) + logsigmoid(first), math.log(2) + logsigmoid(-second)
    return _bound(gains[0] / 2, gains[1] / 2, constant=0.0)


def kl_bound(first: Tensor, second: Tensor) -> Bound:
    """Return a lower bound of KL(first || second) from held-out log-odds of both samples' rows."""
    most = math.log(min(len(first), len(second))) / 2
    return _bound(first.clamp(-most, most), -second.clamp(-most, most).exp(), constant=1.0)


def _bound(first: Tensor, second: Tensor, *, constant: float) -> Bound:
    estimate = float(first.mean() + second.mean()) + constant
    error = math.sqrt(float(first.var()) / len(first) + float(second.var()) / len(second))
    return Bound(max(0.0, estimate), max(0.0, estimate - ONE_SIDED * error))


def _placements(values: Tensor, others: Tensor) -> Tensor:
    """Return for each value the share of the others below it, ties as half."""
    ordered = others.sort()[0]
    below = torch.searchsorted(ordered, values) + torch.searchsorted(ordered, values, right=True)
    return below.to(values.dtype) / (2 * len(others))


def _fit(inputs: Tensor, is_first: Tensor) -> Tensor:
    """Return the weights of penalised logistic regression, the last an intercept without penalty, by Newton's method.

    Args:
        inputs: ``[N, D + 1]``, the last column 1.
        is_first: ``[N]``.
    """
    targets = is_first.to(inputs.dtype)
    share = targets.mean()
    importance = torch.where(is_first, 0.5 / share, 0.5 / (1 - share))  # both samples weigh the same
    penalty = torch.full((inputs.shape[1],), PENALTY, dtype=inputs.dtype)
    penalty[-1] = 1e-9

    def loss(weights: Tensor) -> Tensor:
        scores = inputs @ weights
        return -(importance * logsigmoid(torch.where(is_first, scores, -scores))).sum() + penalty @ weights**2 / 2

    weights = torch.zeros(inputs.shape[1], dtype=inputs.dtype)
    current = loss(weights)
    for _ in range(MAX_NEWTON_STEPS):
        chances = torch.sigmoid(inputs @ weights)
        slope = inputs.T @ (importance * (chances - targets)) + penalty * weights
        curvature = (inputs.T * (importance * chances * (1 - chances))) @ inputs + penalty.diag()
        step = torch.linalg.solve(curvature, slope)
        while (after := loss(weights - step)) > current and step.abs().max() > 1e-9:
            step = step / 2
        weights = weights - step
        if current - after < 1e-9 * abs(current):
            break
        current = after
    return weights
