"""BlockProjection: one linear map per token kind, applied to a sequence of blocks (W_S_emb, W_T_emb, W_out).

Axes: B batch, N blocks, H d_model, D size of the largest block. Source: paper Eqs. 6, 7 and 9; kinds are ours.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import initialization as init

from gradtx_hf.updates import BlockLayout


class BlockProjection(nn.ModuleDict):
    """Linear maps by token kind, between blocks of each kind's own size and vectors of size H.

    Args:
        layout: The blocks and their kinds.
        hidden_size: H.
        is_output: Whether the maps lead from H to the blocks, and not from the blocks to H.
    """

    _order: Tensor
    _place: Tensor

    def __init__(self, layout: BlockLayout, *, hidden_size: int, is_output: bool) -> None:
        super().__init__(
            {
                kind: nn.Linear(hidden_size, size) if is_output else nn.Linear(size, hidden_size)
                for kind, size in layout.kinds.items()
            }
        )
        self._kinds = [block.kind for block in layout.blocks]
        self._counts = [self._kinds.count(kind) for kind in layout.kinds]
        self._width = layout.block_dim if is_output else hidden_size
        self.register_buffer("_order", torch.zeros(layout.num_blocks, dtype=torch.long), persistent=False)
        self.register_buffer("_place", torch.zeros(layout.num_blocks, dtype=torch.long), persistent=False)

    def forward(self, blocks: Tensor) -> Tensor:
        """Map every block with the map of its kind.

        Args:
            blocks: ``[B, N, D]`` or, for an output map, ``[B, N, H]``.

        Returns:
            ``[B, N, H]`` or, for an output map, ``[B, N, D]``, zero beyond the size of the block's kind.
        """
        if len(self) == 1:
            return self._map(self._kinds[0], blocks)
        grouped = blocks[:, self._order].split(self._counts, dim=1)
        mapped = [self._map(kind, group) for kind, group in zip(self, grouped, strict=True)]
        return torch.cat(mapped, dim=1)[:, self._place]

    def project_block(self, block: Tensor, *, index: int) -> Tensor:
        """Map the block at one place of the sequence, ``[B, 1, D]`` or ``[B, 1, H]``."""
        return self._map(self._kinds[index], block)

    @torch.no_grad()
    def init_weights(self) -> None:
        """Fill what a checkpoint lacks: maps that keep a unit variance, and the order of the blocks by kind."""
        for linear in self.values():
            assert isinstance(linear, nn.Linear)
            init.normal_(linear.weight, std=linear.in_features**-0.5)
            init.zeros_(linear.bias)
        kinds = list(self)
        order = sorted(range(len(self._kinds)), key=lambda n: kinds.index(self._kinds[n]))
        place = sorted(range(len(order)), key=order.__getitem__)
        init.copy_(self._order, torch.tensor(order))
        init.copy_(self._place, torch.tensor(place))

    def _map(self, kind: str, blocks: Tensor) -> Tensor:
        linear = self[kind]
        mapped: Tensor = linear(blocks[..., : linear.in_features])
        return F.pad(mapped, (0, self._width - mapped.shape[-1])) if mapped.shape[-1] < self._width else mapped
