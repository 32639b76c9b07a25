"""PEFT's own TIES and DARE on update vectors.

PEFT applies them to each factor of an adapter; here an update is one vector, as in the papers. The weights given to
PEFT are such that clients of one and the same update get its kept elements back in their own size.

Axes: C clients, M elements of an update. Source: TIES, Yadav et al. 2023; DARE, Yu et al. 2024; ``peft.utils``.
"""

from __future__ import annotations

import torch
from peft.utils.merge_utils import dare_linear, dare_ties, ties
from torch import Tensor


MERGES = ("ties", "dare_linear", "dare_ties")


def merge_updates(updates: Tensor, shares: Tensor, *, method: str, density: float, seed: int) -> Tensor:
    """Merge updates ``[C, M]`` to one, ``[M]``.

    A client without a share takes no part; PEFT would let it vote for signs.

    Args:
        updates: The updates, without padding.
        shares: ``[C]``, >= 0, their sum 1.
        method: ``ties``: each keeps its largest elements; where their signs differ, the side with the larger sum wins,
            and its elements' mean is taken. ``dare_linear``: each drops elements at random, the others grow as much;
            then the mean. ``dare_ties``: DARE, then the signs and the mean of TIES.
        density: Share of its elements that each keeps, in (0, 1).
        seed: Seed of DARE's dropping; the global generator is left as it was.
    """
    kept = shares > 0
    tensors, weights = list(updates[kept]), shares[kept]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if method == "dare_linear":  # which sums up
            merged: Tensor = dare_linear(tensors, weights, density)
        elif method == "ties":  # which divides by the number of clients that agree
            merged = ties(tensors, weights * len(tensors), density)
        else:  # the same, of elements that DARE has divided by the density
            merged = dare_ties(tensors, weights * len(tensors) * density, density)
    return merged
