"""Tiny models of three families with LoRA, rows of several lengths, and DP-SGD's clipped sum row by row."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from datasets import Dataset
from peft import PeftModel
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedModel, Qwen2Config, Qwen2ForCausalLM

from gradtx_hf.finetuning import tokenize_examples
from gradtx_hf.playground.world import Rule, make_lines
from gradtx_hf.studies.pretrain_playground import build_tokenizer
from tests.tiny import tiny_llama, with_lora


TOKENIZER = build_tokenizer()
FAMILIES = ("llama", "qwen2", "gpt2")


def make_model(family: str = "llama", **lora: object) -> PeftModel:
    """Return a tiny random model of a family with an adapter that changes its logits."""
    modules = ("c_attn",) if family == "gpt2" else ("q_proj", "v_proj")
    return with_lora(make_base(family), **{"target_modules": modules, **lora})  # type: ignore[arg-type]


def make_rows(num_rows: int = 32, *, seed: int = 0) -> Dataset:
    """Return tokenized rows; every fifth is short."""
    lines = make_lines([Rule("reverse", 3)], num_rows, seed=seed)
    lines = [{"prompt": "??", "completion": "abc"} if i % 5 == 4 else line for i, line in enumerate(lines)]
    return tokenize_examples(Dataset.from_list(lines), TOKENIZER, max_length=32)


def row_gradients(model: PeftModel, rows: Dataset) -> Tensor:
    """Return every row's gradient, ``[B, P]``: one forward and backward pass each, without padding or Opacus."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    model.train()
    gradients = []
    for row in rows:
        ids, labels = torch.tensor([row["input_ids"]]), torch.tensor([row["labels"]])
        logits = model(input_ids=ids, use_cache=False).logits
        loss = cross_entropy(logits[0, :-1], labels[0, 1:], ignore_index=-100)
        gradients.append(flat(torch.autograd.grad(loss, parameters)))
    return torch.stack(gradients)


def clipped_sum(gradients: Tensor, *, max_grad_norm: float) -> Tensor:
    """Return the sum ``[P]`` of gradients ``[B, P]``, each of at most that norm."""
    shares = (max_grad_norm / gradients.norm(dim=1)).clamp(max=1)
    return (shares[:, None] * gradients).sum(dim=0)


def flat(tensors: Iterable[Tensor]) -> Tensor:
    """Return tensors one behind the other, ``[P]``."""
    return torch.cat([tensor.flatten() for tensor in tensors])


def distance(found: Tensor, expected: Tensor) -> float:
    """Return the Euclidean distance of two vectors over the norm of the second."""
    return float((found - expected).norm() / expected.norm())


def make_base(family: str) -> PreTrainedModel:
    torch.manual_seed(0)
    if family == "gpt2":
        config = GPT2Config(
            vocab_size=len(TOKENIZER), n_embd=16, n_layer=2, n_head=2, n_positions=64, resid_pdrop=0, embd_pdrop=0,
            attn_pdrop=0,
        )  # fmt: skip
        return GPT2LMHeadModel(config)
    if family == "qwen2":
        return Qwen2ForCausalLM(
            Qwen2Config(
                vocab_size=len(TOKENIZER),
                hidden_size=16,
                intermediate_size=32,
                num_hidden_layers=2,
                num_attention_heads=2,
                num_key_value_heads=1,
            )
        )
    return tiny_llama(vocab_size=len(TOKENIZER))
