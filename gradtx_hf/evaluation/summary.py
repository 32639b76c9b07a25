"""Means over clients with bootstrap intervals, in groups of seen and unseen tasks.

Tasks are resampled, and the examples within them where their scores are known (see ``resampling``): several seeds of
one task are not independent, and an interval is to hold for further tasks. Where several evaluations are pooled, a
task of one study seed and the same task of another are two (see ``pooling``). Draws are the same for every method, so
that comparisons are paired; leads of the translated adapter have a permutation test too (see ``paired``).
Axes: C clients, K draws, M methods. Source: ours.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from gradtx_hf.errors import DataError
from gradtx_hf.evaluation.client_scores import ClientScores
from gradtx_hf.evaluation.examples import decode_examples
from gradtx_hf.evaluation.methods import (
    CEILING,
    SOURCE_CLIENT,
    TARGET_UNTOUCHED,
    TRANSLATED,
    method_of,
    ordered_methods,
)
from gradtx_hf.evaluation.paired import sign_flip_p, sums_by, sums_by_example
from gradtx_hf.evaluation.pgr import Recovered, share_of_gap
from gradtx_hf.evaluation.resampling import draw_example_means, draw_means, interval


@dataclass(frozen=True)
class Estimate:
    """A mean over clients.

    Attributes:
        mean: The mean.
        low: Lower end of its 95 % bootstrap interval; None where the clients have one task, unless the scores of its
            examples are known.
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
        p_value: Two-sided p of that lead: sign flips over tasks, over examples where there is one task only; None
            where there are neither.
    """

    score: Estimate
    gain_recovered: Recovered
    lead_of_translated: Estimate | None
    nats_per_token: Estimate | None = None
    p_value: float | None = None


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
        alone, paired = self._scored((name,)), self._scored((TRANSLATED, name))
        leads = (self._leads(paired.columns), None if paired.draws is None else self._leads(paired.draws))
        nats = [(c, value) for c in self.clients if (value := c.nats_per_token.get(name)) is not None]
        values = np.array([value for _, value in nats]).reshape(-1, 1)
        return MethodSummary(
            score=_estimate(alone.columns, alone.draws),
            gain_recovered=self._share((name, TARGET_UNTOUCHED, CEILING)),
            lead_of_translated=_estimate(*leads) if paired.clients else None,
            nats_per_token=(
                _estimate(values, draw_means(values, [c.cluster for c, _ in nats], seed=self.seed)) if nats else None
            ),
            p_value=self._p_value(paired) if paired.clients and name != TRANSLATED else None,
        )

    def _leads(self, columns: np.ndarray) -> np.ndarray:
        """Return by how much the first of two columns is better, ``[..., 1]``."""
        leads: np.ndarray = (columns[:, :1] - columns[:, 1:]) * (1.0 if self.higher_is_better else -1.0)
        return leads

    def _p_value(self, paired: _Scores) -> float | None:
        tasks = [client.cluster for client in paired.clients]
        if len(set(tasks)) > 1:
            return sign_flip_p(sums_by(tasks, self._leads(paired.columns)[:, 0]), seed=self.seed)
        if not all(name in client.example_scores for client in paired.clients for name in paired.names):
            return None
        scores = [_examples(client, paired.names) for client in paired.clients]
        differences = [self._leads(columns)[:, 0] for columns in scores]
        return sign_flip_p(sums_by_example(differences, _test_sets(paired.clients)), seed=self.seed)

    def _share(self, names: tuple[str, str, str]) -> Recovered:
        scored = self._scored(names)
        if not scored.clients:
            absent = [name for name in names if not self._scored((name,)).clients]
            lacking = " and the ".join(method_of(name).short for name in absent or names)
            return Recovered(None, f"no client has a score of the {lacking}")
        reached, lower, upper = scored.columns.mean(0).tolist()
        draws = scored.draws  # [K, 3]
        share = share_of_gap(
            (reached, lower, upper),
            names=names,
            higher_is_better=self.higher_is_better,
            gap_interval=None if draws is None else interval(draws[:, 2] - draws[:, 1]),
        )
        if share.value is None or draws is None:
            return share
        gaps = draws[:, 2] - draws[:, 1]
        # A draw without a gap has no share; where the gap is certain they are rare.
        shares = (draws[:, 0] - draws[:, 1])[gaps != 0] / gaps[gaps != 0]
        low, high = interval(shares)
        return replace(share, low=low, high=high)

    def _scored(self, names: tuple[str, ...]) -> _Scores:
        """Return the scores of the clients that have all of these."""
        members = [c for c in self.clients if all(c.scores.get(name) is not None for name in names)]
        columns = np.array([[c.scores[name] for name in names] for c in members], dtype=np.float64)
        columns = columns.reshape(-1, len(names))
        if members and all(name in c.example_scores for c in members for name in names):
            drawn = self._example_draws(members)
            return _Scores(names, members, columns, np.stack([drawn[name] for name in names], axis=1))
        draws = draw_means(columns, [c.cluster for c in members], seed=self.seed)
        return _Scores(names, members, columns, draws)

    def _example_draws(self, members: Sequence[ClientScores]) -> Mapping[str, np.ndarray]:
        """Return the resampled means ``[K]`` of every method of which these clients' example scores are known."""
        key = tuple(map(id, members))
        if key not in self._known_draws:
            names = [n for n in members[0].example_scores if all(n in c.example_scores for c in members)]
            drawn = draw_example_means(
                [_examples(client, names) for client in members],
                [client.cluster for client in members],
                _test_sets(members),
                seed=self.seed,
            )
            self._known_draws[key] = dict(zip(names, drawn.T, strict=True))
        return self._known_draws[key]

    @cached_property
    def _known_draws(self) -> dict[tuple[int, ...], dict[str, np.ndarray]]:
        return {}


@dataclass(frozen=True)
class _Scores:
    """Scores of M methods on the clients that have all of them.

    Attributes:
        names: The methods.
        clients: The clients.
        columns: Their scores ``[C, M]``.
        draws: Resampled means ``[K, M]``; None where nothing can be resampled.
    """

    names: tuple[str, ...]
    clients: Sequence[ClientScores]
    columns: np.ndarray
    draws: np.ndarray | None


def _estimate(values: np.ndarray, draws: np.ndarray | None) -> Estimate:
    """Return the mean of ``[C, 1]`` with its interval."""
    low, high = (None, None) if draws is None else interval(draws)
    return Estimate(float(values.mean()), low, high, len(values))


def _examples(client: ClientScores, names: Sequence[str]) -> np.ndarray:
    """Return a client's example scores ``[N, M]``."""
    return np.stack([decode_examples(client.example_scores[name]) for name in names], axis=1)


def _test_sets(clients: Sequence[ClientScores]) -> list[str]:
    """Return what the clients' examples are called; those that have no name are a client's own."""
    return [client.test_set or f"client {number}" for number, client in enumerate(clients)]
