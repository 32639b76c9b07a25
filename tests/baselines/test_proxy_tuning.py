"""Proxy tuning: the oracles of its logits, and decoding with three caches."""

from __future__ import annotations

import pytest
import torch
from peft import PeftModel

from gradtx_hf.baselines.decoding_cost import flops_per_token, processor_seconds_of
from gradtx_hf.baselines.proxy_tuning import ProxyTunedModel
from gradtx_hf.baselines.vocabulary import require_same_vocabulary
from gradtx_hf.errors import ConfigurationError
from gradtx_hf.finetuning import generate_completions
from gradtx_hf.finetuning.language_model import load_tokenizer
from gradtx_hf.playground import source_path
from tests.tiny import tiny_llama, with_lora


PROMPTS = ["??abcdef=", "??fl=", "??", "??aaaaaaaa="]


def batch() -> tuple[torch.Tensor, torch.Tensor]:
    ids = torch.randint(0, 41, (3, 7), generator=torch.Generator().manual_seed(0))
    mask = torch.ones_like(ids)
    mask[1, 5:] = 0
    return ids, mask


def client(*, seed: int = 0) -> PeftModel:
    return with_lora(tiny_llama(seed=seed, vocab_size=41), seed=seed + 1)


def test_with_the_source_as_target_it_is_the_client() -> None:
    ids, mask = batch()
    proxy = ProxyTunedModel(tiny_llama(vocab_size=41), client(), tiny_llama(vocab_size=41))

    with torch.no_grad():
        logits, expected = (m(input_ids=ids, attention_mask=mask, use_cache=False).logits for m in (proxy, client()))

    torch.testing.assert_close(logits, expected, atol=1e-5, rtol=1e-5)


def test_an_untrained_client_changes_nothing() -> None:
    ids, mask = batch()
    target = tiny_llama(hidden_size=24, num_layers=3, vocab_size=41, seed=5)
    proxy = ProxyTunedModel(target, tiny_llama(vocab_size=41), tiny_llama(vocab_size=41))

    with torch.no_grad():
        assert torch.equal(proxy(ids, mask).logits, target(input_ids=ids, attention_mask=mask).logits)


def test_decoding_with_caches_follows_the_logits_of_whole_texts() -> None:
    tokenizer = load_tokenizer(str(source_path()))
    target = tiny_llama(hidden_size=24, num_layers=3, vocab_size=len(tokenizer), seed=5)
    small = {"vocab_size": len(tokenizer), "seed": 2}
    proxy = ProxyTunedModel(target, with_lora(tiny_llama(**small)), tiny_llama(**small))  # type: ignore[arg-type]

    found = generate_completions(proxy, tokenizer, PROMPTS, max_new_tokens=6, batch_size=4)

    for prompt, completion in zip(PROMPTS, found, strict=True):
        ids = tokenizer(prompt, return_tensors="pt")["input_ids"]
        length = ids.shape[1]
        with torch.no_grad():
            while ids.shape[1] < length + 6 and ids[0, -1] != tokenizer.eos_token_id:
                following = proxy(ids, torch.ones_like(ids)).logits[:, -1].argmax(dim=-1, keepdim=True)
                ids = torch.cat([ids, following], dim=1)
        assert completion == tokenizer.decode(ids[0, length:], skip_special_tokens=True)


def test_the_targets_own_generation_settings_are_left_as_they_were() -> None:
    tokenizer = load_tokenizer(str(source_path()))
    target = tiny_llama(vocab_size=len(tokenizer))
    before = target.generation_config
    proxy = ProxyTunedModel(target, tiny_llama(vocab_size=len(tokenizer)), tiny_llama(vocab_size=len(tokenizer)))

    generate_completions(proxy, tokenizer, PROMPTS[:1], max_new_tokens=1)

    assert target.generation_config is before


def test_operations_are_two_per_weight_that_multiplies_a_token() -> None:
    model = tiny_llama(hidden_size=16, num_layers=2, num_kv_heads=1, vocab_size=64)
    attention = 16 * 16 * 2 + 16 * 8 * 2
    expected = 2 * (2 * (attention + 3 * 16 * 32) + 16 * 64)

    assert flops_per_token(model) == expected
    assert flops_per_token(with_lora(model)) == expected + 2 * 2 * 2 * (16 + 16 + 16 + 8)


def test_processor_time_leaves_out_waiting() -> None:
    import time

    assert processor_seconds_of(lambda: time.sleep(0.05), num_repeats=1) < 0.04


def test_other_vocabularies_are_refused() -> None:
    tokenizer, other = load_tokenizer(str(source_path())), load_tokenizer(str(source_path()))
    require_same_vocabulary(tokenizer, other, what_for="proxy tuning")
    other.add_tokens(["<new>"])

    with pytest.raises(ConfigurationError, match="not the same, which proxy tuning needs"):
        require_same_vocabulary(tokenizer, other, what_for="proxy tuning")
