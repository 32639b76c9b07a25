"""Aggregate several clients' updates, and say what each of them has to do with the result.

Axes: C clients, M elements of an update. Source: ours.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from gradtx_hf.errors import AdapterError
from gradtx_hf.translation.aggregation import UNWEIGHTED, Aggregation, AggregationSettings, aggregate_with_shares
from gradtx_hf.updates import UpdateVector


OUTLIER_FACTOR = 1.7
"""A client lies apart whose distance to the others is more than this many times the usual one. Clients of one task of
the embedded world come to 1.2 at most, random numbers of a client's norm to 1.8-3, a flipped sign to 2.5-4."""
LEAST_CLIENTS = 3
"""Of two clients, neither can be told to be the one that lies apart."""
ROUNDING = 1e-5
"""Distances below this part of the usual norm are float32 rounding."""


@dataclass(frozen=True)
class Contribution:
    """What one client has to do with the aggregate.

    Attributes:
        share: Part of its own update that is in the aggregate; see ``Aggregate.shares``.
        norm: Euclidean norm of its update.
        cosine: Cosine of the angle between its update and the aggregate, in [-1, 1].
        distance: Median Euclidean distance of its update to the other clients', of an even number the lower of the
            middle two; None for one client.
    """

    share: float
    norm: float
    cosine: float
    distance: float | None


@dataclass(frozen=True, eq=False)
class Combined:
    """Several clients' updates as one.

    Attributes:
        update: The aggregate.
        contributions: One per client, in their order.
        warnings: One line for every client that lies apart from the others.
    """

    update: UpdateVector
    contributions: tuple[Contribution, ...]
    warnings: tuple[str, ...]


def combine_updates(
    updates: Sequence[UpdateVector],
    *,
    names: Sequence[str],
    settings: AggregationSettings,
    weights: Sequence[float] | None,
) -> Combined:
    """Aggregate clients' updates of one layout.

    Args:
        updates: The updates, at least one.
        names: What messages call the clients' adapters.
        settings: How.
        weights: One weight per client, or None.

    Raises:
        AdapterError: If the aggregate is too large for float32.
        ConfigurationError: If weights or settings do not fit.
    """
    layout = updates[0].layout
    mask = layout.mask()
    rows = torch.stack([update.tokens[mask] for update in updates])  # [C, M]
    aggregate = aggregate_with_shares(rows, aggregation=settings, weights=weights)
    if not bool(aggregate.values.isfinite().all()):
        raise AdapterError(
            f"the {settings.rule} of the adapters holds NaN or infinite values: an update is too large. Look for it "
            "with gradtx inspect, and leave it out."
        )
    tokens = torch.zeros(mask.shape)
    tokens[mask] = aggregate.values
    update = UpdateVector(tokens, layout)
    distances = _distances(rows)
    contributions = tuple(
        Contribution(share, own.norm, own.cosine(update), distance)
        for own, share, distance in zip(updates, aggregate.shares, distances, strict=True)
    )
    return Combined(update, contributions, tuple(_describe_outliers(contributions, names, settings.rule)))


def _distances(rows: Tensor) -> list[float | None]:
    """Return each client's median distance to the others."""
    num_clients = len(rows)
    if num_clients == 1:
        return [None]
    between = torch.zeros(num_clients, num_clients, dtype=torch.float64)
    for i in range(num_clients):
        for j in range(i):
            between[i, j] = between[j, i] = (rows[i].double() - rows[j].double()).norm()
    is_other = ~torch.eye(num_clients, dtype=torch.bool)
    return [float(between[i][is_other[i]].median()) for i in range(num_clients)]


def _describe_outliers(contributions: Sequence[Contribution], names: Sequence[str], rule: Aggregation) -> list[str]:
    if len(contributions) < LEAST_CLIENTS:
        return []
    distances = torch.tensor([c.distance for c in contributions], dtype=torch.float64)
    usual = float(distances.median())
    norm = float(torch.tensor([c.norm for c in contributions], dtype=torch.float64).median())
    advice = "Check it or leave it out."
    if rule not in UNWEIGHTED:
        advice = "Check it, leave it out, or aggregate by median or trimmed_mean."
    limit = max(OUTLIER_FACTOR * usual, ROUNDING * norm)
    return [
        f"adapter '{name}' lies apart from the other clients: its distance to them is {c.distance:.3g}, the "
        f"usual one {usual:.3g} (norm {c.norm:.3g}, the usual one {norm:.3g}; cosine to the aggregate {c.cosine:.2f}). "
        f"{advice}"
        for name, c in zip(names, contributions, strict=True)
        if c.distance is not None and c.distance > limit
    ]
