"""Membership inference: how well scores tell rows that an adapter was trained on from rows that it was not.

AUC is the chance that a member's score lies above a non-member's, ties as half; 0.5 is a coin. TPR at a FPR is the
share of members that are named when so few non-members are (Carlini et al., 2022): what a careful attacker gets.
Intervals are of 95 %: AUC's DeLong's, which takes rows as independent (with all pairs in order Clopper and Pearson's of
the smaller sample); a TPR's Clopper and Pearson's, given the threshold that the non-members set. Axes: M members, N
non-members. Source of the attack on adapters, the loss beside that of the untouched model: LoRA-Leak, arXiv 2507.18302.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from gradtx_hf.errors import DataError
from gradtx_hf.privacy.binomial import share_interval
from gradtx_hf.privacy.two_sample import auc_interval


FALSE_POSITIVE_RATES = (0.01, 0.001)
CONFIDENCE = 0.95
LEAST_ROWS = 2


@dataclass(frozen=True)
class TruePositiveRate:
    """The share of members that an attack names at a given share of non-members.

    Attributes:
        false_positive_rate: Non-members that it may name, over all.
        value: The share, or None where there are too few rows.
        low: Lower end of the interval, or None.
        high: Upper end of the interval, or None.
        reason: Why there is no value, or None.
    """

    false_positive_rate: float
    value: float | None
    low: float | None
    high: float | None
    reason: str | None = None


@dataclass(frozen=True)
class Membership:
    """What one attack came to.

    Attributes:
        auc: Area under the ROC curve.
        auc_low: Lower end of its interval.
        auc_high: Upper end of its interval.
        rates: TPR at each FPR of ``FALSE_POSITIVE_RATES``.
    """

    auc: float
    auc_low: float
    auc_high: float
    rates: tuple[TruePositiveRate, ...]

    @property
    def is_caught(self) -> bool:
        """Whether the attack tells members from non-members: all of AUC's interval lies above 0.5."""
        return self.auc_low > 0.5


def measure_membership(members: Tensor, non_members: Tensor) -> Membership:
    """Measure an attack by its scores.

    Args:
        members: Scores of rows that were trained on, ``[M]``, higher for what seems a member.
        non_members: Scores of rows that were not, ``[N]``.

    Raises:
        DataError: If there are fewer than two of each, or a score is not finite.
    """
    for name, scores in (("members", members), ("non-members", non_members)):
        if len(scores) < LEAST_ROWS:
            raise DataError(f"got {len(scores)} {name}, expected at least {LEAST_ROWS}. Give more rows.")
        if not torch.isfinite(scores).all():
            raise DataError(f"the loss of a row among the {name} is not finite: the adapter or the model is damaged.")
    area, low, high = auc_interval(members.double(), non_members.double())
    if area in (0.0, 1.0):  # DeLong's interval is then a point; the smaller sample tells how little that is known
        num_rows = min(len(members), len(non_members))
        low, high = share_interval(round(area) * num_rows, num_rows, confidence=CONFIDENCE)
    rates = tuple(_true_positive_rate(members, non_members, rate) for rate in FALSE_POSITIVE_RATES)
    return Membership(area, low, high, rates)


def roc_curve(members: Tensor, non_members: Tensor) -> tuple[Tensor, Tensor]:
    """Return the points of the ROC curve: FPR and TPR, float64, from (0, 0) to (1, 1), one for each threshold."""
    thresholds = torch.cat([members, non_members]).unique().flip(0)
    rates = [
        1 - torch.searchsorted(scores.sort().values, thresholds, right=False).double() / len(scores)
        for scores in (non_members, members)
    ]
    start = torch.zeros(1, dtype=torch.float64)
    return torch.cat([start, rates[0]]), torch.cat([start, rates[1]])


def _true_positive_rate(members: Tensor, non_members: Tensor, rate: float) -> TruePositiveRate:
    """Count members above all but ``rate`` of the non-members."""
    num_allowed = int(rate * len(non_members) * (1 + 1e-12))
    if num_allowed < 1:
        needed = round(1 / rate)
        return TruePositiveRate(
            rate, None, None, None, f"{len(non_members)} non-members are too few: it takes {needed:,} or more"
        )
    threshold = non_members.sort(descending=True).values[num_allowed]
    num_named = int((members > threshold).sum())
    low, high = share_interval(num_named, len(members), confidence=CONFIDENCE)
    return TruePositiveRate(rate, num_named / len(members), low, high)


def describe_rates(rates: Sequence[TruePositiveRate]) -> list[str]:
    """Return each rate in words, such as ``0.12 [0.09, 0.15]``, or why there is none."""
    return [
        f"- ({rate.reason})" if rate.value is None else f"{rate.value:.4f} [{rate.low:.4f}, {rate.high:.4f}]"
        for rate in rates
    ]
