"""Proxy tuning: the target's logits, moved by what fine-tuning changed in the source's.

The next token's logits are target + source with the client's adapter - source untouched: no weight of the target
changes, so there is no adapter, and every token is decoded by three models. Vocabularies must be the same.

Axes: B rows, T tokens, V vocabulary. Source: Liu et al. 2024, arXiv 2401.08565.
"""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import Any

import torch
from peft import PeftModel
from torch import Tensor
from transformers import (
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
    PreTrainedConfig,
    PreTrainedModel,
)
from transformers.modeling_outputs import CausalLMOutput


LanguageModel = PreTrainedModel | PeftModel


class ProxyTunedModel(PreTrainedModel):
    """Three language models that decode as one; greedily, and for scoring.

    Args:
        target: The large model.
        client: The small model with the client's adapter.
        untouched: The small model as it was.
    """

    def __init__(self, target: PreTrainedModel, client: LanguageModel, untouched: LanguageModel) -> None:
        super().__init__(PreTrainedConfig())
        self.target, self.client, self.untouched = target, client, untouched
        self.generation_config = GenerationConfig()

    def forward(self, input_ids: Tensor, attention_mask: Tensor, use_cache: bool = False) -> CausalLMOutput:  # noqa: FBT001, FBT002 - as language models have it
        """Return the logits ``[B, T, V]`` of whole texts.

        Args:
            input_ids: ``[B, T]``.
            attention_mask: ``[B, T]``.
            use_cache: Not used: what was read is not kept.
        """
        target, client, untouched = (
            model(input_ids=input_ids, attention_mask=attention_mask, use_cache=False).logits
            for model in (self.target, self.client, self.untouched)
        )
        size = min(logits.shape[-1] for logits in (target, client, untouched))  # heads may be padded
        return CausalLMOutput(logits=target[..., :size] + (client[..., :size] - untouched[..., :size]))

    @torch.no_grad()
    def generate(self, input_ids: Tensor, attention_mask: Tensor, generation_config: GenerationConfig) -> Tensor:
        """Decode with all three models, each with a cache of its own.

        Args:
            input_ids: Prompts ``[B, T]``, padded on the left.
            attention_mask: ``[B, T]``.
            generation_config: How; of the target's own settings none is used.

        Returns:
            Prompts and what follows, ``[B, T']``.
        """
        language_model: Any = self.target
        own = language_model.generation_config
        language_model.generation_config = generation_config
        try:
            output: Tensor = language_model.generate(
                input_ids=input_ids,
                attention_mask=attention_mask,
                generation_config=generation_config,
                logits_processor=LogitsProcessorList(
                    [_Difference(_Reader(self.client), _Reader(self.untouched), attention_mask)]
                ),
            )
        finally:
            language_model.generation_config = own
        return output


class _Difference(LogitsProcessor):
    """Adds what the client's adapter changed in the source's logits."""

    def __init__(self, client: _Reader, untouched: _Reader, prompt_mask: Tensor) -> None:
        self._client, self._untouched, self._prompt_mask = client, untouched, prompt_mask

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        num_new = input_ids.shape[1] - self._prompt_mask.shape[1]
        mask = torch.cat([self._prompt_mask, self._prompt_mask.new_ones(len(input_ids), num_new)], dim=1)
        difference = self._client.next_logits(input_ids, mask) - self._untouched.next_logits(input_ids, mask)
        size = min(scores.shape[-1], difference.shape[-1])
        mixed = torch.full_like(scores, -torch.inf)  # what one of the models has no logit for is never chosen
        mixed[:, :size] = scores[:, :size] + difference[:, :size]
        return mixed


@dataclass
class _Reader:
    """A language model that reads a growing text, each token once."""

    model: LanguageModel
    cache: Any = None
    num_read: int = 0

    def next_logits(self, input_ids: Tensor, mask: Tensor) -> Tensor:
        """Return the logits ``[B, V]`` of the token that follows a text ``[B, T]``."""
        positions = (mask.cumsum(dim=1) - 1).clamp_min(0)[:, self.num_read :]
        base = self.model.get_base_model() if isinstance(self.model, PeftModel) else self.model
        taken = inspect.signature(base.forward).parameters
        output = self.model(
            input_ids=input_ids[:, self.num_read :],
            attention_mask=mask,
            use_cache=True,
            **{"cache" if "cache" in taken else "past_key_values": self.cache},  # renamed in transformers 5.24
            **({"position_ids": positions} if "position_ids" in taken else {}),
        )
        self.cache = output["cache"] if "cache" in output else output.past_key_values  # noqa: SIM401 - it would warn
        self.num_read = input_ids.shape[1]
        logits: Tensor = output.logits[:, -1].float()
        return logits
