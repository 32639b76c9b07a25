"""Shapes and random tensors of small LoRA updates."""

from __future__ import annotations

import torch
from torch import Tensor


def lora_shapes(
    *, num_layers: int = 2, projections: tuple[str, ...] = ("q_proj", "v_proj"), rank: int = 2, width: int = 6
) -> dict[str, tuple[int, ...]]:
    """Return shapes by name; v_proj is narrower than the others."""
    shapes: dict[str, tuple[int, ...]] = {}
    for n in range(num_layers):
        for projection in projections:
            module = f"model.layers.{n}.self_attn.{projection}"
            shapes[f"{module}.lora_A"] = (rank, width)
            shapes[f"{module}.lora_B"] = (width // 2 if projection == "v_proj" else width, rank)
    return shapes


def random_state(shapes: dict[str, tuple[int, ...]]) -> dict[str, Tensor]:
    """Return random float32 tensors of these shapes."""
    return {name: torch.randn(shape) for name, shape in shapes.items()}
