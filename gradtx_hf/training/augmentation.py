"""Changes to a batch of pairs that make a translator depend less on the exact pairs it has seen.

Axes: B batch, N_S / N_T blocks, D_S / D_T size of the largest block. Source: ours.
"""

from __future__ import annotations

import torch
from torch import Tensor


def add_input_noise(
    source_blocks: Tensor, *, std: Tensor, noise: float, generator: torch.Generator | None = None
) -> Tensor:
    """Add Gaussian noise to source blocks.

    Args:
        source_blocks: ``[B, N_S, D_S]``, in the tokens' own units.
        std: ``[N_S, D_S]``, the unit of the noise.
        noise: Standard deviation of the noise, in units of ``std``.
        generator: Where the noise is drawn from; None: torch's own generator of the device.

    Returns:
        ``[B, N_S, D_S]``.
    """
    drawn = torch.randn(
        source_blocks.shape, device=source_blocks.device, dtype=source_blocks.dtype, generator=generator
    )
    return source_blocks + noise * std * drawn


def mix_pairs(
    source_blocks: Tensor, target_blocks: Tensor, *, probability: float, generator: torch.Generator | None = None
) -> tuple[Tensor, Tensor]:
    """Replace pairs by random convex combinations with another pair of the batch, both sides alike.

    Args:
        source_blocks: ``[B, N_S, D_S]``.
        target_blocks: ``[B, N_T, D_T]``.
        probability: Probability, in [0, 1], that a pair is replaced.
        generator: Where partners and weights are drawn from; None: torch's own generator of the device.

    Returns:
        Source ``[B, N_S, D_S]`` and target ``[B, N_T, D_T]``.
    """
    size, device = len(source_blocks), source_blocks.device
    partner = torch.randperm(size, device=device, generator=generator)
    is_mixed = torch.rand(size, device=device, generator=generator) < probability
    weight = (torch.rand(size, device=device, generator=generator) * is_mixed)[:, None, None]  # [B, 1, 1]
    return (
        torch.lerp(source_blocks, source_blocks[partner], weight),
        torch.lerp(target_blocks, target_blocks[partner], weight),
    )
