"""The adapter of a loaded model: add one, read it, set it; tensors named as in ``gradtx_hf.lora``.

A tensor's name is ``<module path>.<factor>``, such as ``model.layers.0.self_attn.q_proj.lora_A``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import Tensor
from torch.nn import Parameter
from transformers import PreTrainedModel

from gradtx_hf.errors import ConfigurationError, LayoutError


def add_adapter(
    model: PreTrainedModel,
    *,
    rank: int,
    alpha: int,
    target_modules: Sequence[str],
    seed: int,
    dropout: float = 0.0,
) -> PeftModel:
    """Put a new LoRA adapter on a causal language model: random A, zero B.

    Args:
        model: The base model; changed in place.
        rank: Rank R of every factor pair.
        alpha: LoRA's alpha; the update is scaled by alpha / R.
        target_modules: Last parts of the module paths to adapt, such as ``q_proj``.
        seed: Seed of A. The global random state is left as it was.
        dropout: LoRA dropout, in [0, 1).

    Raises:
        ConfigurationError: If the model has none of the modules, or one of them is missing.
    """
    paths = [name for name, _ in model.named_modules()]
    for target in target_modules:
        if not any(path == target or path.endswith(f".{target}") for path in paths):
            raise ConfigurationError(
                f"model '{model.name_or_path}' has no module '{target}'. Set target modules that it has, such as "
                f"{', '.join(_linear_names(model))}."
            )
    config = LoraConfig(
        r=rank,
        lora_alpha=alpha,
        lora_dropout=dropout,
        target_modules=list(target_modules),
        task_type="CAUSAL_LM",
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return get_peft_model(model, config)


def adapter_parameters(model: PeftModel) -> dict[str, Parameter]:
    """Return the active adapter's factors themselves, by name, in the model's order.

    Raises:
        LayoutError: If the active adapter has no LoRA factors.
    """
    pattern = re.compile(
        rf"base_model\.model\.(?P<module>.+)\.(?P<factor>lora_(?:embedding_)?[AB])\.{re.escape(_active(model))}"
        r"(?:\.weight)?"
    )
    found = {}
    for name, parameter in model.named_parameters():
        match = pattern.fullmatch(name)
        if match:
            found[f"{match['module']}.{match['factor']}"] = parameter
    if not found:
        raise LayoutError(f"adapter '{_active(model)}' of the model has no LoRA factors. Load a LoRA adapter.")
    return found


def adapter_state(model: PeftModel) -> dict[str, Tensor]:
    """Copy the active adapter's factors.

    Returns:
        ``lora_A`` ``[R, in]`` and ``lora_B`` ``[out, R]`` by name, on the CPU, in the parameters' dtype.
    """
    return {name: p.detach().to("cpu", copy=True) for name, p in adapter_parameters(model).items()}


@torch.no_grad()
def reset_adapter(model: PeftModel, state: Mapping[str, Tensor]) -> None:
    """Set the active adapter's factors to given values, in place.

    Args:
        model: The model; its adapter's parameters stay the same objects.
        state: Factors by name, as ``adapter_state`` returns them: all of them and no others.

    Raises:
        LayoutError: If a tensor is missing, unexpected, or of another shape.
    """
    parameters = adapter_parameters(model)
    for name in [*parameters, *state]:
        if name not in state or name not in parameters:
            word = "missing" if name in parameters else "unexpected"
            raise LayoutError(f"{word} tensor '{name}' for the model's adapter.")
        if parameters[name].shape != state[name].shape:
            raise LayoutError(f"tensor '{name}' is {list(state[name].shape)}, expected {list(parameters[name].shape)}.")
    for name, parameter in parameters.items():
        parameter.copy_(state[name])


def _active(model: PeftModel) -> str:
    return str(model.active_adapter)


def _linear_names(model: PreTrainedModel) -> list[str]:
    names = (name.rpartition(".")[2] for name, module in model.named_modules() if isinstance(module, torch.nn.Linear))
    return list(dict.fromkeys(names))
