"""Pure functions of a model in evaluation: greedy completions, nats of given ones, bits per character of a text.

Axes: B rows of a batch, T tokens.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import takewhile
from typing import Any

import torch
from datasets import Dataset
from peft import PeftModel
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

from gradtx_hf.errors import DataError
from gradtx_hf.finetuning.encoding import IGNORED, Prompt, encode_prompts, tokenize_examples


@torch.no_grad()
def generate_completions(
    model: PreTrainedModel | PeftModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Prompt],
    *,
    max_new_tokens: int,
    max_prompt_tokens: int | None = None,
    batch_size: int = 64,
) -> list[str]:
    """Complete prompts greedily, whatever the model's own generation settings say but for their end tokens.

    Args:
        model: A causal language model, with or without adapter; put into evaluation mode.
        tokenizer: The model's tokenizer; it is left as it is.
        prompts: The prompts: texts, or chats.
        max_new_tokens: Most tokens of a completion; it ends earlier at the tokenizer's EOS token, and at any end token
            that the model's generation settings name: chat models end a turn with one and a text with another.
        max_prompt_tokens: Most tokens of a prompt, of which a longer one loses its beginning; None: all are read.
        batch_size: Prompts at once.

    Returns:
        The completions without the prompts and without special tokens, in the prompts' order.
    """
    model.eval()
    ends = _end_tokens(model, tokenizer)
    padding = next((token for token in (tokenizer.pad_token_id, *ends) if token is not None), 0)
    settings = GenerationConfig(
        do_sample=False,
        num_beams=1,
        max_new_tokens=max_new_tokens,
        use_cache=True,
        eos_token_id=ends or None,
        pad_token_id=padding,
    )
    encoded = encode_prompts(tokenizer, prompts) if prompts else []
    if max_prompt_tokens is not None:
        encoded = [ids[-max_prompt_tokens:] for ids in encoded]
    order = sorted(range(len(prompts)), key=lambda i: len(encoded[i]))
    completions = [""] * len(prompts)
    for start in range(0, len(order), batch_size):
        chosen = order[start : start + batch_size]
        ids, mask = _pad([encoded[i] for i in chosen], padding, is_left=True)
        output = _generate(model, ids.to(model.device), mask.to(model.device), settings)
        new = _cut_after_end(output[:, ids.shape[1] :].tolist(), ends)
        for i, text in zip(chosen, tokenizer.batch_decode(new, skip_special_tokens=True), strict=True):
            completions[i] = text
    return completions


@torch.no_grad()
def completion_nats(
    model: PreTrainedModel | PeftModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Prompt],
    completions: Sequence[Prompt],
    *,
    max_length: int,
    batch_size: int,
) -> float:
    """Measure how well a model predicts given completions: the loss that fine-tuning minimises.

    Args:
        model: A causal language model, with or without adapter; put into evaluation mode.
        tokenizer: The model's tokenizer.
        prompts: The prompts: texts, or chats.
        completions: The completion wanted of each prompt.
        max_length: Most tokens of a prompt with its completion; longer ones are cut as ``tokenize_examples`` does.
        batch_size: Completions at once.

    Returns:
        Mean negative log-likelihood over the tokens of all completions, the EOS token of each among them, in nats.

    Raises:
        DataError: If there is no completion, their number is not the prompts', or the tokenizer has no EOS token.
    """
    if len(prompts) != len(completions):
        raise DataError(f"got {len(completions)} completions for {len(prompts)} prompts.")
    examples = Dataset.from_dict({"prompt": list(prompts), "completion": list(completions)})
    rows = tokenize_examples(examples, tokenizer, max_length=max_length)
    nats, num_tokens = row_nats(model, rows, batch_size=batch_size)
    return float(nats.sum() / num_tokens.sum())


@torch.no_grad()
def row_nats(model: PreTrainedModel | PeftModel, rows: Dataset, *, batch_size: int) -> tuple[Tensor, Tensor]:
    """Measure how well a model predicts each row.

    Args:
        model: A causal language model, with or without adapter; put into evaluation mode.
        rows: Columns ``input_ids`` and ``labels``, from ``tokenize_examples``.
        batch_size: Rows at once.

    Returns:
        Every row's negative log-likelihood of the tokens that have loss, in nats, and the number of these tokens:
        float64 and int64 ``[N]``, on the CPU.
    """
    model.eval()
    nats, num_tokens = [torch.zeros(0, dtype=torch.float64)], [torch.zeros(0, dtype=torch.int64)]
    for start in range(0, len(rows), batch_size):
        batch = rows[start : start + batch_size]
        ids, mask = _pad(batch["input_ids"], 0, is_left=False)
        labels = _pad(batch["labels"], IGNORED, is_left=False)[0][:, 1:].to(model.device)  # [B, T - 1]
        ids, mask = ids.to(model.device), mask.to(model.device)
        logits = model(input_ids=ids, attention_mask=mask, use_cache=False).logits[:, :-1].float()
        losses = cross_entropy(logits.transpose(1, 2), labels, reduction="none", ignore_index=IGNORED)
        nats.append(losses.double().sum(dim=1).cpu())
        num_tokens.append((labels != IGNORED).sum(dim=1).cpu())
    return torch.cat(nats), torch.cat(num_tokens)


@torch.no_grad()
def bits_per_character(
    model: PreTrainedModel | PeftModel,
    tokenizer: PreTrainedTokenizerBase,
    texts: Sequence[str],
    *,
    max_length: int,
    batch_size: int,
) -> float:
    """Measure how well a model predicts texts, comparable between tokenizers.

    The first token counts where the tokenizer has a BOS token to predict it from; else counting starts at the second
    token and its first character.

    Args:
        model: A causal language model, with or without adapter; put into evaluation mode.
        tokenizer: The model's tokenizer.
        texts: The texts; beginnings are compared where they are longer than ``max_length`` tokens.
        max_length: Most tokens per text.
        batch_size: Texts at once.

    Returns:
        Bits of all counted tokens over the number of characters that they cover.

    Raises:
        DataError: If no character is covered.
    """
    model.eval()
    nats, num_characters = 0.0, 0
    for start in range(0, len(texts), batch_size):
        rows = [_encode_text(tokenizer, text, max_length) for text in texts[start : start + batch_size]]
        ids, mask = _pad([row for row, _ in rows], 0, is_left=False)
        ids, mask = ids.to(model.device), mask.to(model.device)
        logits = model(input_ids=ids, attention_mask=mask, use_cache=False).logits[:, :-1].float()
        targets = ids[:, 1:].masked_fill(mask[:, 1:] == 0, IGNORED)  # [B, T - 1]
        nats += float(cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="sum"))
        num_characters += sum(covered for _, covered in rows)
    if num_characters == 0:
        raise DataError("the texts have no character to predict. Give longer texts.")
    return nats / math.log(2) / num_characters


def _generate(model: PreTrainedModel | PeftModel, ids: Tensor, mask: Tensor, settings: GenerationConfig) -> Tensor:
    """Generate by these settings alone; what they leave out would be filled from the model's own."""
    language_model = _language_model(model)
    own = language_model.generation_config
    language_model.generation_config = settings
    try:
        output: Tensor = language_model.generate(input_ids=ids, attention_mask=mask, generation_config=settings)
    finally:
        language_model.generation_config = own
    return output


