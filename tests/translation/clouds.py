"""Clouds of updates near a few dimensions, and stores of them, for the tests of the input distance."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from gradtx_hf.updates import BlockLayout
from gradtx_hf.updates.store import UpdateStore
from tests.model.blocks import make_layout


class Cloud:
    """A distribution of updates: a mean, a few directions with weights of their own, and noise all around.

    Args:
        layout: What stands where.
        num_directions: Number of directions.
        noise: Standard deviation of the noise, relative to that of the directions' part.
        scale: Size of everything.
        seed: Seed of mean and directions.
    """

    def __init__(
        self,
        layout: BlockLayout,
        *,
        num_directions: int = 3,
        noise: float = 0.5,
        scale: float = 0.01,
        seed: int = 0,
    ) -> None:
        generator = torch.Generator().manual_seed(seed)
        shape = (layout.num_blocks, layout.block_dim)
        self.mask = layout.mask()
        self.mean = torch.randn(shape, generator=generator)
        self.directions = torch.randn(num_directions, *shape, generator=generator) / max(1, num_directions) ** 0.5
        self.noise = noise
        self.scale = scale

    def draw(self, number: int, *, seed: int) -> Tensor:
        """Draw updates ``[M, N, D]``."""
        generator = torch.Generator().manual_seed(seed)
        codes = torch.randn(number, len(self.directions), generator=generator)
        noise = self.noise * torch.randn(number, *self.mean.shape, generator=generator)
        return self.scale * (self.mean + torch.einsum("mq,qnd->mnd", codes, self.directions) + noise) * self.mask


def large_layout() -> BlockLayout:
    """Return a layout of some 700 elements whose blocks differ in size."""
    return make_layout(4, 45)


def write_store(folder: Path, updates: Tensor, layout: BlockLayout, *, targets: Sequence[int] = (0,)) -> UpdateStore:
    """Write one source update ``[N, D]`` per shadow set, after a snapshot that is far from it, and a few targets."""
    plan = {"num_shadow_sets": len(updates), "target_shadow_sets": list(targets)}
    store = UpdateStore.create(folder, plan=plan, source_layout=layout, target_layout=layout)
    for k, update in enumerate(updates):
        store.write("source", k, torch.stack([1 + 7 * update, update]) * layout.mask(), {})
        if k in targets:
            store.write("target", k, update[None], {})
    store.finish()
    return UpdateStore.open(folder)
