"""The last layer's feed-forward block, computed at some positions alone.

Behind the last attention no position reads another, so what the block makes of a position whose logits nobody asks for
is computed in vain. With P of T positions asked for, a model of L layers saves about (1 - P/T) / L of its work.
Source: ours.

Axes: B rows, T tokens, P positions.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor, nn
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.pytorch_utils import Conv1D


WORTH_IT = 0.75
"""Share of the positions up to which it pays to pick them out and put them back."""


def last_feed_forward(model: nn.Module) -> nn.Module | None:
    """Return the feed-forward block of a model's last layer, if it is one that can be computed at some positions alone.

    That is a module ``mlp`` of one argument whose parameters are those of linear layers, as most of transformers'
    language models have it. Experts, and blocks that also add what goes around them, are left alone.
    """
    layers = [module for module in model.modules() if isinstance(module, GradientCheckpointingLayer)]
    block = getattr(layers[-1], "mlp", None) if layers else None
    if not isinstance(block, nn.Module) or len(inspect.signature(block.forward).parameters) != 1:
        return None
    with_parameters = [module for module in block.modules() if next(module.parameters(recurse=False), None) is not None]
    is_plain = all(isinstance(module, nn.Linear | Conv1D) for module in with_parameters)
    has_parts = any(isinstance(module, nn.ModuleList | nn.ModuleDict) for module in block.modules())
    return block if is_plain and not has_parts else None


@contextmanager
def computed_at(block: nn.Module, positions: Tensor) -> Iterator[None]:
    """Compute a feed-forward block at some positions alone for the length of a ``with`` block; elsewhere it gives 0.

    Args:
        block: What ``last_feed_forward`` returned.
        positions: ``[P]``, ascending.
    """
    at = _Positions(positions)
    handles = (block.register_forward_pre_hook(at.pick), block.register_forward_hook(at.put_back))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


class _Positions:
    """The two ends of one pass through the block."""

    def __init__(self, positions: Tensor) -> None:
        self._positions = positions
        self._num_tokens = 0

    def pick(self, module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        self._num_tokens = inputs[0].shape[1]
        return (inputs[0].index_select(1, self._positions),)

    def put_back(self, module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        whole = output.new_zeros(output.shape[0], self._num_tokens, output.shape[2])
        return whole.index_copy(1, self._positions, output)
