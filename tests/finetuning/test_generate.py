from __future__ import annotations

import math

import pytest
import torch
from torch.nn.functional import cross_entropy
from transformers import GenerationConfig

from gradtx_hf.errors import DataError
from gradtx_hf.finetuning import add_adapter, bits_per_character, encode_prompts, generate_completions
from gradtx_hf.studies.pretrain_playground import build_tokenizer
from tests.tiny import tiny_llama, with_lora


TOKENIZER = build_tokenizer()
MODEL = tiny_llama(vocab_size=len(TOKENIZER), hidden_size=32, num_layers=3)
PROMPTS = ["??abcdef=", "a", "abc", "=", "fedcba??ab"]


@torch.no_grad()
def complete_one_by_one(prompt: str, max_new_tokens: int) -> str:
    """Complete without cache, padding or batch."""
    ids = encode_prompts(TOKENIZER, [prompt])[0]
    num_prompt = len(ids)
    while len(ids) < num_prompt + max_new_tokens:
        token = int(MODEL(input_ids=torch.tensor([ids])).logits[0, -1].argmax())
        if token == TOKENIZER.eos_token_id:
            break
        ids.append(token)
    return TOKENIZER.decode(ids[num_prompt:], skip_special_tokens=True)


def test_batches_of_any_size_give_what_each_prompt_gives_alone() -> None:
    expected = [complete_one_by_one(prompt, 9) for prompt in PROMPTS]

    for batch_size in (1, 2, 5):
        assert generate_completions(MODEL, TOKENIZER, PROMPTS, max_new_tokens=9, batch_size=batch_size) == expected


def test_settings_of_the_model_change_nothing() -> None:
    expected = generate_completions(MODEL, TOKENIZER, PROMPTS, max_new_tokens=9)
    own = MODEL.generation_config
    MODEL.generation_config = GenerationConfig(do_sample=True, temperature=5.0, repetition_penalty=3.0, num_beams=2)  # type: ignore[no-untyped-call]
    try:
        assert generate_completions(MODEL, TOKENIZER, PROMPTS, max_new_tokens=9) == expected
        assert MODEL.generation_config.do_sample
    finally:
        MODEL.generation_config = own


def test_adapter_takes_part() -> None:
    base = tiny_llama(vocab_size=len(TOKENIZER), hidden_size=32, num_layers=3)

    adapted = generate_completions(with_lora(base, alpha=512), TOKENIZER, PROMPTS, max_new_tokens=9)

    assert adapted != generate_completions(MODEL, TOKENIZER, PROMPTS, max_new_tokens=9)


def test_no_prompt_gives_no_completion() -> None:
    assert generate_completions(MODEL, TOKENIZER, [], max_new_tokens=3) == []


@torch.no_grad()
def test_bits_are_those_of_the_tokens_after_the_first() -> None:
    texts = ["abcabc", "fed"]
    nats = 0.0
    for text in texts:
        ids = torch.tensor([TOKENIZER(text)["input_ids"]])
        nats += float(cross_entropy(MODEL(input_ids=ids).logits[0, :-1], ids[0, 1:], reduction="sum"))

    bits = bits_per_character(MODEL, TOKENIZER, texts, max_length=32, batch_size=2)

    assert bits == pytest.approx(nats / math.log(2) / (5 + 2), rel=1e-5)


@torch.no_grad()
def test_bos_token_makes_the_first_character_count() -> None:
    tokenizer = build_tokenizer()
    tokenizer.bos_token = "<unk>"
    ids = torch.tensor([[tokenizer.bos_token_id, *tokenizer("abc")["input_ids"]]])
    nats = float(cross_entropy(MODEL(input_ids=ids).logits[0, :-1], ids[0, 1:], reduction="sum"))

    bits = bits_per_character(MODEL, tokenizer, ["abc"], max_length=32, batch_size=1)

    assert bits == pytest.approx(nats / math.log(2) / 3, rel=1e-5)


def test_text_that_is_cut_counts_the_characters_that_are_left() -> None:
    cut = bits_per_character(MODEL, TOKENIZER, ["abcdefabcdef"], max_length=6, batch_size=1)

    assert cut == pytest.approx(bits_per_character(MODEL, TOKENIZER, ["abcdef"], max_length=6, batch_size=1), rel=1e-6)


def test_texts_without_a_character_to_predict_are_refused() -> None:
    with pytest.raises(DataError, match="no character"):
        bits_per_character(MODEL, TOKENIZER, ["a"], max_length=6, batch_size=1)


def test_new_adapter_depends_on_its_seed_and_leaves_the_random_state() -> None:
    def first_factor(seed: int) -> torch.Tensor:
        model = add_adapter(tiny_llama(), rank=2, alpha=4, target_modules=["q_proj"], seed=seed)
        return next(p for name, p in model.named_parameters() if "lora_A" in name).detach()

    torch.manual_seed(1)
    state = torch.get_rng_state()
    model = tiny_llama()
    torch.set_rng_state(state)
    add_adapter(model, rank=2, alpha=4, target_modules=["q_proj"], seed=3)

    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(first_factor(0), first_factor(0))
    assert not torch.equal(first_factor(0), first_factor(1))
