from __future__ import annotations

import math
import re

import pytest
import torch
from torch.nn.functional import cross_entropy
from transformers import GenerationConfig

from gradtx_hf.errors import DataError
from gradtx_hf.finetuning import add_adapter, bits_per_character, encode_prompts, generate_completions
from gradtx_hf.finetuning.generate import completion_nats
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
        if token in (TOKENIZER.eos_token_id, MODEL.generation_config.eos_token_id):
            break
        ids.append(token)
    return TOKENIZER.decode(ids[num_prompt:], skip_special_tokens=True)


def test_batches_of_any_size_give_what_each_prompt_gives_alone() -> None:
    expected = [complete_one_by_one(prompt, 9) for prompt in PROMPTS]

    for batch_size in (1, 2, 5):
        assert generate_completions(MODEL, TOKENIZER, PROMPTS, max_new_tokens=9, batch_size=batch_size) == expected


def test_a_long_prompt_loses_its_beginning() -> None:
    long = ["??abcdef=", "fedcba??ab", "abcabcabc", "??bbbbbba"]
    expected = generate_completions(MODEL, TOKENIZER, [prompt[-2:] for prompt in long], max_new_tokens=9)

    assert generate_completions(MODEL, TOKENIZER, long, max_new_tokens=9, max_prompt_tokens=2) == expected
    assert generate_completions(MODEL, TOKENIZER, long, max_new_tokens=9) != expected


def test_settings_of_the_model_change_nothing() -> None:
    expected = generate_completions(MODEL, TOKENIZER, PROMPTS, max_new_tokens=9)
    own = MODEL.generation_config
    MODEL.generation_config = GenerationConfig(
        do_sample=True, temperature=5.0, repetition_penalty=3.0, num_beams=2, eos_token_id=own.eos_token_id
    )  # type: ignore[no-untyped-call]
    try:
        assert generate_completions(MODEL, TOKENIZER, PROMPTS, max_new_tokens=9) == expected
        assert MODEL.generation_config.do_sample
    finally:
        MODEL.generation_config = own


def test_a_completion_ends_at_every_end_token_of_the_model() -> None:
    model = tiny_llama(vocab_size=len(TOKENIZER), hidden_size=32, num_layers=3)
    model.generation_config.eos_token_id = None
    whole = generate_completions(model, TOKENIZER, PROMPTS, max_new_tokens=9)
    ends = list(dict.fromkeys(text[2] for text in whole if len(text) > 2))[:2]
    own = TOKENIZER.convert_tokens_to_ids(ends)
    adapted = with_lora(model, randomise_b=False)

    for named, characters in ((own, ends), (own[0], ends[:1]), (None, [])):
        model.generation_config.eos_token_id = named
        for batch_size in (1, 5):
            cut = generate_completions(model, TOKENIZER, PROMPTS, max_new_tokens=9, batch_size=batch_size)
            assert cut == [re.split("|".join(characters) or "$", text)[0] for text in whole]
        assert generate_completions(adapted, TOKENIZER, PROMPTS, max_new_tokens=9) == cut
        assert model.generation_config.eos_token_id == named
    assert any(character in text for character in ends for text in whole)


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


@torch.no_grad()
def test_nats_are_those_of_completions_and_their_end_one_by_one() -> None:
    completions = ["fed", "abcdef", "", "a", "bcbcbcbcb"]
    nats, num_tokens = 0.0, 0
    for prompt, completion in zip(PROMPTS, completions, strict=True):
        before = TOKENIZER(prompt)["input_ids"]
        wanted = [*TOKENIZER(completion)["input_ids"], TOKENIZER.eos_token_id]
        for n, token in enumerate(wanted):
            logits = MODEL(input_ids=torch.tensor([before + wanted[:n]])).logits[0, -1]
            nats -= float(logits.log_softmax(-1)[token])
        num_tokens += len(wanted)

    for batch_size in (1, 2, 5):
        measured = completion_nats(MODEL, TOKENIZER, PROMPTS, completions, max_length=32, batch_size=batch_size)
        assert measured == pytest.approx(nats / num_tokens, rel=1e-5)


def test_nats_of_long_completions_are_of_what_fine_tuning_would_learn() -> None:
    cut = completion_nats(MODEL, TOKENIZER, ["abcdef"], ["fed"], max_length=6, batch_size=1)

    # fine-tuning cuts the prompt's beginning: two letters of it, the completion and the end are six tokens
    assert cut == pytest.approx(
        completion_nats(MODEL, TOKENIZER, ["ef"], ["fed"], max_length=9, batch_size=1), rel=1e-5
    )


def test_adapter_takes_part_in_nats_and_gets_no_gradient() -> None:
    adapted = with_lora(tiny_llama(vocab_size=len(TOKENIZER), hidden_size=32, num_layers=3), alpha=512)

    values = [
        completion_nats(model, TOKENIZER, ["ab"], ["cd"], max_length=9, batch_size=4) for model in (MODEL, adapted)
    ]

    assert values[0] != pytest.approx(values[1], rel=1e-3)
    assert all(parameter.grad is None for parameter in adapted.parameters())


def test_completions_that_cannot_be_measured_are_refused() -> None:
    with pytest.raises(DataError, match="got 1 completions for 2 prompts"):
        completion_nats(MODEL, TOKENIZER, ["a", "b"], ["c"], max_length=9, batch_size=1)
    with pytest.raises(DataError, match="without rows"):
        completion_nats(MODEL, TOKENIZER, [], [], max_length=9, batch_size=1)
    without_end = build_tokenizer()
    without_end.eos_token = None
    with pytest.raises(DataError, match="no EOS token"):
        completion_nats(MODEL, without_end, ["a"], ["c"], max_length=9, batch_size=1)


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
