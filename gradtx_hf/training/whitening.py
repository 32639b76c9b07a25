"""Where the linear path begins: the principal directions of the source updates, whitened.

A task moves an update along few directions, and the noise of a run along all. A random start of the linear path hears
all directions alike and has to learn which ones speak; begun along the principal directions, each divided by its
spread with the input noise, it needs a third of the steps and carries over to more tasks that it has never seen.

Axes: M updates, S elements of a source update without padding, R rank. Source: ours; PCA in its dual form.
"""

from __future__ import annotations

import torch
from torch import Tensor

from gradtx_hf.model import GradTransformerModel
from gradtx_hf.training.data import Pair, PairStore
from gradtx_hf.translation.calibration import fit_components, gram_matrix


UPDATES_PER_DIRECTION = 16
"""Updates that the directions are fitted to, at most, for each: last snapshots, spread over the shadow sets. They are
held in memory about three times over."""


@torch.no_grad()
def whiten_linear_path(
    model: GradTransformerModel, store: PairStore, snapshots: list[Pair] | tuple[Pair, ...], *, noise: float
) -> int:
    """Begin a model's linear path along the principal directions of the source updates.

    Args:
        model: The translator, with its statistics set; nothing is done to one without a linear path.
        store: Where the updates are.
        snapshots: The updates to train on; the last of each shadow set is used.
        noise: Standard deviation of the noise that training adds, in standardised units.

    Returns:
        How many of the R directions were set; with few updates the others stay random.
    """
    if model.linear_path is None:
        return 0
    last = dict(sorted(snapshots))
    weight = model.linear_path.down.weight
    chosen = list(last.items())[:: -(-len(last) // (UPDATES_PER_DIRECTION * len(weight)))]
    updates = torch.stack([store.snapshot("source", *pair) for pair in chosen])
    standardised = ((updates - model.source_mean.cpu()) / model.source_std.cpu())[:, model.source_mask.cpu()]
    directions = whitening_directions(standardised, rank=len(weight), noise=noise)
    weight[: len(directions)] = directions.to(weight)
    return len(directions)


def whitening_directions(updates: Tensor, *, rank: int, noise: float) -> Tensor:
    """Return directions along which updates, with isotropic noise, have variance 1.

    Args:
        updates: Standardised updates ``[M, S]``.
        rank: Directions at most.
        noise: Standard deviation of the noise on every element.

    Returns:
        ``[<= rank, S]``, orthogonal, that of the largest variance first; fewer where the updates span fewer.
    """
    size = updates.shape[1]
    components = fit_components(gram_matrix(updates, num_elements=size), most=rank)
    centred = updates - updates.mean(dim=0)
    directions: Tensor = components.weights.T.to(updates) @ centred / size**0.5  # of length 1
    variances = size * components.variances.to(updates)
    directions *= (variances + noise**2).rsqrt()[:, None]
    return directions
