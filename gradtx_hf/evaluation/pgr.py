"""How much of what fine-tuning the target on the private data would give, a translated adapter gives.

Both numbers are a share of a gap: 0 at its lower end, 1 at the ceiling, outside [0, 1] where the score is. A share of a
gap that is not there is no number, so it is null with a reason.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from gradtx_hf.evaluation.methods import CEILING, SOURCE_CLIENT, TARGET_UNTOUCHED, TRANSLATED, method_of


Interval = tuple[float, float]

GAP_TOLERANCE = 1e-9
"""A gap below this share of the ceiling's size is rounding, not a gap (ours)."""


@dataclass(frozen=True)
class Recovered:
    """A share of a gap that was recovered.

    Attributes:
        value: The share; None where there is no gap to share.
        reason: Why the value is None; None where it is a number.
        low: Lower end of the value's bootstrap interval, where there is one.
        high: Upper end of that interval.
    """

    value: float | None
    reason: str | None = None
    low: float | None = None
    high: float | None = None


def performance_gap_recovered(
    translated: float,
    source_client: float,
    ceiling: float,
    *,
    higher_is_better: bool = True,
    gap_interval: Interval | None = None,
) -> Recovered:
    """Return PGR = (translated - source client) / (ceiling - source client) (paper, Sec. 4; Burns et al. 2024).

    Args:
        translated: Score of the target with the translated adapter, in the metric's unit.
        source_client: Score of the client's own fine-tuned source model.
        ceiling: Score of the target fine-tuned on the private data.
        higher_is_better: Whether the metric rises with quality; bits per character do not.
        gap_interval: Bootstrap interval of the ceiling minus the source client, if known.

    Returns:
        The share; null where the ceiling is not better than the source client, or the interval contains 0.
    """
    names = (TRANSLATED, SOURCE_CLIENT, CEILING)
    return share_of_gap(
        (translated, source_client, ceiling),
        names=names,
        higher_is_better=higher_is_better,
        gap_interval=gap_interval,
    )


def gain_recovered(
    translated: float,
    target_untouched: float,
    ceiling: float,
    *,
    higher_is_better: bool = True,
    gap_interval: Interval | None = None,
) -> Recovered:
    """Return (translated - target untouched) / (ceiling - target untouched) (ours).

    Args:
        translated: Score of the target with the translated adapter, in the metric's unit.
        target_untouched: Score of the target without an adapter.
        ceiling: Score of the target fine-tuned on the private data.
        higher_is_better: Whether the metric rises with quality; bits per character do not.
        gap_interval: Bootstrap interval of the ceiling minus the untouched target, if known.

    Returns:
        The share; null where the ceiling is not better than the untouched target, or the interval contains 0.
    """
    names = (TRANSLATED, TARGET_UNTOUCHED, CEILING)
    return share_of_gap(
        (translated, target_untouched, ceiling),
        names=names,
        higher_is_better=higher_is_better,
        gap_interval=gap_interval,
    )


def share_of_gap(
    scores: tuple[float | None, float | None, float | None],
    *,
    names: tuple[str, str, str],
    higher_is_better: bool,
    gap_interval: Interval | None = None,
) -> Recovered:
    """Return (score - lower end) / (upper end - lower end), or null with the reason.

    Args:
        scores: The score, the gap's lower end, its upper end; None or not finite where there is none.
        names: The three methods' names, for the reason.
        higher_is_better: Whether the metric rises with quality.
        gap_interval: Interval of upper end minus lower end, if known.
    """
    for score, name in zip(scores, names, strict=True):
        if score is None or not math.isfinite(score):
            return Recovered(None, f"there is no score of the {method_of(name).short}")
    reached, lower, upper = (float(score) for score in scores if score is not None)
    gap = (upper - lower) if higher_is_better else (lower - upper)
    low_name, high_name = method_of(names[1]).short, method_of(names[2]).short
    if gap <= GAP_TOLERANCE * abs(upper):
        return Recovered(None, f"the {high_name} ({upper:.4g}) is not better than the {low_name} ({lower:.4g})")
    if gap_interval is not None and min(gap_interval) <= 0 <= max(gap_interval):
        return Recovered(
            None,
            f"the gap between {high_name} and {low_name} is not certain: its interval "
            f"[{gap_interval[0]:.4g}, {gap_interval[1]:.4g}] contains 0",
        )
    return Recovered((reached - lower) / (upper - lower))
