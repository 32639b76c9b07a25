"""AdapterDropout: masks for K adapters on one model, each adapter's drawn by a generator of its own.

Axes: K adapters, R rows of each, T tokens. Source: ours.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


class AdapterDropout:
    """Dropout of the inputs of K adapters' modules, for each as if it were alone.

    An adapter's masks are drawn for its own rows and tokens alone, so that they depend neither on who shares the pass
    nor on how far its rows are padded for the others' sake.

    Args:
        share: Share of the elements to drop, in [0, 1).
        seeds: Seed of every adapter's generator.
        device: Where the masks are drawn.

    Attributes:
        generators: Every adapter's generator.
        extents: Every adapter's own rows and tokens per row in the next pass ``[K][2]``, which stand before what is
            padding; None where there is no padding.
    """

    def __init__(self, share: float, *, seeds: Sequence[int], device: torch.device) -> None:
        self._share = share
        self.generators = [torch.Generator(device).manual_seed(seed) for seed in seeds]
        self.extents: Sequence[Sequence[int]] | None = None
        self._shape = (0, 0)
        self._kept: Tensor | None = None

    def begin(self, shape: tuple[int, int], *, kept: Tensor | None = None) -> None:
        """Say what the next pass is of.

        Args:
            shape: (R, T) of the padded batch.
            kept: Positions that the model's last layer sees; None for all.
        """
        self._shape, self._kept = shape, kept

    def __call__(self, x: Tensor) -> Tensor:
        """Drop elements of a module's input.

        Args:
            x: ``[K · R, T, in]``, or with the rows and tokens in one axis.
        """
        num_rows, num_tokens = self._shape
        mask = x.new_ones(len(self.generators), num_rows, num_tokens, x.shape[-1])  # [K, R, T, in]
        extents = self.extents or [self._shape] * len(self.generators)
        for own, generator, (rows, tokens) in zip(mask, self.generators, extents, strict=True):
            own[:rows, :tokens].bernoulli_(1 - self._share, generator=generator)
        if self._kept is not None and x.ndim == 3 and x.shape[1] != num_tokens:
            mask = mask[:, :, self._kept]
        return x * mask.div_(1 - self._share).view(x.shape)

    def keep(self, positions: Sequence[int]) -> None:
        """Go on with some of the adapters."""
        self.generators = [self.generators[position] for position in positions]
