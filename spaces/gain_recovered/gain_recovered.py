"""Gain recovered: the share of what fine-tuning on the private data gains that a method gains."""

from __future__ import annotations

import math
from statistics import fmean
from typing import Any

import datasets
import evaluate


DESCRIPTION = """Gain recovered: the share of what fine-tuning on the private data gains that a method gains.

gain recovered = (translated - target_untouched) / (ceiling - target_untouched)

0: no better than the untouched target; 1: the ceiling. Outside [0, 1] where the scores are. Null, with the
reason, where the ceiling is not better than the untouched target: a share of no gap is no number."""

INPUTS = """
Args:
    translated: scores of the method, one for each client or seed; means are compared.
    target_untouched: scores of the large model without an adapter, in the same order.
    ceiling: scores of the large model fine-tuned on the private data, in the same order.
    higher_is_better: whether the metric rises with quality; default True.
Returns:
    gain_recovered: the share, or None.
    reason: why it is None, else None.
Examples:
    >>> metric = evaluate.load("gain_recovered")
    >>> metric.compute(translated=[0.7], target_untouched=[0.5], ceiling=[0.9])
    {'gain_recovered': 0.5, 'reason': None}
"""
CITATION = ""
GAP_TOLERANCE = 1e-9
"""A gap below this share of the ceiling's size is rounding."""


class GainRecovered(evaluate.Metric):
    """gain recovered = (translated - target_untouched) / (ceiling - target_untouched)."""

    def _info(self) -> evaluate.MetricInfo:
        number = datasets.Value("float64")
        return evaluate.MetricInfo(
            description=DESCRIPTION,
            citation=CITATION,
            inputs_description=INPUTS,
            features=datasets.Features({"translated": number, "target_untouched": number, "ceiling": number}),
        )

    def _compute(  # type: ignore[override]
        self,
        translated: list[float],
        target_untouched: list[float],
        ceiling: list[float],
        higher_is_better: bool = True,  # noqa: FBT001, FBT002 - evaluate passes keywords
    ) -> dict[str, Any]:
        named = {"translated": translated, "target_untouched": target_untouched, "ceiling": ceiling}
        for name, scores in named.items():
            if not all(math.isfinite(score) for score in scores):
                return {"gain_recovered": None, "reason": f"a score of {name} is not finite"}
        reached, lower, upper = (fmean(scores) for scores in named.values())
        gap = (upper - lower) if higher_is_better else (lower - upper)
        if gap <= GAP_TOLERANCE * abs(upper):
            reason = f"the ceiling ({upper:.4g}) is not better than the untouched target ({lower:.4g})"
            return {"gain_recovered": None, "reason": reason}
        return {"gain_recovered": (reached - lower) / (upper - lower), "reason": None}
