"""Record adapters after each of the last optimizer steps of their runs.

Axes: K runs, W snapshots, N blocks, D the size of the largest block.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from gradtx_hf.updates import BlockLayout, encode_update


class SnapshotRecorder:
    """Keeps the adapters' values of the last W optimizer steps of each run ("the last 200 steps", paper Sec. 4.1).

    Args:
        start: The values that all runs start from.
        layout: The layout of their updates.
        num_snapshots: Most snapshots of a run W.
    """

    def __init__(self, start: Mapping[str, Tensor], layout: BlockLayout, *, num_snapshots: int) -> None:
        self._layout = layout
        self._start = encode_update(start, layout)
        # by run: the factors of all that were running, and where among them the run stood
        self._snapshots: defaultdict[int, deque[tuple[dict[str, Tensor], int]]] = defaultdict(
            lambda: deque(maxlen=num_snapshots)
        )

    def __call__(self, running: Sequence[int], factors: Mapping[str, Tensor]) -> None:
        """Copy the values that a step left.

        Args:
            running: Numbers of the runs that are running.
            factors: Their factors by name, ``[K, r, in]`` and ``[K, out, r]``.
        """
        copied = {name: factor.detach().to("cpu", copy=True) for name, factor in factors.items()}
        for position, run in enumerate(running):
            self._snapshots[run].append((copied, position))

    def updates(self, run: int) -> Tensor:
        """Return a run's updates ``[W, N, D]`` float32 against the start, oldest first."""
        states = (
            {name: factor[position] for name, factor in copied.items()} for copied, position in self._snapshots[run]
        )
        return torch.stack([encode_update(state, self._layout) for state in states]) - self._start
