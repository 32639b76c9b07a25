"""Means over clients with bootstrap intervals, in groups of seen and unseen tasks.

Clients are resampled with replacement, the same draws for every method, so that comparisons are paired. Intervals are
95 % percentile intervals; with fewer than two clients there are none. Axes: C clients, K draws. Source: ours.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np

from gradtx_hf.errors import DataError
from gradtx_hf.evaluation.methods import (
    CEILING,
    SOURCE_CLIENT,
    TARGET_UNTOUCHED,
    TRANSLATED,
    method_of,
    ordered_methods,
)
from gradtx_hf.evaluation.pgr import Recovered, share_of_gap


NUM_DRAWS = 2000
"""Bootstrap draws (ours)."""
PERCENTILES = (2.5, 97.5)


@dataclass(frozen=True)
class ClientScores:
    """What every method scores on one client's held-out data.

    Attributes:
        task: The client's task, as a user would name it.
        seen: Whether the task occurred in the shadow sets; None where the question makes no sense.
        scores: Method name to score in the metric's unit; None where a method has none. A score that is not finite
            becomes None.
        seed: The client's seed, if it has one.
    """

    task: str
    seen: bool | None
    scores: Mapping[str, float | None]
    seed: int | None = None

    def __post_init__(self) -> None:
        finite = {
            name: float(score) if score is not None and math.isfinite(score) else None
            for name, score in self.scores.items()
        }
        object.__setattr__(self, "scores", finite)

    def pgr(self, *, higher_is_better: bool) -> Recovered:
        """Return this client's performance gap recovered (see ``performance_gap_recovered``)."""
        return self._share((TRANSLATED, SOURCE_CLIENT, CEILING), higher_is_better=higher_is_better)

    def gain_recovered(self, *, higher_is_better: bool) -> Recovered:
        """Return this client's gain recovered (see ``gain_recovered``)."""
        return self._share((TRANSLATED, TARGET_UNTOUCHED, CEILING), higher_is_better=higher_is_better)

    def _share(self, names: tuple[str, str, str], *, higher_is_better: bool) -> Recovered:
        a, b, c = (self.scores.get(name) for name in names)
        return share_of_gap((a, b, c), names=names, higher_is_better=higher_is_better)


@dataclass(frozen=True)
class Estimate:
    """A mean over clients.

    Attributes:
        mean: The mean.
        low: Lower end of its 95 % interval; None with fewer than two clients.
        high: Upper end of that interval.
        num_clients: Clients averaged over.
    """

    mean: float
    low: float | None
    high: float | None
    num_clients: int


@dataclass(frozen=True)
class MethodSummary:
    """One method over the clients of a group.

    Attributes:
        score: Its score in the metric's unit.
        gain_recovered: Its share of the gap between the untouched target and the ceiling, of the means.
        lead_of_translated: By how much the translated adapter is better, paired by client; positive is better in
            either direction of the metric. None without a client that has both scores.
    """

    score: Estimate
    gain_recovered: Recovered
    lead_of_translated: Estimate | None


@dataclass(frozen=True)
class GroupSummary:
    """The clients of one group.

    Attributes:
        num_clients: Clients in the group.
        methods: Method name to its summary, in the order in which they are shown; those with at least one score.
        pgr: Performance gap recovered by the translated adapter, of the means.
        gain_recovered: Gain recovered by the translated adapter, of the means.
    """

    num_clients: int
    methods: dict[str, MethodSummary]
    pgr: Recovered
    gain_recovered: Recovered


def summarise(clients: Sequence[ClientScores], *, higher_is_better: bool, seed: int = 0) -> dict[str, GroupSummary]:
    """Average over clients.

    Args:
        clients: All clients of a report.
        higher_is_better: Whether the metric rises with quality.
        seed: Seed of the bootstrap.

    Returns:
        ``all`` and, where clients of that kind exist, ``seen`` and ``unseen``, to their summary.

    Raises:
        DataError: If there is no client.
    """
    if not clients:
        raise DataError("got no client to report on, expected at least one.")
    groups = {
        "all": list(clients),
        "seen": [client for client in clients if client.seen is True],
        "unseen": [client for client in clients if client.seen is False],
    }
    return {
        name: _Group(members, higher_is_better=higher_is_better, seed=seed).summary()
        for name, members in groups.items()
        if members
    }


@dataclass(frozen=True)
class _Group:
    """The clients of one group, with the bootstrap over them."""

    clients: Sequence[ClientScores]
    higher_is_better: bool
    seed: int

    def summary(self) -> GroupSummary:
        scored = [name for c in self.clients for name, score in c.scores.items() if score is not None]
        return GroupSummary(
            num_clients=len(self.clients),
            methods={name: self._method(name) for name in ordered_methods(scored)},
            pgr=self._share((TRANSLATED, SOURCE_CLIENT, CEILING)),
            gain_recovered=self._share((TRANSLATED, TARGET_UNTOUCHED, CEILING)),
        )

    def _method(self, name: str) -> MethodSummary:
        paired = self._columns((TRANSLATED, name))
        sign = 1.0 if self.higher_is_better else -1.0
        return MethodSummary(
            score=self._estimate(self._columns((name,))[:, 0]),
            gain_recovered=self._share((name, TARGET_UNTOUCHED, CEILING)),
            lead_of_translated=self._estimate(sign * (paired[:, 0] - paired[:, 1])) if len(paired) else None,
        )

    def _columns(self, names: Sequence[str]) -> np.ndarray:
        """Return ``[C, len(names)]``, the clients that have all of these scores."""
        rows = [[client.scores.get(name) for name in names] for client in self.clients]
        return np.array([row for row in rows if None not in row], dtype=np.float64).reshape(-1, len(names))

    def _resampled(self, columns: np.ndarray) -> np.ndarray:
        """Return the means of ``[C, M]`` over resampled clients, ``[K, M]``."""
        means: np.ndarray = columns[_draws(len(columns), self.seed)].mean(1)
        return means

    def _estimate(self, values: np.ndarray) -> Estimate:
        low, high = _interval(self._resampled(values)) if len(values) > 1 else (None, None)
        return Estimate(float(values.mean()), low, high, len(values))

    def _share(self, names: tuple[str, str, str]) -> Recovered:
        columns = self._columns(names)
        if not len(columns):
            absent = [name for name in names if not len(self._columns((name,)))]
            lacking = " and the ".join(method_of(name).short for name in absent or names)
            return Recovered(None, f"no client has a score of the {lacking}")
        reached, lower, upper = columns.mean(0).tolist()
        draws = self._resampled(columns)  # [K, 3]
        gaps = draws[:, 2] - draws[:, 1]
        share = share_of_gap(
            (reached, lower, upper),
            names=names,
            higher_is_better=self.higher_is_better,
            gap_interval=_interval(gaps) if len(columns) > 1 else None,
        )
        if share.value is None or len(columns) < 2:
            return share
        # A draw without a gap has no share; where the gap is certain they are rare.
        shares = (draws[:, 0] - draws[:, 1])[gaps != 0] / gaps[gaps != 0]
        low, high = _interval(shares)
        return replace(share, low=low, high=high)


@lru_cache(maxsize=64)
def _draws(num_clients: int, seed: int) -> np.ndarray:
    """Return indices of resampled clients ``[K, C]``; the same for every method, which makes comparisons paired."""
    return np.random.default_rng(seed).integers(num_clients, size=(NUM_DRAWS, num_clients))


def _interval(draws: np.ndarray) -> tuple[float, float]:
    low, high = np.percentile(draws, PERCENTILES).tolist()
    return low, high
