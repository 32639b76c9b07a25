"""MappedSide: the runs of one side of a store, each mapped from its shard when it is first read.

Axes: B updates, W snapshots, N blocks, D the size of the largest block. Source: ours.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from gradtx_hf.errors import StoreError
from gradtx_hf.updates.layout import BlockLayout
from gradtx_hf.updates.shard import map_tokens, read_header


class MappedSide:
    """One side's runs.

    Args:
        layout: The layout of its updates.
        dtype: What they are stored as.
        find_shard: Shadow set to its shard's file; raises StoreError for one that is not planned.
    """

    def __init__(self, layout: BlockLayout, *, dtype: torch.dtype, find_shard: Callable[[int], Path]) -> None:
        self._shape = (layout.num_blocks, layout.block_dim)
        self._dtype = dtype
        self._find_shard = find_shard
        self._runs: dict[int, Tensor] = {}
        self._rows = _Rows(self.stored)

    def stored(self, shadow_set: int) -> Tensor:
        """Return a run's snapshots ``[W, N, D]`` as they are stored, on the pages of the file.

        Raises:
            StoreError: If the plan has no such run, or its shard is missing or damaged.
        """
        if shadow_set not in self._runs:
            path = self._find_shard(shadow_set)
            header = read_header(path)
            if header.shape[1:] != self._shape or header.dtype != self._dtype:
                raise StoreError(f"shard '{path}' holds tokens of another layout or number format. Curate again.")
            self._runs[shadow_set] = map_tokens(path, header)
        return self._runs[shadow_set]

    def gather(self, pairs: Sequence[tuple[int, int]]) -> Tensor:
        """Return the updates of some (shadow set, snapshot) as one copy, ``[B, N, D]`` float32; raises as ``stored``.

        Whole rows are joined by numpy, which takes a third less time than torch.
        """
        rows = self._rows
        joined = np.concatenate([rows[shadow_set][snapshot] for shadow_set, snapshot in pairs])
        return torch.from_numpy(joined).view(self._dtype).view(len(pairs), *self._shape).float()

    def forget(self, shadow_set: int) -> None:
        """Map a run anew when it is read again: its shard was written."""
        self._runs.pop(shadow_set, None)
        self._rows.pop(shadow_set, None)


class _Rows(dict[int, np.ndarray]):
    """Shadow set to its snapshots ``[W, N D]`` as numpy can hold them, made from its run when it is first asked for."""

    def __init__(self, stored: Callable[[int], Tensor]) -> None:
        super().__init__()
        self._stored = stored

    def __missing__(self, shadow_set: int) -> np.ndarray:
        rows = self._stored(shadow_set).flatten(1)
        has_numpy = rows.dtype == torch.float32  # of bfloat16 it has none
        self[shadow_set] = (rows if has_numpy else rows.view(torch.int16)).numpy()
        return self[shadow_set]
