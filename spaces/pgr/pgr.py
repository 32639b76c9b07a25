"""Performance gap recovered: the share of the gap from small model to ceiling that a method closes."""

from __future__ import annotations

import math
from statistics import fmean
from typing import Any

import datasets
import evaluate


DESCRIPTION = """Performance gap recovered: the share of the gap from small model to ceiling that a method closes.

PGR = (translated - source_client) / (ceiling - source_client)

0: no better than the source client; 1: the ceiling. Outside [0, 1] where the scores are. Null, with the
reason, where the ceiling is not better than the source client: a share of no gap is no number."""

INPUTS = """
Args:
    translated: scores of the method, one for each client or seed; means are compared.
    source_client: scores of the client's own fine-tuned small model, in the same order.
    ceiling: scores of the large model fine-tuned on the private data, in the same order.
    higher_is_better: whether the metric rises with quality; default True.
Returns:
    pgr: the share, or None.
    reason: why it is None, else None.
Examples:
    >>> metric = evaluate.load("pgr")
    >>> metric.compute(translated=[0.7], source_client=[0.5], ceiling=[0.9])
    {'pgr': 0.5, 'reason': None}
"""
CITATION = """@article{burns2024weak,
  title={Weak-to-Strong Generalization: Eliciting Strong Capabilities With Weak Supervision},
  author={Burns, Collin and others},
  journal={ICML},
  year={2024}
}"""
GAP_TOLERANCE = 1e-9
"""A gap below this share of the ceiling's size is rounding."""


class PGR(evaluate.Metric):
    """PGR = (translated - source_client) / (ceiling - source_client)."""

    def _info(self) -> evaluate.MetricInfo:
        number = datasets.Value("float64")
        return evaluate.MetricInfo(
            description=DESCRIPTION,
            citation=CITATION,
            inputs_description=INPUTS,
            features=datasets.Features({"translated": number, "source_client": number, "ceiling": number}),
        )

    def _compute(  # type: ignore[override]
        self,
        translated: list[float],
        source_client: list[float],
        ceiling: list[float],
        higher_is_better: bool = True,  # noqa: FBT001, FBT002 - evaluate passes keywords
    ) -> dict[str, Any]:
        named = {"translated": translated, "source_client": source_client, "ceiling": ceiling}
        for name, scores in named.items():
            if not all(math.isfinite(score) for score in scores):
                return {"pgr": None, "reason": f"a score of {name} is not finite"}
        reached, lower, upper = (fmean(scores) for scores in named.values())
        gap = (upper - lower) if higher_is_better else (lower - upper)
        if gap <= GAP_TOLERANCE * abs(upper):
            reason = f"the ceiling ({upper:.4g}) is not better than the source client ({lower:.4g})"
            return {"pgr": None, "reason": reason}
        return {"pgr": (reached - lower) / (upper - lower), "reason": None}
