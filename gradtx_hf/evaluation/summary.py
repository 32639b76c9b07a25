"""Means over clients with bootstrap intervals, in groups of seen and unseen tasks.

Tasks are resampled with replacement, each with all its clients: several seeds of one task are not independent, and an
interval is to hold for further tasks. Where several evaluations are pooled, a task of one study seed and the same
task of another are two (see ``pooling``). The draws are the same for every method, so that comparisons are paired.
Intervals are 95 % percentile intervals; with fewer than two tasks there are none.
Axes: C clients, T tasks, K draws, M methods. Source: ours.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
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

Cluster = tuple[int | None, str]
"""A task within its study seed; None where there is one study only."""


@dataclass(frozen=True)
class ClientScores:
    """What every method scores on one client's held-out data.

    Attributes:
        task: The client's task, as a user would name it.
        seen: Whether the task occurred in the shadow sets; None where the question makes no sense.
        scores: Method name to score in the metric's unit; None where a method has none. A score that is not finite
            becomes None.
        seed: The client's seed, if it has one.
        nats_per_token: Method name to the mean negative log-likelihood of the reference completions, in nats per
            token; empty where the metric has no completions.
        study_seed: In a pooled report, the seed of the evaluation that the client was in.
    """

    task: str
    seen: bool | None
    scores: Mapping[str, float | None]
    seed: int | None = None
    nats_per_token: Mapping[str, float | None] = field(default_factory=dict)
    study_seed: int | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "scores", _finite(self.scores))
        object.__setattr__(self, "nats_per_token", _finite(self.nats_per_token))

    @property
    def cluster(self) -> Cluster:
        """What is resampled as one: the task, within its study seed."""
        return self.study_seed, self.task

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
        low: Lower end of its 95 % bootstrap interval over tasks; None where the clients have fewer than two.
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
        nats_per_token: Its mean in nats per token of the reference completions, lower is better; None where no client
            has one.
    """

    score: Estimate
    gain_recovered: Recovered
    lead_of_translated: Estimate | None
    nats_per_token: Estimate | None = None


@dataclass(frozen=True)
class GroupSummary:
    """The clients of one group.

    Attributes:
        num_clients: Clients in the group.
        num_tasks: Different tasks among them, in a pooled report pairs of study seed and task; the bootstrap
            resamples these.
        methods: Method name to its summary, in the order in which they are shown; those with at least one score.
        pgr: Performance gap recovered by the translated adapter, of the means.
        gain_recovered: Gain recovered by the translated adapter, of the means.
    """

    num_clients: int
    num_tasks: int
    methods: dict[str, MethodSummary]
    pgr: Recovered
    gain_recovered: Recovered


