"""Examples to token ids and labels, ready for SFTTrainer without further preparation.

A label is -100 where no loss is taken: on prompts, on turns that are not the assistant's, and always on the first
token, which nothing predicts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import takewhile
from typing import Any

import pyarrow as pa  # type: ignore[import-untyped]  # it has no stubs
from datasets import Dataset
from transformers import PreTrainedTokenizerBase

from gradtx_hf.errors import DataError


IGNORED = -100
"""The label of a token without loss, as torch's cross entropy expects it."""
Chat = list[dict[str, Any]]
"""Messages of a role and content each."""
Prompt = str | Chat
TOKENS = pa.list_(pa.int32())
ROWS_AT_ONCE = 1000


def tokenize_examples(examples: Dataset, tokenizer: PreTrainedTokenizerBase, *, max_length: int) -> Dataset:
    """Turn examples into token ids and labels, row for row.

    Completions and texts end with one EOS token; a chat ends as its template has it. An example that is too long
    loses the beginning of its prompt, and then its end; a text or a chat loses its end. A prompt and a completion that
    are chats go through the tokenizer's chat template; without one, their contents are joined, a line each.

    Args:
        examples: Columns ``prompt`` and ``completion``, or ``text``, or ``messages``, as ``load_examples`` makes them.
        tokenizer: The model's tokenizer; a chat template is needed for ``messages`` only.
        max_length: Most tokens per example.

    Returns:
        As many rows, with ``input_ids`` and ``labels``, in memory.

    Raises:
        DataError: If the columns are others, the tokenizer lacks an EOS token or a chat template, or a row has no
            token to learn from.
    """
    columns = set(examples.column_names)
    if {"prompt", "completion"} <= columns:
        encode = _encode_completions
    elif "messages" in columns:
        encode = _encode_chats
    elif "text" in columns:
        encode = _encode_texts
    else:
        raise DataError(
            f"got columns {', '.join(sorted(columns))}, expected prompt and completion, messages, or text. "
            "Load the data with load_examples."
        )
    parts = []
    for start in range(0, len(examples), ROWS_AT_ONCE):
        rows = encode(examples[start : start + ROWS_AT_ONCE], tokenizer, max_length)
        _require_labels(rows, start)
        parts.append(
            pa.table({name: pa.array([row[name] for row in rows], TOKENS) for name in ("input_ids", "labels")})
        )
    if not parts:
        raise DataError("got a data set without rows, expected at least one.")
    return Dataset(pa.concat_tables(parts))  # Dataset.from_dict would look at every token by itself


def encode_prompts(tokenizer: PreTrainedTokenizerBase, prompts: Sequence[Prompt]) -> list[list[int]]:
    """Return each prompt's token ids, with the BOS token if the tokenizer adds one and never with an EOS token.

    A prompt that is a chat ends where the template has the assistant's turn begin; without a template it is the
    contents of its messages, each with its line's end.
    """
    chats = [prompt for prompt in prompts if not isinstance(prompt, str)]
    if chats and tokenizer.chat_template:
        return [_apply_template(tokenizer, chat, add_generation_prompt=True) for chat in chats]
    texts = [prompt if isinstance(prompt, str) else _plain_prompt(prompt) for prompt in prompts]
    encoded = tokenizer(texts, return_attention_mask=False, return_token_type_ids=False)["input_ids"]
    eos = tokenizer.eos_token_id
    return [_without_eos(ids, eos) for ids in encoded]


def _encode_completions(
    batch: Mapping[str, Any], tokenizer: PreTrainedTokenizerBase, max_length: int
) -> list[dict[str, list[int]]]:
    prompts, completions = batch["prompt"], batch["completion"]
    if not isinstance(prompts[0], str):
        if tokenizer.chat_template:
            return [_encode_answer(p, c, tokenizer, max_length) for p, c in zip(prompts, completions, strict=True)]
        prompts = [_plain_prompt(chat) for chat in prompts]
        completions = ["\n".join(message["content"] for message in chat) for chat in completions]
    eos = _eos(tokenizer)
    encoded = encode_prompts(tokenizer, prompts)
    wholes = encode_prompts(tokenizer, [p + c for p, c in zip(prompts, completions, strict=True)])
    rows = []
    for text, prompt, whole in zip(completions, encoded, wholes, strict=True):
        completion = whole[len(prompt) :]
        if whole[: len(prompt)] != prompt:
            # A token spans the border. A prompt alone, as it is met in generation, never ends within a token.
            completion = tokenizer(text, add_special_tokens=False)["input_ids"]
        rows.append(_answer_row(prompt, [*_without_eos(completion, eos), eos], max_length))
    return rows


