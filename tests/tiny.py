"""Tiny real models, adapters and layouts for tests: made in milliseconds, no network."""

from __future__ import annotations

from pathlib import Path

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM, PreTrainedModel


def tiny_llama(
    *, hidden_size: int = 16, num_layers: int = 2, num_kv_heads: int = 1, vocab_size: int = 64, seed: int = 0
) -> LlamaForCausalLM:
    """Make a tiny random Llama; q_proj is square, v_proj is not when num_kv_heads < 2."""
    torch.manual_seed(seed)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=vocab_size,
            hidden_size=hidden_size,
            intermediate_size=2 * hidden_size,
            num_hidden_layers=num_layers,
            num_attention_heads=2,
            num_key_value_heads=num_kv_heads,
            max_position_embeddings=128,
        )
    ).eval()


def with_lora(
    model: PreTrainedModel,
    *,
    target_modules: tuple[str, ...] = ("q_proj", "v_proj"),
    rank: int = 2,
    alpha: int = 16,
    seed: int = 0,
    randomise_b: bool = True,
    **lora: object,
) -> PeftModel:
    """Put a LoRA adapter on a model, by default with a random B so that it changes the logits."""
    torch.manual_seed(seed)
    config = LoraConfig(r=rank, lora_alpha=alpha, target_modules=list(target_modules), task_type="CAUSAL_LM", **lora)
    peft_model = get_peft_model(model, config)
    if randomise_b:
        for name, parameter in peft_model.named_parameters():
            if "lora_B" in name or "lora_embedding_A" in name:
                torch.nn.init.normal_(parameter, std=0.1)
    return peft_model.eval()


def save_tiny_adapter(folder: Path, *, base: Path | str | None = None, **options: object) -> Path:
    """Write a random adapter of a tiny Llama with stock PEFT and return its folder."""
    model = tiny_llama()
    if base is not None:
        model = AutoModelForCausalLM.from_pretrained(base)
    with_lora(model, **options).save_pretrained(folder)  # type: ignore[arg-type]
    return folder
