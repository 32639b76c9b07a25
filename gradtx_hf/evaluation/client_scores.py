"""ClientScores: what every method scores on one client's held-out data."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from gradtx_hf.evaluation.methods import CEILING, SOURCE_CLIENT, TARGET_UNTOUCHED, TRANSLATED
from gradtx_hf.evaluation.pgr import Recovered, share_of_gap


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
        example_scores: Method name to its scores of the held-out examples one by one, as ``encode_examples`` writes
            them; empty where they are not known.
        test_set: What these examples are called; clients that share it have the same ones in the same order.
    """

    task: str
    seen: bool | None
    scores: Mapping[str, float | None]
    seed: int | None = None
    nats_per_token: Mapping[str, float | None] = field(default_factory=dict)
    study_seed: int | None = None
    example_scores: Mapping[str, str] = field(default_factory=dict)
    test_set: str | None = None

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


def _finite(scores: Mapping[str, float | None]) -> dict[str, float | None]:
    """Return scores with None in place of what is not finite."""
    return {
        name: float(score) if score is not None and math.isfinite(score) else None for name, score in scores.items()
    }
