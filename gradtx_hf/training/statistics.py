"""The standardisation of a translator, from the updates that it is trained on.

The source's comes from all source updates. The target's comes from the target runs, of which a functional objective
needs few: only the place and the size of the output are taken from them. With none at all the mean is zero, the scale
begins at that of the source's tensors of the same factor, and the model learns the rest. Source: ours.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from gradtx_hf.model import GradTransformerModel, TokenStatistics
from gradtx_hf.training.data import Pair, PairStore
from gradtx_hf.updates import BlockLayout
from gradtx_hf.updates.store import Side


def set_statistics(
    model: GradTransformerModel,
    store: PairStore,
    *,
    source_snapshots: Sequence[Pair],
    num_target_runs: int | None,
) -> int:
    """Set a model's statistics in one pass over the updates.

    Args:
        model: The translator.
        store: Where the updates are.
        source_snapshots: The source updates to train on; target updates of their shadow sets are taken with them.
        num_target_runs: Target runs at most, the first of those there are; None: all.

    Returns:
        Number of target runs that were used.
    """
    source_mean, source_std = _statistics(store, "source", source_snapshots)
    trained_on = {shadow_set for shadow_set, _ in source_snapshots}
    paired = [pair for pair in store.pairs if pair[0] in trained_on]
    runs = sorted({shadow_set for shadow_set, _ in paired})[:num_target_runs]
    if runs:
        target_mean, target_std = _statistics(store, "target", [pair for pair in paired if pair[0] in set(runs)])
    else:
        target_std = borrowed_scale(source_std, model.source_layout, model.target_layout)
        target_mean = torch.zeros_like(target_std)
    model.set_statistics(source_mean=source_mean, source_std=source_std, target_mean=target_mean, target_std=target_std)
    return len(runs)


def borrowed_scale(source_std: Tensor, source_layout: BlockLayout, target_layout: BlockLayout) -> Tensor:
    """Return a first guess of the target's standard deviations: the source's root mean square by factor.

    Args:
        source_std: ``[N_S, D_S]``, one number per tensor.
        source_layout: What stands where in source tokens.
        target_layout: What stands where in target tokens.

    Returns:
        ``[N_T, D_T]``, one number per factor such as ``lora_A``; 1 in the padding. A factor that the source lacks
        gets the root mean square over all of its tensors.
    """
    by_factor: dict[str, list[Tensor]] = {}
    for name, (n, slot) in source_layout.slots.items():
        by_factor.setdefault(name.rpartition(".")[2], []).append(source_std[n, slot.offset])
    every = [std for stds in by_factor.values() for std in stds]
    target_std = torch.ones(target_layout.num_blocks, target_layout.block_dim)
    for name, (n, slot) in target_layout.slots.items():
        stds = by_factor.get(name.rpartition(".")[2], every)
        target_std[n, slot.offset : slot.offset + slot.num_elements] = torch.stack(stds).square().mean().sqrt()
    return target_std


def _statistics(store: PairStore, side: Side, snapshots: Sequence[Pair]) -> tuple[Tensor, Tensor]:
    """Return mean and standard deviation ``[N, D]`` of one side's updates, read run by run."""
    statistics = TokenStatistics(store.source_layout if side == "source" else store.target_layout)
    by_set: dict[int, list[int]] = {}
    for shadow_set, snapshot in snapshots:
        by_set.setdefault(shadow_set, []).append(snapshot)
    for shadow_set, chosen in by_set.items():
        statistics.update(store.read(side, shadow_set)[chosen])
    return statistics.result()
