"""TokenStatistics: mean and spread of the tokens of a layout, in one pass.

A translator works on standardised tokens: without them the large tensors of an update drown the small ones. The
mean is taken per element; the standard deviation is one number per tensor and block, so that the proportions
within a tensor stay as they are.

Axes: B batch, N blocks, D the size of the largest block. Source: ours.
"""

from __future__ import annotations

import torch
from torch import Tensor

from gradtx_hf.errors import DataError
from gradtx_hf.updates import BlockLayout


RELATIVE_FLOOR = 1e-4
"""Least standard deviation of a tensor, relative to the layout's largest: a tensor that never moved stays quiet."""


class TokenStatistics:
    """Running mean and standard deviation of tokens, in float64.

    Args:
        layout: What stands where in the tokens.
    """

    def __init__(self, layout: BlockLayout) -> None:
        self._layout = layout
        self._count = 0
        self._mean = torch.zeros(layout.num_blocks, layout.block_dim, dtype=torch.float64)
        self._squares = torch.zeros_like(self._mean)

    def update(self, tokens: Tensor) -> None:
        """Take in tokens ``[B, N, D]`` (parallel form of Welford's update, so that large means cost no digits)."""
        batch = tokens.detach().to(self._mean)
        count = self._count + len(batch)
        mean = batch.mean(dim=0)
        shift = mean - self._mean
        self._squares += (batch - mean).square().sum(dim=0) + shift.square() * self._count * len(batch) / count
        self._mean += shift * len(batch) / count
        self._count = count

    def result(self) -> tuple[Tensor, Tensor]:
        """Return mean and standard deviation, both ``[N, D]`` float32; 0 and 1 in the padding.

        Raises:
            DataError: If no tokens were taken in.
        """
        if self._count == 0:
            raise DataError("got no tokens to take statistics of, expected at least one pair.")
        variance = self._squares / self._count
        std = torch.zeros_like(variance)
        for n, slot in self._layout.slots.values():
            place = (n, slice(slot.offset, slot.offset + slot.num_elements))
            std[place] = variance[place].mean().sqrt()
        mask = self._layout.mask()
        largest = float(std.max())
        std = std.clamp_min(RELATIVE_FLOOR * largest) if largest > 0 else torch.ones_like(std)
        return (self._mean * mask).float(), torch.where(mask, std, 1.0).float()
