"""Generate target updates from source updates, by one model or by one for each part of the tensors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from gradtx_hf.errors import AdapterError
from gradtx_hf.model import GradTransformerModel
from gradtx_hf.updates import BlockLayout, UpdateVector, decode_update, encode_update


MAX_BATCH = 8
"""Updates that are generated at once: with more, the products of a CPU take as long as one after the other."""


def generate_targets(
    parts: Mapping[str, GradTransformerModel], updates: Sequence[UpdateVector], *, layout: BlockLayout, name: str
) -> list[UpdateVector]:
    """Generate a target update for every source update, ``MAX_BATCH`` at a time.

    Args:
        parts: The translator's models.
        updates: Source updates.
        layout: The target's layout, all parts together.
        name: What messages call the translator.

    Raises:
        AdapterError: If what a model generates is not finite.
    """
    batches = (updates[i : i + MAX_BATCH] for i in range(0, len(updates), MAX_BATCH))
    return [target for batch in batches for target in _generate_batch(parts, batch, layout=layout, name=name)]


@torch.no_grad()
def _generate_batch(
    parts: Mapping[str, GradTransformerModel], updates: Sequence[UpdateVector], *, layout: BlockLayout, name: str
) -> list[UpdateVector]:
    sources = [decode_update(update.tokens, update.layout) for update in updates]
    targets: list[dict[str, Tensor]] = [{} for _ in updates]
    for model in parts.values():
        own = model.config.source_layout
        tokens = [encode_update({tensor: source[tensor] for tensor in own.shapes}, own) for source in sources]
        generated = model.generate_updates(torch.stack(tokens).to(model.device)).float().cpu()  # [B, N_T, D_T]
        for target, blocks in zip(targets, generated, strict=True):
            target |= decode_update(blocks, model.config.target_layout)
    for target in targets:
        _require_finite(target, name)
    return [UpdateVector(encode_update(target, layout), layout) for target in targets]


def _require_finite(target: Mapping[str, Tensor], name: str) -> None:
    for tensor, values in target.items():
        if not bool(values.isfinite().all()):
            raise AdapterError(
                f"translator '{name}' makes NaN or infinite values for '{tensor}' of this update. "
                "Check the adapter's size with gradtx inspect, or use dtype float32."
            )
