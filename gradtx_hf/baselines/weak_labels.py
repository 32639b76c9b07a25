"""Weak labels: what a small model with its adapter writes for prompts, as examples to fine-tune the target on.

The prompts are the half of the client's own that its small model was not trained on (as the papers have it: whoever
trains the large model then sees private inputs), or public ones, which a provider has anyway (ours, data-free).
Source: paper, baselines; Burns et al. 2024.
"""

from __future__ import annotations

from collections.abc import Sequence

from datasets import Dataset
from peft import PeftModel
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from gradtx_hf.errors import DataError
from gradtx_hf.finetuning import generate_completions
from gradtx_hf.finetuning.encoding import Prompt


def weakly_labelled(
    model: PreTrainedModel | PeftModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Prompt],
    *,
    max_new_tokens: int,
    max_prompt_tokens: int | None = None,
    batch_size: int = 64,
) -> Dataset:
    """Label prompts with a weak model's greedy completions.

    Args:
        model: The weak model, such as the source with a client's adapter; put into evaluation mode.
        tokenizer: Its tokenizer.
        prompts: Texts, or chats; all of one kind.
        max_new_tokens: Most tokens of a completion.
        max_prompt_tokens: Most tokens of a prompt, as ``generate_completions`` takes it.
        batch_size: Prompts at once.

    Returns:
        Columns ``prompt`` and ``completion``, in the prompts' order; the completion of a chat is the assistant's turn.

    Raises:
        DataError: If there is no prompt.
    """
    if not prompts:
        raise DataError("got no prompt to label, expected at least one.")
    written = generate_completions(
        model,
        tokenizer,
        prompts,
        max_new_tokens=max_new_tokens,
        max_prompt_tokens=max_prompt_tokens,
        batch_size=batch_size,
    )
    completions = [
        text if isinstance(prompt, str) else [{"role": "assistant", "content": text}]
        for prompt, text in zip(prompts, written, strict=True)
    ]
    return Dataset.from_dict({"prompt": list(prompts), "completion": completions})
