"""W2S: the target is fine-tuned on a weak model's labels as if they were true.

Its variants, ``confidence`` and ``vissup``, differ in the loss alone, and so in the trainer. Source: paper, baselines;
Burns et al. 2024.
"""

from __future__ import annotations

from collections.abc import Callable

from datasets import Dataset
from peft import PeftModel
from transformers import PreTrainedTokenizerBase

from gradtx_hf.finetuning import AdapterSFTTrainer, FineTuningRecipe, FineTuningResult, fine_tune, tokenize_examples


def fine_tune_on_weak_labels(
    model: PeftModel,
    labelled: Dataset,
    *,
    tokenizer: PreTrainedTokenizerBase,
    recipe: FineTuningRecipe,
    seed: int,
    make_trainer: Callable[..., AdapterSFTTrainer] = AdapterSFTTrainer,
) -> FineTuningResult:
    """Fine-tune a target's active adapter, in place, on weak labels.

    Args:
        model: The target with a trainable adapter.
        labelled: Columns ``prompt`` and ``completion``, from ``weakly_labelled``.
        tokenizer: The target's tokenizer.
        recipe: How to train.
        seed: Seed of the order of the data and of dropout.
        make_trainer: ``AdapterSFTTrainer`` for W2S; ``confidence_trainer`` or ``vissup_trainer`` for the others.

    Raises:
        ConfigurationError: If the loss did not stay finite.
        DataError: If a row has no token to learn from.
    """
    tokens = tokenize_examples(labelled, tokenizer, max_length=recipe.max_length)
    return fine_tune(model, tokens, tokenizer=tokenizer, recipe=recipe, seed=seed, make_trainer=make_trainer)