def _encode_answer(
    prompt: Chat, completion: Chat, tokenizer: PreTrainedTokenizerBase, max_length: int
) -> dict[str, list[int]]:
    """Encode a chat's last turns, which are learned, after those that ask for them."""
    before = _apply_template(tokenizer, prompt, add_generation_prompt=True)
    whole = _apply_template(tokenizer, [*prompt, *completion])
    shared = _shared_length(before, whole)
    return _answer_row(whole[:shared], whole[shared:], max_length)


def _answer_row(prompt: list[int], completion: list[int], max_length: int) -> dict[str, list[int]]:
    """Return a row of which only the completion is learned, cut to so many tokens."""
    completion = completion[:max_length]
    prompt = prompt[max(0, len(prompt) + len(completion) - max_length) :]
    return _row(prompt + completion, [IGNORED] * len(prompt) + completion)


def _plain_prompt(chat: Chat) -> str:
    return "".join(f"{message['content']}\n" for message in chat)


def _encode_texts(
    batch: Mapping[str, Any], tokenizer: PreTrainedTokenizerBase, max_length: int
) -> list[dict[str, list[int]]]:
    eos = _eos(tokenizer)
    encoded = [[*ids, eos][:max_length] for ids in encode_prompts(tokenizer, batch["text"])]
    return [_row(ids, ids) for ids in encoded]


def _encode_chats(
    batch: Mapping[str, Any], tokenizer: PreTrainedTokenizerBase, max_length: int
) -> list[dict[str, list[int]]]:
    if not tokenizer.chat_template:
        raise DataError(
            f"tokenizer '{tokenizer.name_or_path}' has no chat template, which the column 'messages' needs. "
            "Use a chat model, or data with prompt and completion."
        )
    return [_encode_chat(messages, tokenizer, max_length) for messages in batch["messages"]]


def _encode_chat(messages: Chat, tokenizer: PreTrainedTokenizerBase, max_length: int) -> dict[str, list[int]]:
    ids = _apply_template(tokenizer, messages)
    labels = [IGNORED] * len(ids)
    for i, message in enumerate(messages):
        if message["role"] == "assistant":
            before = _apply_template(tokenizer, messages[:i], add_generation_prompt=True)
            start = _shared_length(before, ids)
            end = _shared_length(_apply_template(tokenizer, messages[: i + 1]), ids)
            labels[start:end] = ids[start:end]
    return _row(ids[:max_length], labels[:max_length])


def _apply_template(
    tokenizer: PreTrainedTokenizerBase, messages: Chat, *, add_generation_prompt: bool = False
) -> list[int]:
    if not messages:
        return []
    encoded: Any = tokenizer.apply_chat_template(
        messages, tokenize=True, add_generation_prompt=add_generation_prompt, return_dict=True
    )
    return list(encoded["input_ids"])


def _shared_length(first: list[int], second: list[int]) -> int:
    """Return how many tokens both lists begin with alike."""
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(first, second, strict=False)))


def _row(ids: list[int], labels: list[int]) -> dict[str, list[int]]:
    return {"input_ids": ids, "labels": [IGNORED, *labels[1:]]}


def _require_labels(rows: list[dict[str, list[int]]], start: int) -> None:
    for i, row in enumerate(rows):
        if row["labels"].count(IGNORED) == len(row["labels"]):
            raise DataError(
                f"row {start + i} has no token to learn from: its completion, its text or its assistant's turns are "
                "empty, or cut off. Remove the row, or raise max_length."
            )


def _eos(tokenizer: PreTrainedTokenizerBase) -> int:
    if tokenizer.eos_token_id is None:
        raise DataError(f"tokenizer '{tokenizer.name_or_path}' has no EOS token. Set tokenizer.eos_token.")
    return int(tokenizer.eos_token_id)


def _without_eos(ids: list[int], eos: int | None) -> list[int]:
    return ids[:-1] if ids and ids[-1] == eos else ids
