"""A prompt's completion does not depend on who shares its batch, but for counted ties of the two best logits."""

from __future__ import annotations

import random

import pytest
import torch
from transformers import PreTrainedModel

from gradtx_hf.finetuning.encoding import encode_prompts
from gradtx_hf.finetuning.generate import generate_completions
from gradtx_hf.finetuning.language_model import load_language_model
from gradtx_hf.playground import source_path, target_path
from tests.finetuning.private import TOKENIZER, make_base


NUM_PROMPTS = 96
NEW_TOKENS = 12
TIE = 1e-4
"""Two logits so close are a tie, which rounding may decide either way."""
MODELS = ("llama", "qwen2", "gpt2", "embedded source", "embedded target")
BEYOND_ONE = [name if name == "llama" else pytest.param(name, marks=pytest.mark.slow) for name in MODELS]


def load(name: str) -> PreTrainedModel:
    if name.startswith("embedded"):
        return load_language_model(str(source_path() if name.endswith("source") else target_path()))[0]
    return make_base(name)


def make_prompts() -> list[str]:
    rng = random.Random(0)
    return ["".join(rng.choices("abcdefghijkl?=", k=rng.randint(1, 30))) for _ in range(NUM_PROMPTS)]


def gap_of_best_two(model: PreTrainedModel, prompt: str, shared: str) -> float:
    """Return the difference of the two best logits after a prompt and the start of its completion."""
    ids = encode_prompts(TOKENIZER, [prompt + shared])[0]
    with torch.no_grad():
        best = model(input_ids=torch.tensor([ids])).logits[0, -1].topk(2).values
    return float(best[0] - best[1])


@pytest.mark.parametrize("name", BEYOND_ONE)
def test_batches_of_1_and_16_differ_in_ties_alone(name: str) -> None:
    model, prompts = load(name), make_prompts()
    alone, together = (
        generate_completions(model, TOKENIZER, prompts, max_new_tokens=NEW_TOKENS, batch_size=size) for size in (1, 16)
    )
    ties = 0
    for prompt, one, other in zip(prompts, alone, together, strict=True):
        if one != other:
            shared = "".join(a for a, b in zip(one, other, strict=False) if a == b)
            assert gap_of_best_two(model, prompt, shared) < TIE
            ties += 1
    assert ties <= NUM_PROMPTS // 20
    assert len(set(alone)) > NUM_PROMPTS // 8  # completions that say something of their prompts


@pytest.mark.parametrize("name", MODELS[:3])
def test_completions_are_those_of_one_token_at_a_time(name: str) -> None:
    model = load(name)
    for prompt in make_prompts()[:6]:
        ids = encode_prompts(TOKENIZER, [prompt])[0]
        for _ in range(NEW_TOKENS):
            with torch.no_grad():
                ids.append(int(model(input_ids=torch.tensor([ids])).logits[0, -1].argmax()))
            if ids[-1] in (TOKENIZER.eos_token_id, model.generation_config.eos_token_id):
                break
        wanted = TOKENIZER.decode(ids[len(encode_prompts(TOKENIZER, [prompt])[0]) :], skip_special_tokens=True)
        (found,) = generate_completions(model, TOKENIZER, [prompt], max_new_tokens=NEW_TOKENS)
        assert found == wanted
