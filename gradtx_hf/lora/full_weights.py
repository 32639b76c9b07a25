"""Full-weight updates: what a fine-tuning of the weights themselves changed, in the place of LoRA's two factors.

A tensor is named ``<module path>.weight`` and has the shape of the weight that it is added to: a layout, a store, a
translator and ``AdapterStack`` take it as they take factors. It begins at zero, with a scale of 1. The result is a file
that can be added to the weights, or a LoRA adapter that stock PEFT loads: of full rank the same, of a lower one the
nearest (Eckart and Young). Source: paper Sec. 3, where an update is any difference of parameters; the rest is ours.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from peft import LoraConfig
from safetensors.torch import save
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from gradtx_hf.errors import AdapterError, ConfigurationError, LayoutError
from gradtx_hf.output import write_bytes
from gradtx_hf.updates.reading import ForeignFolder


WEIGHT = "weight"


@dataclass(frozen=True, eq=False)
class WeightStart:
    """Where full-weight updates begin, in the place of an initial adapter.

    Attributes:
        tensors: Zeros by name, in the shape of the weights.
        scales: Module path to 1.
    """

    tensors: dict[str, Tensor]
    scales: dict[str, float]


@dataclass(frozen=True, eq=False)
class LowRankUpdate:
    """A full-weight update as a LoRA adapter.

    Attributes:
        config: PEFT's configuration; the base model's name is the caller's to set.
        tensors: ``lora_A`` ``[R, in]`` and ``lora_B`` ``[out, R]`` by name.
        error: ‖s·B·A - ΔW‖ / ‖ΔW‖ over all modules, in [0, 1]; 0 for an update of zero.
    """

    config: LoraConfig
    tensors: dict[str, Tensor]
    error: float


def weight_start(model: PreTrainedModel, target_modules: Sequence[str]) -> WeightStart:
    """Return where the full-weight updates of a model's linear layers begin.

    Args:
        model: The model.
        target_modules: Last parts of the module paths, such as ``q_proj``.

    Raises:
        ConfigurationError: If the model has none of them, or one is no linear layer.
    """
    tensors: dict[str, Tensor] = {}
    for target in target_modules:
        found = {path: module for path, module in model.named_modules() if f".{path}".endswith(f".{target}")}
        if not found:
            raise ConfigurationError(f"model '{model.name_or_path}' has no module '{target}'. Name modules it has.")
        for path, module in found.items():
            if not isinstance(module, nn.Linear | Conv1D):
                raise ConfigurationError(f"module '{path}' is a {type(module).__name__}, expected a linear layer.")
            tensors[f"{path}.{WEIGHT}"] = torch.zeros(module.weight.shape)
    return WeightStart(tensors, {name.removesuffix(f".{WEIGHT}"): 1.0 for name in tensors})


@contextmanager
def added_weights(model: PreTrainedModel, update: Mapping[str, Tensor]) -> Iterator[PreTrainedModel]:
    """Add an update to a model's weights for the length of a ``with`` block; the same bits stand there after it.

    Args:
        model: The model.
        update: Full-weight update by name.

    Raises:
        LayoutError: If the model lacks a weight, or has it in another shape; nothing is changed then.
    """
    parameters = dict(model.named_parameters())
    for name, delta in update.items():
        shape = list(parameters[name].shape) if name in parameters else "missing"
        if shape != list(delta.shape):
            raise LayoutError(f"weight '{name}' of the model is {shape}, the update's is {list(delta.shape)}.")
    before = {name: parameters[name].detach().clone() for name in update}
    try:
        with torch.no_grad():
            for name, delta in update.items():
                parameters[name].add_(delta.to(parameters[name]))
        yield model
    finally:
        with torch.no_grad():
            for name, weight in before.items():
                parameters[name].copy_(weight)


def save_weights(path: Path, update: Mapping[str, Tensor]) -> None:
    """Write a full-weight update as one safetensors file, its tensors named as in the model's state dictionary."""
    write_bytes(path, save({name: delta.detach().cpu().contiguous() for name, delta in update.items()}))


def load_weights(path: Path) -> dict[str, Tensor]:
    """Read what ``save_weights`` wrote.

    Raises:
        MissingFileError: If the file is not there.
        AdapterError: If it is damaged, or holds something else than weights.
    """
    files = ForeignFolder(path.parent, f"update '{path}'", AdapterError)
    with files.open_tensors(path.name) as (opened, infos):
        for name in infos:
            if not name.endswith(f".{WEIGHT}"):
                raise AdapterError(f"update '{path}' holds {name!r}, expected tensors named <module path>.{WEIGHT}.")
        return {name: opened.get_tensor(name) for name in infos}


def as_adapter(update: Mapping[str, Tensor], model: PreTrainedModel, *, rank: int) -> LowRankUpdate:
    """Return the LoRA adapter of a rank that is nearest to a full-weight update.

    Args:
        update: Full-weight update by name.
        model: The model that it is of; it tells which layers keep their weights transposed.
        rank: R ≥ 1; a module has at most the smaller side of its weight, where the adapter is the update itself.
    """
    modules = dict(model.named_modules())
    tensors: dict[str, Tensor] = {}
    ranks: dict[str, int] = {}
    lost = total = 0.0
    for name, delta in update.items():
        path = name.removesuffix(f".{WEIGHT}")
        matrix = delta.double().T if isinstance(modules[path], Conv1D) else delta.double()  # [out, in]
        left, values, right = torch.linalg.svd(matrix, full_matrices=False)
        ranks[path] = kept = min(rank, len(values))
        roots = values[:kept].sqrt()
        tensors[f"{path}.lora_A"] = (roots[:, None] * right[:kept]).to(delta)
        tensors[f"{path}.lora_B"] = (left[:, :kept] * roots).to(delta)
        lost, total = lost + float(values[kept:].square().sum()), total + float(values.square().sum())
    largest = max(ranks.values())
    smaller = {path: kept for path, kept in ranks.items() if kept < largest}
    config = LoraConfig(
        r=largest,
        lora_alpha=largest,
        rank_pattern=dict(smaller),
        alpha_pattern=dict(smaller),
        target_modules=sorted(ranks),
        task_type="CAUSAL_LM",
    )
    return LowRankUpdate(config, tensors, (lost / total) ** 0.5 if total else 0.0)
