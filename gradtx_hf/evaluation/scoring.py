"""Score one model with one adapter on held-out examples."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from statistics import fmean

from datasets import Dataset
from peft import PeftModel
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from gradtx_hf.errors import DataError
from gradtx_hf.evaluation.arguments import MetricName
from gradtx_hf.evaluation.examples import encode_examples
from gradtx_hf.evaluation.metrics import exact_matches
from gradtx_hf.finetuning import bits_per_character, generate_completions, load_language_model, reset_adapter
from gradtx_hf.finetuning.generate import completion_nats
from gradtx_hf.finetuning.task_data import score_completions
from gradtx_hf.lora import load_adapter


NEEDED_COLUMNS = {
    "exact_match": ("prompt", "completion"),
    "task_score": ("prompt", "completion", "references", "task"),
    "bits_per_answer_token": ("prompt", "completion"),
    "bits_per_character": ("text",),
}


def check_columns(examples: Dataset, metric: MetricName, *, task: str) -> None:
    """Check that the metric can be computed on the examples.

    Raises:
        DataError: If a column is missing.
    """
    missing = [column for column in NEEDED_COLUMNS[metric] if column not in examples.column_names]
    if missing:
        raise DataError(
            f"test data of client '{task}' have no {missing[0]}, which {metric} needs; they have "
            f"{', '.join(examples.column_names)}. Name the columns, or choose another metric."
        )


@dataclass(frozen=True)
class ScoringSettings:
    """What is measured, and how much at once.

    Attributes:
        metric: ``exact_match``: share of greedy completions that equal the reference, in [0, 1].
            ``task_score``: mean score of greedy completions, each by its task (see ``gradtx_hf.tasks``), in [0, 1].
            ``bits_per_answer_token``: of the reference completions, see ``completion_nats``.
            ``bits_per_character``: see ``gradtx_hf.finetuning.bits_per_character``.
        max_new_tokens: Most tokens of a completion.
        max_length: Most tokens of a text, or of a prompt with its reference completion.
        batch_size: Examples at once.
        max_prompt_tokens: Most tokens of a prompt that is completed; None: all.
    """

    metric: MetricName
    max_new_tokens: int
    max_length: int
    batch_size: int
    max_prompt_tokens: int | None = None


@dataclass(frozen=True)
class Scored:
    """What one model with one adapter scores on held-out examples.

    Attributes:
        score: In the metric's unit.
        nats_per_token: Beside a score of completions: see ``gradtx_hf.finetuning.generate.completion_nats``; None for
            texts.
        example_scores: Scores of completions one by one, as ``encode_examples`` writes them; empty for texts.
        test_set: A short name of the examples, which the same ones in the same order have again; None for texts.
    """

    score: float
    nats_per_token: float | None = None
    example_scores: str = ""
    test_set: str | None = None


class Scorer:
    """A base model that adapters of one layout are scored on, one after the other.

    Args:
        init: Folder of an adapter of that layout, which names the base model.
    """

    def __init__(self, init: str) -> None:
        adapter = load_adapter(init)
        language_model, self._tokenizer = load_language_model(adapter.base_model, revision=adapter.config.revision)
        self._model = PeftModel.from_pretrained(language_model, init)

    def score(
        self, states: Mapping[str, Mapping[str, Tensor]], examples: Dataset, *, settings: ScoringSettings
    ) -> dict[str, Scored]:
        """Score several adapters.

        Args:
            states: Method name to factors by name.
            examples: Held-out examples with the metric's columns.
            settings: What is measured.

        Returns:
            Method name to what it scores.
        """
        scores = {}
        for method, state in states.items():
            reset_adapter(self._model, state)
            scores[method] = score(self._model, self._tokenizer, examples, settings=settings)
        return scores


def score(
    model: PreTrainedModel | PeftModel,
    tokenizer: PreTrainedTokenizerBase,
    examples: Dataset,
    *,
    settings: ScoringSettings,
) -> Scored:
    """Score one model with its adapter; where it completes, also in nats per token of the reference completions."""
    if settings.metric == "bits_per_answer_token":
        return Scored(_nats(model, tokenizer, examples, settings) / math.log(2))
    if settings.metric != "bits_per_character":
        completions = generate_completions(
            model,
            tokenizer,
            examples["prompt"],
            max_new_tokens=settings.max_new_tokens,
            max_prompt_tokens=settings.max_prompt_tokens,
            batch_size=settings.batch_size,
        )
        nats = _nats(model, tokenizer, examples, settings)
        is_exact = settings.metric == "exact_match"
        scores = (
            exact_matches(completions, examples["completion"]) if is_exact else score_completions(completions, examples)
        )
        return Scored(fmean(scores), nats, encode_examples(scores), _name_of(examples))
    bits = bits_per_character(
        model, tokenizer, examples["text"], max_length=settings.max_length, batch_size=settings.batch_size
    )
    return Scored(bits)


def _nats(
    model: PreTrainedModel | PeftModel,
    tokenizer: PreTrainedTokenizerBase,
    examples: Dataset,
    settings: ScoringSettings,
) -> float:
    """Return the mean negative log-likelihood of the reference completions' tokens, in nats."""
    return completion_nats(
        model,
        tokenizer,
        examples["prompt"],
        examples["completion"],
        max_length=settings.max_length,
        batch_size=settings.batch_size,
    )


def _name_of(examples: Dataset) -> str:
    """Return the beginning of the SHA-256 of the examples' prompts and what their completions are scored against."""
    references = examples["references" if "references" in examples.column_names else "completion"]
    noted = json.dumps([list(examples["prompt"]), list(references)])
    return hashlib.sha256(noted.encode()).hexdigest()[:12]
