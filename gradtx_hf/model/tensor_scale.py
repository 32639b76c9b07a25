"""TensorScale: a learned scale for each kind of tensor of an update.

Standardisation takes the scale of the output from target updates. Functional training needs none, and can learn the
scale instead: one number per kind of tensor, the same in all layers.

Axes: N blocks, D size of the largest block, K kinds of tensors. Source: ours.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from transformers import initialization as init

from gradtx_hf.updates import BlockLayout


class TensorScale(nn.Module):
    """Learned log-scales ``[K]``, in float32 whatever the dtype of other weights; 0 (scale 1) at the start.

    A kind is the last part of a module's path with the factor, such as ``q_proj.lora_B``.

    Args:
        layout: What stands where in the tokens.

    Attributes:
        kinds: Names of the kinds, in order of first occurrence.
    """

    _kind_of_element: Tensor

    def __init__(self, layout: BlockLayout) -> None:
        super().__init__()
        self._layout = layout
        self.kinds = tuple(dict.fromkeys(_kind(name) for name in layout.slots))
        self.log_scale = nn.Parameter(torch.zeros(len(self.kinds), dtype=torch.float32))
        shape = (layout.num_blocks, layout.block_dim)
        self.register_buffer("_kind_of_element", torch.zeros(shape, dtype=torch.long), persistent=False)

    def forward(self) -> Tensor:
        """Return the scale of every element, ``[N, D]`` float32 > 0; what stands in the padding has no meaning."""
        return self.log_scale.exp()[self._kind_of_element]

    @torch.no_grad()
    def init_weights(self) -> None:
        """Fill what a checkpoint lacks: scales of 1, and the kind of each element."""
        init.zeros_(self.log_scale)
        kind_of_element = torch.zeros(self._kind_of_element.shape, dtype=torch.long)
        for name, (n, slot) in self._layout.slots.items():
            kind_of_element[n, slot.offset : slot.offset + slot.num_elements] = self.kinds.index(_kind(name))
        init.copy_(self._kind_of_element, kind_of_element)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> TensorScale:  # noqa: FBT001, FBT002
        """Move or cast the module, as torch does for ``to`` and the like; the scales stay float32."""
        kept = self.log_scale.detach()
        super()._apply(fn, recurse)
        if self.log_scale.dtype != torch.float32:
            self.log_scale.data = kept.to(self.log_scale.device)
        return self


def _kind(tensor_name: str) -> str:
    """Return the last part of the module's path with the factor."""
    return ".".join(tensor_name.split(".")[-2:])
