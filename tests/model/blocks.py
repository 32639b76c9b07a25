"""Small layouts and models for the tests of the model and of its training."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from gradtx_hf.model import GradTransformerConfig, GradTransformerModel
from gradtx_hf.updates import BlockLayout


TINY_T5 = {"d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 2, "num_heads": 2}
KINDS = {"attention": "attn", "mlp": "mlp"}
VARIANTS: dict[str, dict[str, Any]] = {
    "plain": {},
    "linear": {"linear_rank": 3},
    "linear_alone": {"linear_rank": 3, "has_transformer": False},
    "parallel": {"decoding": "parallel"},
    "positions": {"block_positions": True},
    "scale": {"learned_scale": True},
    "all": {"linear_rank": 3, "block_positions": True, "learned_scale": True},
    "all_parallel": {"linear_rank": 3, "block_positions": True, "learned_scale": True, "decoding": "parallel"},
}
"""Options of the configuration by a short name."""


def make_layout(num_layers: int, width: int, *, kinds: dict[str, str] | None = None) -> BlockLayout:
    """Make a layout whose first block is the largest; with kinds, two tokens per layer but one in the last."""
    shapes: dict[str, tuple[int, ...]] = {}
    for n in range(num_layers):
        module = f"model.layers.{n}.self_attn.q_proj"
        shapes[f"{module}.lora_A"] = (2, width)
        shapes[f"{module}.lora_B"] = (width + 1 if n == 0 else width, 2)
        if kinds and n + 1 < num_layers:
            shapes[f"model.layers.{n}.mlp.up_proj.lora_A"] = (2, width + 3)
    return BlockLayout.from_shapes(shapes, token_kinds=kinds)


def make_model(
    *,
    kinds: dict[str, str] | None = None,
    options: Mapping[str, Any] | None = None,
    seed: int = 0,
    **t5: int | float,
) -> GradTransformerModel:
    """Make a tiny translator with random statistics, and random values also where a new one begins at zero."""
    torch.manual_seed(seed)
    source, target = make_layout(3, 4, kinds=kinds), make_layout(4, 5, kinds=kinds)
    config = GradTransformerConfig.from_layouts(source, target, t5={**TINY_T5, **t5}, **(options or {}))
    model = GradTransformerModel(config).eval()
    model.set_statistics(
        source_mean=torch.randn(source.num_blocks, source.block_dim),
        source_std=torch.rand(source.num_blocks, source.block_dim) + 0.1,
        target_mean=torch.randn(target.num_blocks, target.block_dim),
        target_std=torch.rand(target.num_blocks, target.block_dim) + 0.1,
    )
    if model.linear_path is not None:
        torch.nn.init.normal_(model.linear_path.up.weight)
        torch.nn.init.normal_(model.linear_path.up.bias)
    if model.target_scale is not None:
        torch.nn.init.normal_(model.target_scale.log_scale)
    return model


def random_blocks(layout: BlockLayout, batch_size: int, *, seed: int = 0) -> torch.Tensor:
    """Draw blocks ``[B, N, D]``, zero in the padding."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(batch_size, layout.num_blocks, layout.block_dim, generator=generator) * layout.mask()
