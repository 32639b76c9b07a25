"""Pairs of updates as a data set, streamed from a store, and their split by shadow set.

Axes: B batch, N_S / N_T blocks, D_S / D_T size of the largest block. Source: paper Sec. 4 (95:5); the split by
shadow set, and not by pair, is ours: neighbouring snapshots of one run are all but the same.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from gradtx_hf.errors import DataError
from gradtx_hf.updates.partition import StoreView
from gradtx_hf.updates.store import UpdateStore


PairStore = UpdateStore | StoreView
Pair = tuple[int, int]
"""A shadow set and a snapshot of it, as ``UpdateStore.pairs`` numbers them."""


class PairDataset(Dataset[dict[str, Tensor]]):
    """Pairs of a store; each is read when it is asked for, and none is kept.

    Args:
        store: Where the updates are.
        pairs: The pairs of this data set.

    Raises:
        StoreError: If a shard of these pairs is damaged.
    """

    def __init__(self, store: PairStore, pairs: Sequence[Pair]) -> None:
        self._store = store
        self._pairs = np.array(list(pairs), dtype=np.int64).reshape(-1, 2)  # 16 bytes a pair, no Python objects
        # A damaged shard is refused before training. And the handles of the maps, which stay, lie together: opened
        # one by one between batches they would keep the memory of freed batches from being used again.
        for shadow_set in sorted({shadow_set for shadow_set, _ in pairs}):
            store.check("source", shadow_set)
            store.check("target", shadow_set)

    def __len__(self) -> int:
        return len(self._pairs)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        """Return ``source_blocks`` ``[N_S, D_S]`` and ``target_blocks`` ``[N_T, D_T]``."""
        shadow_set, snapshot = self._pairs[index].tolist()
        return {
            "source_blocks": self._store.snapshot("source", shadow_set, snapshot),
            "target_blocks": self._store.snapshot("target", shadow_set, snapshot),
        }

    def __getitems__(self, indices: Sequence[int]) -> dict[str, Tensor]:
        """Return a batch at once, as ``collate_pairs`` does; a torch data loader asks for it where it is there."""
        pairs = self._pairs[indices].tolist()
        return {
            "source_blocks": self._store.snapshots("source", pairs),
            "target_blocks": self._store.snapshots("target", pairs),
        }


def collate_pairs(pairs: list[dict[str, Tensor]] | dict[str, Tensor]) -> dict[str, Tensor]:
    """Stack pairs into ``source_blocks`` ``[B, N_S, D_S]`` and ``target_blocks`` ``[B, N_T, D_T]``, if they are not."""
    if isinstance(pairs, dict):
        return pairs
    return {name: torch.stack([pair[name] for pair in pairs]) for name in pairs[0]}


@dataclass(frozen=True)
class PairSplit:
    """Pairs to train on and pairs to validate on; no shadow set has pairs in both.

    Attributes:
        train: Training pairs, in the store's order.
        validation: Validation pairs, in the store's order.
    """

    train: tuple[Pair, ...]
    validation: tuple[Pair, ...]


def split_by_shadow_set(pairs: Sequence[Pair], *, validation_share: float, seed: int) -> PairSplit:
    """Split pairs, or source updates alone, by shadow set.

    Args:
        pairs: ``UpdateStore.pairs``, or ``UpdateStore.source_snapshots`` where no target update is needed.
        validation_share: Share of the shadow sets for validation, in [0, 1); unless it is 0 at least one set, and
            at most all but one.
        seed: Seed of the choice.

    Raises:
        DataError: If there is none.
    """
    shadow_sets = sorted({shadow_set for shadow_set, _ in pairs})
    if not shadow_sets:
        raise DataError(
            "got an update store without pairs (no target runs), expected some to train on. Run gradtx curate with "
            "num_target_runs: null into a new folder, or train with objective: functional."
        )
    num_validation = max(1, round(validation_share * len(shadow_sets))) if validation_share > 0 else 0
    random.Random(seed).shuffle(shadow_sets)
    chosen = set(shadow_sets[: min(num_validation, len(shadow_sets) - 1)])
    return PairSplit(
        train=tuple(pair for pair in pairs if pair[0] not in chosen),
        validation=tuple(pair for pair in pairs if pair[0] in chosen),
    )
