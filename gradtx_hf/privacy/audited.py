"""Training runs that are audited: canaries go in, a lower bound of epsilon comes out.

A bound below the epsilon that a run states does not prove the statement; a bound above it refutes it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch
from datasets import Dataset, concatenate_datasets
from peft import PeftModel
from transformers import PreTrainedTokenizerBase

from gradtx_hf.finetuning import FineTuningRecipe, PrivacySettings, PrivacyStatement, fine_tune
from gradtx_hf.finetuning.dp import DPSFTTrainer, fine_tune_private
from gradtx_hf.finetuning.privacy import USUAL_DELTA
from gradtx_hf.privacy.canaries import GradientCanaries, GradientCanaryTrainer, TextCanaryTrainer, flip_coins
from gradtx_hf.privacy.membership import Membership, measure_membership
from gradtx_hf.privacy.one_run import ROW_GUESS_SHARES, EpsilonBound, bound_from_scores
from gradtx_hf.privacy.row_losses import measure_losses


CanaryKind = Literal["gradient", "text"]


@dataclass(frozen=True)
class AuditedRun:
    """What the audit of one run found.

    Attributes:
        canaries: Which kind was inserted.
        statement: What the run states of its privacy; None for one without.
        bound: The lower bound of epsilon.
        membership: How well the scores tell canaries that were in from those that were not.
    """

    canaries: CanaryKind
    statement: PrivacyStatement | None
    bound: EpsilonBound
    membership: Membership

    @property
    def is_refuted(self) -> bool:
        """Whether the run states an epsilon that the bound exceeds."""
        return self.statement is not None and self.bound.epsilon > self.statement.epsilon


def audit_gradients(  # noqa: PLR0913 - what is trained, how, and how it is audited
    model: PeftModel,
    examples: Dataset,
    *,
    tokenizer: PreTrainedTokenizerBase,
    recipe: FineTuningRecipe,
    privacy: PrivacySettings,
    num_canaries: int,
    confidence: float = 0.95,
    trainer_class: Callable[..., DPSFTTrainer] = GradientCanaryTrainer,
) -> AuditedRun:
    """Fine-tune privately, in place, with gradient canaries, and bound epsilon by every step's noisy sum (white box).

    Args:
        model: A model with a trainable LoRA adapter.
        examples: Columns ``input_ids`` and ``labels``; the genuine rows.
        tokenizer: The model's tokenizer; for padding.
        recipe: How to train.
        privacy: How private.
        num_canaries: Canaries, about half of them in; at most the trainable numbers.
        confidence: Probability of a bound that holds, at least.
        trainer_class: A GradientCanaryTrainer.

    Raises:
        ConfigurationError: If the run cannot be private, or there are too many canaries.
    """
    canaries = GradientCanaries(flip_coins(num_canaries))
    result = fine_tune_private(
        model,
        examples,
        tokenizer=tokenizer,
        recipe=recipe,
        privacy=privacy,
        trainer_class=partial(trainer_class, canaries=canaries),
    )
    return AuditedRun(
        "gradient",
        result.privacy,
        bound_from_scores(canaries.scores, canaries.included, delta=result.privacy.delta, confidence=confidence),
        measure_membership(canaries.scores[canaries.included], canaries.scores[~canaries.included]),
    )


def audit_texts(  # noqa: PLR0913 - what is trained, how, and how it is audited
    model: PeftModel,
    examples: Dataset,
    canaries: Dataset,
    *,
    tokenizer: PreTrainedTokenizerBase,
    recipe: FineTuningRecipe,
    privacy: PrivacySettings | None,
    confidence: float = 0.95,
    trainer_class: Callable[..., DPSFTTrainer] = TextCanaryTrainer,
    show_progress: bool = False,
) -> AuditedRun:
    """Fine-tune with text canaries, in place, and bound epsilon by what the adapter does to their losses (black box).

    Args:
        model: A model with a trainable LoRA adapter.
        examples: Columns ``input_ids`` and ``labels``; the genuine rows.
        canaries: The same columns; rows that only memory can complete, such as ``make_text_canaries`` makes.
        tokenizer: The model's tokenizer; for padding.
        recipe: How to train.
        privacy: How private; None trains without, which a working audit catches.
        confidence: Probability of a bound that holds, at least.
        trainer_class: A TextCanaryTrainer.
        show_progress: Show a bar of the steps on stderr.

    Raises:
        ConfigurationError: If the run cannot be private.
    """
    included = flip_coins(len(canaries))
    options: dict[str, Any] = {"tokenizer": tokenizer, "recipe": recipe, "show_progress": show_progress}
    statement = None
    if privacy is None:
        chosen = canaries.select(included.nonzero().flatten().tolist())
        fine_tune(model, concatenate_datasets([examples, chosen]), seed=0, **options)
    else:
        present = torch.cat([torch.ones(len(examples), dtype=torch.bool), included])
        statement = fine_tune_private(
            model,
            concatenate_datasets([examples, canaries]),
            privacy=privacy,
            trainer_class=partial(trainer_class, present=present),
            **options,
        ).privacy
    scores = measure_losses(model, canaries, batch_size=recipe.batch_size).differences
    delta = USUAL_DELTA if statement is None else statement.delta
    return AuditedRun(
        "text",
        statement,
        bound_from_scores(scores, included, delta=delta, confidence=confidence, guess_shares=ROW_GUESS_SHARES),
        measure_membership(scores[included], scores[~included]),
    )
