"""Refinement: a few steps of distillation from the client's small model to the target, on public text.

The target, with an adapter to start from, learns the next-token distributions of the source with the client's adapter,
on public prompts that the small model itself has completed: nothing private is needed beside the adapter. Started from
zero it is distillation, started from a translation it asks whether that saves steps. Vocabularies must be the same.

Axes: M tokens with loss of a batch, V vocabulary. Source: ours (rival); Hinton et al. 2015.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch
from datasets import Dataset
from peft import PeftModel
from torch import Tensor
from torch.nn.functional import kl_div
from transformers import (
    PreTrainedModel,
    PreTrainedTokenizerBase,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)

from gradtx_hf.finetuning import (
    AdapterSFTTrainer,
    FineTuningRecipe,
    adapter_state,
    fine_tune,
    reset_adapter,
    tokenize_examples,
)
from gradtx_hf.finetuning.encoding import IGNORED


def refine(  # noqa: PLR0913 - one keyword for each thing that takes part
    model: PeftModel,
    start: Mapping[str, Tensor],
    labelled: Dataset,
    *,
    teacher: PreTrainedModel | PeftModel,
    tokenizer: PreTrainedTokenizerBase,
    recipe: FineTuningRecipe,
    seed: int,
    steps: Sequence[int],
) -> dict[int, dict[str, Tensor]]:
    """Distil the client's small model into the target, and keep the adapter after some of the steps.

    Args:
        model: The target with a trainable adapter, which is changed.
        start: The factors to start from.
        labelled: Public prompts with the small model's completions, from ``weakly_labelled``.
        teacher: The small model with the client's adapter.
        tokenizer: The tokenizer of both.
        recipe: How to train; with a constant schedule, every step is what a run of so many steps would end with.
        seed: Seed of the order of the data and of dropout.
        steps: Optimizer steps after which the adapter is kept; 0 is the start.

    Returns:
        Step to factors by name.

    Raises:
        ConfigurationError: If the loss did not stay finite.
    """
    reset_adapter(model, start)
    teacher.eval()
    kept = {0: adapter_state(model)} if 0 in steps else {}
    fine_tune(
        model,
        tokenize_examples(labelled, tokenizer, max_length=recipe.max_length),
        tokenizer=tokenizer,
        recipe=recipe,
        seed=seed,
        callbacks=[_StateKeeper(model, kept, steps=steps)],
        make_trainer=partial(DistillationSFTTrainer, teacher=teacher),
    )
    return kept


def distillation_loss(logits: Tensor, teacher_logits: Tensor) -> Tensor:
    """Return the summed divergence KL(teacher ‖ student), a scalar in nats.

    Args:
        logits: The student's ``[M, V]``.
        teacher_logits: The teacher's ``[M, V]``.
    """
    return kl_div(logits.log_softmax(dim=-1), teacher_logits.log_softmax(dim=-1), reduction="sum", log_target=True)


class DistillationSFTTrainer(AdapterSFTTrainer):
    """AdapterSFTTrainer that learns a teacher's distributions in place of labels."""

    def __init__(self, *, teacher: PreTrainedModel | PeftModel, **options: Any) -> None:  # noqa: ANN401 - those of SFTTrainer
        super().__init__(**options)
        self._teacher = teacher

    def summed_loss(self, logits: Tensor, targets: Tensor, inputs: Mapping[str, Tensor]) -> Tensor:
        """Return the sum of a batch's token losses (see ``distillation_loss``)."""
        has_loss = targets != IGNORED
        with torch.no_grad():
            read = self._teacher(
                input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"], use_cache=False
            )
        size = min(logits.shape[-1], read.logits.shape[-1])  # heads may be padded
        return distillation_loss(logits[has_loss][:, :size].float(), read.logits[:, :-1][has_loss][:, :size].float())


class _StateKeeper(TrainerCallback):
    """Copies the adapter after chosen steps."""

    def __init__(self, model: PeftModel, kept: dict[int, dict[str, Tensor]], *, steps: Sequence[int]) -> None:
        self._model, self._kept, self._steps = model, kept, set(steps)

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: object
    ) -> None:
        """Copy it, if this is such a step."""
        if state.global_step in self._steps:
            self._kept[state.global_step] = adapter_state(self._model)