def summarise(clients: Sequence[ClientScores], *, higher_is_better: bool, seed: int = 0) -> dict[str, GroupSummary]:
    """Average over clients, with bootstrap intervals over their tasks.

    Args:
        clients: All clients of a report; those with one task's name are resampled together.
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
    """The clients of one group, with the bootstrap over their tasks."""

    clients: Sequence[ClientScores]
    higher_is_better: bool
    seed: int

    def summary(self) -> GroupSummary:
        scored = [name for c in self.clients for name, score in c.scores.items() if score is not None]
        return GroupSummary(
            num_clients=len(self.clients),
            num_tasks=len({client.cluster for client in self.clients}),
            methods={name: self._method(name) for name in ordered_methods(scored)},
            pgr=self._share((TRANSLATED, SOURCE_CLIENT, CEILING)),
            gain_recovered=self._share((TRANSLATED, TARGET_UNTOUCHED, CEILING)),
        )

    def _method(self, name: str) -> MethodSummary:
        paired, paired_tasks = self._columns((TRANSLATED, name))
        alone, tasks = self._columns((name,))
        leads = (paired[:, :1] - paired[:, 1:]) * (1.0 if self.higher_is_better else -1.0)
        nats, nats_tasks = _complete([(c.cluster, [c.nats_per_token.get(name)]) for c in self.clients], num_columns=1)
        return MethodSummary(
            score=self._estimate(alone, tasks),
            gain_recovered=self._share((name, TARGET_UNTOUCHED, CEILING)),
            lead_of_translated=self._estimate(leads, paired_tasks) if len(leads) else None,
            nats_per_token=self._estimate(nats, nats_tasks) if len(nats) else None,
        )

    def _columns(self, names: Sequence[str]) -> tuple[np.ndarray, list[Cluster]]:
        """Return ``[C, len(names)]`` of the clients that have all of these scores, and these clients' tasks."""
        rows = [(client.cluster, [client.scores.get(name) for name in names]) for client in self.clients]
        return _complete(rows, num_columns=len(names))

    def _resampled(self, columns: np.ndarray, tasks: Sequence[Cluster]) -> np.ndarray | None:
        """Return the means of ``[C, M]`` over the clients of resampled tasks, ``[K, M]``; None for a single task."""
        names = list(dict.fromkeys(tasks))
        if len(names) < 2:
            return None
        membership = np.array([[task == name for task in tasks] for name in names], dtype=np.float64)  # [T, C]
        draws = _draws(len(names), self.seed)
        sums = (membership @ columns)[draws].sum(1)
        num_clients = membership.sum(1)[draws].sum(1)
        means: np.ndarray = sums / num_clients[:, None]
        return means

    def _estimate(self, values: np.ndarray, tasks: Sequence[Cluster]) -> Estimate:
        """Return the mean of ``[C, 1]`` with its interval."""
        draws = self._resampled(values, tasks)
        low, high = (None, None) if draws is None else _interval(draws)
        return Estimate(float(values.mean()), low, high, len(values))

    def _share(self, names: tuple[str, str, str]) -> Recovered:
        columns, tasks = self._columns(names)
        if not len(columns):
            absent = [name for name in names if not len(self._columns((name,))[0])]
            lacking = " and the ".join(method_of(name).short for name in absent or names)
            return Recovered(None, f"no client has a score of the {lacking}")
        reached, lower, upper = columns.mean(0).tolist()
        draws = self._resampled(columns, tasks)  # [K, 3]
        share = share_of_gap(
            (reached, lower, upper),
            names=names,
            higher_is_better=self.higher_is_better,
            gap_interval=None if draws is None else _interval(draws[:, 2] - draws[:, 1]),
        )
        if share.value is None or draws is None:
            return share
        gaps = draws[:, 2] - draws[:, 1]
        # A draw without a gap has no share; where the gap is certain they are rare.
        shares = (draws[:, 0] - draws[:, 1])[gaps != 0] / gaps[gaps != 0]
        low, high = _interval(shares)
        return replace(share, low=low, high=high)


@lru_cache(maxsize=64)
def _draws(num_tasks: int, seed: int) -> np.ndarray:
    """Return indices of resampled tasks ``[K, T]``; the same for every method, which makes comparisons paired."""
    return np.random.default_rng(seed).integers(num_tasks, size=(NUM_DRAWS, num_tasks))


def _finite(scores: Mapping[str, float | None]) -> dict[str, float | None]:
    """Return scores with None in place of what is not finite."""
    return {
        name: float(score) if score is not None and math.isfinite(score) else None for name, score in scores.items()
    }


def _complete(
    rows: Sequence[tuple[Cluster, Sequence[float | None]]], *, num_columns: int
) -> tuple[np.ndarray, list[Cluster]]:
    """Return the rows without a gap, ``[C, num_columns]``, and their tasks."""
    complete = [(task, row) for task, row in rows if None not in row]
    columns = np.array([row for _, row in complete], dtype=np.float64).reshape(-1, num_columns)
    return columns, [task for task, _ in complete]


def _interval(draws: np.ndarray) -> tuple[float, float]:
    low, high = np.percentile(draws, PERCENTILES).tolist()
    return low, high
