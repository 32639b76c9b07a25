"""What study ``shift`` found: every client's shift and gain, and how well the one foretells the other. Source: ours."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gradtx_hf.evaluation import ClientScores, Report
from gradtx_hf.studies.shift_clients import CLIENT_FILE, Condition, ShiftedClient


NUM_DRAWS = 2000
PERCENTILES = (2.5, 97.5)
LEAST_CLIENTS = 4
"""Fewer have no rank correlation worth a number."""

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class ShiftPoint:
    """What was measured of one client.

    Attributes:
        condition: How its data differ from the public ones.
        pair: Its pair of rules; clients of a pair share rules, and are resampled together.
        scores: What every method scores.
        auc: Of the classifier between its texts and the public ones.
        kl: Lower bound of KL(private || public), nats.
        p_value: Of the permutation test.
        input_distance: Of its adapter, to the translator; 1 is like the shadow sets'.
        input_distance_limit: The distance from which on the translator warns.
    """

    condition: Condition
    pair: tuple[int, int]
    scores: ClientScores
    auc: float
    kl: float
    p_value: float
    input_distance: float
    input_distance_limit: float

    @classmethod
    def read(cls, client: ShiftedClient) -> ShiftPoint:
        """Read a client's ``client.json``."""
        values = json.loads((client.home / CLIENT_FILE).read_text(encoding="utf-8"))
        result = values["shift"]["result"]
        return cls(
            condition=client.condition,
            pair=(client.seed, client.pair),
            scores=ClientScores(**values["scores"] | {"study_seed": client.seed}),
            auc=result["auc"],
            kl=result["kl"]["estimate"],
            p_value=result["p_value"],
            input_distance=values["input_distance"],
            input_distance_limit=values["input_distance_limit"],
        )

    @property
    def gain(self) -> float | None:
        """Share of the gap between untouched target and ceiling that its translated adapter recovers."""
        return self.scores.gain_recovered(higher_is_better=True).value


@dataclass(frozen=True)
class RankCorrelation:
    """Spearman's rank correlation of a measure with the gain recovered.

    Attributes:
        value: In [-1, 1]; None with fewer than four clients, or where one of both is constant.
        low: Lower end of its 95 % interval, by resampling pairs of rules; None with one pair, or without a value.
        high: Upper end.
        num_clients: Clients with a gain to recover.
    """

    value: float | None
    low: float | None
    high: float | None
    num_clients: int


MEASURES = {"auc": "texts' AUC", "kl": "texts' KL, lower bound", "input_distance": "adapter's input distance"}
SERIES = ("all", "rule", "letters, seen rule", "letters, unseen rule")


@dataclass(frozen=True)
class ShiftStudyReport:
    """What the study found.

    Attributes:
        points: The clients, condition by condition.
        report: The clients' scores in the form of every report.
        correlations: Series, and measure, to the rank correlation with the gain.
    """

    points: tuple[ShiftPoint, ...]
    report: Report
    correlations: Mapping[str, Mapping[str, RankCorrelation]]

    def to_json(self) -> dict[str, Any]:
        """Return the contents of report.json."""
        return self.report.to_json() | {
            "shift": [
                {
                    "task": point.scores.task,
                    "condition": asdict(point.condition),
                    "pair": list(point.pair),
                    **{name: getattr(point, name) for name in MEASURES},
                    "p_value": point.p_value,
                    "gain_recovered": point.gain,
                }
                for point in self.points
            ],
            "rank_correlations": {
                series: {measure: asdict(found) for measure, found in row.items()}
                for series, row in self.correlations.items()
            },
        }


def correlations(points: Sequence[ShiftPoint]) -> dict[str, dict[str, RankCorrelation]]:
    """Return the rank correlation of every measure with the gain, over all clients and within each series."""
    found = {}
    for series in SERIES:
        chosen = [point for point in of_series(points, series) if point.gain is not None]
        found[series] = {measure: _correlation(chosen, measure) for measure in MEASURES}
    return found


def of_series(points: Sequence[ShiftPoint], series: str) -> list[ShiftPoint]:
    """Return the clients of a series; one of letters begins with the same rules' clients with letters alike."""
    start = {"letters, seen rule": 0, "letters, unseen rule": 4}.get(series)
    begun = [p for p in points if p.condition.series == "rule" and p.condition.unseen_quarters == start]
    return begun + [point for point in points if series in ("all", point.condition.series)]


def rank_correlation(first: Floats, second: Floats) -> float | None:
    """Return Spearman's rank correlation, ties at their mean rank; None where one of both is constant.

    Args:
        first: ``[N]``.
        second: ``[N]``.
    """
    ranks = [(np.searchsorted(np.sort(v), v) + np.searchsorted(np.sort(v), v, "right")) / 2 for v in (first, second)]
    centred = [rank - rank.mean() for rank in ranks]
    scale = float(np.sqrt((centred[0] ** 2).sum() * (centred[1] ** 2).sum()))
    return float((centred[0] * centred[1]).sum()) / scale if scale > 0 else None


def _correlation(points: Sequence[ShiftPoint], measure: str) -> RankCorrelation:
    values = np.array([getattr(point, measure) for point in points], dtype=np.float64)
    gains = np.array([point.gain for point in points], dtype=np.float64)
    value = rank_correlation(values, gains) if len(points) >= LEAST_CLIENTS else None
    pairs = sorted({point.pair for point in points})
    if value is None or len(pairs) < 2:
        return RankCorrelation(value, None, None, len(points))
    members = [[i for i, point in enumerate(points) if point.pair == pair] for pair in pairs]
    choices = np.sort(np.random.default_rng(0).integers(len(pairs), size=(NUM_DRAWS, len(pairs))), axis=1)
    different, counts = np.unique(choices, axis=0, return_counts=True)  # few pairs can be drawn in few ways
    drawn: list[float] = []
    for choice, count in zip(different, counts, strict=True):
        rows = [row for pair in choice for row in members[pair]]
        found = rank_correlation(values[rows], gains[rows])
        drawn += [] if found is None else [found] * int(count)
    if not drawn:
        return RankCorrelation(value, None, None, len(points))
    low, high = np.percentile(drawn, PERCENTILES)
    return RankCorrelation(value, float(low), float(high), len(points))
