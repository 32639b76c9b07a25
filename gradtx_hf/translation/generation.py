"""Generate a target update from a source update, by one model or by one for each part of the tensors."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from gradtx_hf.errors import AdapterError
from gradtx_hf.model import GradTransformerModel
from gradtx_hf.updates import BlockLayout, UpdateVector, decode_update, encode_update


@torch.no_grad()
def generate_target(
    parts: Mapping[str, GradTransformerModel], update: UpdateVector, *, layout: BlockLayout, name: str
) -> UpdateVector:
    """Generate a target update.

    Args:
        parts: The translator's models.
        update: A source update.
        layout: The target's layout, all parts together.
        name: What messages call the translator.

    Raises:
        AdapterError: If what a model generates is not finite.
    """
    source = decode_update(update.tokens, update.layout)
    target: dict[str, Tensor] = {}
    for model in parts.values():
        own = model.config.source_layout
        tokens = encode_update({tensor: source[tensor] for tensor in own.shapes}, own)
        generated = model.generate_updates(tokens[None].to(model.device))[0].float().cpu()  # [N_T, D_T]
        target |= decode_update(generated, model.config.target_layout)
    for tensor, values in target.items():
        if not bool(values.isfinite().all()):
            raise AdapterError(
                f"translator '{name}' makes NaN or infinite values for '{tensor}' of this update. "
                "Check the adapter's size with gradtx inspect, or use dtype float32."
            )
    return UpdateVector(encode_update(target, layout), layout)
