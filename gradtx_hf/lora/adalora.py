"""Fold an AdaLoRA adapter B·diag(E)·A into a plain LoRA.

PEFT's delta is B (A · E) · alpha / (init_r + 1e-5): the rank in the scale is the one that training began with, also
where budget allocation has since cut singular values away.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from peft import LoraConfig
from torch import Tensor

from gradtx_hf.errors import AdapterError


DEFAULT_INIT_RANK = 12
"""PEFT's default of ``init_r``."""
RANK_EPSILON = 1e-5
"""What PEFT adds to the rank in AdaLoRA's scale."""


def fold_adalora(
    tensors: Mapping[str, Tensor], values: Mapping[str, Any], config: LoraConfig, *, label: str
) -> tuple[dict[str, Tensor], LoraConfig]:
    """Fold the singular values and the scale into A, so that the new scale is 1.

    Args:
        tensors: ``lora_A`` ``[R, in]``, ``lora_B`` ``[out, R]`` and ``lora_E`` ``[R, 1]`` by name; R may differ per
            module, and be 0.
        values: The values of ``adapter_config.json``.
        config: What they became.
        label: What messages call the adapter.

    Returns:
        The factors of a plain LoRA, and its configuration. A module of rank 0 becomes one of rank 1 that is zero.

    Raises:
        AdapterError: If singular values are missing or of another shape.
    """
    init_rank = _init_rank(values, label)
    scale = (config.lora_alpha if config.lora_alpha > 0 else init_rank) / (init_rank + RANK_EPSILON)
    folded: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        module, _, factor = name.rpartition(".")
        if factor == "lora_A":
            singular = tensors.get(f"{module}.lora_E")
            if singular is None or tensor.ndim != 2 or tuple(singular.shape) != (tensor.shape[0], 1):
                raise AdapterError(
                    f"adapter '{label}' lacks the singular values '{module}.lora_E' of shape "
                    f"[{tensor.shape[0] if tensor.ndim else 0}, 1]. Save the adapter again."
                )
            folded[name] = _never_empty(tensor * singular * scale, axis=0)
        elif factor == "lora_B":
            folded[name] = _never_empty(tensor, axis=1)
        elif factor not in ("lora_E", "ranknum"):
            folded[name] = tensor  # refused with the other tensors that no plain LoRA has
    ranks = {
        name.rpartition(".")[0]: int(tensor.shape[0]) for name, tensor in folded.items() if name.endswith(".lora_A")
    }
    return folded, _plain_config(config, ranks)


def _init_rank(values: Mapping[str, Any], label: str) -> int:
    rank = values.get("init_r") if values.get("init_r") is not None else DEFAULT_INIT_RANK
    if not isinstance(rank, int) or isinstance(rank, bool) or not 0 < rank < 2**31:
        raise AdapterError(f"adapter '{label}' has init_r={rank!r}, expected a positive whole number below 2^31.")
    return rank


def _never_empty(factor: Tensor, *, axis: int) -> Tensor:
    """Return the factor, or zeros of rank 1 where it has rank 0."""
    if factor.ndim != 2 or factor.shape[axis] > 0:
        return factor
    shape = [1 if i == axis else size for i, size in enumerate(factor.shape)]
    return torch.zeros(shape, dtype=factor.dtype)


def _plain_config(config: LoraConfig, ranks: Mapping[str, int]) -> LoraConfig:
    """Return a configuration whose scale is 1 in every module."""
    rank = max(ranks.values(), default=1)
    other_ranks = {module: own for module, own in ranks.items() if own != rank}
    return LoraConfig(
        base_model_name_or_path=config.base_model_name_or_path,
        revision=config.revision,
        task_type=config.task_type,
        target_modules=config.target_modules,
        exclude_modules=config.exclude_modules,
        layers_to_transform=config.layers_to_transform,
        layers_pattern=config.layers_pattern,
        fan_in_fan_out=config.fan_in_fan_out,
        r=rank,
        lora_alpha=rank,
        rank_pattern=other_ranks,
        alpha_pattern=dict(other_ranks),
    )
