"""Partitions of an update: block by block, one projection at a time, or in reversed order.

A view shows a store's updates in the layouts of a part, without copying the store.
Axes: N blocks, D the size of the largest block. Source: paper Sec. 5 (partitioning).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

import torch
from torch import Tensor

from gradtx_hf.errors import ConfigurationError, LayoutError
from gradtx_hf.updates.layout import BlockLayout
from gradtx_hf.updates.store import Side, UpdateStore


Partition = Literal["block", "projection", "reversed"]
WHOLE = ""
"""Name of the only part where an update is not taken apart."""


class StoreView:
    """An update store seen through other layouts; a part's tensors are picked out of every update as it is read.

    Attributes:
        source_layout: Layout of the source updates as seen.
        target_layout: Layout of the target updates as seen.
    """

    def __init__(self, store: UpdateStore, *, source_layout: BlockLayout, target_layout: BlockLayout) -> None:
        self._store = store
        self.source_layout = source_layout
        self.target_layout = target_layout
        self._places: dict[Side, Tensor] = {
            "source": _places(store.source_layout, source_layout),
            "target": _places(store.target_layout, target_layout),
        }

    @property
    def num_shadow_sets(self) -> int:
        """Number of shadow sets K."""
        return self._store.num_shadow_sets

    @property
    def pairs(self) -> list[tuple[int, int]]:
        """The (shadow set, snapshot) of every pair, as in the store."""
        return self._store.pairs

    @property
    def source_snapshots(self) -> list[tuple[int, int]]:
        """The (shadow set, snapshot) of every source update, as in the store."""
        return self._store.source_snapshots

    def shadow_sets(self, side: Side) -> Sequence[int]:
        """Return the shadow sets that have a run of a side."""
        return self._store.shadow_sets(side)

    def check(self, side: Side, shadow_set: int) -> None:
        """Map a run's shard, which refuses a damaged one; nothing is copied."""
        self._store.check(side, shadow_set)

    def read(self, side: Side, shadow_set: int) -> Tensor:
        """Return all snapshots of a run, ``[W, N, D]``; a copy."""
        return self._pick(side, self._store.read(side, shadow_set))

    def snapshot(self, side: Side, shadow_set: int, snapshot: int) -> Tensor:
        """Return one update, ``[N, D]``."""
        return self._pick(side, self._store.snapshot(side, shadow_set, snapshot))

    def snapshots(self, side: Side, pairs: Sequence[tuple[int, int]]) -> Tensor:
        """Return some updates, ``[B, N, D]``; see ``UpdateStore.snapshots``."""
        return self._pick(side, self._store.snapshots(side, pairs))

    def _pick(self, side: Side, tokens: Tensor) -> Tensor:
        flat = torch.nn.functional.pad(tokens.flatten(-2), (0, 1))  # the element behind the last is the padding
        return flat[..., self._places[side]]


def partition_store(store: UpdateStore, partition: Partition) -> dict[str, UpdateStore | StoreView]:
    """Take a store's updates apart: part name to what that part's translator reads and writes.

    Args:
        store: The store.
        partition: ``block``: one token per block. ``projection``: a translator per projection, named by it.
            ``reversed``: one token per block, the last block first on both sides.

    Raises:
        ConfigurationError: If there is no such partition, or the two models adapt different projections.
    """
    source, target = store.source_layout, store.target_layout
    if partition not in get_args(Partition):
        raise ConfigurationError(f"got partition {partition!r}, expected one of {', '.join(get_args(Partition))}.")
    if partition == "reversed":
        return {WHOLE: StoreView(store, source_layout=source.reversed(), target_layout=target.reversed())}
    if partition == "block":
        return {WHOLE: store}
    if source.projections != target.projections:
        raise ConfigurationError(
            f"partition 'projection' pairs equal projections, but the source adapts {', '.join(source.projections)} "
            f"and the target {', '.join(target.projections)}. Use partition 'block'."
        )
    source_parts, target_parts = source.by_projection(), target.by_projection()
    return {
        name: StoreView(store, source_layout=source_parts[name], target_layout=target_parts[name])
        for name in source_parts
    }


def _places(whole: BlockLayout, part: BlockLayout) -> Tensor:
    """Return ``[N, D]`` positions of a part's elements in the flattened whole; the padding points behind its end."""
    places = torch.full((part.num_blocks, part.block_dim), whole.num_blocks * whole.block_dim)
    for name, (n, slot) in part.slots.items():
        if name not in whole.slots:
            raise LayoutError(f"the part has '{name}', which the whole does not have.")
        there, whole_slot = whole.slots[name]
        first = there * whole.block_dim + whole_slot.offset
        places[n, slot.offset : slot.offset + slot.num_elements] = torch.arange(first, first + slot.num_elements)
    return places
