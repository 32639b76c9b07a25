"""LinearPath: a low-rank linear map of a whole source update to a whole target update.

Beside the Transformer it carries what is linear in the update, which it learns fastest; alone it is the control that a
Transformer must beat.

Axes: B batch, N_S / N_T blocks, D_S / D_T size of the largest block, S / T elements of an update without padding, R the
rank. Source: ours.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from transformers import initialization as init

from gradtx_hf.updates import BlockLayout


class LinearPath(nn.Module):
    """Linear map of rank R from all elements of a source update to all elements of a target update.

    It begins as a LoRA does: ``down`` random, so that source elements of unit variance give a code of unit variance,
    and ``up`` zero, so that the prediction begins at zero, the mean of standardised target updates. A random ``up``
    would begin with noise in every target element, which functional training would first have to unlearn; with a zero
    one, the first gradients of ``up`` already lie along the codes.

    Args:
        source_layout: What stands where in source tokens.
        target_layout: What stands where in target tokens.
        rank: R > 0.
    """

    _source_places: Tensor
    _target_places: Tensor

    def __init__(self, source_layout: BlockLayout, target_layout: BlockLayout, *, rank: int) -> None:
        super().__init__()
        self._layouts = (source_layout, target_layout)
        source_size, target_size = source_layout.num_elements, target_layout.num_elements
        self.down = nn.Linear(source_size, rank, bias=False)
        self.up = nn.Linear(rank, target_size)
        self.register_buffer("_source_places", torch.zeros(source_size, dtype=torch.long), persistent=False)
        self.register_buffer("_target_places", torch.zeros(target_size, dtype=torch.long), persistent=False)

    def forward(self, source: Tensor) -> Tensor:
        """Map standardised source blocks ``[B, N_S, D_S]`` to target blocks ``[B, N_T, D_T]``, zero in the padding."""
        target_layout = self._layouts[1]
        mapped: Tensor = self.up(self.down(source.flatten(1)[:, self._source_places]))  # [B, T]
        padded = mapped.new_zeros(len(mapped), target_layout.num_blocks * target_layout.block_dim)
        padded = padded.index_copy(1, self._target_places, mapped)
        return padded.view(len(mapped), target_layout.num_blocks, target_layout.block_dim)

    @torch.no_grad()
    def init_weights(self) -> None:
        """Fill what a checkpoint lacks: both maps, and the places of the elements that are no padding."""
        init.normal_(self.down.weight, std=self.down.in_features**-0.5)
        init.zeros_(self.up.weight)
        init.zeros_(self.up.bias)
        for places, layout in zip((self._source_places, self._target_places), self._layouts, strict=True):
            init.copy_(places, layout.mask().flatten().nonzero().squeeze(1))
