"""What the baselines read of an update store: the last paired snapshot of every shadow set, and its scales.

Axes: K paired shadow sets, N blocks, D the size of the largest block. Source: ours.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from gradtx_hf.errors import LayoutError, StoreError
from gradtx_hf.updates import BlockLayout
from gradtx_hf.updates.store import Side


class PairedUpdates(Protocol):
    """The part of an update store that the baselines need."""

    @property
    def pairs(self) -> Sequence[tuple[int, int]]:
        """The (shadow set, snapshot) of every pair of a source and a target update; later snapshots are larger."""

    @property
    def source_layout(self) -> BlockLayout:
        """Layout of the source updates."""

    @property
    def target_layout(self) -> BlockLayout:
        """Layout of the target updates."""

    def snapshot(self, side: Side, shadow_set: int, snapshot: int) -> Tensor:
        """Return one update, tokens ``[N, D]``."""


def last_pairs(store: PairedUpdates) -> tuple[tuple[int, int], ...]:
    """Return (shadow set, its last paired snapshot) in the order of the shadow sets.

    Raises:
        StoreError: If the store holds no pair.
    """
    last: dict[int, int] = {}
    for shadow_set, snapshot in store.pairs:
        last[shadow_set] = max(snapshot, last.get(shadow_set, snapshot))
    if not last:
        raise StoreError(
            "the update store holds no pair of a source and a target update (no target runs). Run gradtx curate with "
            "num_target_runs above 0 into a new folder."
        )
    return tuple(sorted(last.items()))


def require_source_tokens(tokens: Tensor, layout: BlockLayout) -> None:
    """Check that a client's update can be compared with the shadows'.

    Args:
        tokens: The client's update.
        layout: Layout of the source updates, for which ``[N_S, D_S]`` is expected.

    Raises:
        LayoutError: If the tokens are of another shape or not finite.
    """
    expected = [layout.num_blocks, layout.block_dim]
    if list(tokens.shape) != expected:
        raise LayoutError(f"got source tokens of shape {list(tokens.shape)}, expected {expected}.")
    if not bool(tokens.isfinite().all()):
        raise LayoutError("got source tokens that are not all finite; the fine-tuning diverged.")


def shadow_statistics(store: PairedUpdates, side: Side) -> tuple[Tensor, Tensor]:
    """Measure the mean update and each tensor's scale over the last paired snapshots, one update at a time.

    The scale is one number per tensor of the layout: the root mean square of its elements' deviations from their
    mean over shadow sets. So factors that move much and factors that move little count alike.

    Args:
        store: Where the shadow updates lie.
        side: Whose updates are measured.

    Returns:
        Mean ``[N, D]`` and scale ``[N, D]``, float64; the scale is positive, and 1 in the padding and where a tensor
        is the same in all shadow sets.

    Raises:
        StoreError: If the store holds no pair.
    """
    pairs = last_pairs(store)
    layout = store.source_layout if side == "source" else store.target_layout
    mean = torch.zeros(layout.num_blocks, layout.block_dim, dtype=torch.float64)
    for shadow_set, snapshot in pairs:
        mean += store.snapshot(side, shadow_set, snapshot).double() / len(pairs)
    variance = torch.zeros_like(mean)
    for shadow_set, snapshot in pairs:
        variance += (store.snapshot(side, shadow_set, snapshot).double() - mean).square() / len(pairs)
    scale = torch.ones_like(mean)
    for n, slot in layout.slots.values():
        place = slice(slot.offset, slot.offset + slot.num_elements)
        # Rounding of the mean leaves a trace of variance in a tensor that never changes.
        floor = 1e-12 * mean[n, place].square().mean()
        if variance[n, place].mean() > floor:
            scale[n, place] = variance[n, place].mean().sqrt()
    return mean, scale
