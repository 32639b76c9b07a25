"""A tiny random model of each architecture, and its attention and MLP projections."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel


@dataclass(frozen=True)
class Architecture:
    """How to make a tiny model of one architecture.

    Attributes:
        model_type: The name that ``AutoConfig`` knows.
        attention: Last parts of the paths of its attention projections.
        mlp: The same for its MLP.
        sizes: Configuration values.
        has_conv1d: Whether projections are ``Conv1D`` with weights ``[in, out]`` (PEFT: ``fan_in_fan_out``).
    """

    model_type: str
    attention: tuple[str, ...]
    mlp: tuple[str, ...]
    sizes: dict[str, object]
    has_conv1d: bool = False

    @property
    def projections(self) -> tuple[str, ...]:
        """All projections."""
        return self.attention + self.mlp

    def make(self, *, num_layers: int = 2) -> PreTrainedModel:
        """Make the model, random and in float32."""
        torch.manual_seed(1)
        sizes = {key: num_layers if value == "layers" else value for key, value in self.sizes.items()}
        config = AutoConfig.for_model(self.model_type, vocab_size=48, **sizes)
        return AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()


QKVO = ("q_proj", "k_proj", "v_proj", "o_proj")
GATED_MLP = ("gate_proj", "up_proj", "down_proj")
LLAMA_SIZES: dict[str, object] = {
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": "layers",
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
}
WITH_HEAD_DIM = LLAMA_SIZES | {"head_dim": 8}
ARCHITECTURES = {
    "llama": Architecture("llama", QKVO, GATED_MLP, LLAMA_SIZES),
    "qwen2": Architecture("qwen2", QKVO, GATED_MLP, LLAMA_SIZES),
    "qwen3": Architecture("qwen3", QKVO, GATED_MLP, WITH_HEAD_DIM),
    "mistral": Architecture("mistral", QKVO, GATED_MLP, LLAMA_SIZES),
    "gemma": Architecture("gemma", QKVO, GATED_MLP, WITH_HEAD_DIM),
    "gemma2": Architecture("gemma2", QKVO, GATED_MLP, WITH_HEAD_DIM),
    "gemma3": Architecture("gemma3_text", QKVO, GATED_MLP, WITH_HEAD_DIM),
    "gpt2": Architecture(
        "gpt2",
        ("c_attn", "attn.c_proj"),
        ("c_fc", "mlp.c_proj"),
        {"n_embd": 16, "n_layer": "layers", "n_head": 4, "n_positions": 64},
        has_conv1d=True,
    ),
    "opt": Architecture(
        "opt",
        ("q_proj", "k_proj", "v_proj", "out_proj"),
        ("fc1", "fc2"),
        {
            "hidden_size": 16,
            "ffn_dim": 24,
            "num_hidden_layers": "layers",
            "num_attention_heads": 4,
            "max_position_embeddings": 64,
            "word_embed_proj_dim": 16,
        },
    ),
    "bloom": Architecture(
        "bloom",
        ("query_key_value", "dense"),
        ("dense_h_to_4h", "dense_4h_to_h"),
        {"hidden_size": 16, "n_layer": "layers", "n_head": 4},
    ),
}


def logits_of(model: torch.nn.Module) -> torch.Tensor:
    """Return the logits ``[2, 7, V]`` of two fixed prompts."""
    tokens = torch.arange(3, 17).reshape(2, 7)
    with torch.no_grad():
        logits: torch.Tensor = model(input_ids=tokens).logits
    return logits
