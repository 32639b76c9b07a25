"""The distances of what is translated, and the lines to warn with where an update lies off the map.

Axes: C clients, N blocks, D the size of the largest block.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from gradtx_hf.translation.aggregation import Aggregation, aggregate_updates
from gradtx_hf.translation.distance import InputDistance
from gradtx_hf.translation.translated import SourceUpdate
from gradtx_hf.updates import UpdateVector


@dataclass(frozen=True)
class MeasuredInputs:
    """Distances of several clients' updates and of their aggregate to the shadow sets' updates.

    Attributes:
        adapters: Every client's distance, in the order of the clients; None where nothing was measured.
        aggregate: The distance of what the translator reads; one client's own where there is one.
        limit: Most that an update like the shadow sets' has.
        warnings: One line for each of them that lies beyond the limit.
    """

    adapters: tuple[float | None, ...]
    aggregate: float | None = None
    limit: float | None = None
    warnings: tuple[str, ...] = ()


def measure_inputs(
    sources: Sequence[SourceUpdate],
    *,
    start: Mapping[str, Tensor],
    distance: InputDistance | None,
    aggregation: Aggregation,
    weights: Sequence[float] | None,
) -> MeasuredInputs:
    """Measure clients' updates and their aggregate.

    Args:
        sources: The clients' adapters, at least one.
        start: Factors of the translator's ``source_init``.
        distance: What to measure with; None: the translator has no input distance, nothing is measured.
        aggregation: How several updates become one.
        weights: One weight per client, for ``mean`` and ``sum``.
    """
    if distance is None:
        return MeasuredInputs((None,) * len(sources))
    tokens = torch.stack(
        [UpdateVector.between(source.alignment.state, start, distance.layout).tokens for source in sources]
    )  # [C, N, D]
    aggregate_tokens = aggregate_updates(tokens, aggregation=aggregation, weights=weights)
    adapters = tuple(distance.measure(update) for update in tokens)
    aggregate = distance.measure(aggregate_tokens)
    named = [(f"adapter '{source.adapter.name}'", d) for source, d in zip(sources, adapters, strict=True)]
    if len(sources) > 1 or not torch.equal(aggregate_tokens, tokens[0]):
        named.append((f"the {aggregation} of the adapters", aggregate))
    warnings = [distance.describe_excess(measured, what=what) for what, measured in named]
    return MeasuredInputs(adapters, aggregate, distance.limit, tuple(line for line in warnings if line is not None))
