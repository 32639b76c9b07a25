"""The exact pair encode and decode: named tensors of an update to block tokens and back.

Axes: N blocks, D the size of the largest block. Source: paper Eqs. 4-5.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from gradtx_hf.errors import LayoutError
from gradtx_hf.updates.layout import BlockLayout


def encode_update(state: Mapping[str, Tensor], layout: BlockLayout) -> Tensor:
    """Pack named tensors into block tokens.

    Args:
        state: Tensor name ``<module path>.<factor>`` to tensor, in any order; the names of the layout, all of
            them and no others.
        layout: Where each tensor goes.

    Returns:
        Tokens ``[N, D]`` in float32, zero where a block is shorter than D.

    Raises:
        LayoutError: If a tensor is missing, unexpected, or of another shape.
    """
    missing = [name for name in layout.shapes if name not in state]
    extra = [name for name in state if name not in layout.shapes]
    if missing or extra:
        word, names = ("missing", missing) if missing else ("unexpected", extra)
        raise LayoutError(f"{word} tensor '{names[0]}' ({len(names)} {word} in all).")
    tokens = torch.zeros(layout.num_blocks, layout.block_dim)
    for name, (n, slot) in layout.slots.items():
        tensor = state[name]
        if tuple(tensor.shape) != slot.shape:
            raise LayoutError(f"tensor '{name}' is {list(tensor.shape)}, expected {list(slot.shape)}.")
        tokens[n, slot.offset : slot.offset + slot.num_elements] = tensor.detach().reshape(-1).float().cpu()
    return tokens


def decode_update(tokens: Tensor, layout: BlockLayout) -> dict[str, Tensor]:
    """Unpack block tokens into named tensors; the inverse of ``encode_update``.

    Args:
        tokens: ``[N, D]``, or several updates at once ``[..., N, D]``; gradients flow through.
        layout: Where each tensor stands.

    Returns:
        Tensor name to tensor, in token order, each with the leading axes of the tokens; copies, in the tokens' dtype.

    Raises:
        LayoutError: If the tokens' last two axes are not ``[N, D]``.
    """
    expected = (layout.num_blocks, layout.block_dim)
    if tuple(tokens.shape[-2:]) != expected:
        raise LayoutError(f"got tokens of shape {list(tokens.shape)}, expected {list(expected)}.")
    leading = tokens.shape[:-2]
    return {
        name: tokens[..., n, slot.offset : slot.offset + slot.num_elements].clone().view(*leading, *slot.shape)
        for name, (n, slot) in layout.slots.items()
    }
