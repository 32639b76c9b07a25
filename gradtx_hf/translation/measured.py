"""The distances of what is translated, and the lines to warn with where an update lies off the map.

Axes: C clients, N blocks, D the size of the largest block.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from gradtx_hf.translation.aggregation import Aggregation
from gradtx_hf.translation.distance import InputDistance
from gradtx_hf.translation.translated import SourceUpdate
from gradtx_hf.updates import UpdateVector, decode_update, encode_update


@dataclass(frozen=True)
class MeasuredInputs:
    """Distances of several clients' updates and of their aggregate to the shadow sets' updates.

    Attributes:
        adapters: Every client's distance, in the order of the clients; None where nothing was measured.
        aggregate: The distance of what the translator reads; one client's own where there is one; None where it
            reads every client's own, or nothing was measured.
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
    aggregate: UpdateVector | None,
    rule: Aggregation,
) -> MeasuredInputs:
    """Measure clients' updates and their aggregate.

    Args:
        sources: The clients' adapters, at least one.
        start: Factors of the translator's ``source_init``.
        distance: What to measure with; None: the translator has no input distance, nothing is measured.
        aggregate: What the translator reads; None: it reads every client's own.
        rule: What messages call the aggregate.
    """
    if distance is None:
        return MeasuredInputs((None,) * len(sources))
    tokens = torch.stack(
        [UpdateVector.between(source.alignment.state, start, distance.layout).tokens for source in sources]
    )  # [C, N, D]
    adapters = tuple(distance.measure(update) for update in tokens)
    named = [(f"adapter '{source.adapter.name}'", d) for source, d in zip(sources, adapters, strict=True)]
    of_aggregate = None
    if aggregate is not None:
        aggregate_tokens = encode_update(decode_update(aggregate.tokens, aggregate.layout), distance.layout)
        of_aggregate = distance.measure(aggregate_tokens)
        if len(sources) > 1 or not torch.equal(aggregate_tokens, tokens[0]):
            named.append((f"the {rule} of the adapters", of_aggregate))
    warnings = [distance.describe_excess(measured, what=what) for what, measured in named]
    return MeasuredInputs(adapters, of_aggregate, distance.limit, tuple(line for line in warnings if line is not None))
