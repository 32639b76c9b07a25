"""What a token costs to decode: floating-point operations by count, seconds of the processor. Source: ours."""

from __future__ import annotations

import time
from collections.abc import Callable

from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D


def flops_per_token(model: PreTrainedModel) -> int:
    """Return the operations of one token's forward pass: two per weight that multiplies it.

    Input embeddings are looked up and do not count, the head does, tied or not; attention over the text read so far is
    left out, as it depends on its length. An adapter's few weights count if they are on the model.

    Args:
        model: A causal language model.
    """
    return 2 * sum(module.weight.numel() for module in model.modules() if isinstance(module, (nn.Linear, Conv1D)))


def processor_seconds_of(function: Callable[[], object], *, num_repeats: int) -> float:
    """Return the least processor time of a call, in seconds: on a CPU, what it takes where nothing else runs.

    Args:
        function: What is measured.
        num_repeats: How often, at least once.
    """
    times = []
    for _ in range(num_repeats):
        begin = time.process_time()
        function()
        times.append(time.process_time() - begin)
    return min(times)