def _encode_text(tokenizer: PreTrainedTokenizerBase, text: str, max_length: int) -> tuple[list[int], int]:
    """Return a text's ids, BOS in front if there is one, and the number of characters that the targets cover."""
    ids = list(tokenizer(text, add_special_tokens=False)["input_ids"])
    if tokenizer.bos_token_id is not None:
        kept = ids[: max_length - 1]
        return [tokenizer.bos_token_id, *kept], _num_characters(tokenizer, text, kept, is_whole=len(kept) == len(ids))
    kept = ids[:max_length]
    covered = _num_characters(tokenizer, text, kept, is_whole=len(kept) == len(ids))
    return kept, covered - _num_characters(tokenizer, text, kept[:1], is_whole=len(ids) <= 1)


def _num_characters(tokenizer: PreTrainedTokenizerBase, text: str, ids: Sequence[int], *, is_whole: bool) -> int:
    """Return how many characters the first tokens of a text stand for."""
    return len(text) if is_whole else len(tokenizer.decode(list(ids), clean_up_tokenization_spaces=False))


def _pad(rows: Sequence[list[int]], padding: int, *, is_left: bool) -> tuple[Tensor, Tensor]:
    """Return ids and attention mask, each ``[B, T]``."""
    longest = max(len(row) for row in rows)
    ids = torch.full((len(rows), longest), padding)
    mask = torch.zeros_like(ids)
    for i, row in enumerate(rows):
        place = slice(longest - len(row), longest) if is_left else slice(0, len(row))
        ids[i, place] = torch.tensor(row, dtype=ids.dtype)
        mask[i, place] = 1
    return ids, mask


def _cut_after_end(rows: Sequence[list[int]], ends: Sequence[int]) -> list[list[int]]:
    """Return the rows up to their first end token, without it."""
    return [list(takewhile(lambda token: token not in ends, row)) for row in rows]


def _end_tokens(model: PreTrainedModel | PeftModel, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Return the ids that end a completion: the tokenizer's, then those of the model's own settings."""
    own = _language_model(model).generation_config.eos_token_id
    ids = [tokenizer.eos_token_id, *(own if isinstance(own, list) else [own])]
    return list(dict.fromkeys(token for token in ids if token is not None))


def _language_model(model: PreTrainedModel | PeftModel) -> Any:  # noqa: ANN401 - PEFT leaves the base model untyped
    return model.get_base_model() if isinstance(model, PeftModel) else model
