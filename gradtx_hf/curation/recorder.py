"""Record an adapter after each of the last optimizer steps of a run.

Axes: W snapshots, N blocks, D the size of the largest block.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping

import torch
from torch import Tensor
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from gradtx_hf.updates import BlockLayout, encode_update


class SnapshotRecorder(TrainerCallback):
    """Keeps the adapter's values of the last W optimizer steps ("the last 200 steps", paper Sec. 4.1)."""

    def __init__(self, parameters: Mapping[str, Tensor], layout: BlockLayout, *, num_snapshots: int) -> None:
        self._parameters = parameters
        self._layout = layout
        self._start = encode_update(parameters, layout)
        self._snapshots: deque[Tensor] = deque(maxlen=num_snapshots)

    def on_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: object
    ) -> None:
        """Copy the values that the step left."""
        self._snapshots.append(encode_update(self._parameters, self._layout))

    def updates(self) -> Tensor:
        """Return the updates ``[W, N, D]`` float32 against the values at the recorder's start, oldest first."""
        return torch.stack(list(self._snapshots)) - self._start
