"""Bring several clients' updates into one, before translation.

Axes: C clients, N blocks, D block size. Source: paper Eq. 3 (mean and sum); the robust rules are the usual ones of
federated learning (coordinate-wise median and trimmed mean, Yin et al. 2018).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, get_args

import torch
from torch import Tensor

from gradtx_hf.errors import ConfigurationError


Aggregation = Literal["mean", "sum", "median", "trimmed_mean"]
TRIMMED_SHARE = 0.2
"""Share of the clients left out at each end of every coordinate by ``trimmed_mean``; at least one of three or more."""


def aggregate_updates(
    tokens: Tensor, *, aggregation: Aggregation = "mean", weights: Sequence[float] | None = None
) -> Tensor:
    """Aggregate clients' update tokens.

    Args:
        tokens: ``[C, N, D]``.
        aggregation: ``mean`` or ``sum`` (paper Eq. 3), ``median`` or ``trimmed_mean`` of every coordinate.
        weights: One weight per client, each >= 0, for ``mean`` (where they are divided by their sum) and ``sum``.

    Returns:
        Tokens ``[N, D]``.

    Raises:
        ConfigurationError: If there is no such rule, or the weights do not fit.
    """
    if aggregation not in get_args(Aggregation):
        raise ConfigurationError(
            f"got aggregation {aggregation!r}, expected one of {', '.join(get_args(Aggregation))}."
        )
    if weights is not None:
        if aggregation not in ("mean", "sum"):
            raise ConfigurationError(f"weights go with mean and sum, not with {aggregation}. Leave them out.")
        factors = _checked_weights(weights, num_clients=len(tokens), aggregation=aggregation).to(tokens)
        return (tokens * factors[:, None, None]).sum(0)
    if aggregation == "sum":
        return tokens.sum(0)
    if aggregation == "median":
        return _median(tokens)
    if aggregation == "trimmed_mean":
        return _trimmed_mean(tokens)
    return tokens.mean(0)


def _median(tokens: Tensor) -> Tensor:
    """Return the coordinate-wise median, of an even number the mean of the middle two; torch.quantile takes 2^24."""
    num_clients = len(tokens)
    return tokens.sort(dim=0).values[(num_clients - 1) // 2 : num_clients // 2 + 1].mean(0)


def _trimmed_mean(tokens: Tensor) -> Tensor:
    num_clients = len(tokens)
    num_trimmed = max(1, int(num_clients * TRIMMED_SHARE)) if num_clients >= 3 else 0
    return tokens.sort(dim=0).values[num_trimmed : num_clients - num_trimmed].mean(0)


def _checked_weights(weights: Sequence[float], *, num_clients: int, aggregation: str) -> Tensor:
    if len(weights) != num_clients:
        raise ConfigurationError(f"got {len(weights)} weights for {num_clients} adapters, expected one each.")
    if not all(math.isfinite(w) and w >= 0 for w in weights) or sum(weights) <= 0:
        raise ConfigurationError(f"got weights {list(weights)}, expected finite values >= 0, not all zero.")
    factors = torch.tensor(list(weights), dtype=torch.float64)
    return factors / factors.sum() if aggregation == "mean" else factors
